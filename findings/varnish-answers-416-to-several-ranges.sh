#!/usr/bin/env bash
# Varnish 7.1: a request for several ranges, or for a unit it does not know, is answered 416.
#
# Guessed: a server that does not serve several ranges ignores them and sends the whole (RFC 9110, section
# 14.2: it may ignore Range, and must if the unit is unknown to it); 416 is for what cannot be satisfied.
# Seen: of two ranges that can be, neither is served, whatever the server behind can do; single ranges are
# 206. Lazy readers do ask so: the stargz snapshotter puts several ranges into one request and falls back
# to one at 200 or 400, but 416 is an error to it. Its check asks for one range and passes, so the trouble
# begins with the first read of what is far apart.
#
# Version: Debian bookworm's Varnish 7.1.1, whatever its patch level, before Debian's nginx. Exits 0 if it
# still behaves so.
set -euo pipefail
work=$(mktemp -d)
chmod 755 "$work"
pids=()
finish() {
    [ ${#pids[@]} -eq 0 ] || kill "${pids[@]}" 2>/dev/null || true
    sleep 0.5
    rm -rf "$work"
}
trap finish EXIT
cd "$work"

apt-get download -qq varnish libvarnishapi3 libjemalloc2 nginx 2>/dev/null
for package in *.deb; do dpkg-deb -x "$package" package; done
libraries=$(find "$work/package" -name '*.so*' -printf '%h\n' | sort -u | paste -sd:)
program() { LD_LIBRARY_PATH=$libraries exec "package/usr/sbin/$1" "${@:2}"; }
(program varnishd -V) 2>&1 | grep -o 'varnish-7\.1\.1'

mkdir www state
head -c 100000 /dev/zero >www/blob
origin=$((20000 + RANDOM % 20000))
port=$((origin + 1))
cat >nginx.conf <<CONFIG
daemon off;
pid $work/state/pid;
error_log $work/state/log;
events {}
http {
    access_log off;
    client_body_temp_path $work/state/body;
    proxy_temp_path $work/state/proxy;
    fastcgi_temp_path $work/state/fastcgi;
    uwsgi_temp_path $work/state/uwsgi;
    scgi_temp_path $work/state/scgi;
    server {
        listen 127.0.0.1:$origin;
        root $work/www;
    }
}
CONFIG
chmod -R a+rX www
program nginx -c "$work/nginx.conf" >log 2>&1 &
pids+=($!)
program varnishd -j none -F -n "$work/varnish" -a "127.0.0.1:$port" -b "127.0.0.1:$origin" -s malloc,16m >varnish.log 2>&1 &
pids+=($!)
for _ in $(seq 200); do
    curl -s -f -o /dev/null "http://127.0.0.1:$port/blob" && break
    sleep 0.1
done
for range in bytes=0-9 bytes=-10 bytes=0-9,20-29 lines=1-2 bytes=100000-; do
    for server in "nginx $origin" "Varnish $port"; do
        echo "$range: ${server% *} $(curl -s -o /dev/null -w '%{http_code}' -H "Range: $range" "http://127.0.0.1:${server#* }/blob")"
    done
done | tee seen
diff - seen <<'EXPECTED'
bytes=0-9: nginx 206
bytes=0-9: Varnish 206
bytes=-10: nginx 206
bytes=-10: Varnish 206
bytes=0-9,20-29: nginx 206
bytes=0-9,20-29: Varnish 416
lines=1-2: nginx 200
lines=1-2: Varnish 416
bytes=100000-: nginx 416
bytes=100000-: Varnish 416
EXPECTED
