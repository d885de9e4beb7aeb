#!/usr/bin/env bash
# docker-registry (distribution) on its file system driver: reading a tag while the same tag is
# pushed again is at times answered 500, although the tag exists before, during and after.
#
# Guessed: a reader sees the old manifest or the new one. Seen: some reads are
# 500 {"code":"UNKNOWN"}, because the file that the tag is kept in is truncated before it is
# written, and an empty digest is an internal error. Clients that take a 500 for a broken
# registry stop there; asking once more is enough.
#
# Version: Debian bookworm's docker-registry 2.8.2+ds1. Exits 0 if it still behaves so.
set -euo pipefail
version=2.8.2+ds1-1
work=$(mktemp -d)
chmod 755 "$work"
pid=
finish() {
    [ -z "$pid" ] || kill "$pid" 2>/dev/null || true
    rm -rf "$work"
}
trap finish EXIT
cd "$work"

apt-get download -qq "docker-registry=$version" 2>/dev/null
dpkg-deb -x docker-registry_*.deb package
port=$((20000 + RANDOM % 20000))
cat >config.yml <<CONFIG
version: 0.1
log: {level: error, accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: $work/storage}}
http: {addr: 127.0.0.1:$port}
CONFIG
package/usr/bin/docker-registry serve config.yml >log 2>&1 &
pid=$!
registry=http://127.0.0.1:$port/v2/demo
for _ in $(seq 100); do
    curl -s -o /dev/null "http://127.0.0.1:$port/v2/" && break
    sleep 0.1
done

push_blob() { # FILE -> digest
    local location digest mark='?'
    digest=sha256:$(sha256sum "$1" | cut -d' ' -f1)
    location=$(curl -s -D - -o /dev/null -X POST "$registry/blobs/uploads/" |
        tr -d '\r' | sed -n 's/^[Ll]ocation: //p')
    [[ $location != *\?* ]] || mark='&'
    curl -s -f -o /dev/null -X PUT -H 'content-type: application/octet-stream' \
        --data-binary "@$1" "$location${mark}digest=$digest"
    echo "$digest"
}
type=application/vnd.oci.image.manifest.v1+json
for number in 1 2; do
    printf '{"architecture":"amd64","os":"linux","author":"%s","rootfs":{"type":"layers","diff_ids":[]}}' \
        "$number" >config.json
    digest=$(push_blob config.json)
    printf '{"schemaVersion":2,"mediaType":"%s","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"%s","size":%d},"layers":[]}' \
        "$type" "$digest" "$(stat -c %s config.json)" >"manifest-$number"
done
put() { curl -s -f -o /dev/null -X PUT -H "content-type: $type" --data-binary "@$1" "$registry/manifests/tag"; }
put manifest-1

# One writer, two readers, at most 60 rounds of 200 reads each.
touch writing
while [ -e writing ]; do put manifest-1; put manifest-2; done &
writer=$!
read_tag() {
    curl -s -o /dev/null -w '%{http_code}\n' -H "accept: $type" "$registry/manifests/tag?[1-200]" | sort | uniq -c
}
seen=
for _ in $(seq 60); do
    counts=$( (read_tag & read_tag; wait) | awk '{ sum[$2] += $1 } END { for (code in sum) print code, sum[code] }')
    if grep -q '^500 ' <<<"$counts"; then
        seen=$counts
        break
    fi
done
rm writing
wait "$writer"
after=$(curl -s -o /dev/null -w '%{http_code}' -H "accept: $type" "$registry/manifests/tag")

echo "reads by status while the tag was overwritten: ${seen:-no 500 in 24000 reads}" | tr '\n' ' '
echo
echo "and afterwards: $after"
[ -n "$seen" ] && [ "$after" = 200 ]
