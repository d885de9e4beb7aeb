//! From the bytes of an image's disk to its files.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use super::filesystem::ImageFilesystem;
use crate::format::block::joined;
use crate::format::ext4::{Area, Error, FileExtent, FileType, Ino};

/// Most names of an image that are looked at.
const MAX_NAMES: u64 = 1 << 25;
/// Longest path, in bytes: no program can name what is deeper.
const MAX_PATH: usize = 4096;

/// A regular file and where it is on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilePlace {
    /// Its absolute path; of several names the first by bytes.
    pub path: Vec<u8>,
    /// Its length in bytes.
    pub size: u64,
    /// Where its data is on the disk, in bytes, in the file's order.
    pub disk: Vec<Range<u64>>,
}

/// What a part of a disk belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner<'a> {
    /// A table of the filesystem.
    Table(Area),
    /// A file.
    File(&'a FilePlace),
    /// A directory, or what of an inode does not fit into it: extents, attributes, a long link.
    Directory,
}

/// What is in some ranges of an image's disk.
#[derive(Debug, Default)]
pub struct Contents {
    files: Vec<FilePlace>,
    tables: Vec<(Area, Range<u64>)>,
    /// Of all files, ascending, with the file's place in `files`.
    extents: Vec<(Range<u64>, usize)>,
}

impl Contents {
    /// Finds the files of which any byte is in `wanted`: ranges of the disk in bytes. All
    /// directories and inodes of the image are read.
    ///
    /// # Errors
    /// When the filesystem is damaged or cannot be read, or has too many names.
    pub fn find(filesystem: &ImageFilesystem, wanted: &[Range<u64>]) -> Result<Self, Error> {
        let wanted = joined(wanted.to_vec());
        let mut contents = Self {
            tables: filesystem.areas()?,
            ..Self::default()
        };
        let mut walk = Walk {
            filesystem,
            wanted: &wanted,
            found: HashMap::new(),
            others: HashSet::new(),
        };
        walk.run(&mut contents.files)?;
        for (number, file) in contents.files.iter().enumerate() {
            let ranges = file.disk.iter().map(|range| (range.clone(), number));
            contents.extents.extend(ranges);
        }
        contents.extents.sort_by_key(|(range, _)| range.start);
        Ok(contents)
    }

    /// What a range of the disk belongs to, in the disk's order. Where it is not in the ranges
    /// that were looked for, files count as directories.
    #[must_use]
    pub fn owners(&self, disk: Range<u64>) -> Vec<(Range<u64>, Owner<'_>)> {
        let mut known: Vec<(Range<u64>, Owner<'_>)> = Vec::new();
        let first = self
            .extents
            .partition_point(|(range, _)| range.end <= disk.start);
        let rest = self.extents.get(first..).unwrap_or_default();
        for (range, number) in rest {
            if range.start >= disk.end {
                break;
            }
            if let Some(file) = self.files.get(*number) {
                known.push((clipped(range, &disk), Owner::File(file)));
            }
        }
        let first = self
            .tables
            .partition_point(|(_, range)| range.end <= disk.start);
        for (area, range) in self.tables.get(first..).unwrap_or_default() {
            if range.start >= disk.end {
                break;
            }
            known.push((clipped(range, &disk), Owner::Table(*area)));
        }
        known.sort_by_key(|(range, _)| range.start);
        let (mut parts, mut at) = (Vec::new(), disk.start);
        for (range, owner) in known {
            if at < range.start {
                parts.push((at..range.start, Owner::Directory));
            }
            at = at.max(range.end);
            parts.push((range, owner));
        }
        if at < disk.end {
            parts.push((at..disk.end, Owner::Directory));
        }
        parts
    }

    /// The files, in no order.
    #[must_use]
    pub fn files(&self) -> &[FilePlace] {
        &self.files
    }
}

struct Walk<'a> {
    filesystem: &'a ImageFilesystem,
    wanted: &'a [Range<u64>],
    /// Files of which a byte is wanted, by their place in the list.
    found: HashMap<Ino, usize>,
    /// Files with more names of which none is, and all directories.
    others: HashSet<Ino>,
}

impl Walk<'_> {
    fn run(&mut self, files: &mut Vec<FilePlace>) -> Result<(), Error> {
        let mut todo = vec![(self.filesystem.root(), Vec::new())];
        let mut names = 0;
        while let Some((directory, path)) = todo.pop() {
            // A damaged image may have a directory within itself.
            if !self.others.insert(directory) {
                continue;
            }
            for entry in self.filesystem.entries(directory)? {
                names += 1;
                if names > MAX_NAMES {
                    return Err(Error::Unsupported(format!("more than {MAX_NAMES} names")));
                }
                let mut path = path.clone();
                path.push(b'/');
                path.extend(&entry.name);
                if path.len() >= MAX_PATH {
                    continue;
                }
                match entry.file_type {
                    FileType::Directory => todo.push((entry.ino, path)),
                    FileType::File => self.file(entry.ino, path, files)?,
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn file(&mut self, ino: Ino, path: Vec<u8>, files: &mut Vec<FilePlace>) -> Result<(), Error> {
        if let Some(file) = self.found.get(&ino).and_then(|n| files.get_mut(*n)) {
            if path < file.path {
                file.path = path;
            }
            return Ok(());
        }
        if self.others.contains(&ino) {
            return Ok(());
        }
        let block = self.filesystem.block_size();
        let file = self.filesystem.open_file(ino)?;
        let bytes = |extent: &FileExtent| {
            let start = extent.physical_block.saturating_mul(block);
            start..start.saturating_add(u64::from(extent.blocks).saturating_mul(block))
        };
        let disk: Vec<_> = file.extents.iter().map(bytes).collect();
        if !disk.iter().any(|range| touches(self.wanted, range)) {
            self.others.insert(ino);
            return Ok(());
        }
        self.found.insert(ino, files.len());
        files.push(FilePlace {
            path,
            size: file.size,
            disk,
        });
        Ok(())
    }
}

fn clipped(range: &Range<u64>, to: &Range<u64>) -> Range<u64> {
    range.start.max(to.start)..range.end.min(to.end)
}

/// Whether any of ascending ranges that do not touch each other has a byte of `range`.
fn touches(ranges: &[Range<u64>], range: &Range<u64>) -> bool {
    let next = ranges.partition_point(|other| other.end <= range.start);
    ranges
        .get(next)
        .is_some_and(|other| other.start < range.end)
}
