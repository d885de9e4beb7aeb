#!/usr/bin/env bash
# containerd and containers/storage (podman, buildah): a whiteout also removes what its own layer put
# there, if the whiteout comes last.
#
# Guessed: "files that are present in the same layer as a whiteout file can only be hidden by whiteout
# files in subsequent layers" (image-spec, "Whiteouts"), in whatever order the entries are. So `file,
# .wh.file` replaces a file as `.wh.file, file` does. Seen: with the whiteout behind it the new file is
# gone, without an error. If the whiteout is of a directory that the layer brings, both end with an error,
# so the image cannot be pulled. An opaque whiteout (.wh..wh..opq) in the last place is right in both.
# crane's export loses what comes *behind* a whiteout, so no order of the two is read right by all three.
#
# Version: github.com/containerd/containerd/v2 v2.4.2, go.podman.io/storage v1.65.1. Exits 0 if it still
# behaves so. Needs root, as unpacking does.
set -euo pipefail
work=$(mktemp -d)
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
cd "$work"

mkdir unpack
cat >unpack/go.mod <<'MOD'
module unpack

go 1.26
MOD
cat >unpack/main.go <<'GO'
package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/containerd/containerd/v2/pkg/archive"
	podman "go.podman.io/storage/pkg/archive"
)

func unpack(program, directory string, layer io.Reader) (err error) {
	if program == "containerd" {
		_, err = archive.Apply(context.Background(), directory, layer)
	} else {
		_, err = podman.ApplyLayer(directory, layer)
	}
	return err
}

func main() {
	for _, layer := range os.Args[3:] {
		file, err := os.Open(layer)
		if err == nil {
			err = unpack(os.Args[1], os.Args[2], file)
		}
		if err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
	}
}
GO
(
    cd unpack
    export GOPATH=$work/go GOFLAGS=-modcacherw
    {
        go get github.com/containerd/containerd/v2/pkg/archive@v2.4.2 go.podman.io/storage/pkg/archive@v1.65.1 &&
            go mod tidy
    } >log 2>&1 || { cat log; exit 1; }
    go build -tags containers_image_openpgp,exclude_graphdriver_btrfs -o ../unpacker .
)
python3 - <<'PYTHON'
import io, tarfile

def layer(name, *entries):
    """Write a layer: a name with "/" is a directory, one with "=" a file of that content."""
    with tarfile.open(name + ".tar", "w") as archive:
        for entry in entries:
            path, _, content = entry.partition("=")
            member = tarfile.TarInfo(path.rstrip("/"))
            member.mode = 0o755
            member.size = len(content)
            if path.endswith("/"):
                member.type = tarfile.DIRTYPE
            archive.addfile(member, io.BytesIO(content.encode()))

layer("base", "file=old", "directory/", "directory/old=old")
layer("file-first", ".wh.file", "file=new")
layer("file-last", "file=new", ".wh.file")
layer("directory-first", ".wh.directory", "directory/", "directory/new=new")
layer("directory-last", "directory/", "directory/new=new", ".wh.directory")
layer("opaque-last", "directory/", "directory/new=new", "directory/.wh..wh..opq")
PYTHON
for layer in file-first file-last directory-first directory-last opaque-last; do
    for program in containerd podman; do
        rm -rf tree
        mkdir tree
        status=0
        ./unpacker $program tree base.tar $layer.tar >log || status=$?
        echo "$layer, $program: exit $status, $(cd tree && find . -type f -printf '%P=' -exec cat {} \; -printf ' ' | xargs -n 1 | sort | xargs)"
    done
done | tee seen
diff - seen <<'EXPECTED'
file-first, containerd: exit 0, directory/old=old file=new
file-first, podman: exit 0, directory/old=old file=new
file-last, containerd: exit 0, directory/old=old
file-last, podman: exit 0, directory/old=old
directory-first, containerd: exit 0, directory/new=new file=old
directory-first, podman: exit 0, directory/new=new file=old
directory-last, containerd: exit 1, file=old
directory-last, podman: exit 1, file=old
opaque-last, containerd: exit 0, directory/new=new file=old
opaque-last, podman: exit 0, directory/new=new file=old
EXPECTED
