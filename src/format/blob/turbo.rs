//! The blob of a `TurboOCI` layer: `tar.gz( ext4.fs.meta, .turbo.ociv1, gzip.meta )`.
//! Source: containerd/accelerated-container-image `cmd/convertor/builder/turboOCI_builder.go` and
//! `pkg/snapshot/overlay.go`.

use std::io::{self, Read, Write};

use flate2::bufread::MultiGzDecoder;
use flate2::{Compression, GzBuilder};
use sha2::{Digest as _, Sha256};

use crate::format::block::{BlockDevice, DeviceReader};
use crate::format::tar::{Entry, EntryKind, TarError, TarReader};
use crate::oci::Digest;

/// What the name of a filesystem's metadata ends in, behind the filesystem's own.
const FS_META: &str = ".fs.meta";
/// An empty file that says what the blob is.
const IDENTIFIER: &str = ".turbo.ociv1";
/// The index of the original layer, if that is gzip.
const GZIP_META: &str = "gzip.meta";
/// Most entries of a blob that are looked at.
const MAX_ENTRIES: usize = 64;
/// Most bytes of a blob's tar that are read besides the files.
const MAX_AROUND: u64 = 1 << 20;
/// Bytes that are copied at once.
const PIECE: usize = 64 << 10;

/// The files of a `TurboOCI` layer.
#[derive(Clone, Copy)]
pub struct TurboParts<'a> {
    /// The filesystem, `ext4` or `erofs`, after which its metadata is named.
    pub filesystem: &'a str,
    /// Its metadata: a `ZFile` with a warp file.
    pub fs_meta: &'a dyn BlockDevice,
    /// The index of the original layer, if that is gzip.
    pub gzip_meta: Option<&'a dyn BlockDevice>,
}

impl std::fmt::Debug for TurboParts<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TurboParts")
            .field("filesystem", &self.filesystem)
            .field("is_gzip", &self.gzip_meta.is_some())
            .finish_non_exhaustive()
    }
}

/// A blob that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedTurbo {
    /// Digest of the blob.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Digest of the tar in it, which the image's config has.
    pub diff_id: Digest,
}

/// Hashes and counts what is written.
struct Hashing<W> {
    inner: W,
    hasher: Sha256,
    size: u64,
}

impl<W> Hashing<W> {
    fn new(inner: W) -> Self {
        Self {
            inner,
            hasher: Sha256::new(),
            size: 0,
        }
    }

