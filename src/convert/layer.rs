//! One step: tar → ext4 over LSMT → `ZFile`.
//!
//! ```text
//! chunks → [verify, inflate] → queue → [untar, place in ext4] → [compress, …] → blob
//!                 └→ [diff id]
//! ```
//!
//! [`prepare`] starts the left half, so that layers are fetched and inflated ahead;
//! [`ChainBuilder::add_layer`] is the right half, one layer after the other.

use std::fs::File;
use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::apply::{apply, implicit};
use super::disk::Disk;
use super::tag::{UserTag, layer_uuid};
use crate::format::blob::{CompressPool, LayerSpec, LayerWriter, Stack};
use crate::format::block::{BlockDevice as _, FileDevice};
use crate::format::ext4::{Filesystem, FormatOptions};
use crate::format::tar::TarReader;
use crate::oci::digest::{ChainId, DiffId, Digest};

pub use super::error::LayerError;
pub use super::stream::{Inflating, prepare};
pub use crate::format::blob::{Algorithm, BlockSize, LayerBlob};

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

/// Converts the layers of one image, bottom first.
///
/// Between the layers the filesystem stays in memory; a chain that goes on above finished
/// blobs comes to the same bytes.
pub struct ChainBuilder {
    settings: Settings,
    pool: CompressPool,
    /// The finished layers as one disk.
    lower: Arc<Stack>,
    /// Digest of the topmost blob.
    parent: Option<Digest>,
    state: State,
}

/// What is in memory of the chain's filesystem.
enum State {
    /// There is none, on the disk neither.
    Unformatted,
    /// Nothing was read yet.
    Unread,
    /// It is open, on [`Disk::Reading`].
    Open(Box<Filesystem<Disk>>),
    /// A layer failed half-way.
    Broken,
}

impl ChainBuilder {
    /// A chain with no layers yet: the first one brings the empty filesystem.
    ///
    /// # Errors
    /// When the system refuses the threads that compress.
    pub fn empty(settings: Settings) -> Result<Self, LayerError> {
        Ok(Self {
            pool: CompressPool::new(settings.threads).map_err(LayerError::Thread)?,
            lower: Arc::new(Stack::empty(settings.virtual_size)),
            settings,
            parent: None,
            state: State::Unformatted,
        })
    }

    /// A chain that goes on above `lower`, bottom first; `parent` is the digest of the
    /// topmost blob. Whether the blobs fit each other is the caller's to know, from their
    /// [`UserTag`]s.
    ///
    /// # Errors
    /// When there is no lower layer, they cannot be stacked, or their disk has another size
    /// than the settings say.
    pub fn on(
        lower: Vec<Arc<LayerBlob>>,
        parent: Digest,
        settings: Settings,
    ) -> Result<Self, LayerError> {
        let stack = Stack::new(lower)?;
        if stack.layers().is_empty() {
            return Err(LayerError::Misplaced { is_bottom: false });
        }
        if stack.size() != settings.virtual_size {
            return Err(LayerError::VirtualSize {
                lower: stack.size(),
                settings: settings.virtual_size,
            });
        }
        Ok(Self {
            pool: CompressPool::new(settings.threads).map_err(LayerError::Thread)?,
            settings,
            lower: Arc::new(stack),
            parent: Some(parent),
            state: State::Unread,
        })
    }

    /// Converts one layer into `out`, an empty file open for reading and writing.
    ///
    /// Compressed digest, size and diff id are verified before this returns `Ok`. After an
    /// error what is in `out` is of no use, and the chain is broken: every later call is
    /// [`LayerError::Broken`]. All threads have ended when this returns.
    ///
    /// # Errors
    /// The first cause of whatever went wrong.
    pub fn add_layer(&mut self, layer: Inflating, out: File) -> Result<ConvertedLayer, LayerError> {
        let state = std::mem::replace(&mut self.state, State::Broken);
        let (filesystem, converted) = self.convert(state, layer, out)?;
        self.state = State::Open(filesystem);
        Ok(converted)
    }

    fn convert(
        &mut self,
        state: State,
        layer: Inflating,
        out: File,
    ) -> Result<(Box<Filesystem<Disk>>, ConvertedLayer), LayerError> {
        let is_bottom = layer.input.parent.is_none();
        if is_bottom != self.parent.is_none() {
            return Err(LayerError::Misplaced { is_bottom });
        }
        let parent_uuid = layer.input.parent.as_ref().map(layer_uuid);
        let spec = LayerSpec {
            virtual_size: self.settings.virtual_size,
            algorithm: self.settings.algorithm,
            block_size: self.settings.block_size,
            uuid: layer_uuid(&layer.input.chain),
            parent_uuid: parent_uuid.unwrap_or_default(),
        };
        let written = out.try_clone().map_err(LayerError::Output)?;
        let lower = Arc::clone(&self.lower);
        let writer =
            LayerWriter::create(lower, written, spec, &self.pool).map_err(LayerError::Output)?;
        let mut filesystem = self.filesystem(state, Disk::Writing(Box::new(writer)))?;

        place(&mut filesystem, layer)?;
        filesystem.flush()?;

        let disk = filesystem.replace_device(Disk::Reading(Arc::clone(&self.lower)));
        let writer = disk.into_writer().ok_or(LayerError::Broken)?;
        let tag = UserTag::of(self.parent.take());
        let blob = writer.finish(&tag.to_string())?;

        let device = FileDevice::new(out).map_err(LayerError::Output)?;
        let mut lower = Stack::clone(&self.lower);
        lower.push(Arc::new(LayerBlob::open(Arc::new(device))?))?;
        self.lower = Arc::new(lower);
        self.parent = Some(blob.digest.clone());
        filesystem.replace_device(Disk::Reading(Arc::clone(&self.lower)));
        let converted = ConvertedLayer {
            digest: blob.digest,
            size: blob.size,
        };
        Ok((filesystem, converted))
    }

    /// The chain's filesystem, on `disk`.
    fn filesystem(&self, state: State, disk: Disk) -> Result<Box<Filesystem<Disk>>, LayerError> {
        match state {
            State::Broken => Err(LayerError::Broken),
            State::Unformatted => {
                let mut filesystem = Filesystem::format(disk, &FormatOptions::default())?;
                let root = filesystem.root();
                filesystem.set_attributes(root, &implicit())?;
                Ok(Box::new(filesystem))
            }
            State::Unread => {
                let lower = Disk::Reading(Arc::clone(&self.lower));
                let mut filesystem = Box::new(Filesystem::open(lower)?);
                filesystem.replace_device(disk);
                Ok(filesystem)
            }
            State::Open(mut filesystem) => {
                filesystem.replace_device(disk);
                Ok(filesystem)
            }
        }
    }
}

/// Puts all of the layer on the filesystem, and says so only of a layer that is what the
/// manifest and the config promise.
fn place(filesystem: &mut Filesystem<Disk>, mut layer: Inflating) -> Result<(), LayerError> {
    let Some(tar) = layer.tar() else {
        return Err(LayerError::Abandoned);
    };
    let applied = apply(filesystem, &mut TarReader::new(&mut *tar)).map_err(LayerError::from);
    // What follows the archive's end is hashed as well. Whether that went well, the
    // inflating thread knows.
    let ended = applied.is_ok() && tar.drain().is_ok();
    match (applied, layer.finish()) {
        (Ok(()), Ok(())) if ended => Ok(()),
        (Ok(()), Ok(())) => Err(LayerError::Abandoned),
        (Err(cause), _) if !cause.is_a_consequence() => Err(cause),
        (_, Err(cause)) | (Err(cause), Ok(())) => Err(cause),
    }
}
