//! Image in, descriptors out. Knows no HTTP serving.

pub mod layer;
pub mod tag;
