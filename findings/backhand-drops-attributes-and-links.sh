#!/usr/bin/env bash
# The crate backhand: a squashfs that is read and written again has lost its extended attributes and hard
# links.
#
# Guessed: `FilesystemWriter::from_fs_reader`, which exists to change an image (its tools add and replace
# files so), keeps what it does not change. Seen: all extended attributes are gone, without an error or a
# warning, also those of files that were not touched, and the two names of a file are two files. So
# programs with file capabilities (ping, and servers that bind low ports) no longer have them, overlay's
# and SELinux's marks are lost, and what was written through one name is not seen through the other.
#
# Version: backhand 0.25.5 (crates.io), with Debian bookworm's squashfs-tools 1:4.5.1-1 and attr. Exits 0
# if it still behaves so. Needs root and a file system with user attributes.
set -euo pipefail
work=$(mktemp -d)
chmod 755 "$work"
trap 'rm -rf "$work"' EXIT
cd "$work"

apt-get download -qq squashfs-tools=1:4.5.1-1 2>/dev/null
dpkg-deb -x squashfs-tools_*.deb package
mkdir tree
echo content >tree/program
ln tree/program tree/link
# What setcap cap_net_bind_service=ep writes.
setfattr -n security.capability -v 0x0100000200040000000000000000000000000000 tree/program
setfattr -n user.name -v value tree
package/usr/bin/mksquashfs tree before -quiet -no-progress -comp gzip

mkdir -p program/src
cat >program/Cargo.toml <<'TOML'
[package]
name = "program"
version = "0.0.0"
edition = "2021"
[dependencies]
backhand = { version = "=0.25.5", default-features = false, features = ["gzip"] }
TOML
cat >program/src/main.rs <<'RUST'
use backhand::{FilesystemReader, FilesystemWriter, NodeHeader};
use std::fs::File;
use std::io::{BufReader, Cursor};

fn main() {
    let reader = FilesystemReader::from_reader(BufReader::new(File::open("before").unwrap())).unwrap();
    let mut writer = FilesystemWriter::from_fs_reader(&reader).unwrap();
    writer.push_file(Cursor::new(b"added\n"), "added", NodeHeader::default()).unwrap();
    writer.write(File::create("after").unwrap()).unwrap();
}
RUST
CARGO_TARGET_DIR=$work/target cargo build -q --manifest-path program/Cargo.toml
target/debug/program
for image in before after; do
    package/usr/bin/unsquashfs -quiet -no-progress -dest out-$image $image >log
    echo "$image: files and their names: $(cd out-$image && find . -type f -printf '%P:%n\n' | sort | xargs)"
    echo "$image: attributes: $(cd out-$image &&
        find . -print0 | sort -z | xargs -0 getfattr -m - | grep -v '^$' | xargs | grep . || echo none)"
done | tee seen
diff - seen <<'EXPECTED'
before: files and their names: link:2 program:2
before: attributes: # file: . user.name # file: link security.capability # file: program security.capability
after: files and their names: added:1 link:1 program:1
after: attributes: none
EXPECTED
