//! A layer blob, opened for reading.

use std::io;

use serde::Serialize;

use super::wrapping;
use crate::format::block::{BlockDevice as _, SharedDevice};
use crate::format::lsmt::{self, Header, LsmtError, Mapping};
use crate::format::zfile::{Geometry, ZFileError, ZFileReader};

/// Why a blob cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// It cannot be read.
    #[error("the blob cannot be read: {0}")]
    Io(#[from] io::Error),
    /// The tar around the `ZFile`.
    #[error("this is no overlaybd blob, or a damaged one: {0}")]
    Wrapping(String),
    /// The `ZFile`.
    #[error(transparent)]
    ZFile(#[from] ZFileError),
    /// The LSMT.
    #[error(transparent)]
    Lsmt(#[from] LsmtError),
}

/// A layer blob: what it maps, and how to read it.
#[derive(Debug)]
pub struct LayerBlob {
    geometry: Geometry,
    layer: lsmt::Layer<ZFileReader>,
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
    /// Opens the blob that all of `device` is: the tar, or a bare `ZFile`.
    ///
    /// # Errors
    /// When it cannot be read or is no whole overlaybd blob.
    pub fn open(device: SharedDevice) -> Result<Self, BlobError> {
        let zfile = wrapping::find(device)?.map_err(BlobError::Wrapping)?;
        let zfile = ZFileReader::open(std::sync::Arc::new(zfile))?;
        let geometry = *zfile.geometry();
        Ok(Self {
            geometry,
            layer: lsmt::Layer::open(zfile)?,
        })
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
