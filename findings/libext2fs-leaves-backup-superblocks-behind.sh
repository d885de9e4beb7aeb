#!/usr/bin/env bash
# libext2fs: a filesystem that is opened for writing and closed again keeps its old backup
# superblocks. Only mke2fs (and e2fsck, resize2fs) write the copies.
#
# Guessed: closing writes the superblock and its copies alike, so that a diff of two disks has
# them all. Seen: after `debugfs -w` added a file and a directory, the primary superblock counts
# them and the copy in group 1 still counts an empty filesystem. So a block diff made by tools
# over libext2fs holds no copy, and the copy's presence tells a whole disk from a diff of one.
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

truncate -s 256M disk
tool mke2fs -q -F -t ext4 -b 4096 -O '^has_journal' -E lazy_itable_init=1 disk
head -c 1000000 /dev/zero | tr '\0' x >content
tool debugfs -w -R 'write content file' disk >/dev/null 2>&1
tool debugfs -w -R 'mkdir directory' disk >/dev/null 2>&1

free() { # [OPTIONS]: free blocks and inodes by one superblock
    tool dumpe2fs -h "$@" disk 2>/dev/null | awk -F': *' '/^Free (blocks|inodes)/ { printf "%s ", $2 }'
}
primary=$(free)
copy=$(free -o superblock=32768 -o blocksize=4096)
echo "free blocks and inodes: primary superblock $primary; copy in group 1 $copy"
[ -n "$primary" ] && [ -n "$copy" ] && [ "$primary" != "$copy" ]
