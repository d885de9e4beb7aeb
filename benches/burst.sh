#!/usr/bin/env bash
# Many small images asked for at one moment: what that costs the proxy in memory, threads,
# descriptors, temporary files and time. Prints a row for each build, measured in one run:
#
#   benches/burst.sh                       this checkout's release build
#   benches/burst.sh --beside BINARY       and another one
#   benches/burst.sh --images 800          how many images [default: 2000]
#   benches/burst.sh --layers 3            layers of each [default: 1]
#   benches/burst.sh --options '--conversions 1'   further options of `serve`
#
# Needs bash, curl, tar, gzip. Servers listen on loopback only and end with the script.
set -euo pipefail
cd "$(dirname "$0")/.."

beside= images=2000 layers=1 options=
while [ $# -gt 0 ]; do
    case $1 in
        --beside) beside=$2 ;;
        --images) images=$2 ;;
        --layers) layers=$2 ;;
        --options) options=$2 ;;
        *) echo "unknown argument $1; see the head of $0" >&2; exit 2 ;;
    esac
    shift 2
done
binary=${OVERLAYBD_PROXY_BINARY-}
if [ -z "$binary" ]; then
    cargo build --profile dist --locked --quiet
    binary=target/dist/overlaybd-proxy
fi

scratch=$(mktemp -d)
pids=()
finish() {
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    rm -rf "$scratch"
}
trap finish EXIT

# An OCI layout with so many images, each of a few small files of its own.
layout=$scratch/layout
mkdir -p "$layout/blobs/sha256" "$scratch/files"
printf '{"imageLayoutVersion":"1.0.0"}' >"$layout/oci-layout"
put() { # file -> digest and size
    local digest
    digest=$(sha256sum "$1" | cut -d' ' -f1)
    size=$(stat -c %s "$1")
    mv "$1" "$layout/blobs/sha256/$digest"
    put=$digest
}
entries=
for ((image = 0; image < images; image++)); do
    diff_ids= descriptors=
    for ((layer = 0; layer < layers; layer++)); do
        printf 'image %d, layer %d\n' "$image" "$layer" >"$scratch/files/file-$layer"
        tar --sort=name --mtime=@0 --owner=0 --group=0 -C "$scratch/files" \
            -cf "$scratch/layer.tar" "file-$layer"
        diff_id=$(sha256sum "$scratch/layer.tar" | cut -d' ' -f1)
        gzip -n -c "$scratch/layer.tar" >"$scratch/layer"
        put "$scratch/layer"
        diff_ids+="${diff_ids:+,}\"sha256:$diff_id\""
        descriptors+="${descriptors:+,}{\"mediaType\":\"application/vnd.oci.image.layer.v1.tar+gzip\",\"digest\":\"sha256:$put\",\"size\":$size}"
    done
    printf '{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[%s]}}' \
        "$diff_ids" >"$scratch/config"
    put "$scratch/config"
    printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:%s","size":%d},"layers":[%s]}' \
        "$put" "$size" "$descriptors" >"$scratch/manifest"
    put "$scratch/manifest"
    entries+="${entries:+,}{\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",\"digest\":\"sha256:$put\",\"size\":$size,\"annotations\":{\"org.opencontainers.image.ref.name\":\"i$image\"}}"
done
printf '{"schemaVersion":2,"manifests":[%s]}' "$entries" >"$layout/index.json"

field() { awk -v name="$2:" '$1 == name { print $2 }' "/proc/$1/status" 2>/dev/null || echo 0; }
largest() { [ "$1" -gt "$2" ] && echo "$1" || echo "$2"; }

measure() { # name binary
    local data=$scratch/data log=$scratch/log pid address
    rm -rf "$data" "$log"
    # shellcheck disable=SC2086
    "$2" serve --upstream "oci:$layout" --listen 127.0.0.1:0 --data-dir "$data" \
        --platform linux/amd64 --log-level warn $options >"$log" 2>&1 &
    pid=$!
    pids+=("$pid")
    until address=$(sed -n 's/^listening on //p' "$log" 2>/dev/null) && [ -n "$address" ]; do
        kill -0 "$pid" || { cat "$log" >&2; exit 1; }
        sleep 0.05
    done
    rm -f "$scratch"/urls.* "$scratch"/codes.*
    for ((image = 0; image < images; image++)); do
        printf 'url = "%s/v2/demo/manifests/i%d_obd"\noutput = "/dev/null"\n' "$address" "$image" \
            >>"$scratch/urls.$((image / 250))"
    done
    local started clients=() threads=0 files=0 temporary=0
    started=$(date +%s.%N)
    for urls in "$scratch"/urls.*; do
        curl --silent --no-progress-meter --location --max-redirs 100 --retry 100 --retry-delay 1 --retry-all-errors \
            --parallel --parallel-immediate --parallel-max 250 --config "$urls" \
            --write-out '%{http_code}\n' >"$scratch/codes.${urls##*.}" 2>/dev/null &
        clients+=($!)
    done
    while pgrep -P $$ curl >/dev/null; do
        threads=$(largest "$(field "$pid" Threads)" "$threads")
        files=$(largest "$(ls "/proc/$pid/fd" | wc -l)" "$files")
        temporary=$(largest "$(ls "$data/tmp" | wc -l)" "$temporary")
        sleep 0.05
    done
    wait "${clients[@]}" || true
    local ended good
    ended=$(date +%s.%N)
    good=$(cat "$scratch"/codes.* | grep -c '^200$' || true)
    printf '%-10s %8d %8d %12d %8d %12d %10d %8.1f\n' "$1" "$images" "$good" \
        $(($(field "$pid" VmHWM) / 1024)) "$threads" "$files" "$temporary" \
        "$(echo "$ended - $started" | bc)"
    kill "$pid"
    wait "$pid" 2>/dev/null || true
}

printf '%-10s %8s %8s %12s %8s %12s %10s %8s\n' \
    build images pulled 'peak MiB' threads descriptors temporary seconds
[ -z "$beside" ] || measure beside "$beside"
measure this "$binary"
