//! A disk of bytes: the interface between the formats.

use std::io;
use std::ops::Range;

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
    /// When the range reaches beyond the disk, or what the disk is on cannot be read.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;

    /// Fills `buf` as [`read_at`](Self::read_at) does, but from where the bytes come from, past
    /// what is kept of them on the way. For bytes that turned out to be damaged.
    ///
    /// # Errors
    /// As [`read_at`](Self::read_at).
    fn read_anew(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.read_at(offset, buf)
    }

    /// Says that `len` bytes at `offset` are read soon, so that what has to be fetched is fetched
    /// at once. A hint: it waits for nothing, and may be ignored.
    fn will_read(&self, offset: u64, len: u64) {
        let _ = (offset, len);
    }

    /// What the disk is, for errors, such as `blob sha256:…`; nothing for one without a name.
    fn name(&self) -> Option<String> {
        None
    }

    /// The bytes of the file or blob behind the disk that are read for a range of it, in bytes.
    fn behind(&self, range: Range<u64>) -> Range<u64> {
        range
    }
}

/// A file whose data is wanted when a container starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// Its place among such files: the lowest comes first.
    pub rank: u32,
    /// Most bytes of data that it has.
    pub bytes: u64,
}

/// A disk that can also be written. A write need not be durable.
pub trait BlockDeviceMut: BlockDevice {
    /// Writes `data` at byte `offset`; both are multiples of 512 bytes.
    ///
    /// # Errors
    /// When the range reaches beyond the disk or is not aligned, or what the disk is on cannot
    /// be written.
    fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<()>;

    /// Makes a range read as zero without storing zeros; both are multiples of 512 bytes.
    ///
    /// # Errors
    /// As [`write_at`](Self::write_at).
    fn zero_at(&mut self, offset: u64, len: u64) -> io::Result<()>;

    /// Drops what this writer wrote in a range, of which the content no longer matters.
    /// Both are multiples of 512 bytes.
    ///
    /// # Errors
    /// As [`write_at`](Self::write_at).
    fn discard_at(&mut self, offset: u64, len: u64) -> io::Result<()>;

    /// Says whose data is written next: a file's that is wanted, so that the disk may put it next
    /// to that of other such files wherever it stores data, or anything else's.
    fn set_wanted(&mut self, _file: Option<Wanted>) {}

    /// The size in bytes up to which a file's data is written; that of larger files is mapped, by
    /// [`map_target`](Self::map_target).
    fn max_stored_file(&self) -> u64 {
        u64::MAX
    }

    /// Makes `len` bytes at `offset` read as those at `target` of the tar that is being unpacked.
    /// All three are multiples of 512 bytes.
    ///
    /// # Errors
    /// As [`write_at`](Self::write_at), and when the disk stores all data itself.
    fn map_target(&mut self, offset: u64, len: u64, target: u64) -> io::Result<()> {
        let text = format!("{len} bytes at {offset} cannot be mapped to byte {target} of a tar");
        Err(io::Error::new(io::ErrorKind::Unsupported, text))
    }

    /// Makes `len` bytes at `to` read as those at `from` do. All three are multiples of 512
    /// bytes, and the ranges do not overlap.
    ///
    /// # Errors
    /// As [`write_at`](Self::write_at), and when what is at `from` cannot be read.
    fn copy_at(&mut self, from: u64, to: u64, len: u64) -> io::Result<()> {
        let mut buffer = Vec::new();
        let mut done = 0;
        while done < len {
            let part = (len - done).min(MAX_COPY_BYTES);
            buffer.resize(usize::try_from(part).map_err(io::Error::other)?, 0);
            self.read_at(from + done, &mut buffer)?;
            self.write_at(to + done, &buffer)?;
            done += part;
        }
        Ok(())
    }
}

/// Most bytes that are copied at once.
const MAX_COPY_BYTES: u64 = 256 << 10;

impl<D: BlockDevice + ?Sized> BlockDevice for &D {
    fn size(&self) -> u64 {
        (**self).size()
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        (**self).read_at(offset, buf)
    }
    fn behind(&self, range: Range<u64>) -> Range<u64> {
        (**self).behind(range)
    }
    fn read_anew(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        (**self).read_anew(offset, buf)
    }
    fn will_read(&self, offset: u64, len: u64) {
        (**self).will_read(offset, len);
    }
    fn name(&self) -> Option<String> {
        (**self).name()
    }
}

impl<D: BlockDevice + ?Sized> BlockDevice for Box<D> {
    fn size(&self) -> u64 {
        (**self).size()
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        (**self).read_at(offset, buf)
    }
    fn behind(&self, range: Range<u64>) -> Range<u64> {
        (**self).behind(range)
    }
    fn read_anew(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        (**self).read_anew(offset, buf)
    }
    fn will_read(&self, offset: u64, len: u64) {
        (**self).will_read(offset, len);
    }
    fn name(&self) -> Option<String> {
        (**self).name()
    }
}

