#!/usr/bin/env bash
# docker-registry (distribution) 2.8: the Content-Range of an uploaded chunk is not looked at.
#
# Guessed: a chunk that does not begin where the upload ends is answered 416 (distribution-spec, "Pushing
# a blob in chunks": it MUST be), so a client whose connection broke may send its last chunk again and is
# told if that had arrived. Seen: it is appended, with 202, and so is one that leaves a gap; only the
# answer's Range tells that the upload is longer than it should be. The error comes with the digest, after
# all that was left has been sent, and what was sent twice cannot be taken back. So a client has to ask
# for the upload's state (GET on its location) before it repeats a chunk.
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

location=
ask() { # WHAT IS SENT, OPTIONS OF CURL: prints status and range, and keeps the upload's location
    curl -s -D answer -o /dev/null -H 'content-type: application/octet-stream' "${@:2}"
    tr -d '\r' <answer >lines
    location=$(sed -n 's/^[Ll]ocation: //p' lines)
    echo "$1: $(sed -n '1s/^[^ ]* //p' lines), range $(sed -n 's/^[Rr]ange: //p' lines | grep . || echo none)"
}
chunk() { # RANGE CONTENT
    ask "chunk $1" -X PATCH -H "content-range: $1" --data-binary "$2" "$location"
}
sum() { printf %s "$1" | sha256sum | cut -d' ' -f1; }
{
    ask begin -X POST "http://127.0.0.1:$port/v2/demo/blobs/uploads/"
    chunk 0-4 first
    chunk 0-4 first
    chunk 100-105 second
    upload=$location
    ask 'end, digest of firstsecond' -X PUT "$upload&digest=sha256:$(sum firstsecond)"
    ask 'end, digest of all chunks' -X PUT "$upload&digest=sha256:$(sum firstfirstsecond)"
} | tee seen
diff - seen <<'EXPECTED'
begin: 202 Accepted, range 0-0
chunk 0-4: 202 Accepted, range 0-4
chunk 0-4: 202 Accepted, range 0-9
chunk 100-105: 202 Accepted, range 0-15
end, digest of firstsecond: 400 Bad Request, range none
end, digest of all chunks: 201 Created, range none
EXPECTED
