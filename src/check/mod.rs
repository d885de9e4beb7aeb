//! Verification of a converted image against its source.
//!
//! The source's layers are extracted by code that the conversion does not use
//! ([`Tree::from_layers`]), the converted disk's ext4 is read by code that the writer does not
//! use, and the two trees are compared inode by inode ([`Tree::differences`]). Of a file's
//! content, length and digest are kept, so memory is that of metadata.
//!
//! Of a TurboOCI image it is also proved that nodes can mount it without data, and that inflating
//! can begin at each point of its gzip indexes: by an ordinary inflater, which knows no points.
//!
//! So that a defect of the converter is not repeated here, nothing of `convert` is used, and of
//! `format` only the readers of blobs (LSMT and `ZFile`) and of gzip indexes. `tests/layering.rs` lists what is used.

mod acceleration;
mod acl;
mod annotations;
mod attributes;
mod blobs;
mod bytes;
mod compare;
mod decompress;
mod ext4;
mod ext4_xattrs;
mod extract;
mod fetch;
mod file_range;
mod filesystem;
mod gzip_points;
mod original;
mod pairs;
mod report;
mod tar_entries;
mod tar_fields;
mod tar_header;
mod tar_sparse;
mod tree;
mod turbo;
mod turbo_files;
mod verify;
mod walk;

pub use compare::{Difference, What};
pub use extract::ExtractError;
pub use fetch::Repository;
pub use filesystem::FilesystemError;
pub use report::{ImageReport, Report};
pub use tree::Tree;
pub use verify::{Options, Step, check};
pub use walk::WalkError;
