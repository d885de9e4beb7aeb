//! Aligned pieces of blobs, each fetched once however many threads want it: from memory, from the
//! disk, or by a request, which asks for several that lie together.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::runtime::Handle;

use super::disk_cache::OriginCache;
use super::fetch::{Fetcher, Origin};
use super::flight::{Flight, Outcome, PieceError};
use super::reading::Reading;
use super::recent::{Key, Recent};
use super::traffic::Traffic;
use crate::oci::Digest;
use crate::registry::Upstream;

/// Most bytes of one request, unless a piece has more.
pub(super) const MAX_REQUEST: u64 = 4 << 20;
/// How much longer than a piece may take a thread waits for it: for a process that is stopped, or
/// a machine that has too much to do.
const SLACK: Duration = Duration::from_secs(30);

/// A blob, as far as its pieces are concerned.
#[derive(Debug)]
pub(super) struct Blob {
    /// A number of its own in the image.
    pub(super) number: u32,
    pub(super) digest: Digest,
    /// Bytes.
    pub(super) size: u64,
}

/// The pieces of all blobs of an image. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Pieces(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    fetcher: Fetcher,
    disk: Option<OriginCache>,
    runtime: Handle,
    state: Mutex<State>,
    /// Bytes that are being fetched before anybody waits for them.
    ahead: AtomicU64,
}

#[derive(Debug)]
struct State {
    recent: Recent,
    flying: HashMap<Key, Arc<Flight>>,
}

/// A piece that was asked for.
#[derive(Debug)]
pub(super) enum Piece {
    Here(Bytes),
    Coming(Arc<Flight>),
}

impl Pieces {
    /// Pieces that are fetched by the tasks of `runtime`.
    pub(super) fn new(
        origin: Origin,
        reading: Reading,
        traffic: Arc<Traffic>,
        runtime: Handle,
    ) -> Self {
        let is_local = matches!(origin.upstream, Upstream::Layout(_));
        let disk = reading.cache.as_ref();
        let disk = disk.filter(|_| !(is_local || reading.fresh || reading.node_like));
        let disk = disk.map(|cache| cache.of(&origin.name()));
        Self(Arc::new(Inner {
            state: Mutex::new(State {
                recent: Recent::new(reading.memory),
                flying: HashMap::new(),
            }),
            fetcher: Fetcher {
                origin,
                reading,
                traffic,
            },
            disk,
            runtime,
            ahead: AtomicU64::new(0),
        }))
    }

    pub(super) fn reading(&self) -> &Reading {
        &self.0.fetcher.reading
    }

    /// Bytes of a piece.
    pub(super) fn len(&self) -> u64 {
        self.reading().piece.max(512)
    }

    /// Pieces that one request asks for.
    pub(super) fn per_request(&self) -> u64 {
        if self.reading().node_like {
            1
        } else {
            (MAX_REQUEST / self.len()).max(1)
        }
    }

    /// Asks for pieces of a blob, at most as many as one request does; they come in order.
    pub(super) fn ask(&self, blob: &Arc<Blob>, numbers: Range<u64>) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let mut missing = Vec::new();
        {
            let mut state = self.0.state.lock();
            for number in numbers {
                let key = (blob.number, number);
                if let Some(bytes) = state.recent.get(key) {
                    pieces.push(Piece::Here(bytes));
                } else if let Some(flight) = state.flying.get(&key) {
                    pieces.push(Piece::Coming(Arc::clone(flight)));
                } else {
                    let flight = Arc::<Flight>::default();
                    state.flying.insert(key, Arc::clone(&flight));
                    missing.push((number, Arc::clone(&flight)));
                    pieces.push(Piece::Coming(flight));
                }
            }
        }
        if !missing.is_empty() {
            let mut landing = self.landing(blob, missing);
            landing.load();
            self.send(landing, false);
        }
        pieces
    }

    /// Has pieces of a blob fetched before anybody waits for them, those that are not here yet and
    /// not on the disk. Nothing, where much is fetched so already.
    pub(super) fn prepare(&self, blob: &Arc<Blob>, numbers: Range<u64>) {
        let mut rest = numbers;
        while !rest.is_empty() {
            let end = rest.end.min(rest.start.saturating_add(self.per_request()));
            let part = rest.start..end;
            rest.start = end;
            let bytes = (part.end - part.start).saturating_mul(self.len());
            let limit = self.reading().memory / 2;
            if self.0.ahead.load(Ordering::Relaxed).saturating_add(bytes) > limit {
                return;
            }
            let on_disk: Vec<bool> = part
                .clone()
                .map(|number| self.0.is_on_disk(blob, number))
                .collect();
            let mut missing = Vec::new();
            let mut state = self.0.state.lock();
            for (number, is_on_disk) in part.zip(on_disk) {
                let key = (blob.number, number);
                if !is_on_disk && !state.recent.contains(key) && !state.flying.contains_key(&key) {
                    let flight = Arc::<Flight>::default();
                    state.flying.insert(key, Arc::clone(&flight));
                    missing.push((number, flight));
                }
            }
            drop(state);
            if !missing.is_empty() {
                self.send(self.landing(blob, missing), true);
            }
        }
    }

    /// Waits for a piece. To be called from a thread that may block, never from a task.
    pub(super) fn wait(&self, piece: Piece) -> Outcome {
        match piece {
            Piece::Here(bytes) => Ok(bytes),
            Piece::Coming(flight) => flight.wait(self.reading().total.saturating_add(SLACK)),
        }
    }

    /// Drops all that there is of a blob from memory and from the disk.
    pub(super) fn forget_all(&self, blob: &Blob) {
        // The blob's size is what a manifest says: only what is there is counted.
        self.0.state.lock().recent.remove_all(blob.number);
        if let Some(disk) = &self.0.disk {
            disk.forget_all(&blob.digest);
        }
    }

    /// Drops pieces of a blob from memory and from the disk.
    pub(super) fn forget(&self, blob: &Blob, numbers: Range<u64>) {
        for number in numbers {
            self.0.state.lock().recent.remove((blob.number, number));
            if let Some(disk) = &self.0.disk {
                disk.forget(&blob.digest, &self.0.range(blob, number));
            }
        }
    }

    fn landing(&self, blob: &Arc<Blob>, flights: Vec<(u64, Arc<Flight>)>) -> Landing {
        Landing {
            inner: Arc::clone(&self.0),
            blob: Arc::clone(blob),
            flights,
        }
    }

    /// Sends the requests for what is to land, one for each row of neighbours.
    fn send(&self, landing: Landing, is_ahead: bool) {
        let per_request = self.per_request();
        for landing in landing.rows(per_request) {
            let inner = Arc::clone(&self.0);
            let bytes = landing.range().map_or(0, |range| range.end - range.start);
            let bytes = if is_ahead { bytes } else { 0 };
            inner.ahead.fetch_add(bytes, Ordering::Relaxed);
            // Where the runtime has ended, the landing is dropped, and says so.
            self.0.runtime.spawn(async move {
                landing.fetch().await;
                inner.ahead.fetch_sub(bytes, Ordering::Relaxed);
            });
        }
    }
}

