#!/usr/bin/env bash
# The proxy beside nginx, on the same machine in the same run: ranges of a converted blob and
# a warm manifest against nginx serving the same files, pass-through of a large blob against
# nginx proxy_pass, and source blobs from the cache against nginx proxy_cache. Prints a table of requests a second and ratios.
#   benches/serve.sh [SECONDS]      each figure is measured for so long; 5 unless given
# Needs nginx, wrk, curl, docker-registry and skopeo (tests/setup.sh installs them).
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-5}
connections=64
tools=(wrk)
# shellcheck source=benches/beside.sh
. benches/beside.sh

# The proxy in front of it, and the blob it makes.
front=$(start_proxy converting "$registry_port")
convert "$front"

# nginx: the same files, and a plain pass-through.
files_port=$(free_port)
upstream_port=$(free_port)
pass_port=$(free_port)
cache_port=$(free_port)
mkdir -p "$scratch/big/v2/big/blobs"
head -c 1G /dev/zero | openssl enc -aes-128-ctr -nosalt -pass pass:bench 2>/dev/null >"$scratch/big.bin"
big=sha256:$(sha256sum "$scratch/big.bin" | cut -d' ' -f1)
mv "$scratch/big.bin" "$scratch/big/v2/big/blobs/$big"
cat >"$scratch/nginx.conf" <<CONF
worker_processes auto;
pid $scratch/nginx.pid;
error_log $scratch/nginx.log error;
events { worker_connections 4096; }
http {
    access_log off;
    sendfile on;
    keepalive_requests 1000000;
    client_body_temp_path $scratch/body;
    proxy_temp_path $scratch/proxy;
    fastcgi_temp_path $scratch/fastcgi;
    uwsgi_temp_path $scratch/uwsgi;
    scgi_temp_path $scratch/scgi;
    proxy_cache_path $scratch/cache levels=1:2 keys_zone=blobs:10m max_size=8g use_temp_path=off;
    server { listen 127.0.0.1:$files_port; root $scratch/files; }
    server { listen 127.0.0.1:$upstream_port; root $scratch/big; }
    server {
        listen 127.0.0.1:$pass_port;
        location / {
            proxy_pass http://127.0.0.1:$upstream_port;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_max_temp_file_size 0;
        }
    }
    server {
        listen 127.0.0.1:$cache_port;
        location / {
            proxy_pass http://127.0.0.1:$upstream_port;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_cache blobs;
            proxy_cache_valid 200 1h;
            proxy_cache_lock on;
        }
    }
}
CONF
chmod 755 "$scratch"
nginx -c "$scratch/nginx.conf" -g 'daemon off; user root;' >"$scratch/nginx.out" 2>&1 &
pids+=($!)
wait_for "http://127.0.0.1:$files_port/"

cat >"$scratch/range.lua" <<'LUA'
local length = tonumber(os.getenv("RANGE"))
local size = tonumber(os.getenv("SIZE"))
local path = os.getenv("URL_PATH")
request = function()
    if length == 0 then
        return wrk.format("GET", path)
    end
    local first = math.random(0, size - length)
    return wrk.format("GET", path, { Range = "bytes=" .. first .. "-" .. (first + length - 1) })
end
done = function(summary, latency, requests)
    local failed = summary.errors.status + summary.errors.connect + summary.errors.read + summary.errors.timeout
    io.write(string.format("RESULT %.0f %d\n", summary.requests / (summary.duration / 1e6), failed))
end
LUA
rate() { # BASE PATH RANGE: requests a second
    local result
    result=$(RANGE=$3 SIZE=$blob_size URL_PATH=$2 wrk -t 2 -c "$connections" -d "${seconds}s" -s "$scratch/range.lua" "$1" | grep '^RESULT')
    if [ "${result##* }" != 0 ]; then
        echo "$0: ${result##* } requests failed at $1$2" >&2
        exit 1
    fi
    echo "$result" | cut -d' ' -f2
}
files=http://127.0.0.1:$files_port
echo "| $connections connections, requests a second | overlaybd-proxy | nginx | ratio |"
echo '|---|---|---|---|'
for length in 4096 65536 1048576; do
    path=/v2/bench/blobs/$blob
    rate "$front" "$path" "$length" >/dev/null # warm
    row "range of $((length / 1024)) KiB of a converted blob" "$(rate "$front" "$path" "$length")" "$(rate "$files" "$path" "$length")"
done
path=/v2/bench/manifests/latest_obd
row "converted manifest" "$(rate "$front" "$path" 0)" "$(rate "$files" "$path" 0)"

passing=$(start_proxy passing "$upstream_port")
speed() { # BASE: MB/s, the best of three
    for _ in 1 2 3; do
        curl -sf -o /dev/null -w '%{speed_download}\n' "$1/v2/big/blobs/$big"
    done | sort -n | tail -n 1 | awk '{ printf "%.0f", $1 / 1e6 }'
}
echo
echo '| pass-through of 1 GB, MB/s | overlaybd-proxy | nginx proxy_pass | ratio |'
echo '|---|---|---|---|'
row "one client" "$(speed "$passing")" "$(speed "http://127.0.0.1:$pass_port")"

# Source blobs: all of the 1 GB for one client, and a layer of a few MiB for many.
caching=$(start_proxy caching "$upstream_port" --cache-source)
cache=http://127.0.0.1:$cache_port
head -c 4M /dev/urandom >"$scratch/small.bin"
small=sha256:$(sha256sum "$scratch/small.bin" | cut -d' ' -f1)
mv "$scratch/small.bin" "$scratch/big/v2/big/blobs/$small"
for base in "$caching" "$cache"; do
    for digest in "$big" "$small"; do curl -sf -o /dev/null "$base/v2/big/blobs/$digest"; done
done
echo
echo '| source blobs from the cache | overlaybd-proxy | nginx proxy_cache | ratio |'
echo '|---|---|---|---|'
row "1 GB, one client, MB/s" "$(speed "$caching")" "$(speed "$cache")"
path=/v2/big/blobs/$small
row "4 MiB, $connections connections, requests a second" "$(rate "$caching" "$path" 0)" "$(rate "$cache" "$path" 0)"
