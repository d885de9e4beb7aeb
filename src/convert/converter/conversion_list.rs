//! The conversions of images that wait, run or ended lately: for operators, who may cancel them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use parking_lot::Mutex;

use super::super::error::ConvertError;
use super::super::layer::Format;
use super::super::types::{Asker, Requester, Source};
use super::deadline::Cancellation;
use super::key::ImageKey;
use super::layer_progress::LayerProgress;
use super::status::ConversionCounters;
use crate::oci::{Digest, RepoName, Tag};

/// Most conversions that are listed after their end.
const MAX_ENDED: usize = 200;
/// The most characters of an error's text that are kept.
const MAX_TEXT: usize = 2000;

/// How far a conversion has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConversionState {
    /// It waits until it is admitted.
    Queued,
    /// It is under way.
    Running,
    /// It ended well: the root manifest's digest.
    Converted(Digest),
    /// It failed: the error's text.
    Failed(String),
    /// An operator ended it.
    Cancelled,
    /// There is nothing to convert: it is left as it is, which is no failure. What it is instead.
    NoImage(String),
}

impl ConversionState {
    /// Its name: one word in lower case.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Converted(_) => "converted",
            Self::Failed(_) => "failed",
            Self::Cancelled => "cancelled",
            Self::NoImage(_) => "no-image",
        }
    }

    /// Whether it is over.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        !matches!(self, Self::Queued | Self::Running)
    }
}

/// The conversion of one image, as it is at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conversion {
    /// Its number in this process, from 1 on.
    pub id: u64,
    /// The upstream's host.
    pub upstream: String,
    /// The repository.
    pub repo: RepoName,
    /// The tag that was asked for, if there was one.
    pub tag: Option<Tag>,
    /// The source's manifest.
    pub source: Digest,
    /// What it becomes.
    pub format: Format,
    /// The platforms of its images, as far as they were looked at, in one text.
    pub platforms: String,
    /// Who asked first.
    pub asker: Asker,
    /// The user name of the client that asked first.
    pub user: Option<String>,
    /// How far it has come.
    pub state: ConversionState,
    /// When it was asked for.
    pub created_at: SystemTime,
    /// When it began, if it has.
    pub started_at: Option<SystemTime>,
    /// When it ended, if it has.
    pub finished_at: Option<SystemTime>,
    /// Layers of the images that were looked at.
    pub layers: u64,
    /// Those of them that were there already.
    pub layers_found: u64,
    /// Those that were converted.
    pub layers_made: u64,
    /// Compressed bytes of all of these layers.
    pub source_bytes: u64,
    /// Compressed bytes that were read.
    pub read_bytes: u64,
    /// Bytes of blobs that were written.
    pub blob_bytes: u64,
    /// How far each layer has come, bottom first, until the conversion ends.
    pub each_layer: Vec<LayerProgress>,
    /// What to do about its error, if there is something to say.
    pub remedy: Option<&'static str>,
}

/// What is kept of a conversion that has not ended.
struct Live {
    base: Conversion,
    tally: Arc<ConversionCounters>,
    cancellation: Arc<Cancellation>,
}

impl Live {
    fn now(&self) -> Conversion {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let tally = &self.tally;
        Conversion {
            platforms: tally.platforms(),
            layers: read(&tally.layers),
            layers_found: read(&tally.layers_found),
            layers_made: read(&tally.layers_made),
            source_bytes: read(&tally.layer_bytes),
            read_bytes: read(&tally.source_bytes),
            blob_bytes: read(&tally.blob_bytes),
            each_layer: tally.each.now(),
            ..self.base.clone()
        }
    }
}

#[derive(Default)]
struct Inner {
    last: u64,
    live: BTreeMap<u64, Live>,
    ended: VecDeque<Conversion>,
}

/// Called when a conversion has ended.
pub type OnEnd = Box<dyn Fn(&Conversion) + Send + Sync>;

/// The list. The clones are the same.
#[derive(Clone, Default)]
pub(super) struct ConversionList {
    inner: Arc<Mutex<Inner>>,
    on_end: Arc<OnceLock<OnEnd>>,
}

impl ConversionList {
    /// Notes a conversion that was asked for, until it ends: as many as may be queued.
    pub(super) fn add(
        &self,
        key: &ImageKey,
        asked_by: &Requester,
        format: Format,
        tally: &Arc<ConversionCounters>,
    ) -> Entry {
        let mut inner = self.inner.lock();
        inner.last = inner.last.saturating_add(1);
        let id = inner.last;
        let base = Conversion {
            id,
            upstream: key.host.clone(),
            repo: key.repo.clone(),
            tag: asked_by.tag.clone(),
            source: key.source.clone(),
            format,
            platforms: String::new(),
            asker: asked_by.asker,
            user: asked_by.user.clone(),
            state: ConversionState::Queued,
            created_at: SystemTime::now(),
            started_at: None,
            finished_at: None,
            layers: 0,
            layers_found: 0,
            layers_made: 0,
            source_bytes: 0,
            read_bytes: 0,
            blob_bytes: 0,
            each_layer: Vec::new(),
            remedy: None,
        };
        let cancellation = Arc::new(Cancellation::default());
        let live = Live {
            base,
            tally: Arc::clone(tally),
            cancellation: Arc::clone(&cancellation),
        };
        inner.live.insert(id, live);
        Entry {
            list: self.clone(),
            id,
            cancellation,
        }
    }

