//! Layers that an image has more than once: the tar is kept in a file until the last of them is
//! applied, so that it is fetched, inflated and hashed once.

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

type Key = (Digest, DiffId);

/// The repeated layers of one image.
pub(super) struct Repeats {
    /// The last position of each repeated layer.
    last: HashMap<Key, usize>,
    kept: HashMap<Key, Arc<Mutex<Copy>>>,
    /// The tars of layers that were verified.
    verified: HashMap<Key, Kept>,
}

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

fn key(step: &Step) -> Key {
    (step.layer.digest.clone(), step.diff_id.clone())
}

impl Repeats {
    pub(super) fn of(steps: &[Step]) -> Self {
        let mut positions: HashMap<Key, Vec<usize>> = HashMap::new();
        for (position, step) in steps.iter().enumerate() {
            positions.entry(key(step)).or_default().push(position);
        }
        let repeated = positions
            .into_iter()
            .filter(|(_, positions)| positions.len() > 1);
        let last = repeated.filter_map(|(key, positions)| Some((key, *positions.last()?)));
        Self {
            last: last.collect(),
            kept: HashMap::new(),
            verified: HashMap::new(),
        }
    }

    /// Whether the layer is a repeated one.
    pub(super) fn has(&self, step: &Step) -> bool {
        self.last.contains_key(&key(step))
    }

    /// A writer for the tar of the layer at `position`, if the layer is repeated above it.
    pub(super) fn copy(
        &mut self,
        step: &Step,
        position: usize,
        blobs: &BlobStore,
    ) -> Option<TarCopy> {
        let key = key(step);
        if self.last.get(&key).is_none_or(|last| *last <= position) {
            return None;
        }
        let taken = self.verified.values().map(|kept| kept.length);
        let max_bytes = MAX_KEPT_BYTES.saturating_sub(taken.sum());
        let copy = Arc::new(Mutex::new(Copy {
            blobs: blobs.clone(),
            file: None,
            reservation: None,
            written: 0,
            max_bytes,
        }));
        self.kept.insert(key, Arc::clone(&copy));
        Some(Box::new(Copying(copy)))
    }

    /// The tar of a layer that was verified before, to be read instead of fetching it.
    pub(super) fn tar(&self, step: &Step) -> Option<Box<dyn Read + Send>> {
        let kept = self.verified.get(&key(step))?.clone();
        Some(Box::new(Reading { kept, offset: 0 }))
    }

    /// Records that the layer at `position` was applied, so that its tar is verified; drops the
    /// tar after its last use.
    pub(super) fn applied(&mut self, step: &Step, position: usize) {
        let key = key(step);
        if let Some(copy) = self.kept.remove(&key) {
            let copy = copy.lock();
            if let Some(spool) = &copy.file {
                let spool = Arc::clone(spool);
                let length = copy.written;
                self.verified.insert(key.clone(), Kept { spool, length });
            }
        }
        if self.last.get(&key).is_some_and(|last| *last <= position) {
            self.verified.remove(&key);
        }
    }

    /// Drops the incomplete tar of a layer that could not be applied.
    pub(super) fn failed(&mut self, step: &Step) {
        self.kept.remove(&key(step));
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
