#!/usr/bin/env bash
# mke2fs -d with the feature inline_data: a file that ends in a hole becomes shorter, without an error.
#
# Guessed: a file keeps its size, whatever features the filesystem has; holes stay holes. So it is
# without inline_data. Seen with it: the size is that of the last block with data, so 10 MiB with a
# word at the start become one block, and the content is no longer the file's. Nothing is
# said, mke2fs exits 0, and e2fsck finds the filesystem clean. A hole before data is kept. Images
# have such files: preallocated databases and logs, /var/log/lastlog and disks of virtual machines.
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
printf word >directory/behind
truncate -s 10M directory/behind
printf word >directory/between
printf word | dd of=directory/between bs=1 seek=10485756 conv=notrunc status=none

sizes() { # FEATURES
    rm -f disk
    truncate -s 64M disk
    tool mke2fs -q -F -t ext4 -b 4096 -I 256 -O "$1" -d directory disk
    tool e2fsck -fn disk >log 2>&1 || { cat log; return 1; }
    for file in behind between; do
        tool debugfs -R "dump $file $file" disk 2>/dev/null
        cmp -s "$file" "directory/$file" && same=same || same=other
        echo "$file $(stat -c %s "$file") $same"
    done
}
plain=$(sizes '^inline_data')
inline=$(sizes inline_data)
printf 'without inline_data:\n%s\nwith inline_data:\n%s\n' "$plain" "$inline"
[ "$plain" = $'behind 10485760 same\nbetween 10485760 same' ]
[ "$inline" = $'behind 4096 other\nbetween 10485760 same' ]
