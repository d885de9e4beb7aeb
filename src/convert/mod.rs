//! Image in, descriptors out. Knows no HTTP serving.

pub mod apply;
pub mod converter;
mod disk;
mod error;
pub mod image;
pub mod inflate;
pub mod jobs;
pub mod layer;
pub mod memory;
pub mod plan;
pub mod push;
mod stream;
pub mod tag;
mod window;

pub use converter::{
    ConvertedImage, ConvertedManifest, Converter, ConverterConfig, Event, Held, Observer, Others,
    Outcome, PlannedLayer, Platforms, PushTarget, Source, Status, StoredManifest, TagOutcome,
};
pub use error::{ConvertError, Fault};
