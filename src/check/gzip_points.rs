//! Whether inflating can begin at the points of a gzip index.
//!
//! An ordinary inflater, which knows nothing of points, gets a stream of its own for each: a block
//! that makes the point's window and ends at the bit where the point begins, and behind it the layer
//! from there on.
//! Source: RFC 1951 § 3.2.6; containerd/overlaybd `src/overlaybd/gzindex`.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;

use flate2::read::DeflateDecoder;

use super::file_range::FileRange;
use super::original::Original;
use crate::format::gzip_index::{Entry, GzipIndex};

/// How far back deflate refers: what a block needs of the data before it.
const WINDOW: u64 = 32 << 10;
/// Bytes that are compared at once.
const PIECE: usize = 64 << 10;
/// Most points that are named.
const MAX_NAMED: usize = 5;

/// What is wrong with the index of a layer.
pub(super) fn problems(index: &GzipIndex, original: &Original) -> io::Result<Vec<String>> {
    let header = index.header();
    let blob_size = original.blob.metadata()?.len();
    let mut problems = Vec::new();
    for (what, said, found) in [
        (
            "layer that it points into",
            header.compressed_size,
            blob_size,
        ),
        ("tar in it", header.uncompressed_size, original.tar_size),
    ] {
        if said != found {
            problems.push(format!(
                "its gzip index is of another layer: it says that the {what} has {said} bytes, \
                 and it has {found}"
            ));
        }
    }
    if !problems.is_empty() {
        return Ok(problems);
    }
    let points = index.entries();
    let mut wrong = 0_usize;
    for (number, point) in points.iter().enumerate() {
        let next = points.get(number.saturating_add(1));
        let next = next.map_or(original.tar_size, |next| next.uncompressed);
        // Whoever begins here may read on behind the next point. Once that made a whole window,
        // nothing depends on this point any more.
        let end = next.max(point.uncompressed.saturating_add(WINDOW));
        let Some(problem) = problem(index, point, end.min(original.tar_size), original)? else {
            continue;
        };
        wrong = wrong.saturating_add(1);
        if wrong <= MAX_NAMED {
            problems.push(format!(
                "point {number} of its gzip index, for byte {} of the tar at byte {} of the layer, \
                 is wrong: {problem}",
                point.uncompressed, point.compressed
            ));
        }
    }
    if wrong > MAX_NAMED {
        let (more, count) = (wrong - MAX_NAMED, points.len());
        problems.push(format!(
            "{more} more of the {count} points of its gzip index are wrong"
        ));
    }
    Ok(problems)
}

/// Inflates from a point to byte `end` of the tar.
fn problem(
    index: &GzipIndex,
    point: &Entry,
    end: u64,
    original: &Original,
) -> io::Result<Option<String>> {
    let window = match index.window(point) {
        Ok(window) => window,
        Err(error) => return Ok(Some(error.to_string())),
    };
    let mut shared = [0];
    if point.bits > 0 {
        let at = point.compressed.saturating_sub(1);
        original.blob.read_exact_at(&mut shared, at)?;
    }
    let (prefix, made) = prefix(&window[..], point.bits, shared[0]);
    let rest = FileRange::from(&original.blob, point.compressed);
    let mut decoder = DeflateDecoder::new(prefix.chain(rest));
    // The block in front is well-formed, whatever is in the window.
    io::copy(&mut (&mut decoder).take(made), &mut io::sink())?;
    compare(&mut decoder, &original.tar, point.uncompressed, end)
}

/// Compares what a decoder makes with the tar.
fn compare(
    decoder: &mut impl Read,
    tar: &File,
    mut at: u64,
    end: u64,
) -> io::Result<Option<String>> {
    let (mut made, mut expected) = (vec![0; PIECE], vec![0; PIECE]);
    while at < end {
        let want = usize::try_from(end - at).unwrap_or(PIECE).min(PIECE);
        let made = made.get_mut(..want).unwrap_or_default();
        let count = match decoder.read(made) {
            Ok(0) => {
                return Ok(Some(format!(
                    "the deflate data ends at byte {at} of the tar"
                )));
            }
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Ok(Some(format!("at byte {at} of the tar: {error}"))),
        };
        let made = made.get(..count).unwrap_or_default();
        let expected = expected.get_mut(..count).unwrap_or_default();
        tar.read_exact_at(expected, at)?;
        if let Some(place) = made
            .iter()
            .zip(&*expected)
            .position(|(one, other)| one != other)
        {
            let at = at.saturating_add(place as u64);
            return Ok(Some(format!(
                "inflating from there makes other bytes than the tar's from byte {at} on"
            )));
        }
        at = at.saturating_add(count as u64);
    }
    Ok(None)
}

