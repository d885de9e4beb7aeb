//! A root filesystem from the tars of its layers, by the rules of OCI image-spec `layer.md`.
//!
//! Written to be seen through, not to be fast: for each layer all entries are read, then what
//! its whiteouts name is taken out of the tree below, then the entries are put in, in order.
//! Where the specification is silent, the rules are those of containerd's `pkg/archive`.

use std::collections::{BTreeMap, HashSet};
use std::io::{self, Read};

use super::tar_entries::{Entries, Entry, Made};
use super::tree::{Attributes, Kind, NodeId, ROOT, Tree};

/// Symbolic links that are followed for one name, as many as Linux follows.
const MAX_LINKS: usize = 40;
/// Bytes of the longest path that Linux takes.
const MAX_PATH: usize = 4095;
/// Parts of names that are followed in a layer, and how many more with each of its entries.
/// Each is followed anew: what the converter remembers is no business of this.
const MAX_STEPS: u64 = 100_000_000;
const STEPS_PER_ENTRY: u64 = 4096;

/// Why a layer cannot be extracted.
#[derive(Debug, thiserror::Error)]
#[error("layer {layer} from the bottom{}: {problem}", within(.entry.as_deref()))]
pub struct ExtractError {
    layer: usize,
    entry: Option<Vec<u8>>,
    problem: String,
}

fn within(entry: Option<&[u8]>) -> String {
    match entry {
        Some(entry) => format!(", entry {:?}", String::from_utf8_lossy(entry)),
        None => String::new(),
    }
}

/// What a name in a layer means, its path split.
enum Name {
    Root,
    Made(Vec<Vec<u8>>, Vec<u8>),
    Hidden(Vec<Vec<u8>>, Vec<u8>),
    Opaque(Vec<Vec<u8>>),
    Ignored,
}

impl Tree {
    /// The root filesystem that these uncompressed layers make, bottom first.
    ///
    /// # Errors
    /// When a layer cannot be read, or one of its entries cannot be applied.
    pub fn from_layers<I>(layers: I) -> Result<Self, ExtractError>
    where
        I: IntoIterator,
        I::Item: Read,
    {
        let mut tree = Self::bare();
        for (layer, stream) in layers.into_iter().enumerate() {
            tree.add_layer(layer, stream)?;
        }
        Ok(tree)
    }

    /// The root filesystem of no layers.
    pub(super) fn bare() -> Self {
        Self::new(Attributes::implicit())
    }

    /// Puts a layer on top, which is the one with this number from the bottom.
    pub(super) fn add_layer(
        &mut self,
        layer: usize,
        stream: impl Read,
    ) -> Result<(), ExtractError> {
        self.apply(stream).map_err(|(entry, problem)| ExtractError {
            layer,
            entry,
            problem,
        })
    }

    fn apply(&mut self, stream: impl Read) -> Result<(), (Option<Vec<u8>>, String)> {
        let mut entries = Entries::new(stream);
        let mut layer: Vec<Entry> = Vec::new();
        let at = |layer: &[Entry], error: io::Error| {
            let last = layer
                .last()
                .map(|entry| String::from_utf8_lossy(&entry.path).into_owned());
            let place = last.map_or("at the start".into(), |last| format!("behind {last:?}"));
            (None, format!("{place}: {error}"))
        };
        while let Some(entry) = entries.next().map_err(|error| at(&layer, error))? {
            layer.push(entry);
        }
        let count = u64::try_from(layer.len()).unwrap_or(u64::MAX);
        let mut steps = Steps(MAX_STEPS.saturating_add(count.saturating_mul(STEPS_PER_ENTRY)));
        let mut made = Vec::new();
        let mut directories: HashSet<Vec<Vec<u8>>> = HashSet::new();
        let mut hidden = Vec::new();
        for entry in layer {
            let name = name(&entry.path).map_err(|problem| (Some(entry.path.clone()), problem))?;
            match name {
                Name::Hidden(parents, name) => hidden.push((entry.path, parents, Some(name))),
                Name::Opaque(directory) => hidden.push((entry.path, directory, None)),
                Name::Ignored => {}
                Name::Root => made.push((entry, None)),
                Name::Made(parents, name) => {
                    if matches!(&entry.made, Made::Node(kind) if kind.is_directory()) {
                        directories.insert([&parents[..], std::slice::from_ref(&name)].concat());
                    }
                    made.push((entry, Some((parents, name))));
                }
            }
        }
        for (path, parents, name) in hidden {
            self.hide(&parents, name.as_deref(), &directories, &mut steps)
                .map_err(|problem| (Some(path), problem))?;
        }
        for (entry, name) in made {
            let path = entry.path.clone();
            match name {
                None => self.set_root(entry),
                Some((parents, name)) => self
                    .make(entry, &parents, &name, &mut steps)
                    .map_err(|problem| (Some(path), problem))?,
            }
        }
        Ok(())
    }

