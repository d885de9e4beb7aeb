//! Offsets, flags and limits of what is on the disk (kernel, `fs/ext4/ext4.h`,
//! `ext4_extents.h`, `xattr.h`). Everything is little-endian.

/// Where the superblock is, and how long, in bytes.
pub(super) const SUPERBLOCK_AT: u64 = 1024;
pub(super) const SUPERBLOCK_LEN: usize = 1024;
pub(super) const MAGIC: u16 = 0xef53;

/// Superblock fields.
pub(super) mod sb {
    pub(crate) const INODES: usize = 0x0;
    pub(crate) const BLOCKS: usize = 0x4;
    pub(crate) const FREE_BLOCKS: usize = 0xc;
    pub(crate) const FREE_INODES: usize = 0x10;
    pub(crate) const FIRST_DATA_BLOCK: usize = 0x14;
    pub(crate) const LOG_BLOCK_SIZE: usize = 0x18;
    pub(crate) const LOG_CLUSTER_SIZE: usize = 0x1c;
    pub(crate) const BLOCKS_PER_GROUP: usize = 0x20;
    pub(crate) const CLUSTERS_PER_GROUP: usize = 0x24;
    pub(crate) const INODES_PER_GROUP: usize = 0x28;
    pub(crate) const MAX_MOUNTS: usize = 0x36;
    pub(crate) const MAGIC: usize = 0x38;
    pub(crate) const STATE: usize = 0x3a;
    pub(crate) const ERRORS: usize = 0x3c;
    pub(crate) const REVISION: usize = 0x4c;
    pub(crate) const FIRST_INODE: usize = 0x54;
    pub(crate) const INODE_SIZE: usize = 0x58;
    pub(crate) const GROUP: usize = 0x5a;
    pub(crate) const COMPAT: usize = 0x5c;
    pub(crate) const INCOMPAT: usize = 0x60;
    pub(crate) const RO_COMPAT: usize = 0x64;
    pub(crate) const UUID: usize = 0x68;
    pub(crate) const RESERVED_GDT: usize = 0xce;
    pub(crate) const LAST_ORPHAN: usize = 0xe8;
    pub(crate) const HASH_SEED: usize = 0xec;
    pub(crate) const HASH_VERSION: usize = 0xfc;
    pub(crate) const DESC_SIZE: usize = 0xfe;
    pub(crate) const MOUNT_OPTIONS: usize = 0x100;
    pub(crate) const BLOCKS_HI: usize = 0x150;
    pub(crate) const FREE_BLOCKS_HI: usize = 0x158;
    pub(crate) const MIN_EXTRA_ISIZE: usize = 0x15c;
    pub(crate) const WANT_EXTRA_ISIZE: usize = 0x15e;
    pub(crate) const FLAGS: usize = 0x160;
    pub(crate) const LOG_GROUPS_PER_FLEX: usize = 0x174;
    pub(crate) const CHECKSUM_TYPE: usize = 0x175;
    pub(crate) const BACKUP_GROUPS: usize = 0x24c;
    pub(crate) const CHECKSUM_SEED: usize = 0x270;
    pub(crate) const CHECKSUM: usize = 0x3fc;

    /// Flags: names are hashed as signed or unsigned bytes.
    pub(crate) const SIGNED_HASH: u32 = 1;
    pub(crate) const UNSIGNED_HASH: u32 = 2;
}

/// Compatible features: of use, but no danger where unknown.
pub(super) mod compat {
    pub(crate) const EXT_ATTR: u32 = 0x8;
    pub(crate) const DIR_INDEX: u32 = 0x20;
    pub(crate) const SPARSE_SUPER2: u32 = 0x200;
}

/// Incompatible features: where one is unknown, hands off.
pub(super) mod incompat {
    pub(crate) const FILETYPE: u32 = 0x2;
    pub(crate) const RECOVER: u32 = 0x4;
    pub(crate) const EXTENTS: u32 = 0x40;
    pub(crate) const BITS_64: u32 = 0x80;
    pub(crate) const FLEX_BG: u32 = 0x200;
    pub(crate) const CSUM_SEED: u32 = 0x2000;
    pub(crate) const LARGE_DIR: u32 = 0x4000;
    pub(crate) const SUPPORTED: u32 =
        FILETYPE | EXTENTS | BITS_64 | FLEX_BG | CSUM_SEED | LARGE_DIR;
    /// Names for messages, of those that are not supported.
    pub(crate) const NAMES: [(u32, &str); 12] = [
        (0x1, "compression"),
        (0x4, "needs_recovery"),
        (0x8, "journal_dev"),
        (0x10, "meta_bg"),
        (0x100, "mmp"),
        (0x400, "ea_inode"),
        (0x1000, "dirdata"),
        (0x8000, "inline_data"),
        (0x1_0000, "encrypt"),
        (0x2_0000, "casefold"),
        (0x20, "an unknown feature 0x20"),
        (0x800, "an unknown feature 0x800"),
    ];
}

/// Features that a writer must know.
pub(super) mod ro_compat {
    pub(crate) const SPARSE_SUPER: u32 = 0x1;
    pub(crate) const LARGE_FILE: u32 = 0x2;
    const BTREE_DIR: u32 = 0x4;
    pub(crate) const HUGE_FILE: u32 = 0x8;
    pub(crate) const GDT_CSUM: u32 = 0x10;
    pub(crate) const DIR_NLINK: u32 = 0x20;
    pub(crate) const EXTRA_ISIZE: u32 = 0x40;
    pub(crate) const METADATA_CSUM: u32 = 0x400;
    pub(crate) const SUPPORTED: u32 = SPARSE_SUPER
        | LARGE_FILE
        | BTREE_DIR
        | HUGE_FILE
        | GDT_CSUM
        | DIR_NLINK
        | EXTRA_ISIZE
        | METADATA_CSUM;
    /// Names for messages, of those that are not supported.
    pub(crate) const NAMES: [(u32, &str); 9] = [
        (0x80, "has_snapshot"),
        (0x100, "quota"),
        (0x200, "bigalloc"),
        (0x800, "replica"),
        (0x1000, "read-only"),
        (0x2000, "project"),
        (0x4000, "shared_blocks"),
        (0x8000, "verity"),
        (0x1_0000, "orphan_present"),
    ];
}

