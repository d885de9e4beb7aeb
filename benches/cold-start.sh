#!/usr/bin/env bash
# What three programs read to start, from an image that was converted in several ways: by another
# build of this program (--beside), by this one as it comes, with a list of what the program reads,
# and with that list as an acceleration layer. Read as a node does, in pieces of 256 KiB, with 20 ms
# for each request. Prints a table of requests, MB and seconds, and ratios to the first row.
#   benches/cold-start.sh [--beside BINARY] [IMAGE…]
# An IMAGE is one with the same programs that someone else has converted: it is measured, too.
# PROFILE=dev, or another of Cargo's, is built and measured instead of dist; PROGRAMS=DIR keeps what
# tests/programs.sh makes. Needs root, bubblewrap, /dev/fuse, umoci, python3 and a Debian mirror.
set -euo pipefail
cd "$(dirname "$0")/.."

beside=
if [ "${1-}" = --beside ]; then
    beside=$(realpath "${2:?--beside BINARY}")
    shift 2
fi
refill=${REFILL:-256KiB} latency=${LATENCY:-20ms} profile=${PROFILE:-dist}

for tool in bwrap umoci python3 debootstrap; do
    command -v "$tool" >/dev/null || {
        echo "$0: $tool is missing: tests/setup.sh installs it" >&2
        exit 1
    }
done
[ -e /dev/fuse ] || {
    echo "$0: there is no /dev/fuse" >&2
    exit 1
}
cargo build --profile "$profile" --locked --quiet
proxy=$(realpath "${CARGO_TARGET_DIR:-target}/$([ "$profile" = dev ] && echo debug || echo "$profile")/overlaybd-proxy")

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
tars=${PROGRAMS:-$scratch/programs}
tests/programs.sh "$tars" >"$scratch/programs.log" 2>&1 || {
    tail "$scratch/programs.log" >&2
    exit 1
}

cd "$scratch"
umoci init --layout source
umoci new --image source:1
for number in 0 1 2; do
    umoci raw add-layer --image source:1 "$tars/$number.tar"
done 2>/dev/null

convert() { # BINARY TAG ARGUMENTS…
    local binary=$1 tag=$2 begin
    shift 2
    begin=$(date +%s.%N)
    "$binary" convert -q "$@" oci:source:1 "oci:out:$tag" >/dev/null
    echo "converted $tag in $(python3 -c "import time; print(f'{time.time() - $begin:.1f}')") s" >&2
}

# PROGRAM ROW IMAGE ARGUMENTS…: a line of figures, or nothing if the image has no such program.
measure() {
    local program=$1 row=$2 image=$3
    shift 3
    local until=() command
    case $program in
    python3) command=(python3 -c 'import ssl, asyncio') ;;
    redis) command=(redis-server --save '' --dir /tmp) until=(--until 'Ready to accept connections') ;;
    node) command=(node -e 'console.log(1)') ;;
    esac
    if ! "$proxy" cold-start --json --refill "$refill" --latency "$latency" "${until[@]}" "$@" \
        "$image" -- "${command[@]}" >report.json 2>output; then
        echo "$row: $program does not start" >&2
        tail -n 3 output >&2
        return
    fi
    python3 - "$program" "$row" <<'PYTHON' >>figures
import json, sys
report = json.load(open("report.json"))
print(*sys.argv[1:], report["requests"], report["bytes"], report["seconds"], sep="\t")
PYTHON
}

convert "$proxy" new
programs=(python3 redis node)
if [ -n "$beside" ]; then
    convert "$beside" beside
    # The other build, compressed as this one does: what the order of data brings is the rest.
    convert "$beside" codec --algorithm zstd --bs 16
fi
for program in "${programs[@]}"; do
    if [ -n "$beside" ]; then
        measure "$program" beside oci:out:beside
        measure "$program" codec oci:out:codec
    fi
    measure "$program" new oci:out:new --record "$program.list"
    convert "$proxy" "$program" --prefetch-list "$program.list"
    measure "$program" 'new, list' "oci:out:$program" --no-replay
    measure "$program" 'new, list, acceleration' "oci:out:$program"
    for image in "$@"; do
        measure "$program" "$image" "$image"
    done
done

python3 - <<'PYTHON'
first = {}
print(f"{'program':<9}{'image':<26}{'requests':>9}{'MB':>8}{'s':>8}   beside the first row")
for line in open("figures"):
    program, row, *figures = line.rstrip("\n").split("\t")
    requests, size, seconds = map(float, figures)
    base = first.setdefault(program, (requests, size, seconds))
    ratios = "  ".join(f"{a / b:.2f}" for a, b in zip((requests, size, seconds), base))
    print(f"{program:<9}{row:<26}{requests:>9.0f}{size / 1e6:>8.1f}{seconds:>8.2f}   {ratios}")
PYTHON
