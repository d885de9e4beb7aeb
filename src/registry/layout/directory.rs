//! A layout in a directory. Everything here blocks.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use oci_spec::image::OciLayout;
use parking_lot::Mutex;

use super::beneath::{self, Links};
use super::hash::Hash;
use super::index::{self, Index, MAX_INDEX, NewEntry};
use super::section::Section;
use super::share;
use super::stamp::Stamp;
use super::temp;
use crate::oci::Digest;
use crate::registry::{BlobSource, Error, Pushed, Sharing};

pub(super) const MARK: &str = "oci-layout";
pub(super) const INDEX: &str = "index.json";
/// What is in `oci-layout` (OCI image-spec `image-layout.md` § oci-layout file).
pub(super) const MARK_TEXT: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;

/// Most bytes of an `oci-layout` that are read.
const MAX_MARK_BYTES: u64 = 64 << 10;
/// How often an `index.json` is read that another program may be writing in place.
const MAX_READ_ATTEMPTS: u32 = 5;
const BUFFER_BYTES: usize = 1 << 20;

/// A layout in a directory.
#[derive(Debug)]
pub(super) struct Directory {
    root: PathBuf,
    links: Links,
    known: Mutex<Option<(Stamp, Arc<Index>)>>,
}

impl Directory {
    /// The layout that is there.
    pub(super) fn open(root: &Path, links: Links) -> Result<Self, Error> {
        let root = root
            .canonicalize()
            .map_err(|cause| Error::io(root, &cause))?;
        let layout = Self {
            root,
            links,
            known: Mutex::new(None),
        };
        let mark = layout.section(Path::new(MARK))?.ok_or_else(|| {
            Error::Configuration(format!(
                "{} is no OCI image layout: it has no file {MARK:?}",
                layout.root.display()
            ))
        })?;
        check_mark(&mark)?;
        layout.index()?;
        Ok(layout)
    }

    /// The layout that is there, or a new one where nothing is.
    pub(super) fn create(root: &Path) -> Result<Self, Error> {
        fs::create_dir_all(root).map_err(|cause| Error::io(root, &cause))?;
        let mark = root.join(MARK);
        if !mark
            .try_exists()
            .map_err(|cause| Error::io(&mark, &cause))?
        {
            check_empty(root)?;
            fs::create_dir_all(root.join("blobs").join("sha256"))
                .map_err(|cause| Error::io(root, &cause))?;
            // `oci-layout` is written last, so that a layout that has it is complete. Two processes
            // may do this at once.
            for (name, text) in [(INDEX, index::empty()), (MARK, MARK_TEXT.into())] {
                let path = root.join(name);
                let mut file = temp::create(root)?;
                file.write_all(&text)
                    .map_err(|cause| Error::io(&path, &cause))?;
                temp::place_new(file, &path)?;
            }
        }
        let layout = Self::open(root, Links::Within)?;
        temp::remove_leftovers(&layout.root);
        for algorithm in ["sha256", "sha512"] {
            temp::remove_leftovers(&layout.root.join("blobs").join(algorithm));
        }
        Ok(layout)
    }

    /// Where it is, as an absolute path.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// The blob with this digest, if it is there.
    pub(super) fn blob(&self, digest: &Digest) -> Result<Option<Section>, Error> {
        self.section(&blob_path(digest))
    }

    fn section(&self, path: &Path) -> Result<Option<Section>, Error> {
        let whole = self.root.join(path);
        let failed = |cause: io::Error| Error::io(&whole, &cause);
        let Some(file) = beneath::open(&self.root, path, self.links).map_err(failed)? else {
            return Ok(None);
        };
        let len = file.metadata().map_err(failed)?.len();
        Ok(Some(Section::new(Arc::new(file), whole.into(), 0, len)))
    }

    /// What the layout lists now.
    pub(super) fn index(&self) -> Result<Arc<Index>, Error> {
        let path = self.root.join(INDEX);
        let mut attempt = 1;
        loop {
            match self.read_index(&path)? {
                Ok(index) => return Ok(index),
                // Some tools write it in place.
                Err(_) if attempt < MAX_READ_ATTEMPTS => {
                    std::thread::sleep(Duration::from_millis(10) * attempt);
                    attempt += 1;
                }
                Err(detail) => return Err(Error::invalid(&path.display().to_string(), detail)),
            }
        }
    }

    fn read_index(&self, path: &Path) -> Result<Result<Arc<Index>, String>, Error> {
        let failed = |cause: io::Error| Error::io(path, &cause);
        let mut known = self.known.lock();
        let file = beneath::open(&self.root, Path::new(INDEX), self.links).map_err(failed)?;
        let file = file.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
        let stamp = Stamp::of(&file.metadata().map_err(failed)?);
        if let Some((then, index)) = known.as_ref()
            && then.still(&stamp)
        {
            return Ok(Ok(Arc::clone(index)));
        }
        let mut bytes = Vec::new();
        let read = (&file).take(MAX_INDEX + 1).read_to_end(&mut bytes);
        if read.map_err(failed)? as u64 > MAX_INDEX {
            let text = format!("it is over {MAX_INDEX} bytes long");
            return Err(failed(io::Error::other(text)));
        }
        Ok(Index::parse(&bytes).map(|index| {
            let index = Arc::new(index);
            *known = Some((stamp, Arc::clone(&index)));
            index
        }))
    }

    /// Whether blobs can be stored and manifests be listed: a file is created for each, and removed.
    pub(super) fn try_push(&self) -> Result<(), Error> {
        let blobs = self.root.join("blobs").join("sha256");
        fs::create_dir_all(&blobs).map_err(|cause| Error::io(&blobs, &cause))?;
        temp::create(&blobs)?;
        temp::create(&self.root).map(drop)
    }

