#!/usr/bin/env bash
# docker-registry (distribution) 2.8 answers 204 to the DELETE of an upload and leaves a part of it.
#
# Guessed: nothing of a cancelled upload stays (distribution-spec, "Cancelling an upload"). Seen: the
# data and `startedat` go, the directory with `hashstates` stays; an error is logged ("error
# closing blobwriter: … file already closed").
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
for _ in $(seq 100); do
    curl -s -o /dev/null "http://127.0.0.1:$port/v2/" && break
    sleep 0.1
done

location=$(curl -s -D - -o /dev/null -X POST "http://127.0.0.1:$port/v2/demo/blobs/uploads/" |
    tr -d '\r' | sed -n 's/^[Ll]ocation: //p')
status=$(curl -s -o /dev/null -w '%{http_code}' -X DELETE "$location")
uploads=storage/docker/registry/v2/repositories/demo/_uploads
left=$(find "$uploads" -mindepth 2 -printf '%P\n' | sed 's|^[^/]*/||' | sort | paste -sd' ')
echo "DELETE: $status; left of the upload: ${left:-nothing}"
[ "$status" = 204 ] && [[ $left == hashstates* ]] && [[ $left != *startedat* ]]
