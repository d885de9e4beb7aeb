//! How far each layer of a conversion has come.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::super::plan::Step;
use crate::oci::{ChainId, Digest};

/// Most layers of a conversion that are followed: more than an image may have.
const MAX_LAYERS: usize = 512;

/// How far a layer has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerState {
    /// Nothing is done with it yet.
    Waiting,
    /// It is fetched, applied, written or pushed.
    Running,
    /// It was there already.
    Found,
    /// It is converted.
    Converted,
}

impl LayerState {
    /// Its name: one word in lower case.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Found => "found",
            Self::Converted => "converted",
        }
    }
}

/// One layer of a conversion, as it is at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerProgress {
    /// The compressed layer.
    pub layer: Digest,
    /// Its compressed bytes.
    pub bytes: u64,
    /// Those that were read.
    pub read: u64,
    /// How far it has come.
    pub state: LayerState,
}

struct Followed {
    chain: ChainId,
    layer: Digest,
    bytes: u64,
    read: Arc<AtomicU64>,
    state: LayerState,
}

/// The layers of a conversion, bottom first, of one image after the other.
#[derive(Default)]
pub(super) struct Layers(Mutex<Vec<Followed>>);

impl std::fmt::Debug for Layers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} layers", self.0.lock().len())
    }
}

impl Layers {
    /// Forgets them: the images are looked at again.
    pub(super) fn clear(&self) {
        self.0.lock().clear();
    }

    /// Follows a layer from now on.
    pub(super) fn add(&self, step: &Step) {
        let mut all = self.0.lock();
        // Images of an index may share their lower layers.
        if all.len() < MAX_LAYERS && !all.iter().any(|one| one.chain == step.chain_id) {
            all.push(Followed {
                chain: step.chain_id.clone(),
                layer: step.layer.digest.clone(),
                bytes: step.layer.size,
                read: Arc::default(),
                state: LayerState::Waiting,
            });
        }
    }

    /// Notes how far a layer has come.
    pub(super) fn set(&self, step: &Step, state: LayerState) {
        let mut all = self.0.lock();
        if let Some(one) = all.iter_mut().find(|one| one.chain == step.chain_id) {
            one.state = state;
        }
    }

    /// A layer is being read: where to say how much of it was. What an earlier attempt read counts no more.
    pub(super) fn read(&self, step: &Step) -> Arc<AtomicU64> {
        let mut all = self.0.lock();
        let one = all.iter_mut().find(|one| one.chain == step.chain_id);
        one.map_or_else(Arc::default, |one| {
            one.state = LayerState::Running;
            one.read = Arc::default();
            Arc::clone(&one.read)
        })
    }

    /// As they are now.
    pub(super) fn now(&self) -> Vec<LayerProgress> {
        let all = self.0.lock();
        let all = all.iter().map(|one| LayerProgress {
            layer: one.layer.clone(),
            bytes: one.bytes,
            read: one.read.load(Ordering::Relaxed).min(one.bytes),
            state: one.state,
        });
        all.collect()
    }
}
