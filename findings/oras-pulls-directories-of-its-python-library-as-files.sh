#!/usr/bin/env bash
# ORAS and its Python library: a directory that the library pushed is pulled by `oras` as a file.
#
# Guessed: the two clients of one project agree on what a directory is, so each pulls what the other
# pushed. Seen: both push a tar+gzip with the directory's name as title, but `oras` unpacks only layers
# with the annotation io.deis.oras.content.unpack, which the library does not write (it has a constant for
# it). So `oras pull` writes a compressed archive to a file that is called like the directory, and ends
# with 0. The library goes by the media type, ignores the annotation, and unpacks both.
#
# Version: oras.land/oras v1.3.6, oras 0.2.43 (PyPI), with Debian bookworm's docker-registry 2.8.2+ds1.
# Exits 0 if it still behaves so.
set -euo pipefail
work=$(mktemp -d)
pid=
finish() {
    [ -z "$pid" ] || kill "$pid" 2>/dev/null || true
    chmod -R u+w "$work"
    rm -rf "$work"
}
trap finish EXIT
cd "$work"

GOPATH=$work/go GOBIN=$work GOFLAGS=-modcacherw \
    go install oras.land/oras/cmd/oras@v1.3.6 2>log || { cat log; exit 1; }
python3 -m venv environment
environment/bin/pip install -q --disable-pip-version-check oras==0.2.43
apt-get download -qq docker-registry=2.8.2+ds1-1 2>/dev/null
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
mkdir -p directory
echo content >directory/file
cat >client.py <<'PYTHON'
import sys
import oras.client

client = oras.client.OrasClient(hostname=sys.argv[2], insecure=True, tls_verify=False)
if sys.argv[1] == "push":
    client.push(target=sys.argv[3], files=["directory"], disable_path_validation=True)
else:
    client.pull(target=sys.argv[3], outdir=sys.argv[4])
PYTHON
registry=127.0.0.1:$port
export HOME=$work
python() { environment/bin/python client.py "$1" "$registry" "$registry/demo:$2" "${@:3}" >log; }
python push library
./oras push --plain-http "$registry/demo:oras" directory >log
for pushed in library oras; do
    ./oras manifest fetch --plain-http "$registry/demo:$pushed" | python3 -c '
import json, sys
layer = json.load(sys.stdin)["layers"][0]
print(sys.argv[1], "pushed:", layer["mediaType"], *sorted(name.rsplit(".", 1)[1] for name in layer["annotations"]))
' $pushed
    ./oras pull --plain-http -o "oras-$pushed" "$registry/demo:$pushed" >log
    python pull $pushed "library-$pushed"
    for pulled in oras library; do
        echo "$pushed pushed, $pulled pulled: $(cd $pulled-$pushed && find . -type f -printf '%P ' -exec file -b {} + |
            sed 's/compressed data.*/data/')"
    done
done | tee seen
diff - seen <<'EXPECTED'
library pushed: application/vnd.oci.image.layer.v1.tar+gzip title
library pushed, oras pulled: directory gzip data
library pushed, library pulled: directory/file ASCII text
oras pushed: application/vnd.oci.image.layer.v1.tar+gzip digest title unpack
oras pushed, oras pulled: directory/file ASCII text
oras pushed, library pulled: directory/file ASCII text
EXPECTED
