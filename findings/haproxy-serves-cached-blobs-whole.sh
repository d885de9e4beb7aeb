#!/usr/bin/env bash
# HAProxy 2.6: once its cache holds a blob, every request for a range of it is answered with the whole
# blob.
#
# Guessed: a cache in front of a registry or an object store answers ranges as the server behind it does
# (206), and from the cache if it can; nginx, Squid and Varnish do. Seen: a range is 206 as long as the
# blob is not in the cache, since it is passed on. One GET without a range puts the blob there, and from
# then on all ranges are answered 200 with everything, until it has gone stale. That is allowed (a server
# may ignore Range), so nothing fails: a lazy reader that asks for 10 bytes is sent the layer, each time.
# The more a layer is pulled, the slower are those who read it at random.
#
# Version: Debian bookworm's HAProxy 2.6.12, whatever its patch level. Exits 0 if it still behaves so.
set -euo pipefail
work=$(mktemp -d)
chmod 755 "$work"
pids=()
finish() {
    [ ${#pids[@]} -eq 0 ] || kill "${pids[@]}" 2>/dev/null || true
    rm -rf "$work"
}
trap finish EXIT
cd "$work"

apt-get download -qq haproxy liblua5.3-0 libopentracing-c-wrapper0 libopentracing1 2>/dev/null
for package in *.deb; do dpkg-deb -x "$package" package; done
libraries=$(find package -name '*.so.*' -printf "$work/%h\n" | sort -u | paste -sd:)
haproxy() { LD_LIBRARY_PATH=$libraries exec package/usr/sbin/haproxy "$@"; }
(haproxy -v) | grep -o '^HAProxy version 2\.6\.12-'

cat >server.py <<'PYTHON'
"""Serves 100000 bytes, and single ranges of them. Prints its port."""
import http.server, re

blob = bytes(100000)

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        content, first = blob, None
        if asked := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")):
            first, last = map(int, asked.groups())
            content = blob[first:last + 1]
        self.send_response(200 if first is None else 206)
        if first is not None:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(blob)}")
        for header in [("Content-Length", len(content)), ("Accept-Ranges", "bytes"), ("ETag", '"one"'),
                       ("Cache-Control", "max-age=1000")]:
            self.send_header(header[0], str(header[1]))
        self.end_headers()
        self.wfile.write(content)
    def log_message(self, *_):
        pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
PYTHON
python3 server.py >origin 2>log &
pids+=($!)
for _ in $(seq 100); do
    [ ! -s origin ] || break
    sleep 0.1
done
port=$((20000 + RANDOM % 20000))
cat >haproxy.cfg <<CONFIG
defaults
    mode http
    timeout connect 10s
    timeout client 10s
    timeout server 10s
cache blobs
    total-max-size 4
    max-object-size 1000000
    max-age 1000
listen registry
    bind 127.0.0.1:$port
    http-request cache-use blobs
    http-response cache-store blobs
    server origin 127.0.0.1:$(cat origin)
CONFIG
haproxy -db -f haproxy.cfg >haproxy.log 2>&1 &
pids+=($!)
ask() { # WHAT, OPTIONS OF CURL
    echo "$1: $(curl -s -o /dev/null -w '%{http_code}, %{size_download} bytes' "${@:2}" "http://127.0.0.1:$port/blob")"
}
for _ in $(seq 100); do
    curl -s -o /dev/null -r 0-0 "http://127.0.0.1:$port/blob" && break
    sleep 0.1
done
{
    ask '10 bytes' -r 500-509
    ask '10 bytes' -r 500-509
    ask 'the blob'
    ask '10 bytes' -r 500-509
    ask '10 bytes' -r 90000-90009
} | tee seen
diff - seen <<'EXPECTED'
10 bytes: 206, 10 bytes
10 bytes: 206, 10 bytes
the blob: 200, 100000 bytes
10 bytes: 200, 100000 bytes
10 bytes: 200, 100000 bytes
EXPECTED
