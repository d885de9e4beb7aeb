//! An original layer, which a TurboOCI layer points into, in unnamed temporary files.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt as _;

use anyhow::Context as _;

use super::decompress::{self, Packing};
use super::fetch::{Blobs, untar};
use super::file_range::FileRange;
use super::report::Damaged;
use crate::oci::{Descriptor, DiffId, Digest};

/// Most bytes of a layer's tar that are kept in a file, those of holes not counted.
const MAX_KEPT: u64 = 256 << 30;
/// Bytes that are copied at once, and that make a hole if they are zeros.
const PIECE: usize = 64 << 10;

/// A layer of the source whose digest and diff id were verified.
pub(super) struct Original {
    /// Its digest.
    pub(super) digest: Digest,
    /// The layer as it is in the registry.
    pub(super) blob: File,
    /// What its bytes are.
    pub(super) packing: Packing,
    /// The tar in it.
    pub(super) tar: File,
    /// The tar's length.
    pub(super) tar_size: u64,
}

impl Original {
    /// Fetches a layer.
    pub(super) fn fetch(
        blobs: &Blobs,
        descriptor: &Descriptor,
        diff_id: &DiffId,
    ) -> anyhow::Result<Self> {
        let blob = blobs.to_file(descriptor)?;
        let mut head = Vec::new();
        FileRange::from(&blob, 0)
            .take(decompress::HEAD as u64)
            .read_to_end(&mut head)?;
        let name = || format!("layer {}", descriptor.digest);
        let packing = decompress::packing(&head).map_err(damaged);
        let packing = packing.with_context(name)?;
        let mut tar = Spool::new()?;
        let layer = BufReader::with_capacity(1 << 18, FileRange::from(&blob, 0));
        untar(&head, layer, diff_id, |stream| tar.take(stream)).with_context(name)?;
        let tar_size = tar.size;
        // A file that ends in a hole has its length nevertheless.
        tar.file.set_len(tar_size)?;
        Ok(Self {
            digest: descriptor.digest.clone(),
            blob,
            packing,
            tar: tar.file,
            tar_size,
        })
    }
}

/// The file is a local copy: what cannot be decompressed of it is damaged.
#[allow(clippy::needless_pass_by_value)]
fn damaged(error: io::Error) -> Damaged {
    Damaged(error.to_string())
}

/// A file that is written from front to back, with holes where there are zeros.
struct Spool {
    file: File,
    size: u64,
    kept: u64,
}

impl Spool {
    fn new() -> io::Result<Self> {
        Ok(Self {
            file: tempfile::tempfile()?,
            size: 0,
            kept: 0,
        })
    }

    /// Takes all of a stream.
    fn take(&mut self, stream: &mut dyn Read) -> anyhow::Result<()> {
        let mut buffer = vec![0; PIECE];
        loop {
            let count = match stream.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(damaged(error).into()),
            };
            let piece = buffer.get(..count).unwrap_or_default();
            if piece.iter().any(|byte| *byte != 0) {
                self.kept = self.kept.saturating_add(count as u64);
                if self.kept > MAX_KEPT {
                    let text = format!("its tar has more than the {MAX_KEPT} bytes that are kept");
                    return Err(Damaged(text).into());
                }
                self.file
                    .write_all_at(piece, self.size)
                    .context("a temporary file cannot be written: $TMPDIR names their place")?;
            }
            self.size = self.size.saturating_add(count as u64);
        }
    }
}
