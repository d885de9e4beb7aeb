//! Layers that an image has more than once: the tar of one that was verified is kept until the
//! last of them is placed, so that it is fetched, inflated and hashed once.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use parking_lot::Mutex;

use super::super::layer::TarCopy;
use super::super::plan::Step;
use crate::oci::{DiffId, Digest};
use crate::store::{BlobStore, Reservation, TempBlob};

/// Most bytes of tars that are kept for one image.
const MOST_KEPT: u64 = 2 << 30;
/// Bytes of disk that are claimed at a time.
const ROOM: u64 = 64 << 20;

type Key = (Digest, DiffId);

/// The layers of one image that come again.
pub(super) struct Repeats {
    /// The last place of each layer that has several.
    last: HashMap<Key, usize>,
    kept: HashMap<Key, Arc<Mutex<Copy>>>,
    /// Those of `kept` whose layers were verified.
    verified: HashMap<Key, Kept>,
}

/// A tar that is being kept.
struct Copy {
    blobs: BlobStore,
    file: Option<Arc<Spool>>,
    room: Option<Reservation>,
    written: u64,
    most: u64,
}

/// The file of a tar; removed with the last who reads it.
struct Spool(TempBlob);

/// A tar that is whole.
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
        let mut places: HashMap<Key, Vec<usize>> = HashMap::new();
        for (place, step) in steps.iter().enumerate() {
            places.entry(key(step)).or_default().push(place);
        }
        let repeated = places.into_iter().filter(|(_, places)| places.len() > 1);
        let last = repeated.filter_map(|(key, places)| Some((key, *places.last()?)));
        Self {
            last: last.collect(),
            kept: HashMap::new(),
            verified: HashMap::new(),
        }
    }

    /// Whether the layer is one of those that come more than once.
    pub(super) fn has(&self, step: &Step) -> bool {
        self.last.contains_key(&key(step))
    }

    /// Where to put the tar of the layer at `place`, if it comes again and there is room.
    pub(super) fn copy(&mut self, step: &Step, place: usize, blobs: &BlobStore) -> Option<TarCopy> {
        let key = key(step);
        if self.last.get(&key).is_none_or(|last| *last <= place) {
            return None;
        }
        let taken = self.verified.values().map(|kept| kept.length);
        let most = MOST_KEPT.saturating_sub(taken.sum());
        let copy = Arc::new(Mutex::new(Copy {
            blobs: blobs.clone(),
            file: None,
            room: None,
            written: 0,
            most,
        }));
        self.kept.insert(key, Arc::clone(&copy));
        Some(Box::new(Copying(copy)))
    }

    /// The tar of a layer that was verified, and that need not be fetched again.
    pub(super) fn tar(&self, step: &Step) -> Option<Box<dyn Read + Send>> {
        let kept = self.verified.get(&key(step))?.clone();
        Some(Box::new(Reading { kept, place: 0 }))
    }

    /// Notes that the layer at `place` was what it is claimed to be, and lets go of it if it
    /// was the last of its kind.
    pub(super) fn placed(&mut self, step: &Step, place: usize) {
        let key = key(step);
        if let Some(copy) = self.kept.remove(&key) {
            let copy = copy.lock();
            if let Some(spool) = &copy.file {
                let spool = Arc::clone(spool);
                let length = copy.written;
                self.verified.insert(key.clone(), Kept { spool, length });
            }
        }
        if self.last.get(&key).is_some_and(|last| *last <= place) {
            self.verified.remove(&key);
        }
    }

    /// Forgets what was begun for a layer that could not be placed.
    pub(super) fn failed(&mut self, step: &Step) {
        self.kept.remove(&key(step));
    }
}

/// The end of a copy that the inflating thread writes to.
struct Copying(Arc<Mutex<Copy>>);

impl Write for Copying {
    fn write(&mut self, tar: &[u8]) -> io::Result<usize> {
        let mut copy = self.0.lock();
        let written = copy.write(tar);
        if written.is_err() {
            // Half a tar is none.
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
        if end > self.most {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if self.room.as_ref().is_none_or(|room| room.bytes() < length) {
            self.room = Some(self.blobs.reserve(ROOM).map_err(io::Error::other)?);
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
        if let Some(room) = &mut self.room {
            room.spent(length);
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
    place: u64,
}

impl Read for Reading {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = self.kept.length.saturating_sub(self.place);
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
        let buf = buf.get_mut(..most).unwrap_or_default();
        if buf.is_empty() {
            return Ok(0);
        }
        let count = self.kept.spool.file().read_at(buf, self.place)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.place += count as u64;
        Ok(count)
    }
}
