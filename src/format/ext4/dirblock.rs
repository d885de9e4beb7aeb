//! One block of a directory: entries that fill it from end to end.

use super::error::{Result, corrupt, narrow};
use super::layout::{self, DirectoryTail, EntryHeader};
use super::types::FileType;

/// Bytes of an entry before its name.
const HEADER: usize = size_of::<EntryHeader>();
/// Bytes of the unused entry that holds a block's checksum.
const TAIL: usize = size_of::<DirectoryTail>();

/// What an entry says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry<'a> {
    /// 0 where the entry is unused.
    pub(super) ino: u32,
    pub(super) name: &'a [u8],
    /// The file type's code; 0 where the filesystem keeps none.
    pub(super) kind: u8,
}

/// An entry in its block.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slot<'a> {
    /// Where it is in the block.
    pub(super) at: usize,
    /// Bytes up to the next one.
    pub(super) length: usize,
    pub(super) entry: Entry<'a>,
}

/// Bytes that an entry with a name this long needs.
pub(super) fn needed(name: usize) -> usize {
    (HEADER + name).next_multiple_of(4)
}

/// A file type's code in an entry.
pub(super) fn code(file_type: FileType) -> u8 {
    match file_type {
        FileType::File => 1,
        FileType::Directory => 2,
        FileType::CharDevice => 3,
        FileType::BlockDevice => 4,
        FileType::Fifo => 5,
        FileType::Socket => 6,
        FileType::Symlink => 7,
    }
}

/// The file type of a code in an entry.
pub(super) fn file_type(code: u8) -> Option<FileType> {
    Some(match code {
        1 => FileType::File,
        2 => FileType::Directory,
        3 => FileType::CharDevice,
        4 => FileType::BlockDevice,
        5 => FileType::Fifo,
        6 => FileType::Socket,
        7 => FileType::Symlink,
        _ => return None,
    })
}

fn has_tail(block: &[u8]) -> bool {
    let at = block.len().saturating_sub(TAIL);
    layout::get::<DirectoryTail>(block, at).is_ok_and(|tail| {
        tail.header.inode == 0
            && usize::from(tail.header.record_len.get()) == TAIL
            && tail.header.name_len == 0
            && tail.header.file_type == DirectoryTail::FILE_TYPE
    })
}

fn write_tail(block: &mut [u8]) -> Result<()> {
    let at = block.len().saturating_sub(TAIL);
    let tail = layout::get_mut::<DirectoryTail>(block, at)?;
    tail.header.inode.set(0);
    tail.header.record_len.set(narrow(TAIL)?);
    tail.header.name_len = 0;
    tail.header.file_type = DirectoryTail::FILE_TYPE;
    tail.checksum.set(0);
    Ok(())
}

/// Bytes of a block that entries can fill.
fn usable(block: &[u8]) -> usize {
    if has_tail(block) {
        block.len() - TAIL
    } else {
        block.len()
    }
}

/// Whether one unused entry fills the whole block, over a tail's place too: so blocks of an
/// index begin.
pub(super) fn is_unused(block: &[u8]) -> bool {
    layout::get::<EntryHeader>(block, 0).is_ok_and(|header| {
        header.inode == 0 && usize::from(header.record_len.get()) == block.len()
    })
}

/// The entry at `at`.
fn slot(block: &[u8], at: usize) -> Result<Slot<'_>> {
    let Ok(header) = layout::get::<EntryHeader>(block, at) else {
        return corrupt("a directory entry reaches beyond the end of its block");
    };
    let length = usize::from(header.record_len.get());
    let name_length = usize::from(header.name_len);
    let ino = header.inode.get();
    if length < HEADER
        || !length.is_multiple_of(4)
        || at + length > block.len()
        || ino != 0 && length < HEADER + name_length
    {
        return corrupt("the length of a directory entry is out of range");
    }
    let name = block.get(at + HEADER..at + HEADER + name_length);
    Ok(Slot {
        at,
        length,
        entry: Entry {
            ino,
            name: name.unwrap_or_default(),
            kind: header.file_type,
        },
    })
}

