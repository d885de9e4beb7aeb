#!/usr/bin/env bash
# PyPI's `ext4`: of a file that is kept in its inode, the bytes from the 61st on are wrong.
#
# Guessed: a reader that takes a filesystem with inline_data reads the content, whose first 60 bytes
# are in place of the block map and whose rest is the value of the attribute system.data. Seen:
# the length is right, and from byte 60 on comes what follows in the inode: its generation, the block
# of its attributes, times and so on. So the file's end is other bytes, without an error. The value of
# system.data, which holds them, can be had by the library's own attributes. Files that are
# not inline are right.
#
# Version: ext4 1.4.1 (PyPI), with Debian bookworm's e2fsprogs. Exits 0 if it still behaves so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

python3 -m venv environment
environment/bin/pip install -q --disable-pip-version-check ext4==1.4.1
mkdir directory
for size in 60 61 100 5000; do
    head -c "$size" /dev/zero | tr '\0' x >"directory/$size"
done
truncate -s 64M disk
/sbin/mke2fs -q -F -t ext4 -I 256 -O inline_data -d directory disk
/sbin/e2fsck -fn disk >log 2>&1 || { cat log; exit 1; }
for size in 60 61 100 5000; do
    /sbin/debugfs -R "dump /$size dumped" disk 2>/dev/null
    cmp dumped "directory/$size" # the image has them right
done
environment/bin/python - <<'PYTHON' | tee seen
import ext4

volume = ext4.Volume(open("disk", "rb"))
for size in (60, 61, 100, 5000):
    content = volume.inode_at(f"/{size}").open().read()
    value = dict(volume.inode_at(f"/{size}").xattrs).get("system.data", b"")
    assert size == 5000 or value == b"x" * (size - 60), value
    right = len(content) - len(content.lstrip(b"x"))
    print(f"{size}: length {len(content)}, right up to {right}")
PYTHON
diff - seen <<'EXPECTED'
60: length 60, right up to 60
61: length 61, right up to 60
100: length 100, right up to 60
5000: length 5000, right up to 5000
EXPECTED
