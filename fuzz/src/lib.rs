//! What the fuzzers share.

pub mod targets;
