//! The tars of verified layers, in files, so that they need not be fetched, inflated and hashed
//! again: those of layers that an image has more than once, and those of images that are converted
//! to several formats.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::convert::input::TarCopy;
use crate::convert::plan::Step;
use crate::oci::{DiffId, Digest};
use crate::store::{BlobStore, Reservation, TempBlob};

/// Most bytes of tars that are kept for one image.
const MAX_KEPT_BYTES: u64 = 2 << 30;
/// Bytes of disk that are reserved at a time.
const RESERVED_BYTES: u64 = 64 << 20;

/// What a layer's tar is kept under: what was verified of it.
pub(super) type Key = (Digest, DiffId);

/// The tars of one image's layers, all of which were verified.
#[derive(Default)]
pub(super) struct KeptTars(HashMap<Key, Kept>);

/// The tar of a layer that is not verified yet.
pub(super) struct PendingTar(Arc<Mutex<Copy>>);

/// A tar that is being kept.
struct Copy {
    blobs: BlobStore,
    file: Option<Arc<Spool>>,
    reservation: Option<Reservation>,
    written: u64,
    max_bytes: u64,
}

/// The file of a tar; removed when the last reader of it is dropped.
struct Spool(TempBlob);

/// A complete tar.
#[derive(Clone)]
struct Kept {
    spool: Arc<Spool>,
    length: u64,
}

/// What the tar of a step's layer is kept under.
pub(super) fn key(step: &Step) -> Key {
    (step.layer.digest.clone(), step.diff_id.clone())
}

impl KeptTars {
    /// A writer for the tar of a layer, and what it will be.
    pub(super) fn copy(&self, blobs: &BlobStore) -> (TarCopy, PendingTar) {
        let taken = self.0.values().map(|kept| kept.length);
        let max_bytes = MAX_KEPT_BYTES.saturating_sub(taken.sum());
        let copy = Arc::new(Mutex::new(Copy {
            blobs: blobs.clone(),
            file: None,
            reservation: None,
            written: 0,
            max_bytes,
        }));
        (Box::new(Copying(Arc::clone(&copy))), PendingTar(copy))
    }

    /// The tar of a layer that was verified before, to be read instead of fetching it.
    pub(super) fn tar(&self, step: &Step) -> Option<Box<dyn Read + Send>> {
        let kept = self.0.get(&key(step))?.clone();
        Some(Box::new(Reading { kept, offset: 0 }))
    }

    /// Keeps a tar, of which all was written and verified; unless writing it failed.
    pub(super) fn keep(&mut self, step: &Step, tar: &PendingTar) {
        let copy = tar.0.lock();
        if let Some(spool) = &copy.file {
            let spool = Arc::clone(spool);
            let length = copy.written;
            self.0.insert(key(step), Kept { spool, length });
        }
    }

    /// Drops a tar that is read no more.
    pub(super) fn drop_tar(&mut self, step: &Step) {
        self.0.remove(&key(step));
    }
}

/// The writer of a copy, for the inflating thread.
struct Copying(Arc<Mutex<Copy>>);

impl Write for Copying {
    fn write(&mut self, tar: &[u8]) -> io::Result<usize> {
        let mut copy = self.0.lock();
        let written = copy.write(tar);
        if written.is_err() {
            // An incomplete tar is of no use.
            copy.file = None;
        }
        written.map(|()| tar.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Copy {
    fn write(&mut self, tar: &[u8]) -> io::Result<()> {
        let length = tar.len() as u64;
        let end = self.written.saturating_add(length);
        if end > self.max_bytes {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if self
            .reservation
            .as_ref()
            .is_none_or(|reservation| reservation.bytes() < length)
        {
            self.reservation = Some(
                self.blobs
                    .reserve(RESERVED_BYTES)
                    .map_err(io::Error::other)?,
            );
        }
        let spool = if let Some(spool) = &self.file {
            spool
        } else if self.written == 0 {
            let temp = self.blobs.begin().map_err(io::Error::other)?;
            self.file.insert(Arc::new(Spool(temp)))
        } else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        spool.file().write_all_at(tar, self.written)?;
        self.written = end;
        if let Some(reservation) = &mut self.reservation {
            reservation.spent(length);
        }
        Ok(())
    }
}

impl Spool {
    fn file(&self) -> &File {
        self.0.file()
    }
}

/// Reads a tar that was kept.
struct Reading {
    kept: Kept,
    offset: u64,
}

impl Read for Reading {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = self.kept.length.saturating_sub(self.offset);
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
        let buf = buf.get_mut(..most).unwrap_or_default();
        if buf.is_empty() {
            return Ok(0);
        }
        let count = self.kept.spool.file().read_at(buf, self.offset)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.offset += count as u64;
        Ok(count)
    }
}
