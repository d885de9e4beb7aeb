//! Stand-ins for the blob formats until they are merged: the right shapes, no function.
#![allow(missing_docs, clippy::pedantic, dead_code)]

use std::fs::File;
use std::io;
use std::sync::Arc;

use crate::format::block::{BlockDevice, BlockDeviceMut};
use crate::oci::digest::Digest;

#[derive(Debug, thiserror::Error)]
#[error("the blob formats are not merged yet")]
pub struct BlobError;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    Lz4,
    Zstd,
}
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockSize;
#[derive(Debug)]
pub struct LayerBlob;
pub struct FileDevice;

impl FileDevice {
    pub fn new(_file: File) -> io::Result<Self> {
        Ok(Self)
    }
}

impl LayerBlob {
    pub fn open(_device: Arc<FileDevice>) -> Result<Self, BlobError> {
        Err(BlobError)
    }
    pub fn virtual_size(&self) -> u64 {
        0
    }
}

pub struct Stack;

impl Stack {
    pub fn new(_layers: Vec<Arc<LayerBlob>>) -> Result<Self, BlobError> {
        Ok(Self)
    }
}

impl BlockDevice for Stack {
    fn size(&self) -> u64 {
        0
    }
    fn read_at(&self, _: u64, _: &mut [u8]) -> io::Result<()> {
        Err(io::Error::other(BlobError))
    }
}

pub struct LayerSpec {
    pub virtual_size: u64,
    pub algorithm: Algorithm,
    pub block_size: BlockSize,
    pub uuid: String,
    pub parent_uuid: String,
}

pub struct FinishedBlob {
    pub digest: Digest,
    pub size: u64,
}

pub struct LayerWriter;

impl LayerWriter {
    pub fn create(_: Arc<Stack>, _: File, _: LayerSpec, _: usize) -> Result<Self, BlobError> {
        Err(BlobError)
    }
    pub fn finish(self, _user_tag: &str) -> Result<FinishedBlob, BlobError> {
        Err(BlobError)
    }
}

impl BlockDevice for LayerWriter {
    fn size(&self) -> u64 {
        0
    }
    fn read_at(&self, _: u64, _: &mut [u8]) -> io::Result<()> {
        Err(io::Error::other(BlobError))
    }
}

impl BlockDeviceMut for LayerWriter {
    fn write_at(&mut self, _: u64, _: &[u8]) -> io::Result<()> {
        Err(io::Error::other(BlobError))
    }
    fn zero_at(&mut self, _: u64, _: u64) -> io::Result<()> {
        Err(io::Error::other(BlobError))
    }
    fn discard_at(&mut self, _: u64, _: u64) -> io::Result<()> {
        Err(io::Error::other(BlobError))
    }
}
