#!/usr/bin/env bash
# mke2fs -d: directories have no index, although the filesystem has the feature dir_index.
#
# Guessed: with dir_index, which is on by default, a directory of more than one block is a hash tree, as
# the kernel makes it. Seen: every directory that mke2fs -d fills is a plain list, of
# 20000 names too. Nothing says so, e2fsck finds the filesystem clean, and the kernel, which makes a tree
# only when a directory grows out of its first block, never makes one later. So each look-up, also of a
# name that is not there, reads the list from its front: here up to 715 blocks in place of three. In an
# image that is read over a network all of them are fetched. `e2fsck -fD` makes the trees.
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

mkdir -p tree/directory
(cd tree/directory && seq -f 'a-name-of-some-length-%g' 20000 | xargs touch)
tool mke2fs -q -t ext4 -N 32768 -d tree disk 64M >log 2>&1
tool dumpe2fs -h disk 2>/dev/null | grep -o ' dir_index'

index() { # WHAT: tells how the directory is kept, by its flag INDEX_FL and by what debugfs can walk
    local flags kind=list walk=no
    flags=$(tool debugfs -R 'stat /directory' disk 2>/dev/null | sed -n 's/.*Flags: //p')
    [ $((flags & 0x1000)) -eq 0 ] || kind=tree
    tool debugfs -R 'htree /directory' disk >log 2>&1
    ! grep -q 'Number of entries' log || walk=yes
    echo "$1: $kind, debugfs finds nodes: $walk"
}
{
    index 'mke2fs -d'
    echo "blocks: $(tool debugfs -R 'blocks /directory' disk 2>/dev/null | wc -w)"
    status=0
    tool e2fsck -fn disk >log 2>&1 || status=$?
    echo "e2fsck: $status"
    tool e2fsck -fyD disk >log 2>&1 || true
    index 'e2fsck -D'
} | tee seen
diff - seen <<'EXPECTED'
mke2fs -d: list, debugfs finds nodes: no
blocks: 715
e2fsck: 0
e2fsck -D: tree, debugfs finds nodes: yes
EXPECTED