    /// Takes a name of the lower layers away, or all of a directory's.
    fn hide(
        &mut self,
        parents: &[Vec<u8>],
        name: Option<&[u8]>,
        made: &HashSet<Vec<Vec<u8>>>,
        steps: &mut Steps,
    ) -> Result<(), String> {
        // Where this layer makes a directory and lower ones have something else, there is
        // nothing of theirs below it.
        let mut depth = ROOT;
        for (count, part) in parents.iter().enumerate() {
            match self.lookup(depth, part) {
                Some(next) if self.entries(next).is_some() => depth = next,
                Some(_) if made.contains(parents.get(..=count).unwrap_or_default()) => {
                    return Ok(());
                }
                _ => break,
            }
        }
        let Some(parent) = self.resolve(parents, false, steps)? else {
            return Ok(());
        };
        if let Some(entries) = self.entries_mut(parent) {
            match name {
                Some(name) => drop(entries.remove(name)),
                None => entries.clear(),
            }
        }
        Ok(())
    }

    fn set_root(&mut self, entry: Entry) {
        if let Made::Node(kind) = &entry.made
            && kind.is_directory()
            && let Some(root) = self.node_mut(ROOT)
        {
            root.attributes = suited(entry.attributes, kind);
        }
    }

    fn make(
        &mut self,
        entry: Entry,
        parents: &[Vec<u8>],
        name: &[u8],
        steps: &mut Steps,
    ) -> Result<(), String> {
        let parent = self.resolve(parents, true, steps)?;
        let parent = parent.ok_or("its parent cannot be made")?;
        let there = self.lookup(parent, name);
        match entry.made {
            Made::HardLink(target) => {
                let id = self.target(&target, steps)?;
                if there != Some(id) {
                    if let Some(entries) = self.entries_mut(parent) {
                        entries.remove(name);
                    }
                    // It may have been below what was just replaced.
                    let id = self.target(&target, steps)?;
                    self.link(parent, name, id);
                }
                if let Some(node) = self.node_mut(id) {
                    let mut attributes = suited(entry.attributes, &node.kind);
                    let old = std::mem::take(&mut node.attributes.xattrs);
                    let mut xattrs = old;
                    xattrs.append(&mut attributes.xattrs);
                    node.attributes = Attributes {
                        xattrs,
                        ..attributes
                    };
                }
            }
            Made::Node(kind) => {
                if let Kind::Symlink(target) = &kind
                    && target.is_empty()
                {
                    return Err("a symbolic link to nothing".to_owned());
                }
                let attributes = suited(entry.attributes, &kind);
                match there {
                    Some(id) if kind.is_directory() && self.entries(id).is_some() => {
                        if let Some(node) = self.node_mut(id) {
                            node.attributes = attributes;
                        }
                    }
                    _ => {
                        let id = self.add(kind, attributes);
                        self.link(parent, name, id);
                    }
                }
            }
        }
        Ok(())
    }

    /// What a hard link's target names; links in its last part are not followed.
    fn target(&self, path: &[u8], steps: &mut Steps) -> Result<NodeId, String> {
        let shown = String::from_utf8_lossy(path);
        let missing = || format!("its hard link target {shown:?} is not there");
        let mut parents = split(path)?;
        let name = parents.pop().ok_or_else(missing)?;
        let mut way = Way::to(&parents);
        self.lead(&mut way, steps)?;
        let parent = way.end().ok_or_else(missing)?;
        let id = self.lookup(parent, &name).ok_or_else(missing)?;
        match self.entries(id) {
            Some(_) => Err(format!("its hard link target {shown:?} is a directory")),
            None => Ok(id),
        }
    }

    /// The directory that a path leads to, through links, within the root.
    fn resolve(
        &mut self,
        parents: &[Vec<u8>],
        make: bool,
        steps: &mut Steps,
    ) -> Result<Option<NodeId>, String> {
        let mut way = Way::to(parents);
        loop {
            self.lead(&mut way, steps)?;
            let here = way.here();
            let Some(part) = way.ahead.pop() else {
                return Ok(Some(here));
            };
            if !make {
                return Ok(None);
            }
            if self.lookup(here, &part).is_some() {
                let part = String::from_utf8_lossy(&part);
                return Err(format!("its parent {part:?} is no directory"));
            }
            let kind = Kind::Directory(BTreeMap::new());
            let id = self.add(kind, Attributes::implicit());
            self.link(here, &part, id);
            way.enter(id, &part)?;
        }
    }

