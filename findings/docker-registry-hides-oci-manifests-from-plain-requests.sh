#!/usr/bin/env bash
# docker-registry (distribution) 2.8 says that an OCI manifest does not exist to whoever does not
# say that OCI manifests are accepted.
#
# Guessed: `Accept` chooses among forms; a manifest of which there is one form is served as it is
# (RFC 9110, section 12.5.1, allows that), or refused with 406. Seen: 404 MANIFEST_UNKNOWN, the
# same as for a tag that is not there, also by digest, also for `Accept: */*` and for no `Accept`.
# A Docker schema 2 manifest in the same repository is served by digest to all of them. So a plain
# HEAD, which many tools send to see whether an image is there, says that OCI images are not.
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
storage: {inmemory: {}}
http: {addr: 127.0.0.1:$port}
CONFIG
package/usr/bin/docker-registry serve config.yml >log 2>&1 &
pid=$!
registry=http://127.0.0.1:$port/v2/demo
for _ in $(seq 100); do
    curl -s -o /dev/null "http://127.0.0.1:$port/v2/" && break
    sleep 0.1
done

printf '{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}' >config.json
digest=sha256:$(sha256sum config.json | cut -d' ' -f1)
location=$(curl -s -D - -o /dev/null -X POST "$registry/blobs/uploads/" |
    tr -d '\r' | sed -n 's/^[Ll]ocation: //p')
mark='?'
[[ $location != *\?* ]] || mark='&'
curl -s -f -o /dev/null -X PUT -H 'content-type: application/octet-stream' \
    --data-binary @config.json "$location${mark}digest=$digest"

oci=application/vnd.oci.image.manifest.v1+json
docker=application/vnd.docker.distribution.manifest.v2+json
put() { # TAG TYPE CONFIG-TYPE
    printf '{"schemaVersion":2,"mediaType":"%s","config":{"mediaType":"%s","digest":"%s","size":%d},"layers":[]}' \
        "$2" "$3" "$digest" "$(stat -c %s config.json)" >"$1.json"
    curl -s -f -o /dev/null -X PUT -H "content-type: $2" --data-binary "@$1.json" "$registry/manifests/$1"
}
put oci "$oci" application/vnd.oci.image.config.v1+json
put docker "$docker" application/vnd.docker.container.image.v1+json

status() { curl -s -o /dev/null -w '%{http_code}' "$@"; }
by_digest() { echo "$registry/manifests/sha256:$(sha256sum "$1.json" | cut -d' ' -f1)"; }
seen="OCI by tag, no Accept: $(status -H 'Accept:' "$registry/manifests/oci")
OCI by tag, Accept */*: $(status -H 'Accept: */*' "$registry/manifests/oci")
OCI by digest, Accept */*: $(status -H 'Accept: */*' "$(by_digest oci)")
OCI by tag, its own type: $(status -H "Accept: $oci" "$registry/manifests/oci")
Docker by digest, Accept */*: $(status -H 'Accept: */*' "$(by_digest docker)")
"
printf '%s' "$seen"
expected='OCI by tag, no Accept: 404
OCI by tag, Accept */*: 404
OCI by digest, Accept */*: 404
OCI by tag, its own type: 200
Docker by digest, Accept */*: 200
'
if [ "$seen" = "$expected" ]; then
    echo "as described"
else
    echo "this has changed"
    exit 1
fi
