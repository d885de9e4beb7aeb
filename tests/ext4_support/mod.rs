//! What the ext4 tests share: a disk that is as strict as a layer's, listings, and a model.
#![allow(dead_code, clippy::cast_possible_truncation, clippy::cast_sign_loss)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use overlaybd_proxy::format::block::{BlockDevice, BlockDeviceMut, MemDevice, check_write};
use overlaybd_proxy::format::ext4::{
    Attributes, FileType, Filesystem, FormatOptions, Ino, NodeKind, Timestamp,
};
use overlaybd_proxy::oci::digest::Digest;

pub mod model;

const SECTOR: usize = 512;

/// A layer over a disk: what was written cannot be read back, as in `LayerWriter`.
pub struct Layer {
    lower: MemDevice,
    written: BTreeMap<u64, [u8; SECTOR]>,
    /// Offsets and lengths of the writes, in their order.
    pub writes: Vec<(u64, u64)>,
    pub discarded: u64,
}

impl Layer {
    pub fn over(lower: MemDevice) -> Self {
        Self {
            lower,
            written: BTreeMap::new(),
            writes: Vec::new(),
            discarded: 0,
        }
    }

    /// The disk with the layer in it.
    pub fn finish(self) -> MemDevice {
        let mut disk = self.lower;
        for (sector, data) in self.written {
            disk.write_at(sector * SECTOR as u64, &data).unwrap();
        }
        disk
    }

    pub fn written_bytes(&self) -> u64 {
        self.written.len() as u64 * SECTOR as u64
    }

    fn sectors(offset: u64, length: u64) -> std::ops::Range<u64> {
        let size = SECTOR as u64;
        offset / size..(offset + length).div_ceil(size)
    }
}

impl BlockDevice for Layer {
    fn size(&self) -> u64 {
        self.lower.size()
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let sectors = Self::sectors(offset, buf.len() as u64);
        if self.written.range(sectors).next().is_some() {
            return Err(io::Error::other(format!(
                "{offset} was written by this layer"
            )));
        }
        self.lower.read_at(offset, buf)
    }
}

impl BlockDeviceMut for Layer {
    fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        check_write(self.size(), offset, data.len() as u64)?;
        self.writes.push((offset, data.len() as u64));
        for (sector, data) in (offset / SECTOR as u64..).zip(data.as_chunks().0) {
            self.written.insert(sector, *data);
        }
        Ok(())
    }
    fn zero_at(&mut self, offset: u64, len: u64) -> io::Result<()> {
        check_write(self.size(), offset, len)?;
        // Only what is below needs to be hidden; nearly always nothing is.
        self.discard_at(offset, len)?;
        let mut page = [0; 4096];
        let pages: Vec<u64> = if len <= 1 << 20 {
            (offset / 4096..(offset + len).div_ceil(4096))
                .map(|page| page * 4096)
                .collect()
        } else {
            self.lower.pages().map(|(at, _)| at).collect()
        };
        for start in pages {
            let (from, to) = (start.max(offset), (start + 4096).min(offset + len));
            let Some(part) = to.checked_sub(from).filter(|part| *part > 0) else {
                continue;
            };
            let part = &mut page[..part as usize];
            self.lower.read_at(from, part)?;
            if part.iter().any(|byte| *byte != 0) {
                for sector in Self::sectors(from, to - from) {
                    self.written.insert(sector, [0; SECTOR]);
                }
            }
        }
        Ok(())
    }
    fn discard_at(&mut self, offset: u64, len: u64) -> io::Result<()> {
        check_write(self.size(), offset, len)?;
        self.discarded += len;
        let sectors = Self::sectors(offset, len);
        let gone: Vec<u64> = self.written.range(sectors).map(|(at, _)| *at).collect();
        for sector in gone {
            self.written.remove(&sector);
        }
        Ok(())
    }
}

/// A directory for one test's files, and the disks in it.
pub struct Lab(tempfile::TempDir);

impl Lab {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The disk as a sparse file.
    pub fn raw(&self, disk: &MemDevice) -> PathBuf {
        let path = self.path("raw");
        let file = File::create(&path).unwrap();
        file.set_len(disk.size()).unwrap();
        for (at, data) in disk.pages() {
            file.write_all_at(data, at).unwrap();
        }
        path
    }

