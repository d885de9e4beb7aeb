#!/usr/bin/env bash
# hcsshim's tar2ext4: times before 1970 and after 19 January 2038 are written as other years.
#
# Guessed: the writer, which makes inodes of 256 bytes and cuts times to the range of ext4 (its
# latest is 2446), splits seconds as ext4 does: a lower half with a sign, and epochs of 2^32 s in the
# extra field. Seen: the number's 64 bits are laid over both fields without regard to the sign. So 2065
# becomes 1929, and 1969 becomes 2377 with a fraction of all ones, more than a second. No error
# is given. 1970 to 2037 are right, and so is 2110.
#
# Version: github.com/Microsoft/hcsshim v0.13.0, with Debian's e2fsprogs. Exits 0 if it still
# behaves so.
set -euo pipefail
export TZ=UTC
work=$(mktemp -d)
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
cd "$work"

GOPATH=$work/go GOBIN=$work GOFLAGS=-modcacherw \
    go install github.com/Microsoft/hcsshim/cmd/tar2ext4@v0.13.0 2>log || { cat log; exit 1; }
python3 - <<'PYTHON'
import calendar, tarfile

with tarfile.open("layer.tar", "w", format=tarfile.PAX_FORMAT) as layer:
    for year in (1969, 2000, 2065, 2110):
        member = tarfile.TarInfo(str(year))
        member.mtime = calendar.timegm((year, 6, 1, 0, 0, 0))
        layer.addfile(member)
PYTHON
python3 -c "import tarfile, time
for member in tarfile.open('layer.tar'): assert time.gmtime(member.mtime)[:3] == (int(member.name), 6, 1)"
./tar2ext4 -i layer.tar -o disk
for year in 1969 2000 2065 2110; do
    /sbin/debugfs -R "stat /$year" disk 2>/dev/null | sed -nE "s/^ mtime: /$year: /p"
done | tee seen
diff - seen <<'EXPECTED'
1969: 0xfee5df00:ffffffff -- Tue Sep 20 19:24:48 2377
2000: 0x3935a780:00000000 -- Thu Jun  1 00:00:00 2000
2065: 0xb378d300:00000000 -- Thu Apr 25 17:31:44 1929
2110: 0x081c0f80:00000001 -- Sun Jun  1 00:00:00 2110
EXPECTED