impl Inner {
    fn range(&self, blob: &Blob, number: u64) -> Range<u64> {
        let length = self.fetcher.reading.piece.max(512);
        let start = number.saturating_mul(length);
        start.min(blob.size)..start.saturating_add(length).min(blob.size)
    }

    fn is_on_disk(&self, blob: &Blob, number: u64) -> bool {
        let disk = self.disk.as_ref();
        disk.is_some_and(|disk| disk.has(&blob.digest, &self.range(blob, number)))
    }

    fn land(&self, blob: &Blob, number: u64, flight: &Flight, outcome: Outcome) {
        let key = (blob.number, number);
        let mut state = self.state.lock();
        if let Ok(bytes) = &outcome {
            state.recent.insert(key, bytes.clone());
        }
        state.flying.remove(&key);
        drop(state);
        flight.land(outcome);
    }
}

/// Pieces of a blob that are flying, in order; those that nothing became of when it is dropped land
/// with an error, so that nobody waits for them.
struct Landing {
    inner: Arc<Inner>,
    blob: Arc<Blob>,
    flights: Vec<(u64, Arc<Flight>)>,
}

impl Landing {
    /// Lands what is on the disk.
    fn load(&mut self) {
        let Some(disk) = self.inner.disk.clone() else {
            return;
        };
        let (inner, blob) = (Arc::clone(&self.inner), Arc::clone(&self.blob));
        self.flights.retain(|(number, flight)| {
            let Some(bytes) = disk.load(&blob.digest, &inner.range(&blob, *number)) else {
                return true;
            };
            inner.fetcher.traffic.kept(bytes.len() as u64);
            inner.land(&blob, *number, flight, Ok(bytes));
            false
        });
    }

    /// The same in rows of neighbours, of at most `most` each.
    fn rows(mut self, most: u64) -> Vec<Self> {
        let mut rows: Vec<Self> = Vec::new();
        for (number, flight) in std::mem::take(&mut self.flights) {
            let last = rows.last_mut().filter(|row| {
                row.flights
                    .last()
                    .is_some_and(|(last, _)| last + 1 == number)
                    && (row.flights.len() as u64) < most
            });
            match last {
                Some(row) => row.flights.push((number, flight)),
                None => rows.push(Self {
                    inner: Arc::clone(&self.inner),
                    blob: Arc::clone(&self.blob),
                    flights: vec![(number, flight)],
                }),
            }
        }
        rows
    }

    fn range(&self) -> Option<Range<u64>> {
        let ((first, _), (last, _)) = (self.flights.first()?, self.flights.last()?);
        let range = |number: &u64| self.inner.range(&self.blob, *number);
        Some(range(first).start..range(last).end)
    }

    /// Fetches a row by one request, keeps it on the disk, and lands it.
    async fn fetch(mut self) {
        let Some(range) = self.range() else { return };
        let inner = Arc::clone(&self.inner);
        let blob = Arc::clone(&self.blob);
        let fetched = inner.fetcher.fetch(&blob.digest, &range).await;
        let fetched = fetched.map_err(Arc::new);
        let is_one = self.flights.len() == 1;
        while let Some((number, flight)) = self.flights.first().cloned() {
            let own = inner.range(&blob, number);
            let outcome = fetched.clone().and_then(|bytes| {
                let within = |at: u64| usize::try_from(at - range.start).unwrap_or(usize::MAX);
                match bytes.get(within(own.start)..within(own.end)) {
                    _ if is_one => Ok(bytes),
                    // A part of the whole would keep all of it in memory.
                    Some(part) => Ok(Bytes::copy_from_slice(part)),
                    None => Err(Arc::new(PieceError::Short {
                        wanted: range.end - range.start,
                        found: bytes.len() as u64,
                    })),
                }
            });
            if let (Ok(bytes), Some(disk)) = (&outcome, &inner.disk) {
                // Before anybody goes on, and ends the program.
                disk.store(&blob.digest, &own, bytes.clone()).await;
            }
            self.flights.remove(0);
            inner.land(&blob, number, &flight, outcome);
        }
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        for (number, flight) in std::mem::take(&mut self.flights) {
            let ended = Err(Arc::new(PieceError::Ended));
            self.inner.land(&self.blob, number, &flight, ended);
        }
    }
}
