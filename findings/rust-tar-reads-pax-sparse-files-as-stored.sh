#!/usr/bin/env bash
# The `tar` crate: sparse files in PAX form come out as they are stored, without an error.
#
# Guessed: a reader that expands GNU tar's old sparse files (it does, holes and all) either expands
# the PAX forms too, which GNU tar writes with --format=posix, or refuses them. Seen: all three
# forms (0.0, 0.1, 1.0) are read as plain files of the stored size. Content and size are wrong; 0.1
# and 1.0 also have the placeholder name, and 1.0 begins with the text of the map. Python's tarfile
# and bsdtar read all four right. Layers have such files: databases and logs that were preallocated.
#
# Version: tar 0.4.46 (crates.io), with Debian's GNU tar and Python. Exits 0 if it still behaves so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

truncate -s 10M file
printf head | dd of=file conv=notrunc status=none
printf tail | dd of=file bs=1 seek=5000000 conv=notrunc status=none
tar --format=gnu --sparse -cf gnu.tar file
for version in 0.0 0.1 1.0; do
    tar --format=posix --sparse --sparse-version=$version -cf "pax-$version.tar" file
done

mkdir -p reader/src
cat >reader/Cargo.toml <<'TOML'
[package]
name = "reader"
version = "0.0.0"
edition = "2021"
[dependencies]
tar = { version = "=0.4.46", default-features = false }
TOML
cat >reader/src/main.rs <<'RUST'
use std::io::Read;

fn main() {
    for path in std::env::args().skip(1) {
        let mut archive = tar::Archive::new(std::fs::File::open(&path).unwrap());
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let size = entry.size();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            println!("{path} {size} {}", content.len());
        }
    }
}
RUST
CARGO_TARGET_DIR=$work/target cargo build -q --manifest-path reader/Cargo.toml
target/debug/reader gnu.tar pax-0.0.tar pax-0.1.tar pax-1.0.tar | tee crate
python3 - gnu.tar pax-0.0.tar pax-0.1.tar pax-1.0.tar >python <<'PYTHON'
import sys, tarfile
for path in sys.argv[1:]:
    archive = tarfile.open(path)
    member = archive.getmembers()[0]
    content = archive.extractfile(member).read()
    assert content == open("file", "rb").read(), path
    print(path, member.size, len(content))
PYTHON
printf '%s\n' 'gnu.tar 10485760 10485760' 'pax-0.0.tar 8192 8192' 'pax-0.1.tar 8192 8192' 'pax-1.0.tar 8704 8704' | diff - crate
! diff -q crate python >/dev/null
