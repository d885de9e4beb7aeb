//! A `ZFile` read at random.

mod places;

use std::io;

use parking_lot::Mutex;
use zerocopy::{FromZeros, IntoBytes};

use super::codec::decompress;
use super::error::ZFileError;
use super::layout::{BLOCK_CRC, BLOCK_CRC_INIT, Geometry, Place};
use super::offsets::Offsets;
use super::raw::{RawHeader, SPACE};
use super::refusal::UnreadableBlock;
use crate::format::block::{BlockDevice, Damaged, SharedDevice, check_range};
use crate::format::crc::crc32c;

/// Most stored bytes of a read, unless one block has more.
const MAX_READ_BYTES: u64 = 1 << 20;
/// Decoded blocks that are cached, so that neighbouring small reads decode one block.
const CACHED_BLOCKS: usize = 16;

/// The original of a `ZFile`, as a disk of bytes. Each block's CRC is verified when it is read.
pub struct ZFileReader {
    device: SharedDevice,
    geometry: Geometry,
    offsets: Offsets,
    unreadable: Option<UnreadableBlock>,
    /// Blocks by number, the last used last.
    cache: Mutex<Vec<(u64, Vec<u8>)>>,
}

impl std::fmt::Debug for ZFileReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ZFileReader")
            .field("geometry", &self.geometry)
            .finish_non_exhaustive()
    }
}

fn damaged(text: String) -> io::Error {
    Damaged(text).into()
}

impl ZFileReader {
    /// Opens the `ZFile` that all of `device` is.
    ///
    /// # Errors
    /// When it cannot be read or is not a whole `ZFile`.
    pub fn open(device: SharedDevice) -> Result<Self, ZFileError> {
        let size = device.size();
        let at_place = |offset, place, name| -> Result<Option<Geometry>, ZFileError> {
            let mut raw = RawHeader::new_zeroed();
            device.read_at(offset, raw.as_mut_bytes())?;
            Geometry::decode(&raw, place).map_err(|source| ZFileError::Layout {
                place: name,
                source,
            })
        };
        let geometry = match at_place(0, Place::Header, "header")? {
            Some(geometry) => Some(geometry),
            None => at_place(size.saturating_sub(SPACE as u64), Place::Trailer, "trailer")?,
        };
        let geometry = geometry
            .ok_or_else(|| ZFileError::Index("the trailer does not say where it is".into()))?;
        let (offsets, unreadable) = Offsets::read(&device, &geometry)?;
        Ok(Self {
            device,
            geometry,
            offsets,
            unreadable,
            cache: Mutex::new(Vec::new()),
        })
    }

    /// What the header says.
    #[must_use]
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// What overlaybd cannot read of it, although this reader can.
    #[must_use]
    pub fn unreadable_block(&self) -> Option<UnreadableBlock> {
        self.unreadable
    }

    fn block_len(&self, n: u64) -> usize {
        let block_size = u64::from(self.geometry.block_size.bytes());
        let len = self
            .geometry
            .original_size
            .saturating_sub(n * block_size)
            .min(block_size);
        usize::try_from(len).unwrap_or(0)
    }

    /// Decodes the stored block `n` into all of `target`.
    fn decode(&self, n: u64, stored: &[u8], target: &mut [u8]) -> io::Result<()> {
        let data = if self.geometry.verify {
            let (data, crc) = stored.split_at(stored.len().saturating_sub(BLOCK_CRC));
            let computed = crc32c(BLOCK_CRC_INIT, data);
            if crc != computed.to_le_bytes() {
                return Err(damaged(format!(
                    "the CRC of block {n} of the ZFile is wrong"
                )));
            }
            data
        } else {
            stored
        };
        if decompress(self.geometry.algorithm, data, target) {
            Ok(())
        } else {
            Err(damaged(format!(
                "block {n} of the ZFile does not decompress to its size"
            )))
        }
    }

    /// Says which bytes are read for `len` bytes from block `n` on, if these are several reads.
    fn announce(&self, n: u64, len: usize) -> io::Result<()> {
        let blocks = (len as u64).div_ceil(self.geometry.block_size.bytes().into());
        let (start, end) = (self.offsets.of(n)?, self.offsets.of(n + blocks)?);
        if end - start > MAX_READ_BYTES {
            self.device.will_read(start, end - start);
        }
        Ok(())
    }

