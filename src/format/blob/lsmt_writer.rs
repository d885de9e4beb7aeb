//! A layer under construction, as native and `TurboOCI` layers both are: a disk over the disk below,
//! whose writes become an LSMT in a `ZFile`.

use std::fs::File;
use std::io;
use std::sync::Arc;

use zerocopy::IntoBytes as _;

use super::spool::{MakeSpoolFile, Spool};
use super::stack::Stack;
use crate::format::block::{BlockDevice, BlockDeviceMut, SECTOR, Wanted, check_range, check_write};
use crate::format::lsmt::{
    Header, KEPT, MAX_MAPPINGS, Mapping, Place, REMOTE, Segments, encode_index,
};
use crate::format::zfile::{Algorithm, BlockSize, CompressPool, Finished, ZFileWriter};

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

/// The disk. Data goes to the `ZFile` in the order of the writes, but for that of files that are
/// wanted: it comes last, by rank.
pub(super) struct LsmtWriter {
    lower: Arc<Stack>,
    zfile: ZFileWriter,
    spec: LayerSpec,
    segments: Segments,
    spool: Spool,
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

fn is_zero(data: &[u8]) -> bool {
    // Sixteen bytes at a time; most data differs in the first.
    let (words, rest) = data.as_chunks::<16>();
    words.iter().all(|word| u128::from_ne_bytes(*word) == 0) && rest.iter().all(|byte| *byte == 0)
}

impl LsmtWriter {
    /// A layer over `lower`, into a `ZFile` that begins at byte `start` of `out`.
    pub(super) fn create(
        lower: Arc<Stack>,
        (out, start): (File, u64),
        spec: LayerSpec,
        pool: &CompressPool,
    ) -> io::Result<Self> {
        let mut zfile = ZFileWriter::new(out, start, spec.algorithm, spec.block_size, pool.clone());
        zfile.write(header(&spec, "").encode(Place::Header).as_bytes())?;
        Ok(Self {
            lower,
            zfile,
            spec,
            segments: Segments::default(),
            spool: Spool::default(),
        })
    }

    /// Has the disk write the file while more is being made.
    pub(super) fn write_behind(&mut self) {
        self.zfile.write_behind();
    }

    /// Puts the data of files that are wanted at the end, of which `make` makes a file for what is
    /// not kept in memory.
    pub(super) fn keep_wanted(&mut self, make: MakeSpoolFile) {
        self.spool = Spool::new(make);
    }

    /// Writes the data of files that are wanted, as far as it is mapped.
    pub(super) fn place_wanted(&mut self) -> io::Result<()> {
        let mut spool = std::mem::take(&mut self.spool);
        let mut buffer = Vec::new();
        let mut placed = Vec::new();
        for part in spool.in_order(&self.segments.kept()) {
            placed.push((part.clone(), self.zfile.original_size() / SECTOR));
            let (mut at, end) = (part.start * SECTOR, part.end * SECTOR);
            while at < end {
                let length = (end - at).min(MAX_COPY_BYTES);
                buffer.resize(usize::try_from(length).map_err(io::Error::other)?, 0);
                spool.read_at(at, &mut buffer)?;
                self.zfile.write(&buffer)?;
                at += length;
            }
        }
        if !placed.is_empty() {
            placed.sort_unstable_by_key(|(part, _)| part.start);
            self.segments.place(&placed);
        }
        Ok(())
    }

    pub(super) fn spec(&self) -> &LayerSpec {
        &self.spec
    }

    /// Writes index and trailers. `user_tag` goes into the LSMT's trailer.
    pub(super) fn finish(mut self, user_tag: &str) -> Result<Finished, WriterError> {
        self.place_wanted()?;
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
        Ok(self.zfile.finish()?)
    }

    /// Readers count tags from the smallest that they find: with mappings to the target alone
    /// they would take all of them for the layer's own data. So a sector that is not mapped is
    /// then stored as it is below.
    pub(super) fn keep_one_of_its_own(&mut self) -> io::Result<()> {
        let is_remote = |mapping: Mapping| mapping.tag == REMOTE;
        if !self.segments.mappings().all(is_remote) {
            return Ok(());
        }
        let mut free = 0;
        for mapping in self.segments.mappings() {
            if mapping.offset == free {
                free = mapping.end();
            }
        }
        let mut sector = [0; 512];
        self.lower.read_at(free * SECTOR, &mut sector)?;
        self.append(free * SECTOR, &sector)
    }

    fn append(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        if self.spool.is_keeping() {
            let moffset = self.spool.len() / SECTOR;
            self.spool.write(data)?;
            let length = data.len() as u64 / SECTOR;
            self.segments.map_kept(offset / SECTOR, length, moffset);
            return Ok(());
        }
        let moffset = self.zfile.original_size() / SECTOR;
        self.zfile.write(data)?;
        self.segments
            .map(offset / SECTOR, data.len() as u64 / SECTOR, moffset);
        Ok(())
    }

    /// Stores what the disk below has at `from` at `to`.
    fn copy_below(&mut self, from: u64, to: u64, len: u64) -> io::Result<()> {
        let mut buffer = Vec::new();
        let mut done = 0;
        while done < len {
            let part = (len - done).min(MAX_COPY_BYTES);
            buffer.resize(usize::try_from(part).map_err(io::Error::other)?, 0);
            self.lower.read_at(from + done, &mut buffer)?;
            self.write_at(to + done, &buffer)?;
            done += part;
        }
        Ok(())
    }
}

impl BlockDevice for LsmtWriter {
    fn size(&self) -> u64 {
        self.spec.virtual_size
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        check_range(self.spec.virtual_size, offset, buf.len() as u64)?;
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

impl BlockDeviceMut for LsmtWriter {
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

    fn set_wanted(&mut self, file: Option<Wanted>) {
        self.spool.begin(file);
    }

    fn map_target(&mut self, offset: u64, len: u64, target: u64) -> io::Result<()> {
        check_write(self.spec.virtual_size, offset, len)?;
        if !target.is_multiple_of(SECTOR) {
            let text = format!("byte {target} of the tar does not begin a sector");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        self.segments
            .map_remote(offset / SECTOR, len / SECTOR, target / SECTOR);
        Ok(())
    }

    /// What this layer wrote or mapped is not stored again: both places are mapped to it.
    fn copy_at(&mut self, from: u64, to: u64, len: u64) -> io::Result<()> {
        check_write(self.spec.virtual_size, from, len)?;
        check_write(self.spec.virtual_size, to, len)?;
        for (part, mapping) in self.segments.parts(from / SECTOR..(from + len) / SECTOR) {
            let start = to / SECTOR + (part.start - from / SECTOR);
            let length = part.end - part.start;
            match mapping {
                Some(mapping) if mapping.zeroed => {
                    self.zero_at(start * SECTOR, length * SECTOR)?;
                }
                Some(mapping) if mapping.tag == REMOTE => {
                    self.segments.map_remote(start, length, mapping.moffset);
                }
                Some(mapping) if mapping.tag == KEPT => {
                    self.segments.map_kept(start, length, mapping.moffset);
                }
                Some(mapping) => self.segments.map(start, length, mapping.moffset),
                None => self.copy_below(part.start * SECTOR, start * SECTOR, length * SECTOR)?,
            }
        }
        Ok(())
    }
}
