//! Inodes as FUSE describes them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileType, INodeNo};

use crate::format::ext4::{self, Ino, Metadata, Timestamp};

/// For how long the kernel may believe what it was told: for good, as nothing changes. What is
/// more than its clock can count becomes a number near that.
pub(super) const FOREVER: Duration = Duration::from_secs(1 << 40);

/// FUSE's root is inode 1, and ext4's is 2: each takes the place of the other. No name leads to
/// ext4's inode 1.
const fn exchanged(ino: u64) -> u64 {
    match ino {
        1 => 2,
        2 => 1,
        other => other,
    }
}

/// The number that FUSE, and so `stat`, knows an inode by.
pub(super) fn number(ino: Ino) -> INodeNo {
    INodeNo(exchanged(ino.into()))
}

/// The inode that FUSE means; `None` for what cannot be one.
pub(super) fn inode(number: INodeNo) -> Option<Ino> {
    Ino::try_from(exchanged(number.0)).ok()
}

pub(super) fn kind(file_type: ext4::FileType) -> FileType {
    match file_type {
        ext4::FileType::File => FileType::RegularFile,
        ext4::FileType::Directory => FileType::Directory,
        ext4::FileType::Symlink => FileType::Symlink,
        ext4::FileType::CharDevice => FileType::CharDevice,
        ext4::FileType::BlockDevice => FileType::BlockDevice,
        ext4::FileType::Fifo => FileType::NamedPipe,
        ext4::FileType::Socket => FileType::Socket,
    }
}

pub(super) fn time(time: Timestamp) -> SystemTime {
    let whole = Duration::from_secs(time.secs.unsigned_abs());
    let second = if time.secs < 0 {
        UNIX_EPOCH.checked_sub(whole)
    } else {
        UNIX_EPOCH.checked_add(whole)
    };
    let nanos = Duration::from_nanos(time.nanos.into());
    second
        .and_then(|second| second.checked_add(nanos))
        .unwrap_or(UNIX_EPOCH)
}

/// A device's number as the kernel's `new_decode_dev` reads it.
fn device((major, minor): (u32, u32)) -> u32 {
    (minor & 0xff) | ((major & 0xfff) << 8) | ((minor & 0xf_ff00) << 12)
}

/// What `stat` shows.
pub(super) fn attributes(
    ino: Ino,
    metadata: &Metadata,
    block_size: u32,
    owner: Option<(u32, u32)>,
) -> FileAttr {
    let (uid, gid) = owner.unwrap_or((metadata.uid, metadata.gid));
    FileAttr {
        ino: number(ino),
        size: metadata.size,
        blocks: metadata.sectors,
        atime: time(metadata.atime),
        mtime: time(metadata.mtime),
        ctime: time(metadata.ctime),
        crtime: UNIX_EPOCH,
        kind: kind(metadata.file_type),
        perm: metadata.mode,
        nlink: metadata.links,
        uid,
        gid,
        rdev: device(metadata.rdev),
        blksize: block_size,
        flags: 0,
    }
}

/// What says of a name in a list where it leads, and no more.
pub(super) fn name_only(ino: Ino, file_type: crate::format::ext4::FileType) -> FileAttr {
    FileAttr {
        ino: number(ino),
        kind: kind(file_type),
        ..nothing()
    }
}

/// What says that a name does not exist, for good.
pub(super) fn nothing() -> FileAttr {
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 0,
        flags: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_roots_of_both_sides_are_the_same() {
        assert_eq!(number(2), INodeNo::ROOT);
        assert_eq!(inode(INodeNo::ROOT), Some(2));
        for ino in [1, 2, 11, 12, u32::MAX] {
            assert_eq!(inode(number(ino)), Some(ino));
        }
        assert_eq!(inode(INodeNo(1 << 32)), None);
    }

    #[test]
    fn times_before_1970_keep_their_nanoseconds() {
        let early = Timestamp {
            secs: -2,
            nanos: 250_000_000,
        };
        let expected = UNIX_EPOCH - Duration::from_millis(1750);
        assert_eq!(time(early), expected);
    }

    #[test]
    fn device_numbers_are_those_of_the_c_library() {
        for (major, minor) in [(8, 1), (259, 300), (4095, 0xf_ffff), (0, 256)] {
            let number = u64::from(device((major, minor)));
            assert_eq!(u64::from(libc::major(number)), u64::from(major));
            assert_eq!(u64::from(libc::minor(number)), u64::from(minor));
        }
    }
}