    /// Decodes the stored block `n`, which is `stored` and begins at byte `at`. A damaged one that
    /// came from elsewhere is read anew once: what damaged it may have been on the way here.
    fn decode_or_reread(
        &self,
        n: u64,
        at: u64,
        stored: &[u8],
        target: &mut [u8],
    ) -> io::Result<()> {
        let Err(error) = self.decode(n, stored, target) else {
            return Ok(());
        };
        let Some(name) = self.device.name() else {
            return Err(error);
        };
        let mut anew = vec![0; stored.len()];
        self.device.read_anew(at, &mut anew).map_err(|cause| {
            let text = format!("{name}: {error}, and it cannot be read anew: {cause}");
            io::Error::new(cause.kind(), text)
        })?;
        let again = self.decode(n, &anew, target);
        again.map_err(|error| damaged(format!("{name}: {error}")))
    }

    /// Reads whole blocks, the stored bytes of as many as fit in one read.
    fn read_blocks(&self, mut n: u64, mut target: &mut [u8]) -> io::Result<()> {
        self.announce(n, target.len())?;
        let mut stored = Vec::new();
        while !target.is_empty() {
            let start = self.offsets.of(n)?;
            let (mut last, mut len) = (n, 0);
            while len < target.len() {
                let end = self.offsets.of(last + 1)?;
                if last > n && end - start > MAX_READ_BYTES {
                    break;
                }
                len += self.block_len(last);
                last += 1;
            }
            let end = self.offsets.of(last)?;
            stored.resize(usize::try_from(end - start).map_err(io::Error::other)?, 0);
            self.device.read_at(start, &mut stored)?;
            for block in n..last {
                let from =
                    usize::try_from(self.offsets.of(block)? - start).map_err(io::Error::other)?;
                let to = usize::try_from(self.offsets.of(block + 1)? - start)
                    .map_err(io::Error::other)?;
                let (now, later) = std::mem::take(&mut target).split_at_mut(self.block_len(block));
                self.decode_or_reread(block, start + from as u64, &stored[from..to], now)?;
                target = later;
            }
            n = last;
        }
        Ok(())
    }

    /// Reads a part of one block through the cache.
    fn read_part(&self, n: u64, within: usize, target: &mut [u8]) -> io::Result<()> {
        let lock = || self.cache.lock();
        {
            let mut cache = lock();
            if let Some(place) = cache.iter().position(|(block, _)| *block == n) {
                cache[place..].rotate_left(1);
                if let Some((_, data)) = cache.last() {
                    target.copy_from_slice(&data[within..within + target.len()]);
                }
                return Ok(());
            }
        }
        let mut data = vec![0; self.block_len(n)];
        self.read_blocks(n, &mut data)?;
        target.copy_from_slice(&data[within..within + target.len()]);
        let mut cache = lock();
        if cache.len() >= CACHED_BLOCKS {
            cache.remove(0);
        }
        cache.push((n, data));
        Ok(())
    }
}

impl BlockDevice for ZFileReader {
    fn size(&self) -> u64 {
        self.geometry.original_size
    }

    fn will_read(&self, offset: u64, len: u64) {
        let block_size = u64::from(self.geometry.block_size.bytes());
        let end = offset.saturating_add(len).min(self.size());
        let (first, last) = (offset / block_size, end.div_ceil(block_size));
        // Of what is not there nothing is read either.
        if let (true, Ok(start), Ok(end)) =
            (first < last, self.offsets.of(first), self.offsets.of(last))
        {
            self.device.will_read(start, end - start);
        }
    }

    fn read_at(&self, offset: u64, mut buf: &mut [u8]) -> io::Result<()> {
        check_range(self.size(), offset, buf.len() as u64)?;
        let block_size = u64::from(self.geometry.block_size.bytes());
        let mut n = offset / block_size;
        let mut within = usize::try_from(offset % block_size).map_err(io::Error::other)?;
        while !buf.is_empty() {
            let len = self.block_len(n);
            if within == 0 && buf.len() >= len {
                // Every whole block from here on, at once.
                let rest = self.size() - n * block_size;
                let whole = if buf.len() as u64 == rest {
                    buf.len()
                } else {
                    buf.len() - buf.len() % self.geometry.block_size.len()
                };
                let (now, later) = std::mem::take(&mut buf).split_at_mut(whole);
                self.read_blocks(n, now)?;
                n += (whole as u64).div_ceil(block_size);
                buf = later;
            } else {
                let part = (len - within).min(buf.len());
                let (now, later) = std::mem::take(&mut buf).split_at_mut(part);
                self.read_part(n, within, now)?;
                n += 1;
                buf = later;
            }
            within = 0;
        }
        Ok(())
    }
}
