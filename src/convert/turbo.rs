//! TurboOCI layers: their blob, and what a manifest says of them.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek as _, Write as _};
use std::sync::Arc;

use flate2::bufread::MultiGzDecoder;

use super::converted_layer::{ConvertedLayer, TurboLayer};
use super::scratch::Scratch;
use super::stream::TarAccess;
use crate::format::blob::{BlobError, LayerBlob, TurboError, TurboParts, pack_turbo, unpack_turbo};
use crate::format::block::{BlockDevice, DeviceReader, FileDevice, SharedDevice};
use crate::oci::{DiffId, Digest, Hasher};

/// The name of the filesystem in these layers.
const FILESYSTEM: &str = "ext4";
/// Most bytes of a blob's tar besides its files: headers and the end.
const MAX_AROUND_BYTES: u64 = 1 << 20;
/// Most bytes of metadata of one layer that are taken from a blob of the store.
const MAX_META_BYTES: u64 = 4 << 30;

/// The original layer, where it is not there. Building a filesystem reads no file data.
#[derive(Debug)]
pub(super) struct NoTarget;

impl BlockDevice for NoTarget {
    fn size(&self) -> u64 {
        0
    }

    fn read_at(&self, offset: u64, _: &mut [u8]) -> io::Result<()> {
        Err(io::Error::new(
            io::ErrorKind::Unsupported,
            format!("byte {offset} of the original layer is not read while images are converted"),
        ))
    }
}

/// Writes a layer's blob, and syncs it. `hashed` is called with its digest, before the sync.
pub(super) fn pack(
    out: &File,
    meta: &SharedDevice,
    access: TarAccess,
    hashed: impl FnOnce(&Digest),
) -> io::Result<ConvertedLayer> {
    let index = match access {
        TarAccess::Plain => None,
        TarAccess::Gzip(file) => Some(FileDevice::new(file)?),
    };
    let parts = TurboParts {
        filesystem: FILESYSTEM,
        fs_meta: &**meta,
        gzip_meta: index.as_ref().map(|index| index as &dyn BlockDevice),
    };
    let mut writer = BufWriter::with_capacity(256 << 10, out);
    let packed = pack_turbo(&parts, &mut writer)?;
    writer.flush()?;
    hashed(&packed.digest);
    out.sync_all()?;
    Ok(ConvertedLayer {
        digest: packed.digest,
        size: packed.size,
        turbo: Some(TurboLayer {
            diff_id: DiffId(packed.diff_id),
            is_gzip: index.is_some(),
        }),
    })
}

/// Why the blob of a TurboOCI layer cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum UnusableTurbo {
    #[error(transparent)]
    Content(#[from] TurboError),
    #[error(transparent)]
    Meta(#[from] BlobError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Opens the metadata of a layer's blob, which is copied to `scratch` by way of `unpacked`, an empty
/// file.
pub(super) fn open(
    blob: &dyn BlockDevice,
    unpacked: &mut File,
    scratch: &Arc<Scratch>,
) -> Result<(LayerBlob, TurboLayer), UnusableTurbo> {
    let mut meta = BufWriter::new(&*unpacked);
    let found = unpack_turbo(
        BufReader::new(DeviceReader::new(blob)),
        FILESYSTEM,
        MAX_META_BYTES,
        &mut meta,
        &mut io::sink(),
    )?;
    meta.flush()?;
    drop(meta);
    unpacked.rewind()?;
    let device = scratch.append(unpacked)?;
    let layer = LayerBlob::open_turbo(device, Arc::new(NoTarget))?;
    // Its files have been read within the same bound.
    let most = MAX_META_BYTES.saturating_add(MAX_AROUND_BYTES);
    let mut tar = MultiGzDecoder::new(BufReader::new(DeviceReader::new(blob))).take(most);
    let mut hasher = Hasher::like(&Digest::of(b""));
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = tar.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        hasher.update(buffer.get(..count).unwrap_or_default());
    }
    Ok((
        layer,
        TurboLayer {
            diff_id: DiffId(hasher.finish()),
            is_gzip: found.is_gzip,
        },
    ))
}
