//! What is different between two root filesystems.

use std::collections::{HashMap, HashSet};
use std::fmt;

use super::tree::{Attributes, Kind, NodeId, ROOT, Time, Tree};

/// One difference between what should be and what is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Where, from the root.
    pub path: Vec<u8>,
    /// What is different there.
    pub what: What,
    /// What should be, for people.
    pub expected: String,
    /// What is, for people.
    pub found: String,
}

/// What can be different.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A name, with all below it, is not there.
    Missing,
    /// A name, with all below it, should not be there.
    Extra,
    /// The kind of node.
    Type,
    /// Permissions, with set-uid, set-gid and sticky.
    Mode,
    /// The owner.
    Uid,
    /// The group.
    Gid,
    /// The modification time.
    Mtime,
    /// A file's length.
    Size,
    /// A file's bytes.
    Content,
    /// A symbolic link's target.
    Target,
    /// A device's numbers.
    Device,
    /// Which names are the same inode.
    HardLinks,
    /// An extended attribute, by its name.
    Xattr(Vec<u8>),
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "missing",
            Self::Extra => "extra",
            Self::Type => "type",
            Self::Mode => "mode",
            Self::Uid => "owner",
            Self::Gid => "group",
            Self::Mtime => "mtime",
            Self::Size => "size",
            Self::Content => "content",
            Self::Target => "link target",
            Self::Device => "device number",
            Self::HardLinks => "hard link",
            Self::Xattr(name) => return write!(f, "xattr {}", shown(name)),
        })
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, what) = (self.shown(), &self.what);
        let (expected, found) = (&self.expected, &self.found);
        match what {
            What::Missing => write!(f, "{path}: {expected} is missing"),
            What::Extra => write!(f, "{path}: {found} should not be there"),
            _ => write!(f, "{path}: the {what} is {found}, not {expected}"),
        }
    }
}

impl Difference {
    fn shown(&self) -> String {
        shown(&self.path)
    }
}

fn shown(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

impl Tree {
    /// What is different in `found` from this tree, directory by directory, at most `limit`
    /// differences.
    #[must_use]
    pub fn differences(&self, found: &Self, limit: usize) -> Vec<Difference> {
        let crowded = self.names().into_iter();
        let crowded = crowded.filter(|(_, count)| *count > MAX_LINKS);
        let mut comparison = Comparison {
            expected: self,
            found,
            limit,
            differences: Vec::new(),
            partners: HashMap::new(),
            partners_back: HashMap::new(),
            crowded: crowded.map(|(id, _)| id).collect(),
        };
        comparison.all();
        comparison.differences
    }
}

/// Most names of one file (kernel, `fs/ext4/ext4.h`, `EXT4_LINK_MAX`).
const MAX_LINKS: u32 = 65_000;

struct Comparison<'a> {
    expected: &'a Tree,
    found: &'a Tree,
    limit: usize,
    differences: Vec<Difference>,
    /// What each node met first, and under which name.
    partners: HashMap<NodeId, (NodeId, Vec<u8>)>,
    partners_back: HashMap<NodeId, (NodeId, Vec<u8>)>,
    /// Files with more names than ext4 counts: they may be several.
    crowded: HashSet<NodeId>,
}

