//! The thread that writes pieces, so that nobody who waits for a piece waits for the disk.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::piece_file::PieceFile;
use super::room::Room;

/// Pieces that wait to be written; whoever brings more waits.
const QUEUE: usize = 32;
/// How long the disk may take for the next piece, and at the end for what is still to be written.
const PATIENCE: Duration = Duration::from_secs(5);

/// A thread that writes. Ends, with all written, when it is dropped.
#[derive(Debug)]
pub(super) struct Writer {
    queue: Option<mpsc::Sender<(PieceFile, Bytes)>>,
    /// The disk does not answer, or not in time.
    is_stuck: AtomicBool,
    /// Ends with the thread. Behind a lock only because it cannot be shared otherwise.
    ended: parking_lot::Mutex<Receiver<()>>,
}

impl Writer {
    /// A writer into `directory` of pieces that take at most `limit` bytes together.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(super) fn start(directory: PathBuf, limit: u64) -> io::Result<Self> {
        let (queue, mut pieces) = mpsc::channel::<(PieceFile, Bytes)>(QUEUE);
        let (ending, ended) = channel::<()>();
        let thread = std::thread::Builder::new().name("disk-cache".to_owned());
        thread.spawn(move || {
            let room = Room::new(directory.clone(), limit);
            let mut is_usable = true;
            while let Some((file, bytes)) = pieces.blocking_recv() {
                if is_usable && let Err(error) = keep(&room, &file, &bytes) {
                    tracing::warn!(
                        directory = %directory.display(), %error,
                        "nothing more is kept on the disk (--cache-dir names another place, \
                         --cache-size 0 uses none)"
                    );
                    is_usable = false;
                }
            }
            drop(ending);
        })?;
        Ok(Self {
            queue: Some(queue),
            is_stuck: AtomicBool::new(false),
            ended: parking_lot::Mutex::new(ended),
        })
    }

    pub(super) async fn write(&self, file: PieceFile, bytes: Bytes) {
        let Some(queue) = self.queue.as_ref().filter(|_| !self.is_stuck()) else {
            return;
        };
        let sent = queue.send_timeout((file, bytes), PATIENCE).await;
        if sent.is_err() && !self.is_stuck.swap(true, Ordering::Relaxed) {
            tracing::warn!("nothing more is kept on the disk: it takes too long");
        }
    }

    fn is_stuck(&self) -> bool {
        self.is_stuck.load(Ordering::Relaxed)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.queue = None;
        if self.is_stuck() {
            return;
        }
        if let Err(RecvTimeoutError::Timeout) = self.ended.lock().recv_timeout(PATIENCE) {
            tracing::warn!("the disk of the cache takes too long: some of it is not written");
        }
    }
}

fn keep(room: &Room, file: &PieceFile, bytes: &[u8]) -> io::Result<()> {
    let mut locked = room.lock()?;
    // What is there may be what turned out to be damaged: it is replaced.
    if file.exists() || locked.reserve(file.size())? {
        file.write(bytes)?;
    }
    Ok(())
}
