//! Pieces of a blob file, read as they are sent.

use std::collections::VecDeque;
use std::io::{self, IoSliceMut};
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use rustix::io::{Errno, ReadWriteFlags, preadv2};
use tokio::task::JoinHandle;

use crate::server::cache::open_files::OpenBlob;
use crate::server::http::buffers::{Buffer, Buffers, LARGEST};
use crate::store::BlobFile;

/// Bytes taken from the page cache at once. Larger ones were no faster, and each answer that
/// waits for its client holds one.
const CACHED: usize = 64 << 10;

/// Ranges of one file, with other bytes between them.
pub(in crate::server) struct FileBody {
    blob: Arc<OpenBlob>,
    buffers: Buffers,
    queue: VecDeque<Piece>,
    /// Bytes that were not given out yet.
    left: u64,
    /// A read that had to wait for the disk.
    reading: Option<JoinHandle<io::Result<Bytes>>>,
}

enum Piece {
    Bytes(Bytes),
    File(Range<u64>),
}

impl FileBody {
    pub fn new(blob: Arc<OpenBlob>, buffers: Buffers) -> Self {
        Self {
            blob,
            buffers,
            queue: VecDeque::new(),
            left: 0,
            reading: None,
        }
    }

    /// Adds bytes behind what there is.
    pub fn push_bytes(&mut self, bytes: Bytes) {
        self.left += u64::try_from(bytes.len()).unwrap_or_default();
        self.queue.push_back(Piece::Bytes(bytes));
    }

    /// Adds a range of the file behind what there is.
    pub fn push_range(&mut self, range: Range<u64>) {
        self.left += range.end.saturating_sub(range.start);
        self.queue.push_back(Piece::File(range));
    }

    /// Bytes that were not given out yet.
    pub fn left(&self) -> u64 {
        self.left
    }

    /// The next bytes. What is in memory is read at once: handing it to another thread would
    /// cost more than the copy. What is not is read elsewhere, one buffer ahead of the sending.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        if self.left > 0 && self.blob.file.is_suspect() {
            let cause = format!("the file of {} may be damaged", self.blob.file.digest());
            return Poll::Ready(Some(Err(io::Error::new(io::ErrorKind::InvalidData, cause))));
        }
        let polled = self.poll_piece(context);
        if let Poll::Ready(Some(Err(_))) = &polled {
            self.blob.file.suspect();
        }
        polled
    }

    fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        loop {
            if let Some(reading) = &mut self.reading {
                let bytes = match ready!(Pin::new(reading).poll(context)) {
                    Ok(bytes) => bytes,
                    Err(panic) => Err(io::Error::other(panic)),
                };
                self.reading = None;
                if bytes.is_ok() && matches!(self.queue.front(), Some(Piece::File(_))) {
                    self.read_elsewhere();
                }
                return Poll::Ready(Some(bytes.inspect(|bytes| self.given(bytes.len()))));
            }
            let (buffer, offset) = match self.queue.front_mut() {
                None => return Poll::Ready(None),
                Some(Piece::Bytes(bytes)) => {
                    let bytes = std::mem::take(bytes);
                    self.queue.pop_front();
                    self.given(bytes.len());
                    return Poll::Ready(Some(Ok(bytes)));
                }
                Some(Piece::File(range)) => {
                    (self.buffers.take(length_of(range, CACHED)), range.start)
                }
            };
            match read_cached(&self.blob.file, buffer, offset) {
                Ok(Some(bytes)) => {
                    self.advance(bytes.len());
                    self.given(bytes.len());
                    return Poll::Ready(Some(Ok(bytes)));
                }
                Ok(None) => self.read_elsewhere(),
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
        }
    }

    fn given(&mut self, length: usize) {
        let length = u64::try_from(length).unwrap_or(u64::MAX);
        self.left = self.left.saturating_sub(length);
    }

    /// Moves the range at the front behind what was read, and away when that was all.
    fn advance(&mut self, length: usize) {
        if let Some(Piece::File(range)) = self.queue.front_mut() {
            let length = u64::try_from(length).unwrap_or(u64::MAX);
            range.start = range.start.saturating_add(length);
            if range.start >= range.end {
                self.queue.pop_front();
            }
        }
    }

    fn read_elsewhere(&mut self) {
        let Some(Piece::File(range)) = self.queue.front() else {
            return;
        };
        let (length, offset) = (length_of(range, LARGEST), range.start);
        let blob = Arc::clone(&self.blob);
        let mut buffer = self.buffers.take(length);
        self.reading = Some(tokio::task::spawn_blocking(move || {
            blob.file.read_exact_at(buffer.as_mut(), offset)?;
            Ok(buffer.freeze(length))
        }));
        self.advance(length);
    }
}

