//! Pins that stay until they are taken away, whichever processes come and go.
//!
//! `DATA/pinned/<algorithm>-<hex>` is one pin, named by what was pinned; its lines are the digests
//! of all the blobs that it keeps. So a layer that two pinned images share is kept until both are
//! unpinned, a pin is there as a whole or not at all (temporary file, fsync, rename, fsync of the
//! directory), and each process sees what others pinned when it looks for what to evict. Files are
//! added under the lock of the data directory, as blobs are evicted under it: what is pinned when
//! that is given back stays.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;

use super::filesystem::{create_within, sync_directory};
use super::shards::COARSE_TIME;
use super::temp::TempBlob;
use crate::oci::Digest;
use crate::store::error::BlobError;

/// Most pins.
const MAX_PINS: usize = 1024;
/// Most blobs that all pins name together: some 200 bytes of memory each.
const MAX_NAMED: usize = 1 << 16;
/// Readable for the service, whoever pins; the data directory lets nobody else in.
const MODE: u32 = 0o644;
/// Most bytes of a pin's file: a line has at most 136.
const MAX_FILE_BYTES: u64 = 16 << 20;

/// All pins, and what they keep.
#[derive(Debug, Default)]
pub(super) struct PinTable {
    /// The blobs of each pin, by what was pinned.
    pub(super) pins: BTreeMap<Digest, Vec<Digest>>,
    /// All of them together.
    pub(super) blobs: HashSet<Digest>,
    named: usize,
}

impl PinTable {
    /// The first pin that keeps a blob.
    pub(super) fn pin_of(&self, blob: &Digest) -> Option<&Digest> {
        if !self.blobs.contains(blob) {
            return None;
        }
        let mut pins = self.pins.iter();
        let found = pins.find(|(_, blobs)| blobs.contains(blob));
        found.map(|(pin, _)| pin)
    }

    /// Whether there is room for a pin of so many blobs.
    fn has_room_for(&self, pin: &Digest, blobs: usize) -> bool {
        let replaced = self.pins.get(pin);
        let pins = self.pins.len() + usize::from(replaced.is_none());
        let named = self.named.saturating_sub(replaced.map_or(0, Vec::len));
        pins <= MAX_PINS && named.saturating_add(blobs) <= MAX_NAMED
    }

    fn add(&mut self, pin: Digest, blobs: Vec<Digest>) {
        self.named = self.named.saturating_add(blobs.len());
        self.blobs.extend(blobs.iter().cloned());
        self.pins.insert(pin, blobs);
    }
}

/// The files of pins, as they were last read.
#[derive(Debug)]
pub(super) struct PinFiles {
    directory: PathBuf,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    modified: Option<SystemTime>,
    is_settled: bool,
    table: Arc<PinTable>,
}

fn file_name(pin: &Digest) -> String {
    format!("{}-{}", pin.algorithm(), pin.hex())
}

fn too_many(path: &Path) -> BlobError {
    BlobError::TooManyPins {
        path: path.to_owned(),
        pins: MAX_PINS,
        blobs: MAX_NAMED,
    }
}

impl PinFiles {
    pub(super) fn new(directory: PathBuf) -> Self {
        Self {
            directory,
            known: Mutex::default(),
        }
    }

    /// All pins; the files are read if any process has changed them.
    pub(super) fn read(&self) -> Result<Arc<PinTable>, BlobError> {
        let mut known = self.known.lock();
        let modified = match fs::metadata(&self.directory) {
            Ok(metadata) => metadata.modified().ok(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                *known = Known::default();
                return Ok(Arc::clone(&known.table));
            }
            Err(error) => return Err(BlobError::io("examining", &self.directory)(error)),
        };
        if known.is_settled && known.modified == modified {
            return Ok(Arc::clone(&known.table));
        }
        let now = SystemTime::now();
        let age = modified.and_then(|modified| now.duration_since(modified).ok());
        *known = Known {
            modified,
            is_settled: age.is_some_and(|age| age > COARSE_TIME),
            table: Arc::new(self.load()?),
        };
        Ok(Arc::clone(&known.table))
    }

    fn load(&self) -> Result<PinTable, BlobError> {
        let mut table = PinTable::default();
        let failed = || BlobError::io("listing", &self.directory);
        for entry in fs::read_dir(&self.directory).map_err(failed())? {
            let entry = entry.map_err(failed())?;
            let name = entry.file_name();
            let pin = name.to_str().and_then(|name| name.split_once('-'));
            let pin = pin.and_then(|(kind, hex)| format!("{kind}:{hex}").parse::<Digest>().ok());
            let Some(pin) = pin else {
                continue;
            };
            let Some(blobs) = read_file(&entry.path(), &pin)? else {
                continue;
            };
            if !table.has_room_for(&pin, blobs.len()) {
                return Err(too_many(&self.directory));
            }
            table.add(pin, blobs);
        }
        Ok(table)
    }

