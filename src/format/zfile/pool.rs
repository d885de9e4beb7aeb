//! The threads that compress, shared by all writers of the process.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread;

use parking_lot::Mutex;

use super::codec::{Algorithm, BlockSize, CompressError, Compressor};
use super::layout::{BLOCK_CRC, BLOCK_CRC_INIT, MAX_STORED};
use crate::format::crc::crc32c;

/// Threads that compress blocks. Cheap to clone; the clones are one pool. The threads end
/// with the last clone.
#[derive(Clone)]
pub struct CompressPool {
    jobs: Sender<Job>,
    threads: usize,
}

impl std::fmt::Debug for CompressPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CompressPool")
            .field("threads", &self.threads)
            .finish_non_exhaustive()
    }
}

/// Some blocks in order, raw and compressed. Its buffers are used again.
#[derive(Default)]
pub(super) struct Batch {
    /// What is compressed; whole blocks but for the file's last.
    pub(super) raw: Vec<u8>,
    /// The stored form: blocks, each with its CRC. Only `used` bytes count.
    pub(super) stored: Vec<u8>,
    /// Bytes of `stored` that count.
    pub(super) used: usize,
    /// Stored bytes of each block, CRC included.
    pub(super) sizes: Vec<u32>,
    /// A block is too large for overlaybd's reader: nothing of the batch counts.
    pub(super) overflow: bool,
}

struct Job {
    batch: Batch,
    algorithm: Algorithm,
    block_size: BlockSize,
    reply: SyncSender<Result<Batch, CompressError>>,
}

impl CompressPool {
    /// A pool of `threads` threads, at least one.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn new(threads: usize) -> io::Result<Self> {
        let (jobs, queue) = channel();
        let queue = Arc::new(Mutex::new(queue));
        let threads = threads.max(1);
        for n in 0..threads {
            let queue = Arc::clone(&queue);
            thread::Builder::new()
                .name(format!("compress-{n}"))
                .spawn(move || work(&queue))?;
        }
        Ok(Self { jobs, threads })
    }

    /// How many threads compress.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Has a batch compressed; what comes of it is received from the returned end.
    pub(super) fn submit(
        &self,
        batch: Batch,
        algorithm: Algorithm,
        block_size: BlockSize,
    ) -> Receiver<Result<Batch, CompressError>> {
        let (reply, result) = sync_channel(1);
        // Without threads the job is dropped, and receiving fails.
        let _ = self.jobs.send(Job {
            batch,
            algorithm,
            block_size,
            reply,
        });
        result
    }
}

fn work(queue: &Mutex<Receiver<Job>>) {
    let mut compressor = Compressor::new();
    loop {
        let job = queue.lock().recv();
        let Ok(Job {
            mut batch,
            algorithm,
            block_size,
            reply,
        }) = job
        else {
            return;
        };
        let compressed = catch_unwind(AssertUnwindSafe(|| {
            let result = compress(&mut compressor, &mut batch, algorithm, block_size);
            result.map(|()| batch)
        }));
        match compressed {
            // The writer may have been dropped.
            Ok(result) => drop(reply.send(result)),
            // The writer sees the reply's channel close; the thread goes on.
            Err(_) => compressor = Compressor::new(),
        }
    }
}

fn compress(
    compressor: &mut Compressor,
    batch: &mut Batch,
    algorithm: Algorithm,
    block_size: BlockSize,
) -> Result<(), CompressError> {
    let Batch {
        raw,
        stored,
        used,
        sizes,
        overflow,
    } = batch;
    (*used, *overflow) = (0, false);
    sizes.clear();
    let bound = Compressor::bound(algorithm, block_size.len()) + BLOCK_CRC;
    let most = raw.len().div_ceil(block_size.len()) * bound;
    if stored.len() < most {
        stored.resize(most, 0);
    }
    for block in raw.chunks(block_size.len()) {
        let target = &mut stored[*used..];
        let size = compressor.compress(algorithm, block, target)?;
        let crc = crc32c(BLOCK_CRC_INIT, &target[..size]);
        target[size..size + BLOCK_CRC].copy_from_slice(&crc.to_le_bytes());
        let size = size + BLOCK_CRC;
        if size > MAX_STORED {
            *overflow = true;
            return Ok(());
        }
        *used += size;
        sizes.push(u32::try_from(size).unwrap_or(u32::MAX));
    }
    Ok(())
}
