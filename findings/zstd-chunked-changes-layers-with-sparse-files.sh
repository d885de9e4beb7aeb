#!/usr/bin/env bash
# zstd:chunked (containers/storage, that is podman, buildah and skopeo): a layer with a sparse file in PAX
# form is compressed into another one, without an error.
#
# Guessed: compressing a layer keeps its tar, byte for byte, since the image's configuration has its
# digest (`diff_ids`); it does for others, padding and all. Seen: the compressor writes the entry's
# headers as they are and behind them the file with its holes filled in. So what is decompressed has
# another digest, and whoever pulls it and checks that ends with an error; it is not even a tar that can
# be read, since readers expect the stored size. A layer with GNU tar's old sparse form is refused when
# the stream is closed, after most of it has been written.
#
# Version: go.podman.io/storage v1.65.1, with Debian's GNU tar and zstd. Exits 0 if it still behaves so.
set -euo pipefail
work=$(mktemp -d)
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
cd "$work"

truncate -s 100000 sparse
printf 'the end' | dd of=sparse bs=1 seek=90000 conv=notrunc status=none
head -c 10000 /dev/zero | tr '\0' n >next
tar --format=posix -cf whole.tar sparse next
tar --format=posix --sparse -cf pax.tar sparse next
tar --format=gnu --sparse -cf gnu.tar sparse next

mkdir compress
cat >compress/go.mod <<'MOD'
module compress

go 1.26
MOD
cat >compress/main.go <<'GO'
package main

import (
	"fmt"
	"io"
	"os"

	"go.podman.io/storage/pkg/chunked/compressor"
)

func try[T any](value T, err error) T {
	if err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
	return value
}

func main() {
	layer := try(os.Open(os.Args[1]))
	writer := try(compressor.ZstdCompressor(try(os.Create(os.Args[2])), map[string]string{}, nil))
	try(io.Copy(writer, layer))
	try(0, writer.Close())
	fmt.Println("no error")
}
GO
(
    cd compress
    export GOPATH=$work/go GOFLAGS=-modcacherw
    { go get go.podman.io/storage/pkg/chunked/compressor@v1.65.1 && go mod tidy; } >log 2>&1 || { cat log; exit 1; }
    go build -o ../zstd-chunked .
)
for layer in whole pax gnu; do
    status=0
    echo "$layer: compressor: $(./zstd-chunked $layer.tar $layer.zst || true)"
    zstd -qdc $layer.zst >again.tar
    tar -xOf again.tar next >next-again 2>log || status=$?
    echo "$layer: decompressed: $(cmp -s $layer.tar again.tar && echo the same || echo other) bytes, tar exits $status"
done | tee seen
diff - seen <<'EXPECTED'
whole: compressor: no error
whole: decompressed: the same bytes, tar exits 0
pax: compressor: no error
pax: decompressed: other bytes, tar exits 2
gnu: compressor: error: unknown tarball type: 83
gnu: decompressed: other bytes, tar exits 2
EXPECTED
