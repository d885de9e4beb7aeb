//! The types of a conversion: its settings, its source, its events and its result.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::image::ImageStyle;
use super::input::Progress;
use super::layer::{Algorithm, BlockSize, Format, Settings};
use crate::format::prefetch::PrefetchList;
use crate::oci::{ChainId, Descriptor, Digest, Platform, RepoName, Tag};
use crate::registry::{Authorization, Upstream};

/// How images are converted.
#[derive(Debug, Clone)]
pub struct ConverterConfig {
    /// The settings of the blobs, and the number of threads that compress.
    pub settings: Settings,
    /// The platforms of an index that are converted.
    pub platforms: Platforms,
    /// What becomes of an index's other entries.
    pub others: Others,
    /// How the converted image is described.
    pub style: ImageStyle,
    /// Most layers that are converted at one time.
    pub conversions: usize,
    /// Most bytes of memory that all conversions take together.
    pub memory: u64,
    /// How long the conversion of one image may take, once it is admitted.
    pub timeout: Duration,
    /// Most images that are converted or wait for it.
    pub max_queue: usize,
    /// Whether blobs that other tools made are used where the index names them, although it is
    /// not proved that they fit each other.
    pub trust_foreign_layers: bool,
    /// How long the lease of a replica lasts without a heartbeat.
    pub lease_ttl: Duration,
    /// Where finished images are pushed to, if anywhere.
    pub push: Option<PushTarget>,
}

/// What is said of some images only, where it differs from the converter's settings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    /// The platforms of an index that are converted.
    pub platforms: Option<Platforms>,
    /// The compression of native layers.
    pub algorithm: Option<Algorithm>,
    /// The compressed blocks of native layers.
    pub block_size: Option<BlockSize>,
    /// What containers read when they start.
    pub prefetch: Option<Arc<PrefetchList>>,
}

impl Overrides {
    /// The settings with these in place of theirs.
    #[must_use]
    pub fn apply(&self, mut config: ConverterConfig) -> ConverterConfig {
        let Self {
            platforms,
            algorithm,
            block_size,
            prefetch,
        } = self.clone();
        config.platforms = platforms.unwrap_or(config.platforms);
        let settings = &mut config.settings;
        settings.algorithm = algorithm.unwrap_or(settings.algorithm);
        settings.block_size = block_size.unwrap_or(settings.block_size);
        settings.prefetch = prefetch.or(settings.prefetch.take());
        config
    }
}

/// Where a converter pushes what it made.
#[derive(Debug, Clone)]
pub struct PushTarget {
    /// The registry, with the proxy's own credentials; `None`: the image's own upstream.
    pub upstream: Option<Upstream>,
    /// The repository; `None`: the image's own.
    pub repo: Option<RepoName>,
    /// What is added to the source's tag.
    pub suffixes: Suffixes,
    /// Whether a tag is replaced although it names an image that this program did not make.
    pub overwrite_tags: bool,
}

impl PushTarget {
    /// The registry and the repository that the parts of an image from `source` are pushed to.
    #[must_use]
    pub fn place<'a>(&'a self, source: &'a Source) -> (&'a Upstream, &'a RepoName) {
        (
            self.upstream.as_ref().unwrap_or(&source.upstream),
            self.repo.as_ref().unwrap_or(&source.repo),
        )
    }

    /// Whether it is, or may be, another repository than the image's own.
    #[must_use]
    pub fn is_elsewhere(&self) -> bool {
        self.upstream.is_some() || self.repo.is_some()
    }
}

/// The ends of the tags of converted images.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Suffixes {
    /// That of native images.
    pub native: String,
    /// That of TurboOCI images; `None`: they have no tags.
    pub turbo: Option<String>,
}

impl Suffixes {
    /// The end of the tags of images in this format, if they have any.
    #[must_use]
    pub fn of(&self, format: Format) -> Option<&str> {
        match format {
            Format::Native => Some(&self.native),
            Format::Turbo(_) => self.turbo.as_deref(),
        }
    }
}

/// Which platforms of an index are converted.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Platforms {
    /// Every one.
    All,
    /// Those that satisfy one of these.
    Some(Vec<Platform>),
}

