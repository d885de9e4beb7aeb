#!/usr/bin/env bash
# dissect.hypervisor: of a qcow2 that is larger than its backing file, what follows the backing file's end
# is read from the wrong place.
#
# Guessed: behind the end of its backing file an overlay is zeros up to its own size, as with qemu. Cloud
# images are used so every day: a small base, a larger disk on it. Seen: a run of the backing file that is
# cut by its end is left short, and nothing fills it. So a disk of 1 MiB on 100000 bytes is read as 165536
# bytes, and the 64 KiB that were written at 512 KiB are found at 100000, without an error. The stream's
# own size is still 1 MiB. It is so with a raw backing file and with a qcow2; if both are of one size, all
# is right.
#
# Version: dissect.hypervisor 3.21 (PyPI), with Debian's qemu-utils. Exits 0 if it still behaves so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

python3 -m venv environment
environment/bin/pip install -q --disable-pip-version-check dissect.hypervisor==3.21

head -c 100000 /dev/zero | tr '\0' b >base.raw
head -c 1048576 /dev/zero | tr '\0' b >same.raw
qemu-img convert -f raw -O qcow2 base.raw base.qcow2
for base in base.raw base.qcow2 same.raw; do
    disk=on-$base
    qemu-img create -q -f qcow2 -b "$base" -F "${base#*.}" "$disk" 1M
    qemu-io -f qcow2 -c 'write -q -P 0x61 512k 64k' "$disk"
    qemu-img convert -f qcow2 -O raw "$disk" "$disk.raw"
done
environment/bin/python - <<'PYTHON' | tee seen
from pathlib import Path

from dissect.hypervisor.disk.qcow2 import QCow2

for name in ("on-base.raw", "on-base.qcow2", "on-same.raw"):
    stream = QCow2(Path(name)).open()
    data = stream.read()
    qemu = Path(name + ".raw").read_bytes()
    written = b"a" * 65536
    print(f"{name}: qemu {len(qemu)} bytes, written data at {qemu.find(written)};",
          f"dissect {len(data)} of {stream.size} bytes, written data at {data.find(written)}")
PYTHON
diff - seen <<'EXPECTED'
on-base.raw: qemu 1048576 bytes, written data at 524288; dissect 165536 of 1048576 bytes, written data at 100000
on-base.qcow2: qemu 1048576 bytes, written data at 524288; dissect 165888 of 1048576 bytes, written data at 100352
on-same.raw: qemu 1048576 bytes, written data at 524288; dissect 1048576 of 1048576 bytes, written data at 524288
EXPECTED
