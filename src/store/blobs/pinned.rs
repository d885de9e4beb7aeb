//! Pins blobs for good, alone or with all that belongs to an image.

use std::collections::HashSet;
use std::io::Read as _;

use serde_json::{Value, json};

use super::entry::{PathEntry, open_entry};
use super::locked::LockedDirectory;
use super::pin_files::PinTable;
use super::store::BlobStore;
use crate::oci::{Digest, Manifest};
use crate::store::error::BlobError;

/// The longest manifest or index that is read, in bytes: as the server reads converted ones.
const MAX_DOCUMENT_BYTES: u64 = 32 << 20;
/// Most blobs of one pin.
const MAX_PARTS: usize = 8192;

/// A pin that stays until it is taken away, and what it keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    /// What was pinned: a blob, a manifest or an index.
    pub digest: Digest,
    /// The blobs that it keeps, with itself.
    pub blobs: usize,
    /// Bytes of those that are there.
    pub bytes: u64,
    /// Those that are not there now; they are kept once they are. What a manifest among them names is
    /// not known, and kept only if it is pinned again then: see [`BlobStore::absent_manifests`].
    pub missing: usize,
}

/// What all pins together keep.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PinnedUse {
    /// Blobs that are there.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What belongs to a blob.
#[derive(Debug, Default)]
struct Parts {
    /// The blob itself, and what it and manifests in it name.
    all: Vec<Digest>,
    /// Manifests that are not there, whose parts are not known therefore.
    absent: Vec<Digest>,
}

/// What is at the place of something that may be a manifest.
// There are few at a time.
#[allow(clippy::large_enum_variant)]
enum Document {
    Absent,
    /// Neither a manifest nor an index.
    Other,
    Manifest(Manifest),
}

impl Pin {
    /// It as the API and `--json` say it.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({
            "digest": self.digest.as_str(),
            "blobs": self.blobs,
            "bytes": self.bytes,
            "missing": self.missing,
        })
    }
}

impl BlobStore {
    /// Pins a blob until it is unpinned: no process evicts it or removes it. Of a manifest, also its
    /// config and its layers, and of an index its manifests with theirs. Durable when it returns.
    /// `None` if it is not there.
    ///
    /// # Errors
    /// When there are too many pins, or the disk refuses.
    pub fn pin(&self, digest: &Digest) -> Result<Option<Pin>, BlobError> {
        let parts = self.parts(digest)?;
        if parts.absent.contains(digest) {
            return Ok(None);
        }
        let temp = self.begin()?;
        let locked = self.directory().lock()?;
        // It may have been evicted since it was read.
        if !self.contains(digest)? {
            return Ok(None);
        }
        self.directory().pin_files.add(temp, digest, &parts.all)?;
        Ok(Some(locked.described(digest, &parts.all)))
    }

    /// Takes a pin away; whether there was one. What other pins keep stays.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn unpin(&self, digest: &Digest) -> Result<bool, BlobError> {
        let _locked = self.directory().lock()?;
        self.directory().pin_files.remove(digest)
    }

    /// All pins that stay, by digest.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn pins(&self) -> Result<Vec<Pin>, BlobError> {
        let locked = self.directory().lock()?;
        let table = self.directory().pin_files.read()?;
        let pins = table.pins.iter();
        Ok(pins
            .map(|(digest, blobs)| locked.described(digest, blobs))
            .collect())
    }

    /// What they keep, together.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn pinned_use(&self) -> Result<PinnedUse, BlobError> {
        let locked = self.directory().lock()?;
        let table = self.directory().pin_files.read()?;
        Ok(locked.pinned_use(&table))
    }

    /// The manifests that belong to a blob and are not there, the blob itself if that is not: what
    /// they name is not pinned with it.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn absent_manifests(&self, digest: &Digest) -> Result<Vec<Digest>, BlobError> {
        Ok(self.parts(digest)?.absent)
    }

    fn parts(&self, root: &Digest) -> Result<Parts, BlobError> {
        let mut parts = Parts {
            all: vec![root.clone()],
            absent: Vec::new(),
        };
        let mut seen = HashSet::from([root.clone()]);
        let mut documents = vec![root.clone()];
        while let Some(digest) = documents.pop() {
            let named = match self.document(&digest)? {
                Document::Absent => {
                    parts.absent.push(digest);
                    continue;
                }
                Document::Other => continue,
                Document::Manifest(Manifest::Image(image)) => {
                    let layers = image.layers.into_iter().map(|layer| layer.digest);
                    layers.chain([image.config.digest]).collect::<Vec<_>>()
                }
                Document::Manifest(Manifest::Index(index)) => {
                    let manifests = index.manifests.into_iter().map(|entry| entry.digest);
                    let new = manifests.filter(|digest| !seen.contains(digest));
                    let new: Vec<_> = new.collect();
                    documents.extend(new.iter().cloned());
                    new
                }
            };
            for digest in named {
                if seen.insert(digest.clone()) {
                    parts.all.push(digest);
                }
            }
            if parts.all.len() > MAX_PARTS || documents.len() > MAX_PARTS {
                return Err(BlobError::TooManyParts {
                    digest: root.clone(),
                    most: MAX_PARTS,
                });
            }
        }
        Ok(parts)
    }

    /// What a blob is, without reading the whole of a layer.
    fn document(&self, digest: &Digest) -> Result<Document, BlobError> {
        let path = self.path(digest);
        let (mut file, size) = match open_entry(&path)? {
            PathEntry::File(file, metadata) => (file, metadata.len()),
            PathEntry::Missing | PathEntry::Unusable(..) => return Ok(Document::Absent),
        };
        let mut first = [0];
        file.read(&mut first)
            .map_err(BlobError::io("reading", &path))?;
        // A layer is a tar, which begins with the name of its first entry.
        if size > MAX_DOCUMENT_BYTES || !(first[0] == b'{' || first[0].is_ascii_whitespace()) {
            return Ok(Document::Other);
        }
        let Some(blob) = self.open(digest)? else {
            return Ok(Document::Absent);
        };
        let Some(bytes) = blob.read_all()? else {
            return Ok(Document::Absent);
        };
        Ok(match Manifest::parse("", &bytes) {
            Ok(manifest) => Document::Manifest(manifest),
            Err(_) => Document::Other,
        })
    }
}

impl LockedDirectory<'_> {
    fn described(&self, digest: &Digest, blobs: &[Digest]) -> Pin {
        let sizes = blobs.iter().filter_map(|blob| self.size_of(blob));
        let (there, bytes) = sizes.fold((0_usize, 0_u64), |(there, bytes), size| {
            (there.saturating_add(1), bytes.saturating_add(size))
        });
        Pin {
            digest: digest.clone(),
            blobs: blobs.len(),
            bytes,
            missing: blobs.len().saturating_sub(there),
        }
    }

    /// What all pins together keep.
    pub(super) fn pinned_use(&self, table: &PinTable) -> PinnedUse {
        let sizes = table.blobs.iter().filter_map(|blob| self.size_of(blob));
        sizes.fold(PinnedUse::default(), |sum, size| PinnedUse {
            blobs: sum.blobs.saturating_add(1),
            bytes: sum.bytes.saturating_add(size),
        })
    }
}