fn length_of(range: &Range<u64>, most: usize) -> usize {
    let length = range.end.saturating_sub(range.start);
    usize::try_from(length).map_or(most, |length| length.min(most))
}

/// A range, if it is small and the page cache has all of it.
pub(in crate::server) fn small(
    file: &BlobFile,
    buffers: &Buffers,
    range: &Range<u64>,
) -> Option<Bytes> {
    let length = usize::try_from(range.end.saturating_sub(range.start)).ok()?;
    if length == 0 || length > CACHED {
        return None;
    }
    // The error occurs again, and is reported, where the file is read in pieces.
    let read = read_cached(file, buffers.take(length), range.start);
    read.ok().flatten().filter(|bytes| bytes.len() == length)
}

/// Reads what the page cache has of a range; `None` when it has nothing, or does not tell.
fn read_cached(file: &BlobFile, mut buffer: Buffer, offset: u64) -> io::Result<Option<Bytes>> {
    let mut slices = [IoSliceMut::new(buffer.as_mut())];
    match preadv2(file.file(), &mut slices, offset, ReadWriteFlags::NOWAIT) {
        Ok(0) => Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            format!("the file of {} is shorter than it was", file.digest()),
        )),
        Ok(length) => Ok(Some(buffer.freeze(length))),
        Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS | Errno::INTR) => {
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;
    use crate::oci::Digest;
    use crate::store::BlobStore;

    fn open(file: BlobFile) -> Arc<OpenBlob> {
        Arc::new(OpenBlob {
            content_headers: crate::registry::content_headers::ContentHeaders::new(file.digest()),
            file,
        })
    }

    async fn all(mut file_body: FileBody) -> Vec<u8> {
        let mut given = Vec::new();
        loop {
            let left = file_body.left();
            let Some(bytes) = poll_fn(|context| file_body.poll_next(context)).await else {
                assert_eq!(left, 0);
                return given;
            };
            given.extend_from_slice(&bytes.unwrap());
        }
    }

    #[tokio::test]
    async fn pieces_come_in_order_from_memory_and_from_disk() {
        let directory = tempfile::tempdir().unwrap();
        let store =
            BlobStore::at(directory.path(), None, std::time::Duration::from_secs(9)).unwrap();
        let content: Vec<u8> = (0..LARGEST * 3 + 77)
            .map(|n| u8::try_from((n * 31 + n / 251) % 256).unwrap())
            .collect();
        let digest = Digest::of(&content);
        let blob = open(store.put_bytes(&digest, &content).unwrap());
        let size = u64::try_from(content.len()).unwrap();
        for is_cached in [true, false] {
            if !is_cached {
                // Not a promise that nothing is cached, but as near as one gets.
                rustix::fs::fadvise(blob.file.file(), 0, None, rustix::fs::Advice::DontNeed)
                    .unwrap();
            }
            let mut file_body = FileBody::new(Arc::clone(&blob), Buffers::default());
            file_body.push_bytes(Bytes::from_static(b"head"));
            file_body.push_range(0..size);
            file_body.push_bytes(Bytes::from_static(b"middle"));
            file_body.push_range(5..9);
            let wanted = [b"head", &content[..], b"middle", &content[5..9]].concat();
            assert!(all(file_body).await == wanted);
        }
    }

    #[tokio::test]
    async fn a_truncated_file_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let store =
            BlobStore::at(directory.path(), None, std::time::Duration::from_secs(9)).unwrap();
        let digest = Digest::of(b"content");
        let blob = open(store.put_bytes(&digest, b"content").unwrap());
        assert_eq!(small(&blob.file, &Buffers::default(), &(0..9)), None);
        let mut file_body = FileBody::new(Arc::clone(&blob), Buffers::default());
        let mut others = FileBody::new(Arc::clone(&blob), Buffers::default());
        file_body.push_range(0..9);
        others.push_range(0..7);
        let mut given = 0;
        let error = loop {
            match poll_fn(|context| file_body.poll_next(context))
                .await
                .unwrap()
            {
                Ok(bytes) => given += bytes.len(),
                Err(error) => break error,
            }
        };
        assert!(given <= 7);
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        // Nobody goes on with the file, until it was verified again.
        assert!(blob.file.is_suspect());
        let error = poll_fn(|context| others.poll_next(context)).await.unwrap();
        assert_eq!(error.unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert!(!store.open(&digest).unwrap().unwrap().is_suspect());
    }
}
