//! The one interface through which the formats meet: a disk of bytes.

use std::io;

/// A disk that can be read at any byte.
///
/// Offsets and lengths are in bytes. Reading past [`size`](Self::size) is an
/// [`io::ErrorKind::UnexpectedEof`] error; what was never written reads as zero.
pub trait BlockDevice {
    /// Size of the disk in bytes.
    fn size(&self) -> u64;

    /// Fills `buf` from byte `offset`.
    ///
    /// # Errors
    /// When the range leaves the disk or what lies beneath cannot be read.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;
}

/// A disk that can also be written. Nothing is durable before its owner says so.
pub trait BlockDeviceMut: BlockDevice {
    /// Writes `data` at byte `offset`; both are multiples of 512 bytes.
    ///
    /// # Errors
    /// When the range leaves the disk, is not aligned, or what lies beneath cannot be written.
    fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<()>;

    /// Makes a range read as zero without storing zeros; both are multiples of 512 bytes.
    ///
    /// # Errors
    /// As [`write_at`](Self::write_at).
    fn zero_at(&mut self, offset: u64, len: u64) -> io::Result<()>;

    /// Forgets what this writer wrote in a range: its content no longer matters.
    /// Both are multiples of 512 bytes.
    ///
    /// # Errors
    /// As [`write_at`](Self::write_at).
    fn discard_at(&mut self, offset: u64, len: u64) -> io::Result<()>;
}

impl<D: BlockDevice + ?Sized> BlockDevice for &D {
    fn size(&self) -> u64 {
        (**self).size()
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        (**self).read_at(offset, buf)
    }
}

impl<D: BlockDevice + ?Sized> BlockDevice for Box<D> {
    fn size(&self) -> u64 {
        (**self).size()
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        (**self).read_at(offset, buf)
    }
}

impl<D: BlockDevice + ?Sized> BlockDevice for std::sync::Arc<D> {
    fn size(&self) -> u64 {
        (**self).size()
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        (**self).read_at(offset, buf)
    }
}

/// Checks that `len` bytes at `offset` lie within a disk of `size` bytes.
///
/// # Errors
/// [`io::ErrorKind::UnexpectedEof`] when they do not.
pub fn check_range(size: u64, offset: u64, len: u64) -> io::Result<()> {
    match offset.checked_add(len) {
        Some(end) if end <= size => Ok(()),
        _ => Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            format!("{len} bytes at {offset} leave the disk of {size} bytes"),
        )),
    }
}
