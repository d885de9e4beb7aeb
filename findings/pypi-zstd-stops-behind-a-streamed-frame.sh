#!/usr/bin/env bash
# PyPI's `zstd`: of several frames, those behind one without a content size are left out silently.
#
# Guessed: its documentation says that concatenated frames are read and streamed ones are, so
# any sequence of frames is. Seen: frames that all tell their size are read in full. If the first
# is of a stream (no size in its header, as `zstd` writes from a pipe), only that is
# returned and the rest is lost without an error, whatever follows. If a sized one comes first and a
# streamed one follows, it's an error. Layers are such sequences: chunked ones have many frames, and
# compressors that are given a stream write no sizes.
#
# Version: zstd 1.5.7.2 (PyPI), with Debian's zstd. Exits 0 if it still behaves so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

python3 -m venv environment
environment/bin/pip install -q --disable-pip-version-check zstd==1.5.7.2
head -c 6000 /dev/zero | tr '\0' x >content
zstd -q -k --content-size content -o sized
cat content | zstd -q -c >streamed # from a pipe: no size
environment/bin/python - <<'PYTHON' | tee seen
import subprocess
import zstd

content = open("content", "rb").read()
frames = {name: open(name, "rb").read() for name in ("sized", "streamed")}
for names in (["streamed"], ["sized", "sized"], ["streamed", "sized"], ["streamed", "streamed", "streamed"],
              ["sized", "streamed"]):
    data = b"".join(frames[name] for name in names)
    assert subprocess.run(["zstd", "-dc"], input=data, capture_output=True, check=True).stdout == content * len(names)
    try:
        seen = f"{len(zstd.decompress(data))} of {len(content) * len(names)} bytes"
    except zstd.Error:
        seen = "error"
    print(*names, "->", seen)
PYTHON
diff - seen <<'EXPECTED'
streamed -> 6000 of 6000 bytes
sized sized -> 12000 of 12000 bytes
streamed sized -> 6000 of 12000 bytes
streamed streamed streamed -> 6000 of 18000 bytes
sized streamed -> error
EXPECTED
