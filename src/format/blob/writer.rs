//! A layer blob under construction: a disk that is written, over the disk below.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use sha2::Digest as _;
use zerocopy::IntoBytes as _;

use super::stack::Stack;
use super::wrapping;
use crate::format::block::{BlockDevice, BlockDeviceMut, SECTOR, check_write};
use crate::format::lsmt::{Header, MAX_MAPPINGS, Place, Segments, Target, encode_index};
use crate::format::zfile::{Algorithm, BlockSize, CompressPool, Geometry, ZFileWriter};
use crate::oci::Digest;

/// Bytes that are stored as zeros where all of them are: ext4's block.
const ZERO_CHECK_BYTES: usize = 4096;
/// Most bytes of the disk below that are copied at once.
const MAX_COPY_BYTES: u64 = 256 << 10;

/// What a layer is besides its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerSpec {
    /// Size of the disk in bytes.
    pub virtual_size: u64,
    /// How blocks are compressed.
    pub algorithm: Algorithm,
    /// Bytes of the original in a block.
    pub block_size: BlockSize,
    /// The layer's uuid as text.
    pub uuid: String,
    /// The uuid of the layer below; empty at the bottom.
    pub parent_uuid: String,
}

/// Errors of finishing a blob.
#[derive(Debug, thiserror::Error)]
pub enum WriterError {
    /// The file could not be written or read back.
    #[error("the blob cannot be written: {0}")]
    Io(#[from] io::Error),
    /// The layer is too scattered for readers.
    #[error("the layer makes {0} mappings, and readers take {MAX_MAPPINGS}: split or squash it")]
    TooManyMappings(u64),
}

/// A blob that is complete in its file, and neither hashed nor synced: both take a pass over
/// all of it, for which the next layer need not wait.
#[derive(Debug)]
pub struct WrittenBlob {
    file: File,
    size: u64,
    zfile: Geometry,
}

impl WrittenBlob {
    /// Syncs the file and hashes it.
    ///
    /// # Errors
    /// When the file cannot be synced or read back.
    pub fn seal(self) -> io::Result<FinishedBlob> {
        self.file.sync_all()?;
        Ok(FinishedBlob {
            digest: digest(&self.file, self.size)?,
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
/// Data goes to the blob in the order of the writes. What this layer wrote as data cannot be
/// read back before the blob is finished.
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
    lower: Arc<Stack>,
    file: File,
    zfile: ZFileWriter,
    spec: LayerSpec,
    segments: Segments,
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
        let mut zfile = ZFileWriter::new(
            out.try_clone()?,
            wrapping::START,
            spec.algorithm,
            spec.block_size,
            pool.clone(),
        );
        zfile.write(header(&spec, "").encode(Place::Header).as_bytes())?;
        Ok(Self {
            lower,
            file: out,
            zfile,
            spec,
            segments: Segments::default(),
        })
    }

    /// Writes index and trailers. `user_tag` goes into the LSMT's trailer.
    ///
    /// # Errors
    /// When the file cannot be written, or the layer has more mappings than readers take.
    pub fn finish(mut self, user_tag: &str) -> Result<WrittenBlob, WriterError> {
        let (index, entries) = encode_index(self.segments.mappings());
        if entries > MAX_MAPPINGS {
            return Err(WriterError::TooManyMappings(entries));
        }
        let trailer = Header {
            index_offset: self.zfile.original_size(),
            index_size: entries,
            ..header(&self.spec, user_tag)
        };
        self.zfile.write(&index)?;
        self.zfile
            .write(trailer.encode(Place::Trailer).as_bytes())?;
        let finished = self.zfile.finish()?;
        let end = wrapping::START + finished.size;
        let size = end + wrapping::back(finished.size);
        self.file.set_len(size)?;
        self.file
            .write_all_at(&wrapping::front(finished.size)?, 0)?;
        Ok(WrittenBlob {
            file: self.file,
            size,
            zfile: finished.geometry,
        })
    }

    fn append(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        let moffset = self.zfile.original_size() / SECTOR;
        self.zfile.write(data)?;
        self.segments
            .map(offset / SECTOR, data.len() as u64 / SECTOR, moffset);
        Ok(())
    }
}

fn header(spec: &LayerSpec, user_tag: &str) -> Header {
    Header {
        index_offset: 0,
        index_size: 0,
        virtual_size: spec.virtual_size,
        uuid: spec.uuid.clone(),
        parent_uuid: spec.parent_uuid.clone(),
        user_tag: user_tag.to_owned(),
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

fn is_zero(data: &[u8]) -> bool {
    // Sixteen bytes at a time; most data differs in the first.
    let (words, rest) = data.as_chunks::<16>();
    words.iter().all(|word| u128::from_ne_bytes(*word) == 0) && rest.iter().all(|byte| *byte == 0)
}

impl BlockDevice for LayerWriter {
    fn size(&self) -> u64 {
        self.spec.virtual_size
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let first = offset / SECTOR;
        let count = (offset + buf.len() as u64)
            .div_ceil(SECTOR)
            .saturating_sub(first);
        if self.segments.is_touched(first, count) {
            let text = format!("{} bytes at {offset} were written by this layer", buf.len());
            return Err(io::Error::new(io::ErrorKind::Unsupported, text));
        }
        self.lower.read_at(offset, buf)
    }
}

impl BlockDeviceMut for LayerWriter {
    fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        check_write(self.spec.virtual_size, offset, data.len() as u64)?;
        let mut start = 0;
        while start < data.len() {
            let piece_end = |at: usize| {
                let within =
                    usize::try_from((offset + at as u64) % ZERO_CHECK_BYTES as u64).unwrap_or(0);
                (at + ZERO_CHECK_BYTES - within).min(data.len())
            };
            let mut end = piece_end(start);
            let zero = is_zero(&data[start..end]);
            while end < data.len() {
                let next = piece_end(end);
                if is_zero(&data[end..next]) != zero {
                    break;
                }
                end = next;
            }
            let at = offset + start as u64;
            if zero {
                self.zero_at(at, (end - start) as u64)?;
            } else {
                self.append(at, &data[start..end])?;
            }
            start = end;
        }
        Ok(())
    }

    fn zero_at(&mut self, offset: u64, len: u64) -> io::Result<()> {
        self.discard_at(offset, len)?;
        for hidden in self.lower.data(offset / SECTOR..(offset + len) / SECTOR) {
            self.segments.zero(hidden.start, hidden.end - hidden.start);
        }
        Ok(())
    }

    fn discard_at(&mut self, offset: u64, len: u64) -> io::Result<()> {
        check_write(self.spec.virtual_size, offset, len)?;
        self.segments.remove(offset / SECTOR, len / SECTOR);
        Ok(())
    }

    /// Data of this layer is not stored again: both places are mapped to it.
    fn copy_at(&mut self, from: u64, to: u64, len: u64) -> io::Result<()> {
        check_write(self.spec.virtual_size, from, len)?;
        check_write(self.spec.virtual_size, to, len)?;
        let mut buffer = Vec::new();
        for (piece, target) in self.segments.pieces(from / SECTOR..(from + len) / SECTOR) {
            let start = to + (piece.start * SECTOR - from);
            let sectors = piece.end - piece.start;
            match target {
                Some(Target::Data(moffset)) => {
                    self.segments.map(start / SECTOR, sectors, moffset);
                }
                Some(Target::Zeros) => self.zero_at(start, sectors * SECTOR)?,
                None => {
                    let end = piece.end * SECTOR;
                    let mut at = piece.start * SECTOR;
                    while at < end {
                        let part = (end - at).min(MAX_COPY_BYTES);
                        buffer.resize(usize::try_from(part).map_err(io::Error::other)?, 0);
                        self.lower.read_at(at, &mut buffer)?;
                        self.write_at(to + (at - from), &buffer)?;
                        at += part;
                    }
                }
            }
        }
        Ok(())
    }
}
