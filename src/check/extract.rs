//! A root filesystem from the tars of its layers, by the rules of OCI image-spec `layer.md`.
//!
//! Simple rather than fast: the entries are added one after the other, and what a whiteout names
//! is removed unless the layer itself added it: whiteouts hide lower layers only, whichever comes
//! first. Where the specification is silent, the
//! rules are those of containerd's `pkg/archive`.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{self, Read};

use super::attributes::{self, Described};
use super::tar_entries::{Entries, Entry, Made};
use super::tree::{Attributes, Kind, NodeId, ROOT, Tree};

/// Symbolic links that are followed for one name, as many as Linux follows.
const MAX_LINKS: usize = 40;
/// Bytes of the longest path that Linux takes.
const MAX_PATH: usize = 4095;
/// Parts of names that are followed in a layer, and how many more with each of its entries.
/// Nothing is cached, unlike in the converter.
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

/// Where aufs kept files that have several names.
const AUFS_FILES: &[u8] = b".wh..wh.plnk";

/// A layer that is being applied.
struct Layer {
    /// The names that it made, by directory.
    made: HashMap<NodeId, HashSet<Box<[u8]>>>,
    steps: Steps,
}

impl Layer {
    fn made(&self, directory: NodeId, name: &[u8]) -> bool {
        let names = self.made.get(&directory);
        names.is_some_and(|names| names.contains(name))
    }

    fn note(&mut self, directory: NodeId, name: &[u8]) {
        self.made.entry(directory).or_default().insert(name.into());
    }
}

