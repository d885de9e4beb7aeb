#!/usr/bin/env bash
# soci-snapshotter's index (ztoc): of a sparse file in PAX form, other bytes of the layer are read.
#
# Guessed: an index of a layer that containerd unpacks right gives the same files, or cannot be built, as
# with GNU tar's old sparse form. Seen: the index takes the file's real size for the size of what is
# stored. So reading the file gives the stored data without its holes and then the entries behind it,
# headers and content of other files, up to the right length and without an error. And the header of the
# next entry is said to be behind its content. `tar --sparse --format=posix` makes such layers of
# preallocated databases and logs.
#
# Version: github.com/awslabs/soci-snapshotter v0.16.1, with Debian's GNU tar and zlib1g-dev. Exits 0 if
# it still behaves so.
set -euo pipefail
work=$(mktemp -d)
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
cd "$work"

truncate -s 40000 sparse
printf 'the end' | dd of=sparse bs=1 seek=39000 conv=notrunc status=none
head -c 60000 /dev/zero | tr '\0' n >next
tar --format=posix -czf whole.tar.gz sparse next
tar --format=posix --sparse -czf pax.tar.gz sparse next
tar --format=gnu --sparse -czf gnu.tar.gz sparse next

mkdir index
cat >index/go.mod <<'MOD'
module index

go 1.26
MOD
cat >index/main.go <<'GO'
package main

import (
	"bytes"
	"fmt"
	"io"
	"os"

	"github.com/awslabs/soci-snapshotter/ztoc"
)

func try[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

func main() {
	for _, form := range []string{"whole", "pax", "gnu"} {
		path := "../" + form + ".tar.gz"
		layer := try(os.ReadFile(path))
		index, err := ztoc.NewBuilder("").BuildZtoc(path, 1<<20)
		if err != nil {
			fmt.Printf("%s: %v\n", form, err)
			continue
		}
		for _, name := range []string{"sparse", "next"} {
			content := try(index.ExtractFile(io.NewSectionReader(bytes.NewReader(layer), 0, int64(len(layer))), name))
			right := bytes.Equal(content, try(os.ReadFile("../" + name)))
			fmt.Printf("%s, %s: %d bytes, as it was put in: %v, bytes of next: %d\n",
				form, name, len(content), right, bytes.Count(content, []byte("n")))
		}
		next := index.FileMetadata[1]
		fmt.Printf("%s, %s: header before content: %v\n", form, next.Name, next.TarHeaderOffset < next.UncompressedOffset)
	}
}
GO
(
    cd index
    export GOPATH=$work/go GOFLAGS=-modcacherw
    { go get github.com/awslabs/soci-snapshotter/ztoc@v0.16.1 && go mod tidy; } >log 2>&1 || { cat log; exit 1; }
    go run .
) | tee seen
diff - seen <<'EXPECTED'
whole, sparse: 40000 bytes, as it was put in: true, bytes of next: 1
whole, next: 60000 bytes, as it was put in: true, bytes of next: 60000
whole, next: header before content: true
pax, sparse: 40000 bytes, as it was put in: false, bytes of next: 34883
pax, next: 60000 bytes, as it was put in: true, bytes of next: 60000
pax, next: header before content: false
gnu: unsupported input tar entry 'S'
EXPECTED
