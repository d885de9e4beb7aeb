//! The files of a node, below its root: links stay within it, sizes are bounded.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

/// Longest file that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;
/// Most names of a directory.
const MAX_NAMES: usize = 65_536;

/// A root directory.
#[derive(Debug)]
pub struct Root {
    directory: File,
    path: PathBuf,
}

impl Root {
    /// # Errors
    /// Where it is no directory.
    pub fn open(path: &Path) -> io::Result<Self> {
        let directory = File::open(path)?;
        if !directory.metadata()?.is_dir() {
            return Err(io::Error::from(io::ErrorKind::NotADirectory));
        }
        Ok(Self {
            directory,
            path: path.to_owned(),
        })
    }

    /// Whether it is this machine's own.
    pub fn is_own(&self) -> bool {
        self.path == Path::new("/")
    }

    fn resolve(&self, path: &str, flags: OFlag) -> io::Result<OwnedFd> {
        let how = OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT);
        match openat2(&self.directory, path, how) {
            Ok(found) => Ok(found),
            Err(Errno::ENOSYS) => Err(io::Error::other("Linux 5.6 or later is needed")),
            Err(error) => Err(error.into()),
        }
    }

    /// The bytes of a regular file; `None` if there is none.
    ///
    /// # Errors
    /// Where it cannot be read, is no regular file, or is too long.
    pub fn read(&self, path: &str) -> io::Result<Option<Vec<u8>>> {
        // A FIFO would be waited for.
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let file = match self.resolve(path, flags) {
            Ok(found) => File::from(found),
            Err(error) => return absent(error),
        };
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("this is no regular file"));
        }
        let mut bytes = Vec::new();
        // Files of /proc say that they are empty.
        file.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MAX_FILE {
            return Err(io::Error::other("it has more than a MiB"));
        }
        Ok(Some(bytes))
    }

    /// As [`read`](Self::read), of a text.
    ///
    /// # Errors
    /// As there, and where it is not UTF-8.
    pub fn text(&self, path: &str) -> io::Result<Option<String>> {
        let Some(bytes) = self.read(path)? else {
            return Ok(None);
        };
        String::from_utf8(bytes)
            .map(Some)
            .map_err(|_| io::Error::other("it is not UTF-8"))
    }

    /// The mode of a file.
    pub fn mode(&self, path: &str) -> Option<u32> {
        use std::os::unix::fs::MetadataExt as _;
        let found = self.resolve(path, OFlag::O_PATH).ok()?;
        Some(File::from(found).metadata().ok()?.mode())
    }

    /// Whether there is something.
    pub fn has(&self, path: &str) -> bool {
        self.resolve(path, OFlag::O_PATH).is_ok()
    }

    /// The names in a directory, in order; none if there is no such directory.
    pub fn names(&self, path: &str) -> Vec<String> {
        let Ok(directory) = self.resolve(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY) else {
            return Vec::new();
        };
        let Ok(entries) = std::fs::read_dir(by_descriptor(&directory)) else {
            return Vec::new();
        };
        let names = entries.take(MAX_NAMES).filter_map(Result::ok);
        let mut names: Vec<String> = names
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort();
        names
    }

    /// Connects to a socket.
    ///
    /// # Errors
    /// Where there is none, or nobody listens.
    pub async fn connect(&self, path: &str) -> io::Result<tokio::net::UnixStream> {
        let socket = self.resolve(path, OFlag::O_PATH)?;
        tokio::net::UnixStream::connect(by_descriptor(&socket)).await
    }
}

/// A path that leads to what is open, wherever that is.
fn by_descriptor(open: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", open.as_raw_fd()))
}

fn absent<T>(error: io::Error) -> io::Result<Option<T>> {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Ok(None),
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_stay_within_the_root_and_long_files_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("root");
        std::fs::create_dir_all(root.join("etc")).unwrap();
        std::fs::write(directory.path().join("secret"), "outside").unwrap();
        std::fs::write(root.join("secret"), "inside").unwrap();
        std::os::unix::fs::symlink("../../secret", root.join("etc/up")).unwrap();
        std::os::unix::fs::symlink("/secret", root.join("etc/absolute")).unwrap();
        std::fs::write(root.join("long"), vec![b'x'; 1 + (1 << 20)]).unwrap();
        let root = Root::open(&root).unwrap();
        for path in ["/etc/up", "/etc/absolute", "/../secret", "secret"] {
            assert_eq!(
                root.text(path).unwrap().as_deref(),
                Some("inside"),
                "{path}"
            );
        }
        assert!(root.read("/long").is_err());
        assert!(root.read("/etc").is_err());
        assert!(root.read("/none").unwrap().is_none());
        assert_eq!(root.names("/etc"), ["absolute", "up"]);
    }
}
