//! A layer blob, opened for reading.

mod places;

use std::io;

use serde::Serialize;

use super::wrapping;
use crate::format::block::{BlockDevice as _, SharedDevice};
use crate::format::lsmt::{self, Header, LsmtError, Mapping, MisplacedZeros};
use crate::format::zfile::{Geometry, UnreadableBlock, ZFileError, ZFileReader};

pub use places::{Place, Region};

/// Errors of opening a blob.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// It cannot be read.
    #[error("the blob cannot be read: {0}")]
    Io(#[from] io::Error),
    /// The tar around the `ZFile`.
    #[error("this is not an overlaybd blob, or it is damaged: {0}")]
    Wrapping(String),
    /// The `ZFile`.
    #[error(transparent)]
    ZFile(#[from] ZFileError),
    /// The LSMT.
    #[error(transparent)]
    Lsmt(#[from] LsmtError),
    /// It can be read here, and overlaybd rejects it.
    #[error("overlaybd rejects this layer: {0}")]
    Refused(#[from] Refusal),
}

/// Why overlaybd cannot use a layer that this program can read.
///
/// Such layers exist: overlaybd's own tools write blocks that its reader cannot read, and
/// version 1 of this program's blobs had mappings for which a node rejects the whole image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// overlaybd does not open the image.
    #[error("{0}")]
    Zeros(MisplacedZeros),
    /// overlaybd opens the image and cannot read some of it, or does not open it.
    #[error("{0}")]
    Block(UnreadableBlock),
}

/// A layer blob: what it maps, and how to read it.
#[derive(Debug)]
pub struct LayerBlob {
    geometry: Geometry,
    layer: lsmt::Layer<ZFileReader>,
    /// Where the `ZFile` begins in the blob; `None` where it is a file of a `TurboOCI` blob.
    start: Option<u64>,
}

/// What is in a blob, for people and programs.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// The `ZFile` header.
    pub zfile: Geometry,
    /// The LSMT trailer.
    pub lsmt: Header,
    /// How many mappings there are.
    pub mappings: usize,
    /// Bytes of the disk that the layer maps to data.
    pub data_bytes: u64,
    /// Bytes of the disk that the layer maps to zeros.
    pub zeroed_bytes: u64,
}

impl LayerBlob {
    /// Opens the blob that all of `device` is, the tar or a bare `ZFile`, if nodes take it.
    /// To stack a layer upon, to serve, to record.
    ///
    /// # Errors
    /// As [`open_readable`](Self::open_readable), and [`BlobError::Refused`].
    pub fn open(device: SharedDevice) -> Result<Self, BlobError> {
        let blob = Self::open_readable(device)?;
        match blob.refusals().first() {
            None => Ok(blob),
            Some(refusal) => Err((*refusal).into()),
        }
    }

    /// Opens a blob as [`open`](Self::open) does, also one that overlaybd rejects. For
    /// inspection: [`refusals`](Self::refusals) says what is wrong with it.
    ///
    /// # Errors
    /// When it cannot be read or is not a whole overlaybd blob.
    pub fn open_readable(device: SharedDevice) -> Result<Self, BlobError> {
        let zfile = wrapping::find(device)?.map_err(BlobError::Wrapping)?;
        let start = Some(zfile.start());
        let zfile = ZFileReader::open(std::sync::Arc::new(zfile))?;
        let geometry = *zfile.geometry();
        Ok(Self {
            start,
            geometry,
            layer: lsmt::Layer::open(zfile)?,
        })
    }

    /// Opens a `TurboOCI` layer: `meta` is its `ext4.fs.meta` or the like, `target` the tar of the
    /// original layer.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_turbo(meta: SharedDevice, target: SharedDevice) -> Result<Self, BlobError> {
        let zfile = wrapping::find(meta)?.map_err(BlobError::Wrapping)?;
        let zfile = ZFileReader::open(std::sync::Arc::new(zfile))?;
        let blob = Self {
            start: None,
            geometry: *zfile.geometry(),
            layer: lsmt::Layer::open_warp(zfile, target)?,
        };
        match blob.refusals().first() {
            None => Ok(blob),
            Some(refusal) => Err((*refusal).into()),
        }
    }

    /// Why overlaybd rejects the layer, one of each kind; nothing for one from
    /// [`open`](Self::open).
    pub fn refusals(&self) -> Vec<Refusal> {
        let zeros = self.layer.misplaced_zeros().map(Refusal::Zeros);
        let block = self.layer.device().unreadable_block().map(Refusal::Block);
        zeros.into_iter().chain(block).collect()
    }

    /// What the `ZFile`'s header says.
    #[must_use]
    pub fn zfile(&self) -> &Geometry {
        &self.geometry
    }

    /// What the LSMT's trailer says.
    pub fn lsmt(&self) -> &Header {
        self.layer.header()
    }

    /// The free text of the LSMT's trailer.
    pub fn user_tag(&self) -> &str {
        &self.layer.header().user_tag
    }

    /// Size of the disk in bytes.
    pub fn virtual_size(&self) -> u64 {
        self.layer.header().virtual_size
    }

    /// What the layer maps, in the disk's order.
    pub fn mappings(&self) -> &[Mapping] {
        self.layer.mappings()
    }

    pub(super) fn layer(&self) -> &lsmt::Layer<ZFileReader> {
        &self.layer
    }

    /// Fills `buf` from byte `offset` of the uncompressed LSMT file.
    ///
    /// # Errors
    /// When the range reaches beyond it, or it cannot be read.
    pub fn read_lsmt(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.layer.device().read_at(offset, buf)
    }

    /// Reads all of the `ZFile`, also what no mapping leads to, so that every block's CRC is
    /// compared with its bytes; how many bytes that made.
    ///
    /// # Errors
    /// When it cannot be read, or a block is damaged.
    pub fn verify(&self) -> io::Result<u64> {
        let zfile = self.layer.device();
        let mut buffer = vec![0; 1 << 20];
        let mut at = 0;
        while at < zfile.size() {
            let part = usize::try_from(zfile.size() - at)
                .unwrap_or(usize::MAX)
                .min(buffer.len());
            zfile.read_at(at, &mut buffer[..part])?;
            at += part as u64;
        }
        Ok(at)
    }

    /// What is in the blob.
    pub fn summary(&self) -> Summary {
        let bytes = |zeroed| -> u64 {
            let of_kind = self
                .mappings()
                .iter()
                .filter(|mapping| mapping.zeroed == zeroed);
            of_kind
                .map(|mapping| mapping.length * crate::format::block::SECTOR)
                .sum()
        };
        Summary {
            zfile: self.geometry,
            lsmt: self.layer.header().clone(),
            mappings: self.mappings().len(),
            data_bytes: bytes(false),
            zeroed_bytes: bytes(true),
        }
    }
}