    /// What e2fsck says, and its exit code.
    pub fn e2fsck(&self, disk: &MemDevice) -> (i32, String) {
        let output = Command::new("e2fsck")
            .arg("-fn")
            .arg(self.raw(disk))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code().unwrap(), said)
    }

    #[track_caller]
    pub fn assert_clean(&self, disk: &MemDevice) {
        let (code, said) = self.e2fsck(disk);
        assert_eq!(code, 0, "e2fsck: {said}");
    }

    /// What mke2fs makes of a disk.
    pub fn mke2fs(&self, size: u64, options: &[&str]) -> MemDevice {
        let path = self.path("made");
        File::create(&path).unwrap().set_len(size).unwrap();
        let output = Command::new("mke2fs")
            .args(["-q", "-F", "-U", "0e9ae9ec-0000-4000-8000-d3bb2a0c9f01"])
            .args(options)
            .arg(&path)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "mke2fs {options:?}: {said}");
        load(&path)
    }

    /// Runs debugfs commands on a disk, which may change it.
    pub fn debugfs(&self, disk: &MemDevice, commands: &str) -> (MemDevice, String) {
        let path = self.raw(disk);
        std::fs::write(self.path("commands"), commands).unwrap();
        let output = Command::new("debugfs")
            .arg("-wf")
            .arg(self.path("commands"))
            .arg(&path)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        (load(&path), said)
    }
}

/// A raw file as a disk in memory.
pub fn load(path: &Path) -> MemDevice {
    let file = File::open(path).unwrap();
    let size = file.metadata().unwrap().len();
    let mut disk = MemDevice::new(size);
    let zeros = vec![0; 1 << 20];
    let mut piece = zeros.clone();
    for start in (0..size).step_by(zeros.len()) {
        let part = &mut piece[..(size - start).min(1 << 20) as usize];
        file.read_exact_at(part, start).unwrap();
        if part == &zeros[..part.len()] {
            continue;
        }
        for (at, page) in (start..).step_by(4096).zip(part.chunks(4096)) {
            if page != &zeros[..page.len()] {
                disk.write_at(at, page).unwrap();
            }
        }
    }
    disk
}

/// The digest of all of a disk.
pub fn digest(disk: &MemDevice) -> Digest {
    let mut all = Vec::new();
    for (at, data) in disk.pages() {
        if data.iter().any(|byte| *byte != 0) {
            all.extend_from_slice(&at.to_le_bytes());
            all.extend_from_slice(data);
        }
    }
    Digest::of(&all)
}

/// Numbers that look random and are the same each time (`SplitMix64`).
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    /// A number below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
    pub fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n.div_ceil(8))
            .flat_map(|_| self.next().to_le_bytes())
            .take(n)
            .collect()
    }
}

pub fn plain() -> Attributes {
    Attributes {
        mode: 0o644,
        uid: 7,
        gid: 8,
        mtime: Timestamp {
            secs: 1_000_000_009,
            nanos: 5,
        },
        xattrs: Vec::new(),
    }
}

/// A filesystem on an empty disk in memory.
pub fn format(size: u64) -> Filesystem<MemDevice> {
    Filesystem::format(MemDevice::new(size), &FormatOptions::default()).unwrap()
}

/// Makes a file with this content.
pub fn write<D: BlockDeviceMut>(fs: &mut Filesystem<D>, dir: Ino, name: &[u8], data: &[u8]) -> Ino {
    let ino = fs.create(dir, name, &NodeKind::File, &plain()).unwrap();
    fill(
        fs,
        ino,
        data,
        &[0..data.len() as u64][usize::from(data.is_empty())..],
    );
    ino
}

/// Gives a file this content, of which only `ranges` are stored.
pub fn fill<D: BlockDeviceMut>(
    fs: &mut Filesystem<D>,
    ino: Ino,
    data: &[u8],
    ranges: &[std::ops::Range<u64>],
) {
    let block = u64::from(fs.block_size());
    for extent in fs.allocate(ino, data.len() as u64, ranges).unwrap() {
        let start = (u64::from(extent.logical_block) * block) as usize;
        let length = (u64::from(extent.blocks) * block) as usize;
        let mut piece = data[start..data.len().min(start + length)].to_vec();
        piece.resize(length, 0);
        fs.device_mut()
            .write_at(extent.physical_block * block, &piece)
            .unwrap();
    }
}

