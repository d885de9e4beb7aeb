//! What an entry's name means in a layer, before anything is looked up.

use super::Problem;

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Bytes of the longest path that the kernel takes (`PATH_MAX` counts the NUL behind it).
pub(super) const MAX_PATH: usize = 4095;
/// What aufs kept in its layers for itself; layers from its days still carry it.
const AUFS: &[u8] = b".wh..wh.";
/// Where it kept the files that several names led to: hard links' targets.
pub(super) const AUFS_LINKS: &[u8] = b".wh..wh.plnk";

/// A cleaned name, by meaning.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Name {
    /// The root itself.
    Root,
    /// An entry in the directory `parents`.
    Entry {
        parents: Vec<Vec<u8>>,
        name: Vec<u8>,
    },
    /// Hides `name` of lower layers in the directory `parents`.
    Whiteout {
        parents: Vec<Vec<u8>>,
        name: Vec<u8>,
    },
    /// Hides all that lower layers have in this directory.
    Opaque { directory: Vec<Vec<u8>> },
    /// What may be the target of hard links, and shows nowhere else.
    AufsLink {
        parents: Vec<Vec<u8>>,
        name: Vec<u8>,
    },
    /// Nothing of the image's.
    AufsMetadata,
}

impl Name {
    /// The meaning of an entry's name (OCI image-spec `layer.md` § Whiteouts).
    pub(super) fn of(path: &[u8]) -> Result<Self, Problem> {
        let Self::Entry { parents, name } = Self::plain(path)? else {
            return Ok(Self::Root);
        };
        if parents == [AUFS_LINKS] && !name.starts_with(WHITEOUT) {
            return Ok(Self::AufsLink { parents, name });
        }
        if parents.iter().any(|parent| parent.starts_with(AUFS)) {
            return Ok(Self::AufsMetadata);
        }
        if name == OPAQUE {
            return Ok(Self::Opaque { directory: parents });
        }
        match name.strip_prefix(WHITEOUT) {
            None => Ok(Self::Entry { parents, name }),
            Some(b"" | b"." | b"..") => Err(Problem::Whiteout(name)),
            Some(_) if name.starts_with(AUFS) => Ok(Self::AufsMetadata),
            Some(hidden) => Ok(Self::Whiteout {
                parents,
                name: hidden.to_vec(),
            }),
        }
    }

    /// A name with no meaning but the path: [`Name::Root`] or [`Name::Entry`].
    ///
    /// Cleaned as Go's `filepath.Clean` does, without looking at links; absolute names
    /// start at the root as all others do. What is then longer than the kernel takes could
    /// not be unpacked.
    pub(super) fn plain(path: &[u8]) -> Result<Self, Problem> {
        let mut parts: Vec<Vec<u8>> = Vec::new();
        for part in path.split(|&byte| byte == b'/') {
            match part {
                b"" | b"." => {}
                b".." => {
                    if parts.pop().is_none() {
                        return Err(Problem::Climbs(path.to_vec()));
                    }
                }
                part => parts.push(part.to_vec()),
            }
        }
        let slashes = parts.len().saturating_sub(1);
        let length = parts.iter().map(Vec::len).sum::<usize>() + slashes;
        if length > MAX_PATH {
            return Err(Problem::TooLong { length });
        }
        Ok(match parts.pop() {
            None => Self::Root,
            Some(name) => Self::Entry {
                parents: parts,
                name,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str) -> Name {
        let mut parts: Vec<_> = path
            .split('/')
            .map(|part| part.as_bytes().to_vec())
            .collect();
        let name = parts.pop().unwrap();
        Name::Entry {
            parents: parts,
            name,
        }
    }

    #[test]
    fn names_are_cleaned_and_must_not_leave_the_root() {
        for root in ["", ".", "./", "/", "//", "a/..", "/./a/../"] {
            assert_eq!(Name::of(root.as_bytes()).unwrap(), Name::Root, "{root}");
        }
        for path in [
            "a/b",
            "./a/b",
            "/a/b",
            "a//b/",
            "a/./b",
            "x/../a/b",
            "a/x/y/../../b/.",
        ] {
            assert_eq!(Name::of(path.as_bytes()).unwrap(), entry("a/b"), "{path}");
        }
        for path in [
            "..",
            "../a",
            "/..",
            "/../a",
            "a/../..",
            "a/../../b",
            "./../a",
        ] {
            assert!(
                matches!(Name::of(path.as_bytes()), Err(Problem::Climbs(_))),
                "{path}"
            );
        }
        assert_eq!(Name::of(b"..a/...").unwrap(), entry("..a/..."));
    }

    #[test]
    fn cleaned_names_are_limited_as_in_the_kernel() {
        let deep = |levels: usize| vec!["a"; levels].join("/");
        for path in [deep(2048), format!("/{}", deep(2048)), "a/../".repeat(5000)] {
            assert!(Name::of(path.as_bytes()).is_ok(), "{}", path.len());
        }
        for path in [deep(2049), format!("{}b", deep(2048)), "n".repeat(4096)] {
            assert!(
                matches!(
                    Name::of(path.as_bytes()),
                    Err(Problem::TooLong { length }) if length == path.len()
                ),
                "{}",
                path.len()
            );
        }
    }

    #[test]
    fn whiteouts_are_recognized_by_name() {
        let whiteout = |path: &str| {
            let Name::Entry { parents, name } = entry(path) else {
                unreachable!()
            };
            Name::Whiteout { parents, name }
        };
        assert_eq!(Name::of(b"a/.wh.b").unwrap(), whiteout("a/b"));
        assert_eq!(Name::of(b".wh.b/").unwrap(), whiteout("b"));
        assert_eq!(Name::of(b".wh..hidden").unwrap(), whiteout(".hidden"));
        assert_eq!(Name::of(b".wh.a/b").unwrap(), entry(".wh.a/b"));
        assert_eq!(
            Name::of(b"a/.wh..wh..opq").unwrap(),
            Name::Opaque {
                directory: vec![b"a".to_vec()]
            }
        );
        for path in [
            ".wh..wh.aufs",
            ".wh..wh.plnk/",
            ".wh..wh.plnk/.wh.x",
            ".wh..wh.plnk/a/b",
            "a/.wh..wh.plnk/1.2",
            "a/.wh..wh.x",
        ] {
            assert_eq!(
                Name::of(path.as_bytes()).unwrap(),
                Name::AufsMetadata,
                "{path}"
            );
        }
        assert!(matches!(
            Name::of(b"./.wh..wh.plnk/1.2"),
            Ok(Name::AufsLink { name, .. }) if name == b"1.2"
        ));
        for path in [".wh.", "a/.wh..", "a/.wh..."] {
            assert!(
                matches!(Name::of(path.as_bytes()), Err(Problem::Whiteout(_))),
                "{path}"
            );
        }
        assert_eq!(Name::plain(b".wh.b").unwrap(), entry(".wh.b"));
    }
}
