//! Random changes, done to a filesystem and to a model of it.

use std::collections::BTreeMap;

use overlaybd_proxy::format::block::BlockDeviceMut;
use overlaybd_proxy::format::ext4::{
    Attributes, Error, FileType, Filesystem, Ino, NodeKind, Timestamp,
};

use super::{Rng, Tree, View, fill};

struct Node {
    kind: NodeKind,
    attributes: Attributes,
    links: u32,
    content: Vec<u8>,
    entries: BTreeMap<Vec<u8>, Ino>,
}

/// What a filesystem should hold. Inodes go by the numbers that the filesystem gave them.
pub struct Model {
    nodes: BTreeMap<Ino, Node>,
    /// Bytes of an inode: small ones keep no fractions of a second, nor 2039.
    small_inodes: bool,
    /// Bytes of the longest attribute's value: several must fit in a block.
    longest_value: u64,
    earliest: i64,
}

impl Model {
    /// The model of what is there.
    pub fn of<D: BlockDeviceMut>(fs: &mut Filesystem<D>, small_inodes: bool) -> Self {
        let mut model = Self {
            nodes: BTreeMap::new(),
            small_inodes,
            longest_value: u64::from(fs.block_size()) / 6,
            earliest: i64::MIN,
        };
        let mut ahead = vec![2];
        while let Some(ino) = ahead.pop() {
            let view = fs.view(ino);
            let (major, minor) = view.rdev;
            let kind = match view.file_type {
                FileType::File => NodeKind::File,
                FileType::Directory => NodeKind::Directory,
                FileType::Symlink => NodeKind::Symlink(view.target),
                FileType::CharDevice => NodeKind::CharDevice { major, minor },
                FileType::BlockDevice => NodeKind::BlockDevice { major, minor },
                FileType::Fifo => NodeKind::Fifo,
                FileType::Socket => NodeKind::Socket,
            };
            let entries = if kind == NodeKind::Directory {
                fs.children(ino)
            } else {
                BTreeMap::new()
            };
            ahead.extend(entries.values());
            model.nodes.insert(
                ino,
                Node {
                    kind,
                    attributes: view.attributes,
                    links: view.links,
                    content: view.content,
                    entries,
                },
            );
        }
        model
    }

    /// From now on, no times before 1970.
    pub fn only_after_1970(&mut self) {
        self.earliest = 0;
    }

    fn pick(&self, rng: &mut Rng, wanted: impl Fn(&Node) -> bool) -> Option<Ino> {
        let all: Vec<Ino> = self
            .nodes
            .iter()
            .filter(|(_, node)| wanted(node))
            .map(|(ino, _)| *ino)
            .collect();
        let index = rng.below(all.len().max(1) as u64) as usize;
        all.get(index).copied()
    }

    fn directory(&self, rng: &mut Rng) -> Ino {
        // Half of the time the root, so that it grows.
        if rng.chance(30) {
            return 2;
        }
        self.pick(rng, |node| node.kind == NodeKind::Directory)
            .unwrap()
    }

    fn name_in(&self, rng: &mut Rng, dir: Ino) -> Option<Vec<u8>> {
        let entries = &self.nodes[&dir].entries;
        let index = rng.below(entries.len().max(1) as u64) as usize;
        entries.keys().nth(index).cloned()
    }

