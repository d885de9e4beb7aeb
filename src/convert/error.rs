//! Why a layer could not be converted.

use std::io;

use super::acceleration::AccelerationError;
use super::apply::ApplyError;
use crate::format::blob::{BlobError, StackError, WriterError};
use crate::format::ext4;
use crate::format::tar::{Problem, TarError};
use crate::oci::digest::{DiffId, Digest};
use crate::sizes::{Size, as_option};
use crate::store::Shortage;

/// The most bytes that a conversion takes besides a zstd window.
const BYTES_BESIDES_WINDOW: u64 = 128 << 20;

/// Why a layer could not be converted.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The bytes could not be read; the source of the chunks has the cause.
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
    /// The compressed bytes have another digest than the manifest says.
    #[error("the layer's digest is {actual}, its manifest says {expected}")]
    Digest {
        /// From the manifest.
        expected: Digest,
        /// Of the bytes that came.
        actual: Digest,
    },
    /// The tar has another digest than the config says.
    #[error("the layer's diff id is {actual}, the image's config says {expected}")]
    DiffId {
        /// From the config.
        expected: DiffId,
        /// Of the tar that came.
        actual: Digest,
    },
    /// The layer inflates to more than it may.
    #[error(
        "the layer inflates to over {}: raise --max-layer-size if it is meant to",
        Size(*.limit)
    )]
    TooLarge {
        /// The most that was allowed, in bytes.
        limit: u64,
    },
    /// The layer is compressed with a zstd window for which there is no memory now.
    #[error(
        "the layer was compressed with a zstd window of {} (zstd --long), and conversions have {} for \
         all that they do: raise --memory to {} or more, or compress the layer without --long",
        Size(*.window),
        Size(*.memory),
        as_option(.window.saturating_add(BYTES_BESIDES_WINDOW))
    )]
    Window {
        /// Bytes of the window.
        window: u64,
        /// Bytes of the whole budget.
        memory: u64,
    },
    /// The compressed data is damaged, truncated or of a foreign kind.
    #[error("the layer cannot be inflated: {0}")]
    Inflate(#[source] io::Error),
    /// TurboOCI cannot carry the layer.
    #[error("the layer cannot be read at any place, as TurboOCI needs: {0}")]
    NoRandomAccess(#[source] NoRandomAccess),
    /// The tar is invalid, or contains what the filesystem does not support.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// The filesystem of the chain is not in order, or full.
    #[error("the image's filesystem: {0}")]
    Filesystem(#[from] ext4::Error),
    /// The blob could not be finished.
    #[error(transparent)]
    Writer(#[from] WriterError),
    /// The finished blob does not read back.
    #[error("the layer's blob does not read back: {0}")]
    Blob(#[from] BlobError),
    /// The layers cannot be stacked.
    #[error(transparent)]
    Stack(#[from] StackError),
    /// The file for the blob cannot be used.
    #[error("the file for the layer's blob: {0}")]
    Output(#[source] io::Error),
    /// The lower layers' disk is not of the size that the settings ask for.
    #[error(
        "the lower layers' disk has {}, the settings say {}: convert the whole chain again",
        Size(*.lower),
        Size(*.settings)
    )]
    VirtualSize {
        /// Bytes of the disk that is there.
        lower: u64,
        /// Bytes of the settings.
        settings: u64,
    },
    /// The layer does not belong on top of this chain.
    #[error("a layer {} was handed to a chain {}", if *.is_bottom { "with nothing below it" } else { "that has a parent" }, if *.is_bottom { "that has layers" } else { "that has none" })]
    Misplaced {
        /// Whether the layer says that it is the bottom one.
        is_bottom: bool,
    },
    /// The image's acceleration layer could not be made.
    #[error("the acceleration layer: {0}")]
    Acceleration(#[from] AccelerationError),
    /// No thread could be started.
    #[error("no thread can be started: {0}")]
    Thread(#[source] io::Error),
    /// A bug: a thread of the pipeline panicked.
    #[error("the thread that was {0} the layer panicked: this is a bug")]
    Panicked(&'static str),
    /// The reader of the layer was dropped; never the first cause.
    #[error("the conversion was given up")]
    Abandoned,
    /// An earlier layer of this chain failed, so what is in memory is no chain.
    #[error("an earlier layer of this chain failed: start the chain again")]
    Broken,
}

/// Why a part of a layer's tar cannot be read without all that is before it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoRandomAccess {
    /// zstd, for which there is no index.
    #[error("it is compressed with zstd, and nodes have an index for gzip only")]
    Zstd,
    /// Several members, or what else the index's format does not know.
    #[error("{0}")]
    Gzip(String),
    /// Blocks that are too long.
    #[error(
        "its longest deflate block has {} of tar, more than the {} that one read may have to inflate \
         in vain (--turbo-max-gap)",
        Size(*.gap),
        Size(*.limit)
    )]
    Gap {
        /// Bytes of tar in the longest block.
        gap: u64,
        /// The most that was allowed.
        limit: u64,
    },
}

impl LayerError {
    /// Whether this only says that the tar could not be read, so that the cause is in the result
    /// of the inflating thread.
    pub(super) fn is_a_consequence(&self) -> bool {
        matches!(
            self,
            Self::Apply(ApplyError::Tar(TarError {
                problem: Problem::Read(_),
                ..
            }))
        )
    }
}

/// Why an image could not be converted. `Clone`, because many may wait for one conversion.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ConvertError {
    /// A request to the upstream failed.
    #[error(transparent)]
    Upstream(#[from] crate::registry::Error),
    /// The manifest or config is not one.
    #[error("{what} {digest}: {cause}")]
    Document {
        /// What it should be.
        what: &'static str,
        /// Its digest.
        digest: Digest,
        /// What is wrong with it.
        cause: String,
    },
    /// The image cannot be planned.
    #[error("manifest {manifest}: {cause}")]
    Plan {
        /// The source manifest.
        manifest: Digest,
        /// What is wrong with it.
        cause: super::plan::PlanError,
    },
    /// An index without a platform that is to be converted.
    #[error("index {index} has no image for {wanted}; it has {available}")]
    NoPlatform {
        /// The source index.
        index: Digest,
        /// What was looked for.
        wanted: String,
        /// What there is.
        available: String,
    },
    /// An artifact that is no image: a signature, a chart, a build cache.
    #[error("{manifest} is no image but {kind}, and is left as it is")]
    NotImage {
        /// The source manifest.
        manifest: Digest,
        /// What it is, mostly a media type.
        kind: String,
    },
    /// An image for another operating system.
    #[error("no linux image: {manifest} is for {platform}, and is left as it is")]
    NotLinux {
        /// The source manifest.
        manifest: Digest,
        /// What it is for, as its config says.
        platform: crate::oci::Platform,
    },
    /// A layer could not be converted.
    #[error("layer {layer}: {cause}")]
    Layer {
        /// Digest of the compressed source layer.
        layer: Digest,
        /// What is wrong.
        #[source]
        cause: std::sync::Arc<LayerError>,
    },
    /// The blob directory.
    #[error(transparent)]
    Blobs(std::sync::Arc<crate::store::BlobError>),
    /// The index.
    #[error(transparent)]
    Index(std::sync::Arc<crate::store::IndexError>),
    /// The threads that compress cannot be started.
    #[error("the threads that compress cannot be started: {0}")]
    Threads(String),
    /// The conversion took too long.
    #[error(
        "the conversion was given up after {}: raise --conversion-timeout if the image is meant \
         to take longer",
        humantime::format_duration(*.0)
    )]
    TimedOut(std::time::Duration),
    /// As many images are waiting as may.
    #[error("{0} images are being converted or wait for it: ask again later, or raise --max-queue")]
    QueueFull(usize),
    /// The conversion failed a moment ago, and is not tried again yet.
    #[error(
        "{cause} (found {} ago, tried again in {})",
        humantime::format_duration(whole_seconds(*.age)),
        humantime::format_duration(whole_seconds(*.again))
    )]
    Remembered {
        /// Why it failed.
        cause: std::sync::Arc<ConvertError>,
        /// How long ago that was.
        age: std::time::Duration,
        /// After which time it is tried again.
        again: std::time::Duration,
    },
    /// The job ended without a result: the program stops, or there is a bug.
    #[error("the conversion was interrupted; ask again")]
    Interrupted,
    /// An operator cancelled it.
    #[error("an operator cancelled the conversion")]
    Cancelled,
}

