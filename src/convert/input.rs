//! A source layer: its compressed bytes, and what the manifest and the config say of them.

use std::fs::File;
use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::plan::Step;
use super::window::Windows;
use crate::oci::digest::{ChainId, DiffId, Digest};

/// The bytes of a compressed layer as they arrive.
///
/// The iterator must come to an end or an error in bounded time: stopping a conversion waits
/// for its current `next`.
pub type Chunks = Box<dyn Iterator<Item = io::Result<Bytes>> + Send>;

/// A writer that receives a copy of a layer's tar. An error of it ends the copy, not the layer.
pub type TarCopy = Box<dyn io::Write + Send>;

/// A source layer to be converted.
pub struct LayerInput {
    /// The compressed bytes.
    pub chunks: Chunks,
    /// Digest of the compressed bytes, from the manifest.
    pub digest: Digest,
    /// Length of the compressed bytes, from the manifest.
    pub size: u64,
    /// Digest of the tar, from the config.
    pub diff_id: DiffId,
    /// Whether bytes of this digest were seen to be that tar: it is not hashed again.
    pub is_diff_id_known: bool,
    /// The chain that this layer completes.
    pub chain_id: ChainId,
    /// The chain below; `None` for the bottom layer.
    pub parent_chain_id: Option<ChainId>,
    /// Where the tar is copied to, besides. The copy may be used only if the layer's digests
    /// turn out to be right.
    pub copy: Option<TarCopy>,
    /// The memory for its zstd windows.
    pub windows: Windows,
    /// Set if the layer is converted to TurboOCI: nodes will read the tar in the compressed layer.
    pub random_access: Option<RandomAccess>,
}

/// What it takes to read any part of a layer's tar in the compressed layer.
pub struct RandomAccess {
    /// An empty file, for the index of a gzip layer.
    pub index: File,
    /// Most bytes of tar between two places where reading can begin.
    pub max_gap: u64,
}

impl LayerInput {
    /// The layer of a step, whose tar is not copied.
    #[must_use]
    pub fn of(step: &Step, chunks: Chunks, windows: Windows) -> Self {
        Self {
            chunks,
            digest: step.layer.digest.clone(),
            size: step.layer.size,
            diff_id: step.diff_id.clone(),
            is_diff_id_known: false,
            chain_id: step.chain_id.clone(),
            parent_chain_id: step.parent.clone(),
            copy: None,
            windows,
            random_access: None,
        }
    }
}

/// How far a layer has come, in totals.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Compressed bytes read from the source.
    pub compressed: u64,
    /// Bytes of tar that they were inflated to.
    pub inflated: u64,
}

/// Called from the inflating thread; must be quick.
pub type OnProgress = Arc<dyn Fn(Progress) + Send + Sync>;
