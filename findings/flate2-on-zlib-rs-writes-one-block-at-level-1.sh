#!/usr/bin/env bash
# flate2 on zlib-rs, level 1: a gzip stream of any length is one or two deflate blocks.
#
# Guessed: like zlib and Go's compress/gzip, it begins a new block every some ten thousand symbols at
# every level, because each block's Huffman codes are made for its own data. Seen: at level 1 all
# of 16 MB are in a single block, with the fixed codes; at level 6 in hundreds. The stream is valid. But whoever
# reads such a layer at random (SOCI, stargz-zran, TurboOCI: all keep block boundaries as places to begin)
# has nowhere to begin but the front.
#
# Version: flate2 1.1.11 with zlib-rs 0.6.8, counted with miniz_oxide 0.9.1 (crates.io).
# Exits 0 if it still behaves so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
mkdir -p blocks/src
cat >blocks/Cargo.toml <<'TOML'
[package]
name = "blocks"
version = "0.0.0"
edition = "2021"
[dependencies]
flate2 = { version = "=1.1.11", default-features = false, features = ["zlib-rs"] }
zlib-rs = "=0.6.8"
miniz_oxide = { version = "=0.9.1", features = ["block-boundary"] }
TOML
cat >blocks/src/main.rs <<'RUST'
use std::io::Write;

use flate2::{write::DeflateEncoder, Compression};
use miniz_oxide::inflate::core::inflate_flags::TINFL_FLAG_STOP_ON_BLOCK_BOUNDARY;
use miniz_oxide::inflate::core::{decompress, DecompressorOxide};
use miniz_oxide::inflate::TINFLStatus;

/// How many deflate blocks a stream has, and how many bytes it inflates to.
fn blocks(stream: &[u8], length: usize) -> (usize, usize) {
    let mut decoder = DecompressorOxide::new();
    let mut out = vec![0; length + 1];
    let (mut at, mut filled, mut blocks) = (0, 0, 1);
    loop {
        // The whole output is the window.
        let flags = TINFL_FLAG_STOP_ON_BLOCK_BOUNDARY | 4;
        let (status, read, written) = decompress(&mut decoder, &stream[at..], &mut out, filled, flags);
        at += read;
        filled += written;
        match status {
            TINFLStatus::BlockBoundary => blocks += 1,
            TINFLStatus::Done => return (blocks, filled),
            other => panic!("{other:?} at {at}"),
        }
    }
}

fn main() {
    // Sixteen megabytes of words, which repeat and still differ.
    let mut text = Vec::new();
    let mut state = 1u32;
    while text.len() < 16_000_000 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        writeln!(text, "line {} of {}", state >> 20, state % 977).unwrap();
    }
    for level in [1, 6] {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::new(level));
        encoder.write_all(&text).unwrap();
        let (blocks, length) = blocks(&encoder.finish().unwrap(), text.len());
        assert_eq!(length, text.len());
        println!("level {level}: {}", if blocks <= 3 { "up to three blocks" } else { "many blocks" });
        eprintln!("level {level}: {blocks} blocks");
    }
}
RUST
CARGO_TARGET_DIR=$work/target cargo run -q --manifest-path blocks/Cargo.toml | tee seen
printf '%s\n' 'level 1: up to three blocks' 'level 6: many blocks' | diff - seen