    /// Adds a pin, or replaces it; durable when it returns. The data directory is locked.
    pub(super) fn add(
        &self,
        mut temp: TempBlob,
        pin: &Digest,
        blobs: &[Digest],
    ) -> Result<(), BlobError> {
        if !self.read()?.has_room_for(pin, blobs.len()) {
            return Err(too_many(&self.directory));
        }
        create_within(&self.directory)?;
        let mut lines = String::new();
        for blob in blobs {
            lines.push_str(blob.as_str());
            lines.push('\n');
        }
        let mut file: &File = temp.file();
        file.write_all(lines.as_bytes())
            .and_then(|()| file.set_permissions(Permissions::from_mode(MODE)))
            .map_err(BlobError::io("writing", temp.path()))?;
        temp.sync()?;
        let path = self.directory.join(file_name(pin));
        fs::rename(temp.path(), &path).map_err(BlobError::io("placing", &path))?;
        temp.set_persisted();
        self.forget();
        sync_directory(&self.directory)?;
        // The directory may be there because of a process that ended before it was on the disk.
        self.directory.parent().map_or(Ok(()), sync_directory)
    }

    /// Takes a pin away; whether there was one.
    pub(super) fn remove(&self, pin: &Digest) -> Result<bool, BlobError> {
        let path = self.directory.join(file_name(pin));
        match fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(BlobError::io("removing", &path)(error)),
        }
        self.forget();
        sync_directory(&self.directory).map(|()| true)
    }

    fn forget(&self) {
        self.known.lock().is_settled = false;
    }
}

/// The blobs of a pin; `None` if it was taken away meanwhile.
fn read_file(path: &Path, pin: &Digest) -> Result<Option<Vec<Digest>>, BlobError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(BlobError::io("opening", path)(error)),
    };
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES)
        .read_to_end(&mut bytes)
        .map_err(BlobError::io("reading", path))?;
    let mut seen = HashSet::from([pin.clone()]);
    let mut blobs = vec![pin.clone()];
    let mut is_whole = true;
    for line in String::from_utf8_lossy(&bytes).lines() {
        match line.parse::<Digest>() {
            Ok(blob) if seen.insert(blob.clone()) => blobs.push(blob),
            Ok(_) => {}
            Err(_) => is_whole = false,
        }
        // One more than may be: `load` says so.
        if blobs.len() > MAX_NAMED {
            break;
        }
    }
    if !is_whole {
        tracing::warn!(path = %path.display(), %pin,
            "a pin has lines that are no digests, which keep nothing: pin it again");
    }
    Ok(Some(blobs))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_for_so_many_pins_and_blobs_and_for_one_that_is_replaced() {
        let name = |number: usize| Digest::of(&number.to_le_bytes());
        let mut table = PinTable::default();
        for number in 0..MAX_PINS {
            assert!(table.has_room_for(&name(number), 1));
            table.add(name(number), vec![name(number)]);
        }
        assert!(!table.has_room_for(&name(MAX_PINS), 1));
        assert!(table.has_room_for(&name(0), MAX_NAMED - MAX_PINS + 1));
        assert!(!table.has_room_for(&name(0), MAX_NAMED - MAX_PINS + 2));
    }

    #[test]
    fn a_pin_keeps_what_its_file_names_whatever_else_is_in_it() {
        let directory = tempfile::tempdir().unwrap();
        let [pin, layer] = [&b"image"[..], b"layer"].map(Digest::of);
        let path = directory.path().join(file_name(&pin));
        fs::write(&path, format!("{pin}\nnonsense\n{layer}\n{layer}\n")).unwrap();
        fs::write(directory.path().join("else"), "x").unwrap();
        let files = PinFiles::new(directory.path().to_owned());
        let table = files.read().unwrap();
        assert_eq!(table.pins[&pin], [pin.clone(), layer.clone()]);
        assert_eq!(table.pin_of(&layer), Some(&pin));
        assert!(files.remove(&pin).unwrap() && !files.remove(&pin).unwrap());
        assert_eq!(files.read().unwrap().pin_of(&layer), None);
        let none = PinFiles::new(directory.path().join("none"));
        assert!(none.read().unwrap().pins.is_empty());
    }
}
