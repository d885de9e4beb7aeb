#!/usr/bin/env bash
# debugfs: in a filesystem with inline_data, files below 60 bytes are read with zeros behind them.
#
# Guessed: what `dump`, `cat` and `rdump` of debugfs give out has the size that the inode tells.
# Seen: an empty file and one of one byte, which mke2fs -d keeps inline with their true sizes, come
# out as 60 bytes, the room that an inode has for them; from 60 bytes on the size is right.
# `rdump` so pads every small file of a tree (marker files, /etc/hostname), without an error.
# A check that compares a tree with what debugfs reads from its image must cut to the inode's size.
#
# Version: Debian bookworm's e2fsprogs 1.47.0-2+b2. Exits 0 if it still behaves so.
set -euo pipefail
version=1.47.0-2+b2
work=$(mktemp -d)
chmod 755 "$work"
trap 'rm -rf "$work"' EXIT
cd "$work"

for package in e2fsprogs libext2fs2 libss2 libcom-err2; do
    apt-get download -qq "$package=$version" 2>/dev/null
    dpkg-deb -x "$package"_*.deb root
done
libraries=$(find root -name 'libext2fs.so.2*' -printf '%h\n' | head -n 1)
tool() { # NAME ARGUMENTS
    local name=$1
    shift
    LD_LIBRARY_PATH=$work/$libraries "root/sbin/$name" "$@"
}

mkdir directory
for size in 0 1 59 60 61 100; do
    head -c "$size" /dev/zero | tr '\0' x >"directory/$size"
done
for features in ^inline_data inline_data; do
    rm -rf disk out
    mkdir out
    truncate -s 64M disk
    tool mke2fs -q -F -t ext4 -I 256 -O "$features" -d directory disk
    tool e2fsck -fn disk >log 2>&1 || { cat log; exit 1; }
    tool debugfs -R 'rdump / out' disk 2>/dev/null
    printf '%s (inode/rdump/cat):' "$features"
    for size in 0 1 59 60 61 100; do
        inode=$(tool debugfs -R "stat /$size" disk 2>/dev/null | sed -nE '/^User:/s/.* Size: ([0-9]+).*/\1/p')
        printf ' %s/%s/%s' "$inode" "$(stat -c %s "out/$size")" "$(tool debugfs -R "cat /$size" disk 2>/dev/null | wc -c)"
    done
    echo
done | tee seen
diff - seen <<'EXPECTED'
^inline_data (inode/rdump/cat): 0/0/0 1/1/1 59/59/59 60/60/60 61/61/61 100/100/100
inline_data (inode/rdump/cat): 0/60/60 1/60/60 59/60/60 60/60/60 61/61/61 100/100/100
EXPECTED
