#!/usr/bin/env bash
# The `tar` crate: a layer of a file with holes is one that containerd does not unpack.
#
# Guessed: what the crate's Builder writes by default is a layer that runtimes take. Seen: it looks for
# holes and writes a file that has some as GNU tar's old sparse entry (type S), unasked. GNU tar
# reads it, but containerd ends with "unhandled tar header type 83", and the image cannot be run.
# Whether a file has holes is up to whoever copied it and to the file system, so the same program makes
# good layers on one machine and refused ones on another. `Builder::sparse(false)`, or PAX entries, which
# the crate does not write for holes, are taken.
#
# Version: tar 0.4.46 (crates.io), github.com/containerd/containerd/v2 v2.4.2, with Debian's GNU tar.
# Exits 0 if it still behaves so. Needs root, as unpacking does.
set -euo pipefail
work=$(mktemp -d)
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
cd "$work"

mkdir -p tree writer/src unpacker
truncate -s 1M tree/holes
printf word | dd of=tree/holes conv=notrunc status=none
cp --sparse=never tree/holes whole

cat >writer/Cargo.toml <<'TOML'
[package]
name = "writer"
version = "0.0.0"
edition = "2021"
[dependencies]
tar = { version = "=0.4.46", default-features = false }
TOML
cat >writer/src/main.rs <<'RUST'
fn main() {
    for (layer, sparse) in [("default.tar", None), ("not-sparse.tar", Some(false))] {
        let mut builder = tar::Builder::new(std::fs::File::create(layer).unwrap());
        if let Some(sparse) = sparse {
            builder.sparse(sparse);
        }
        builder.append_path_with_name("tree/holes", "file").unwrap();
        builder.finish().unwrap();
    }
}
RUST
CARGO_TARGET_DIR=$work/target cargo build -q --manifest-path writer/Cargo.toml
target/debug/writer
for form in 0.1 1.0; do
    tar --format=posix --sparse --sparse-version=$form -cf pax-$form.tar --transform=s/holes/file/ -C tree holes
done

cat >unpacker/go.mod <<'MOD'
module unpacker

go 1.26
MOD
cat >unpacker/main.go <<'GO'
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/containerd/containerd/v2/pkg/archive"
)

func main() {
	layer, err := os.Open(os.Args[1])
	if err == nil {
		_, err = archive.Apply(context.Background(), os.Args[2], layer)
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}
GO
(
    cd unpacker
    export GOPATH=$work/go GOFLAGS=-modcacherw
    { go get github.com/containerd/containerd/v2/pkg/archive@v2.4.2 && go mod tidy; } >log 2>&1 || { cat log; exit 1; }
    go build -o ../unpack .
)
for layer in default not-sparse pax-0.1 pax-1.0; do
    mkdir tar containerd
    tar -xf $layer.tar -C tar
    cmp whole tar/file
    if ./unpack $layer.tar containerd >log; then cmp whole containerd/file && echo "the file" >log; fi
    echo "$layer, type $(dd if=$layer.tar bs=1 skip=156 count=1 status=none): GNU tar the file, containerd $(cat log)"
    rm -rf tar containerd
done | tee seen
diff - seen <<'EXPECTED'
default, type S: GNU tar the file, containerd unhandled tar header type 83
not-sparse, type 0: GNU tar the file, containerd the file
pax-0.1, type x: GNU tar the file, containerd the file
pax-1.0, type x: GNU tar the file, containerd the file
EXPECTED
