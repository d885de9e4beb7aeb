//! Windows without what no block refers to: most of a window's 32 KiB is read by nobody, and zeros
//! take no room in the index.
//!
//! Decoders do not say which bytes they refer to. So the data behind the block is decoded behind
//! two made-up windows, in which each byte says one half of its own place.

use super::layout::{WINDOW, Window};
use super::resume::{Resumed, Stop};

/// Windows in which each byte says one half of its own place: the low eight bits, and the seven
/// above them. An eighth makes few bytes of the data look like a place.
static PLACES: (Window, Window) = {
    let mut places = ([0; WINDOW], [0; WINDOW]);
    let mut at = 0;
    while at < WINDOW {
        // Truncated on purpose.
        #[allow(clippy::cast_possible_truncation)]
        {
            places.0[at] = at as u8;
            places.1[at] = 0x80 | (at >> 8) as u8;
        }
        at += 1;
    }
    places
};

/// What is known of a block.
#[derive(Debug)]
pub(super) struct Start {
    /// How many bits of `shared` are the block's.
    pub(super) bits: u8,
    /// The byte before `compressed`.
    pub(super) shared: u8,
    /// The deflate data from the block on.
    pub(super) compressed: Vec<u8>,
    /// What it becomes, up to 32 KiB.
    pub(super) output: Vec<u8>,
    /// Whether these are all bytes whose data may refer to the window: 32 KiB, or all that there is.
    pub(super) is_whole: bool,
}

impl Start {
    /// `window` with zeros for all that is not referred to; all of it where that is not certain.
    /// `None` if the data behind it does not become what it should.
    pub(super) fn sparse(&self, window: Box<Window>) -> Option<Box<Window>> {
        let is_right = |window: &Window| self.decode(window).as_ref() == Some(&self.output);
        let referred = if self.is_whole { self.referred() } else { None };
        if let Some(referred) = referred {
            let mut sparse = window.clone();
            for (byte, is_referred) in sparse.iter_mut().zip(referred) {
                *byte *= u8::from(is_referred);
            }
            if is_right(&sparse) {
                return Some(sparse);
            }
        }
        is_right(&window).then_some(window)
    }

    /// Which bytes of the window are referred to, and a few more.
    fn referred(&self) -> Option<Vec<bool>> {
        let low = self.decode(&PLACES.0)?;
        let high = self.decode(&PLACES.1)?;
        let mut referred = vec![false; WINDOW];
        for (low, high) in low.into_iter().zip(high) {
            // Bytes of the data itself are the same behind both windows.
            if low != high || high >= 0x80 {
                let at = usize::from(high & 0x7F) << 8 | usize::from(low);
                if let Some(is_referred) = referred.get_mut(at) {
                    *is_referred = true;
                }
            }
        }
        Some(referred)
    }

    /// As many bytes as are known, behind `window`.
    fn decode(&self, window: &Window) -> Option<Vec<u8>> {
        let mut decoder = Resumed::new(window, self.bits, self.shared);
        let mut decoded = Vec::with_capacity(self.output.len());
        let mut input = self.compressed.as_slice();
        while decoded.len() < self.output.len() {
            let (used, output, stop) = decoder.step(input, self.output.len() - decoded.len());
            decoded.extend_from_slice(output);
            input = input.get(used..)?;
            match stop {
                Stop::Output | Stop::Boundary => {}
                Stop::End if decoded.len() == self.output.len() => {}
                Stop::End | Stop::Input | Stop::Damaged => return None,
            }
        }
        Some(decoded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    /// Deflate data behind a dictionary, from its first bit on.
    fn deflated(window: &Window, output: &[u8]) -> Vec<u8> {
        let mut compress = flate2::Compress::new(flate2::Compression::best(), false);
        compress.set_dictionary(window).unwrap();
        let mut compressed = Vec::with_capacity(2 * output.len() + 64);
        let finish = flate2::FlushCompress::Finish;
        compress
            .compress_vec(output, &mut compressed, finish)
            .unwrap();
        compressed
    }

    fn noise(length: usize, mut seed: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < length {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            bytes.write_all(&seed.to_be_bytes()[..1]).unwrap();
        }
        bytes
    }

    #[test]
    fn what_is_referred_to_is_kept_and_little_else() {
        let window: Box<Window> = noise(WINDOW, 1).into_boxed_slice().try_into().unwrap();
        // Parts of the window between bytes that are nowhere in it.
        let mut output = noise(2_000, 2);
        let parts = [7_000..7_100, 8_255..8_258, 9_000..9_400, 32_000..32_768];
        for part in parts {
            output.extend_from_slice(&window[part]);
            output.extend(noise(700, 3));
        }
        let start = Start {
            bits: 0,
            shared: 0,
            compressed: deflated(&window, &output),
            output,
            is_whole: true,
        };
        let sparse = start.sparse(window.clone()).unwrap();
        for part in [7_000..7_100, 9_000..9_400, 32_000..32_768] {
            assert_eq!(sparse[part.clone()], window[part]);
        }
        let kept = sparse.iter().filter(|byte| **byte != 0).count();
        assert!(kept < 1_268 + 700, "{kept}");
        // Any byte more that is lost is noticed.
        let mut lost = sparse.clone();
        lost[9_200] ^= 1;
        assert_ne!(start.decode(&lost), Some(start.output.clone()));
    }

    #[test]
    fn data_that_becomes_something_else_is_told() {
        let window: Box<Window> = noise(WINDOW, 1).into_boxed_slice().try_into().unwrap();
        let output = window[100..9_000].to_vec();
        let compressed = deflated(&window, &output);
        let sparse = |compressed: &[u8], output: &[u8], is_whole| {
            let start = Start {
                bits: 0,
                shared: 0,
                compressed: compressed.to_vec(),
                output: output.to_vec(),
                is_whole,
            };
            start.sparse(window.clone())
        };
        // What is behind it may refer to the rest.
        assert!(sparse(&compressed, &output, false) == Some(window.clone()));
        let half = &compressed[..compressed.len() / 2];
        for (compressed, output) in [
            (half, &output[..]),
            (&[0xFF; 100], &output[..]),
            (&compressed[..], &noise(8_900, 4)),
            (&compressed[..], &[&output[..], b"more"].concat()),
        ] {
            assert!(sparse(compressed, output, true).is_none());
        }
    }
}
