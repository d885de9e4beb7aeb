//! The acceleration layer of a converted image: what overlaybd reads ahead when a container
//! starts, by a list of paths.
//!
//! There are two forms, and which is right depends on what holds the data. Of a native image it is
//! records: ranges of each layer's LSMT file, which the node reads without looking for them. All
//! that decides them is known when the layers are, so they are the same for every replica. Of a
//! TurboOCI image records reach only the metadata, which is on the node already; there it is the
//! list itself, for which overlaybd mounts the filesystem and reads the files through the targets.

mod ranges;
mod records;

use std::io;

use super::layer::Format;
use crate::format::blob::{Stack, pack_trace};
use crate::format::ext4;
use crate::format::prefetch::{InvalidTrace, PrefetchList, is_read_by_overlaybd, records_to_bytes};
use crate::oci::Digest;

/// The blob of an acceleration layer. It is an uncompressed tar, so its digest is its diff id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acceleration {
    /// The blob.
    pub bytes: Vec<u8>,
    /// Its digest.
    pub digest: Digest,
}

/// Errors of making an acceleration layer.
#[derive(Debug, thiserror::Error)]
pub enum AccelerationError {
    /// The image's filesystem cannot be read.
    #[error(transparent)]
    Filesystem(#[from] ext4::Error),
    /// A bug: the records are not those that the format has.
    #[error(transparent)]
    Trace(#[from] InvalidTrace),
    /// The blob cannot be written.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl AccelerationError {
    /// Whether a disk could not be read or written, so that another attempt may succeed.
    pub(super) fn is_of_the_disk(&self) -> bool {
        matches!(self, Self::Filesystem(ext4::Error::Io(_)) | Self::Io(_))
    }
}

/// The acceleration layer for an image whose layers are `stack`, which is read in the calling
/// thread; `None` if nothing of the list would be read ahead.
///
/// # Errors
/// When the image's filesystem cannot be read.
pub fn acceleration(
    stack: Stack,
    list: &PrefetchList,
    format: Format,
) -> Result<Option<Acceleration>, AccelerationError> {
    let trace = match format {
        Format::Turbo(_) => {
            let text = paths(list);
            if text.is_empty() {
                return Ok(None);
            }
            text
        }
        Format::Native => {
            let layers = stack.layers().len();
            let records = records::of(stack, list)?;
            if records.is_empty() {
                return Ok(None);
            }
            records_to_bytes(&records, layers)?
        }
    };
    let bytes = pack_trace(&trace)?;
    let digest = Digest::of(&bytes);
    Ok(Some(Acceleration { bytes, digest }))
}

/// The list as overlaybd reads it, without the entries that it passes over. It takes an entry that
/// ends in `*` only where it is a directory's name with a `/`.
fn paths(list: &PrefetchList) -> Vec<u8> {
    let (mut text, mut left_out) = (Vec::new(), 0_u32);
    for entry in list.entries() {
        let directory = entry.strip_suffix(b"*");
        let path = directory.unwrap_or(entry);
        if !is_read_by_overlaybd(path) {
            left_out += 1;
            continue;
        }
        text.extend_from_slice(path);
        if directory.is_some() && !path.ends_with(b"/") {
            text.push(b'/');
        }
        text.push(b'\n');
    }
    if left_out > 0 {
        tracing::warn!(
            left_out,
            "of TurboOCI images overlaybd reads no listed path ahead that has other characters than \
             letters, digits and _ - . /"
        );
    }
    text
}
