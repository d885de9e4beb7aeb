//! From pieces of an image's blobs to the files that are in them.

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use crate::format::blob::{BlobError, DiskPlaces, Holder, LayerBlob, Stack, StackError};
use crate::format::block::FileDevice;
use crate::format::ext4;
use crate::format::prefetch::MAX_LIST_BYTES;
use crate::lazy::{Contents, FilePlace, ImageFilesystem, Owner};
use crate::store::BlobFile;

/// Most ranges of a disk that are looked at.
const MAX_RANGES: usize = 1 << 18;
/// What part of a file was read, at least, if it was wanted: nodes read more than they were asked
/// for, and small files lie close together.
const SHARE: u64 = 4;
/// Files from this size on, in bytes, may be wanted in small part.
const LARGE: u64 = 1 << 20;

/// Why the files are not known.
#[derive(Debug, thiserror::Error)]
pub(in crate::server) enum FilesError {
    /// A layer is damaged or cannot be read.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// The layers do not fit each other.
    #[error(transparent)]
    Stack(#[from] StackError),
    /// The disk cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The filesystem is damaged.
    #[error(transparent)]
    Filesystem(#[from] ext4::Error),
}

/// How much of a file was read, and when first.
#[derive(Default)]
struct Share {
    first: usize,
    bytes: u64,
}

/// The paths of the files that are in these pieces of an image's layers, those that were read first
/// before others, as many as a list may have. All directories of the image are read, in the calling
/// thread.
///
/// # Errors
/// When the image cannot be read.
pub(in crate::server) fn files(
    layers: &[BlobFile],
    pieces: &[(usize, Range<u64>)],
) -> Result<Vec<String>, FilesError> {
    let mut blobs = Vec::with_capacity(layers.len());
    for layer in layers {
        let device = FileDevice::new(layer.file().try_clone()?)?;
        blobs.push(Arc::new(LayerBlob::open(Arc::new(device))?));
    }
    let stack = Arc::new(Stack::new(blobs)?);
    let places = DiskPlaces::new(Arc::clone(&stack))?;
    let mut disk = Vec::new();
    for (layer, range) in pieces {
        disk.extend(places.disk(*layer, Holder::Blob, range.clone())?);
        if disk.len() >= MAX_RANGES {
            break;
        }
    }
    let filesystem = ImageFilesystem::open(stack)?;
    let contents = Contents::find(&filesystem, &disk)?;
    Ok(wanted(&contents, &disk))
}

fn wanted(contents: &Contents, disk: &[Range<u64>]) -> Vec<String> {
    let mut shares: HashMap<&[u8], (Share, &FilePlace)> = HashMap::new();
    for (number, range) in disk.iter().enumerate() {
        for (part, owner) in contents.owners(range.clone()) {
            if let Owner::File(file) = owner {
                let first = Share {
                    first: number,
                    bytes: 0,
                };
                let known = shares.entry(&file.path).or_insert((first, file));
                known.0.bytes += part.end - part.start;
            }
        }
    }
    let mut found: Vec<(usize, &FilePlace)> = shares
        .into_values()
        .filter(|(share, file)| file.size > LARGE || share.bytes >= file.size.div_ceil(SHARE))
        .map(|(share, file)| (share.first, file))
        .collect();
    found.sort_unstable_by(|(one, file), (other, another)| {
        (one, &file.path).cmp(&(other, &another.path))
    });
    let (mut paths, mut bytes) = (Vec::new(), 0);
    for (_, file) in found {
        let Some(path) = line(&file.path) else {
            continue;
        };
        bytes += path.len() + 1;
        if bytes > MAX_LIST_BYTES {
            break;
        }
        paths.push(path.to_owned());
    }
    paths
}

/// A path as a line of a list, if it can be one.
fn line(path: &[u8]) -> Option<&str> {
    let path = std::str::from_utf8(path).ok()?;
    let is_line = path.starts_with('/')
        && !path.ends_with(['*', '/'])
        && !path.contains(['\n', '\0'])
        && path.trim_ascii() == path
        && path.split('/').all(|part| part != "..");
    is_line.then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_a_list_cannot_have_is_left_out() {
        assert_eq!(
            line(b"/usr/lib/libstdc++.so.6"),
            Some("/usr/lib/libstdc++.so.6")
        );
        for path in [
            &b"/a\nb"[..],
            b"/a*",
            b"/a/",
            b"/a ",
            b"/a/../b",
            b"/\xff",
            b"a",
            b"",
        ] {
            assert_eq!(line(path), None, "{path:?}");
        }
    }
}