/// A node as anyone sees it.
pub struct View {
    pub file_type: FileType,
    pub attributes: Attributes,
    pub links: u32,
    pub content: Vec<u8>,
    pub target: Vec<u8>,
    pub rdev: (u32, u32),
}

/// Something with a tree of names.
pub trait Tree {
    fn view(&mut self, ino: Ino) -> View;
    fn children(&mut self, dir: Ino) -> BTreeMap<Vec<u8>, Ino>;

    /// One line a name, as `verifier::walk` writes them.
    fn lines(&mut self) -> BTreeMap<String, String> {
        let (mut lines, mut groups) = (BTreeMap::new(), BTreeMap::new());
        visit(self, 2, &mut Vec::new(), &mut lines, &mut groups);
        lines
    }
}

fn visit<T: Tree + ?Sized>(
    tree: &mut T,
    ino: Ino,
    path: &mut Vec<u8>,
    lines: &mut BTreeMap<String, String>,
    groups: &mut BTreeMap<Ino, String>,
) {
    let name = format!("/{}", String::from_utf8_lossy(path));
    let view = tree.view(ino);
    let a = &view.attributes;
    let (kind, has) = match view.file_type {
        FileType::File => (0o100_000, 'f'),
        FileType::Directory => (0o040_000, ' '),
        FileType::Symlink => (0o120_000, 'l'),
        FileType::CharDevice => (0o020_000, 'd'),
        FileType::BlockDevice => (0o060_000, 'd'),
        FileType::Fifo => (0o010_000, ' '),
        FileType::Socket => (0o140_000, ' '),
    };
    let mut line = format!(
        "{:06o} {}:{} {}.{:09}",
        kind | a.mode,
        a.uid,
        a.gid,
        a.mtime.secs,
        a.mtime.nanos
    );
    match has {
        'f' if view.content.len() <= 16 => {
            write!(line, " {:?}", String::from_utf8_lossy(&view.content)).unwrap();
        }
        'f' => write!(
            line,
            " {} {}",
            view.content.len(),
            Digest::of(&view.content)
        )
        .unwrap(),
        'l' => write!(line, " -> {}", String::from_utf8_lossy(&view.target)).unwrap(),
        'd' => write!(line, " {},{}", view.rdev.0, view.rdev.1).unwrap(),
        _ => {}
    }
    if view.file_type != FileType::Directory && view.links > 1 {
        let first = groups.entry(ino).or_insert_with(|| name.clone());
        write!(line, " ={first}x{}", view.links).unwrap();
    }
    let mut xattrs = a.xattrs.clone();
    xattrs.sort();
    for (name, value) in xattrs {
        write!(
            line,
            " {}={}",
            String::from_utf8_lossy(&name),
            value.escape_ascii()
        )
        .unwrap();
    }
    assert!(lines.insert(name, line).is_none());
    if view.file_type == FileType::Directory {
        for (name, child) in tree.children(ino) {
            let length = path.len();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(&name);
            visit(tree, child, path, lines, groups);
            path.truncate(length);
        }
    }
}

impl<D: BlockDeviceMut> Tree for Filesystem<D> {
    fn view(&mut self, ino: Ino) -> View {
        let metadata = self.metadata(ino).unwrap();
        let mut content = Vec::new();
        let mut target = Vec::new();
        match metadata.file_type {
            FileType::File => {
                content.resize(metadata.size as usize, 0xaa);
                self.read_file(ino, 0, &mut content).unwrap();
            }
            FileType::Symlink => target = self.read_link(ino).unwrap(),
            _ => {}
        }
        View {
            file_type: metadata.file_type,
            attributes: Attributes {
                mode: metadata.mode,
                uid: metadata.uid,
                gid: metadata.gid,
                mtime: metadata.mtime,
                xattrs: self.xattrs(ino).unwrap(),
            },
            links: metadata.links,
            content,
            target,
            rdev: metadata.rdev,
        }
    }

    fn children(&mut self, dir: Ino) -> BTreeMap<Vec<u8>, Ino> {
        let entries = self.entries(dir).unwrap();
        let count = entries.len();
        let children: BTreeMap<_, _> = entries
            .into_iter()
            .map(|entry| (entry.name, entry.ino))
            .collect();
        assert_eq!(children.len(), count, "a name is there twice");
        children
    }
}
