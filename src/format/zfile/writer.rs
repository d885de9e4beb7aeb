//! A `ZFile` written front to back, compressed by the pool.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::mpsc::Receiver;

use zerocopy::IntoBytes;

use super::codec::{Algorithm, BlockSize, CompressError, decompress};
use super::layout::{BLOCK_CRC, Geometry, Place};
use super::pool::{Batch, CompressPool};
use super::raw::SPACE;
use super::write_behind::WriteBehind;
use crate::format::crc::crc32c;

/// Raw bytes that one thread compresses at a time: large enough that handing them over costs
/// little, small enough that many batches take little memory.
const BATCH_BYTES: usize = 256 << 10;

/// Writes a `ZFile` at a place in a file.
pub struct ZFileWriter {
    file: File,
    pool: CompressPool,
    algorithm: Algorithm,
    block_size: BlockSize,
    /// Where in the file the `ZFile` is to begin in the end.
    origin: u64,
    /// Where it begins now.
    base: u64,
    /// Where in the file the next block goes.
    position: u64,
    original_size: u64,
    index: Vec<u32>,
    filling: Batch,
    in_flight: VecDeque<Receiver<Result<Batch, CompressError>>>,
    spare: Vec<Batch>,
    write_behind: Option<WriteBehind>,
}

/// A `ZFile` that is complete.
#[derive(Debug)]
pub struct Finished {
    /// Its bytes, header and trailer included.
    pub size: u64,
    /// What its header says.
    pub geometry: Geometry,
    /// The sync of the file that may be running. It is finished before the file is synced, because
    /// the kernel reports a failed write once.
    pub write_behind: Option<WriteBehind>,
}

impl ZFileWriter {
    /// A writer of a `ZFile` that begins at byte `origin` of `file`.
    pub fn new(
        file: File,
        origin: u64,
        algorithm: Algorithm,
        block_size: BlockSize,
        pool: CompressPool,
    ) -> Self {
        Self {
            file,
            pool,
            algorithm,
            block_size,
            origin,
            base: origin,
            position: origin + SPACE as u64,
            original_size: 0,
            index: Vec::new(),
            filling: Batch::default(),
            in_flight: VecDeque::new(),
            spare: Vec::new(),
            write_behind: None,
        }
    }

    /// Has the disk write the file while more is being made, for a file that is synced in the end.
    pub fn write_behind(&mut self) {
        self.write_behind = Some(WriteBehind::default());
    }

    /// Bytes of the original written so far.
    #[must_use]
    pub fn original_size(&self) -> u64 {
        self.original_size
    }