    /// All of them: those that have not ended, the latest first, then those that ended, what ended last
    /// first.
    pub(super) fn all(&self) -> Vec<Conversion> {
        let inner = self.inner.lock();
        let live = inner.live.values().rev().map(Live::now);
        live.chain(inner.ended.iter().cloned()).collect()
    }

    /// Ends one that has not ended; whether there is such a one.
    pub(super) fn cancel(&self, id: u64) -> bool {
        let inner = self.inner.lock();
        let live = inner.live.get(&id);
        if let Some(live) = live {
            live.cancellation.cancel();
        }
        live.is_some()
    }

    /// Whether a conversion of this source is being cancelled, and has not ended yet.
    pub(super) fn is_being_cancelled(&self, source: &Source, manifest: &Digest) -> bool {
        let inner = self.inner.lock();
        inner.live.values().any(|live| {
            let base = &live.base;
            live.cancellation.is_cancelled()
                && base.source == *manifest
                && base.repo == source.repo
                && base.upstream == source.upstream.host()
        })
    }

    /// What is called with each conversion that ends from now on; the first that is set stays.
    pub(super) fn on_end(&self, on_end: OnEnd) {
        let _ = self.on_end.set(on_end);
    }

    fn end(&self, id: u64, state: ConversionState, remedy: Option<&'static str>) {
        let ended = {
            let mut inner = self.inner.lock();
            let Some(live) = inner.live.remove(&id) else {
                return;
            };
            let ended = Conversion {
                state,
                finished_at: Some(SystemTime::now()),
                // Many that ended are kept.
                each_layer: Vec::new(),
                remedy,
                ..live.now()
            };
            inner.ended.push_front(ended.clone());
            inner.ended.truncate(MAX_ENDED);
            ended
        };
        if let Some(on_end) = self.on_end.get() {
            on_end(&ended);
        }
    }
}

/// The place of a conversion in the list. It counts as interrupted when this is dropped before its
/// end is said.
pub(super) struct Entry {
    list: ConversionList,
    id: u64,
    cancellation: Arc<Cancellation>,
}

impl Entry {
    /// It is admitted.
    pub(super) fn begin(&self) {
        if let Some(live) = self.list.inner.lock().live.get_mut(&self.id) {
            live.base.state = ConversionState::Running;
            live.base.started_at.get_or_insert_with(SystemTime::now);
        }
    }

    /// Whether an operator cancelled it.
    pub(super) fn cancellation(&self) -> &Arc<Cancellation> {
        &self.cancellation
    }

    /// It ended well.
    pub(super) fn converted(self, root: &Digest) {
        let state = ConversionState::Converted(root.clone());
        self.list.end(self.id, state, None);
    }

    /// It is none: what was asked for failed a moment ago.
    pub(super) fn remove(self) {
        self.list.inner.lock().live.remove(&self.id);
    }

    /// It failed, or was cancelled.
    pub(super) fn failed(self, error: &ConvertError) {
        let state = match error {
            ConvertError::Cancelled => ConversionState::Cancelled,
            error => {
                let text = error.to_string().chars().take(MAX_TEXT).collect();
                if error.is_no_image() {
                    ConversionState::NoImage(text)
                } else {
                    ConversionState::Failed(text)
                }
            }
        };
        self.list.end(self.id, state, error.remedy());
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let text = ConvertError::Interrupted.to_string();
        let state = ConversionState::Failed(text);
        self.list.end(self.id, state, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(list: &ConversionList) -> Entry {
        let key = ImageKey {
            host: "registry.example".to_owned(),
            repo: "a/b".parse().unwrap(),
            source: Digest::of(b"source"),
            variant: "v".into(),
        };
        let tally = Arc::new(ConversionCounters::default());
        list.add(&key, &Requester::default(), Format::Native, &tally)
    }

    #[test]
    fn what_ended_last_is_first_behind_what_has_not_ended_and_the_oldest_go() {
        let list = ConversionList::default();
        let first = add(&list);
        first.begin();
        for _ in 0..MAX_ENDED + 5 {
            add(&list).converted(&Digest::of(b"root"));
        }
        let all = list.all();
        assert_eq!(all.len(), MAX_ENDED + 1);
        assert!(all[1..].is_sorted_by(|a, b| a.id > b.id));
        assert_eq!((all[0].id, all[0].state.name()), (1, "running"));
        let second = add(&list);
        assert_eq!(list.all()[0].id, second.id);
        drop(first);
        let all = list.all();
        assert_eq!((all[0].id, all[0].state.name()), (second.id, "queued"));
        assert_eq!((all[1].id, all[1].state.name()), (1, "failed"));
        assert_eq!(all.len(), MAX_ENDED + 1);
    }

    #[tokio::test]
    async fn a_conversion_that_runs_is_cancelled_and_one_that_ended_is_not() {
        let list = ConversionList::default();
        let entry = add(&list);
        assert!(!list.cancel(7));
        assert!(list.cancel(1));
        entry.cancellation().cancelled().await;
        entry.failed(&ConvertError::Cancelled);
        assert_eq!(list.all()[0].state, ConversionState::Cancelled);
        assert!(!list.cancel(1));
    }
}
