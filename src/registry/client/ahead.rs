//! A range of a large blob that is requested while the bytes before it are still coming.

use std::collections::VecDeque;
use std::ops::Range;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt as _, TryStreamExt as _};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::download::Download;
use crate::registry::{BlobStream, Error};

/// Bytes of such a range.
pub(super) const RANGE_BYTES: u64 = 8 << 20;
/// Most of them in the process, for they wait in memory: 64 MiB.
static PLACES: Semaphore = Semaphore::const_new(8);
/// What waits is copied into blocks of this size: a piece of a response's body may be of one byte,
/// and keeps the buffer that it was read into.
const BLOCK_BYTES: usize = 256 << 10;

/// The range, its request and what has come of it.
pub(super) struct Ahead {
    range: Range<u64>,
    /// `None` at its end, and when it has failed.
    stream: Option<BlobStream>,
    blocks: VecDeque<Bytes>,
    /// What does not make a whole block yet.
    block: BytesMut,
    has_begun: bool,
    failure: Option<Error>,
    _place: SemaphorePermit<'static>,
}

impl Ahead {
    /// Will request a range; nothing where too many wait already. One attempt is made, and only an
    /// answer with status 206 is good.
    pub(super) fn new(download: Download, range: Range<u64>) -> Option<Self> {
        let place = PLACES.try_acquire().ok()?;
        let opened = futures_util::stream::once(async move { download.open_partial().await });
        Some(Self {
            range,
            stream: Some(BlobStream {
                inner: Box::pin(opened.try_flatten()),
            }),
            blocks: VecDeque::new(),
            block: BytesMut::new(),
            has_begun: false,
            failure: None,
            _place: place,
        })
    }

    pub(super) fn range(&self) -> &Range<u64> {
        &self.range
    }

    /// Whether a first byte has come.
    pub(super) fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// Why it is of no use any more.
    pub(super) fn failure(&self) -> Option<&Error> {
        self.failure.as_ref()
    }

    /// Reads what has come; the rest wakes the task.
    pub(super) fn gather(&mut self, context: &mut Context<'_>) {
        while let Some(stream) = &mut self.stream {
            match stream.poll_next_unpin(context) {
                Poll::Ready(Some(Ok(bytes))) => {
                    self.has_begun |= !bytes.is_empty();
                    self.add(&bytes);
                }
                Poll::Ready(Some(Err(error))) => {
                    self.failure = Some(error);
                    self.stream = None;
                }
                Poll::Ready(None) => self.stream = None,
                Poll::Pending => return,
            }
        }
    }

    fn add(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.block.capacity() == 0 {
                self.block.reserve(BLOCK_BYTES);
            }
            let room = BLOCK_BYTES.saturating_sub(self.block.len());
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.block.extend_from_slice(now);
            bytes = later;
            if self.block.len() == BLOCK_BYTES {
                self.blocks
                    .push_back(std::mem::take(&mut self.block).freeze());
            }
        }
    }

    /// The next bytes in their order: those that wait, then those that come. `None` at the end of
    /// the range.
    pub(super) fn poll_bytes(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Error>>> {
        if let Some(block) = self.blocks.pop_front() {
            return Poll::Ready(Some(Ok(block)));
        }
        if !self.block.is_empty() {
            return Poll::Ready(Some(Ok(std::mem::take(&mut self.block).freeze())));
        }
        match (&mut self.stream, self.failure.take()) {
            (_, Some(error)) => Poll::Ready(Some(Err(error))),
            (Some(stream), None) => stream.poll_next_unpin(context),
            (None, None) => Poll::Ready(None),
        }
    }
}
