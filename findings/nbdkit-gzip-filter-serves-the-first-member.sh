#!/usr/bin/env bash
# nbdkit's gzip filter: of a .gz with several members, only the first is served, as a whole disk.
#
# Guessed: gzip files are sequences of members (RFC 1952, section 2.2), so a server of what is in
# one serves them all, as gzip, zlib's gzread and nbdkit's own xz filter (several streams) do.
# Seen: the disk has the size and content of the first member, without an error; if that is empty,
# the disk has 0 bytes. The xz filter serves all of the same content. Layers of registries have
# several members when parallel, appending or seekable compressors made them.
#
# Version: Debian bookworm's nbdkit 1.32.5-1, and libnbd 1.14.2-1 for nbdcopy. Exits 0 if it still
# behaves so.
set -euo pipefail
work=$(mktemp -d)
chmod 755 "$work"
trap 'rm -rf "$work"' EXIT
cd "$work"

for package in nbdkit=1.32.5-1 libnbd-bin=1.14.2-1 libnbd0=1.14.2-1; do
    apt-get download -qq "$package" 2>/dev/null
    dpkg-deb -x "${package%=*}"_*.deb root
done
library=$(find root -name 'libnbd.so.0*' -printf '%h\n' | head -n 1)
modules=$work/$(find root -path '*/nbdkit/filters' -printf '%h\n')

head -c 3000000 /dev/urandom >first
head -c 2000000 /dev/urandom >second
cat first second >both
{ gzip -c first; gzip -c second; } >two.gz
{ gzip -c </dev/null; gzip -c second; } >empty-first.gz
{ xz -0 -c first; xz -0 -c second; } >two.xz
gzip -dc two.gz | cmp - both
gzip -dc empty-first.gz | cmp - second
for file in two.gz empty-first.gz two.xz; do
    filter=gzip
    [ "${file##*.}" = gz ] || filter=xz
    rm -f disk
    LD_LIBRARY_PATH=$work/$library root/usr/bin/nbdcopy -- \
        [ root/usr/bin/nbdkit -r --filter="$modules/filters/nbdkit-$filter-filter.so" \
        "$modules/plugins/nbdkit-file-plugin.so" "$file" ] disk
    content=other
    for known in first second both; do
        cmp -s disk $known && content=$known
    done
    echo "$file: $(stat -c %s disk) bytes, $content"
done | tee seen
diff - seen <<'EXPECTED'
two.gz: 3000000 bytes, first
empty-first.gz: 0 bytes, other
two.xz: 5000000 bytes, both
EXPECTED