impl<D: BlockDevice + ?Sized> BlockDevice for std::sync::Arc<D> {
    fn size(&self) -> u64 {
        (**self).size()
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        (**self).read_at(offset, buf)
    }
    fn behind(&self, range: Range<u64>) -> Range<u64> {
        (**self).behind(range)
    }
    fn read_anew(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        (**self).read_anew(offset, buf)
    }
    fn will_read(&self, offset: u64, len: u64) {
        (**self).will_read(offset, len);
    }
    fn name(&self) -> Option<String> {
        (**self).name()
    }
}

/// What a blob or its index holds contradicts itself, in an [`io::Error`]
/// ([`io::Error::get_ref`]), of which the kind is [`io::ErrorKind::InvalidData`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Damaged(
    /// What is wrong, and where.
    pub String,
);

impl From<Damaged> for io::Error {
    fn from(damaged: Damaged) -> Self {
        Self::new(io::ErrorKind::InvalidData, damaged)
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
            format!("{len} bytes at {offset} reach beyond the disk of {size} bytes"),
        )),
    }
}

/// Ranges in ascending order, those that touch as one.
#[must_use]
pub fn joined(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.sort_unstable_by_key(|range| range.start);
    let mut joined: Vec<Range<u64>> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match joined.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => joined.push(range),
        }
    }
    joined
}

/// A disk that several threads read.
pub type SharedDevice = std::sync::Arc<dyn BlockDevice + Send + Sync>;

/// A range of a disk from front to back.
pub struct DeviceReader<'a> {
    device: &'a dyn BlockDevice,
    /// Bytes of the disk that are still to be read.
    rest: Range<u64>,
}

impl<'a> DeviceReader<'a> {
    /// Reads all of the disk.
    #[must_use]
    pub fn new(device: &'a dyn BlockDevice) -> Self {
        Self::of(device, 0..device.size())
    }

    /// Reads a range, in bytes. One that reaches beyond the disk is an error of reading.
    #[must_use]
    pub fn of(device: &'a dyn BlockDevice, range: Range<u64>) -> Self {
        Self {
            device,
            rest: range,
        }
    }
}

impl io::Read for DeviceReader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let rest = self.rest.end.saturating_sub(self.rest.start);
        let length = buf.len().min(usize::try_from(rest).unwrap_or(usize::MAX));
        self.device.read_at(self.rest.start, &mut buf[..length])?;
        self.rest.start += length as u64;
        Ok(length)
    }
}

/// A disk of which the bytes can be moved to another device while it is read.
pub struct MovableDevice {
    size: u64,
    device: parking_lot::RwLock<SharedDevice>,
}

impl MovableDevice {
    /// A disk that is read from `device`.
    #[must_use]
    pub fn new(device: SharedDevice) -> Self {
        Self {
            size: device.size(),
            device: parking_lot::RwLock::new(device),
        }
    }

    /// Reads from `device`, which must hold the same bytes, from now on, and drops the device
    /// before.
    pub fn move_to(&self, device: SharedDevice) {
        let mut current = self.device.write();
        let before = std::mem::replace(&mut *current, device);
        drop(current);
        drop(before);
    }
}

impl std::fmt::Debug for MovableDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MovableDevice")
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

impl BlockDevice for MovableDevice {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let current = self.device.read();
        let device = std::sync::Arc::clone(&current);
        drop(current);
        device.read_at(offset, buf)
    }
}

/// A file as a disk; its size is what it was when it was opened.
#[derive(Debug)]
pub struct FileDevice {
    file: std::fs::File,
    size: u64,
}

impl FileDevice {
    /// A disk over an open file.
    ///
    /// # Errors
    /// When the file's size cannot be read.
    pub fn new(file: std::fs::File) -> io::Result<Self> {
        let size = file.metadata()?.len();
        Ok(Self { file, size })
    }

    /// Opens the file at `path` for reading.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(path: &std::path::Path) -> io::Result<Self> {
        Self::new(std::fs::File::open(path)?)
    }
}

impl BlockDevice for FileDevice {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        check_range(self.size, offset, buf.len() as u64)?;
        std::os::unix::fs::FileExt::read_exact_at(&self.file, buf, offset)
    }
}

/// Bytes in memory as a disk.
impl BlockDevice for Vec<u8> {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        check_range(self.size(), offset, buf.len() as u64)?;
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        buf.copy_from_slice(&self[start..start + buf.len()]);
        Ok(())
    }
}

const PAGE: usize = 4096;

/// A sparse disk in memory, for tests and tools.
#[derive(Debug, Clone, Default)]
pub struct MemDevice {
    size: u64,
    pages: std::collections::BTreeMap<u64, Box<[u8]>>,
}

