#!/usr/bin/env bash
# containers/storage (podman, buildah): an image with a layer that has two entries of one path cannot be
# stored.
#
# Guessed: a tar may have a path twice, and the later entry replaces the earlier one: `tar --append` makes
# such layers, and GNU tar and containerd unpack them so. Seen: "duplicates of file paths not supported",
# once the layer is downloaded. The unpacker has no difficulty with it; the error is from tar-split, which
# keeps the order of the entries so that the layer can be pushed again. Paths are cleaned before, so
# `./file` and `file` are one as well, and a directory that is named twice is refused too. The image runs
# with containerd and cannot be pulled by podman.
#
# Version: go.podman.io/storage v1.65.1, with Debian's GNU tar. Exits 0 if it still behaves so. Needs
# root, as unpacking does.
set -euo pipefail
work=$(mktemp -d)
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
cd "$work"

mkdir store
cat >store/go.mod <<'MOD'
module store

go 1.26
MOD
cat >store/main.go <<'GO'
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"go.podman.io/storage"
	"go.podman.io/storage/pkg/archive"
	"go.podman.io/storage/pkg/reexec"
)

func try[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

func said(err error) string {
	if err != nil {
		lines := strings.Split(strings.TrimSpace(err.Error()), "\n")
		return strings.TrimSpace(lines[len(lines)-1])
	}
	return "no error"
}

func main() {
	if reexec.Init() {
		return
	}
	directory := os.Args[1]
	store := try(storage.GetStore(storage.StoreOptions{
		RunRoot: filepath.Join(directory, "run"), GraphRoot: filepath.Join(directory, "graph"), GraphDriverName: "vfs",
	}))
	for _, layer := range os.Args[2:] {
		_, _, err := store.PutLayer("", "", nil, "", false, nil, try(os.Open(layer+".tar")))
		fmt.Printf("%s, stored: %s\n", layer, said(err))
		_, err = archive.ApplyLayer(try(os.MkdirTemp(directory, "")), try(os.Open(layer+".tar")))
		fmt.Printf("%s, unpacked: %s\n", layer, said(err))
	}
}
GO
(
    cd store
    export GOPATH=$work/go GOFLAGS=-modcacherw
    { go get go.podman.io/storage@v1.65.1 && go mod tidy; } >log 2>&1 || { cat log; exit 1; }
    go build -tags containers_image_openpgp,exclude_graphdriver_btrfs -o ../put .
)
mkdir directory
echo old >file
for layer in once twice dotted directories; do tar -cf $layer.tar file directory; done
echo new >file
tar --append -f twice.tar file
tar --append -f dotted.tar ./file
tar --append -f directories.tar directory
mkdir out
./put "$work/out" once twice dotted directories 2>log | tee seen
diff - seen <<'EXPECTED'
once, stored: no error
once, unpacked: no error
twice, stored: stderr:  duplicates of file paths not supported
twice, unpacked: no error
dotted, stored: stderr:  duplicates of file paths not supported
dotted, unpacked: no error
directories, stored: stderr:  duplicates of file paths not supported
directories, unpacked: no error
EXPECTED
