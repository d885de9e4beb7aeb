//! The layers that were converted before: looked up, proved, recorded, shared.
//!
//! A row is a claim. A blob that a row names is used only where it says itself that it is the
//! one of this chain, on top of this blob, made with these settings ([`fit`]); and only for
//! those who may read the source's layers, of which it was seen that they are what the image's
//! config claims them to be ([`proof`]).

mod compare;
mod find;
mod fit;
mod proof;
mod record;

use std::io;
use std::sync::Arc;

use super::super::layer::LayerBlob;
use super::super::plan::Step;
use super::Home;
use super::types::Source;
use crate::format::block::{BlockDevice, check_range};
use crate::oci::Digest;
use crate::registry::Authorization;
use crate::store::{BlobPin, SharedBlob};

/// A converted layer that is there, and fits the one below.
#[derive(Clone)]
pub(super) struct Layer {
    pub(super) digest: Digest,
    pub(super) size: u64,
    /// Open, for what is stacked upon it.
    pub(super) blob: Arc<LayerBlob>,
    /// What keeps it in the store, if it is there.
    pub(super) pin: Option<BlobPin>,
    /// What the chain that ends here stands on.
    pub(super) base: Base,
}

/// Whose blobs a chain is made of: that decides the bytes of what is built on top.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Base {
    /// All of them are this program's.
    Own,
    /// The topmost blob of another tool is this one; above it all are this program's.
    Foreign(Digest),
}

impl Base {
    /// The settings under which a layer on this base is recorded.
    pub(super) fn variant(&self, own: &str) -> String {
        match self {
            Self::Own => own.to_owned(),
            Self::Foreign(digest) => format!("{own} on {digest}"),
        }
    }
}

/// A layer that is looked for.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) source: &'a Source,
    pub(super) home: &'a Home,
    pub(super) step: &'a Step,
    /// The layer below; `None` at the bottom.
    pub(super) below: Option<&'a Layer>,
}

impl Wanted<'_> {
    /// What a blob of this program would be built on.
    fn base(&self) -> Base {
        self.below.map_or(Base::Own, |below| below.base.clone())
    }

    fn parent(&self) -> Option<&Digest> {
        self.below.map(|below| &below.digest)
    }
}

/// A blob of the store as a disk, open only while it is read often.
#[derive(Debug)]
pub(super) struct StoredBlob(pub(super) SharedBlob);

impl BlockDevice for StoredBlob {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        check_range(self.0.size(), offset, buf.len() as u64)?;
        self.0.read_exact_at(buf, offset)
    }
}

impl Home {
    /// The home as something to read from and write to.
    pub(super) fn place(&self, source: &Source) -> Source {
        if self.is_pushed {
            Source {
                upstream: self.upstream.clone(),
                repo: self.repo.clone(),
                authorization: Authorization::Own,
            }
        } else {
            source.clone()
        }
    }
}
