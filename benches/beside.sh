# What the measurements beside nginx share: a registry with an image of about 100 MB, the proxy
# before it, and the blob that it makes. For the scripts in this directory to read in.
# shellcheck shell=bash

# shellcheck disable=SC2154 # whoever reads this in says what else is needed
for tool in nginx curl docker-registry skopeo "${tools[@]}"; do
    command -v "$tool" >/dev/null || {
        echo "$0: $tool is missing: tests/setup.sh installs it" >&2
        exit 1
    }
done
profile=${PROFILE:-dist}
cargo build --profile "$profile" --locked --quiet
proxy=${CARGO_TARGET_DIR:-target}/$profile/overlaybd-proxy

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
        grep -ho 'https*://127.0.0.1:[0-9]*' "$scratch/$1.log" | head -n 1 | grep . && return
        sleep 0.05
    done
    cat "$scratch/$1.log" >&2
    exit 1
}

# Has the image converted: $blob and $blob_size, and nginx's copy below $scratch/files.
convert() { # BASE [CURL-OPTION]
    curl -sf "${@:2}" "$1/v2/bench/manifests/latest_obd" >"$scratch/converted.json"
    # shellcheck disable=SC2034 # for whoever reads this in
    read -r blob blob_size < <(python3 - "$scratch/converted.json" <<'PY'
import json, sys
layer = json.load(open(sys.argv[1]))["layers"][0]
print(layer["digest"], layer["size"])
PY
    )
    mkdir -p "$scratch/files/v2/bench/blobs" "$scratch/files/v2/bench/manifests"
    curl -sf "${@:2}" "$1/v2/bench/blobs/$blob" >"$scratch/files/v2/bench/blobs/$blob"
    cp "$scratch/converted.json" "$scratch/files/v2/bench/manifests/latest_obd"
}

row() { # WHAT OURS THEIRS
    printf '| %s | %s | %s | %s |\n' "$1" "$2" "$3" "$(awk "BEGIN { printf \"%.2f\", $2 / $3 }")"
}
