//! A disk that remembers what is read of it.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::format::block::{BlockDevice, SharedDevice};

/// Most reads that are kept.
const MAX_READS: usize = 1 << 20;

/// A disk, and the ranges that were read of it, in bytes and in order, the first million of them.
pub struct ReadLog {
    device: SharedDevice,
    reads: Mutex<Vec<Range<u64>>>,
}

impl ReadLog {
    /// A log of what is read of `device`.
    #[must_use]
    pub fn new(device: SharedDevice) -> Arc<Self> {
        Arc::new(Self {
            device,
            reads: Mutex::default(),
        })
    }

    /// What was read so far.
    #[must_use]
    pub fn reads(&self) -> Vec<Range<u64>> {
        self.reads.lock().clone()
    }
}

impl BlockDevice for ReadLog {
    fn size(&self) -> u64 {
        self.device.size()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let range = offset..offset.saturating_add(buf.len() as u64);
        {
            let mut reads = self.reads.lock();
            let is_full = reads.len() >= MAX_READS;
            match reads.last_mut() {
                // What goes on where the last one ended needs no entry of its own.
                Some(last) if last.end == range.start => last.end = range.end,
                _ if is_full => {}
                _ => reads.push(range),
            }
        }
        self.device.read_at(offset, buf)
    }

    fn read_anew(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.device.read_anew(offset, buf)
    }

    fn will_read(&self, offset: u64, len: u64) {
        self.device.will_read(offset, len);
    }

    fn name(&self) -> Option<String> {
        self.device.name()
    }

    fn behind(&self, range: Range<u64>) -> Range<u64> {
        self.device.behind(range)
    }
}
