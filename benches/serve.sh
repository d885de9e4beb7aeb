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

for tool in nginx wrk curl docker-registry skopeo; do
    command -v "$tool" >/dev/null || {
        echo "$0: $tool is missing: tests/setup.sh installs it" >&2
        exit 1
    }
done
cargo build --profile dist --locked --quiet
proxy=${CARGO_TARGET_DIR:-target}/dist/overlaybd-proxy

scratch=$(mktemp -d)
pids=()
clean() {
    for pid in "${pids[@]}" $(cat "$scratch"/*.pid 2>/dev/null); do kill "$pid" 2>/dev/null || true; done
    wait 2>/dev/null || true
    rm -rf "$scratch"
}
trap clean EXIT

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}
wait_for() { # URL
    for _ in $(seq 200); do
        curl -s -o /dev/null "$1" && return
        sleep 0.05
    done
    echo "$0: nothing answers at $1" >&2
    exit 1
}

# An upstream registry with an image of about 100 MB.
registry_port=$(free_port)
cat >"$scratch/registry.yml" <<CONF
version: 0.1
log: {level: error, accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: $scratch/registry}}
http: {addr: 127.0.0.1:$registry_port}
CONF
docker-registry serve "$scratch/registry.yml" >"$scratch/registry.log" 2>&1 &
pids+=($!)
wait_for "http://127.0.0.1:$registry_port/v2/"

layout=$scratch/layout
mkdir -p "$layout/blobs/sha256" "$scratch/root/data"
for n in 1 2 3 4; do
    { head -c 12M /dev/urandom; find /usr/lib -type f -size -200k -print0 | head -z -n 400 | xargs -0 cat; } >"$scratch/root/data/$n" || true
done
tar -C "$scratch/root" --sort=name --mtime=@0 --owner=0 --group=0 -cf "$scratch/layer.tar" data
put() { # FILE: stores it as a blob, prints its digest
    local hex
    hex=$(sha256sum "$1" | cut -d' ' -f1)
    cp "$1" "$layout/blobs/sha256/$hex"
    echo "sha256:$hex"
}
size() { stat -c %s "$1"; }
layer=$(put "$scratch/layer.tar")
printf '{"os":"linux","architecture":"%s","rootfs":{"type":"layers","diff_ids":["%s"]}}' \
    "$(uname -m | sed 's/x86_64/amd64/; s/aarch64/arm64/')" "$layer" >"$scratch/config.json"
config=$(put "$scratch/config.json")
oci=application/vnd.oci.image
printf '{"schemaVersion":2,"mediaType":"%s.manifest.v1+json","config":{"mediaType":"%s.config.v1+json","digest":"%s","size":%s},"layers":[{"mediaType":"%s.layer.v1.tar","digest":"%s","size":%s}]}' \
    $oci $oci "$config" "$(size "$scratch/config.json")" $oci "$layer" "$(size "$scratch/layer.tar")" >"$scratch/manifest.json"
manifest=$(put "$scratch/manifest.json")
printf '{"schemaVersion":2,"manifests":[{"mediaType":"%s.manifest.v1+json","digest":"%s","size":%s,"annotations":{"org.opencontainers.image.ref.name":"latest"}}]}' \
    $oci "$manifest" "$(size "$scratch/manifest.json")" >"$layout/index.json"
echo '{"imageLayoutVersion":"1.0.0"}' >"$layout/oci-layout"
skopeo copy --quiet --dest-tls-verify=false "oci:$layout:latest" "docker://127.0.0.1:$registry_port/bench:latest"

# The proxy in front of it, and the blob it makes.
start_proxy() { # NAME UPSTREAM-PORT [OPTION]: prints the proxy's address
    "$proxy" serve --upstream "http://127.0.0.1:$2" --listen 127.0.0.1:0 "${@:3}" \
        --data-dir "$scratch/$1" --auth-cache-ttl 1h --log-level warn >"$scratch/$1.log" 2>&1 &
    # This runs in a subshell, whose variables are gone with it.
    echo $! >"$scratch/$1.pid"
    for _ in $(seq 200); do
        grep -ho 'http://127.0.0.1:[0-9]*' "$scratch/$1.log" | head -n 1 | grep . && return
        sleep 0.05
    done
    cat "$scratch/$1.log" >&2
    exit 1
}
front=$(start_proxy converting "$registry_port")
curl -sf "$front/v2/bench/manifests/latest_obd" >"$scratch/converted.json"
read -r blob blob_size < <(python3 - "$scratch/converted.json" <<'PY'
import json, sys
layer = json.load(open(sys.argv[1]))["layers"][0]
print(layer["digest"], layer["size"])
PY
)

# nginx: the same files, and a plain pass-through.
files_port=$(free_port)
upstream_port=$(free_port)
pass_port=$(free_port)
cache_port=$(free_port)
mkdir -p "$scratch/files/v2/bench/blobs" "$scratch/files/v2/bench/manifests" "$scratch/big/v2/big/blobs"
curl -sf "$front/v2/bench/blobs/$blob" >"$scratch/files/v2/bench/blobs/$blob"
cp "$scratch/converted.json" "$scratch/files/v2/bench/manifests/latest_obd"
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
row() { # WHAT OURS THEIRS
    printf '| %s | %s | %s | %s |\n' "$1" "$2" "$3" "$(awk "BEGIN { printf \"%.2f\", $2 / $3 }")"
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
