#!/usr/bin/env bash
# docker-registry (distribution): the notification of a pushed tag may come before the tag is there.
#
# Guessed: whoever is notified of `push` with a repository and a tag can read that tag. Seen: the
# event is sent once the manifest is stored, and the tag is written after that; a receiver that asks
# at once for a new tag is at times answered 404, and for the event's digest always 200. Whoever acts
# on a notification has to ask again, or to take the digest of the event.
#
# Version: Debian bookworm's docker-registry 2.8.2+ds1. Exits 0 if it still behaves so.
set -euo pipefail
version=2.8.2+ds1-1
work=$(mktemp -d)
chmod 755 "$work"
pids=()
finish() {
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    rm -rf "$work"
}
trap finish EXIT
cd "$work"

apt-get download -qq "docker-registry=$version" 2>/dev/null
dpkg-deb -x docker-registry_*.deb package
port=$((20000 + RANDOM % 20000))
registry=http://127.0.0.1:$port

# For each event with a tag: is the tag there, is the digest?
cat >receiver.py <<'PYTHON'
import http.server, json, sys, urllib.error, urllib.request

registry = sys.argv[1]

def status(reference):
    address = f"{registry}/v2/demo/manifests/{reference}"
    accept = {"Accept": "application/vnd.oci.image.manifest.v1+json"}
    request = urllib.request.Request(address, headers=accept, method="HEAD")
    try:
        return urllib.request.urlopen(request).status
    except urllib.error.HTTPError as error:
        return error.code

class Receiver(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        length = int(self.headers["Content-Length"])
        for event in json.loads(self.rfile.read(length))["events"]:
            target = event["target"]
            if event["action"] == "push" and "tag" in target:
                print(status(target["tag"]), status(target["digest"]), flush=True)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass

server = http.server.HTTPServer(("127.0.0.1", 0), Receiver)
with open("receiver-port", "w") as file:
    file.write(str(server.server_port))
server.serve_forever()
PYTHON
python3 receiver.py "$registry" >seen 2>receiver-log &
pids+=($!)
for _ in $(seq 100); do
    [ ! -s receiver-port ] || break
    sleep 0.1
done

cat >config.yml <<CONFIG
version: 0.1
log: {level: error, accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: $work/storage}}
http: {addr: 127.0.0.1:$port}
notifications:
  endpoints:
    - {name: receiver, url: "http://127.0.0.1:$(cat receiver-port)/", timeout: 5s, threshold: 3, backoff: 1s}
CONFIG
package/usr/bin/docker-registry serve config.yml >log 2>&1 &
pids+=($!)
for _ in $(seq 100); do
    curl -s -o /dev/null "$registry/v2/" && break
    sleep 0.1
done

printf '{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}' >config.json
digest=sha256:$(sha256sum config.json | cut -d' ' -f1)
location=$(curl -s -D - -o /dev/null -X POST "$registry/v2/demo/blobs/uploads/" |
    tr -d '\r' | sed -n 's/^[Ll]ocation: //p')
curl -s -f -o /dev/null -X PUT -H 'content-type: application/octet-stream' \
    --data-binary @config.json "$location&digest=$digest"
type=application/vnd.oci.image.manifest.v1+json
printf '{"schemaVersion":2,"mediaType":"%s","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"%s","size":%d},"layers":[]}' \
    "$type" "$digest" "$(stat -c %s config.json)" >manifest

pushes=300
for number in $(seq $pushes); do
    curl -s -f -o /dev/null -X PUT -H "content-type: $type" --data-binary @manifest \
        "$registry/v2/demo/manifests/tag-$number"
done
for _ in $(seq 300); do
    [ "$(wc -l <seen)" -lt $pushes ] || break
    sleep 0.1
done

tags=$(awk '$1 == 404' seen | wc -l)
digests=$(awk '$2 == 200' seen | wc -l)
echo "of $(wc -l <seen) events with a tag, the tag was missing for $tags, the digest was there for $digests"
[ "$tags" -gt 0 ] && [ "$digests" -eq $pushes ]