impl MemDevice {
    /// A disk of `size` zero bytes.
    #[must_use]
    pub fn new(size: u64) -> Self {
        Self {
            size,
            pages: std::collections::BTreeMap::new(),
        }
    }

    /// Pages of 4096 bytes that hold something, with their offsets in bytes.
    pub fn pages(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.pages
            .iter()
            .map(|(page, data)| (page * PAGE as u64, &**data))
    }

    /// The parts of a range by page: page number, place in the page, place in the range.
    fn parts(offset: u64, len: usize) -> impl Iterator<Item = (u64, Range<usize>, usize)> {
        let mut done = 0;
        std::iter::from_fn(move || {
            let at = offset + done as u64;
            let within = usize::try_from(at % PAGE as u64).ok()?;
            let part = (PAGE - within).min(len - done);
            let item = (at / PAGE as u64, within..within + part, done);
            done += part;
            (part > 0).then_some(item)
        })
    }
}

impl BlockDevice for MemDevice {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        check_range(self.size, offset, buf.len() as u64)?;
        for (page, within, at) in Self::parts(offset, buf.len()) {
            let target = &mut buf[at..at + within.len()];
            match self.pages.get(&page) {
                Some(data) => target.copy_from_slice(&data[within]),
                None => target.fill(0),
            }
        }
        Ok(())
    }
}

/// Checks that a write's range is on the disk and made of whole sectors.
///
/// # Errors
/// [`io::ErrorKind::InvalidInput`] where it is not aligned, else as [`check_range`].
pub fn check_write(size: u64, offset: u64, len: u64) -> io::Result<()> {
    check_range(size, offset, len)?;
    if (offset | len).is_multiple_of(SECTOR) {
        Ok(())
    } else {
        let text = format!("{len} bytes at {offset} are not whole sectors");
        Err(io::Error::new(io::ErrorKind::InvalidInput, text))
    }
}

/// Bytes in a sector, the unit of a disk's writes and of LSMT's mappings.
pub const SECTOR: u64 = 512;

impl BlockDeviceMut for MemDevice {
    fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        check_write(self.size, offset, data.len() as u64)?;
        for (page, within, at) in Self::parts(offset, data.len()) {
            let target = self
                .pages
                .entry(page)
                .or_insert_with(|| vec![0; PAGE].into());
            target[within.clone()].copy_from_slice(&data[at..at + within.len()]);
        }
        Ok(())
    }

    fn zero_at(&mut self, offset: u64, len: u64) -> io::Result<()> {
        check_write(self.size, offset, len)?;
        let end = offset + len;
        let first = offset / PAGE as u64;
        let pages: Vec<u64> = self
            .pages
            .range(first..end.div_ceil(PAGE as u64))
            .map(|(page, _)| *page)
            .collect();
        for page in pages {
            let start = page * PAGE as u64;
            let (from, to) = (
                offset.max(start) - start,
                end.min(start + PAGE as u64) - start,
            );
            if to - from == PAGE as u64 {
                self.pages.remove(&page);
            } else if let Some(data) = self.pages.get_mut(&page)
                && let (Ok(from), Ok(to)) = (usize::try_from(from), usize::try_from(to))
            {
                data[from..to].fill(0);
            }
        }
        Ok(())
    }

    fn discard_at(&mut self, offset: u64, len: u64) -> io::Result<()> {
        check_write(self.size, offset, len)
    }
}

/// A disk on which writes fail.
#[derive(Debug)]
pub struct ReadOnly<D>(D);

impl<D: BlockDevice> ReadOnly<D> {
    /// `device`, without writes.
    pub fn new(device: D) -> Self {
        Self(device)
    }

    fn read_only<T>() -> io::Result<T> {
        Err(io::Error::new(
            io::ErrorKind::ReadOnlyFilesystem,
            "the disk is read-only",
        ))
    }
}

impl<D: BlockDevice> BlockDevice for ReadOnly<D> {
    fn size(&self) -> u64 {
        self.0.size()
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.0.read_at(offset, buf)
    }
    fn read_anew(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.0.read_anew(offset, buf)
    }
    fn will_read(&self, offset: u64, len: u64) {
        self.0.will_read(offset, len);
    }
    fn name(&self) -> Option<String> {
        self.0.name()
    }
}

impl<D: BlockDevice> BlockDeviceMut for ReadOnly<D> {
    fn write_at(&mut self, _: u64, _: &[u8]) -> io::Result<()> {
        Self::read_only()
    }
    fn zero_at(&mut self, _: u64, _: u64) -> io::Result<()> {
        Self::read_only()
    }
    fn discard_at(&mut self, _: u64, _: u64) -> io::Result<()> {
        Self::read_only()
    }
}
