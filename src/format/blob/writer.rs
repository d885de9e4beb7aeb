//! A layer blob under construction: a disk that is written, over the disk below.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::thread;

use sha2::Digest as _;

use super::lsmt_writer::{LayerSpec, LsmtWriter, WriterError};
use super::spool::MakeSpoolFile;
use super::stack::Stack;
use super::wrapping;
use crate::format::block::{BlockDevice, BlockDeviceMut, Wanted};
use crate::format::zfile::{CompressPool, Geometry, WriteBehind};
use crate::oci::Digest;

/// Bytes of a blob from which on a thread of its own syncs it: less is hashed at once.
const SYNCED_BESIDE: u64 = 4 << 20;

/// A blob that is complete in its file, and neither hashed nor synced to its end, for which the next
/// layer need not wait.
#[derive(Debug)]
pub struct WrittenBlob {
    file: File,
    size: u64,
    zfile: Geometry,
    write_behind: Option<WriteBehind>,
}

impl WrittenBlob {
    /// Syncs the file and hashes it.
    ///
    /// # Errors
    /// When the file cannot be synced or read back.
    pub fn seal(self) -> io::Result<FinishedBlob> {
        self.seal_with(|_| {})
    }

    /// As [`seal`](Self::seal), with the digest told to `hashed` as soon as it is known, which may be
    /// before the file is on the disk.
    ///
    /// # Errors
    /// As [`seal`](Self::seal).
    pub fn seal_with(mut self, hashed: impl FnOnce(&Digest)) -> io::Result<FinishedBlob> {
        // The disk writes while this hashes what is in memory.
        let (synced, digest) = thread::scope(|scope| {
            let file = &self.file;
            let sync = (self.size >= SYNCED_BESIDE).then(|| {
                let sync = thread::Builder::new().name("sync".to_owned());
                sync.spawn_scoped(scope, || file.sync_all())
            });
            let digest = digest(file, self.size);
            if let Ok(digest) = &digest {
                hashed(digest);
            }
            let synced = match sync {
                Some(Ok(sync)) => sync
                    .join()
                    .unwrap_or_else(|_| Err(io::Error::other("the thread that syncs has ended"))),
                Some(Err(_)) | None => file.sync_all(),
            };
            (synced, digest)
        });
        // It may have been told of an error that the last sync was not told of again.
        if let Some(syncs) = &mut self.write_behind {
            syncs.finish()?;
        }
        synced?;
        Ok(FinishedBlob {
            digest: digest?,
            size: self.size,
            zfile: self.zfile,
        })
    }
}

/// A blob that is complete and on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FinishedBlob {
    /// Digest of the whole blob.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// What its `ZFile` header says.
    pub zfile: Geometry,
}

/// A disk over a [`Stack`], whose writes make up a layer blob.
///
/// Data goes to the blob in the order of the writes. With a [`keep_wanted`](Self::keep_wanted),
/// that of files that are wanted, by [`set_wanted`](BlockDeviceMut::set_wanted), comes where
/// [`place_wanted`](Self::place_wanted) is called. What this layer wrote as data cannot be read
/// back before the blob is finished.
///
/// A disk of 1 MiB with one block of data, and the same read back through a [`Stack`]:
///
/// ```
/// use std::sync::Arc;
///
/// use overlaybd_proxy::format::blob::{
///     Algorithm, BlockSize, CompressPool, LayerBlob, LayerSpec, LayerWriter, Stack,
/// };
/// use overlaybd_proxy::format::block::{BlockDevice, BlockDeviceMut, FileDevice};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let spec = LayerSpec {
///     virtual_size: 1 << 20,
///     algorithm: Algorithm::Lz4,
///     block_size: BlockSize::KIB_4,
///     uuid: "00000000-0000-0000-0000-000000000000".to_owned(),
///     parent_uuid: String::new(),
/// };
/// let file = tempfile::tempfile()?;
/// let lower = Arc::new(Stack::empty(spec.virtual_size));
/// let pool = CompressPool::new(1)?;
/// let mut layer = LayerWriter::create(lower, file.try_clone()?, spec, &pool)?;
/// layer.write_at(8192, &[7; 4096])?;
/// let blob = layer.finish("")?.seal()?;
/// assert_eq!(blob.size, file.metadata()?.len());
///
/// let layer = LayerBlob::open(Arc::new(FileDevice::new(file)?))?;
/// let disk = Stack::new(vec![Arc::new(layer)])?;
/// let mut block = [0; 4096];
/// disk.read_at(8192, &mut block)?;
/// assert_eq!(block, [7; 4096]);
/// # Ok(())
/// # }
/// ```
pub struct LayerWriter {
    disk: LsmtWriter,
    file: File,
}