    /// Stores a blob, unless it is there.
    pub(super) fn push(
        &self,
        digest: &Digest,
        size: u64,
        source: &BlobSource,
    ) -> Result<Pushed, Error> {
        let path = self.root.join(blob_path(digest));
        // One of another length is what a crashed writer of another tool left.
        if self.blob(digest)?.is_some_and(|there| there.len() == size) {
            return Ok(Pushed::Present);
        }
        let directory = path.parent().unwrap_or(&self.root);
        fs::create_dir_all(directory).map_err(|cause| Error::io(directory, &cause))?;
        if let BlobSource::Verified {
            path: source,
            sharing: Sharing::Inode,
        } = source
            && let Ok(linked) = share::link(source, size, directory)
        {
            temp::place_linked(linked, &path)?;
            return Ok(Pushed::Uploaded);
        }
        let mut file = temp::create(directory)?;
        if let BlobSource::Verified { path: source, .. } = source
            && share::clone_blocks(source, size, file.as_file()).is_ok()
        {
            temp::place(file, &path)?;
            return Ok(Pushed::Uploaded);
        }
        let mut hash = Hash::like(digest);
        let written = match source {
            BlobSource::Bytes(bytes) => {
                hash.update(bytes);
                file.write_all(bytes)
                    .map_err(|cause| Error::io(&path, &cause))?;
                bytes.len() as u64
            }
            BlobSource::File(source) | BlobSource::Verified { path: source, .. } => {
                copy(source, size, &mut hash, file.as_file_mut(), &path)?
            }
        };
        let mismatch = |what, expected: String, found: String| Error::Mismatch {
            place: format!("writing {}", path.display()),
            what,
            expected,
            found,
        };
        if written != size {
            return Err(mismatch("length", size.to_string(), written.to_string()));
        }
        let found = hash.finish();
        if found != digest.as_str() {
            return Err(mismatch("digest", digest.to_string(), found));
        }
        temp::place(file, &path)?;
        Ok(Pushed::Uploaded)
    }

    /// Lists a manifest. Concurrent calls wait.
    pub(super) fn list(&self, entry: &NewEntry) -> Result<(), Error> {
        let _lock = self.lock()?;
        let path = self.root.join(INDEX);
        let section = self.section(Path::new(INDEX))?;
        let section = section.ok_or_else(|| Error::io(&path, &io::ErrorKind::NotFound.into()))?;
        let edited = index::with_entry(&section.read_whole(MAX_INDEX)?, entry)
            .map_err(|detail| Error::invalid(&path.display().to_string(), detail))?;
        if let Some(bytes) = edited {
            let mut file = temp::create(&self.root)?;
            file.write_all(&bytes)
                .map_err(|cause| Error::io(&path, &cause))?;
            temp::place(file, &path)?;
        }
        Ok(())
    }

    /// A lock on `oci-layout`, which is never replaced, unlike the index.
    fn lock(&self) -> Result<File, Error> {
        let path = self.root.join(MARK);
        let failed = |cause: io::Error| Error::io(&path, &cause);
        loop {
            let file = File::open(&path).map_err(failed)?;
            file.lock().map_err(failed)?;
            let locked = file.metadata().map_err(failed)?;
            let there = fs::metadata(&path).map_err(failed)?;
            if (locked.dev(), locked.ino()) == (there.dev(), there.ino()) {
                return Ok(file);
            }
        }
    }
}

/// Where a blob is in a layout.
pub(super) fn blob_path(digest: &Digest) -> PathBuf {
    // Both are harmless as names: see `Digest`.
    ["blobs", digest.algorithm(), digest.hex()].iter().collect()
}

/// Checks that `oci-layout` has a version that is supported.
pub(super) fn check_mark(mark: &Section) -> Result<(), Error> {
    let bytes = mark.read_whole(MAX_MARK_BYTES)?;
    let place = mark.path().display().to_string();
    let mark: OciLayout = serde_json::from_slice(&bytes)
        .map_err(|error| Error::invalid(&place, format!("{MARK}: {error}")))?;
    let version = mark.image_layout_version();
    if version.starts_with("1.") {
        Ok(())
    } else {
        let detail = format!("{MARK}: a layout of version {version:?}; 1.0.0 is known");
        Err(Error::invalid(&place, detail))
    }
}

/// Sees that a directory holds nothing but what a layout in the making may have.
fn check_empty(root: &Path) -> Result<(), Error> {
    let failed = |cause: io::Error| Error::io(root, &cause);
    for entry in fs::read_dir(root).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let name = name.to_string_lossy();
        let is_known = matches!(&*name, "blobs" | INDEX | MARK | "lost+found");
        if !is_known && !name.starts_with(temp::PREFIX) {
            return Err(Error::Configuration(format!(
                "{} holds {name:?} and is no OCI image layout: name a new directory, or an empty one",
                root.display()
            )));
        }
    }
    Ok(())
}

/// Copies at most one byte more than `size`, so that a file that is too long is noticed.
fn copy(
    source: &Path,
    size: u64,
    hash: &mut Hash,
    target: &mut File,
    target_path: &Path,
) -> Result<u64, Error> {
    let failed = |cause: io::Error| Error::io(source, &cause);
    let file = File::open(source).map_err(failed)?;
    let mut file = file.take(size.saturating_add(1));
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut total = 0;
    loop {
        let count = match file.read(&mut buffer) {
            Ok(0) => return Ok(total),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(failed(error)),
        };
        let part = buffer.get(..count).unwrap_or_default();
        hash.update(part);
        target
            .write_all(part)
            .map_err(|cause| Error::io(target_path, &cause))?;
        total += part.len() as u64;
    }
}