/// What becomes of entries of an index that are not converted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Others {
    /// They stay: the converted index is where the source is.
    Stay,
    /// The converted index goes elsewhere, without them.
    LeaveOut,
    /// They are copied to where the converted index goes.
    Copy,
}

/// Where an image is, and with which credentials it is read.
#[derive(Debug, Clone)]
pub struct Source {
    /// The registry or layout.
    pub upstream: Upstream,
    /// The repository in it.
    pub repo: RepoName,
    /// The credentials.
    pub authorization: Authorization,
}

/// Who has an image converted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Asker {
    /// This program itself.
    #[default]
    Proxy,
    /// A client at this address, by a pull. The port is 0 where it is not known.
    Client(SocketAddr),
    /// An operator.
    Operator,
    /// A registry's notification.
    Notification,
}

impl Asker {
    /// It in a word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Proxy => "proxy",
            Self::Client(_) => "client",
            Self::Operator => "operator",
            Self::Notification => "notification",
        }
    }

    /// Where the client is, if it is one.
    #[must_use]
    pub fn client(self) -> Option<IpAddr> {
        match self {
            Self::Client(address) => Some(address.ip()),
            Self::Proxy | Self::Operator | Self::Notification => None,
        }
    }
}

/// Whose pull has an image converted: for the log and lists alone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Requester {
    /// The source's tag, if it was asked for by one.
    pub tag: Option<Tag>,
    /// Who asks.
    pub asker: Asker,
    /// The client's user name, if it has one.
    pub user: Option<String>,
    /// The id of its request.
    pub request: Option<String>,
}

/// A manifest or index with its bytes, which are in the store too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredManifest {
    /// Digest of `bytes`.
    pub digest: Digest,
    /// The media type to serve it with.
    pub media_type: String,
    /// The document.
    pub bytes: Bytes,
}

/// A converted image. Its blobs are in the store, or were and can be rebuilt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConvertedImage {
    /// Digest of the source manifest or index.
    pub source: Digest,
    /// The converted manifest or index.
    pub root: StoredManifest,
    /// The converted image manifests: the root itself, or the index's entries that were
    /// converted, in order.
    pub manifests: Vec<ConvertedManifest>,
    /// Entries of the index that stay as they were.
    pub kept: Vec<Descriptor>,
    /// Converted indexes in the index, those within others first.
    pub indexes: Vec<StoredManifest>,
    /// Whether an image that is wanted was not at the upstream and is not among these.
    pub is_partial: bool,
}

impl ConvertedImage {
    /// An image whose root was not converted.
    pub(super) fn unchanged(source: &Digest, root: StoredManifest) -> Self {
        Self {
            source: source.clone(),
            root,
            manifests: Vec::new(),
            kept: Vec::new(),
            indexes: Vec::new(),
            is_partial: false,
        }
    }
}

/// One converted image manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConvertedManifest {
    /// Digest of the source manifest.
    pub source: Digest,
    /// The platform that the index names for it.
    pub platform: Option<Platform>,
    /// The manifest.
    pub manifest: StoredManifest,
    /// The config's descriptor.
    pub config: Descriptor,
    /// The layers' descriptors, bottom first.
    pub layers: Vec<Descriptor>,
    /// Whether it has layers that another tool made.
    pub has_foreign_layers: bool,
}

/// An event of a conversion. Layers are named by their chain-ids.
#[derive(Debug, Clone)]
pub enum Event {
    /// The conversion of one image manifest starts.
    Planned {
        /// The platform, where an index names one.
        platform: Option<Platform>,
        /// The source layers, bottom first.
        layers: Vec<PlannedLayer>,
    },
    /// A layer is being converted, or fetched ahead.
    Progress {
        /// Its chain.
        chain: ChainId,
        /// How far it has come.
        progress: Progress,
    },
    /// A layer is done.
    Done {
        /// Its chain.
        chain: ChainId,
        /// Size of the converted blob in bytes.
        size: u64,
        /// Whether it was converted now, or before.
        outcome: Outcome,
    },
}

/// A layer that a conversion will need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedLayer {
    /// The chain that it completes.
    pub chain: ChainId,
    /// Digest of the compressed source layer.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
}

/// When a layer was converted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was converted now.
    Converted,
    /// It had been converted before.
    Found,
}

/// Called with each event; must be quick.
pub type Observer = Arc<dyn Fn(Event) + Send + Sync>;
