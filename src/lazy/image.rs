//! The layers of an image as one disk.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Write as _};
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;

use super::blob::LazyBlob;
use super::fetch::Origin;
use super::opening::Opening;
use super::pieces::{Blob, Pieces};
use super::reading::Reading;
use super::traffic::Traffic;
use crate::format::blob::{BlobError, LayerBlob, Stack, StackError, TurboError, unpack_turbo};
use crate::format::block::{BlockDevice as _, DeviceReader, FileDevice, SharedDevice};
use crate::format::gzip_index::{GzipIndex, GzipIndexError, GzipTarget};
use crate::oci::Digest;

/// Most bytes of metadata and index of one TurboOCI layer.
const MAX_TURBO_BYTES: u64 = 4 << 30;

/// Of how many bytes of a blob one is likely to be of the indexes at its end.
const END_SHARE: u64 = 1024;
/// Most bytes at the end of a blob that are fetched before it is known what they are.
const MAX_END: u64 = 1 << 20;

/// A blob and its size in bytes.
pub type SizedBlob = (Digest, u64);

/// Where a layer is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerPlace {
    /// The layer's blob.
    pub blob: SizedBlob,
    /// The original layer that a TurboOCI layer points into.
    pub target: Option<SizedBlob>,
}

/// Why an image could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A layer.
    #[error("layer {layer}: {source}")]
    Layer {
        /// Its digest.
        layer: Digest,
        /// The cause.
        source: LayerError,
    },
    /// The layers do not make a disk.
    #[error(transparent)]
    Stack(#[from] StackError),
    /// A thread ended early.
    #[error("a layer was not opened: {0}")]
    Thread(io::Error),
}

/// Why a layer could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// It cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The blob.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// The blob of a TurboOCI layer.
    #[error(transparent)]
    Turbo(#[from] TurboError),
    /// Its index.
    #[error(transparent)]
    Index(#[from] GzipIndexError),
}

/// A converted image as a disk that is read as it is needed.
#[derive(Debug, Clone)]
pub struct ImageDisk {
    /// The disk.
    pub stack: Arc<Stack>,
    /// The layers, bottom first; none where they are files.
    pub layers: Vec<LayerPlace>,
    /// What was fetched.
    pub traffic: Arc<Traffic>,
    /// How long a read may take, all attempts and pauses together.
    pub read_timeout: Duration,
}

impl ImageDisk {
    /// The disk that opened layers make, bottom first, of which nothing is fetched.
    ///
    /// # Errors
    /// When they do not fit each other.
    pub fn of_files(layers: Vec<Arc<LayerBlob>>) -> Result<Self, StackError> {
        Ok(Self {
            stack: Arc::new(Stack::new(layers)?),
            layers: Vec::new(),
            traffic: Arc::default(),
            read_timeout: Reading::default().total,
        })
    }

    /// Opens the layers, bottom first, all at once. To be called in a runtime, which does the
    /// fetching; the disk is then read from threads that may block.
    ///
    /// # Errors
    /// The first layer that cannot be opened, or that they do not fit each other.
    pub async fn open(
        origin: &Origin,
        layers: Vec<LayerPlace>,
        reading: Reading,
    ) -> Result<Self, OpenError> {
        let traffic = Arc::new(Traffic::new(reading.keeps_requests));
        let (kept, read_timeout) = (Arc::clone(&traffic), reading.total);
        let pieces = Pieces::new(origin.clone(), reading, kept, Handle::current());
        let mut devices = Devices::new(pieces);
        let mut opening = Opening::new();
        for layer in &layers {
            let blob = devices.of(&layer.blob);
            let target = layer.target.as_ref().map(|target| devices.of(target));
            let open = move || open_lazily(&blob, target.as_ref());
            opening.begin(open).await.map_err(OpenError::Thread)?;
        }
        let results = opening.all().await.map_err(OpenError::Thread)?;
        let mut opened = Vec::with_capacity(layers.len());
        for (layer, result) in layers.iter().zip(results) {
            let layer = &layer.blob.0;
            opened.push(Arc::new(result.map_err(|source| OpenError::Layer {
                layer: layer.clone(),
                source,
            })?));
        }
        let stack = Stack::new(opened)?;
        Ok(Self {
            stack: Arc::new(stack),
            layers,
            traffic,
            read_timeout,
        })
    }
}

/// The blobs of an image as devices; layers with one blob share it.
struct Devices {
    pieces: Pieces,
    known: HashMap<SizedBlob, Arc<LazyBlob>>,
}

impl Devices {
    fn new(pieces: Pieces) -> Self {
        Self {
            pieces,
            known: HashMap::new(),
        }
    }

    fn of(&mut self, blob: &SizedBlob) -> Arc<LazyBlob> {
        if let Some(known) = self.known.get(blob) {
            return Arc::clone(known);
        }
        let of_image = Blob {
            number: u32::try_from(self.known.len()).unwrap_or(u32::MAX),
            digest: blob.0.clone(),
            size: blob.1,
        };
        let device = Arc::new(LazyBlob::new(of_image, self.pieces.clone()));
        self.known.insert(blob.clone(), Arc::clone(&device));
        device
    }
}

/// Opens a layer, having what opening it reads fetched at once. If that turns out to be damaged, it
/// is fetched anew once.
fn open_lazily(
    blob: &Arc<LazyBlob>,
    target: Option<&Arc<LazyBlob>>,
) -> Result<LayerBlob, LayerError> {
    let size = blob.size();
    if target.is_some() {
        // All of it is unpacked.
        blob.will_read(0, size);
    } else {
        blob.will_read(0, 1);
        let end = (size / END_SHARE).clamp(1, MAX_END).min(size);
        blob.will_read(size - end, end);
    }
    let open = || {
        let target = target.map(|target| Arc::<LazyBlob>::clone(target) as SharedDevice);
        open_layer(Arc::<LazyBlob>::clone(blob), target)
    };
    let before = blob.failures();
    match open() {
        Err(error) if blob.failures() == before => {
            tracing::warn!(%error, "a layer is damaged: it is fetched anew");
            blob.forget();
            open()
        }
        done => done,
    }
}

/// Opens a layer, also one that overlaybd refuses: `blob` is the layer's, `target` the original
/// layer that a TurboOCI layer points into. To be called from a thread that may block.
///
/// # Errors
/// When a part cannot be read, or is not what it should be.
pub fn open_layer(
    blob: SharedDevice,
    target: Option<SharedDevice>,
) -> Result<LayerBlob, LayerError> {
    let Some(target) = target else {
        return Ok(LayerBlob::open_readable(blob)?);
    };
    let (meta, index) = (tempfile::tempfile()?, tempfile::tempfile()?);
    let (mut meta_out, mut index_out) = (BufWriter::new(&meta), BufWriter::new(&index));
    let reader = BufReader::new(DeviceReader::new(&blob));
    let unpacked = unpack_turbo(
        reader,
        "ext4",
        MAX_TURBO_BYTES,
        &mut meta_out,
        &mut index_out,
    )?;
    meta_out.flush()?;
    index_out.flush()?;
    drop((meta_out, index_out));
    let target = if unpacked.is_gzip {
        Arc::new(GzipTarget::new(target, GzipIndex::open(device(index)?)?)?)
    } else {
        target
    };
    Ok(LayerBlob::open_turbo(device(meta)?, target)?)
}

fn device(file: File) -> io::Result<SharedDevice> {
    Ok(Arc::new(FileDevice::new(file)?))
}
