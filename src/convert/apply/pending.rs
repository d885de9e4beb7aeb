//! A stand-in for the ext4 engine, in memory, until it is merged.
#![allow(missing_docs, clippy::pedantic)]

use std::collections::BTreeMap;
use std::ops::Range;

use crate::format::block::BlockDeviceMut;

pub type Ino = u32;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("not there")]
    NotFound,
    #[error("too many links")]
    TooManyLinks,
    #[error("io {0}")]
    Io(#[from] std::io::Error),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileType {
    File,
    Directory,
    Symlink,
    CharDevice,
    BlockDevice,
    Fifo,
    Socket,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeKind {
    File,
    Directory,
    Symlink(Vec<u8>),
    CharDevice { major: u32, minor: u32 },
    BlockDevice { major: u32, minor: u32 },
    Fifo,
    Socket,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timestamp {
    pub secs: i64,
    pub nanos: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Attributes {
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub mtime: Timestamp,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

#[derive(Debug, Clone, Copy)]
pub struct DirEntry {
    pub ino: Ino,
    pub file_type: FileType,
}
pub struct NamedEntry {
    pub name: Vec<u8>,
    pub ino: Ino,
    pub file_type: FileType,
}
#[derive(Debug)]
pub struct Metadata {
    pub file_type: FileType,
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub size: u64,
    pub mtime: Timestamp,
    pub links: u32,
    pub rdev: (u32, u32),
}
#[derive(Debug, Clone, Copy)]
pub struct FileExtent {
    pub logical_block: u32,
    pub physical_block: u64,
    pub blocks: u32,
}

struct Node {
    kind: NodeKind,
    attributes: Attributes,
    links: u32,
    size: u64,
    extents: Vec<FileExtent>,
    entries: BTreeMap<Vec<u8>, Ino>,
}

pub struct Filesystem<D> {
    device: D,
    nodes: BTreeMap<Ino, Node>,
    next_block: u64,
}

fn type_of(kind: &NodeKind) -> FileType {
    match kind {
        NodeKind::File => FileType::File,
        NodeKind::Directory => FileType::Directory,
        NodeKind::Symlink(_) => FileType::Symlink,
        NodeKind::CharDevice { .. } => FileType::CharDevice,
        NodeKind::BlockDevice { .. } => FileType::BlockDevice,
        NodeKind::Fifo => FileType::Fifo,
        NodeKind::Socket => FileType::Socket,
    }
}

#[derive(Default)]
pub struct FormatOptions;

impl<D: BlockDeviceMut> Filesystem<D> {
    pub fn format(device: D, _options: &FormatOptions) -> Result<Self, Error> {
        let mut fs = Self {
            device,
            nodes: BTreeMap::new(),
            next_block: 0,
        };
        fs.add(2, NodeKind::Directory, Attributes::default());
        Ok(fs)
    }
    fn add(&mut self, ino: Ino, kind: NodeKind, attributes: Attributes) {
        let node = Node {
            kind,
            attributes,
            links: 1,
            size: 0,
            extents: Vec::new(),
            entries: BTreeMap::new(),
        };
        self.nodes.insert(ino, node);
    }
    fn node(&self, ino: Ino) -> Result<&Node, Error> {
        self.nodes.get(&ino).ok_or(Error::NotFound)
    }
    fn node_mut(&mut self, ino: Ino) -> Result<&mut Node, Error> {
        self.nodes.get_mut(&ino).ok_or(Error::NotFound)
    }
    pub fn open(device: D) -> Result<Self, Error> {
        Self::format(device, &FormatOptions)
    }
    pub fn flush(&mut self) -> Result<(), Error> {
        Ok(())
    }
    pub fn replace_device(&mut self, device: D) -> D {
        std::mem::replace(&mut self.device, device)
    }
    pub fn device_mut(&mut self) -> &mut D {
        &mut self.device
    }
    pub fn root(&self) -> Ino {
        2
    }
    pub fn lookup(&mut self, dir: Ino, name: &[u8]) -> Result<Option<DirEntry>, Error> {
        let Some(&ino) = self.node(dir)?.entries.get(name) else {
            return Ok(None);
        };
        let file_type = type_of(&self.node(ino)?.kind);
        Ok(Some(DirEntry { ino, file_type }))
    }
    pub fn entries(&mut self, dir: Ino) -> Result<Vec<NamedEntry>, Error> {
        let mut all = Vec::new();
        for (name, &ino) in &self.node(dir)?.entries {
            all.push(NamedEntry {
                name: name.clone(),
                ino,
                file_type: type_of(&self.node(ino)?.kind),
            });
        }
        Ok(all)
    }
    pub fn metadata(&mut self, ino: Ino) -> Result<Metadata, Error> {
        let node = self.node(ino)?;
        Ok(Metadata {
            file_type: type_of(&node.kind),
            mode: node.attributes.mode,
            uid: node.attributes.uid,
            gid: node.attributes.gid,
            size: node.size,
            mtime: node.attributes.mtime,
            links: node.links,
            rdev: match node.kind {
                NodeKind::CharDevice { major, minor } | NodeKind::BlockDevice { major, minor } => {
                    (major, minor)
                }
                _ => (0, 0),
            },
        })
    }
    pub fn read_link(&mut self, ino: Ino) -> Result<Vec<u8>, Error> {
        match &self.node(ino)?.kind {
            NodeKind::Symlink(target) => Ok(target.clone()),
            _ => Err(Error::NotFound),
        }
    }
    pub fn xattrs(&mut self, ino: Ino) -> Result<Vec<(Vec<u8>, Vec<u8>)>, Error> {
        Ok(self.node(ino)?.attributes.xattrs.clone())
    }
    pub fn read_file(&mut self, ino: Ino, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
        buf.fill(0);
        for extent in self.node(ino)?.extents.clone() {
            for block in 0..u64::from(extent.blocks) {
                let mut data = [0; 4096];
                self.device
                    .read_at((extent.physical_block + block) * 4096, &mut data)?;
                for (place, byte) in data.iter().enumerate() {
                    let at = (u64::from(extent.logical_block) + block) * 4096 + place as u64;
                    if let Some(to) = at
                        .checked_sub(offset)
                        .and_then(|at| buf.get_mut(at as usize))
                    {
                        *to = *byte;
                    }
                }
            }
        }
        Ok(())
    }
    pub fn create(
        &mut self,
        dir: Ino,
        name: &[u8],
        kind: &NodeKind,
        attributes: &Attributes,
    ) -> Result<Ino, Error> {
        let ino = (3..).find(|ino| !self.nodes.contains_key(ino)).unwrap_or(0);
        self.add(ino, kind.clone(), attributes.clone());
        let old = self.node_mut(dir)?.entries.insert(name.to_vec(), ino);
        assert!(old.is_none());
        Ok(ino)
    }
    pub fn allocate(
        &mut self,
        ino: Ino,
        size: u64,
        data: &[Range<u64>],
    ) -> Result<Vec<FileExtent>, Error> {
        let mut blocks: Vec<u64> = data
            .iter()
            .flat_map(|range| range.start / 4096..range.end.div_ceil(4096))
            .collect();
        blocks.dedup();
        let mut extents: Vec<FileExtent> = Vec::new();
        for block in blocks {
            let block = block as u32;
            let physical_block = self.next_block;
            self.next_block += 1;
            match extents.last_mut() {
                Some(last) if last.logical_block + last.blocks == block => last.blocks += 1,
                _ => extents.push(FileExtent {
                    logical_block: block,
                    physical_block,
                    blocks: 1,
                }),
            }
        }
        let node = self.node_mut(ino)?;
        node.size = size;
        node.extents.clone_from(&extents);
        Ok(extents)
    }
    pub fn link(&mut self, dir: Ino, name: &[u8], ino: Ino) -> Result<(), Error> {
        let node = self.node_mut(ino)?;
        if node.links >= 65_000 {
            return Err(Error::TooManyLinks);
        }
        node.links += 1;
        assert!(
            self.node_mut(dir)?
                .entries
                .insert(name.to_vec(), ino)
                .is_none()
        );
        Ok(())
    }
    pub fn unlink(&mut self, dir: Ino, name: &[u8]) -> Result<(), Error> {
        let ino = self
            .node_mut(dir)?
            .entries
            .remove(name)
            .ok_or(Error::NotFound)?;
        let node = self.node_mut(ino)?;
        node.links -= 1;
        if node.links == 0 {
            self.nodes.remove(&ino);
        }
        Ok(())
    }
    pub fn remove_tree(&mut self, dir: Ino, name: &[u8]) -> Result<(), Error> {
        let found = self.lookup(dir, name)?.ok_or(Error::NotFound)?;
        if found.file_type == FileType::Directory {
            self.clear_directory(found.ino)?;
        }
        self.unlink(dir, name)
    }
    pub fn clear_directory(&mut self, ino: Ino) -> Result<(), Error> {
        for entry in self.entries(ino)? {
            self.remove_tree(ino, &entry.name)?;
        }
        Ok(())
    }
    pub fn set_attributes(&mut self, ino: Ino, attributes: &Attributes) -> Result<(), Error> {
        self.node_mut(ino)?.attributes = attributes.clone();
        Ok(())
    }
}
