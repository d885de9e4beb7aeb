//! Directories: names to inodes.

use super::dirblock::{self, Entry};
use super::directory_blocks::{self, Found};
use super::error::{Error, Result, corrupt};
use super::extents;
use super::htree;
use super::inode::Inode;
use super::inode_table;
use super::layout::{MAX_NAME, compat, incompat};
use super::linear;
use super::mapping;
use super::types::{FileType, Ino, NamedEntry};
use super::volume::Volume;
use crate::format::block::{BlockDevice, BlockDeviceMut};

/// Most names of a directory, and no more than a block's beyond it, that are in memory at once.
const MAX_NAMES: usize = 16 << 20;

/// Checks that a directory can hold a name.
pub(super) fn check_name(name: &[u8]) -> Result<()> {
    let problem = match name {
        b"" => "it is empty",
        b"." | b".." => "it is reserved",
        _ if name.len() > MAX_NAME => "it is longer than 255 bytes",
        _ if name.contains(&b'/') || name.contains(&0) => "it has a slash or a NUL in it",
        _ => return Ok(()),
    };
    Err(Error::Name {
        name: name.to_vec(),
        problem,
    })
}

/// Reads a directory's inode.
pub(super) fn read<D: BlockDevice>(volume: &mut Volume<D>, ino: Ino) -> Result<Inode> {
    let inode = inode_table::read(volume, ino)?;
    if inode.is_directory() {
        Ok(inode)
    } else {
        Err(Error::NotADirectory(ino))
    }
}

/// Finds a name.
pub(super) fn find<D: BlockDevice>(
    volume: &mut Volume<D>,
    dir: &Inode,
    name: &[u8],
) -> Result<Option<Found>> {
    if check_name(name).is_err() {
        return Ok(None);
    }
    let found = if directory_blocks::is_indexed(volume, dir) {
        htree::find(volume, dir, name)?
    } else {
        linear::find(volume, dir, name)?
    };
    if let Some(found) = &found {
        check_target(volume, dir, found.ino)?;
    }
    Ok(found)
}

/// Checks that an entry's inode exists, and is neither reserved nor the root's.
fn check_target<D: BlockDevice>(volume: &Volume<D>, dir: &Inode, ino: Ino) -> Result<()> {
    let geometry = volume.geometry();
    if (geometry.first_inode..=geometry.inodes).contains(&ino) {
        Ok(())
    } else {
        corrupt(format!(
            "directory {} has a name for inode {ino}",
            dir.ino()
        ))
    }
}

/// The type of an entry's inode, of which the entry may have the code.
pub(super) fn entry_type<D: BlockDevice>(
    volume: &mut Volume<D>,
    ino: Ino,
    kind: u8,
) -> Result<FileType> {
    if let Some(file_type) = dirblock::file_type(kind) {
        return Ok(file_type);
    }
    match inode_table::read(volume, ino)?.file_type() {
        Some(file_type) => Ok(file_type),
        None => corrupt(format!("inode {ino} has no type")),
    }
}

/// Checks how many names of a directory there are in memory.
fn check_count(dir: &Inode, names: usize, most: usize) -> Result<()> {
    if names <= most {
        return Ok(());
    }
    Err(Error::Unsupported(format!(
        "a directory of more than {most} names, inode {}",
        dir.ino()
    )))
}

/// All names but `.` and `..`, in the disk's order.
///
/// # Errors
/// When they are more than [`MAX_NAMES`], or cannot be read.
pub(super) fn entries<D: BlockDevice>(
    volume: &mut Volume<D>,
    dir: &Inode,
) -> Result<Vec<NamedEntry>> {
    let mut raw = Vec::new();
    let blocks = directory_blocks::all(volume, dir)?;
    for (place, number) in blocks.enumerate() {
        check_count(dir, raw.len(), MAX_NAMES)?;
        let block = directory_blocks::read(volume, dir, number, place == 0)?;
        for slot in dirblock::used(block) {
            let Entry { ino, name, kind } = slot?.entry;
            if name != b"." && name != b".." {
                raw.push((ino, kind, name.to_vec()));
            }
        }
    }
    named(volume, dir, raw)
}

/// The names but `.` and `..` that are in one block of a directory; `None` past its end.
pub(super) fn entries_in<D: BlockDevice>(
    volume: &mut Volume<D>,
    dir: &Inode,
    logical: u32,
) -> Result<Option<Vec<NamedEntry>>> {
    if u64::from(logical) >= directory_blocks::count(volume, dir)? {
        return Ok(None);
    }
    let number = directory_blocks::find(volume, dir, logical)?;
    let block = directory_blocks::read(volume, dir, number, logical == 0)?;
    let mut raw = Vec::new();
    for slot in dirblock::used(block) {
        let Entry { ino, name, kind } = slot?.entry;
        if name != b"." && name != b".." {
            raw.push((ino, kind, name.to_vec()));
        }
    }
    named(volume, dir, raw).map(Some)
}