/// Group descriptor fields, and what the high halves are at.
pub(super) mod gd {
    pub(crate) const BLOCK_BITMAP: usize = 0x0;
    pub(crate) const INODE_BITMAP: usize = 0x4;
    pub(crate) const INODE_TABLE: usize = 0x8;
    pub(crate) const FREE_BLOCKS: usize = 0xc;
    pub(crate) const FREE_INODES: usize = 0xe;
    pub(crate) const USED_DIRS: usize = 0x10;
    pub(crate) const FLAGS: usize = 0x12;
    pub(crate) const BLOCK_BITMAP_CSUM: usize = 0x18;
    pub(crate) const INODE_BITMAP_CSUM: usize = 0x1a;
    pub(crate) const ITABLE_UNUSED: usize = 0x1c;
    pub(crate) const CHECKSUM: usize = 0x1e;
    pub(crate) const BLOCK_BITMAP_HI: usize = 0x20;
    pub(crate) const INODE_BITMAP_HI: usize = 0x24;
    pub(crate) const INODE_TABLE_HI: usize = 0x28;
    pub(crate) const FREE_BLOCKS_HI: usize = 0x2c;
    pub(crate) const FREE_INODES_HI: usize = 0x2e;
    pub(crate) const USED_DIRS_HI: usize = 0x30;
    pub(crate) const ITABLE_UNUSED_HI: usize = 0x32;
    pub(crate) const BLOCK_BITMAP_CSUM_HI: usize = 0x38;
    pub(crate) const INODE_BITMAP_CSUM_HI: usize = 0x3a;

    pub(crate) const SIZE: usize = 32;
    pub(crate) const SIZE_64: usize = 64;

    /// The inode bitmap is not on the disk: all are free.
    pub(crate) const INODE_UNINIT: u16 = 1;
    /// The block bitmap is not on the disk: all but the group's own metadata is free.
    pub(crate) const BLOCK_UNINIT: u16 = 2;
}

/// Inode fields.
pub(super) mod ino {
    pub(crate) const MODE: usize = 0x0;
    pub(crate) const UID: usize = 0x2;
    pub(crate) const SIZE: usize = 0x4;
    pub(crate) const ATIME: usize = 0x8;
    pub(crate) const CTIME: usize = 0xc;
    pub(crate) const MTIME: usize = 0x10;
    pub(crate) const GID: usize = 0x18;
    pub(crate) const LINKS: usize = 0x1a;
    pub(crate) const BLOCKS: usize = 0x1c;
    pub(crate) const FLAGS: usize = 0x20;
    pub(crate) const BLOCK: usize = 0x28;
    pub(crate) const GENERATION: usize = 0x64;
    pub(crate) const FILE_ACL: usize = 0x68;
    pub(crate) const SIZE_HI: usize = 0x6c;
    pub(crate) const BLOCKS_HI: usize = 0x74;
    pub(crate) const FILE_ACL_HI: usize = 0x76;
    pub(crate) const UID_HI: usize = 0x78;
    pub(crate) const GID_HI: usize = 0x7a;
    pub(crate) const CHECKSUM: usize = 0x7c;
    pub(crate) const EXTRA_ISIZE: usize = 0x80;
    pub(crate) const CHECKSUM_HI: usize = 0x82;
    pub(crate) const CTIME_EXTRA: usize = 0x84;
    pub(crate) const MTIME_EXTRA: usize = 0x88;
    pub(crate) const ATIME_EXTRA: usize = 0x8c;
    pub(crate) const CRTIME: usize = 0x90;
    pub(crate) const CRTIME_EXTRA: usize = 0x94;

    /// Bytes of the oldest form, and of `i_block`.
    pub(crate) const SIZE_BASE: usize = 128;
    pub(crate) const BLOCK_LEN: usize = 60;
    /// Bytes behind the oldest form that we use.
    pub(crate) const EXTRA: u16 = 32;

    pub(crate) const INDEX: u32 = 0x1000;
    pub(crate) const HUGE_FILE: u32 = 0x4_0000;
    pub(crate) const EXTENTS: u32 = 0x8_0000;

    pub(crate) const TYPE_MASK: u16 = 0o170_000;
}

/// The root directory, and the first inode behind the reserved ones.
pub(super) const ROOT: u32 = 2;
pub(super) const FIRST_INODE: u32 = 11;
/// Most links that an inode can have (`EXT4_LINK_MAX`).
pub(super) const MAX_LINKS: u16 = 65_000;
pub(super) const MAX_NAME: usize = 255;

pub(super) fn get16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

pub(super) fn get32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

pub(super) fn put16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
}

pub(super) fn put32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

/// A number whose halves lie apart.
pub(super) fn get_split(bytes: &[u8], low: usize, high: usize) -> u64 {
    u64::from(get32(bytes, low)) | u64::from(get32(bytes, high)) << 32
}

pub(super) fn put_split(bytes: &mut [u8], low: usize, high: usize, value: u64) {
    put32(bytes, low, value as u32);
    put32(bytes, high, (value >> 32) as u32);
}
