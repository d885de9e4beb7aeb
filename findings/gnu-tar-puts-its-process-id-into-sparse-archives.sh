#!/usr/bin/env bash
# GNU tar: with --format=posix --sparse, the same tree is other bytes in every run.
#
# Guessed: the options that the manual gives for reproducible archives (sorted names, fixed times and
# owners, names of extended headers without the process id) give the same bytes for the same tree. Without
# --sparse they do. Seen: with it, the entry of each file with holes carries the placeholder name
# DIR/GNUSparseFile.PID/FILE in forms 0.1 and 1.0 (the default), and no option sets that one:
# --pax-option=exthdr.name changes only the header in front of it. Form 0.0 has no placeholder. So a layer
# with one sparse file has another digest in every build, and caches miss it.
#
# Version: Debian bookworm's tar 1.34+dfsg-1.2+deb12u1. Exits 0 if it still behaves so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

apt-get download -qq tar=1.34+dfsg-1.2+deb12u1 2>/dev/null
dpkg-deb -x tar_*.deb package
tar=package/bin/tar

mkdir tree
truncate -s 1M tree/file
printf x | dd of=tree/file conv=notrunc status=none
reproducible=(--format=posix --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner
    "--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime")

archives() { # OPTIONS: how many different archives four runs make
    for _ in 1 2 3 4; do
        "$tar" "${reproducible[@]}" "$@" -cf archive.tar tree
        sha256sum <archive.tar
    done | sort -u | wc -l
}
{
    echo "not sparse: $(archives) different of 4"
    for form in 0.0 0.1 1.0; do
        echo "sparse, form $form: $(archives --sparse --sparse-version=$form) different of 4"
    done
    "$tar" "${reproducible[@]}" --sparse -cf archive.tar tree
    grep -ao 'tree/GNUSparseFile\.[0-9]*/file' archive.tar | sed 's/[0-9][0-9]*/PID/'
} | tee seen
diff - seen <<'EXPECTED'
not sparse: 1 different of 4
sparse, form 0.0: 1 different of 4
sparse, form 0.1: 4 different of 4
sparse, form 1.0: 4 different of 4
tree/GNUSparseFile.PID/file
EXPECTED