    /// Appends to the original.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&mut self, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            let part = (BATCH_BYTES - self.filling.raw.len()).min(data.len());
            // Counted part by part: a restart counts again what was written before.
            self.original_size += part as u64;
            let (now, later) = data.split_at(part);
            self.filling.raw.extend_from_slice(now);
            data = later;
            if self.filling.raw.len() == BATCH_BYTES {
                self.submit()?;
            }
        }
        Ok(())
    }

    /// Appends zeros to the original.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn write_zeros(&mut self, mut len: u64) -> io::Result<()> {
        let zeros = [0; 4096];
        while len > 0 {
            let part = usize::try_from(len).unwrap_or(usize::MAX).min(zeros.len());
            self.write(&zeros[..part])?;
            len -= part as u64;
        }
        Ok(())
    }

    fn submit(&mut self) -> io::Result<()> {
        while self.in_flight.len() >= 2 * self.pool.threads() {
            self.store_next()?;
        }
        if self.filling.raw.is_empty() {
            // A restart submitted it already.
            return Ok(());
        }
        let next = self.spare.pop().unwrap_or_default();
        let batch = std::mem::replace(&mut self.filling, next);
        self.in_flight
            .push_back(self.pool.submit(batch, self.algorithm, self.block_size));
        Ok(())
    }

    /// Writes the oldest batch that is being compressed.
    fn store_next(&mut self) -> io::Result<()> {
        let Some(result) = self.in_flight.pop_front() else {
            return Ok(());
        };
        let batch = receive(&result)?;
        if batch.overflow {
            return self.restart_with_smaller_blocks(batch);
        }
        self.file
            .write_all_at(&batch.stored[..batch.used], self.position)?;
        self.position += batch.used as u64;
        if let Some(syncs) = &mut self.write_behind {
            syncs.wrote(&self.file, batch.used as u64)?;
        }
        self.index.extend_from_slice(&batch.sizes);
        self.recycle(batch);
        Ok(())
    }

    fn recycle(&mut self, mut batch: Batch) {
        batch.raw.clear();
        self.spare.push(batch);
    }

    /// Starts again with blocks that any data fits in: what was stored is read back, and
    /// the new `ZFile` is written behind the old one until it is finished.
    fn restart_with_smaller_blocks(&mut self, batch: Batch) -> io::Result<()> {
        let mut raws = vec![batch.raw];
        for result in std::mem::take(&mut self.in_flight) {
            raws.push(receive(&result)?.raw);
        }
        raws.push(std::mem::take(&mut self.filling.raw));
        let sizes = std::mem::take(&mut self.index);
        let mut at = self.base + SPACE as u64;
        let mut block = vec![0; self.block_size.len()];
        let mut stored = Vec::new();
        self.block_size = BlockSize::KIB_32;
        self.base = self.position;
        self.position = self.base + SPACE as u64;
        self.original_size = 0;
        for size in sizes {
            stored.resize(size as usize, 0);
            self.file.read_exact_at(&mut stored, at)?;
            at += u64::from(size);
            let data = &stored[..stored.len().saturating_sub(BLOCK_CRC)];
            if !decompress(self.algorithm, data, &mut block) {
                return Err(io::Error::other(
                    "a block that was just written cannot be decompressed",
                ));
            }
            self.write(&block)?;
        }
        raws.iter().try_for_each(|raw| self.write(raw))
    }

    /// Writes what is left, the index, the trailer and, last, the header.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn finish(mut self) -> io::Result<Finished> {
        loop {
            if !self.filling.raw.is_empty() {
                self.submit()?;
            }
            while !self.in_flight.is_empty() {
                self.store_next()?;
            }
            // A restart may have left something to submit.
            if self.filling.raw.is_empty() {
                break;
            }
        }
        let index: Vec<u8> = self
            .index
            .iter()
            .flat_map(|size| size.to_le_bytes())
            .collect();
        let geometry = Geometry {
            index_offset: self.position - self.base,
            index_size: self.index.len() as u64,
            original_size: self.original_size,
            index_crc: crc32c(0, &index),
            block_size: self.block_size,
            algorithm: self.algorithm,
            verify: true,
        };
        self.file.write_all_at(&index, self.position)?;
        let trailer = self.position + index.len() as u64;
        self.file
            .write_all_at(geometry.encode(Place::Trailer).as_bytes(), trailer)?;
        self.file
            .write_all_at(geometry.encode(Place::Header).as_bytes(), self.base)?;
        let size = trailer + SPACE as u64 - self.base;
        self.move_to_origin(size)?;
        Ok(Finished {
            size,
            geometry,
            write_behind: self.write_behind,
        })
    }

    fn move_to_origin(&self, size: u64) -> io::Result<()> {
        let mut buffer = vec![0; if self.base == self.origin { 0 } else { 1 << 20 }];
        let mut done = 0;
        while self.base != self.origin && done < size {
            let part = usize::try_from(size - done)
                .unwrap_or(usize::MAX)
                .min(buffer.len());
            self.file
                .read_exact_at(&mut buffer[..part], self.base + done)?;
            self.file
                .write_all_at(&buffer[..part], self.origin + done)?;
            done += part as u64;
        }
        self.file.set_len(self.origin + size)
    }
}

fn receive(result: &Receiver<Result<Batch, CompressError>>) -> io::Result<Batch> {
    match result.recv() {
        Ok(batch) => batch.map_err(io::Error::other),
        Err(_) => Err(io::Error::other("the threads that compress have ended")),
    }
}
