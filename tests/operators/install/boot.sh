#!/bin/sh
# Runs a script on a copy of this machine that systemd has booted, for units to be tried in earnest:
#   unshare --mount --pid --fork --kill-child --cgroup --uts --ipc --net tests/operators/install/boot.sh DIR
# DIR has `files`, which are put over the machine's, `run.sh`, and `program`, for /usr/local/bin. What the
# script writes comes out here, and a last line that begins with `the end`. Nothing of the machine is
# changed: its root is the lower layer of an overlay in memory, and the kernel's settings are read-only.
set -eu
from=${1:?usage: $0 DIR}
PATH=/usr/sbin:/usr/bin:/sbin:/bin
export PATH

at=$from/at
mkdir "$at"
mount --make-rprivate /
mount -t tmpfs -o size=1G tmpfs "$at"
mkdir "$at/upper" "$at/work" "$at/root"
root=$at/root
mount -t overlay -o "lowerdir=/,upperdir=$at/upper,workdir=$at/work" overlay "$root"

rm -rf "$root"/etc/systemd/system/*
cp -a "$from/files/." "$root/"
install -m 755 "$from/run.sh" "$root/usr/local/bin/run.sh"
touch "$root/usr/local/bin/overlaybd-proxy"
mount --bind "$from/program" "$root/usr/local/bin/overlaybd-proxy"
# Nothing that a real boot does: no devices, no kernel settings, no log.
for wants in sysinit local-fs sockets timers multi-user; do
    if [ -d "$root/lib/systemd/system/$wants.target.wants" ]; then
        mount -t tmpfs tmpfs "$root/lib/systemd/system/$wants.target.wants"
    fi
done
cat >"$root/etc/systemd/system/default.target" <<'UNIT'
[Unit]
Wants=run.service
UNIT
cat >"$root/etc/systemd/system/run.service" <<'UNIT'
[Service]
Type=oneshot
StandardOutput=append:/run/output
StandardError=append:/run/output
ExecStart=/usr/local/bin/run.sh
ExecStopPost=/bin/sh -c 'echo "the end $SERVICE_RESULT"'
UNIT

mount -t proc proc "$root/proc"
mount --bind -o ro "$root/proc/sys" "$root/proc/sys"
mount -t sysfs sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount --rbind /dev "$root/dev"
mount -t tmpfs tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/tmp"
touch "$root/run/output"

cd "$root"
mkdir .before
pivot_root . .before
umount -l /.before
# Credentials are mounted by another process.
mount --make-rshared /
tail -F /run/output &
exec env -i container=other /lib/systemd/systemd --system --show-status=0
