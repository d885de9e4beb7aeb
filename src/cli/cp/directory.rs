//! Directories that are written into by their descriptors: no symbolic link in them is followed.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::CLOEXEC);

/// Why a name cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// Something is there that is not replaced.
    #[error("there is {0} of this name in the destination")]
    Occupied(&'static str),
    /// The file system.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl From<Errno> for PlaceError {
    fn from(errno: Errno) -> Self {
        Self::Io(errno.into())
    }
}

/// An open directory.
#[derive(Debug)]
pub struct Directory(OwnedFd);

impl Directory {
    /// The directory at a path, through symbolic links: the user named it.
    ///
    /// # Errors
    /// When it is none, or cannot be read.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(rustix::fs::open(path, DIRECTORY, Mode::empty())?))
    }

    /// Another descriptor of the same directory.
    ///
    /// # Errors
    /// When there are no more descriptors.
    pub fn again(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    /// The directory of this name, made where it is not there.
    ///
    /// # Errors
    /// When something else is there, or it cannot be made or read.
    pub fn make(&self, name: &[u8]) -> Result<Self, PlaceError> {
        match rustix::fs::mkdirat(&self.0, name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let flags = DIRECTORY | OFlags::NOFOLLOW;
        match rustix::fs::openat(&self.0, name, flags, Mode::empty()) {
            Ok(directory) => Ok(Self(directory)),
            Err(Errno::NOTDIR | Errno::LOOP) => {
                Err(PlaceError::Occupied("something that is no directory"))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The directory itself.
    pub fn fd(&self) -> &OwnedFd {
        &self.0
    }

    /// A path to a name in here for calls that take no descriptor. They must not follow the name.
    #[must_use]
    pub fn path_of(&self, name: &[u8]) -> Vec<u8> {
        let mut path = format!("/proc/self/fd/{}/", self.0.as_raw_fd()).into_bytes();
        path.extend_from_slice(name);
        path
    }

    /// What is at a name, links not followed.
    ///
    /// # Errors
    /// When there is nothing, or it cannot be told.
    pub fn stat(&self, name: &[u8]) -> io::Result<Stat> {
        Ok(rustix::fs::statat(
            &self.0,
            name,
            AtFlags::SYMLINK_NOFOLLOW,
        )?)
    }

    /// Whether a file can be put at a name: nothing is there, a regular file, or a symbolic link,
    /// which is replaced and not followed.
    ///
    /// # Errors
    /// When something else is there.
    pub fn may_replace(&self, name: &[u8]) -> Result<(), PlaceError> {
        let found = match self.stat(name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            found => found?,
        };
        match FileType::from_raw_mode(found.st_mode) {
            FileType::RegularFile | FileType::Symlink => Ok(()),
            FileType::Directory => Err(PlaceError::Occupied("a directory")),
            FileType::CharacterDevice | FileType::BlockDevice => {
                Err(PlaceError::Occupied("a device"))
            }
            _ => Err(PlaceError::Occupied("a special file")),
        }
    }

    /// Makes something under a name that nothing has, by `make`; under which one.
    ///
    /// # Errors
    /// Those of `make`.
    pub fn temporary<T>(
        &self,
        make: impl Fn(&OwnedFd, &[u8]) -> rustix::io::Result<T>,
    ) -> io::Result<(Temporary<'_>, T)> {
        for _ in 0..16 {
            let name = format!(".overlaybd-proxy-{:016x}", rand::random::<u64>()).into_bytes();
            match make(&self.0, &name) {
                Ok(made) => {
                    let temporary = Temporary {
                        directory: self,
                        name,
                    };
                    return Ok((temporary, made));
                }
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }
}

/// A name that is given up when this is dropped.
#[derive(Debug)]
pub struct Temporary<'a> {
    directory: &'a Directory,
    /// It.
    pub name: Vec<u8>,
}

impl Temporary<'_> {
    /// Gives what it names its own name.
    ///
    /// # Errors
    /// When something is there that is not replaced.
    pub fn settle(self, name: &[u8]) -> Result<(), PlaceError> {
        self.directory.may_replace(name)?;
        let fd = self.directory.0.as_fd();
        rustix::fs::renameat(fd, self.name.as_slice(), fd, name)?;
        Ok(())
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        // It is gone where it was settled.
        let name = self.name.as_slice();
        let _ = rustix::fs::unlinkat(&self.directory.0, name, AtFlags::empty());
    }
}