    fn attributes(&self, rng: &mut Rng, kind: &NodeKind) -> Attributes {
        let secs = match rng.below(6) {
            0 => -(1 << 31),
            1 => (1 << 34) - (1 << 31) - 1,
            2 => -1,
            _ => rng.below(1 << 32).cast_signed(),
        }
        .max(self.earliest);
        let mut mtime = Timestamp {
            secs,
            nanos: rng.below(1_000_000_000) as u32,
        };
        if self.small_inodes {
            mtime = Timestamp {
                secs: secs.clamp(-(1 << 31), (1 << 31) - 1),
                nanos: 0,
            };
        }
        let mut xattrs = Vec::new();
        let is_plain = matches!(kind, NodeKind::File | NodeKind::Directory);
        for n in 0..rng.below(4) {
            let prefix = match rng.below(3) {
                0 if is_plain => "user.",
                1 => "security.",
                _ => "trusted.",
            };
            let name = format!("{prefix}{n}{}", "x".repeat(rng.below(30) as usize));
            let size = match rng.below(4) {
                0 => 0,
                1 => rng.below(self.longest_value),
                _ => rng.below(40),
            };
            xattrs.push((name.into_bytes(), rng.bytes(size as usize)));
        }
        if rng.chance(15) && is_plain {
            let mut acl = vec![2, 0, 0, 0];
            for (tag, perm, id) in [
                (1_u16, 7_u16, u32::MAX),
                (2, 5, 1000),
                (4, 5, u32::MAX),
                (8, 4, 70_000),
                (0x10, 7, u32::MAX),
                (0x20, 4, u32::MAX),
            ] {
                acl.extend_from_slice(&tag.to_le_bytes());
                acl.extend_from_slice(&perm.to_le_bytes());
                acl.extend_from_slice(&id.to_le_bytes());
            }
            xattrs.push((b"system.posix_acl_access".to_vec(), acl.clone()));
            if *kind == NodeKind::Directory {
                xattrs.push((b"system.posix_acl_default".to_vec(), acl));
            }
        }
        if rng.chance(70) {
            xattrs.clear();
        }
        xattrs.sort();
        Attributes {
            mode: rng.below(0o10_000) as u16,
            uid: rng.next() as u32 >> (rng.below(2) * 16),
            gid: rng.next() as u32 >> (rng.below(2) * 16),
            mtime,
            xattrs,
        }
    }

    fn kind(rng: &mut Rng) -> NodeKind {
        match rng.below(12) {
            0..4 => NodeKind::File,
            4..7 => NodeKind::Directory,
            7 => {
                let length = [1, 30, 59, 60, 61, 800, 1023][rng.below(7) as usize];
                NodeKind::Symlink(
                    (0..length)
                        .map(|n: u32| {
                            if n % 50 == 49 {
                                b'/'
                            } else {
                                b'a' + (n % 26) as u8
                            }
                        })
                        .collect(),
                )
            }
            8 => NodeKind::CharDevice {
                major: rng.below(4096) as u32,
                minor: rng.below(1 << 20) as u32,
            },
            9 => NodeKind::BlockDevice {
                major: rng.below(256) as u32,
                minor: rng.below(256) as u32 + 1,
            },
            10 => NodeKind::Fifo,
            _ => NodeKind::Socket,
        }
    }

    fn create<D: BlockDeviceMut>(
        &mut self,
        fs: &mut Filesystem<D>,
        rng: &mut Rng,
        dir: Ino,
        name: Vec<u8>,
        kind: NodeKind,
    ) {
        let attributes = self.attributes(rng, &kind);
        let created = fs.create(dir, &name, &kind, &attributes);
        if self.nodes[&dir].entries.contains_key(&name) {
            assert!(matches!(created, Err(Error::Exists(_))));
            return;
        }
        let ino = created.unwrap();
        let mut content = Vec::new();
        if kind == NodeKind::File {
            let size = match rng.below(5) {
                0 => 0,
                1 => rng.below(10),
                2 => rng.below(5000),
                _ => rng.below(100_000),
            };
            content = Self::write(fs, rng, ino, size as usize);
        }
        let node = Node {
            kind,
            attributes,
            links: 1,
            content,
            entries: BTreeMap::new(),
        };
        assert!(
            self.nodes.insert(ino, node).is_none(),
            "inode {ino} is in use"
        );
        self.nodes.get_mut(&dir).unwrap().entries.insert(name, ino);
    }

    /// Writes some ranges of a file of this size.
    fn write<D: BlockDeviceMut>(
        fs: &mut Filesystem<D>,
        rng: &mut Rng,
        ino: Ino,
        size: usize,
    ) -> Vec<u8> {
        let mut content = vec![0; size];
        let mut ranges = Vec::new();
        let mut at = if rng.chance(70) {
            0
        } else {
            rng.below(9000) as usize
        };
        while at < size {
            let length = if rng.chance(50) {
                size
            } else {
                1 + rng.below(9000) as usize
            };
            let end = size.min(at + length);
            content[at..end].copy_from_slice(&rng.bytes(end - at));
            ranges.push(at as u64..end as u64);
            at = end + rng.below(20_000) as usize;
        }
        fill(fs, ino, &content, &ranges);
        content
    }

