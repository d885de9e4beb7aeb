//! Converts images to overlaybd. Knows nothing of serving them over HTTP.

mod acceleration;
pub mod apply;
mod converted_layer;
pub mod converter;
pub mod derived;
mod disk;
mod download;
mod error;
pub mod image;
pub mod inflate;
pub mod input;
pub mod jobs;
pub mod layer;
pub mod lock;
pub mod memory;
pub mod plan;
pub mod push;
mod remedy;
mod remote;
pub mod scratch;
pub mod source_cache;
mod stream;
pub mod tag;
mod turbo;
pub mod types;
mod window;

pub use converter::{
    Conversion, ConversionState, Converter, FAILURE_TARGET, FailedImage, ImagePart, LayerProgress,
    LayerState, OnEnd, PartKind, PinnedBlobs, PinnedImage, PushCount, Status, TagOutcome,
    source_size,
};
pub use error::{ConvertError, Fault};
pub use remote::RemoteBlob;
pub use source_cache::{CacheCount, CacheOutcome, SourceCache};
pub use types::{
    Asker, ConvertedImage, ConvertedManifest, ConverterConfig, Event, Observer, Others, Outcome,
    Overrides, PlannedLayer, Platforms, PushTarget, Requester, Source, StoredManifest, Suffixes,
};
