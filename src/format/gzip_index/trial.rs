//! At which bit of its first byte a block begins.
//!
//! The decoder that is fast does not say it. So another one tries all eight, and each that does
//! not come to the same bytes, and to the end of the block at the same place, is out.

use super::inflater::Boundary;
use super::layout::Window;
use super::resume::{Resumed, Stop};

/// A block, and the bits that are not refuted.
#[derive(Debug)]
pub(super) struct Trial {
    pub(super) boundary: Boundary,
    pub(super) window: Box<Window>,
    rest: Vec<Candidate>,
}

#[derive(Debug)]
struct Candidate {
    bits: u8,
    decoder: Resumed,
    at: Boundary,
}

/// Parts of both streams that end at the same place.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known<'a> {
    pub(super) compressed: &'a [u8],
    pub(super) output: &'a [u8],
    pub(super) end: Boundary,
}

/// What a block's decoder must find where the known bytes end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Inside,
    Boundary,
    End,
}

impl Known<'_> {
    /// The parts from `at` on, if they are known.
    fn behind(&self, at: Boundary) -> Option<(&[u8], &[u8])> {
        let Boundary {
            uncompressed,
            compressed,
        } = self.end;
        Some((
            tail(self.compressed, compressed.checked_sub(at.compressed)?)?,
            tail(self.output, uncompressed.checked_sub(at.uncompressed)?)?,
        ))
    }
}

/// The last `length` bytes, if there are as many.
fn tail(bytes: &[u8], length: u64) -> Option<&[u8]> {
    let skip = bytes.len().checked_sub(usize::try_from(length).ok()?)?;
    bytes.get(skip..)
}

impl Trial {
    /// Tries the block at `boundary`, behind `window` and the byte `shared`. `whole` if it is
    /// known to begin with a byte.
    pub(super) fn new(boundary: Boundary, window: Box<Window>, shared: u8, whole: bool) -> Self {
        let rest = (0..if whole { 1 } else { 8 })
            .map(|bits| Candidate {
                bits,
                decoder: Resumed::new(&window, bits, shared),
                at: boundary,
            })
            .collect();
        Self {
            boundary,
            window,
            rest,
        }
    }

    /// Goes on to where the known bytes end.
    pub(super) fn go_on(&mut self, known: Known<'_>, place: Place) {
        self.rest.retain_mut(|one| one.reaches(known, place));
    }

    /// The number of bits, if it is told: by the only one that is left, since one of the eight is
    /// right. At a [`Place::Boundary`] or [`Place::End`], where more than one is left and all are at
    /// the same bit, as in front of a stored block, which begins with the next whole byte anyway,
    /// all of them are right.
    pub(super) fn decided(&self, place: Place) -> Option<u8> {
        let first = self.rest.first()?;
        let is_one = match place {
            _ if self.rest.len() == 1 => true,
            Place::Inside => false,
            Place::End => true,
            Place::Boundary => {
                let bits = first.decoder.bits();
                self.rest.iter().all(|one| one.decoder.bits() == bits)
            }
        };
        is_one.then_some(first.bits)
    }

    /// Whether no number of bits is right.
    pub(super) fn failed(&self) -> bool {
        self.rest.is_empty()
    }

    /// Where the known bytes must begin for it to go on.
    pub(super) fn needs(&self) -> Boundary {
        let least = |of: fn(&Boundary) -> u64| self.rest.iter().map(|one| of(&one.at)).min();
        Boundary {
            uncompressed: least(|at| at.uncompressed).unwrap_or(u64::MAX),
            compressed: least(|at| at.compressed).unwrap_or(u64::MAX),
        }
    }
}

impl Candidate {
    /// Decodes to the end of what is known; whether it came to the same.
    fn reaches(&mut self, known: Known<'_>, place: Place) -> bool {
        loop {
            let Some((compressed, expected)) = known.behind(self.at) else {
                return false;
            };
            if place == Place::Inside && expected.is_empty() {
                return true;
            }
            let (used, output, stop) = self.decoder.step(compressed, expected.len());
            if expected.get(..output.len()) != Some(output) {
                return false;
            }
            self.at.compressed += used as u64;
            self.at.uncompressed += output.len() as u64;
            let ends = self.at == known.end;
            match stop {
                Stop::Boundary => return place == Place::Boundary && ends,
                Stop::End => return place == Place::End && ends,
                Stop::Damaged => return false,
                Stop::Input => return place == Place::Inside,
                Stop::Output if output.is_empty() => return place == Place::Inside,
                Stop::Output => {}
            }
        }
    }
}
