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
use std::io::{self, Read as _};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::{self, JoinHandle};

use super::apply::{apply, implicit};
use super::disk::Disk;
use super::error::Fault;
use super::scratch::Scratch;
use super::tag::{UserTag, layer_uuid};
use super::turbo::{NoTarget, pack};
use crate::format::blob::{FinishedBlob, LayerSpec, LayerWriter, Stack, TurboWriter};
use crate::format::block::{BlockDevice as _, FileDevice, MovableDevice, SharedDevice};
use crate::format::ext4::{Filesystem, FormatOptions};
use crate::format::prefetch::{DataOrder, PrefetchList};
use crate::format::tar::TarReader;
use crate::oci::digest::Digest;

pub use super::converted_layer::{ConvertedLayer, TurboLayer};
pub use super::error::LayerError;
pub use super::input::{Chunks, LayerInput, OnProgress, Progress, TarCopy};
pub use super::stream::{Inflating, prepare};
pub use super::window::Windows;
pub use crate::format::blob::{
    Algorithm, BlockSize, CompressPool, LayerBlob, MakeSpoolFile, SpoolFile,
};

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
    /// What layers become.
    pub format: Format,
    /// The files whose data is to lie together in native layers, in this order.
    pub prefetch: Option<Arc<PrefetchList>>,
}

/// What layers are converted to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// Native layers: all of the filesystem, compressed anew.
    Native,
    /// TurboOCI layers: what the filesystem adds, and where in the original layer the data is.
    Turbo(TurboSettings),
}

impl Format {
    /// It in a word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Turbo(_) => "turbo",
        }
    }
}

/// How TurboOCI layers are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TurboSettings {
    /// Bytes up to which a file's data goes into the layer's metadata.
    pub max_stored_file: u64,
    /// Most bytes of tar that one read may have to inflate in vain.
    pub max_gap: u64,
}

/// What a layer is converted to, and the files for it.
pub enum LayerOutput {
    /// A native layer.
    Native(NativeOutput),
    /// A TurboOCI layer.
    Turbo(TurboOutput),
}

/// The files for a native layer.
pub struct NativeOutput {
    /// An empty file for the blob, open for reading and writing.
    pub blob: File,
    /// Makes a file for data that is kept until the rest of the layer is written.
    pub spool: MakeSpoolFile,
}

/// The files for a TurboOCI layer.
pub struct TurboOutput {
    /// An empty file for the blob.
    pub blob: File,
    /// An empty file for its metadata, of use until the layer is written.
    pub meta: File,
    /// Where the metadata of the whole chain is kept, for the layers above.
    pub scratch: Arc<Scratch>,
    /// Bytes up to which a file's data goes into the metadata.
    pub max_stored_file: u64,
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
    /// The device that a native layer is read from.
    device: Option<Arc<MovableDevice>>,
}

impl WrittenLayer {
    /// Reads the layer from `device`, which has the same bytes, from now on. The file that it was
    /// written to may then be closed. A TurboOCI layer stays where it is.
    pub fn move_to(&self, device: SharedDevice) {
        if let Some(current) = &self.device {
            current.move_to(device);
        }
    }
}

impl Sealing {
    fn new(
        thread: JoinHandle<io::Result<ConvertedLayer>>,
        blob: Arc<LayerBlob>,
        device: Option<Arc<MovableDevice>>,
    ) -> Self {
        Self {
            thread,
            written: WrittenLayer { blob, device },
        }
    }

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

    /// Converts one layer into `out`.
    ///
    /// Compressed digest, size and diff id of the source are verified before this returns
    /// `Ok`; the next layer can then be added while this one's blob is being sealed. After an
    /// error what is in `out` is of no use, and the chain is broken: every later call is
    /// [`LayerError::Broken`].
    ///
    /// # Errors
    /// The first cause of whatever went wrong.
    pub fn add_layer(&mut self, layer: Inflating, out: LayerOutput) -> Result<Sealing, LayerError> {
        let state = std::mem::replace(&mut self.state, State::Broken);
        let (filesystem, sealing) = match out {
            LayerOutput::Native(out) => self.convert(state, layer, out)?,
            LayerOutput::Turbo(out) => self.convert_turbo(state, layer, out)?,
        };
        self.state = State::Open(filesystem);
        Ok(sealing)
    }

    fn convert(
        &mut self,
        state: State,
        layer: Inflating,
        out: NativeOutput,
    ) -> Result<(Box<Filesystem<Disk>>, Sealing), LayerError> {
        let spec = self.spec(&layer)?;
        let NativeOutput { blob: out, spool } = out;
        let file = out.try_clone().map_err(LayerError::Output)?;
        let lower = Arc::clone(&self.lower);
        let writer =
            LayerWriter::create(lower, file, spec, &self.pool).map_err(LayerError::Output)?;
        let disk = Disk::Writing(Box::new(writer.keep_wanted(spool)));
        let mut filesystem = self.filesystem(state, disk)?;

        let order = DataOrder::new(self.settings.prefetch.clone());
        apply_layer(&mut filesystem, layer, &order)?;
        let disk = filesystem.device_mut();
        disk.place_wanted().map_err(LayerError::Output)?;
        filesystem.flush()?;

        let disk = filesystem.replace_device(Disk::Reading(Arc::clone(&self.lower)));
        let writer = disk.into_writer().ok_or(LayerError::Broken)?;
        let tag = UserTag::of(self.parent.resolve()?, self.list());
        let written = writer.finish(&tag.to_string())?;

        let device = FileDevice::new(out).map_err(LayerError::Output)?;
        let device = Arc::new(MovableDevice::new(Arc::new(device)));
        let shared: SharedDevice = Arc::<MovableDevice>::clone(&device);
        let blob = Arc::new(LayerBlob::open(shared)?);
        self.push(&mut filesystem, &blob)?;
        let sealing = self.seal(move |tell| {
            let FinishedBlob { digest, size, .. } = written.seal_with(tell)?;
            Ok(ConvertedLayer {
                digest,
                size,
                turbo: None,
            })
        })?;
        Ok((filesystem, Sealing::new(sealing, blob, Some(device))))
    }

