//! One image being converted.

use std::sync::Arc;

use bytes::Bytes;

use super::super::admission::Slot;
use super::super::context::Context;
use super::super::deadline::Deadline;
use super::super::destination::Destination;
use super::super::pins::PinnedBlobs;
use super::super::status::ConversionCounters;
use super::super::threads::blocking;
use crate::convert::error::ConvertError;
use crate::convert::memory::MemoryPermit;
use crate::convert::types::{Observer, Source, StoredManifest};
use crate::oci::{Digest, Tag};
use crate::store::BlobFile;

/// Up to this many bytes a document is kept in memory while its image is converted.
pub(super) const MAX_SMALL_DOCUMENT: usize = 256 << 10;

/// One image being converted: its source, its destination, and what is pinned for it.
pub(in super::super) struct ImageJob<'a> {
    pub(in super::super) context: &'a Arc<Context>,
    pub(in super::super) source: &'a Source,
    pub(in super::super) destination: Destination,
    pub(in super::super) observer: Option<&'a Observer>,
    /// The tag that the source was asked for by, if it was one.
    pub(in super::super) tag: Option<&'a Tag>,
    pub(in super::super) pins: PinnedBlobs,
    /// What was done so far.
    pub(in super::super) tally: &'a Arc<ConversionCounters>,
    /// When the conversion is given up.
    pub(in super::super) deadline: Deadline,
    /// Its slot among the images that are converted at one time.
    pub(in super::super) slot: Slot<'a>,
}

/// Why a job ends early.
pub(in super::super) enum Halt {
    /// The image turned out to be big: it has to be admitted again, as that.
    Big,
    /// It cannot be converted.
    Failed(ConvertError),
}

impl<E: Into<ConvertError>> From<E> for Halt {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

impl ImageJob<'_> {
    /// Puts a document into the store, and pins it for this image.
    pub(super) async fn store_document(
        &self,
        bytes: &[u8],
        media_type: &str,
        digest: &Digest,
    ) -> Result<StoredManifest, ConvertError> {
        let stored = StoredManifest {
            digest: digest.clone(),
            media_type: media_type.to_owned(),
            bytes: Bytes::copy_from_slice(bytes),
        };
        let (digest, bytes) = (stored.digest.clone(), stored.bytes.clone());
        self.store_together([(digest, bytes)]).await?;
        Ok(stored)
    }

    /// Puts documents into the store, all at one time, and pins them for this image.
    pub(super) async fn store_together<const N: usize>(
        &self,
        documents: [(Digest, Bytes); N],
    ) -> Result<(), ConvertError> {
        let blobs = self.context.store.blobs().clone();
        let pinned = move || {
            let all = documents
                .each_ref()
                .map(|(digest, bytes)| (digest, &**bytes));
            let stored = blobs.put_together(&all)?;
            let pins = stored.iter().map(BlobFile::pin);
            Ok(pins.collect::<Result<Vec<_>, _>>()?)
        };
        self.pins.extend(blocking(pinned).await?);
        Ok(())
    }

    /// The memory for parsing a document of so many bytes: JSON takes many times more as values
    /// than as text.
    pub(super) async fn document_memory(&self, size: usize) -> Option<MemoryPermit> {
        match size {
            0..=MAX_SMALL_DOCUMENT => None,
            _ => Some(
                self.context
                    .memory
                    .acquire((size as u64).saturating_mul(20))
                    .await,
            ),
        }
    }
}
