//! Little-endian numbers out of bytes that may be too short.

use std::io;

/// An error about what was read.
pub(super) fn damaged(text: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.into())
}

/// Bytes that numbers are read from; what lies outside is an error.
#[derive(Clone, Copy)]
pub(super) struct Bytes<'a>(pub(super) &'a [u8]);

impl<'a> Bytes<'a> {
    pub(super) fn array<const N: usize>(self, at: usize) -> io::Result<[u8; N]> {
        let bytes = self.0.get(at..).and_then(|rest| rest.first_chunk());
        let len = self.0.len();
        bytes
            .copied()
            .ok_or_else(|| damaged(format!("{N} bytes at {at} of {len}")))
    }

    pub(super) fn slice(self, at: usize, len: usize) -> io::Result<&'a [u8]> {
        let bytes = self.0.get(at..).and_then(|rest| rest.get(..len));
        bytes.ok_or_else(|| damaged(format!("{len} bytes at {at} of {}", self.0.len())))
    }

    pub(super) fn u8(self, at: usize) -> io::Result<u8> {
        self.array(at).map(u8::from_le_bytes)
    }

    pub(super) fn u16(self, at: usize) -> io::Result<u16> {
        self.array(at).map(u16::from_le_bytes)
    }

    pub(super) fn u32(self, at: usize) -> io::Result<u32> {
        self.array(at).map(u32::from_le_bytes)
    }

    /// Two halves of a number that stand apart.
    pub(super) fn halves(self, low: usize, high: usize) -> io::Result<u64> {
        Ok(u64::from(self.u32(low)?) | u64::from(self.u32(high)?) << 32)
    }
}
