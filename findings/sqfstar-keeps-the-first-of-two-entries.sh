#!/usr/bin/env bash
# sqfstar (squashfs-tools): of two entries of one name, the first is kept.
#
# Guessed: a tar is extracted from its first entry to its last, so a later entry of a name replaces an
# earlier one; `tar --append` builds on it, and so are layers read. Seen: the later entry is ignored. The
# image has the old content, owner and mode; the only sign is "file already exists in the tar file,
# ignoring" on standard error, and the status is 0. If the later entry is a directory with a file in it,
# in place of a file, nothing is made.
#
# Version: Debian bookworm's squashfs-tools 1:4.5.1-1, with its GNU tar. Exits 0 if it still behaves so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

apt-get download -qq squashfs-tools=1:4.5.1-1 2>/dev/null
dpkg-deb -x squashfs-tools_*.deb package
PATH=$work/package/usr/bin:$PATH

echo old >file
ln file link
chmod 600 file
tar -cf file.tar file link
rm file
echo new >file
chmod 644 file
tar --append -f file.tar file

rm file
touch name
tar -cf directory.tar name
rm name
mkdir name
touch name/file
tar --append -f directory.tar name

for layer in file directory; do
    rm -rf tar squashfs image
    mkdir tar
    tar -xf $layer.tar -C tar
    echo "$layer, tar: $(cd tar && find . -type f -printf '%P %m ' -exec cat {} + | sort | xargs)"
    status=0
    sqfstar -quiet -no-progress image <$layer.tar 2>log || status=$?
    echo "$layer, sqfstar: status $status, $(xargs <log)"
    [ ! -e image ] || unsquashfs -quiet -no-progress -dest squashfs image >log
    [ ! -e squashfs ] || echo "$layer, squashfs: $(cd squashfs && find . -type f -printf '%P %m ' -exec cat {} + | sort | xargs)"
done | tee seen
diff - seen <<'EXPECTED'
file, tar: file 644 link 600 new old
file, sqfstar: status 0, file already exists in the tar file, ignoring
file, squashfs: file 600 link 600 old old
directory, tar: name/file 644
directory, sqfstar: status 1, name already exists in the tar file, ignoring FATAL ERROR: /name exists in the tar file as a non-directory, cannot add tar pathname name/file!
EXPECTED