    fn forget(&mut self, ino: Ino) {
        let node = self.nodes.get_mut(&ino).unwrap();
        if node.links > 1 && node.kind != NodeKind::Directory {
            node.links -= 1;
            return;
        }
        let node = self.nodes.remove(&ino).unwrap();
        for child in node.entries.into_values() {
            self.forget(child);
        }
    }

    /// One change, whichever.
    pub fn change<D: BlockDeviceMut>(&mut self, fs: &mut Filesystem<D>, rng: &mut Rng) {
        let dir = self.directory(rng);
        match rng.below(100) {
            0..45 => {
                let length = if rng.chance(20) { 200 } else { 12 };
                let mut name = format!("n{}", rng.below(10_000)).into_bytes();
                name.resize(1 + rng.below(length) as usize, 0xe9);
                let kind = Self::kind(rng);
                self.create(fs, rng, dir, name, kind);
            }
            45..50 => {
                // So many that the directory gets an index, or its index a new block.
                for n in 0..rng.below(200) {
                    let name = format!("many-{n}-{}", "y".repeat(rng.below(120) as usize));
                    self.create(fs, rng, dir, name.into_bytes(), NodeKind::Fifo);
                }
            }
            50..62 => {
                let Some(ino) = self.pick(rng, |node| node.kind != NodeKind::Directory) else {
                    return;
                };
                let name = format!("link{}", rng.below(1000)).into_bytes();
                let linked = fs.link(dir, &name, ino);
                if self.nodes[&dir].entries.contains_key(&name) {
                    assert!(matches!(linked, Err(Error::Exists(_))));
                    return;
                }
                linked.unwrap();
                self.nodes.get_mut(&ino).unwrap().links += 1;
                self.nodes.get_mut(&dir).unwrap().entries.insert(name, ino);
            }
            62..82 => {
                let Some(name) = self.name_in(rng, dir) else {
                    return;
                };
                let ino = self.nodes[&dir].entries[&name];
                if self.nodes[&ino].kind == NodeKind::Directory {
                    assert!(matches!(fs.unlink(dir, &name), Err(Error::IsADirectory(_))));
                    if rng.chance(60) {
                        return;
                    }
                    fs.remove_tree(dir, &name).unwrap();
                } else if rng.chance(50) {
                    fs.unlink(dir, &name).unwrap();
                } else {
                    fs.remove_tree(dir, &name).unwrap();
                }
                self.nodes.get_mut(&dir).unwrap().entries.remove(&name);
                self.forget(ino);
                assert!(fs.lookup(dir, &name).unwrap().is_none());
            }
            82..85 => {
                if dir == 2 {
                    return;
                }
                fs.clear_directory(dir).unwrap();
                let entries = std::mem::take(&mut self.nodes.get_mut(&dir).unwrap().entries);
                for child in entries.into_values() {
                    self.forget(child);
                }
            }
            85..90 => {
                let Some(ino) = self.pick(rng, |node| node.kind == NodeKind::File) else {
                    return;
                };
                let size = rng.below(60_000) as usize;
                let content = Self::write(fs, rng, ino, size);
                self.nodes.get_mut(&ino).unwrap().content = content;
            }
            _ => {
                let Some(ino) = self.pick(rng, |_| true) else {
                    return;
                };
                let attributes = self.attributes(rng, &self.nodes[&ino].kind);
                fs.set_attributes(ino, &attributes).unwrap();
                self.nodes.get_mut(&ino).unwrap().attributes = attributes;
            }
        }
    }
}

impl Tree for Model {
    fn view(&mut self, ino: Ino) -> View {
        let node = &self.nodes[&ino];
        let rdev = match node.kind {
            NodeKind::CharDevice { major, minor } | NodeKind::BlockDevice { major, minor } => {
                (major, minor)
            }
            _ => (0, 0),
        };
        let target = match &node.kind {
            NodeKind::Symlink(target) => target.clone(),
            _ => Vec::new(),
        };
        View {
            file_type: node.kind.file_type(),
            attributes: node.attributes.clone(),
            links: node.links,
            content: node.content.clone(),
            target,
            rdev,
        }
    }

    fn children(&mut self, dir: Ino) -> BTreeMap<Vec<u8>, Ino> {
        self.nodes[&dir].entries.clone()
    }
}
