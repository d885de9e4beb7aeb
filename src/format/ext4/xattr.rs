//! Extended attributes: behind the inode's fields, and in a block (kernel,
//! `fs/ext4/xattr.h`).

use super::acl;
use super::checksum::Seal;
use super::error::{Error, Result, corrupt};
use super::filesystem::Filesystem;
use super::inode::Inode;
use super::layout::{MAX_NAME, compat, get16, get32, put16, put32, sb};
use crate::format::block::{BlockDevice, BlockDeviceMut};

const MAGIC: u32 = 0xea02_0000;
/// Bytes of a block before its entries; in an inode only the magic is there.
const BLOCK_HEADER: usize = 32;
const INODE_HEADER: usize = 4;
/// Bytes of an entry before its name.
const HEAD: usize = 16;
/// Bytes that end the entries.
const END: usize = 4;

const REFCOUNT: usize = 4;
const BLOCKS: usize = 8;
const HASH: usize = 12;

const ACL_ACCESS: u8 = 2;
const ACL_DEFAULT: u8 = 3;
/// Numbers that stand for the beginnings of names.
const PREFIXES: [(u8, &[u8]); 6] = [
    (ACL_ACCESS, b"system.posix_acl_access"),
    (ACL_DEFAULT, b"system.posix_acl_default"),
    (1, b"user."),
    (4, b"trusted."),
    (6, b"security."),
    (7, b"system."),
];

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
        (HEAD + self.suffix.len()).next_multiple_of(4)
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
    let wrong = |problem| Error::Xattr {
        name: name.clone(),
        problem,
    };
    let (index, suffix) = PREFIXES
        .iter()
        .find_map(|(index, prefix)| Some((*index, name.strip_prefix(*prefix)?)))
        .ok_or_else(|| wrong("its name begins in no way that ext4 knows"))?;
    let is_acl = index == ACL_ACCESS || index == ACL_DEFAULT;
    if is_acl != suffix.is_empty() || suffix.contains(&0) {
        return Err(wrong("its name cannot be one"));
    }
    // The kernel would not give a longer one back.
    if name.len() > MAX_NAME {
        return Err(wrong("its name is longer than 255 bytes"));
    }
    let value = if is_acl {
        acl::to_stored(value).map_err(wrong)?
    } else {
        value.clone()
    };
    if value.len() > 1 << 16 {
        return Err(wrong("its value is longer than 64 KiB"));
    }
    Ok(Stored {
        index,
        suffix,
        value,
        name,
    })
}

/// Reads attributes: entries from `first` on, values from `base` on.
fn read(area: &[u8], first: usize, base: usize, into: &mut Vec<Pair>) -> Result<()> {
    let mut at = first;
    let wrong = || Error::Corrupt("an extended attribute leaves its place".into());
    while get32(area.get(at..at + END).ok_or_else(wrong)?, 0) != 0 {
        let head = area.get(at..at + HEAD).ok_or_else(wrong)?;
        let (length, index) = (usize::from(head[0]), head[1]);
        let suffix = area.get(at + HEAD..at + HEAD + length).ok_or_else(wrong)?;
        if get32(head, 4) != 0 {
            return Err(Error::Unsupported(
                "extended attributes in inodes of their own".into(),
            ));
        }
        let start = base + usize::from(get16(head, 2));
        let size = get32(head, 8) as usize;
        let value = match size {
            0 => &[][..],
            _ => area
                .get(start..start.saturating_add(size))
                .ok_or_else(wrong)?,
        };
        let known = PREFIXES.iter().find(|(known, _)| *known == index);
        let Some((_, prefix)) = known else {
            return Err(Error::Unsupported(format!(
                "an extended attribute of the unknown kind {index}"
            )));
        };
        let value = if index == ACL_ACCESS || index == ACL_DEFAULT {
            acl::to_generic(value)
                .ok_or_else(|| Error::Corrupt("a stored POSIX ACL is none".into()))?
        } else {
            value.to_vec()
        };
        into.push(([prefix, suffix].concat(), value));
        at += (HEAD + length).next_multiple_of(4);
    }
    Ok(())
}

