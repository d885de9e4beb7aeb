//! POSIX ACLs: what `getxattr` gives, and the shorter form that ext4 stores (kernel,
//! `fs/ext4/acl.c`, `include/uapi/linux/posix_acl_xattr.h`).

use super::layout::{get16, get32};

const GENERIC: u32 = 2;
const STORED: u32 = 1;
/// Tags of entries that name a user or a group; no others have an id.
const NAMED: [u16; 2] = [0x02, 0x08];
/// All tags: owner, user, group, group, mask, others.
const TAGS: [u16; 6] = [0x01, 0x02, 0x04, 0x08, 0x10, 0x20];
const NO_ID: u32 = u32::MAX;

/// The stored form of an ACL; an error is what is wrong with it.
pub(super) fn to_stored(generic: &[u8]) -> Result<Vec<u8>, &'static str> {
    if generic.len() < 4 || get32(generic, 0) != GENERIC {
        return Err("it is no POSIX ACL of version 2");
    }
    let (entries, rest) = generic[4..].as_chunks::<8>();
    if !rest.is_empty() {
        return Err("its POSIX ACL ends within an entry");
    }
    let mut stored = STORED.to_le_bytes().to_vec();
    for entry in entries {
        let tag = get16(entry, 0);
        if !TAGS.contains(&tag) {
            return Err("its POSIX ACL has an entry of no known kind");
        }
        let is_named = NAMED.contains(&tag);
        stored.extend_from_slice(&entry[..if is_named { 8 } else { 4 }]);
    }
    Ok(stored)
}

/// The generic form of a stored ACL; `None` when it is none.
pub(super) fn to_generic(stored: &[u8]) -> Option<Vec<u8>> {
    if stored.len() < 4 || get32(stored, 0) != STORED {
        return None;
    }
    let mut generic = GENERIC.to_le_bytes().to_vec();
    let mut rest = &stored[4..];
    while !rest.is_empty() {
        let tag = get16(rest.get(..4)?, 0);
        let length = if NAMED.contains(&tag) { 8 } else { 4 };
        let entry = rest.get(..length)?;
        generic.extend_from_slice(entry);
        if length == 4 {
            generic.extend_from_slice(&NO_ID.to_le_bytes());
        }
        rest = rest.get(length..)?;
    }
    Some(generic)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_stored_where_entries_name_somebody_only() {
        let entries: [(u16, u16, u32); 5] = [
            (1, 7, NO_ID),
            (2, 5, 1000),
            (4, 5, NO_ID),
            (0x10, 7, NO_ID),
            (0x20, 4, NO_ID),
        ];
        let mut generic = GENERIC.to_le_bytes().to_vec();
        for (tag, perm, id) in entries {
            generic.extend_from_slice(&tag.to_le_bytes());
            generic.extend_from_slice(&perm.to_le_bytes());
            generic.extend_from_slice(&id.to_le_bytes());
        }
        let stored = to_stored(&generic).unwrap();
        assert_eq!(stored.len(), 4 + 4 * 4 + 8);
        assert_eq!(to_generic(&stored).unwrap(), generic);
        assert!(to_stored(&generic[..11]).is_err());
        assert!(to_stored(&[1, 0, 0, 0]).is_err());
        assert!(to_stored(&[2, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]).is_err());
        assert!(to_generic(&stored[..stored.len() - 1]).is_none());
        assert!(to_generic(&generic).is_none());
    }
}
