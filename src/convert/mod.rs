//! Image in, descriptors out. Knows no HTTP serving.

pub mod apply;
mod disk;
mod error;
pub mod image;
pub mod inflate;
pub mod jobs;
pub mod layer;
pub mod plan;
mod stream;
pub mod tag;
