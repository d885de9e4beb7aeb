//! Extended attributes: behind the inode's fields, and in a block (kernel,
//! `fs/ext4/xattr.h`).

use zerocopy::little_endian::U32;

use super::acl;
use super::blocks;
use super::checksum::ChecksumKind;
use super::error::{Error, Result, corrupt, narrow};
use super::inode::Inode;
use super::inode_table::count_blocks;
use super::layout::{self, MAX_NAME, XattrBlockHeader, XattrEntry, XattrInodeHeader, compat};
use super::volume::Volume;
use crate::format::block::{BlockDevice, BlockDeviceMut};

const MAGIC: u32 = XattrInodeHeader::MAGIC;
/// Bytes before the entries, in a block and in an inode.
const BLOCK_HEADER: usize = size_of::<XattrBlockHeader>();
const INODE_HEADER: usize = size_of::<XattrInodeHeader>();
/// Bytes of an entry before its name.
const ENTRY: usize = size_of::<XattrEntry>();
/// Bytes of zeros that end the entries.
const END: usize = 4;
/// Most bytes of a value (`EXT4_XATTR_SIZE_MAX`).
const MAX_VALUE: usize = 1 << 16;

const ACL_ACCESS: u8 = 2;
const ACL_DEFAULT: u8 = 3;
/// Numbers that stand for the prefixes of names.
const PREFIXES: [(u8, &[u8]); 6] = [
    (ACL_ACCESS, b"system.posix_acl_access"),
    (ACL_DEFAULT, b"system.posix_acl_default"),
    (1, b"user."),
    (4, b"trusted."),
    (6, b"security."),
    (7, b"system."),
];

fn is_acl(index: u8) -> bool {
    index == ACL_ACCESS || index == ACL_DEFAULT
}

/// An attribute's full name, and its value.
type Pair = (Vec<u8>, Vec<u8>);

/// An attribute as it is stored.
struct Stored<'a> {
    index: u8,
    suffix: &'a [u8],
    value: Vec<u8>,
    name: &'a [u8],
}

impl Stored<'_> {
    fn entry_length(&self) -> usize {
        (ENTRY + self.suffix.len()).next_multiple_of(4)
    }

    fn length(&self) -> usize {
        self.entry_length() + self.value.len().next_multiple_of(4)
    }

    /// The hash of name and value.
    fn hash(&self) -> u32 {
        let name = self
            .suffix
            .iter()
            .fold(0_u32, |hash, byte| hash.rotate_left(5) ^ u32::from(*byte));
        self.value.chunks(4).fold(name, |hash, bytes| {
            let mut word = [0; 4];
            word[..bytes.len()].copy_from_slice(bytes);
            hash.rotate_left(16) ^ u32::from_le_bytes(word)
        })
    }
}

fn to_stored((name, value): &Pair) -> Result<Stored<'_>> {
    let invalid = |problem| Error::Xattr {
        name: name.clone(),
        problem,
    };
    let (index, suffix) = PREFIXES
        .iter()
        .find_map(|(index, prefix)| Some((*index, name.strip_prefix(*prefix)?)))
        .ok_or_else(|| invalid("its name has no prefix that ext4 knows"))?;
    if is_acl(index) != suffix.is_empty() || suffix.contains(&0) {
        return Err(invalid("its name is invalid"));
    }
    // The kernel would not give a longer one back.
    if name.len() > MAX_NAME {
        return Err(invalid("its name is longer than 255 bytes"));
    }
    let value = if is_acl(index) {
        acl::to_stored(value).map_err(invalid)?
    } else {
        value.clone()
    };
    if value.len() > MAX_VALUE {
        return Err(invalid("its value is longer than 64 KiB"));
    }
    Ok(Stored {
        index,
        suffix,
        value,
        name,
    })
}

