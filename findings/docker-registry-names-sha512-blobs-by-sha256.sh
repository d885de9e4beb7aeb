#!/usr/bin/env bash
# docker-registry (distribution) 2.8: blobs with a sha512 digest are served under another name, and
# mounting one answers that it is there when it is not.
#
# Guessed: sha512 is a registered algorithm (image-spec, "Digests"), so a registry takes it for blobs and
# manifests alike, or not at all. Seen: a blob is taken, and its answers name it by sha256, also those to
# sha512, so a client that compares `Docker-Content-Digest` with what it asked for sees another blob.
# Mounting it into another repository is answered 201, and it is not there by either digest, so the upload
# that the client leaves out is missing. Deleting it is answered 202, and its content is still served by
# sha256. A manifest that is pushed by its sha512 is refused as one whose digest does not match its
# content.
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
storage: {filesystem: {rootdirectory: $work/storage}, delete: {enabled: true}}
http: {addr: 127.0.0.1:$port}
CONFIG
package/usr/bin/docker-registry serve config.yml >log 2>&1 &
pid=$!
for _ in $(seq 100); do
    curl -s -o /dev/null "http://127.0.0.1:$port/v2/" && break
    sleep 0.1
done

registry=http://127.0.0.1:$port/v2
sum() { "$1sum" <"$2" | sed 's/ .*//'; }
ask() { # URL, OPTIONS OF CURL: prints the status and writes the headers to `answer`
    curl -s -D answer -o /dev/null -w '%{http_code}' "${@:2}" "$registry/$1"
}
header() { tr -d '\r' <answer | sed -n "s/^$1: //Ip" | sed -E 's/([0-9a-f]{6})[0-9a-f]+/\1…/'; }

printf content >blob
sha256=$(sum sha256 blob) sha512=$(sum sha512 blob)
type=application/vnd.oci.image.manifest.v1+json
printf '{"schemaVersion":2,"mediaType":"%s","config":{"mediaType":"text/plain","digest":"sha512:%s","size":7},"layers":[]}' \
    "$type" "$sha512" >manifest
{
    ask demo/blobs/uploads/ -X POST >/dev/null
    location=$(tr -d '\r' <answer | sed -n 's/^location: //Ip')
    echo "blob: sha256:${sha256:0:6}… sha512:${sha512:0:6}…"
    echo "put by sha512: $(ask "${location#"$registry"/}&digest=sha512:$sha512" -X PUT --data-binary @blob \
        -H 'content-type: application/octet-stream')"
    for digest in "sha512:$sha512" "sha256:$sha256"; do
        echo "get by ${digest%:*}: $(ask "demo/blobs/$digest"), digest $(header docker-content-digest)"
    done
    echo "mount by sha512: $(ask "other/blobs/uploads/?mount=sha512:$sha512&from=demo" -X POST)"
    for digest in "sha512:$sha512" "sha256:$sha256"; do
        echo "get by ${digest%:*} there: $(ask "other/blobs/$digest")"
    done
    echo "manifest, put by sha512: $(ask "demo/manifests/sha512:$(sum sha512 manifest)" -X PUT --data-binary @manifest \
        -H "content-type: $type")"
    echo "manifest, put by sha256: $(ask "demo/manifests/sha256:$(sum sha256 manifest)" -X PUT --data-binary @manifest \
        -H "content-type: $type")"
    echo "delete by sha512: $(ask "demo/blobs/sha512:$sha512" -X DELETE)"
    for digest in "sha512:$sha512" "sha256:$sha256"; do
        echo "get by ${digest%:*}: $(ask "demo/blobs/$digest")"
    done
} | tee seen
diff - seen <<'EXPECTED'
blob: sha256:ed7002… sha512:b2d1d2…
put by sha512: 201
get by sha512: 200, digest sha256:ed7002…
get by sha256: 200, digest sha256:ed7002…
mount by sha512: 201
get by sha512 there: 404
get by sha256 there: 404
manifest, put by sha512: 400
manifest, put by sha256: 201
delete by sha512: 202
get by sha512: 404
get by sha256: 200
EXPECTED
