//! Large blobs: by one connection while that is fast enough for the reader, else by several ranges
//! at once, for a long way or a registry's limit slows a single connection down.

use std::collections::VecDeque;
use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use tokio::time::{Instant, Sleep};

use super::ahead::{Ahead, RANGE_BYTES};
use super::download::Download;
use crate::registry::{BlobStream, Error};

/// Smaller blobs come by one connection.
const MIN_BYTES: u64 = 4 * RANGE_BYTES;
/// Most ranges of a blob that are requested ahead of its next byte.
const MOST_AHEAD: usize = 3;
/// After so many ranges that failed, the rest of the blob comes by one connection.
const MOST_FAILURES: u32 = 3;
/// For so long the reader is watched before it is decided whether it waits too much.
const WATCHED: Duration = Duration::from_millis(50);

/// How much of the time the reader waits for bytes.
struct Pace {
    since: Instant,
    waited: Duration,
    waiting_since: Option<Instant>,
    /// Wakes a reader to whom nothing comes at all.
    timer: Option<Pin<Box<Sleep>>>,
}

impl Pace {
    fn new() -> Self {
        Self {
            since: Instant::now(),
            waited: Duration::ZERO,
            waiting_since: None,
            timer: None,
        }
    }

    /// Once for each poll: whether the reader waited for at least half of the time that has passed
    /// since the last answer.
    fn is_slow(&mut self, is_pending: bool) -> bool {
        let now = Instant::now();
        if let Some(since) = self.waiting_since.take() {
            self.waited = self.waited.saturating_add(now.duration_since(since));
        }
        if is_pending {
            self.waiting_since = Some(now);
        }
        let watched = now.duration_since(self.since);
        if watched < WATCHED {
            return false;
        }
        let is_slow = self.waited.saturating_mul(2) >= watched;
        (self.since, self.waited) = (now, Duration::ZERO);
        is_slow
    }

    /// Wakes the task when the time is over that the reader is watched for; whether it is over.
    fn poll_end(&mut self, context: &mut Context<'_>) -> bool {
        let end = self.since.checked_add(WATCHED);
        let end = end.unwrap_or(self.since);
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(end)));
        if timer.deadline() != end {
            timer.as_mut().reset(end);
        }
        timer.as_mut().poll(context).is_ready()
    }
}

/// Where the next bytes come from.
enum Front {
    /// A request for all that is left.
    Rest {
        stream: BlobStream,
        /// Bytes that have come although a range ahead brings them too.
        surplus: Bytes,
    },
    /// A range that was requested ahead.
    Range(Ahead),
}

/// A large blob's bytes.
struct Large {
    /// What another request is made of.
    download: Download,
    front: Front,
    /// The next byte, and the blob's length.
    offset: u64,
    end: u64,
    /// Without a gap between them, and behind `front`.
    ahead: VecDeque<Ahead>,
    failures: u32,
    pace: Pace,
}

/// The bytes of a download that was opened, by several connections where one is too slow.
pub(super) fn stream(download: Download) -> BlobStream {
    let (offset, end) = download.wanted();
    if end.saturating_sub(offset) < MIN_BYTES {
        return download.stream();
    }
    let large = Large {
        download: download.another(offset..end),
        front: Front::Rest {
            stream: download.stream(),
            surplus: Bytes::new(),
        },
        offset,
        end,
        ahead: VecDeque::new(),
        failures: 0,
        pace: Pace::new(),
    };
    BlobStream {
        inner: Box::pin(large),
    }
}

impl Large {
    /// Reads what has come ahead, and gives up the ranges behind one that failed.
    fn gather(&mut self, context: &mut Context<'_>) {
        for ahead in &mut self.ahead {
            ahead.gather(context);
        }
        let failed = self.ahead.iter().position(|one| one.failure().is_some());
        if let Some(failed) = failed {
            if let Some(error) = self.ahead.get(failed).and_then(Ahead::failure) {
                tracing::debug!(%error, "a range that was requested ahead failed");
            }
            self.ahead.truncate(failed);
            self.failures = self.failures.saturating_add(1);
        }
    }

