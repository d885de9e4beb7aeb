//! A bounded number of blob files that are kept open.

use std::collections::HashMap;
use std::sync::Arc;

use nix::sys::resource::{Resource, getrlimit};
use parking_lot::Mutex;

use super::file::BlobFile;
use crate::oci::Digest;

/// Most files that stay open, however many this process may open.
const MAX_OPEN_BLOBS: u64 = 256;
/// One in this many of the files that this process may open.
const DESCRIPTOR_SHARE: u64 = 8;

/// The open files, least recently used ones closed first.
#[derive(Debug, Default)]
pub(super) struct OpenFiles(Mutex<Open>);

#[derive(Debug, Default)]
struct Open {
    files: HashMap<Digest, (Arc<BlobFile>, u64)>,
    /// Counts uses: the file with the lowest number is the least recently used one.
    uses: u64,
}

impl OpenFiles {
    pub(super) fn get(&self, digest: &Digest) -> Option<Arc<BlobFile>> {
        let mut open = self.0.lock();
        open.uses += 1;
        let now = open.uses;
        let (file, used) = open.files.get_mut(digest)?;
        // It is verified when it is opened again.
        if file.is_suspect() {
            return None;
        }
        *used = now;
        Some(Arc::clone(file))
    }

    /// Keeps a file open; returns those to close for it, to be dropped where no lock is held.
    pub(super) fn put(&self, file: &Arc<BlobFile>) -> Vec<Arc<BlobFile>> {
        let max = max_open();
        let mut open = self.0.lock();
        open.uses += 1;
        let entry = (Arc::clone(file), open.uses);
        let replaced = open.files.insert(file.digest().clone(), entry);
        let mut closed: Vec<_> = replaced.into_iter().map(|(file, _)| file).collect();
        while open.files.len() > max {
            let oldest = open.files.iter().min_by_key(|(_, (_, used))| *used);
            let Some(oldest) = oldest.map(|(digest, _)| digest.clone()) else {
                break;
            };
            closed.extend(open.files.remove(&oldest).map(|(file, _)| file));
        }
        closed
    }

    pub(super) fn take(&self, digest: &Digest) -> Option<Arc<BlobFile>> {
        self.0.lock().files.remove(digest).map(|(file, _)| file)
    }

    pub(super) fn take_all(&self) -> Vec<Arc<BlobFile>> {
        let files = std::mem::take(&mut self.0.lock().files);
        files.into_values().map(|(file, _)| file).collect()
    }
}

/// Most files that stay open: the limit of this process may change at any time.
fn max_open() -> usize {
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(MAX_OPEN_BLOBS, |(soft, _)| soft);
    usize::try_from((limit / DESCRIPTOR_SHARE).clamp(8, MAX_OPEN_BLOBS)).unwrap_or(8)
}
