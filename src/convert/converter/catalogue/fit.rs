//! Whether a blob is the one that a chain needs, by what its headers say.

use std::sync::Arc;

use super::layer::{Base, Wanted};
use crate::convert::layer::{LayerBlob, Settings};
use crate::convert::tag::{UserTag, layer_uuid};
use crate::format::blob::{BlockSize, Stack};
use crate::format::ext4::Filesystem;
use crate::oci::Digest;
use crate::sizes::Size;

/// Which tool made a blob, by the table that names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MadeBy {
    /// This program, with the settings in force.
    Us,
    /// Any tool that writes to the table.
    Anyone,
}

/// Why a blob is not used for a chain.
#[derive(Debug, thiserror::Error)]
pub(super) enum Misfit {
    #[error("{0}")]
    Unreadable(String),
    #[error("its uuid is {found}, this chain's is {expected}")]
    Uuid { found: String, expected: String },
    #[error("its parent's uuid is {found}, that of the chain below is {expected}")]
    Parent { found: String, expected: String },
    #[error("it is of a disk of {}, another than --vsize says", Size(*.0))]
    VirtualSize(u64),
    #[error("it is compressed with other settings")]
    Settings,
    #[error(
        "it was made by another version, on top of another blob, or with another prefetch list"
    )]
    Tag,
    #[error("another tool made it, and --trust-foreign-layers is not set")]
    NotTrusted,
    #[error("another tool made it, and what it was made on top of is not what is below it here")]
    ForeignOnOurs,
    #[error(
        "another tool made it, and it holds no whole filesystem ({0}): \
         it was converted with a separate base layer (--mkfs=false)"
    )]
    NoFilesystem(String),
}

impl Misfit {
    /// Whether this is expected with these settings, and not worth a warning.
    pub(super) fn is_expected(&self) -> bool {
        matches!(self, Self::NotTrusted)
    }
}

/// Compares the headers of a blob with what is wanted; returns the base of the chain that the
/// blob completes.
pub(super) fn check_fit(
    blob: &LayerBlob,
    digest: &Digest,
    wanted: &Wanted<'_>,
    made_by: MadeBy,
    settings: &Settings,
    trusts_foreign: bool,
) -> Result<Base, Misfit> {
    if blob.virtual_size() != settings.virtual_size {
        return Err(Misfit::VirtualSize(blob.virtual_size()));
    }
    let Ok(tag) = blob.user_tag().parse::<UserTag>() else {
        if made_by == MadeBy::Us {
            return Err(Misfit::Tag);
        }
        if !trusts_foreign {
            return Err(Misfit::NotTrusted);
        }
        check_foreign(blob, wanted)?;
        return Ok(Base::Foreign(digest.clone()));
    };
    let list = settings.prefetch.as_ref().map(|list| list.digest());
    check_place(blob, &tag, wanted, list)?;
    if !has_compression(blob, settings) {
        return Err(Misfit::Settings);
    }
    Ok(wanted.base())
}

/// Compares the metadata of a TurboOCI layer that this program made with what is wanted.
pub(super) fn check_turbo_fit(
    blob: &LayerBlob,
    wanted: &Wanted<'_>,
    virtual_size: u64,
) -> Result<(), Misfit> {
    if blob.virtual_size() != virtual_size {
        return Err(Misfit::VirtualSize(blob.virtual_size()));
    }
    let tag = blob.user_tag().parse::<UserTag>();
    check_place(blob, &tag.map_err(|_| Misfit::Tag)?, wanted, None)
}

/// Compares the place in a chain that a blob's headers give, and the list that orders its data,
/// with those that are wanted.
fn check_place(
    blob: &LayerBlob,
    tag: &UserTag,
    wanted: &Wanted<'_>,
    list: Option<&Digest>,
) -> Result<(), Misfit> {
    let expected = layer_uuid(&wanted.step.chain_id);
    if blob.lsmt().uuid != expected {
        let found = blob.lsmt().uuid.clone();
        return Err(Misfit::Uuid { found, expected });
    }
    let expected = wanted.step.parent.as_ref().map(layer_uuid);
    let expected = expected.unwrap_or_default();
    if blob.lsmt().parent_uuid != expected {
        let found = blob.lsmt().parent_uuid.clone();
        return Err(Misfit::Parent { found, expected });
    }
    if !tag.fits(wanted.parent(), list) {
        return Err(Misfit::Tag);
    }
    Ok(())
}

fn has_compression(blob: &LayerBlob, settings: &Settings) -> bool {
    let (zfile, asked) = (blob.zfile(), settings.block_size);
    // Where incompressible data does not fit in 64 KiB, the writer takes 32.
    let is_narrowed = asked == BlockSize::KIB_64 && zfile.block_size == BlockSize::KIB_32;
    zfile.algorithm == settings.algorithm && (zfile.block_size == asked || is_narrowed)
}

/// Checks a blob that another tool made. Its uuid is the chain's if the reference converter made
/// it, and missing if other tools did.
fn check_foreign(blob: &LayerBlob, wanted: &Wanted<'_>) -> Result<(), Misfit> {
    let is_missing = |uuid: &str| uuid.chars().all(|digit| matches!(digit, '0' | '-'));
    let differs =
        |found: &str, expected: &str| !is_missing(found) && !found.eq_ignore_ascii_case(expected);
    let expected = layer_uuid(&wanted.step.chain_id);
    if differs(&blob.lsmt().uuid, &expected) {
        let found = blob.lsmt().uuid.clone();
        return Err(Misfit::Uuid { found, expected });
    }
    let Some(below) = wanted.below else {
        return Ok(());
    };
    if below.base != Base::Foreign(below.digest.clone()) {
        return Err(Misfit::ForeignOnOurs);
    }
    let expected = wanted.step.parent.as_ref().map(layer_uuid);
    let expected = expected.unwrap_or_default();
    if differs(&blob.lsmt().parent_uuid, &expected) {
        let found = blob.lsmt().parent_uuid.clone();
        return Err(Misfit::Parent { found, expected });
    }
    Ok(())
}

/// Checks that a bottom blob of another tool holds a whole filesystem.
pub(super) fn check_filesystem(blob: Arc<LayerBlob>) -> Result<(), Misfit> {
    let check = || -> Result<(), String> {
        let stack = Stack::new(vec![blob]).map_err(|error| error.to_string())?;
        let mut filesystem = Filesystem::open(stack).map_err(|error| error.to_string())?;
        filesystem
            .check_is_whole()
            .map_err(|error| error.to_string())
    };
    check().map_err(Misfit::NoFilesystem)
}