    fn may_add(&self) -> bool {
        self.failures < MOST_FAILURES && self.ahead.len() < MOST_AHEAD
    }

    /// Requests one more range ahead.
    fn add(&mut self, context: &mut Context<'_>) {
        if !self.may_add() {
            return;
        }
        let before = match (self.ahead.back(), &self.front) {
            (Some(last), _) => last.range().end,
            (None, Front::Range(range)) => range.range().end,
            (None, Front::Rest { .. }) => self.offset.saturating_add(RANGE_BYTES),
        };
        let range = before..before.saturating_add(RANGE_BYTES).min(self.end);
        if range.is_empty() {
            return;
        }
        if let Some(mut ahead) = Ahead::new(self.download.single(range.clone()), range) {
            // Sends the request.
            ahead.gather(context);
            self.ahead.push_back(ahead);
        }
    }

    /// Goes on with the first range ahead, if it has begun to come.
    fn advance(&mut self) -> bool {
        let has_begun = self.ahead.front().is_some_and(Ahead::has_begun);
        if has_begun && let Some(ahead) = self.ahead.pop_front() {
            self.front = Front::Range(ahead);
        }
        has_begun
    }

    /// Goes on with a request for all that is left.
    fn restart(&mut self) {
        self.ahead.clear();
        self.front = Front::Rest {
            stream: self.download.another(self.offset..self.end).stream(),
            surplus: Bytes::new(),
        };
    }

    fn poll_front(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Error>>> {
        loop {
            let next = self.ahead.front().map(|ahead| ahead.range().start);
            if next == Some(self.offset) {
                if self.advance() {
                    continue;
                }
                if let Front::Range(_) = self.front {
                    // It was polled when it was gathered, and wakes the task.
                    return Poll::Pending;
                }
                // The first connection goes on rather than wait for another one.
                self.ahead.clear();
                self.failures = self.failures.saturating_add(1);
                continue;
            }
            match &mut self.front {
                Front::Rest { stream, surplus } => {
                    let mut bytes = if surplus.is_empty() {
                        match std::task::ready!(stream.poll_next_unpin(context)) {
                            Some(Ok(bytes)) => bytes,
                            ended => return Poll::Ready(ended),
                        }
                    } else {
                        std::mem::take(surplus)
                    };
                    let left = next.unwrap_or(self.end).saturating_sub(self.offset);
                    let left = usize::try_from(left).unwrap_or(usize::MAX);
                    if bytes.len() > left {
                        *surplus = bytes.split_off(left);
                    }
                    return self.passed(bytes);
                }
                Front::Range(range) => match std::task::ready!(range.poll_bytes(context)) {
                    Some(Ok(bytes)) => return self.passed(bytes),
                    Some(Err(error)) => {
                        tracing::debug!(%error, "a range of a large blob failed");
                        self.failures = self.failures.saturating_add(1);
                        self.restart();
                    }
                    None if self.offset >= self.end => return Poll::Ready(None),
                    None => self.restart(),
                },
            }
        }
    }

    fn passed(&mut self, bytes: Bytes) -> Poll<Option<Result<Bytes, Error>>> {
        self.offset = self.offset.saturating_add(bytes.len() as u64);
        Poll::Ready(Some(Ok(bytes)))
    }
}

impl Stream for Large {
    type Item = Result<Bytes, Error>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        this.gather(context);
        let polled = this.poll_front(context);
        if this.pace.is_slow(polled.is_pending()) {
            this.add(context);
        }
        if polled.is_pending() && this.may_add() && this.pace.poll_end(context) {
            // Nothing at all has come in that time.
            context.waker().wake_by_ref();
        }
        polled
    }
}
