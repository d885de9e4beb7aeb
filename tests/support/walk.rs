//! A directory tree, read with the kernel: everything that a rootfs consists of.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use sha2::Digest as _;

/// One name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub kind: Kind,
    /// Permissions with set-id and sticky bits.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Seconds and nanoseconds.
    pub mtime: (i64, i64),
    pub xattrs: BTreeMap<String, String>,
    /// The first name, by path, of the file that this one is a further link to, and how
    /// many links there are; `None` for a single link.
    pub links: Option<(String, u64)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    File { size: u64, sha256: String },
    Directory,
    Symlink(String),
    Char { major: u64, minor: u64 },
    Block { major: u64, minor: u64 },
    Fifo,
    Socket,
}

/// A tree by path; the root is `/`. Bytes that are not ASCII are escaped.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree(pub BTreeMap<String, Node>);

impl Tree {
    /// Reads everything below `root`.
    pub fn of(root: &Path) -> Self {
        let mut tree = BTreeMap::new();
        let mut first: BTreeMap<(u64, u64), String> = BTreeMap::new();
        let mut todo = vec![root.to_owned()];
        // By path, so that "first" means the same in every tree.
        while let Some(path) = todo.pop() {
            let metadata = fs::symlink_metadata(&path).unwrap();
            if metadata.is_dir() {
                let children = fs::read_dir(&path).unwrap();
                todo.extend(children.map(|entry| entry.unwrap().path()));
                todo.sort_by(|a, b| b.as_os_str().as_bytes().cmp(a.as_os_str().as_bytes()));
            }
            let name = name(root, &path);
            let links = (!metadata.is_dir() && metadata.nlink() > 1).then(|| {
                let inode = (metadata.dev(), metadata.ino());
                let group = first.entry(inode).or_insert_with(|| name.clone());
                (group.clone(), metadata.nlink())
            });
            let node = Node {
                kind: kind(&path, &metadata),
                mode: metadata.mode() & 0o7777,
                uid: metadata.uid(),
                gid: metadata.gid(),
                mtime: (metadata.mtime(), metadata.mtime_nsec()),
                xattrs: xattrs(&path),
                links,
            };
            assert!(tree.insert(name, node).is_none());
        }
        Self(tree)
    }

    /// Names under `path` are gone.
    pub fn without(mut self, path: &str) -> Self {
        let below = format!("{path}/");
        self.0
            .retain(|name, _| name != path && !name.starts_with(&below));
        self
    }

    #[track_caller]
    pub fn node(&self, path: &str) -> &Node {
        self.0.get(path).unwrap_or_else(|| panic!("no {path}"))
    }

    /// What differs from `expected`, a line each. The mtimes of the paths in `any_mtime` are
    /// not looked at.
    pub fn differences(&self, expected: &Self, any_mtime: &BTreeSet<String>) -> Vec<String> {
        let mut lines = Vec::new();
        for (path, expected) in &expected.0 {
            let Some(found) = self.0.get(path) else {
                lines.push(format!("{path}: missing; expected {expected}"));
                continue;
            };
            let mut expected = expected.clone();
            if any_mtime.contains(path) {
                expected.mtime = found.mtime;
            }
            if *found != expected {
                lines.push(format!(
                    "{path}:\n    found    {found}\n    expected {expected}"
                ));
            }
        }
        for path in self.0.keys().filter(|path| !expected.0.contains_key(*path)) {
            lines.push(format!("{path}: should not be there"));
        }
        lines
    }

    /// Panics with what differs.
    #[track_caller]
    pub fn assert_is(&self, expected: &Self, any_mtime: &BTreeSet<String>, what: &str) {
        assert!(expected.0.len() > 1, "{what}: nothing to compare with");
        let lines = self.differences(expected, any_mtime);
        let shown = lines.iter().take(40).map(String::as_str);
        assert!(
            lines.is_empty(),
            "{what}: {} differences:\n{}",
            lines.len(),
            shown.collect::<Vec<_>>().join("\n")
        );
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, nanos) = self.mtime;
        write!(
            f,
            "{:?} {:04o} {}:{}",
            self.kind, self.mode, self.uid, self.gid
        )?;
        write!(f, " {seconds}.{nanos:09}")?;
        if let Some((first, count)) = &self.links {
            write!(f, " {count} links with {first}")?;
        }
        if !self.xattrs.is_empty() {
            write!(f, " {:?}", self.xattrs)?;
        }
        Ok(())
    }
}

fn name(root: &Path, path: &Path) -> String {
    let below = path.strip_prefix(root).unwrap().as_os_str();
    format!("/{}", below.as_bytes().escape_ascii())
}

fn kind(path: &Path, metadata: &fs::Metadata) -> Kind {
    let file_type = metadata.file_type();
    let major = nix::sys::stat::major(metadata.rdev());
    let minor = nix::sys::stat::minor(metadata.rdev());
    if file_type.is_file() {
        Kind::File {
            size: metadata.len(),
            sha256: content(path),
        }
    } else if file_type.is_dir() {
        Kind::Directory
    } else if file_type.is_symlink() {
        let target = fs::read_link(path).unwrap().into_os_string().into_vec();
        Kind::Symlink(target.escape_ascii().to_string())
    } else if file_type.is_char_device() {
        Kind::Char { major, minor }
    } else if file_type.is_block_device() {
        Kind::Block { major, minor }
    } else if file_type.is_fifo() {
        Kind::Fifo
    } else {
        Kind::Socket
    }
}

struct Hasher(sha2::Sha256);

impl io::Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn content(path: &Path) -> String {
    let mut hasher = Hasher(sha2::Sha256::new());
    io::copy(&mut fs::File::open(path).unwrap(), &mut hasher).unwrap();
    super::hex(&hasher.0.finalize())
}

fn xattrs(path: &Path) -> BTreeMap<String, String> {
    let names = xattr::list(path).unwrap();
    names
        .map(|name| {
            let value = xattr::get(path, &name).unwrap().unwrap_or_default();
            (
                name.to_string_lossy().into_owned(),
                value.escape_ascii().to_string(),
            )
        })
        .collect()
}
