//! Large blobs from registries whose single connections are slow, or whose ranges fail.

use crate::registry_support;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use overlaybd_proxy::oci::Digest;
use parking_lot::Mutex;
use registry_support::faults::{blob, impatient, upstream};
use registry_support::scripted::{Served, raw, write};
use registry_support::{noise, quick};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

const SIZE: usize = 48 << 20;
/// What the first connection sends before it waits for other requests.
const FIRST: usize = 1 << 20;

/// The ranges that wait in memory are bounded for the process: one test at a time.
static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// First and last byte.
type Range = (usize, usize);

/// The `Range` of a request's head.
fn range(head: &str) -> Option<Range> {
    let head = head.to_ascii_lowercase();
    let line = head
        .lines()
        .find_map(|line| line.strip_prefix("range: bytes="))?;
    let (first, last) = line.split_once('-')?;
    Some((first.parse().ok()?, last.trim().parse().ok()?))
}

/// What a server does with a request for a range.
#[derive(Clone, Copy)]
enum Ranges {
    /// Sends it.
    Sent,
    /// Sends the whole blob.
    Unknown,
    /// Sends its first half, and closes the connection.
    Cut,
    /// Answers with this status.
    Refused(u16),
    /// Does not answer.
    Hung,
}

/// A server's blob, and what was seen of its requests.
#[derive(Clone)]
struct Script {
    content: Bytes,
    ranges: Ranges,
    /// So many ranges are requested before the first connection goes on.
    awaited: usize,
    /// Whether the first connection breaks then.
    breaks: bool,
    /// A permit for each request for a range.
    requested: Arc<Semaphore>,
    seen: Arc<Mutex<Vec<Option<Range>>>>,
    open: Arc<AtomicUsize>,
    most_open: Arc<AtomicUsize>,
}

impl Script {
    fn new(ranges: Ranges, awaited: usize) -> Self {
        Self {
            content: noise(SIZE, 7),
            ranges,
            awaited,
            breaks: false,
            requested: Arc::new(Semaphore::new(0)),
            seen: Arc::default(),
            open: Arc::default(),
            most_open: Arc::default(),
        }
    }

    async fn serve(&self) -> Served {
        let script = self.clone();
        raw(move |_, head, stream| {
            let script = script.clone();
            async move {
                let open = script.open.fetch_add(1, Ordering::SeqCst) + 1;
                script.most_open.fetch_max(open, Ordering::SeqCst);
                script.answer(&head, stream).await;
                script.open.fetch_sub(1, Ordering::SeqCst);
            }
        })
        .await
    }

    async fn answer(&self, head: &str, mut stream: TcpStream) {
        let range = range(head);
        self.seen.lock().push(range);
        let size = self.content.len();
        let Some((first, last)) = range else {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n");
            write(&mut stream, head.as_bytes()).await;
            write(&mut stream, &self.content[..FIRST]).await;
            let awaited = u32::try_from(self.awaited).unwrap();
            self.requested.acquire_many(awaited).await.unwrap().forget();
            if !self.breaks {
                write(&mut stream, &self.content[FIRST..]).await;
            }
            return;
        };
        self.requested.add_permits(1);
        // What is left after the first connection broke is no range ahead.
        let is_rest = last + 1 == size && first < size - (8 << 20);
        match self.ranges {
            Ranges::Unknown => {
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n");
                write(&mut stream, head.as_bytes()).await;
                write(&mut stream, &self.content).await;
            }
            Ranges::Refused(status) if !is_rest => {
                let head = format!("HTTP/1.1 {status} No\r\nContent-Length: 0\r\n\r\n");
                write(&mut stream, head.as_bytes()).await;
            }
            Ranges::Hung if !is_rest => tokio::time::sleep(Duration::from_mins(1)).await,
            Ranges::Sent | Ranges::Cut | Ranges::Refused(_) | Ranges::Hung => {
                let length = last + 1 - first;
                let head = format!(
                    "HTTP/1.1 206 Partial Content\r\nContent-Length: {length}\r\n\
                     Content-Range: bytes {first}-{last}/{size}\r\n\r\n"
                );
                write(&mut stream, head.as_bytes()).await;
                let is_cut = matches!(self.ranges, Ranges::Cut) && !is_rest;
                let end = if is_cut { first + length / 2 } else { last + 1 };
                write(&mut stream, &self.content[first..end]).await;
            }
        }
    }

    fn starts(&self) -> Vec<Option<usize>> {
        let seen = self.seen.lock();
        seen.iter()
            .map(|range| range.map(|(first, _)| first))
            .collect()
    }
}

#[tokio::test]
async fn a_slow_connection_is_helped_by_three_ranges_ahead() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let script = Script::new(Ranges::Sent, 3);
    let served = script.serve().await;
    let found = blob(&upstream(&served, &quick()), &script.content).await;
    assert_eq!(Digest::of(&found.unwrap()), Digest::of(&script.content));
    let starts = script.starts();
    assert_eq!(starts[0], None, "{starts:?}");
    // Each of them once, and none that the first connection brought.
    let unique: std::collections::BTreeSet<_> = starts.iter().collect();
    assert_eq!(unique.len(), starts.len(), "{starts:?}");
    assert!(starts[1] > Some(FIRST), "{starts:?}");
    let most = script.most_open.load(Ordering::SeqCst);
    assert!((2..=4).contains(&most), "{most} at one time");
}

#[tokio::test]
async fn a_registry_without_ranges_is_read_by_one_connection() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let script = Script::new(Ranges::Unknown, 1);
    let served = script.serve().await;
    let found = blob(&upstream(&served, &quick()), &script.content).await;
    assert_eq!(Digest::of(&found.unwrap()), Digest::of(&script.content));
    let starts = script.starts();
    assert!((2..=10).contains(&starts.len()), "{starts:?}");
}

#[tokio::test]
async fn ranges_ahead_that_fail_do_no_harm() {
    let _alone = ONE_AT_A_TIME.lock().await;
    for ranges in [
        Ranges::Cut,
        Ranges::Refused(403),
        Ranges::Refused(429),
        Ranges::Refused(503),
        Ranges::Hung,
    ] {
        let script = Script::new(ranges, 1);
        let served = script.serve().await;
        let found = blob(&upstream(&served, &impatient()), &script.content).await;
        assert_eq!(Digest::of(&found.unwrap()), Digest::of(&script.content));
        let starts = script.starts();
        assert!((2..=12).contains(&starts.len()), "{starts:?}");
    }
}

#[tokio::test]
async fn a_first_connection_that_breaks_is_resumed_while_ranges_are_ahead() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let mut script = Script::new(Ranges::Sent, 2);
    script.breaks = true;
    let served = script.serve().await;
    let found = blob(&upstream(&served, &quick()), &script.content).await;
    assert_eq!(Digest::of(&found.unwrap()), Digest::of(&script.content));
    let starts = script.starts();
    assert!(starts.contains(&Some(FIRST)), "{starts:?}");
}

#[tokio::test]
async fn a_blob_of_less_than_32_mib_is_one_request() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let mut script = Script::new(Ranges::Sent, 0);
    script.content = noise((32 << 20) - 1, 7);
    let served = script.serve().await;
    let found = blob(&upstream(&served, &quick()), &script.content).await;
    assert_eq!(Digest::of(&found.unwrap()), Digest::of(&script.content));
    assert_eq!(script.starts(), [None]);
}
