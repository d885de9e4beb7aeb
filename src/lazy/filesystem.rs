//! The ext4 of an image, read by many threads at once.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::pool::Pool;
use super::reading::Reading;
use crate::format::block::{BlockDevice, ReadOnly, SharedDevice};
use crate::format::ext4::{Area, Error, FileExtent, Filesystem, Ino, Metadata, NamedEntry, Space};

/// Bytes at the beginning of the disk that are fetched at once: superblock and group descriptors.
const START: u64 = 64 << 10;
/// How many threads read metadata at the same time: as many as answer a mount.
const READERS: usize = 16;

/// An extended attribute: its full name and its value.
pub type Xattr = (Vec<u8>, Vec<u8>);

type Reader = Filesystem<ReadOnly<SharedDevice>>;

/// A filesystem that is only read. Each reader has its own cache of metadata blocks.
pub struct ImageFilesystem {
    device: SharedDevice,
    readers: Pool<Reader>,
    /// How long a call may wait for a reader.
    patience: Duration,
    block_size: u64,
    root: Ino,
}

/// A regular file whose places on the disk are known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenFile {
    /// Length in bytes.
    pub size: u64,
    /// Where its data is, ascending; all else is zero.
    pub extents: Vec<FileExtent>,
}

impl ImageFilesystem {
    /// Opens the filesystem on `device`. The device is read from the calling thread.
    ///
    /// # Errors
    /// When there is none, or it is damaged.
    pub fn open(device: SharedDevice) -> Result<Self, Error> {
        device.will_read(0, START);
        let first = Filesystem::open(ReadOnly::new(Arc::clone(&device)))?;
        let (root, block_size) = (first.root(), u64::from(first.block_size()));
        Ok(Self {
            device,
            readers: Pool::new(first, READERS),
            patience: Reading::default().total,
            block_size,
            root,
        })
    }

    /// The same, of which calls that find all readers at work wait so long for one; one minute
    /// otherwise.
    #[must_use]
    pub fn waiting(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    fn with<T>(&self, read: impl FnOnce(&mut Reader) -> Result<T, Error>) -> Result<T, Error> {
        let open = || Filesystem::open(ReadOnly::new(Arc::clone(&self.device)));
        let done = self.readers.with(self.patience, open, read);
        done.unwrap_or_else(|| {
            let text = format!(
                "all {READERS} readers of the filesystem were waiting for its disk for {:?}",
                self.patience
            );
            Err(io::Error::new(io::ErrorKind::TimedOut, text).into())
        })
    }

    /// The disk.
    #[must_use]
    pub fn device(&self) -> &SharedDevice {
        &self.device
    }

    /// Bytes in a block of the filesystem.
    #[must_use]
    pub fn block_size(&self) -> u64 {
        self.block_size
    }

    /// The root directory.
    #[must_use]
    pub fn root(&self) -> Ino {
        self.root
    }

    /// The filesystem's own tables and where they are on the disk, in bytes, ascending.
    ///
    /// # Errors
    /// When the filesystem is damaged.
    pub fn areas(&self) -> Result<Vec<(Area, Range<u64>)>, Error> {
        self.with(|reader| reader.areas())
    }

    /// What a name of a directory leads to; `None` when it does not exist.
    ///
    /// # Errors
    /// When `dir` is no directory, or the filesystem cannot be read.
    pub fn lookup(&self, dir: Ino, name: &[u8]) -> Result<Option<Ino>, Error> {
        self.with(|reader| Ok(reader.lookup(dir, name)?.map(|found| found.ino)))
    }

    /// All names of a directory but `.` and `..`, in the disk's order.
    ///
    /// # Errors
    /// As [`lookup`](Self::lookup).
    pub fn entries(&self, dir: Ino) -> Result<Vec<NamedEntry>, Error> {
        self.with(|reader| reader.entries(dir))
    }

    /// The names in block `number` of a directory but `.` and `..`, in the disk's order; `None`
    /// past its last block. So directories of any size are read in little memory.
    ///
    /// # Errors
    /// As [`lookup`](Self::lookup).
    pub fn entries_in(&self, dir: Ino, number: u32) -> Result<Option<Vec<NamedEntry>>, Error> {
        self.with(|reader| reader.entries_in(dir, number))
    }

    /// The directory that a directory is in; the root's is the root.
    ///
    /// # Errors
    /// As [`lookup`](Self::lookup).
    pub fn parent(&self, dir: Ino) -> Result<Ino, Error> {
        self.with(|reader| reader.parent(dir))
    }

    /// How much of the filesystem is in use.
    ///
    /// # Errors
    /// None that is known of.
    pub fn space(&self) -> Result<Space, Error> {
        self.with(|reader| Ok(reader.space()))
    }

    /// What an inode says of itself.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn metadata(&self, ino: Ino) -> Result<Metadata, Error> {
        self.with(|reader| reader.metadata(ino))
    }

    /// A symbolic link's target.
    ///
    /// # Errors
    /// When the inode is no symbolic link, or cannot be read.
    pub fn read_link(&self, ino: Ino) -> Result<Vec<u8>, Error> {
        self.with(|reader| reader.read_link(ino))
    }

    /// All extended attributes by full name, sorted.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn xattrs(&self, ino: Ino) -> Result<Vec<Xattr>, Error> {
        self.with(|reader| reader.xattrs(ino))
    }

    /// A regular file, for reading.
    ///
    /// # Errors
    /// When it is none, or cannot be read.
    pub fn open_file(&self, ino: Ino) -> Result<OpenFile, Error> {
        let (size, extents) = self.with(|reader| reader.file_extents(ino))?;
        Ok(OpenFile { size, extents })
    }

    /// Reads from byte `offset` of a file, up to its end; how many bytes that made.
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub fn read(&self, file: &OpenFile, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let length = file.size.saturating_sub(offset).min(buf.len() as u64);
        let length = usize::try_from(length).map_err(io::Error::other)?;
        let mut rest = &mut buf[..length];
        let (mut at, end) = (offset, offset + length as u64);
        let block = self.block_size;
        let behind = |extent: &FileExtent| {
            (u64::from(extent.logical_block) + u64::from(extent.blocks)) * block
        };
        let first = file.extents.partition_point(|extent| behind(extent) <= at);
        for extent in &file.extents[first..] {
            let start = u64::from(extent.logical_block) * block;
            if start >= end {
                break;
            }
            if start > at {
                let (hole, later) =
                    rest.split_at_mut(usize::try_from(start - at).map_err(io::Error::other)?);
                hole.fill(0);
                rest = later;
                at = start;
            }
            let part = usize::try_from(behind(extent).min(end) - at).map_err(io::Error::other)?;
            let (now, later) = rest.split_at_mut(part);
            self.device
                .read_at(extent.physical_block * block + (at - start), now)?;
            rest = later;
            at += part as u64;
        }
        rest.fill(0);
        Ok(length)
    }
}