impl LayerWriter {
    /// A layer over `lower` into `out`, an empty file that is open for reading and writing.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn create(
        lower: Arc<Stack>,
        out: File,
        spec: LayerSpec,
        pool: &CompressPool,
    ) -> io::Result<Self> {
        let place = (out.try_clone()?, wrapping::START);
        let mut disk = LsmtWriter::create(lower, place, spec, pool)?;
        disk.write_behind();
        Ok(Self { disk, file: out })
    }

    /// Has the data of files that are wanted kept until it is placed: in memory, and beyond
    /// [`SPOOL_MEMORY_BYTES`](super::SPOOL_MEMORY_BYTES) in a file that `make` makes.
    #[must_use]
    pub fn keep_wanted(mut self, make: MakeSpoolFile) -> Self {
        self.disk.keep_wanted(make);
        self
    }

    /// Writes the data of files that are wanted, the lowest rank first, and that of one rank as it
    /// came. Later data is not kept. What was discarded since is left out.
    ///
    /// # Errors
    /// When a file cannot be written or read back.
    pub fn place_wanted(&mut self) -> io::Result<()> {
        self.disk.place_wanted()
    }

    /// Writes index and trailers. `user_tag` goes into the LSMT's trailer.
    ///
    /// # Errors
    /// When the file cannot be written, or the layer has more mappings than readers take.
    pub fn finish(self, user_tag: &str) -> Result<WrittenBlob, WriterError> {
        let finished = self.disk.finish(user_tag)?;
        let end = wrapping::START + finished.size;
        let size = end + wrapping::back(finished.size);
        self.file.set_len(size)?;
        self.file
            .write_all_at(&wrapping::front(finished.size)?, 0)?;
        Ok(WrittenBlob {
            file: self.file,
            size,
            zfile: finished.geometry,
            write_behind: finished.write_behind,
        })
    }
}

/// The front of a blob is known last, so its digest takes a pass of its own, over bytes that
/// are in the page cache.
fn digest(file: &File, size: u64) -> io::Result<Digest> {
    let mut hasher = sha2::Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0;
    while at < size {
        let part = usize::try_from(size - at)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        file.read_exact_at(&mut buffer[..part], at)?;
        hasher.update(&buffer[..part]);
        at += part as u64;
    }
    Ok(Digest::from_sha256(hasher.finalize().into()))
}

impl BlockDevice for LayerWriter {
    fn size(&self) -> u64 {
        self.disk.size()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.disk.read_at(offset, buf)
    }
}

impl BlockDeviceMut for LayerWriter {
    fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.disk.write_at(offset, data)
    }

    fn zero_at(&mut self, offset: u64, len: u64) -> io::Result<()> {
        self.disk.zero_at(offset, len)
    }

    fn discard_at(&mut self, offset: u64, len: u64) -> io::Result<()> {
        self.disk.discard_at(offset, len)
    }

    fn set_wanted(&mut self, file: Option<Wanted>) {
        self.disk.set_wanted(file);
    }

    fn copy_at(&mut self, from: u64, to: u64, len: u64) -> io::Result<()> {
        self.disk.copy_at(from, to, len)
    }
}
