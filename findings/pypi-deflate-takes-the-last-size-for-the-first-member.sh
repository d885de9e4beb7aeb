#!/usr/bin/env bash
# PyPI's `deflate`: of a gzip file that ends in an empty member, nothing is returned, without an error.
#
# Guessed: a gzip file of several members is decompressed in full (RFC 1952, section 2.2), or refused, or
# at worst its first member comes. Seen: the file's last four bytes, which are the size of its *last*
# member, are taken for the room that the first one needs. If the last is empty, which is how BGZF and
# eStargz end every file, the result is empty. If it is shorter than the first, there is an error; else
# the first comes alone. Zeros as padding behind the file do what an empty member does. Files of one
# member are right.
#
# Version: deflate 0.9.0 (PyPI), with Debian's gzip. Exits 0 if it still behaves so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

python3 -m venv environment
environment/bin/pip install -q --disable-pip-version-check deflate==0.9.0

seq 1000 >long
seq 100 >short
gzip -c long >one-member.gz
cat <(gzip -c long) <(gzip -c /dev/null) >empty-last.gz
cat <(gzip -c long) <(gzip -c short) >long-short.gz
cat <(gzip -c short) <(gzip -c long) >short-long.gz
cat <(gzip -c long) <(head -c 512 /dev/zero) >padded.gz
environment/bin/python - one-member empty-last long-short short-long padded <<'PYTHON' | tee seen
import subprocess, sys

import deflate

for name in sys.argv[1:]:
    gzip = subprocess.run(["gzip", "-dc", name + ".gz"], capture_output=True, check=True).stdout
    try:
        seen = f"{len(deflate.gzip_decompress(open(name + '.gz', 'rb').read()))} bytes"
    except deflate.DeflateError as error:
        seen = "an error"
    print(f"{name}: {len(gzip)} bytes by gzip, {seen} by deflate")
PYTHON
diff - seen <<'EXPECTED'
one-member: 3893 bytes by gzip, 3893 bytes by deflate
empty-last: 3893 bytes by gzip, 0 bytes by deflate
long-short: 4185 bytes by gzip, an error by deflate
short-long: 4185 bytes by gzip, 292 bytes by deflate
padded: 3893 bytes by gzip, 0 bytes by deflate
EXPECTED
