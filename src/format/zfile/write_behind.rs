//! Has the disk write a file while more of it is being made.
//!
//! The kernel begins by itself only after half a minute, or when a tenth of the memory is dirty, so
//! that the sync at the end of a layer would wait for all of the layer.

use std::fs::File;
use std::io;
use std::thread::{self, JoinHandle};

/// Bytes that are written to the file from one sync to the next.
const STEP_BYTES: u64 = 32 << 20;

/// The syncs of one file, of which one runs at a time. The result of one that runs is lost when
/// this is dropped.
#[derive(Debug, Default)]
pub struct WriteBehind {
    running: Option<JoinHandle<io::Result<()>>>,
    /// Bytes that were written since the last one began.
    written: u64,
}

impl WriteBehind {
    /// Takes note of bytes that were written to `file`, and begins a sync if there are many.
    ///
    /// # Errors
    /// When the last sync failed: the kernel reports a failed write once.
    pub(super) fn wrote(&mut self, file: &File, bytes: u64) -> io::Result<()> {
        self.written = self.written.saturating_add(bytes);
        let is_running = self
            .running
            .as_ref()
            .is_some_and(|sync| !sync.is_finished());
        if self.written < STEP_BYTES || is_running {
            return Ok(());
        }
        self.finish()?;
        self.written = 0;
        // Without a descriptor or a thread, the sync at the end does it.
        let Ok(file) = file.try_clone() else {
            return Ok(());
        };
        let sync = thread::Builder::new().name("write-behind".to_owned());
        self.running = sync.spawn(move || file.sync_data()).ok();
        Ok(())
    }

    /// Waits for the sync that runs.
    ///
    /// # Errors
    /// When it failed.
    pub fn finish(&mut self) -> io::Result<()> {
        match self.running.take().map(JoinHandle::join) {
            None => Ok(()),
            Some(Ok(synced)) => synced,
            Some(Err(_)) => Err(io::Error::other("the thread that syncs has ended")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_sync_is_reported_by_what_comes_next() {
        // The kernel refuses to sync it.
        let file = File::options().write(true).open("/dev/null").unwrap();
        let mut syncs = WriteBehind::default();
        syncs.wrote(&file, STEP_BYTES - 1).unwrap();
        assert!(syncs.running.is_none());
        syncs.wrote(&file, 1).unwrap();
        assert!(syncs.finish().is_err());
        // It was reported.
        syncs.finish().unwrap();
        syncs.wrote(&file, STEP_BYTES).unwrap();
        while syncs
            .running
            .as_ref()
            .is_some_and(|sync| !sync.is_finished())
        {
            thread::yield_now();
        }
        assert!(syncs.wrote(&file, STEP_BYTES).is_err());
    }
}
