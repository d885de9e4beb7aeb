//! One step: tar → ext4 over LSMT → `ZFile`.

use std::fs::File;
use std::io;
use std::sync::Arc;

use bytes::Bytes;

use crate::oci::digest::{ChainId, DiffId, Digest};

pub use super::stream::{Inflating, prepare};
pub use pending::{Algorithm, BlockSize, LayerBlob};

/// Stand-ins until the blob formats are merged.
mod pending {
    /// LZ4 or zstd.
    #[derive(Debug, Clone, Copy)]
    pub enum Algorithm {
        /// LZ4 blocks.
        Lz4,
    }
    /// Bytes per compressed block.
    #[derive(Debug, Clone, Copy)]
    pub struct BlockSize;
    /// A blob that was converted before.
    #[derive(Debug)]
    pub struct LayerBlob;
}

/// What decides a blob's bytes besides its source (and `threads`, which does not).
#[derive(Debug, Clone)]
pub struct Settings {
    /// The compression of the `ZFile`.
    pub algorithm: Algorithm,
    /// Bytes of disk per compressed block.
    pub block_size: BlockSize,
    /// Size of the virtual disk in bytes.
    pub virtual_size: u64,
    /// Most bytes that one layer may inflate to.
    pub max_layer_size: u64,
    /// Threads that compress; never decides a byte.
    pub threads: usize,
}

/// The bytes of a compressed layer as they arrive.
///
/// The iterator must come to an end or an error in bounded time: tearing a conversion
/// down waits for its current `next`.
pub type Chunks = Box<dyn Iterator<Item = io::Result<Bytes>> + Send>;

/// A source layer: its bytes and what the manifest and the config say of them.
pub struct LayerInput {
    /// The compressed bytes.
    pub chunks: Chunks,
    /// Digest of the compressed bytes, from the manifest.
    pub digest: Digest,
    /// Length of the compressed bytes, from the manifest.
    pub size: u64,
    /// Digest of the tar, from the config.
    pub diff_id: DiffId,
    /// The chain that this layer completes.
    pub chain_id: ChainId,
    /// The chain below; `None` for the bottom layer.
    pub parent_chain_id: Option<ChainId>,
}

/// How far a layer has come, in totals.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Compressed bytes taken from the source.
    pub compressed: u64,
    /// Bytes of tar they became.
    pub inflated: u64,
}

/// Called from the inflating thread; must be quick.
pub type OnProgress = Arc<dyn Fn(Progress) + Send + Sync>;

/// A blob that [`ChainBuilder::add_layer`] finished; it is in the file that was handed in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConvertedLayer {
    /// Digest of the whole blob.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
}

/// Why a layer could not be converted.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The bytes did not come; whoever fed them knows why.
    #[error("the layer could not be read: {0}")]
    Source(#[source] io::Error),
    /// The layer's length is not what the manifest says.
    #[error("the layer has {actual} bytes or more, its manifest says {expected}")]
    Longer {
        /// From the manifest.
        expected: u64,
        /// Bytes that came before the reading was given up.
        actual: u64,
    },
    /// The layer ends before the length that the manifest says.
    #[error("the layer ends after {actual} bytes, its manifest says {expected}")]
    Shorter {
        /// From the manifest.
        expected: u64,
        /// Bytes that came.
        actual: u64,
    },
    /// The compressed bytes are not those that the manifest means.
    #[error("the layer's digest is {actual}, its manifest says {expected}")]
    Digest {
        /// From the manifest.
        expected: Digest,
        /// Of the bytes that came.
        actual: String,
    },
    /// The tar is not the one that the config means.
    #[error("the layer's diff id is {actual}, the image's config says {expected}")]
    DiffId {
        /// From the config.
        expected: DiffId,
        /// Of the tar that came.
        actual: String,
    },
    /// The layer inflates to more than it may.
    #[error(
        "the layer inflates to over {limit} bytes: raise the largest layer size if it is meant to"
    )]
    TooLarge {
        /// The most that was allowed, in bytes.
        limit: u64,
    },
    /// The compressed data is damaged, truncated or of a foreign kind.
    #[error("the layer cannot be inflated: {0}")]
    Inflate(#[source] io::Error),
    /// No thread could be started.
    #[error("no thread can be started: {0}")]
    Thread(#[source] io::Error),
    /// A bug: a thread of the pipeline panicked.
    #[error("the thread that was {0} the layer panicked: this is a bug")]
    Panicked(&'static str),
    /// The layer's reader went away first; never the first cause.
    #[error("the conversion was given up")]
    Abandoned,
    /// An earlier layer of this chain failed, so what is in memory is no chain.
    #[error("an earlier layer of this chain failed: start the chain again")]
    Broken,
}

/// Converts the layers of one image, bottom first.
pub struct ChainBuilder {
    settings: Settings,
}

impl ChainBuilder {
    /// A chain with no layers yet: the first one brings the empty filesystem.
    #[must_use]
    pub fn empty(settings: Settings) -> Self {
        Self { settings }
    }

    /// A chain that goes on above `lower`, bottom first; `parent` is the digest of the
    /// topmost blob.
    pub fn on(
        _lower: Vec<Arc<LayerBlob>>,
        _parent: Digest,
        settings: Settings,
    ) -> Result<Self, LayerError> {
        Ok(Self { settings })
    }

    /// Converts one layer into `out`, an empty file open for reading and writing.
    ///
    /// Compressed digest, size and diff id are verified before this returns `Ok`. After an
    /// error the chain is broken: every later call is [`LayerError::Broken`].
    pub fn add_layer(
        &mut self,
        _layer: Inflating,
        _out: File,
    ) -> Result<ConvertedLayer, LayerError> {
        let _ = &self.settings;
        Err(LayerError::Broken)
    }
}
