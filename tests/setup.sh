#!/usr/bin/env bash
# Installs what the tests need from Debian: registries, clients, databases and verifiers.
# No service is started; the tests start their own, on loopback. Quick when all is there.
set -euo pipefail

packages=(
    # Registries, proxies and databases that the tests start.
    docker-registry mariadb-server nginx-light haproxy squid
    # Clients that pull and push.
    skopeo podman buildah containerd curl ca-certificates
    # Makers of images and layers.
    umoci debootstrap tar libarchive-tools zstd gzip pigz zopfli isal libdeflate-tools
    # Runs programs in images.
    bubblewrap
    # Shows what programs ask of the disk, and refuses it.
    strace
    # File systems whose files share blocks.
    xfsprogs btrfs-progs
    # Verifiers: filesystem checks, mounts, attributes.
    e2fsprogs mount util-linux attr acl fuse3
    # Clients of network block devices.
    qemu-utils libnbd-bin nbdkit
    # TLS, passwords, load.
    openssl apache2-utils wrk nghttp2-client
    # Reads units.
    systemd
    # Gets what reads descriptions of APIs.
    python3-venv
    # Reads man pages.
    man-db
    # Looks at the status page.
    chromium chromium-driver fonts-dejavu-core
    # Reads alert rules (promtool).
    prometheus
    # Shells that images have, and what reads scripts for them.
    busybox shellcheck
)

say() { printf 'setup: %s\n' "$*"; }

if ! command -v apt-get >/dev/null; then
    say "this is no Debian: install these yourself, or the tests that need them are skipped:"
    say "${packages[*]}"
    exit 1
fi

is_installed() { dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null | grep -qx installed; }

# An S3 server, from crates.io: a program of its own, so that the tests' dependencies stay as they are.
s3s_fs_version=0.14.1
tools=${CARGO_TARGET_DIR:-$(dirname "$0")/../target}/tools
if command -v cargo >/dev/null && ! "$tools/bin/s3s-fs" --version 2>/dev/null | grep -qF "$s3s_fs_version"; then
    say "building s3s-fs $s3s_fs_version"
    cargo install --quiet --debug --locked --version "$s3s_fs_version" --features binary --root "$tools" \
        --target-dir "$tools/build" s3s-fs
fi

missing=()
for package in "${packages[@]}"; do
    is_installed "$package" || missing+=("$package")
done
if [ ${#missing[@]} -eq 0 ]; then
    say "all ${#packages[@]} packages are installed"
    exit 0
fi

if [ "$(id -u)" -eq 0 ]; then
    as_root=()
elif command -v sudo >/dev/null; then
    as_root=(sudo)
else
    say "run this as root, or install sudo; missing: ${missing[*]}"
    exit 1
fi

# Debian starts a service when its package comes, unless this program answers 101.
policy=/usr/sbin/policy-rc.d
kept=
restore() {
    "${as_root[@]}" rm -f "$policy"
    if [ -n "$kept" ]; then
        "${as_root[@]}" mv -f "$kept" "$policy"
    fi
}
if [ -e "$policy" ] || [ -L "$policy" ]; then
    kept=$policy.kept.$$
    "${as_root[@]}" mv "$policy" "$kept"
fi
trap restore EXIT
printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
"${as_root[@]}" chmod 755 "$policy"

apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -o Dpkg::Use-Pty=0)
say "installing, without starting any service: ${missing[*]}"
"${apt[@]}" update
"${apt[@]}" install -y --no-install-recommends "${missing[@]}"
say "done"