/// Entries whose inodes and names are such as may be.
fn named<D: BlockDevice>(
    volume: &mut Volume<D>,
    dir: &Inode,
    raw: Vec<(Ino, u8, Vec<u8>)>,
) -> Result<Vec<NamedEntry>> {
    let mut entries = Vec::with_capacity(raw.len());
    for (ino, kind, name) in raw {
        check_target(volume, dir, ino)?;
        check_name(&name).or_else(|error| corrupt(format!("directory {}: {error}", dir.ino())))?;
        let file_type = entry_type(volume, ino, kind)?;
        entries.push(NamedEntry {
            name,
            ino,
            file_type,
        });
    }
    Ok(entries)
}

/// The inode of a directory's `..`.
pub(super) fn parent<D: BlockDevice>(volume: &mut Volume<D>, dir: &Inode) -> Result<Ino> {
    let first = directory_blocks::find(volume, dir, 0)?;
    let second = dirblock::slots(volume.read(first)?).nth(1).transpose()?;
    match second.map(|slot| slot.entry) {
        Some(entry) if entry.name == b".." && entry.ino != 0 => Ok(entry.ino),
        _ => corrupt(format!("directory {} has no \"..\"", dir.ino())),
    }
}

/// Gives a directory without blocks its first one, with `.` and `..`. The caller writes the
/// inode.
pub(super) fn start<D: BlockDevice>(
    volume: &mut Volume<D>,
    dir: &mut Inode,
    parent: Ino,
) -> Result<()> {
    let checksum = directory_blocks::entries_checksum(volume, dir);
    extents::build(volume, dir, &[])?;
    dir.set_size(0);
    let (_, block) = directory_blocks::append(volume, dir, checksum)?;
    let kind = kind_code(volume, FileType::Directory);
    let dot = Entry {
        ino: dir.ino(),
        name: b".",
        kind,
    };
    let dot_dot = Entry {
        ino: parent,
        name: b"..",
        kind,
    };
    directory_blocks::write_entries(volume, block, checksum, [dot, dot_dot].into_iter())
}

fn kind_code<D: BlockDevice>(volume: &Volume<D>, file_type: FileType) -> u8 {
    if volume.superblock().has_incompat(incompat::FILETYPE) {
        dirblock::code(file_type)
    } else {
        0
    }
}

/// Removes an entry that was found, if nothing changed in between.
pub(super) fn remove<D: BlockDevice>(
    volume: &mut Volume<D>,
    dir: &Inode,
    found: &Found,
) -> Result<()> {
    let checksum = directory_blocks::entries_checksum(volume, dir);
    dirblock::remove(volume.write(found.block, checksum)?, found.at)
}

/// Adds a name that does not exist. The caller writes the directory's inode.
pub(super) fn insert<D: BlockDeviceMut>(
    volume: &mut Volume<D>,
    dir: &mut Inode,
    name: &[u8],
    ino: Ino,
    file_type: FileType,
) -> Result<()> {
    let kind = kind_code(volume, file_type);
    let entry = Entry { ino, name, kind };
    if directory_blocks::is_indexed(volume, dir) {
        mapping::use_extents(volume, dir)?;
        return htree::insert(volume, dir, &entry);
    }
    let blocks: Vec<u64> = directory_blocks::all(volume, dir)?.collect();
    if linear::insert(volume, dir, &blocks, &entry)? {
        return Ok(());
    }
    mapping::use_extents(volume, dir)?;
    if blocks.len() == 1 && volume.superblock().has_compat(compat::DIR_INDEX) {
        htree::create(volume, dir)?;
        return htree::insert(volume, dir, &entry);
    }
    let checksum = directory_blocks::entries_checksum(volume, dir);
    let (_, block) = directory_blocks::append(volume, dir, checksum)?;
    directory_blocks::write_entries(volume, block, checksum, std::iter::once(entry))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::block::MemDevice;
    use crate::format::ext4::layout::ROOT;
    use crate::format::ext4::{Filesystem, FormatOptions};

    #[test]
    fn a_directory_with_more_blocks_than_the_filesystem_is_refused() {
        let options = FormatOptions::default();
        let mut filesystem = Filesystem::format(MemDevice::new(64 << 20), &options).unwrap();
        filesystem.flush().unwrap();
        let device = filesystem.replace_device(MemDevice::new(0));
        let mut volume = Volume::open(device).unwrap();
        let blocks = volume.geometry().blocks;
        let block_size = u64::from(volume.geometry().block_size);
        let mut dir = read(&mut volume, ROOT).unwrap();
        assert!(find(&mut volume, &dir, b"none").unwrap().is_none());
        // As many as there are is a matter of the extents.
        dir.set_size(blocks * block_size);
        assert!(find(&mut volume, &dir, b"none").unwrap().is_none());
        dir.set_size((blocks + 1) * block_size);
        for error in [
            find(&mut volume, &dir, b"none").unwrap_err(),
            entries(&mut volume, &dir).unwrap_err(),
            entries_in(&mut volume, &dir, 0).unwrap_err(),
        ] {
            let text = error.to_string();
            assert!(text.contains("directory 2 has "), "{text}");
        }
        assert!(check_count(&dir, 9, 9).is_ok());
        let text = check_count(&dir, 10, 9).unwrap_err().to_string();
        assert!(text.contains("more than 9 names"), "{text}");
    }
}
