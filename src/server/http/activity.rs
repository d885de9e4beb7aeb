//! What a connection is doing, and since when: who does nothing for too long is hung up on.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::server::config::Limits;

/// Why a connection is hung up on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::server) enum Overdue {
    /// It has been idle.
    Idle,
    /// A request's head does not come to an end.
    Head,
    /// The client does not take the answer.
    Write,
}

/// Points in time, in milliseconds since `epoch`; 0 for never.
#[derive(Debug)]
pub(in crate::server) struct Activity {
    epoch: Instant,
    /// Requests being answered: of HTTP/1 0 or 1, of HTTP/2 any number.
    requests: AtomicU64,
    idle_since: AtomicU64,
    head_since: AtomicU64,
    blocked_since: AtomicU64,
}

impl Activity {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            epoch: Instant::now(),
            requests: AtomicU64::new(0),
            idle_since: AtomicU64::new(1),
            head_since: AtomicU64::new(0),
            blocked_since: AtomicU64::new(0),
        })
    }

    fn now(&self) -> u64 {
        let elapsed = self.epoch.elapsed().as_millis();
        u64::try_from(elapsed).unwrap_or(u64::MAX).max(1)
    }

    /// A request's head is there; until the answer is dropped, the connection is not idle.
    pub fn begin(self: &Arc<Self>) -> ActiveRequest {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.head_since.store(0, Ordering::Relaxed);
        ActiveRequest(Arc::clone(self))
    }

    fn read(&self) {
        if self.requests.load(Ordering::Relaxed) == 0
            && self.head_since.load(Ordering::Relaxed) == 0
        {
            self.head_since.store(self.now(), Ordering::Relaxed);
        }
    }

    /// Whether a frame has begun and did not end (HTTP/2).
    pub fn within_head(&self, is_within: bool) {
        if !is_within {
            self.head_since.store(0, Ordering::Relaxed);
        } else if self.head_since.load(Ordering::Relaxed) == 0 {
            self.head_since.store(self.now(), Ordering::Relaxed);
        }
    }

    /// How many requests are being answered.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Whether no request is being answered.
    pub fn is_idle(&self) -> bool {
        self.requests() == 0
    }

    /// It is idle from now on.
    pub fn rest(&self) {
        self.idle_since.store(self.now(), Ordering::Relaxed);
    }

    /// Comes when no request has been answered for so long.
    pub async fn idle_for(&self, time: Duration) {
        loop {
            let since = self.epoch + Duration::from_millis(self.idle_since.load(Ordering::Relaxed));
            let now = Instant::now();
            let is_idle = self.is_idle();
            if is_idle && since + time <= now {
                return;
            }
            let until = if is_idle { since + time } else { now + time };
            tokio::time::sleep_until(until).await;
        }
    }

    /// Whether what was to be written could not be.
    pub fn wrote(&self, is_blocked: bool) {
        if !is_blocked {
            self.blocked_since.store(0, Ordering::Relaxed);
        } else if self.blocked_since.load(Ordering::Relaxed) == 0 {
            self.blocked_since.store(self.now(), Ordering::Relaxed);
        }
    }

    /// When the connection is to be hung up on if nothing happens.
    fn deadline(&self, limits: &Limits) -> Option<(Instant, Overdue)> {
        let since = |at: &AtomicU64| match at.load(Ordering::Relaxed) {
            0 => None,
            at => Some(self.epoch + Duration::from_millis(at)),
        };
        if let Some(since) = since(&self.blocked_since) {
            return Some((since + limits.stall, Overdue::Write));
        }
        if self.requests.load(Ordering::Relaxed) > 0 {
            return None;
        }
        if let Some(since) = since(&self.head_since) {
            return Some((since + limits.head_timeout, Overdue::Head));
        }
        since(&self.idle_since).map(|since| (since + limits.idle, Overdue::Idle))
    }

    /// Comes when the connection is overdue.
    pub async fn overdue(&self, limits: &Limits) -> Overdue {
        let shortest = limits.stall.min(limits.idle).min(limits.head_timeout);
        loop {
            let now = Instant::now();
            match self.deadline(limits) {
                Some((deadline, overdue)) if deadline <= now => return overdue,
                // What begins meanwhile may be due earlier than what is due now.
                Some((deadline, _)) => {
                    tokio::time::sleep_until(deadline.min(now + shortest)).await;
                }
                None => tokio::time::sleep(shortest).await,
            }
        }
    }
}

/// A request is being answered.
#[derive(Debug)]
pub(in crate::server) struct ActiveRequest(Arc<Activity>);

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        self.0.idle_since.store(self.0.now(), Ordering::Relaxed);
        self.0.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection that notes what it does.
#[derive(Debug)]
pub(in crate::server) struct TrackedStream<T> {
    stream: T,
    activity: Arc<Activity>,
}

impl<T> TrackedStream<T> {
    pub fn new(stream: T, activity: Arc<Activity>) -> Self {
        Self { stream, activity }
    }

    pub fn into_inner(self) -> T {
        self.stream
    }

    fn note(&self, result: &Poll<io::Result<usize>>) {
        self.activity.wrote(result.is_pending());
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for TrackedStream<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.activity.read();
        }
        result
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for TrackedStream<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.note(&result);
        result
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.note(&result);
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_flush(context);
        self.activity.wrote(result.is_pending());
        result
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits {
            head_timeout: Duration::from_secs(5),
            idle: Duration::from_secs(20),
            stall: Duration::from_secs(10),
            ..Limits::default()
        }
    }

    async fn after(activity: &Activity) -> (Overdue, u64) {
        let started = Instant::now();
        let overdue = activity.overdue(&limits()).await;
        (overdue, started.elapsed().as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn idle_connections_slow_heads_and_slow_readers_are_closed() {
        let activity = Activity::new();
        assert_eq!(after(&activity).await, (Overdue::Idle, 20));
        let activity = Activity::new();
        activity.read();
        assert_eq!(after(&activity).await, (Overdue::Head, 5));
        let activity = Activity::new();
        let busy = activity.begin();
        activity.wrote(true);
        assert_eq!(after(&activity).await, (Overdue::Write, 10));
        activity.wrote(false);
        drop(busy);
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_without_requests_begins_with_the_end_of_the_last_one() {
        let activity = Activity::new();
        let started = Instant::now();
        let busy = activity.begin();
        let limit = Duration::from_secs(2);
        let waiting = tokio::time::timeout(Duration::from_mins(1), activity.idle_for(limit));
        assert!(waiting.await.is_err());
        drop(busy);
        activity.idle_for(limit).await;
        assert_eq!(started.elapsed().as_secs(), 62);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_is_being_answered_does_not_time_out() {
        let activity = Activity::new();
        activity.read();
        let busy = activity.begin();
        let limits = limits();
        let waiting = tokio::time::timeout(Duration::from_hours(1), activity.overdue(&limits));
        assert!(waiting.await.is_err());
        drop(busy);
        let (overdue, seconds) = after(&activity).await;
        assert_eq!(overdue, Overdue::Idle);
        assert!((20..=25).contains(&seconds), "{seconds}");
    }
}
