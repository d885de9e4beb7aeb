//! POSIX ACLs: what `getxattr` gives, and the shorter form that ext4 stores (kernel,
//! `fs/ext4/acl.c`, `include/uapi/linux/posix_acl_xattr.h`).

use zerocopy::{FromBytes, IntoBytes};

use super::layout::{AclEntry, AclHeader, AclShortEntry};

/// Version of the form that `getxattr` gives.
const XATTR_VERSION: u32 = 2;
/// Version of the form that ext4 stores.
const STORED_VERSION: u32 = 1;
/// Tags of entries that name a user or a group; no others have an id.
const NAMED: [u16; 2] = [0x02, 0x08];
/// All tags: owner, user, group, group, mask, others.
const TAGS: [u16; 6] = [0x01, 0x02, 0x04, 0x08, 0x10, 0x20];
const NO_ID: u32 = u32::MAX;

/// What stands behind a header of this version.
fn entries(acl: &[u8], version: u32) -> Option<&[u8]> {
    let (header, entries) = AclHeader::ref_from_prefix(acl).ok()?;
    (header.version == version).then_some(entries)
}

fn header(version: u32) -> Vec<u8> {
    version.to_le_bytes().to_vec()
}

/// The stored form of an ACL; an error says what is wrong with it.
pub(super) fn to_stored(acl: &[u8]) -> Result<Vec<u8>, &'static str> {
    let Some(entries) = entries(acl, XATTR_VERSION) else {
        return Err("it is not a POSIX ACL of version 2");
    };
    let Ok(entries) = <[AclEntry]>::ref_from_bytes(entries) else {
        return Err("its POSIX ACL ends within an entry");
    };
    let mut stored = header(STORED_VERSION);
    for entry in entries {
        let tag = entry.short.tag.get();
        if !TAGS.contains(&tag) {
            return Err("its POSIX ACL has an entry of an unknown kind");
        }
        if NAMED.contains(&tag) {
            stored.extend_from_slice(entry.as_bytes());
        } else {
            stored.extend_from_slice(entry.short.as_bytes());
        }
    }
    Ok(stored)
}

/// The form that `getxattr` gives of a stored ACL; `None` when that is damaged.
pub(super) fn to_xattr(stored: &[u8]) -> Option<Vec<u8>> {
    let mut rest = entries(stored, STORED_VERSION)?;
    let mut acl = header(XATTR_VERSION);
    while !rest.is_empty() {
        let (short, behind) = AclShortEntry::ref_from_prefix(rest).ok()?;
        if NAMED.contains(&short.tag.get()) {
            let (entry, behind) = AclEntry::ref_from_prefix(rest).ok()?;
            acl.extend_from_slice(entry.as_bytes());
            rest = behind;
        } else {
            acl.extend_from_slice(short.as_bytes());
            acl.extend_from_slice(&NO_ID.to_le_bytes());
            rest = behind;
        }
    }
    Some(acl)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acl_ids_are_stored_for_named_entries_only() {
        let entries: [(u16, u16, u32); 5] = [
            (1, 7, NO_ID),
            (2, 5, 1000),
            (4, 5, NO_ID),
            (0x10, 7, NO_ID),
            (0x20, 4, NO_ID),
        ];
        let mut acl = header(XATTR_VERSION);
        for (tag, perm, id) in entries {
            acl.extend_from_slice(&tag.to_le_bytes());
            acl.extend_from_slice(&perm.to_le_bytes());
            acl.extend_from_slice(&id.to_le_bytes());
        }
        let stored = to_stored(&acl).unwrap();
        assert_eq!(stored.len(), 4 + 4 * 4 + 8);
        assert_eq!(to_xattr(&stored).unwrap(), acl);
        assert!(to_stored(&acl[..11]).is_err());
        assert!(to_stored(&[1, 0, 0, 0]).is_err());
        assert!(to_stored(&[2, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]).is_err());
        assert!(to_xattr(&stored[..stored.len() - 1]).is_none());
        assert!(to_xattr(&acl).is_none());
    }
}
