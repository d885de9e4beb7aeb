//! Converts the layers of a chain: tar → ext4 over LSMT → `ZFile`.
//!
//! ```text
//! chunks → [verify, inflate] → queue → [untar, apply to ext4] → [compress, …] → blob
//!                 └→ [diff id]
//! ```
//!
//! [`prepare`] starts the left half, so that layers are fetched and inflated ahead;
//! [`ChainBuilder::add_layer`] is the right half, one layer after the other.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::{self, JoinHandle};

use super::apply::{apply, implicit};
use super::disk::Disk;
use super::error::Fault;
use super::tag::{UserTag, layer_uuid};
use crate::format::blob::{FinishedBlob, LayerSpec, LayerWriter, Stack};
use crate::format::block::{BlockDevice as _, FileDevice, MovableDevice, SharedDevice};
use crate::format::ext4::{Filesystem, FormatOptions};
use crate::format::tar::TarReader;
use crate::oci::digest::Digest;

pub use super::error::LayerError;
pub use super::input::{Chunks, LayerInput, OnProgress, Progress, TarCopy};
pub use super::stream::{Inflating, prepare};
pub use super::window::Windows;
pub use crate::format::blob::{Algorithm, BlockSize, CompressPool, LayerBlob};

/// The settings that decide a blob's bytes, and `threads`, which does not.
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

/// A finished blob, in the file that was given to [`ChainBuilder::add_layer`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConvertedLayer {
    /// Digest of the whole blob.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
}

/// A layer whose blob is written, and is being synced and hashed.
///
/// Dropping it waits for nothing; the file is then of no use.
#[derive(Debug)]
pub struct Sealing {
    thread: JoinHandle<io::Result<ConvertedLayer>>,
    written: WrittenLayer,
}

/// A layer that is written and open, for the layers above it.
#[derive(Debug, Clone)]
pub struct WrittenLayer {
    /// The layer.
    pub blob: Arc<LayerBlob>,
    /// The device that it is read from.
    device: Arc<MovableDevice>,
}

impl WrittenLayer {
    /// Reads the layer from `device`, which has the same bytes, from now on. The file that it was
    /// written to may then be closed.
    pub fn move_to(&self, device: SharedDevice) {
        self.device.move_to(device);
    }
}

impl Sealing {
    /// The layer as it is read while it is being sealed.
    #[must_use]
    pub fn written(&self) -> WrittenLayer {
        self.written.clone()
    }

    /// Waits until the blob is durable; returns its digest and size.
    ///
    /// # Errors
    /// [`LayerError::Output`] when the file cannot be synced or read back.
    pub fn wait(self) -> Result<ConvertedLayer, LayerError> {
        match self.thread.join() {
            Ok(sealed) => sealed.map_err(LayerError::Output),
            Err(_) => Err(LayerError::Panicked("hashing")),
        }
    }
}

/// The digest of the blob below, which may still be being sealed.
enum Parent {
    None,
    Known(Digest),
    Sealing(Receiver<Digest>),
}

impl Parent {
    /// The digest; waits for it if need be.
    fn resolve(&mut self) -> Result<Option<Digest>, LayerError> {
        if let Self::Sealing(digest) = self {
            // The cause is in the result of that layer's sealing.
            *self = Self::Known(digest.recv().map_err(|_| LayerError::Broken)?);
        }
        Ok(match self {
            Self::Known(digest) => Some(digest.clone()),
            Self::None | Self::Sealing(_) => None,
        })
    }
}

/// Converts the layers of one image, bottom first.
///
/// Between the layers the filesystem stays in memory. A chain that continues above finished blobs
/// results in the same bytes.
pub struct ChainBuilder {
    settings: Settings,
    pool: CompressPool,
    /// The finished layers as one disk.
    lower: Arc<Stack>,
    /// The topmost blob.
    parent: Parent,
    state: State,
}

/// The state of the chain's filesystem.
enum State {
    /// There is none yet.
    Unformatted,
    /// It is on the lower layers, and not opened yet.
    Unread,
    /// It is open, on [`Disk::Reading`].
    Open(Box<Filesystem<Disk>>),
    /// A layer failed half-way.
    Broken,
}

impl ChainBuilder {
    /// A chain without layers: the filesystem is made for the first one.
    #[must_use]
    pub fn empty(settings: Settings, pool: CompressPool) -> Self {
        Self {
            pool,
            lower: Arc::new(Stack::empty(settings.virtual_size)),
            settings,
            parent: Parent::None,
            state: State::Unformatted,
        }
    }