    /// Goes on as far as a path leads.
    fn lead(&self, way: &mut Way, steps: &mut Steps) -> Result<(), String> {
        while let Some(part) = way.ahead.pop() {
            steps.take()?;
            if part == b".." {
                // The root is its own parent.
                way.trail.pop();
                continue;
            }
            if part.is_empty() || part == b"." {
                continue;
            }
            let found = self.lookup(way.here(), &part);
            match found.and_then(|id| Some((id, &self.node(id)?.kind))) {
                Some((id, Kind::Directory(_))) => way.enter(id, &part)?,
                Some((_, Kind::Symlink(target))) => way.follow(target)?,
                _ => {
                    way.ahead.push(part);
                    break;
                }
            }
        }
        Ok(())
    }
}

/// How many parts of names may still be followed.
struct Steps(u64);

impl Steps {
    fn take(&mut self) -> Result<(), String> {
        let left = self.0.checked_sub(1);
        self.0 = left.ok_or("the layer's names lead through more than is followed")?;
        Ok(())
    }
}

/// A path that is being followed.
struct Way {
    /// The directories from below the root to here, each with the length of its path.
    trail: Vec<(NodeId, usize)>,
    /// The parts that are ahead, the last one first.
    ahead: Vec<Vec<u8>>,
    links: usize,
}

impl Way {
    fn to(parents: &[Vec<u8>]) -> Self {
        Self {
            trail: Vec::new(),
            ahead: parents.iter().rev().cloned().collect(),
            links: 0,
        }
    }

    fn here(&self) -> NodeId {
        self.trail.last().map_or(ROOT, |(id, _)| *id)
    }

    /// Where the path leads, if it was followed to its end.
    fn end(&self) -> Option<NodeId> {
        self.ahead.is_empty().then(|| self.here())
    }

    fn enter(&mut self, id: NodeId, name: &[u8]) -> Result<(), String> {
        let above = self.trail.last().map_or(0, |(_, length)| length + 1);
        let length = above + name.len();
        if length > MAX_PATH {
            return Err(too_long(length));
        }
        self.trail.push((id, length));
        Ok(())
    }

    fn follow(&mut self, target: &[u8]) -> Result<(), String> {
        self.links += 1;
        if self.links > MAX_LINKS {
            return Err("its parent leads through a loop of symbolic links".into());
        }
        if target.starts_with(b"/") {
            self.trail.clear();
        }
        let parts = target.split(|byte| *byte == b'/').rev();
        self.ahead.extend(parts.map(<[u8]>::to_vec));
        Ok(())
    }
}

fn too_long(length: usize) -> String {
    format!("a path of {length} bytes, and Linux takes {MAX_PATH}")
}

/// A path in parts, cleaned as text: no links are looked at.
fn split(path: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let mut parts: Vec<Vec<u8>> = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                let path = String::from_utf8_lossy(path);
                parts
                    .pop()
                    .ok_or_else(|| format!("{path:?} leads out of the image"))?;
            }
            part => parts.push(part.to_vec()),
        }
    }
    let slashes = parts.len().saturating_sub(1);
    match parts.iter().map(Vec::len).sum::<usize>() + slashes {
        length if length > MAX_PATH => Err(too_long(length)),
        _ => Ok(parts),
    }
}

fn name(path: &[u8]) -> Result<Name, String> {
    let mut parents = split(path)?;
    let Some(name) = parents.pop() else {
        return Ok(Name::Root);
    };
    // aufs kept its own files beside whiteouts, and layers of its days still have them.
    if parents.iter().any(|part| part.starts_with(b".wh..wh.")) {
        return Ok(Name::Ignored);
    }
    if name == b".wh..wh..opq" {
        return Ok(Name::Opaque(parents));
    }
    if name.starts_with(b".wh..wh.") {
        return Ok(Name::Ignored);
    }
    match name.strip_prefix(b".wh.") {
        Some(b"" | b"." | b"..") => Err("a whiteout of nothing".to_owned()),
        Some(hidden) => Ok(Name::Hidden(parents, hidden.to_vec())),
        None => Ok(Name::Made(parents, name)),
    }
}

/// The attributes that Linux lets an inode of this kind have.
fn suited(mut attributes: Attributes, kind: &Kind) -> Attributes {
    let is_link = matches!(kind, Kind::Symlink(_));
    let has_user = matches!(kind, Kind::File(_) | Kind::Directory(_));
    attributes.xattrs.retain(|name, _| {
        let (space, rest) = match name.iter().position(|byte| *byte == b'.') {
            Some(dot) => (name.get(..dot), name.get(dot + 1..)),
            None => (None, None),
        };
        match (space, rest) {
            (Some(b"system"), Some(b"posix_acl_access")) => !is_link,
            (Some(b"system"), Some(b"posix_acl_default")) => kind.is_directory(),
            (Some(b"trusted" | b"security"), Some(rest)) => !rest.is_empty(),
            (Some(b"user"), Some(rest)) => has_user && !rest.is_empty(),
            _ => false,
        }
    });
    if is_link {
        attributes.mode = 0o777;
    }
    attributes
}
