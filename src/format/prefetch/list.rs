//! A priority list: one absolute path a line, most wanted first.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fmt;

use crate::oci::Digest;

/// Most bytes of a list that overlaybd reads (`src/prefetch.cpp`).
pub const MAX_LIST_BYTES: usize = 64 << 10;
/// Most bytes of a line: the longest path that Linux takes. overlaybd ends on much longer ones.
pub const MAX_LINE_BYTES: usize = 4095;

/// Why a text is no priority list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidList {
    /// It is longer than readers take.
    #[error(
        "the list has more than {MAX_LIST_BYTES} bytes, which is what overlaybd reads: leave out the last lines"
    )]
    TooLong,
    /// A line that is no path.
    #[error(
        "line {line}: {text:?} is no absolute path of at most {MAX_LINE_BYTES} bytes: a line is /PATH, or /DIRECTORY/ for all that is below it"
    )]
    Line {
        /// The number of the line, counted from 1.
        line: usize,
        /// What it says.
        text: String,
    },
    /// It names nothing.
    #[error("the list names no path")]
    Empty,
}

/// A priority list of paths. An entry that ends in `/` or `*` is a directory with all that is
/// below it.
#[derive(Clone, PartialEq, Eq)]
pub struct PrefetchList {
    /// The entries as they are written into a trace, in order, each once.
    entries: Vec<Vec<u8>>,
    files: HashMap<Vec<u8>, u32>,
    /// Directories, without leading and trailing `/`.
    directories: HashMap<Vec<u8>, u32>,
    digest: Digest,
}

impl fmt::Debug for PrefetchList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entries: Vec<_> = self.entries().map(String::from_utf8_lossy).collect();
        f.debug_struct("PrefetchList")
            .field("entries", &entries)
            .field("digest", &self.digest)
            .finish_non_exhaustive()
    }
}

impl PrefetchList {
    /// Reads a list. Empty lines are passed over.
    ///
    /// # Errors
    /// When it is too long, names nothing, or a line is no absolute path.
    pub fn parse(text: &[u8]) -> Result<Self, InvalidList> {
        if text.len() > MAX_LIST_BYTES {
            return Err(InvalidList::TooLong);
        }
        let mut entries: Vec<Vec<u8>> = Vec::new();
        let (mut files, mut directories) = (HashMap::new(), HashMap::new());
        let mut seen = HashSet::new();
        for (number, line) in text.split(|byte| *byte == b'\n').enumerate() {
            let line = line.trim_ascii();
            if line.is_empty() {
                continue;
            }
            let invalid = || InvalidList::Line {
                line: number + 1,
                text: String::from_utf8_lossy(line).chars().take(200).collect(),
            };
            let Some(path) = line.strip_prefix(b"/") else {
                return Err(invalid());
            };
            let is_too_long = line.len() > MAX_LINE_BYTES;
            if is_too_long
                || line.contains(&0)
                || path.split(|byte| *byte == b'/').any(|part| part == b"..")
            {
                return Err(invalid());
            }
            let rank = u32::try_from(entries.len()).unwrap_or(u32::MAX);
            let below = path.strip_suffix(b"*").or_else(|| path.strip_suffix(b"/"));
            let (path, map) = match below {
                Some(directory) => (
                    directory.strip_suffix(b"/").unwrap_or(directory),
                    &mut directories,
                ),
                None => (path, &mut files),
            };
            if seen.insert((below.is_some(), path)) {
                map.entry(merged(path).into_owned()).or_insert(rank);
                entries.push(line.to_vec());
            }
        }
        if entries.is_empty() {
            return Err(InvalidList::Empty);
        }
        let digest = Digest::of(&canonical(&entries));
        Ok(Self {
            entries,
            files,
            directories,
            digest,
        })
    }

