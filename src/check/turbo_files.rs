//! The files in the tar of a TurboOCI layer, as containerd unpacks them on a node.
//! Source: containerd/accelerated-container-image `cmd/convertor/builder/turboOCI_builder.go` and
//! `pkg/snapshot/overlay.go`.

use std::fs::File;
use std::io::{self, Read, Write as _};

use super::report::Damaged;
use super::tar_fields::bad;
use super::tar_header::{BLOCK, Header};

const FS_META: &[u8] = b"ext4.fs.meta";
const MARKER: &[u8] = b".turbo.ociv1";
const GZIP_META: &[u8] = b"gzip.meta";

/// Most bytes of all files together.
const MAX_BYTES: u64 = 4 << 30;
/// Most entries that are looked at.
const MAX_ENTRIES: usize = 64;
/// Bytes that are copied at once.
const PIECE: usize = 64 << 10;

/// The files, in unnamed temporary ones.
#[derive(Default)]
pub(super) struct TurboFiles {
    /// `ext4.fs.meta`: the metadata.
    pub(super) meta: Option<File>,
    /// `gzip.meta`: the index of the original layer.
    pub(super) index: Option<File>,
    has_marker: bool,
    /// What else is in the tar, and what is there twice.
    odd: Vec<String>,
}

impl TurboFiles {
    /// Takes the files from a tar and reads it to its end.
    pub(super) fn take(&mut self, tar: &mut dyn Read) -> anyhow::Result<()> {
        let mut left = MAX_BYTES;
        let mut entries = 0;
        while let Some(block) = block(tar)? {
            if block == [0; BLOCK] {
                break;
            }
            entries += 1;
            if entries > MAX_ENTRIES {
                return Err(Damaged(format!("it has more than {MAX_ENTRIES} entries")).into());
            }
            let header = Header::new(&block).map_err(damaged)?;
            let size = header.size().map_err(damaged)?;
            let size = u64::try_from(size)
                .map_err(|_| Damaged(format!("an entry of the impossible length {size}")))?;
            let after = left.checked_sub(size);
            left = after.ok_or_else(|| {
                Damaged(format!(
                    "its files have more than {MAX_BYTES} bytes together"
                ))
            })?;
            self.entry(&header, size, tar)?;
        }
        io::copy(tar, &mut io::sink()).map_err(damaged)?;
        Ok(())
    }

    fn entry(&mut self, header: &Header<'_>, size: u64, tar: &mut dyn Read) -> anyhow::Result<()> {
        let name = header.name();
        let is_file = matches!(header.kind(), 0 | b'0');
        let shown = || name.escape_ascii().to_string();
        let place = match name.as_slice() {
            _ if !is_file => {
                let kind = char::from(header.kind());
                self.odd.push(format!("{}, of the kind {kind:?}", shown()));
                None
            }
            FS_META => Some(&mut self.meta),
            GZIP_META => Some(&mut self.index),
            MARKER if !self.has_marker => {
                self.has_marker = true;
                None
            }
            MARKER => {
                self.odd.push(format!("{} twice", shown()));
                None
            }
            _ => {
                self.odd.push(shown());
                None
            }
        };
        match place {
            Some(place) if place.is_none() => {
                let mut file = tempfile::tempfile()?;
                data(tar, size, |part| file.write_all(part))?;
                *place = Some(file);
            }
            place => {
                if place.is_some() {
                    self.odd.push(format!("{} twice", shown()));
                }
                data(tar, size, |_| Ok(()))?;
            }
        }
        Ok(())
    }

    /// What is wrong with the names. `is_gzip`: whether the original layer is.
    pub(super) fn problems(&self, is_gzip: bool) -> Vec<String> {
        let mut problems: Vec<String> = Vec::new();
        let name = |name: &[u8]| name.escape_ascii().to_string();
        for (is_there, file) in [(self.meta.is_some(), FS_META), (self.has_marker, MARKER)] {
            if !is_there {
                problems.push(format!("its tar has no {}", name(file)));
            }
        }
        match (self.index.is_some(), is_gzip) {
            (false, true) => problems.push(format!(
                "its tar has no {}, without which nodes cannot read the gzip layer that it points \
                 into",
                name(GZIP_META)
            )),
            (true, false) => problems.push(format!(
                "its tar has a {}, and the layer that it points into is not gzip",
                name(GZIP_META)
            )),
            _ => {}
        }
        let odd = self.odd.iter();
        problems
            .extend(odd.map(|odd| format!("its tar also has {odd}, which does not belong there")));
        problems
    }
}

/// What cannot be decompressed or read of the tar is damaged.
#[allow(clippy::needless_pass_by_value)]
fn damaged(error: io::Error) -> Damaged {
    Damaged(format!("its tar: {error}"))
}

/// The next block; `None` at the end.
fn block(tar: &mut dyn Read) -> Result<Option<[u8; BLOCK]>, Damaged> {
    let mut bytes = Vec::with_capacity(BLOCK);
    tar.take(BLOCK as u64)
        .read_to_end(&mut bytes)
        .map_err(damaged)?;
    match bytes.first_chunk() {
        Some(block) => Ok(Some(*block)),
        None if bytes.is_empty() => Ok(None),
        None => Err(damaged(bad("it ends in the middle of a block"))),
    }
}

/// Gives an entry's data to `take`, and skips its padding.
fn data(
    tar: &mut dyn Read,
    size: u64,
    mut take: impl FnMut(&[u8]) -> io::Result<()>,
) -> anyhow::Result<()> {
    let mut buffer = vec![0; PIECE];
    let mut left = size;
    while left > 0 {
        let want = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
        let part = buffer.get_mut(..want).unwrap_or_default();
        tar.read_exact(part).map_err(damaged)?;
        take(part)?;
        left -= part.len() as u64;
    }
    let padding = size.next_multiple_of(BLOCK as u64) - size;
    io::copy(&mut tar.take(padding), &mut io::sink()).map_err(damaged)?;
    Ok(())
}