impl Comparison<'_> {
    fn is_full(&self) -> bool {
        self.differences.len() >= self.limit
    }

    fn add(&mut self, path: &[u8], what: What, expected: String, found: String) {
        if !self.is_full() {
            self.differences.push(Difference {
                path: if path.is_empty() { b"/" } else { path }.to_vec(),
                what,
                expected,
                found,
            });
        }
    }

    fn all(&mut self) {
        let mut ahead = vec![(Vec::new(), ROOT, ROOT)];
        while let Some((path, expected, found)) = ahead.pop() {
            if self.is_full() {
                return;
            }
            self.node(&path, expected, found);
            let (from, to) = (self.expected, self.found);
            let (Some(from), Some(to)) = (from.entries(expected), to.entries(found)) else {
                continue;
            };
            let below = |name: &[u8]| [&path[..], b"/", name].concat();
            for (name, &id) in to {
                if !from.contains_key(name) {
                    let kind = kind_of(self.found, id);
                    self.add(&below(name), What::Extra, String::new(), kind);
                }
            }
            // The last is taken first.
            for (name, &id) in from.iter().rev() {
                if let Some(&other) = to.get(name) {
                    ahead.push((below(name), id, other));
                } else {
                    let kind = kind_of(self.expected, id);
                    self.add(&below(name), What::Missing, kind, String::new());
                }
            }
        }
    }

    /// Compares two nodes of one name; whether they are directories is for the caller.
    fn node(&mut self, path: &[u8], expected: NodeId, found: NodeId) {
        let (Some(from), Some(to)) = (self.expected.node(expected), self.found.node(found)) else {
            return;
        };
        if self.linked(path, expected, found) {
            return;
        }
        match (&from.kind, &to.kind) {
            (Kind::File(from), Kind::File(to)) if from.size != to.size => {
                self.add(path, What::Size, from.size.to_string(), to.size.to_string());
            }
            (Kind::File(from), Kind::File(to)) if from.digest != to.digest => {
                let (from, to) = ("the source's", "other bytes");
                self.add(path, What::Content, from.into(), to.into());
            }
            (Kind::Symlink(from), Kind::Symlink(to)) if from != to => {
                self.add(path, What::Target, shown(from), shown(to));
            }
            (
                Kind::CharDevice { major, minor },
                Kind::CharDevice {
                    major: other_major,
                    minor: other_minor,
                },
            )
            | (
                Kind::BlockDevice { major, minor },
                Kind::BlockDevice {
                    major: other_major,
                    minor: other_minor,
                },
            ) if (major, minor) != (other_major, other_minor) => {
                let (from, to) = (
                    format!("{major}:{minor}"),
                    format!("{other_major}:{other_minor}"),
                );
                self.add(path, What::Device, from, to);
            }
            (from, to) if from.name() != to.name() => {
                self.add(path, What::Type, from.name().into(), to.name().into());
                return;
            }
            _ => {}
        }
        self.attributes(path, &from.attributes, &to.attributes);
    }

    /// Notes that two nodes have one name; whether they had one before.
    fn linked(&mut self, path: &[u8], expected: NodeId, found: NodeId) -> bool {
        let before = self.partners.get(&expected);
        let before_back = self.partners_back.get(&found);
        if before.is_some() && self.crowded.contains(&expected) {
            match before_back {
                Some((partner, _)) if *partner == expected => return true,
                // One more copy, to be compared as the first one was.
                None => {
                    self.partners_back.insert(found, (expected, path.to_vec()));
                    return false;
                }
                Some(_) => {}
            }
        }
        let describe = |known: Option<&(NodeId, Vec<u8>)>| match known {
            Some((_, path)) => format!("the same as {}", shown(path)),
            None => "a node of its own".to_owned(),
        };
        match (before, before_back) {
            (Some((partner, _)), Some(_)) if *partner == found => return true,
            (None, None) => {}
            (before, before_back) => {
                let (from, to) = (describe(before), describe(before_back));
                self.add(path, What::HardLinks, from, to);
            }
        }
        let first = |other| (other, path.to_vec());
        self.partners
            .entry(expected)
            .or_insert_with(|| first(found));
        self.partners_back
            .entry(found)
            .or_insert_with(|| first(expected));
        false
    }

    fn attributes(&mut self, path: &[u8], from: &Attributes, to: &Attributes) {
        if from.mode != to.mode {
            let octal = |mode| format!("{mode:04o}");
            self.add(path, What::Mode, octal(from.mode), octal(to.mode));
        }
        if from.uid != to.uid {
            self.add(path, What::Uid, from.uid.to_string(), to.uid.to_string());
        }
        if from.gid != to.gid {
            self.add(path, What::Gid, from.gid.to_string(), to.gid.to_string());
        }
        if from.mtime != to.mtime {
            self.add(
                path,
                What::Mtime,
                from.mtime.to_string(),
                to.mtime.to_string(),
            );
        }
        let names = from.xattrs.keys().chain(to.xattrs.keys().filter(|name| {
            // Those of both come once.
            !from.xattrs.contains_key(*name)
        }));
        for name in names {
            let (one, other) = (from.xattrs.get(name), to.xattrs.get(name));
            if one != other {
                let value = |value: Option<&Box<[u8]>>| match value {
                    None => "not there".to_owned(),
                    Some(value) => format!("{:?}", excerpt(value)),
                };
                self.add(path, What::Xattr(name.to_vec()), value(one), value(other));
            }
        }
    }
}

fn kind_of(tree: &Tree, id: NodeId) -> String {
    tree.node(id)
        .map_or("nothing", |node| node.kind.name())
        .to_owned()
}

fn excerpt(value: &[u8]) -> String {
    const LIMIT: usize = 64;
    let start = value.get(..LIMIT).unwrap_or(value);
    let more = if value.len() > LIMIT { "…" } else { "" };
    format!("{}{more}", shown(start))
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{:09}ns", self.secs, self.nanos)
    }
}
