#!/usr/bin/env bash
# hcsshim's tar2ext4: a global PAX header becomes a file of the filesystem, and what it says is not
# applied.
#
# Guessed: typeflag g tells of the entries behind it and is none itself; POSIX has it set their defaults.
# Every tar by `git archive` begins with one. Seen: the filesystem has an empty file
# pax_global_header of mode 0, and an owner and time in such a header are not those of
# the files. GNU tar makes no file and applies both. The cause is in what two parts expect: Go's archive/tar
# hands the header out like an entry, and the converter takes all that it does not
# know for files.
#
# Version: github.com/Microsoft/hcsshim v0.13.0, with Debian's e2fsprogs, tar and git. Exits 0 if it
# still behaves so.
set -euo pipefail
export TZ=UTC GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_SYSTEM=/dev/null
work=$(mktemp -d)
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
cd "$work"

GOPATH=$work/go GOBIN=$work GOFLAGS=-modcacherw \
    go install github.com/Microsoft/hcsshim/cmd/tar2ext4@v0.13.0 2>log || { cat log; exit 1; }

git init -q repository
echo content >repository/file
git -C repository add file
git -C repository -c user.name=nobody -c user.email=nobody@invalid commit -q -m file
git -C repository archive HEAD >git.tar
python3 - <<'PYTHON'
import tarfile

with tarfile.open("global.tar", "w", format=tarfile.PAX_FORMAT,
                  pax_headers={"uid": "777", "mtime": "1000000000"}) as layer:
    layer.addfile(tarfile.TarInfo("file"))
PYTHON
for layer in git global; do
    ./tar2ext4 -i $layer.tar -o disk
    echo "$layer, tar: $(tar -tf $layer.tar | xargs)"
    # Lines of `ls -p`: /inode/mode/uid/gid/name/size/
    echo "$layer, ext4: $(/sbin/debugfs -R 'ls -p /' disk 2>/dev/null | awk -F/ '$6 !~ /^(\.|\.\.|lost.found|)$/ { print $6, $3 }' | xargs)"
done | tee seen
tar --numeric-owner -tvf global.tar | awk '{ print "tar:", $2, $4 }' | tee -a seen
/sbin/debugfs -R 'stat /file' disk 2>/dev/null |
    awk '/^User:/ { user = $2 } / mtime:/ { print "ext4: uid", user, "year", $NF }' | tee -a seen
diff - seen <<'EXPECTED'
git, tar: file
git, ext4: pax_global_header 100000 file 100664
global, tar: file
global, ext4: @PaxHeader 100000 file 100644
tar: 777/0 2001-09-09
ext4: uid 0 year 1970
EXPECTED
