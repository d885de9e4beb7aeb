//! Images that are read as they are needed: which requests that takes, what is kept on the disk, and
//! what becomes of errors. A stock registry serves, behind a gate that fails in all ways.

mod cache;
mod errors;
mod measure;
mod opening;
mod reading;
mod served;