/// Where the cause of a failed conversion is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The image is invalid or not supported: another attempt fails the same way.
    Image,
    /// The upstream.
    Upstream,
    /// This machine: disk, database, threads.
    Local,
}

impl Fault {
    /// It in a word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Upstream => "upstream",
            Self::Local => "local",
        }
    }
}

impl ConvertError {
    /// What this machine ran out of, if that is the cause.
    pub fn shortage(&self) -> Option<Shortage> {
        match self.cause() {
            Self::Blobs(error) => Shortage::among(&**error),
            Self::Index(error) if error.is_no_space() => Some(Shortage::Space),
            Self::Upstream(error) if error.is_too_many_files() => Some(Shortage::Files),
            other => Shortage::among(other),
        }
    }

    /// Where the cause is.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Remembered { cause, .. } => cause.fault(),
            Self::Upstream(_) => Fault::Upstream,
            Self::Document { .. }
            | Self::Plan { .. }
            | Self::NoPlatform { .. }
            | Self::NotImage { .. }
            | Self::NotLinux { .. } => Fault::Image,
            Self::Layer { cause, .. } => cause.fault(),
            Self::Blobs(_)
            | Self::Index(_)
            | Self::Threads(_)
            | Self::TimedOut(_)
            | Self::QueueFull(_)
            | Self::Interrupted
            | Self::Cancelled => Fault::Local,
        }
    }
}

