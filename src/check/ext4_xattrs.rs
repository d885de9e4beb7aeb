//! Extended attributes as ext4 stores them.
//! Source: Linux `Documentation/filesystems/ext4/attributes.rst`, `fs/ext4/acl.h`.

use std::io;

use super::bytes::{Bytes, damaged};
use super::tree::Xattrs;

const MAGIC: u32 = 0xea02_0000;

/// Those in an inode's own space.
pub(super) fn in_inode(space: &[u8], found: &mut Xattrs) -> io::Result<()> {
    if space.len() < 4 || Bytes(space).u32(0)? != MAGIC {
        return Ok(());
    }
    let space = space.get(4..).unwrap_or_default();
    entries(space, 0, found)
}

/// Those in a block.
pub(super) fn in_block(block: &[u8], found: &mut Xattrs) -> io::Result<()> {
    if Bytes(block).u32(0)? != MAGIC {
        return Err(damaged("a block of attributes that is none"));
    }
    entries(block, 32, found)
}

/// Values are found from the start of `space`; entries begin at `at`.
fn entries(space: &[u8], mut at: usize, found: &mut Xattrs) -> io::Result<()> {
    let bytes = Bytes(space);
    // Four zero bytes, or the space's end, end the list.
    while at + 4 <= space.len() && bytes.u32(at)? != 0 {
        let name_len = usize::from(bytes.u8(at)?);
        let prefix = bytes.u8(at + 1)?;
        let value_at = usize::from(bytes.u16(at + 2)?);
        if bytes.u32(at + 4)? != 0 {
            return Err(damaged("an attribute in an inode of its own"));
        }
        let value_len = usize::try_from(bytes.u32(at + 8)?).map_err(io::Error::other)?;
        let suffix = bytes.slice(at + 16, name_len)?;
        let value = bytes.slice(value_at, value_len)?;
        let (prefix, is_list): (&[u8], _) = match prefix {
            1 => (b"user.", false),
            2 => (b"system.posix_acl_access", true),
            3 => (b"system.posix_acl_default", true),
            4 => (b"trusted.", false),
            6 => (b"security.", false),
            7 => (b"system.", false),
            other => return Err(damaged(format!("an attribute of the unknown kind {other}"))),
        };
        let name = [prefix, suffix].concat();
        let value = if is_list {
            list(value)?
        } else {
            value.to_vec()
        };
        if found.insert(name.into(), value.into()).is_some() {
            return Err(damaged("an attribute that is there twice"));
        }
        at += (16 + name_len).next_multiple_of(4);
    }
    Ok(())
}

/// An access control list as programs see it: stored, only named entries have an id.
fn list(stored: &[u8]) -> io::Result<Vec<u8>> {
    let bytes = Bytes(stored);
    if bytes.u32(0)? != 1 {
        return Err(damaged("an access control list of an unknown version"));
    }
    let mut value = 2u32.to_le_bytes().to_vec();
    let mut at = 4;
    while at < stored.len() {
        let is_named = matches!(bytes.u16(at)?, 2 | 8);
        value.extend_from_slice(bytes.slice(at, 4)?);
        at += 4;
        if is_named {
            value.extend_from_slice(bytes.slice(at, 4)?);
            at += 4;
        } else {
            value.extend_from_slice(&u32::MAX.to_le_bytes());
        }
    }
    Ok(value)
}