/// A block of literals that makes `window`, behind up to seven others. It ends within a byte,
/// whose highest `bits` bits are those of `shared`. Also says how many bytes it makes.
fn prefix(window: &[u8], bits: u8, shared: u8) -> (Prefix, u64) {
    // A literal above 143 has nine bits, so that each moves the end by one.
    const FILLER: u8 = 144;
    let length = |literals: usize, long: usize| 3 + 8 * literals + long + 7;
    let long = window.iter().filter(|byte| **byte >= FILLER).count();
    let wanted = usize::from((8 - bits % 8) % 8);
    let fillers = (0..8).find(|more| length(window.len() + more, long + more) % 8 == wanted);
    let fillers = fillers.unwrap_or_default();
    let mut out = BitWriter::default();
    // Not the last block, with the fixed codes.
    out.low_first(0b010, 3);
    for byte in std::iter::repeat_n(&FILLER, fillers).chain(window) {
        match *byte {
            byte if byte < FILLER => out.high_first(0x30 + u32::from(byte), 8),
            byte => out.high_first(0x190 + u32::from(byte - FILLER), 9),
        }
    }
    // The end of the block.
    out.high_first(0, 7);
    let made = fillers.saturating_add(window.len());
    (io::Cursor::new(out.finish(shared)), made as u64)
}

type Prefix = io::Cursor<Vec<u8>>;

/// Deflate's bits: bytes are filled from their lowest bit.
#[derive(Default)]
struct BitWriter {
    bytes: Vec<u8>,
    current: u8,
    filled: u32,
}

impl BitWriter {
    fn bit(&mut self, bit: bool) {
        self.current |= u8::from(bit) << self.filled;
        self.filled += 1;
        if self.filled == 8 {
            self.bytes.push(self.current);
            (self.current, self.filled) = (0, 0);
        }
    }

    fn low_first(&mut self, value: u32, count: u32) {
        (0..count).for_each(|place| self.bit(value >> place & 1 == 1));
    }

    fn high_first(&mut self, value: u32, count: u32) {
        (0..count)
            .rev()
            .for_each(|place| self.bit(value >> place & 1 == 1));
    }

    /// The bytes; the bits that are left of the last one are those of `shared`.
    fn finish(mut self, shared: u8) -> Vec<u8> {
        if self.filled > 0 {
            self.bytes
                .push(self.current | shared >> self.filled << self.filled);
        }
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_makes_the_window_and_ends_at_any_bit() {
        let windows = [
            vec![0; 32 << 10],
            vec![255; 32 << 10],
            (0..32 << 10).map(|at: u32| at.to_le_bytes()[0]).collect(),
            vec![200; (32 << 10) - 3],
        ];
        for (window, bits) in windows
            .iter()
            .flat_map(|it| (0..8).map(move |bits| (it, bits)))
        {
            // What comes at the point: a stored block, which begins a byte of its own.
            let mut point = BitWriter::default();
            point.low_first(0b11, if bits == 0 { 0 } else { 8 - u32::from(bits) });
            point.low_first(0b001, 3);
            let point = point.finish(0);
            let (shared, rest) = match bits {
                0 => (0, &point[..]),
                _ => (point[0], &point[1..]),
            };
            let stored = [3, 0, !3, !0, b'a', b'b', b'c'];
            let (prefix, made) = prefix(window, bits, shared);
            let mut out = Vec::new();
            let mut decoder = DeflateDecoder::new(prefix.chain(rest).chain(&stored[..]));
            decoder.read_to_end(&mut out).unwrap();
            let fillers = out.len() - window.len() - 3;
            assert_eq!(made, (fillers + window.len()) as u64);
            assert!(out[fillers..].starts_with(window), "{bits} bits");
            assert!(out.ends_with(b"abc"), "{bits} bits");
        }
    }
}
