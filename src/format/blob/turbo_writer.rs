//! The metadata of a `TurboOCI` layer under construction: a disk of which file data is in the
//! original layer's tar.

use std::fs::File;
use std::io;
use std::sync::Arc;

use zerocopy::IntoBytes as _;

use super::stack::Stack;
use super::writer::{LayerSpec, WriterError};
use crate::format::block::{BlockDevice, BlockDeviceMut, SECTOR, check_range, check_write};
use crate::format::lsmt::{Header, MAX_MAPPINGS, Mapping, Place, REMOTE, Segments, encode_index};
use crate::format::zfile::{CompressPool, Finished, ZFileWriter};

/// Bytes that are stored as zeros where all of them are: ext4's block.
const ZERO_CHECK_BYTES: u64 = 4096;
/// Most bytes of the disk below that are copied at once.
const MAX_COPY_BYTES: u64 = 256 << 10;

/// A disk over a [`Stack`], whose writes make up the metadata of a `TurboOCI` layer: an
/// `ext4.fs.meta`, which is a `ZFile` with a warp file. The file data is not written but mapped, by
/// [`map_target`](BlockDeviceMut::map_target).
///
/// What this layer wrote or mapped cannot be read back before it is finished.
pub struct TurboWriter {
    lower: Arc<Stack>,
    zfile: ZFileWriter,
    spec: LayerSpec,
    segments: Segments,
}

impl std::fmt::Debug for TurboWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TurboWriter")
            .field("spec", &self.spec)
            .finish_non_exhaustive()
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

fn is_zero(data: &[u8]) -> bool {
    data.iter().all(|byte| *byte == 0)
}

impl TurboWriter {
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
        let mut zfile = ZFileWriter::new(out, 0, spec.algorithm, spec.block_size, pool.clone());
        zfile.write(header(&spec, "").encode(Place::Header).as_bytes())?;
        Ok(Self {
            lower,
            zfile,
            spec,
            segments: Segments::default(),
        })
    }

    /// Writes index and trailers. `user_tag` goes into the LSMT's trailer.
    ///
    /// # Errors
    /// When the file cannot be written, or the layer has more mappings than readers take.
    pub fn finish(mut self, user_tag: &str) -> Result<Finished, WriterError> {
        self.keep_one_of_its_own()?;
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
    fn keep_one_of_its_own(&mut self) -> io::Result<()> {
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

    fn append(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        let moffset = self.zfile.original_size() / SECTOR;
        self.zfile.write(data)?;
        self.segments
            .map(offset / SECTOR, data.len() as u64 / SECTOR, moffset);
        Ok(())
    }
}

impl BlockDevice for TurboWriter {
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

impl BlockDeviceMut for TurboWriter {
    fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        check_write(self.spec.virtual_size, offset, data.len() as u64)?;
        let mut at = offset;
        let mut rest = data;
        while !rest.is_empty() {
            let to_block = ZERO_CHECK_BYTES - at % ZERO_CHECK_BYTES;
            let length = usize::try_from(to_block).map_err(io::Error::other)?;
            let (block, later) = rest.split_at(length.min(rest.len()));
            if is_zero(block) {
                self.zero_at(at, block.len() as u64)?;
            } else {
                self.append(at, block)?;
            }
            at += block.len() as u64;
            rest = later;
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
                Some(mapping) => self.segments.map(start, length, mapping.moffset),
                None => self.copy_below(part.start * SECTOR, start * SECTOR, length * SECTOR)?,
            }
        }
        Ok(())
    }
}