/// Writes attributes into an area of zeros: entries from `first` on, values down from the
/// end. They must fit.
fn write(area: &mut [u8], first: usize, base: usize, hashed: bool, attributes: &[&Stored<'_>]) {
    let (mut at, mut end) = (first, area.len());
    for attribute in attributes {
        let size = attribute.value.len();
        area[at] = attribute.suffix.len() as u8;
        area[at + 1] = attribute.index;
        if size > 0 {
            end -= size.next_multiple_of(4);
            area[end..end + size].copy_from_slice(&attribute.value);
            put16(area, at + 2, (end - base) as u16);
        }
        put32(area, at + 8, size as u32);
        if hashed {
            put32(area, at + 12, attribute.hash());
        }
        let name = at + HEAD;
        area[name..name + attribute.suffix.len()].copy_from_slice(attribute.suffix);
        at += attribute.entry_length();
    }
}

impl<D: BlockDevice> Filesystem<D> {
    fn xattr_block(&mut self, inode: &Inode) -> Result<Option<&[u8]>> {
        let number = inode.xattr_block();
        if number == 0 {
            return Ok(None);
        }
        self.sb.geometry.check("a block of attributes", number, 1)?;
        let block = self.cache.read_sealed(number, Seal::Xattrs)?;
        if get32(block, 0) != MAGIC || get32(block, BLOCKS) != 1 {
            return corrupt(format!("block {number} does not hold attributes"));
        }
        Ok(Some(block))
    }

    /// All attributes, by name.
    pub(super) fn read_xattrs(&mut self, inode: &Inode) -> Result<Vec<Pair>> {
        let mut all = Vec::new();
        if let Some(space) = inode.xattr_space() {
            let area = &inode.raw[space];
            if get32(area, 0) == MAGIC {
                read(area, INODE_HEADER, INODE_HEADER, &mut all)?;
            }
        }
        if let Some(block) = self.xattr_block(inode)? {
            read(block, BLOCK_HEADER, 0, &mut all)?;
        }
        all.sort_unstable();
        Ok(all)
    }
}

impl<D: BlockDeviceMut> Filesystem<D> {
    /// Takes an inode's attribute block away. Where others use it too, it stays theirs.
    pub(super) fn drop_xattr_block(&mut self, inode: &mut Inode) -> Result<()> {
        let Some(block) = self.xattr_block(inode)? else {
            return Ok(());
        };
        let users = get32(block, REFCOUNT);
        let number = inode.xattr_block();
        if users > 1 {
            put32(self.cache.write(number, Seal::Xattrs)?, REFCOUNT, users - 1);
        } else {
            self.free_blocks(number, 1)?;
        }
        inode.set_xattr_block(0);
        self.count_blocks(inode, 0, 1);
        Ok(())
    }

    /// Gives an inode these attributes and no others. The caller stores the inode.
    pub(super) fn write_xattrs(&mut self, inode: &mut Inode, xattrs: &[Pair]) -> Result<()> {
        let mut all = xattrs.iter().map(to_stored).collect::<Result<Vec<_>>>()?;
        // The order that the kernel searches by.
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
        let block_size = self.sb.geometry.block_size;
        let space = inode.xattr_space();
        let mut room = space
            .as_ref()
            .map_or(0, |space| space.len() - INODE_HEADER - END);
        let mut block_room = block_size as usize - BLOCK_HEADER - END;
        let (mut here, mut there) = (Vec::new(), Vec::new());
        for attribute in &all {
            if attribute.length() <= room {
                room -= attribute.length();
                here.push(attribute);
            } else if attribute.length() <= block_room {
                block_room -= attribute.length();
                there.push(attribute);
            } else {
                return Err(Error::XattrSpace {
                    name: attribute.name.to_vec(),
                    size: attribute.value.len(),
                    block: block_size,
                });
            }
        }
        if let Some(space) = space {
            let area = &mut inode.raw[space];
            area.fill(0);
            if !here.is_empty() {
                put32(area, 0, MAGIC);
                write(area, INODE_HEADER, INODE_HEADER, false, &here);
            }
        }
        if !all.is_empty() {
            self.sb.require(sb::COMPAT, compat::EXT_ATTR);
        }
        self.write_xattr_block(inode, &there)
    }

    fn write_xattr_block(&mut self, inode: &mut Inode, attributes: &[&Stored<'_>]) -> Result<()> {
        let shared = match self.xattr_block(inode)? {
            Some(block) => get32(block, REFCOUNT) > 1,
            None => false,
        };
        if attributes.is_empty() || shared {
            self.drop_xattr_block(inode)?;
        }
        if attributes.is_empty() {
            return Ok(());
        }
        if inode.xattr_block() == 0 {
            let number = self.take_metadata_block(Seal::Xattrs)?;
            inode.set_xattr_block(number);
            self.count_blocks(inode, 1, 0);
        }
        let block = self.cache.write(inode.xattr_block(), Seal::Xattrs)?;
        block.fill(0);
        put32(block, 0, MAGIC);
        put32(block, REFCOUNT, 1);
        put32(block, BLOCKS, 1);
        let mut hash = 0_u32;
        for attribute in attributes {
            let own = attribute.hash();
            // One without a hash makes the block's unknown.
            if own == 0 {
                hash = 0;
                break;
            }
            hash = hash.rotate_left(16) ^ own;
        }
        put32(block, HASH, hash);
        write(block, BLOCK_HEADER, 0, true, attributes);
        Ok(())
    }
}
