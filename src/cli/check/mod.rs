//! Is a converted image what its source is? Answered for someone who does not believe us.
//!
//! The source's layers are put on each other by code that shares nothing with the conversion
//! ([`Tree::from_layers`]), the converted image's disk is read by code that shares nothing
//! with what wrote it, and the two are compared, inode by inode ([`Tree::differences`]). Only
//! metadata is kept in memory: of a file's content its length and its digest.

mod acl;
mod attributes;
mod bytes;
mod command;
mod compare;
mod ext4;
mod ext4_xattrs;
mod extract;
mod fetch;
mod filesystem;
mod pairs;
mod report;
mod tar_entries;
mod tar_fields;
mod tar_header;
mod tar_sparse;
mod tree;
mod verify;
mod walk;

pub(super) use command::{CheckArgs, run};
pub use compare::{Difference, What};
pub use extract::ExtractError;
pub use filesystem::FilesystemError;
pub use report::{ImageReport, Report};
pub use tree::Tree;
pub use verify::{Options, Step, check};
pub use walk::WalkError;
