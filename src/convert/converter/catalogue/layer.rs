//! A converted layer, and what identifies one that is looked up.

use std::io;
use std::sync::Arc;

use super::super::destination::Destination;
use crate::convert::layer::{ConvertedLayer, LayerBlob, TurboLayer};
use crate::convert::plan::Step;
use crate::convert::scratch::Scratch;
use crate::convert::types::Source;
use crate::format::block::{BlockDevice, check_range};
use crate::oci::Digest;
use crate::store::{BlobPin, SharedBlob};

/// A converted layer that is in the store or the registry, and continues the chain below it.
#[derive(Clone)]
pub(in super::super) struct Layer {
    pub(in super::super) digest: Digest,
    pub(in super::super) size: u64,
    /// The blob, open for the layers above.
    pub(in super::super) blob: Arc<LayerBlob>,
    /// The pin that keeps it in the store, if it is there.
    pub(in super::super) pin: Option<BlobPin>,
    /// Which tools made the blobs of the chain up to here.
    pub(in super::super) base: Base,
    /// What the manifest says of it besides, if it is a TurboOCI layer.
    pub(in super::super) turbo: Option<TurboLayer>,
}

impl Layer {
    /// The layer as manifests name it.
    pub(in super::super) fn part(&self) -> ConvertedLayer {
        ConvertedLayer {
            digest: self.digest.clone(),
            size: self.size,
            turbo: self.turbo.clone(),
        }
    }
}

/// Which tools made the blobs of a chain: that decides the bytes of the layers above.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) enum Base {
    /// This program made all of them.
    Own,
    /// The topmost blob that another tool made is this one; this program made those above it.
    Foreign(Digest),
}

impl Base {
    /// The settings under which a layer on this base is recorded in the index.
    pub(in super::super) fn variant(&self, own: &str) -> String {
        match self {
            Self::Own => own.to_owned(),
            Self::Foreign(digest) => format!("{own} on {digest}"),
        }
    }
}

/// A layer that is looked up.
#[derive(Clone, Copy)]
pub(in super::super) struct Wanted<'a> {
    pub(in super::super) source: &'a Source,
    pub(in super::super) destination: &'a Destination,
    pub(in super::super) step: &'a Step,
    /// The layer below; `None` at the bottom.
    pub(in super::super) below: Option<&'a Layer>,
    /// Where the metadata of a TurboOCI layer goes, if that is wanted.
    pub(in super::super) scratch: Option<&'a Arc<Scratch>>,
}

impl Wanted<'_> {
    /// The base of a blob that this program makes.
    pub(in super::super) fn base(&self) -> Base {
        self.below.map_or(Base::Own, |below| below.base.clone())
    }

    pub(in super::super) fn parent(&self) -> Option<&Digest> {
        self.below.map(|below| &below.digest)
    }
}

/// A blob of the store as a block device; its file is open only while it is read often.
#[derive(Debug)]
pub(in super::super) struct StoredBlob(pub(in super::super) SharedBlob);

impl BlockDevice for StoredBlob {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        check_range(self.0.size(), offset, buf.len() as u64)?;
        self.0.read_exact_at(buf, offset)
    }
}