/// All entries, unused ones included.
pub(super) fn slots(block: &[u8]) -> impl Iterator<Item = Result<Slot<'_>>> {
    let mut at = 0;
    let end = usable(block);
    std::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let next = slot(block, at);
        at = next.as_ref().map_or(end, |slot| slot.at + slot.length);
        Some(next)
    })
}

/// All entries that are in use.
pub(super) fn used(block: &[u8]) -> impl Iterator<Item = Result<Slot<'_>>> {
    slots(block).filter(|slot| slot.as_ref().map_or(true, |slot| slot.entry.ino != 0))
}

/// The entry with this name.
pub(super) fn find<'a>(block: &'a [u8], name: &[u8]) -> Result<Option<Slot<'a>>> {
    for slot in slots(block) {
        let slot = slot?;
        if slot.entry.ino != 0 && slot.entry.name == name {
            return Ok(Some(slot));
        }
    }
    Ok(None)
}

fn set_length(block: &mut [u8], at: usize, length: usize) -> Result<()> {
    let header = layout::get_mut::<EntryHeader>(block, at)?;
    header.record_len.set(narrow(length)?);
    Ok(())
}

fn put(block: &mut [u8], at: usize, length: usize, entry: &Entry<'_>) -> Result<()> {
    let header = layout::get_mut::<EntryHeader>(block, at)?;
    header.inode.set(entry.ino);
    header.record_len.set(narrow(length)?);
    header.name_len = narrow(entry.name.len())?;
    header.file_type = entry.kind;
    let start = at + HEADER;
    let end = start + entry.name.len();
    block[start..end].copy_from_slice(entry.name);
    // The padding must not keep an older entry's bytes: what is stored depends on the entries
    // alone.
    block[end..at + length.min(needed(entry.name.len()))].fill(0);
    Ok(())
}

/// Adds an entry where there is room first; returns whether there was any.
pub(super) fn insert(block: &mut [u8], entry: &Entry<'_>) -> Result<bool> {
    let wanted = needed(entry.name.len());
    let mut room = None;
    for slot in slots(block) {
        let slot = slot?;
        let taken = if slot.entry.ino == 0 {
            0
        } else {
            needed(slot.entry.name.len())
        };
        if slot.length >= taken + wanted {
            room = Some((slot.at, slot.length, taken));
            break;
        }
    }
    let Some((at, length, taken)) = room else {
        return Ok(false);
    };
    if taken > 0 {
        set_length(block, at, taken)?;
    }
    put(block, at + taken, length - taken, entry)?;
    Ok(true)
}

/// Removes the entry at `at`: its bytes go to the one before it.
pub(super) fn remove(block: &mut [u8], at: usize) -> Result<()> {
    let mut before: Option<(usize, usize)> = None;
    let mut here = None;
    for slot in slots(block) {
        let slot = slot?;
        if slot.at == at {
            here = Some(slot.length);
            break;
        }
        before = Some((slot.at, slot.length));
    }
    let Some(length) = here else {
        return corrupt("a directory entry is not where it was found");
    };
    block[at..at + length].fill(0);
    match before {
        Some((start, room)) => set_length(block, start, room + length),
        None => set_length(block, at, length),
    }
}

/// Fills a block with these entries and nothing else. They must fit.
pub(super) fn fill<'a>(
    block: &mut [u8],
    has_tail: bool,
    entries: impl Iterator<Item = Entry<'a>>,
) -> Result<()> {
    block.fill(0);
    if has_tail {
        write_tail(block)?;
    }
    let end = usable(block);
    let mut last = 0;
    let mut at = 0;
    for entry in entries {
        let length = needed(entry.name.len());
        put(block, at, length, &entry)?;
        last = at;
        at += length;
    }
    set_length(block, last, end - last)
}
