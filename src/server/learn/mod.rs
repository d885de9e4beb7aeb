//! Priority lists that are learned from what nodes read when containers start.
//!
//! ```text
//! windows ─ what each node reads first of an image ─ files ─ which files that is
//!                                                     book  ─ what most starts have in common
//!                                                     shelf ─ kept for the next process
//! ```
//!
//! Lists are of repositories and by path, so that they hold for tags that are not there yet.

mod book;
mod files;
mod shelf;
mod windows;

use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use std::{fmt, io};

use http::HeaderMap;
use http::header::{RANGE, USER_AGENT};
use moka::future::Cache;
use parking_lot::Mutex;

pub(in crate::server) use files::files;
pub(in crate::server) use windows::Start;

use crate::format::prefetch::{MAX_LIST_BYTES, PrefetchList};
use crate::oci::{Digest, RepoName};
use crate::registry::Upstream;
use crate::registry::ranges::{self, Wanted};
use crate::server::http::header_names::OVERLAYBD_AGENT;
use book::{Book, Learned};
use shelf::Shelf;
use windows::{Read, Windows};

/// Most bytes of lists in memory.
const MAX_BYTES: u64 = 64 << 20;
/// How long a list is offered before its file is read again: other processes may write it.
const READ_AGAIN: Duration = Duration::from_mins(1);

/// A repository at an upstream, as that names it.
#[derive(Debug, Clone)]
pub(in crate::server) struct Repository {
    pub upstream: Upstream,
    pub repo: RepoName,
}

impl PartialEq for Repository {
    fn eq(&self, other: &Self) -> bool {
        self.repo == other.repo && self.upstream.host() == other.upstream.host()
    }
}

impl Eq for Repository {}

impl Hash for Repository {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.repo.hash(state);
        self.upstream.host().hash(state);
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.upstream.host(), self.repo)
    }
}

/// Who reads what: windows are of one repository and one client.
type Reader = (Arc<Repository>, IpAddr);

/// What was learned, and what is being.
pub(in crate::server) struct Learner {
    /// `None`: nothing is learned, and no list is offered.
    windows: Option<Mutex<Windows<Reader>>>,
    shelf: Shelf,
    offered: Cache<Arc<Repository>, Option<Arc<PrefetchList>>>,
}

impl Learner {
    /// Keeps what it learns in `directory`. `window`: how long what a node reads counts as its start.
    pub fn new(directory: PathBuf, window: Option<Duration>) -> Self {
        let weight = |_: &Arc<Repository>, list: &Option<Arc<PrefetchList>>| {
            // A list has its paths in order and by name.
            let bytes = list.as_ref().map_or(0, |_| 3 * MAX_LIST_BYTES);
            u32::try_from(512 + bytes).unwrap_or(u32::MAX)
        };
        Self {
            windows: window.map(|length| Mutex::new(Windows::new(length))),
            shelf: Shelf(directory),
            offered: Cache::builder()
                .max_capacity(MAX_BYTES)
                .weigher(weight)
                .time_to_live(READ_AGAIN)
                .build(),
        }
    }

    /// Whether anything is learned.
    pub fn is_learning(&self) -> bool {
        self.windows.is_some()
    }

    /// Notes what `client` reads of a converted blob, if it is a node. Never waits.
    pub fn note(
        &self,
        client: IpAddr,
        repository: &Arc<Repository>,
        (blob, size): (&Digest, u64),
        asked: &HeaderMap,
    ) {
        let Some(windows) = &self.windows else { return };
        let agent = asked.get(USER_AGENT);
        if !agent.is_some_and(|agent| agent.as_bytes().starts_with(OVERLAYBD_AGENT)) {
            return;
        }
        let Some(range) = asked.get(RANGE).and_then(|range| range.to_str().ok()) else {
            return;
        };
        // By this overlaybd finds out whether it may read, and the size.
        if range == "bytes=0-0" {
            return;
        }
        if let Wanted::One(range) = ranges::parse(range, size)
            && let Some(mut windows) = windows.try_lock()
        {
            let reader = (Arc::clone(repository), client);
            windows.note(&reader, Read { blob, size, range }, Instant::now());
        }
    }

    /// What a node read in a window that has ended, each once.
    pub fn take_ended(&self) -> Option<(Arc<Repository>, Start)> {
        let mut windows = self.windows.as_ref()?.lock();
        let ((repository, _), start) = windows.take_ended(Instant::now())?;
        Some((repository, start))
    }

    /// The list that is offered for a repository, if there is one.
    pub async fn offered(&self, repository: &Repository) -> Option<Arc<PrefetchList>> {
        if !self.is_learning() {
            return None;
        }
        let repository = Arc::new(repository.clone());
        let first = async {
            let mut lists = self.lists(&repository).await;
            (!lists.is_empty()).then(|| lists.swap_remove(0))
        };
        let key = Arc::clone(&repository);
        self.offered.get_with(key, Box::pin(first)).await
    }

    /// The lists that are or were offered for a repository, the last one first. Also where nothing is
    /// learned now: what was made with them may have to be made again.
    pub async fn lists(&self, repository: &Repository) -> Vec<Arc<PrefetchList>> {
        let (shelf, named) = (self.shelf.clone(), repository.clone());
        let read = blocking(move || shelf.read(named.upstream.host(), &named.repo)).await;
        match read {
            Ok(book) => book.map(|book| lists(&book)).unwrap_or_default(),
            Err(error) => {
                tracing::warn!(%repository, %error, "the learned priority lists cannot be read");
                Vec::new()
            }
        }
    }

    /// Adds the files of a start. Returns the list that is offered from now on, if it is another one
    /// than before.
    ///
    /// # Errors
    /// When it cannot be kept.
    pub async fn add(
        &self,
        repository: &Arc<Repository>,
        files: Vec<String>,
    ) -> io::Result<Option<Arc<PrefetchList>>> {
        let (shelf, named) = (self.shelf.clone(), Arc::clone(repository));
        let added = blocking(move || {
            let (host, repo) = (named.upstream.host(), &named.repo);
            let mut book = match shelf.read(host, repo) {
                Ok(book) => book.unwrap_or_default(),
                Err(error) => {
                    tracing::warn!(repository = %named, %error,
                        "the learned priority lists cannot be read, and are learned anew");
                    Book::default()
                }
            };
            host.clone_into(&mut book.upstream);
            repo.as_str().clone_into(&mut book.repository);
            let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
            let is_new = book.add(files, now.as_secs());
            shelf.write(host, repo, &book)?;
            let offered = book.lists.first().filter(|_| is_new);
            Ok(offered.and_then(list))
        });
        let offered = added.await?;
        if let Some(list) = &offered {
            let value = Some(Arc::clone(list));
            self.offered.insert(Arc::clone(repository), value).await;
        }
        Ok(offered)
    }
}

fn list(learned: &Learned) -> Option<Arc<PrefetchList>> {
    let text = learned.paths.join("\n");
    Some(Arc::new(PrefetchList::parse(text.as_bytes()).ok()?))
}

fn lists(book: &Book) -> Vec<Arc<PrefetchList>> {
    book.lists.iter().filter_map(list).collect()
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|panic| Err(io::Error::other(panic)))
}
