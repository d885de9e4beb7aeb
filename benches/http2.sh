#!/usr/bin/env bash
# HTTP/2 over TLS: the proxy beside nginx, on the same machine in the same run, with the same file,
# certificate and cipher: ranges of a converted blob and a warm manifest. Prints a table of requests a second and ratios.
#   benches/http2.sh [SECONDS]      each figure is the better of three measured for so long; 5 unless given
# PROFILE=NAME measures another profile than dist.
# Needs nginx, h2load, curl, docker-registry, skopeo and openssl (tests/setup.sh installs them).
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-5}
connections=16
streams=8
cipher=TLS_AES_128_GCM_SHA256
tools=(h2load openssl)
# shellcheck source=benches/beside.sh
. benches/beside.sh

certs/make.sh "$scratch/keys" >/dev/null
front=$(start_proxy converting "$registry_port" --tls-cert "$scratch/keys/server.crt" --tls-key "$scratch/keys/server.key")
convert "$front" --cacert "$scratch/keys/ca.crt"

files_port=$(free_port)
cat >"$scratch/nginx.conf" <<CONF
worker_processes auto;
pid $scratch/nginx.pid;
error_log $scratch/nginx.log error;
events { worker_connections 4096; }
http {
    access_log off;
    sendfile on;
    keepalive_requests 1000000000;
    client_body_temp_path $scratch/body;
    proxy_temp_path $scratch/proxy;
    fastcgi_temp_path $scratch/fastcgi;
    uwsgi_temp_path $scratch/uwsgi;
    scgi_temp_path $scratch/scgi;
    ssl_certificate $scratch/keys/server.crt;
    ssl_certificate_key $scratch/keys/server.key;
    ssl_protocols TLSv1.2 TLSv1.3;
    server { listen 127.0.0.1:$files_port ssl http2; root $scratch/files; }
}
CONF
chmod 755 "$scratch"
nginx -c "$scratch/nginx.conf" -g 'daemon off; user root;' >"$scratch/nginx.out" 2>&1 &
pids+=($!)
files=https://127.0.0.1:$files_port
for _ in $(seq 200); do
    curl -s -o /dev/null --cacert "$scratch/keys/ca.crt" "$files/" && break
    sleep 0.05
done

rate() { # BASE PATH RANGE: requests a second
    local options=(-t 2 -c "$connections" -m "$streams" -D "$seconds" --warm-up-time 1 --tls13-ciphers "$cipher") text
    if [ "$3" != 0 ]; then
        options+=(-H "range: bytes=1000000-$((1000000 + $3 - 1))")
    fi
    text=$(h2load "${options[@]}" "$1$2")
    if ! grep -q 'Application protocol: h2' <<<"$text" || ! grep -q "Cipher: $cipher" <<<"$text" ||
        ! grep -Eq ' 0 failed, 0 errored' <<<"$text" || ! grep -Eq ' 0 3xx, 0 4xx, 0 5xx' <<<"$text"; then
        printf '%s: requests failed at %s%s\n%s\n' "$0" "$1" "$2" "$text" >&2
        exit 1
    fi
    sed -n 's/^finished in [^,]*, \([0-9.]*\) req.*/\1/p' <<<"$text"
}
# The better of three each, in turn: what else the machine does hits both.
beside() { # WHAT PATH RANGE
    local ours=0 theirs=0
    rate "$front" "$2" "$3" >/dev/null # warm
    for _ in 1 2 3; do
        ours=$(printf '%s\n' "$ours" "$(rate "$front" "$2" "$3")" | sort -n | tail -n 1)
        theirs=$(printf '%s\n' "$theirs" "$(rate "$files" "$2" "$3")" | sort -n | tail -n 1)
    done
    row "$1" "$ours" "$theirs"
}
echo "| HTTP/2, TLS, $connections connections of $streams streams, requests a second | overlaybd-proxy | nginx | ratio |"
echo '|---|---|---|---|'
for length in 4096 65536 1048576; do
    beside "range of $((length / 1024)) KiB of a converted blob" "/v2/bench/blobs/$blob" "$length"
done
beside "converted manifest" /v2/bench/manifests/latest_obd 0
