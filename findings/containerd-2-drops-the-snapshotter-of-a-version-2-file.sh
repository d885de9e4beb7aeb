#!/usr/bin/env bash
# containerd 2: a configuration file of version 2 loses its snapshotter if it names no runtime.
#
# Guessed: `version = 2` files go on working (containerd migrates them on each start), so `snapshotter`
# in `[plugins."io.containerd.grpc.v1.cri".containerd]` is carried over on its own, as it was with
# containerd 1. Seen: `snapshotter`, `disable_snapshot_annotations` and `discard_unpacked_layers` are
# carried over only if the file also has a `runtimes` table; without one they are the defaults again,
# without an error. So a node with such a file unpacks with overlayfs, and remote snapshotters do not
# even get their labels.
#
# Version: github.com/containerd/containerd/v2 v2.3.7, Go 1.26. Exits 0 if it still behaves so.
set -euo pipefail
work=$(mktemp -d)
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
cd "$work"

export GOPATH=$work/go GOCACHE=$work/cache GOFLAGS=-modcacherw
mkdir build
(
    cd build
    go mod init example.com/build
    go get github.com/containerd/containerd/v2/cmd/containerd@v2.3.7
    go build -tags no_btrfs,no_devmapper,no_zfs -o ../containerd github.com/containerd/containerd/v2/cmd/containerd
) >log 2>&1 || { tail log; exit 1; }

cat >alone.toml <<'END'
version = 2

[plugins."io.containerd.grpc.v1.cri".containerd]
  snapshotter = "native"
  disable_snapshot_annotations = false
  discard_unpacked_layers = true
END
cp alone.toml beside.toml
cat >>beside.toml <<'END'

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
END

settings() { # FILE
    ./containerd --config "$1" config dump |
        sed -nE "s/^    (snapshotter|disable_snapshot_annotations|discard_unpacked_layers) = '?([a-z]+)'?$/\2/p" | xargs
}
seen="alone: $(settings alone.toml); beside a runtime: $(settings beside.toml)"
echo "$seen"
[ "$seen" = "alone: overlayfs true false; beside a runtime: native false true" ]