/// The attributes to be stored, in the order by which the kernel searches them.
fn sorted(xattrs: &[Pair]) -> Result<Vec<Stored<'_>>> {
    let mut all = xattrs.iter().map(to_stored).collect::<Result<Vec<_>>>()?;
    all.sort_by(|a, b| {
        let key = |s: &Stored<'_>| (s.index, s.suffix.len());
        key(a).cmp(&key(b)).then_with(|| a.suffix.cmp(b.suffix))
    });
    for pair in all.windows(2) {
        if let [a, b] = pair
            && a.name == b.name
        {
            return Err(Error::Xattr {
                name: a.name.to_vec(),
                problem: "it is there twice",
            });
        }
    }
    Ok(all)
}

/// Reads attributes: entries from `first` on, values from `base` on.
fn read_entries(area: &[u8], first: usize, base: usize, into: &mut Vec<Pair>) -> Result<()> {
    let mut at = first;
    let outside = || {
        let text = "an extended attribute reaches beyond the end of its inode or block";
        Error::Corrupt(text.into())
    };
    while *layout::get::<U32>(area, at).map_err(|_| outside())? != 0 {
        let entry = layout::get::<XattrEntry>(area, at).map_err(|_| outside())?;
        let (length, index) = (usize::from(entry.name_len), entry.name_index);
        let name = at + ENTRY;
        let suffix = area.get(name..name + length).ok_or_else(outside)?;
        if entry.value_inode != 0 {
            return Err(Error::Unsupported(
                "extended attributes in inodes of their own".into(),
            ));
        }
        let start = base + usize::from(entry.value_offset.get());
        let size = entry.value_size.get() as usize;
        let value = match size {
            0 => &[][..],
            _ => area
                .get(start..start.saturating_add(size))
                .ok_or_else(outside)?,
        };
        let known = PREFIXES.iter().find(|(known, _)| *known == index);
        let Some((_, prefix)) = known else {
            return Err(Error::Unsupported(format!(
                "an extended attribute of the unknown kind {index}"
            )));
        };
        let value = if is_acl(index) {
            acl::to_xattr(value)
                .ok_or_else(|| Error::Corrupt("a stored POSIX ACL is invalid".into()))?
        } else {
            value.to_vec()
        };
        into.push(([prefix, suffix].concat(), value));
        at += (ENTRY + length).next_multiple_of(4);
    }
    Ok(())
}

/// Writes attributes into an area of zeros: entries from `first` on, values down from the
/// end. They must fit.
fn write_entries(
    area: &mut [u8],
    first: usize,
    base: usize,
    hashed: bool,
    attributes: &[&Stored<'_>],
) -> Result<()> {
    let (mut at, mut end) = (first, area.len());
    for attribute in attributes {
        let size = attribute.value.len();
        let mut value_offset = 0;
        if size > 0 {
            end -= size.next_multiple_of(4);
            area[end..end + size].copy_from_slice(&attribute.value);
            value_offset = narrow(end - base)?;
        }
        let entry = layout::get_mut::<XattrEntry>(area, at)?;
        entry.name_len = narrow(attribute.suffix.len())?;
        entry.name_index = attribute.index;
        entry.value_offset.set(value_offset);
        entry.value_size.set(narrow(size)?);
        if hashed {
            entry.hash.set(attribute.hash());
        }
        let name = at + ENTRY;
        area[name..name + attribute.suffix.len()].copy_from_slice(attribute.suffix);
        at += attribute.entry_length();
    }
    Ok(())
}

/// The header of an inode's attribute block, if it has one, with all of the block.
fn block<'a, D: BlockDevice>(
    volume: &'a mut Volume<D>,
    inode: &Inode,
) -> Result<Option<(&'a XattrBlockHeader, &'a [u8])>> {
    let number = inode.xattr_block();
    if number == 0 {
        return Ok(None);
    }
    volume
        .geometry()
        .check("a block of attributes", number, 1)?;
    let block = volume.read_verified(number, ChecksumKind::Xattrs)?;
    let header = layout::get::<XattrBlockHeader>(block, 0)?;
    if header.magic != MAGIC || header.blocks != 1 {
        return corrupt(format!("block {number} does not hold attributes"));
    }
    Ok(Some((header, block)))
}