/// What a name in a layer means, its path split.
enum Name {
    Root,
    Made(Vec<Vec<u8>>, Vec<u8>),
    /// A file that aufs kept for hard links, which shows under no other name.
    Kept(Vec<Vec<u8>>, Vec<u8>),
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
        let mut layer = Layer {
            made: HashMap::new(),
            steps: Steps(MAX_STEPS),
        };
        let mut last: Option<Vec<u8>> = None;
        let at = |last: &Option<Vec<u8>>, error: io::Error| {
            let last = last.as_ref().map(|last| String::from_utf8_lossy(last));
            let place = last.map_or("at the start".into(), |last| format!("behind {last:?}"));
            (None, format!("{place}: {error}"))
        };
        while let Some(entry) = entries.next().map_err(|error| at(&last, error))? {
            let path = entry.path.clone();
            layer.steps.add();
            if let Err(problem) = self.entry(entry, &mut layer) {
                return Err((Some(path), problem));
            }
            last = Some(path);
        }
        if let Some(entries) = self.entries_mut(ROOT) {
            entries.remove(AUFS_FILES);
        }
        Ok(())
    }

    fn entry(&mut self, entry: Entry, layer: &mut Layer) -> Result<(), String> {
        let is_file = matches!(&entry.made, Made::Node(Kind::File(_)));
        match name(&entry.path)? {
            // containerd leaves the root as it is, whatever a layer says of it.
            Name::Root | Name::Ignored => Ok(()),
            Name::Kept(..) if !is_file => Ok(()),
            Name::Made(parents, name) | Name::Kept(parents, name) => {
                self.make(entry, &parents, &name, layer)
            }
            Name::Hidden(..) | Name::Opaque(_) if matches!(entry.made, Made::Parents) => Ok(()),
            Name::Hidden(parents, name) => match self.resolve(&parents, layer)? {
                Ok(parent) => self.hide(vec![(parent, name.into())], layer),
                // Nothing of a lower layer is there.
                Err(_) => Ok(()),
            },
            Name::Opaque(directory) => match self.resolve(&directory, layer)? {
                Ok(directory) => self.hide(self.names_in(directory), layer),
                Err(_) => Ok(()),
            },
        }
    }

    fn names_in(&self, directory: NodeId) -> Vec<(NodeId, Box<[u8]>)> {
        let names = self.entries(directory).into_iter().flat_map(BTreeMap::keys);
        names.map(|name| (directory, name.clone())).collect()
    }

    /// Takes names away, and all that is below them, but for what the layer made.
    fn hide(
        &mut self,
        mut names: Vec<(NodeId, Box<[u8]>)>,
        layer: &mut Layer,
    ) -> Result<(), String> {
        let mut at = 0;
        while let Some((directory, name)) = names.get(at) {
            layer.steps.take()?;
            if let Some(id) = self.lookup(*directory, name) {
                names.extend(self.names_in(id));
            }
            at += 1;
        }
        // What is below comes first.
        for (directory, name) in names.into_iter().rev() {
            if layer.made(directory, &name) {
                continue;
            }
            let Some(id) = self.lookup(directory, &name) else {
                continue;
            };
            let is_in_use = self.entries(id).is_some_and(|below| !below.is_empty());
            if let Some(node) = self.node_mut(id).filter(|_| is_in_use) {
                // Of the names that stay, it is a parent that nothing describes.
                node.attributes = Attributes::implicit();
            } else if let Some(entries) = self.entries_mut(directory) {
                entries.remove(&name);
            }
        }
        Ok(())
    }

    fn make(
        &mut self,
        entry: Entry,
        parents: &[Vec<u8>],
        name: &[u8],
        layer: &mut Layer,
    ) -> Result<(), String> {
        let parent = self.resolve(parents, layer)?;
        let (made, about) = (entry.made, entry.about);
        let parent = match (parent, &made) {
            (Ok(parent), _) => parent,
            (Err(_), Made::Parents) => return Ok(()),
            (Err(in_the_way), _) => return Err(in_the_way),
        };
        let there = self.lookup(parent, name);
        match made {
            Made::Parents => return Ok(()),
            Made::HardLink(target) => {
                let mut id = self.target(&target, layer)?;
                if there != Some(id) {
                    if let Some(entries) = self.entries_mut(parent) {
                        entries.remove(name);
                    }
                    // It may have been below what was just replaced.
                    id = self.target(&target, layer)?;
                    self.link(parent, name, id);
                }
                self.describe(id, &about)?;
            }
            Made::Node(Kind::Symlink(target)) if target.is_empty() => {
                return Err("a symbolic link to nothing".to_owned());
            }
            Made::Node(kind) => {
                let old = there.filter(|id| kind.is_directory() && self.entries(*id).is_some());
                let new = self.new_attributes(parent, &kind, about.mode)?;
                let id = match old {
                    Some(id) if layer.made(parent, name) => id,
                    Some(id) => {
                        // Upon a lower layer's it is a new one, with what was in the other.
                        if let Some(node) = self.node_mut(id) {
                            node.attributes = new;
                        }
                        id
                    }
                    None => {
                        let id = self.add(kind, new);
                        self.link(parent, name, id);
                        id
                    }
                };
                self.describe(id, &about)?;
            }
        }
        layer.note(parent, name);
        Ok(())
    }

    fn new_attributes(&self, parent: NodeId, kind: &Kind, mode: u16) -> Result<Attributes, String> {
        let parent = self.node(parent).map(|node| &node.attributes);
        let bare = Attributes::implicit();
        attributes::new_in(parent.unwrap_or(&bare), kind, mode)
    }

    fn describe(&mut self, id: NodeId, about: &Described) -> Result<(), String> {
        if let Some(node) = self.node_mut(id) {
            node.attributes = attributes::applied(node.attributes.clone(), &node.kind, about)?;
        }
        Ok(())
    }

    /// What a hard link's target names; links in its last part are not followed.
    fn target(&self, path: &[u8], layer: &mut Layer) -> Result<NodeId, String> {
        let shown = String::from_utf8_lossy(path);
        let missing = || format!("its hard link target {shown:?} is not there");
        let mut parents = split(path)?;
        let name = parents.pop().ok_or_else(missing)?;
        let mut way = Way::to(&parents);
        self.lead(&mut way, &mut layer.steps)?;
        let parent = way.end().ok_or_else(missing)?;
        let id = self.lookup(parent, &name).ok_or_else(missing)?;
        match self.entries(id) {
            Some(_) => Err(format!("its hard link target {shown:?} is a directory")),
            None => Ok(id),
        }
    }

    /// The directory that a path leads to, through links, within the root. What is not there
    /// is made. The inner error tells what is in the way.
    fn resolve(
        &mut self,
        parents: &[Vec<u8>],
        layer: &mut Layer,
    ) -> Result<Result<NodeId, String>, String> {
        let mut way = Way::to(parents);
        loop {
            self.lead(&mut way, &mut layer.steps)?;
            let here = way.here();
            let Some(part) = way.ahead.pop() else {
                return Ok(Ok(here));
            };
            if self.lookup(here, &part).is_some() {
                let part = String::from_utf8_lossy(&part);
                return Ok(Err(format!("its parent {part:?} is no directory")));
            }
            let kind = Kind::Directory(BTreeMap::new());
            let attributes = self.new_attributes(here, &kind, 0o755)?;
            let id = self.add(kind, attributes);
            self.link(here, &part, id);
            layer.note(here, &part);
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
    fn add(&mut self) {
        self.0 = self.0.saturating_add(STEPS_PER_ENTRY);
    }

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
    if parents == [AUFS_FILES] && !name.starts_with(b".wh.") {
        return Ok(Name::Kept(parents, name));
    }
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
