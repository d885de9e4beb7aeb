//! One block of a directory: entries that fill it from end to end.

use super::checksum::{self, DIR_TAIL};
use super::error::{Result, corrupt};
use super::layout::{get16, get32, put16, put32};
use super::types::FileType;

/// Bytes of an entry before its name.
const HEAD: usize = 8;

/// An entry; of inode 0 when it is only room.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slot<'a> {
    /// Where it is in the block, and how many bytes it takes there.
    pub(super) at: usize,
    pub(super) length: usize,
    pub(super) ino: u32,
    pub(super) name: &'a [u8],
    /// The file type's code; 0 where the filesystem keeps none.
    pub(super) kind: u8,
}

/// Bytes that an entry with a name this long takes at least.
pub(super) fn needed(name: usize) -> usize {
    (HEAD + name).next_multiple_of(4)
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

/// Bytes of a block that entries can fill.
pub(super) fn usable(block: &[u8]) -> usize {
    if checksum::has_tail(block) {
        block.len() - DIR_TAIL
    } else {
        block.len()
    }
}

/// The entry at `at`.
fn slot(block: &[u8], at: usize) -> Result<Slot<'_>> {
    let Some(head) = block.get(at..at + HEAD) else {
        return corrupt("a directory's entry leaves its block");
    };
    let length = usize::from(get16(head, 4));
    let name_length = usize::from(head[6]);
    let ino = get32(head, 0);
    if length < HEAD
        || !length.is_multiple_of(4)
        || at + length > block.len()
        || ino != 0 && length < HEAD + name_length
    {
        return corrupt("a directory's entry has a length that cannot be right");
    }
    let name = block.get(at + HEAD..at + HEAD + name_length);
    Ok(Slot {
        at,
        length,
        ino,
        name: name.unwrap_or_default(),
        kind: head[7],
    })
}

/// All entries, room included.
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

/// The entry with this name.
pub(super) fn find<'a>(block: &'a [u8], name: &[u8]) -> Result<Option<Slot<'a>>> {
    for slot in slots(block) {
        let slot = slot?;
        if slot.ino != 0 && slot.name == name {
            return Ok(Some(slot));
        }
    }
    Ok(None)
}

fn put(block: &mut [u8], at: usize, length: usize, ino: u32, name: &[u8], kind: u8) {
    put32(block, at, ino);
    put16(block, at + 4, length as u16);
    block[at + 6] = name.len() as u8;
    block[at + 7] = kind;
    block[at + HEAD..at + HEAD + name.len()].copy_from_slice(name);
    // What an older entry left in the padding would depend on history.
    let end = at + length.min(needed(name.len()));
    block[at + HEAD + name.len()..end].fill(0);
}

/// Adds an entry in the first room that will do; whether there was any.
pub(super) fn insert(block: &mut [u8], ino: u32, name: &[u8], kind: u8) -> Result<bool> {
    let wanted = needed(name.len());
    let mut room = None;
    for slot in slots(block) {
        let slot = slot?;
        let taken = if slot.ino == 0 {
            0
        } else {
            needed(slot.name.len())
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
        put16(block, at + 4, taken as u16);
    }
    put(block, at + taken, length - taken, ino, name, kind);
    Ok(true)
}

/// Removes the entry at `at`: the one before it takes its room.
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
        return corrupt("a directory's entry is gone");
    };
    block[at..at + length].fill(0);
    match before {
        Some((start, room)) => put16(block, start + 4, (room + length) as u16),
        None => put16(block, at + 4, length as u16),
    }
    Ok(())
}

/// Fills a block with these entries and nothing else. They must fit.
pub(super) fn fill<'a>(
    block: &mut [u8],
    has_tail: bool,
    entries: impl Iterator<Item = (u32, &'a [u8], u8)>,
) {
    block.fill(0);
    if has_tail {
        checksum::make_tail(block);
    }
    let end = usable(block);
    let mut last = None;
    let mut at = 0;
    for (ino, name, kind) in entries {
        let length = needed(name.len());
        put(block, at, length, ino, name, kind);
        last = Some(at);
        at += length;
    }
    let start = last.unwrap_or(0);
    put16(block, start + 4, (end - start) as u16);
}