    fn digest(self) -> (W, Digest) {
        (
            self.inner,
            Digest::from_sha256(self.hasher.finalize().into()),
        )
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(buf)?;
        self.hasher.update(&buf[..count]);
        self.size += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Writes the blob of a `TurboOCI` layer to `out`. The same parts make the same bytes.
///
/// # Errors
/// When a part cannot be read or `out` not be written.
pub fn pack_turbo(parts: &TurboParts<'_>, out: impl Write) -> io::Result<PackedTurbo> {
    let compressed = Hashing::new(out);
    let gzip = GzBuilder::new().write(compressed, Compression::new(6));
    let mut tar = tar::Builder::new(Hashing::new(gzip));
    let fs_meta = format!("{}{FS_META}", parts.filesystem);
    append(&mut tar, &fs_meta, parts.fs_meta)?;
    append(&mut tar, IDENTIFIER, &Vec::<u8>::new())?;
    if let Some(index) = parts.gzip_meta {
        append(&mut tar, GZIP_META, index)?;
    }
    let (gzip, diff_id) = tar.into_inner()?.digest();
    let mut compressed = gzip.finish()?;
    compressed.flush()?;
    let size = compressed.size;
    let (_, digest) = compressed.digest();
    Ok(PackedTurbo {
        digest,
        size,
        diff_id,
    })
}

/// Appends a file as Go's `archive/tar` writes one with a name, a mode and a size: root's, from
/// 1970.
fn append(
    tar: &mut tar::Builder<impl Write>,
    name: &str,
    content: &dyn BlockDevice,
) -> io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_path(name)?;
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(content.size());
    header.set_cksum();
    let content = DeviceReader::new(content);
    tar.append(&header, content)
}

/// Errors of taking a blob apart.
#[derive(Debug, thiserror::Error)]
pub enum TurboError {
    /// It cannot be read, or a part not be written.
    #[error("the TurboOCI layer cannot be read: {0}")]
    Io(#[from] io::Error),
    /// The tar.
    #[error("the TurboOCI layer is damaged: {0}")]
    Tar(#[from] TarError),
    /// It is another kind of layer, or more than what is read.
    #[error("this is no TurboOCI layer that can be read: {0}")]
    Content(String),
}

/// What a blob holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnpackedTurbo {
    /// The filesystem of which the metadata was taken.
    pub filesystem: String,
    /// Whether there is an index, that is, whether the original layer is gzip.
    pub is_gzip: bool,
    /// Bytes of both parts.
    pub size: u64,
}

/// Takes the blob of a `TurboOCI` layer apart: the metadata of `filesystem` goes to `fs_meta`, the
/// index, if there is one, to `gzip_meta`. Of both no more than `max_size` bytes are written, and
/// what else is in the blob counts, too.
///
/// # Errors
/// When it cannot be read, is no such layer or damaged, or larger.
pub fn unpack_turbo(
    blob: impl io::BufRead,
    filesystem: &str,
    max_size: u64,
    fs_meta: &mut dyn Write,
    gzip_meta: &mut dyn Write,
) -> Result<UnpackedTurbo, TurboError> {
    let name = format!("{filesystem}{FS_META}");
    let most = max_size.saturating_add(MAX_AROUND);
    let mut tar = TarReader::new(MultiGzDecoder::new(blob).take(most));
    let (mut has_meta, mut is_gzip, mut size) = (false, false, 0_u64);
    for _ in 0..MAX_ENTRIES {
        let Some(entry) = tar.next_entry()? else {
            if has_meta {
                return Ok(UnpackedTurbo {
                    filesystem: filesystem.to_owned(),
                    is_gzip,
                    size,
                });
            }
            return Err(TurboError::Content(format!("it has no {name}")));
        };
        size = size.saturating_add(entry.size);
        if size > max_size {
            return Err(TurboError::Content(format!(
                "its files have more than {max_size} bytes"
            )));
        }
        if entry.path == name.as_bytes() {
            first(&mut has_meta, &name)?;
            copy(&mut tar, &entry, fs_meta)?;
        } else if entry.path == GZIP_META.as_bytes() {
            first(&mut is_gzip, GZIP_META)?;
            copy(&mut tar, &entry, gzip_meta)?;
        }
    }
    Err(TurboError::Content(format!(
        "it has more than {MAX_ENTRIES} entries"
    )))
}

fn first(seen: &mut bool, name: &str) -> Result<(), TurboError> {
    if std::mem::replace(seen, true) {
        return Err(TurboError::Content(format!("it has two {name}")));
    }
    Ok(())
}

fn copy(
    tar: &mut TarReader<impl Read>,
    entry: &Entry,
    out: &mut dyn Write,
) -> Result<(), TurboError> {
    let is_dense = match &entry.data[..] {
        [] => entry.size == 0,
        [data] => *data == (0..entry.size),
        _ => false,
    };
    if entry.kind != EntryKind::File || !is_dense {
        let path = entry.path.escape_ascii();
        return Err(TurboError::Content(format!("its {path} is no plain file")));
    }
    let mut rest = entry.size;
    let mut buffer = vec![0; PIECE];
    while rest > 0 {
        let part = usize::try_from(rest).unwrap_or(PIECE).min(PIECE);
        tar.read_data(&mut buffer[..part])?;
        out.write_all(&buffer[..part])?;
        rest -= part as u64;
    }
    Ok(())
}
