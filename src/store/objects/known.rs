//! What is known of objects.

use std::time::Duration;

use moka::sync::Cache;

use crate::oci::Digest;

/// Most objects of which something is remembered: some 200 bytes each.
const MAX_REMEMBERED: u64 = 1 << 15;
/// How long it is remembered that an object is there: others may delete it.
const PRESENT: Duration = Duration::from_mins(1);

/// Which of the bytes that a name had at some time are meant: it changes whenever the object is
/// written.
#[derive(Debug, Clone)]
pub(super) struct ObjectVersion {
    pub(super) size: u64,
    pub(super) e_tag: Option<String>,
}

impl ObjectVersion {
    /// Whether both are of the same bytes.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        // Some answers have the tag without its quotes.
        let bare = |version: &Self| {
            let tag = version.e_tag.as_deref();
            tag.map(|tag| tag.trim_matches('"').to_owned())
        };
        self.size == other.size && bare(self) == bare(other)
    }
}

/// What is known of objects.
#[derive(Debug)]
pub(super) struct Known {
    /// Those that were there a moment ago.
    present: Cache<Digest, ()>,
    /// Those of which this process wrote or read all bytes.
    verified: Cache<Digest, ObjectVersion>,
    /// Those that had other bytes than their digest names.
    damaged: Cache<Digest, ()>,
}

impl Known {
    pub(super) fn new() -> Self {
        Self {
            present: Cache::builder()
                .max_capacity(MAX_REMEMBERED)
                .time_to_live(PRESENT)
                .build(),
            verified: Cache::new(MAX_REMEMBERED),
            damaged: Cache::new(MAX_REMEMBERED),
        }
    }

    pub(super) fn is_present(&self, digest: &Digest) -> bool {
        self.present.contains_key(digest)
    }

    /// An object is there, whatever its bytes.
    pub(super) fn present(&self, digest: &Digest) {
        self.present.insert(digest.clone(), ());
    }

    /// The object that this process has seen all bytes of.
    pub(super) fn verified(&self, digest: &Digest) -> Option<ObjectVersion> {
        // One without a tag cannot be told from another of its size.
        self.verified
            .get(digest)
            .filter(|version| version.e_tag.is_some())
    }

    /// An object is there, and has the bytes that its digest names.
    pub(super) fn is_sound(&self, digest: &Digest, version: ObjectVersion) {
        self.damaged.invalidate(digest);
        self.present(digest);
        self.verified.insert(digest.clone(), version);
    }

    pub(super) fn is_damaged(&self, digest: &Digest) -> bool {
        self.damaged.contains_key(digest)
    }

    /// An object has other bytes: it counts as one that is not there, and is replaced when the blob
    /// is there again.
    pub(super) fn set_damaged(&self, digest: &Digest) {
        self.forget(digest);
        self.damaged.insert(digest.clone(), ());
    }

    /// The object is another one now, or gone.
    pub(super) fn forget(&self, digest: &Digest) {
        self.present.invalidate(digest);
        self.verified.invalidate(digest);
    }
}