impl ConvertError {
    /// The error itself, where this is one that is remembered.
    #[must_use]
    pub fn cause(&self) -> &Self {
        match self {
            // What is remembered is never remembered itself.
            Self::Remembered { cause, .. } => cause,
            other => other,
        }
    }

    /// How long ago it happened, and after which time the conversion is tried again, where this is
    /// one that is remembered.
    #[must_use]
    pub fn remembered(&self) -> Option<(std::time::Duration, std::time::Duration)> {
        match self {
            Self::Remembered { age, again, .. } => Some((*age, *again)),
            _ => None,
        }
    }

    /// Whether the source is no image that can be converted, which is no failure.
    #[must_use]
    pub fn is_no_image(&self) -> bool {
        matches!(self.cause(), Self::NotImage { .. } | Self::NotLinux { .. })
    }

    /// Whether a layer has other bytes than its digest says: fetching it again may help.
    pub(crate) fn is_wrong_bytes(&self) -> bool {
        matches!(self, Self::Layer { cause, .. } if matches!(**cause, LayerError::Digest { .. }))
    }

    /// Whether the only cause is that the layer below could not be finished.
    pub(crate) fn is_of_layer_below(&self) -> bool {
        matches!(self, Self::Layer { cause, .. } if matches!(**cause, LayerError::Broken))
    }

    /// Why the image cannot be a TurboOCI image, though it can be a native one.
    #[must_use]
    pub fn no_turbo(&self) -> Option<String> {
        match self.cause() {
            Self::Layer { layer, cause } => match &**cause {
                LayerError::NoRandomAccess(cause) => Some(format!("layer {layer}: {cause}")),
                LayerError::Writer(WriterError::TooManyMappings(count)) => Some(format!(
                    "layer {layer}: its files take {count} mappings, more than readers take \
                     (--turbo-inline 4KiB stores small files, which then take none)"
                )),
                _ => None,
            },
            _ => None,
        }
    }

    /// The zstd window, in bytes, for which there was not enough memory at once; a job may wait for
    /// that much.
    pub(crate) fn window(&self) -> Option<u64> {
        match self {
            Self::Layer { cause, .. } => match **cause {
                LayerError::Window { window, .. } => Some(window),
                _ => None,
            },
            _ => None,
        }
    }
}

/// A time for people.
fn whole_seconds(time: std::time::Duration) -> std::time::Duration {
    std::time::Duration::from_secs(time.as_secs().max(1))
}

impl LayerError {
    /// Where the cause is.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Source(_) | Self::Digest { .. } => Fault::Upstream,
            Self::Apply(error) if error.is_of_the_disk() => Fault::Local,
            Self::Acceleration(error) if error.is_of_the_disk() => Fault::Local,
            Self::Filesystem(ext4::Error::Io(_))
            | Self::Writer(WriterError::Io(_))
            | Self::Blob(_)
            | Self::Output(_)
            | Self::VirtualSize { .. }
            | Self::Misplaced { .. }
            | Self::Thread(_)
            | Self::Panicked(_)
            | Self::Abandoned
            | Self::Broken => Fault::Local,
            Self::Longer { .. }
            | Self::Shorter { .. }
            | Self::DiffId { .. }
            | Self::TooLarge { .. }
            | Self::Window { .. }
            | Self::Inflate(_)
            | Self::NoRandomAccess(_)
            | Self::Apply(_)
            | Self::Acceleration(_)
            | Self::Filesystem(_)
            | Self::Stack(_)
            | Self::Writer(WriterError::TooManyMappings(_)) => Fault::Image,
        }
    }
}

impl From<crate::store::BlobError> for ConvertError {
    fn from(error: crate::store::BlobError) -> Self {
        Self::Blobs(std::sync::Arc::new(error))
    }
}

impl From<crate::store::IndexError> for ConvertError {
    fn from(error: crate::store::IndexError) -> Self {
        Self::Index(std::sync::Arc::new(error))
    }
}
