//! Image in, descriptors out. Knows no HTTP serving.

pub mod apply;
pub mod inflate;
pub mod layer;
mod stream;
pub mod tag;
