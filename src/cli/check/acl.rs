//! Access control lists: from the text in a layer to the value in a filesystem.
//! Source: `acl(5)` § text forms; Linux `include/uapi/linux/posix_acl_xattr.h`.

use std::collections::BTreeMap;

/// A list entry's place in the kernel's order, and whose it is.
type Key = (u16, u32);

/// The id of entries that are nobody's in particular.
const UNDEFINED: u32 = u32::MAX;

/// The value of the attribute that a text stands for; `None` where it cannot be kept, or
/// would only repeat the mode.
pub(super) fn value(text: &[u8], is_default: bool) -> Option<Vec<u8>> {
    let mut list: BTreeMap<Key, u16> = BTreeMap::new();
    for line in String::from_utf8(text.to_vec()).ok()?.split(['\n', ',']) {
        let line = line.split_once('#').map_or(line, |(line, _)| line).trim();
        if line.is_empty() {
            continue;
        }
        let (key, permissions) = parse(line)?;
        if list.insert(key, permissions).is_some() {
            return None;
        }
    }
    let has = |tag| list.contains_key(&(tag, UNDEFINED));
    let has_named = list.keys().any(|&(tag, _)| matches!(tag, 2 | 8));
    if !(has(1) && has(4) && has(32)) || (has_named && !has(16)) {
        return None;
    }
    if !is_default && list.len() == 3 {
        return None;
    }
    let head = 2u32.to_le_bytes();
    let entries = list.iter().flat_map(|(&(tag, id), &permissions)| {
        let (tag, permissions) = (tag.to_le_bytes(), permissions.to_le_bytes());
        [&tag[..], &permissions[..], &id.to_le_bytes()[..]].concat()
    });
    Some(head.into_iter().chain(entries).collect())
}

/// The permissions that a file with this list has, by the list's value: whoever restores a
/// list so restores the mode with it, and bsdtar relies on that.
pub(super) fn mode(value: &[u8]) -> u16 {
    let (entries, _) = value.get(4..).unwrap_or_default().as_chunks::<8>();
    let permissions = |wanted: u8| {
        let entry = entries.iter().find(|entry| entry[0] == wanted)?;
        Some(u16::from(entry[2]) & 7)
    };
    let group = permissions(16).or(permissions(4)).unwrap_or(0);
    permissions(1).unwrap_or(0) << 6 | group << 3 | permissions(32).unwrap_or(0)
}

fn parse(line: &str) -> Option<(Key, u16)> {
    let fields: Vec<&str> = line.split(':').map(str::trim).collect();
    // `other:r--` for `other::r--`; a fourth field is the number of the name in the second.
    let (kind, name, permissions, number) = match fields.as_slice() {
        [kind, permissions] => (*kind, "", *permissions, None),
        [kind, name, permissions] => (*kind, *name, *permissions, None),
        [kind, name, permissions, number, ..] => (*kind, *name, *permissions, Some(*number)),
        _ => return None,
    };
    let tag = match (kind, name) {
        ("user" | "u", "") => 1,
        ("user" | "u", _) => 2,
        ("group" | "g", "") => 4,
        ("group" | "g", _) => 8,
        ("mask" | "m", "") => 16,
        ("other" | "o", "") => 32,
        _ => return None,
    };
    let id = match tag {
        2 | 8 => number.unwrap_or(name).parse().ok()?,
        _ => UNDEFINED,
    };
    let permissions = permissions.bytes().try_fold(0, |bits, letter| {
        let bit = match letter {
            b'r' => 4,
            b'w' => 2,
            b'x' => 1,
            b'-' => 0,
            _ => return None,
        };
        Some(bits | bit)
    })?;
    Some(((tag, id), permissions))
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    #[test]
    fn a_list_takes_the_kernels_form() {
        let text = b"user::rwx\nuser:lisa:r-x:1000\ngroup::r-x\nmask::r-x\nother::---\n";
        let mut hex = String::new();
        for byte in value(text, false).unwrap() {
            write!(hex, "{byte:02x}").unwrap();
        }
        // As `getfattr -e hex` shows it after the `setfacl` of the same.
        assert_eq!(
            hex,
            "02000000\
             01000700ffffffff\
             02000500e8030000\
             04000500ffffffff\
             10000500ffffffff\
             20000000ffffffff"
        );
    }

    #[test]
    fn the_mask_is_the_modes_group() {
        let list = value(
            b"user::rw-,user:7:rwx,group::r--,mask::rwx,other::---",
            false,
        );
        assert_eq!(mode(&list.unwrap()), 0o670);
    }

    #[test]
    fn what_the_mode_says_is_no_list() {
        assert_eq!(value(b"user::rwx,group::r-x,other::---", false), None);
        assert!(value(b"user::rwx,group::r-x,other::---", true).is_some());
        assert_eq!(value(b"user:nobody-knows:rwx", false), None);
    }
}