    /// The place of a file in the list, 0 for the most wanted; `None` if it is not wanted. `path`
    /// is relative to the root, without a leading `/`, as tars and the engine have it. `/bin`,
    /// `/lib` and the like count as links into `/usr`, as they are nearly everywhere.
    #[must_use]
    pub fn rank(&self, path: &[u8]) -> Option<u32> {
        let path = &*merged(path);
        let mut best = self.files.get(path).copied();
        if !self.directories.is_empty() {
            let ends = path
                .iter()
                .enumerate()
                .filter(|(_, byte)| **byte == b'/')
                .map(|(at, _)| at);
            for end in std::iter::once(0).chain(ends) {
                let rank = path.get(..end).and_then(|part| self.directories.get(part));
                best = match (best, rank.copied()) {
                    (Some(one), Some(other)) => Some(one.min(other)),
                    (one, other) => one.or(other),
                };
            }
        }
        best
    }

    /// The digest of the entries in their order: lists with the same entries have the same one.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// The list as text, an entry a line.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        canonical(&self.entries)
    }

    /// The entries, most wanted first, as they were written.
    pub fn entries(&self) -> impl Iterator<Item = &[u8]> {
        self.entries.iter().map(Vec::as_slice)
    }
}

/// A path below `/usr`, if it begins with a directory that is a link to the one there.
pub(super) fn merged(path: &[u8]) -> Cow<'_, [u8]> {
    let first = path.split(|byte| *byte == b'/').next().unwrap_or_default();
    match first {
        b"bin" | b"sbin" | b"lib" | b"lib32" | b"lib64" | b"libx32" => {
            Cow::Owned([&b"usr/"[..], path].concat())
        }
        _ => Cow::Borrowed(path),
    }
}

fn canonical(entries: &[Vec<u8>]) -> Vec<u8> {
    entries
        .iter()
        .flat_map(|entry| [entry.as_slice(), b"\n"])
        .flatten()
        .copied()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_directories_have_the_rank_of_their_line() {
        let list = PrefetchList::parse(b"/bin/sh\n\n/usr/lib/\n/etc/passwd\n/opt/*\n").unwrap();
        for (path, rank) in [
            ("bin/sh", Some(0)),
            ("usr/lib/a/b.so", Some(1)),
            ("usr/lib", None),
            ("usr/lib2/a", None),
            ("etc/passwd", Some(2)),
            ("opt/x", Some(3)),
            ("bin/sh/x", None),
        ] {
            assert_eq!(list.rank(path.as_bytes()), rank, "{path}");
        }
        let all = PrefetchList::parse(b"/*").unwrap();
        assert_eq!(all.rank(b"a/b"), Some(0));
    }

    #[test]
    fn the_directories_that_are_links_into_usr_count_as_those() {
        let list = PrefetchList::parse(b"/lib/a.so\n/usr/bin/b\n/usr/lib/a.so\n/sbin/").unwrap();
        for (path, rank) in [
            ("lib/a.so", Some(0)),
            ("usr/lib/a.so", Some(0)),
            ("bin/b", Some(1)),
            ("usr/sbin/c", Some(3)),
            ("library/a.so", None),
        ] {
            assert_eq!(list.rank(path.as_bytes()), rank, "{path}");
        }
        assert_eq!(list.entries().count(), 4);
    }

    #[test]
    fn empty_lines_and_repeats_do_not_change_the_digest() {
        let one = PrefetchList::parse(b"/a\n/b\n").unwrap();
        let other = PrefetchList::parse(b"\n/a\n/a\n  /b").unwrap();
        assert_eq!(one.digest(), other.digest());
        assert_eq!(one.to_bytes(), b"/a\n/b\n");
        assert_ne!(
            one.digest(),
            PrefetchList::parse(b"/b\n/a").unwrap().digest()
        );
    }

    #[test]
    fn what_is_no_list_is_said_with_its_line() {
        assert_eq!(PrefetchList::parse(b"\n"), Err(InvalidList::Empty));
        assert!(matches!(
            PrefetchList::parse(b"/a\nb"),
            Err(InvalidList::Line { line: 2, .. })
        ));
        assert!(PrefetchList::parse(b"/a/../b").is_err());
        let path = |length| [b"/".as_slice(), &vec![b'a'; length]].concat();
        assert!(PrefetchList::parse(&path(MAX_LINE_BYTES - 1)).is_ok());
        assert!(PrefetchList::parse(&path(MAX_LINE_BYTES)).is_err());
        let long = vec![b'/'; MAX_LIST_BYTES + 1];
        assert!(matches!(
            PrefetchList::parse(&long),
            Err(InvalidList::TooLong)
        ));
    }
}
