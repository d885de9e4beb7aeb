//! What overlaybd's reader asks of a layer blob, rule by rule.
//!
//! Written from the published formats and the reader's sources (containerd/overlaybd
//! `docs/specs` and `src/overlaybd/{tar,zfile,lsmt}`). Nothing here uses the program's own
//! code, which must not verify itself. Some rules are stricter than the reader, where the
//! published format or what the reference's tools write is.

// Each test binary uses its part of this.
#![allow(dead_code, unused_imports)]
// Lengths of blobs in memory; the rules' names are not prose.
#![allow(clippy::cast_possible_truncation, clippy::doc_markdown)]

pub mod build;
mod files;
mod lsmt;
mod lz4;
mod rules;
mod stack;
mod tar;
mod zfile;

pub use files::{
    assert_blob, assert_directory, assert_if_layer, assert_stack, is_damaged_on_purpose,
};
pub use lsmt::Mapping;
pub use rules::{Rule, Violation};
pub use stack::Stack;

use lsmt::{Lsmt, Tags};
use zfile::ZFile;

/// A layer whose structure keeps the rules; [`Layer::verify`] looks at its blocks.
#[derive(Debug)]
pub struct Layer {
    zfile: ZFile,
    lsmt: Lsmt,
}

impl Layer {
    /// A layer blob as registries have it: a tar around the `ZFile`.
    pub fn open(blob: &[u8]) -> Result<Self, Violation> {
        Self::in_zfile(tar::zfile(blob)?, Tags::Zero)
    }

    /// The `ext4.fs.meta` of a `TurboOCI` layer: a bare `ZFile`, and mappings into another
    /// file.
    pub fn open_turbo(meta: &[u8]) -> Result<Self, Violation> {
        Self::in_zfile(meta, Tags::Turbo)
    }

    fn in_zfile(bytes: &[u8], tags: Tags) -> Result<Self, Violation> {
        let zfile = ZFile::open(bytes)?;
        let lsmt = Lsmt::open(&zfile, tags)?;
        Ok(Self { zfile, lsmt })
    }

    /// Every block has its CRC and decompresses to its size.
    pub fn verify(&self) -> Result<(), Violation> {
        self.zfile.verify()
    }

    /// What the layer maps, in the disk's order.
    pub fn mappings(&self) -> &[Mapping] {
        &self.lsmt.mappings
    }

    /// Size of the disk in bytes.
    pub fn virtual_size(&self) -> u64 {
        self.lsmt.virtual_size
    }

    /// The LSMT, all of it.
    pub fn original(&self) -> Vec<u8> {
        let size = self.zfile.original_size();
        self.zfile.read(0, usize::try_from(size).unwrap()).unwrap()
    }

    /// Mappings that hide what is below with zeros.
    pub fn zeroed(&self) -> usize {
        self.mappings().iter().filter(|it| it.zeroed).count()
    }
}

/// A blob that keeps all rules.
pub fn check(blob: &[u8]) -> Result<Layer, Violation> {
    let layer = Layer::open(blob)?;
    layer.verify()?;
    Ok(layer)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}