    fn convert_turbo(
        &mut self,
        state: State,
        layer: Inflating,
        out: TurboOutput,
    ) -> Result<(Box<Filesystem<Disk>>, Sealing), LayerError> {
        let spec = LayerSpec {
            algorithm: Algorithm::Lz4,
            block_size: BlockSize::KIB_4,
            ..self.spec(&layer)?
        };
        let meta = out.meta.try_clone().map_err(LayerError::Output)?;
        let writer = TurboWriter::create(Arc::clone(&self.lower), meta, spec, &self.pool)
            .map_err(LayerError::Output)?;
        let disk = Disk::WritingTurbo {
            writer: Box::new(writer),
            max_stored_file: out.max_stored_file,
        };
        let mut filesystem = self.filesystem(state, disk)?;

        let access = layer.access();
        // The file data that lies together is the tar's.
        apply_layer(&mut filesystem, layer, &DataOrder::default())?;
        filesystem.flush()?;
        let access = access.lock().take().ok_or(LayerError::Abandoned)?;

        let disk = filesystem.replace_device(Disk::Reading(Arc::clone(&self.lower)));
        let writer = disk.into_turbo_writer().ok_or(LayerError::Broken)?;
        let tag = UserTag::of(self.parent.resolve()?, None);
        let finished = writer.finish(&tag.to_string())?;
        let meta = out
            .scratch
            .append(&mut (&out.meta).take(finished.size))
            .map_err(LayerError::Output)?;
        let blob = LayerBlob::open_turbo(Arc::clone(&meta), Arc::new(NoTarget))?;
        let blob = Arc::new(blob);
        self.push(&mut filesystem, &blob)?;
        let sealing = self.seal(move |tell| pack(&out.blob, &meta, access, tell))?;
        Ok((filesystem, Sealing::new(sealing, blob, None)))
    }

    /// What the next layer is, of native ones.
    fn spec(&self, layer: &Inflating) -> Result<LayerSpec, LayerError> {
        let is_bottom = layer.input.parent.is_none();
        if is_bottom != matches!(self.parent, Parent::None) {
            return Err(LayerError::Misplaced { is_bottom });
        }
        let parent_uuid = layer.input.parent.as_ref().map(layer_uuid);
        Ok(LayerSpec {
            virtual_size: self.settings.virtual_size,
            algorithm: self.settings.algorithm,
            block_size: self.settings.block_size,
            uuid: layer_uuid(&layer.input.chain),
            parent_uuid: parent_uuid.unwrap_or_default(),
        })
    }

    /// What orders the data of native layers.
    fn list(&self) -> Option<Digest> {
        let list = self.settings.prefetch.as_ref()?;
        Some(list.digest().clone())
    }

    /// Puts a written layer on top, for the layers above.
    fn push(
        &mut self,
        filesystem: &mut Filesystem<Disk>,
        blob: &Arc<LayerBlob>,
    ) -> Result<(), LayerError> {
        let mut lower = Stack::clone(&self.lower);
        lower.push(Arc::clone(blob))?;
        self.lower = Arc::new(lower);
        filesystem.replace_device(Disk::Reading(Arc::clone(&self.lower)));
        Ok(())
    }

    /// Seals a layer's blob in a thread. The layer above is told its digest as soon as `work` tells
    /// it, and does not wait for the disk.
    fn seal(
        &mut self,
        work: impl FnOnce(&dyn Fn(&Digest)) -> io::Result<ConvertedLayer> + Send + 'static,
    ) -> Result<JoinHandle<io::Result<ConvertedLayer>>, LayerError> {
        let (sender, digest) = sync_channel(1);
        self.parent = Parent::Sealing(digest);
        let seal = thread::Builder::new().name("seal".to_owned());
        let sealing = seal.spawn(move || {
            work(&|digest| {
                // The chain may have ended with this layer.
                let _ = sender.send(digest.clone());
            })
        });
        sealing.map_err(LayerError::Thread)
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
fn apply_layer(
    filesystem: &mut Filesystem<Disk>,
    mut layer: Inflating,
    order: &DataOrder,
) -> Result<(), LayerError> {
    let Some(tar) = layer.tar() else {
        return Err(LayerError::Abandoned);
    };
    let applied = apply(filesystem, &mut TarReader::new(&mut *tar), order);
    let applied = applied.map_err(LayerError::from);
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
