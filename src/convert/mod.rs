//! Image in, descriptors out. Knows no HTTP serving.

pub mod apply;
mod disk;
mod error;
pub mod inflate;
pub mod layer;
pub mod pending;
mod stream;
pub mod tag;
