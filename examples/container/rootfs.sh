#!/bin/sh
# Puts together what an image of the program has in it:
#   rootfs.sh BINARY DIR
# The libraries are this machine's, which the binary was linked with.
set -eu
program=${1:?usage: $0 BINARY DIR} to=${2:?usage: $0 BINARY DIR}

mkdir -p "$to/usr/bin" "$to/etc/ssl/certs" "$to/etc/overlaybd-proxy"
cp "$program" "$to/usr/bin/overlaybd-proxy"
chmod 755 "$to/usr/bin/overlaybd-proxy"

# `NAME => PATH (ADDRESS)`, and the loader as `PATH (ADDRESS)`.
ldd "$program" | awk '$2 == "=>" && $3 ~ /^\// { print $3 } $1 ~ /^\// { print $1 }' |
    while read -r library; do
        mkdir -p "$to${library%/*}"
        cp -L "$library" "$to$library"
    done

cp -L /etc/ssl/certs/ca-certificates.crt "$to/etc/ssl/certs/ca-certificates.crt"
echo 'overlaybd-proxy:x:65532:65532::/var/lib/overlaybd-proxy:/sbin/nologin' >"$to/etc/passwd"
echo 'overlaybd-proxy:x:65532:' >"$to/etc/group"
echo 'hosts: files dns' >"$to/etc/nsswitch.conf"
cat >"$to/etc/overlaybd-proxy/config.toml" <<'TOML'
# Beyond the container's own loopback. A file of yours that is mounted here takes its place.
listen = "0.0.0.0:8480"
admin = "0.0.0.0:8481"
TOML

# Where runtimes mount their own, also with a root that is read-only.
mkdir -p "$to/proc" "$to/sys" "$to/dev"
# Writable to whoever the container runs as.
mkdir -p "$to/tmp" "$to/var/lib/overlaybd-proxy"
chmod 1777 "$to/tmp" "$to/var/lib/overlaybd-proxy"
