//! Which blobs are copies of what an upstream has, told by the mode of their files.
//!
//! What was made here takes a conversion to be made again, and running containers read it; a copy
//! takes a download. The mark is on the file, so that it lasts as long as the file does and other
//! processes see it: the owner may not write to a copy.

use std::fs::{File, Metadata, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;

use super::store::BlobStore;
use crate::oci::Digest;

const COPY_MODE: u32 = 0o400;
const OWNER_WRITES: u32 = 0o200;

/// Marks a file as a copy.
pub(super) fn mark_copy(file: &File) -> io::Result<()> {
    file.set_permissions(Permissions::from_mode(COPY_MODE))
}

impl BlobStore {
    /// Whether a blob is there that was made here.
    pub(in crate::store) fn has_made(&self, digest: &Digest) -> bool {
        let found = std::fs::metadata(self.path(digest));
        found.is_ok_and(|metadata| !is_copy(&metadata))
    }
}

/// Whether a blob is a copy.
pub(super) fn is_copy(metadata: &Metadata) -> bool {
    metadata.permissions().mode() & OWNER_WRITES == 0
}