    /// A chain that continues above `lower`, bottom first; `parent` is the digest of the topmost
    /// blob. The caller has to check that the blobs fit each other, by their [`UserTag`]s.
    ///
    /// # Errors
    /// When there is no lower layer, they cannot be stacked, or their disk has another size
    /// than the settings say.
    pub fn on(
        lower: Vec<Arc<LayerBlob>>,
        parent: Digest,
        settings: Settings,
        pool: CompressPool,
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
            pool,
            settings,
            lower: Arc::new(stack),
            parent: Parent::Known(parent),
            state: State::Unread,
        })
    }

    /// Converts one layer into `out`, an empty file open for reading and writing.
    ///
    /// Compressed digest, size and diff id of the source are verified before this returns
    /// `Ok`; the next layer can then be added while this one's blob is being sealed. After an
    /// error what is in `out` is of no use, and the chain is broken: every later call is
    /// [`LayerError::Broken`].
    ///
    /// # Errors
    /// The first cause of whatever went wrong.
    pub fn add_layer(&mut self, layer: Inflating, out: File) -> Result<Sealing, LayerError> {
        let state = std::mem::replace(&mut self.state, State::Broken);
        let (filesystem, sealing) = self.convert(state, layer, out)?;
        self.state = State::Open(filesystem);
        Ok(sealing)
    }

    fn convert(
        &mut self,
        state: State,
        layer: Inflating,
        out: File,
    ) -> Result<(Box<Filesystem<Disk>>, Sealing), LayerError> {
        let is_bottom = layer.input.parent.is_none();
        if is_bottom != matches!(self.parent, Parent::None) {
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
        let file = out.try_clone().map_err(LayerError::Output)?;
        let lower = Arc::clone(&self.lower);
        let writer =
            LayerWriter::create(lower, file, spec, &self.pool).map_err(LayerError::Output)?;
        let mut filesystem = self.filesystem(state, Disk::Writing(Box::new(writer)))?;

        apply_layer(&mut filesystem, layer)?;
        filesystem.flush()?;

        let disk = filesystem.replace_device(Disk::Reading(Arc::clone(&self.lower)));
        let writer = disk.into_writer().ok_or(LayerError::Broken)?;
        let tag = UserTag::of(self.parent.resolve()?);
        let written = writer.finish(&tag.to_string())?;

        let device = FileDevice::new(out).map_err(LayerError::Output)?;
        let device = Arc::new(MovableDevice::new(Arc::new(device)));
        let shared: SharedDevice = Arc::<MovableDevice>::clone(&device);
        let blob = Arc::new(LayerBlob::open(shared)?);
        let mut lower = Stack::clone(&self.lower);
        lower.push(Arc::clone(&blob))?;
        self.lower = Arc::new(lower);
        filesystem.replace_device(Disk::Reading(Arc::clone(&self.lower)));

        let (sender, digest) = sync_channel(1);
        self.parent = Parent::Sealing(digest);
        let seal = thread::Builder::new().name("seal".to_owned());
        let sealing = seal.spawn(move || {
            let FinishedBlob { digest, size, .. } = written.seal()?;
            // The chain may have ended with this layer.
            let _ = sender.send(digest.clone());
            Ok(ConvertedLayer { digest, size })
        });
        let sealing = Sealing {
            thread: sealing.map_err(LayerError::Thread)?,
            written: WrittenLayer { blob, device },
        };
        Ok((filesystem, sealing))
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

/// Applies all of the layer to the filesystem; succeeds only if the layer is what the manifest and
/// the config say.
fn apply_layer(filesystem: &mut Filesystem<Disk>, mut layer: Inflating) -> Result<(), LayerError> {
    let Some(tar) = layer.tar() else {
        return Err(LayerError::Abandoned);
    };
    let applied = apply(filesystem, &mut TarReader::new(&mut *tar)).map_err(LayerError::from);
    // What follows the archive's end is hashed as well; the inflating thread has the cause if that
    // fails. A wrong digest is reported before anything else that is wrong with the layer, as it
    // is where the chain was converted before.
    let is_of_the_image = |cause: &LayerError| cause.fault() == Fault::Image;
    let ended = applied.as_ref().err().is_none_or(is_of_the_image) && tar.drain().is_ok();
    match (applied, layer.finish()) {
        (Ok(()), Ok(())) if ended => Ok(()),
        (Ok(()), Ok(())) => Err(LayerError::Abandoned),
        (Err(cause), _) if !is_of_the_image(&cause) && !cause.is_a_consequence() => Err(cause),
        (_, Err(cause)) | (Err(cause), Ok(())) => Err(cause),
    }
}
