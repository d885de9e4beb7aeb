//! Reads ahead what a trace says, as a node does while a container starts.
//! Source: containerd/overlaybd `src/prefetch.cpp`.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use super::image::ImageDisk;
use crate::format::blob::Stack;
use crate::format::block::{BlockDevice as _, ReadOnly, SECTOR};
use crate::format::ext4::{Error, Filesystem};
use crate::format::prefetch::{MAX_COUNT, MAX_RECORDS, Record, Trace};

/// How many records are read at one time: `prefetchConfig.concurrency` of overlaybd, as it comes.
const READERS: usize = 16;

/// What was read ahead.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Replayed {
    /// Ranges that were read.
    pub ranges: u64,
    /// Bytes of them, uncompressed.
    pub bytes: u64,
    /// Ranges that could not be read. Nodes go on, too.
    pub failed: u64,
}

/// A trace that is being replayed. Dropped, it reads no further ranges.
#[derive(Debug)]
pub struct Replay {
    shared: Arc<Shared>,
    coordinator: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    stack: Arc<Stack>,
    is_stopped: AtomicBool,
    next: AtomicUsize,
    ranges: AtomicU64,
    bytes: AtomicU64,
    failed: AtomicU64,
}

/// What is read.
enum Job {
    Layer(Record),
    Disk(Range<u64>),
}

/// Starts to replay a trace on a disk that is in use: what is read comes into its cache. The
/// order is the trace's.
///
/// # Errors
/// When the system refuses a thread.
pub fn replay(disk: &ImageDisk, trace: Trace) -> io::Result<Replay> {
    let shared = Arc::new(Shared {
        stack: Arc::clone(&disk.stack),
        is_stopped: AtomicBool::new(false),
        next: AtomicUsize::new(0),
        ranges: AtomicU64::new(0),
        bytes: AtomicU64::new(0),
        failed: AtomicU64::new(0),
    });
    let work = Arc::clone(&shared);
    let coordinator = std::thread::Builder::new()
        .name("replay".to_owned())
        .spawn(move || work.run(trace))?;
    Ok(Replay {
        shared,
        coordinator: Some(coordinator),
    })
}

impl Replay {
    /// Reads no further ranges.
    pub fn stop(&self) {
        self.shared.is_stopped.store(true, Ordering::Relaxed);
    }

    /// What was read so far.
    #[must_use]
    pub fn so_far(&self) -> Replayed {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Replayed {
            ranges: read(&self.shared.ranges),
            bytes: read(&self.shared.bytes),
            failed: read(&self.shared.failed),
        }
    }

    /// Waits until the ranges that are begun are read; all, unless it was stopped. To be called
    /// from a thread that may block.
    #[must_use]
    pub fn wait(mut self) -> Replayed {
        if let Some(coordinator) = self.coordinator.take()
            && coordinator.join().is_err()
        {
            tracing::error!("a thread that read ahead panicked: this is a bug");
        }
        self.so_far()
    }
}

impl Drop for Replay {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn run(&self, trace: Trace) {
        let jobs = match trace {
            Trace::Records(records) => records.into_iter().map(Job::Layer).collect(),
            Trace::Paths(paths) => self.find(&paths).unwrap_or_else(|error| {
                tracing::warn!(%error, "a list of paths is not read ahead");
                Vec::new()
            }),
        };
        std::thread::scope(|scope| {
            for _ in 0..READERS.min(jobs.len()) {
                let reader = std::thread::Builder::new().name("replay".to_owned());
                if let Err(error) = reader.spawn_scoped(scope, || self.read(&jobs)) {
                    // Those that there are do the work.
                    tracing::warn!(%error, "a thread that reads ahead cannot be started");
                }
            }
        });
    }

    /// The ranges of the disk that hold files of a list, found as overlaybd does it: in the
    /// filesystem, before the first one is read.
    fn find(&self, paths: &[Vec<u8>]) -> Result<Vec<Job>, Error> {
        let device = ReadOnly::new(Arc::clone(&self.stack));
        let mut filesystem = Filesystem::open(device)?;
        let block_size = u64::from(filesystem.block_size());
        let mut jobs = Vec::new();
        let paths = paths.iter().map(Vec::as_slice);
        filesystem.visit_files(paths, |filesystem, ino| {
            let (size, extents) = filesystem.file_extents(ino)?;
            let mut rest = size.next_multiple_of(SECTOR);
            for extent in extents {
                let length = (u64::from(extent.blocks) * block_size).min(rest);
                rest -= length;
                let mut at = extent.physical_block * block_size;
                let end = at + length;
                while at < end {
                    let to = end.min(at + MAX_COUNT);
                    jobs.push(Job::Disk(at..to));
                    at = to;
                }
            }
            Ok(jobs.len() < MAX_RECORDS && !self.is_stopped.load(Ordering::Relaxed))
        })?;
        Ok(jobs)
    }

    fn read(&self, jobs: &[Job]) {
        let mut buffer = vec![0; usize::try_from(MAX_COUNT).unwrap_or_default()];
        while !self.is_stopped.load(Ordering::Relaxed) {
            let Some(job) = jobs.get(self.next.fetch_add(1, Ordering::Relaxed)) else {
                return;
            };
            match self.read_one(job, &mut buffer) {
                Ok(bytes) => {
                    self.ranges.fetch_add(1, Ordering::Relaxed);
                    self.bytes.fetch_add(bytes, Ordering::Relaxed);
                }
                Err(error) => {
                    self.failed.fetch_add(1, Ordering::Relaxed);
                    tracing::debug!(%error, "a range is not read ahead");
                }
            }
        }
    }

    fn read_one(&self, job: &Job, buffer: &mut [u8]) -> io::Result<u64> {
        let out_of_range = || io::Error::other("the trace names a range that is not there");
        let count = match job {
            Job::Layer(record) => record.count,
            Job::Disk(range) => range.end - range.start,
        };
        let part = usize::try_from(count).ok();
        let part = part.and_then(|count| buffer.get_mut(..count));
        let part = part.ok_or_else(out_of_range)?;
        match job {
            Job::Layer(record) => {
                let layer = usize::try_from(record.layer).ok();
                let layer = layer.and_then(|layer| self.stack.layers().get(layer));
                layer
                    .ok_or_else(out_of_range)?
                    .read_lsmt(record.offset, part)?;
            }
            Job::Disk(range) => self.stack.read_at(range.start, part)?,
        }
        Ok(count)
    }
}
