//! Image in, descriptors out. Knows no HTTP serving.

pub mod inflate;
pub mod layer;
pub mod tag;
