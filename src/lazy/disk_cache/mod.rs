//! Pieces of blobs on the disk, shared by images and by processes at the same time.
//!
//! A piece is one file, found by where the blob is (registry and repository), its digest, and the
//! range that it is of. It has a checksum of its own, over these too, so that a piece that was cut
//! off, mixed up or damaged is never taken for what it is not; it is dropped then. Files appear
//! whole, by a rename.
//!
//! A blob's digest says nothing of a part of it, so a piece is worth as much as the registry that
//! sent it. It is therefore given only to who reads from the same repository at the same addresses,
//! scheme included: what one registry sends for a digest is never read in an image of another, and
//! what came over plain HTTP not where TLS is used.
//!
//! The directory is its owner's alone. Having a piece is no permission to read an image: digests
//! come from a manifest that the registry gave whoever asks now. Whoever can read the directory is
//! the user who read the blobs.
//!
//! | module | what it does |
//! |---|---|
//! | `piece_file` | a piece as a file |
//! | `of_origin` | the pieces of one repository |
//! | `room` | how many bytes there are, counted by all processes together, and which ones go |
//! | `writer` | the thread that writes |

mod of_origin;
mod piece_file;
mod room;
mod writer;

use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(super) use self::of_origin::OriginCache;
use self::writer::Writer;

/// The directory within the cache's directory that has the pieces; another form of them has
/// another name.
const PIECES: &str = "pieces-v1";
/// Nobody else's.
const PRIVATE: u32 = 0o700;

/// A cache directory. Cheap to clone; what is still to be written is written before the last clone
/// is gone.
#[derive(Debug, Clone)]
pub struct DiskCache {
    directory: PathBuf,
    writer: Arc<Writer>,
}

impl DiskCache {
    /// The cache in `directory`, which is made if it is not there, of at most `limit` bytes.
    ///
    /// # Errors
    /// When the directory cannot be made, or belongs to another user.
    pub fn open(directory: &Path, limit: u64) -> io::Result<Self> {
        let pieces = directory.join(PIECES);
        make_private(&pieces)?;
        Ok(Self {
            writer: Arc::new(Writer::start(pieces.clone(), limit)?),
            directory: pieces,
        })
    }

    /// `overlaybd-proxy` in the user's cache directory; `None` where there is no such directory,
    /// or it belongs to another user, as under `sudo`.
    #[must_use]
    pub fn default_directory() -> Option<PathBuf> {
        // A relative path is to be ignored (XDG base directory specification).
        let absolute = |name| std::env::var_os(name).map(PathBuf::from);
        let absolute = |name| absolute(name).filter(|path| path.is_absolute());
        let parent = match absolute("XDG_CACHE_HOME") {
            Some(cache) => cache,
            None => absolute("HOME")?.join(".cache"),
        };
        let is_own = parent
            .ancestors()
            .find_map(|path| path.metadata().ok())
            .is_some_and(|there| there.uid() == nix::unistd::geteuid().as_raw());
        is_own.then(|| parent.join("overlaybd-proxy"))
    }

    /// What it has of an origin's blobs: `origin` says from which addresses and of which
    /// repository.
    pub(super) fn of(&self, origin: &str) -> OriginCache {
        OriginCache::new(self, origin)
    }
}

/// Makes a directory that is nobody else's, with those above it.
fn make_private(directory: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(PRIVATE)
        .create(directory)?;
    let found = directory.symlink_metadata()?;
    if !found.is_dir() || found.uid() != nix::unistd::geteuid().as_raw() {
        let text = format!(
            "{} is not a directory of this user: choose another one",
            directory.display()
        );
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    if found.mode() & 0o077 != 0 {
        std::fs::set_permissions(directory, std::fs::Permissions::from_mode(PRIVATE))?;
    }
    Ok(())
}
