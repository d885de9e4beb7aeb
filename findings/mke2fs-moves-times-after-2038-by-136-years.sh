#!/usr/bin/env bash
# mke2fs -d: times after 19 January 2038 are written as times 136 years before, and fractions of a
# second are dropped, into an ext4 that has room for both.
#
# Guessed: with inodes of 256 bytes, which have the two more bits of the seconds and 30 bits of
# nanoseconds, a file keeps its time up to 2446. Seen: 2050 becomes 1913 and half a second is
# gone, without a word; debugfs sets and reads both in the same filesystem, so the format is not
# the limit. Whoever compares a converter's image with one by mke2fs compares whole
# seconds before 2038 only.
#
# Version: Debian bookworm's e2fsprogs 1.47.0-2+b2. Exits 0 if it still behaves so.
set -euo pipefail
version=1.47.0-2+b2
export TZ=UTC
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
touch -d '2050-01-01 00:00:00.5' directory/future
touch -d '2000-01-01 00:00:00.5' directory/past
touch directory/set
[ "$(stat -c %Y directory/future)" = 2524608000 ] || { echo 'this directory cannot keep the time'; exit 1; }
truncate -s 64M disk
tool mke2fs -q -F -t ext4 -I 256 -d directory disk
tool debugfs -w -R 'set_inode_field set mtime @2524608000' disk 2>/dev/null
tool debugfs -w -R 'set_inode_field set mtime_extra 0x77359401' disk 2>/dev/null # 2^32 s and 0.5 s

for file in future past set; do
    tool debugfs -R "stat $file" disk 2>/dev/null | sed -nE "s/^ mtime: /$file /p"
done | tee seen
diff - seen <<'EXPECTED'
future 0x967a7600:00000000 -- Tue Nov 25 17:31:44 1913
past 0x386d4380:00000000 -- Sat Jan  1 00:00:00 2000
set 0x967a7600:77359401 -- Sat Jan  1 00:00:00 2050
EXPECTED
