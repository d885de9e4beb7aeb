#!/usr/bin/env bash
# Makes the layers of an image with programs that people run: a Debian, then python3, redis-server
# and nodejs in it, then a little application. For tests and benchmarks of cold starts.
#   tests/programs.sh DIR    leaves DIR/0.tar, DIR/1.tar and DIR/2.tar; quick when they are there
# Needs root, debootstrap and a Debian mirror: that of this machine, if it is a Debian.
set -euo pipefail

directory=${1:?usage: $0 DIR}
mkdir -p "$directory"
cd "$directory"
if [ -e whole-1 ]; then exit 0; fi
rm -rf ./*

mirror=$(grep -rhoE 'https?://[^ ]+/debian/?( |$)' /etc/apt/sources.list /etc/apt/sources.list.d \
    2>/dev/null | head -n 1 | tr -d ' ' || true)
suite=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release | tr -d '"')
debootstrap --variant=minbase "${suite:-stable}" base "${mirror:-http://deb.debian.org/debian}"
rm -f base/var/cache/apt/archives/*.deb

trap 'umount at 2>/dev/null || true' EXIT
mkdir programs work at
mount -t overlay overlay -o lowerdir=base,upperdir=programs,workdir=work,redirect_dir=off,metacopy=off at
printf '#!/bin/sh\nexit 101\n' >at/usr/sbin/policy-rc.d
chmod 755 at/usr/sbin/policy-rc.d
# Names need no resolver of ours: the mirror's address may be in the host's files.
cp /etc/resolv.conf /etc/hosts at/etc/ || true
in_it() { chroot at /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive LC_ALL=C "$@"; }
in_it apt-get -q update
in_it apt-get -q -y --no-install-recommends install ca-certificates python3 redis-server nodejs
in_it apt-get -q clean
rm -rf at/var/lib/apt/lists/* at/usr/sbin/policy-rc.d
umount at

mkdir -p application/srv/app
printf 'import asyncio, ssl\nprint(ssl.OPENSSL_VERSION)\n' >application/srv/app/main.py
printf 'console.log(process.version)\n' >application/srv/app/main.js
printf 'save ""\nappendonly no\n' >application/srv/app/redis.conf

number=0
for layer in base programs application; do
    tar --sort=name --numeric-owner --format=posix --exclude=./etc/resolv.conf --exclude=./etc/hosts \
        --exclude=./usr/sbin/policy-rc.d -C $layer -cf $number.tar .
    number=$((number + 1))
done
rm -rf base programs application work at
touch whole-1