/// All attributes, by name.
pub(super) fn read<D: BlockDevice>(volume: &mut Volume<D>, inode: &Inode) -> Result<Vec<Pair>> {
    let mut all = Vec::new();
    if let Some(area) = inode.xattr_area()
        && layout::get::<XattrInodeHeader>(area, 0)?.magic == MAGIC
    {
        read_entries(area, INODE_HEADER, INODE_HEADER, &mut all)?;
    }
    if let Some((_, block)) = block(volume, inode)? {
        read_entries(block, BLOCK_HEADER, 0, &mut all)?;
    }
    all.sort_unstable();
    Ok(all)
}

/// Takes an inode's attribute block away; other inodes that share it keep it.
pub(super) fn remove_block<D: BlockDeviceMut>(
    volume: &mut Volume<D>,
    inode: &mut Inode,
) -> Result<()> {
    let Some((header, _)) = block(volume, inode)? else {
        return Ok(());
    };
    let users = header.refcount.get();
    let number = inode.xattr_block();
    if users > 1 {
        let block = volume.write(number, ChecksumKind::Xattrs)?;
        let header = layout::get_mut::<XattrBlockHeader>(block, 0)?;
        header.refcount.set(users - 1);
    } else {
        blocks::free(volume, number, 1)?;
    }
    inode.set_xattr_block(0);
    count_blocks(volume, inode, 0, 1);
    Ok(())
}

/// Gives an inode these attributes and no others. The caller writes the inode.
pub(super) fn write<D: BlockDeviceMut>(
    volume: &mut Volume<D>,
    inode: &mut Inode,
    xattrs: &[Pair],
) -> Result<()> {
    let all = sorted(xattrs)?;
    let block_len = volume.geometry().block_len();
    let mut inode_room = inode
        .xattr_area()
        .map_or(0, |area| area.len() - INODE_HEADER - END);
    let mut block_room = block_len - BLOCK_HEADER - END;
    let (mut in_inode, mut in_block) = (Vec::new(), Vec::new());
    for attribute in &all {
        if attribute.length() <= inode_room {
            inode_room -= attribute.length();
            in_inode.push(attribute);
        } else if attribute.length() <= block_room {
            block_room -= attribute.length();
            in_block.push(attribute);
        } else {
            return Err(Error::XattrSpace {
                name: attribute.name.to_vec(),
                size: attribute.value.len(),
                block: volume.geometry().block_size,
            });
        }
    }
    if let Some(area) = inode.xattr_area_mut() {
        area.fill(0);
        if !in_inode.is_empty() {
            layout::get_mut::<XattrInodeHeader>(area, 0)?
                .magic
                .set(MAGIC);
            write_entries(area, INODE_HEADER, INODE_HEADER, false, &in_inode)?;
        }
    }
    if !all.is_empty() {
        volume.superblock_mut().add_compat(compat::EXT_ATTR);
    }
    write_block(volume, inode, &in_block)
}

fn write_block<D: BlockDeviceMut>(
    volume: &mut Volume<D>,
    inode: &mut Inode,
    attributes: &[&Stored<'_>],
) -> Result<()> {
    let is_shared = block(volume, inode)?.is_some_and(|(header, _)| header.refcount.get() > 1);
    if attributes.is_empty() || is_shared {
        remove_block(volume, inode)?;
    }
    if attributes.is_empty() {
        return Ok(());
    }
    if inode.xattr_block() == 0 {
        let number = blocks::allocate_metadata(volume, ChecksumKind::Xattrs)?;
        inode.set_xattr_block(number);
        count_blocks(volume, inode, 1, 0);
    }
    let mut hash = 0_u32;
    for attribute in attributes {
        let own = attribute.hash();
        // With an unknown hash among them the block's is unknown too.
        if own == 0 {
            hash = 0;
            break;
        }
        hash = hash.rotate_left(16) ^ own;
    }
    let block = volume.write(inode.xattr_block(), ChecksumKind::Xattrs)?;
    block.fill(0);
    let header = layout::get_mut::<XattrBlockHeader>(block, 0)?;
    header.magic.set(MAGIC);
    header.refcount.set(1);
    header.blocks.set(1);
    header.hash.set(hash);
    write_entries(block, BLOCK_HEADER, 0, true, attributes)
}
