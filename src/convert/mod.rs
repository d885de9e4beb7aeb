//! Image in, descriptors out. Knows no HTTP serving.

pub mod image;
pub mod jobs;
pub mod layer;
pub mod plan;
