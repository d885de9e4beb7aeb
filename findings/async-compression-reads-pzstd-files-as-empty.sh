#!/usr/bin/env bash
# The crate async-compression: a file by pzstd is decompressed to nothing, without an error.
#
# Guessed: its ZstdDecoder reads what the crate zstd, which it is built on, reads: any sequence of frames,
# of which some may be skippable (RFC 8878, section 3). Seen: it reads one frame and is done, unless
# `multiple_members(true)` is called, and a skippable frame is one as well. pzstd, which comes with zstd,
# puts one in front of each part, so nothing is what is read; of two frames in a row (chunked and seekable
# layers have thousands) the first. The rest of the input is left where it is, and the end looks like
# any other.
#
# Version: async-compression 0.4.52 and zstd 0.13.3 (crates.io), with Debian's zstd. Exits 0 if it still
# behaves so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

head -c 100000 /dev/zero | tr '\0' x >content
zstd -q content -o one-frame
cat one-frame one-frame >two-frames
pzstd -q content -o pzstd

mkdir -p program/src
cat >program/Cargo.toml <<'TOML'
[package]
name = "program"
version = "0.0.0"
edition = "2021"
[dependencies]
async-compression = { version = "=0.4.52", features = ["tokio", "zstd"] }
tokio = { version = "1", features = ["io-util", "macros", "rt"] }
zstd = "=0.13.3"
TOML
cat >program/src/main.rs <<'RUST'
use async_compression::tokio::bufread::ZstdDecoder;
use tokio::io::AsyncReadExt;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    for name in ["one-frame", "two-frames", "pzstd"] {
        let input = std::fs::read(name).unwrap();
        let all = zstd::decode_all(&input[..]).unwrap();
        let (mut default, mut configured) = (Vec::new(), Vec::new());
        ZstdDecoder::new(&input[..]).read_to_end(&mut default).await.unwrap();
        let mut decoder = ZstdDecoder::new(&input[..]);
        decoder.multiple_members(true);
        decoder.read_to_end(&mut configured).await.unwrap();
        println!("{name}: zstd {}, async {}, with multiple_members {}", all.len(), default.len(), configured.len());
    }
}
RUST
CARGO_TARGET_DIR=$work/target cargo build -q --manifest-path program/Cargo.toml
target/debug/program | tee seen
diff - seen <<'EXPECTED'
one-frame: zstd 100000, async 100000, with multiple_members 100000
two-frames: zstd 200000, async 100000, with multiple_members 200000
pzstd: zstd 100000, async 0, with multiple_members 100000
EXPECTED
