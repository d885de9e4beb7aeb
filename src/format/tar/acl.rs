//! Access control lists as text, the way `SCHILY.acl.*` records carry them, to the xattr form.

/// `POSIX_ACL_XATTR_VERSION` of `linux/posix_acl_xattr.h`.
const VERSION: u32 = 2;
/// Tags of `linux/posix_acl.h`.
const USER_OBJ: u16 = 1;
const USER: u16 = 2;
const GROUP_OBJ: u16 = 4;
const GROUP: u16 = 8;
const MASK: u16 = 16;
const OTHER: u16 = 32;
const NO_ID: u32 = u32::MAX;

/// The value of `system.posix_acl_access` or `_default` for a list like
/// `user::rw-,user:lisa:r--:502,group::r--,mask::r--,other::---`.
///
/// `None` when a name has no number (only the machine that wrote it knows the id), the text
/// is no list, or it says no more than the mode does.
pub(super) fn xattr_value(text: &[u8], is_default: bool) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(text).ok()?;
    let mut entries = Vec::new();
    for line in text.split([',', '\n']) {
        let line = line.split('#').next().unwrap_or_default().trim();
        if !line.is_empty() {
            entries.push(entry(line)?);
        }
    }
    // The kernel refuses a list in any other order.
    entries.sort_unstable();
    let only = |wanted: u16| entries.iter().filter(|(tag, ..)| *tag == wanted).count();
    let named = only(USER) + only(GROUP);
    let well_formed = only(USER_OBJ) == 1
        && only(GROUP_OBJ) == 1
        && only(OTHER) == 1
        && only(MASK) <= 1
        && (named == 0 || only(MASK) == 1)
        && entries.windows(2).all(|pair| match pair {
            [(tag, id, _), (next_tag, next_id, _)] => (tag, id) != (next_tag, next_id),
            _ => true,
        });
    if !well_formed || (!is_default && entries.len() == 3) {
        return None;
    }
    let mut value = VERSION.to_le_bytes().to_vec();
    for (tag, id, permissions) in entries {
        value.extend_from_slice(&tag.to_le_bytes());
        value.extend_from_slice(&permissions.to_le_bytes());
        value.extend_from_slice(&id.to_le_bytes());
    }
    Some(value)
}

/// Tag, id and permissions of one line.
fn entry(line: &str) -> Option<(u16, u32, u16)> {
    let mut fields = line.split(':').map(str::trim);
    let (kind, who) = (fields.next()?, fields.next()?);
    // `other:r--` and `mask:rwx` leave the empty middle field out.
    let (who, permissions) = match fields.next() {
        Some(permissions) => (who, permissions),
        None => ("", who),
    };
    let number = fields.next();
    let tag = match (kind, who.is_empty()) {
        ("user" | "u", true) => USER_OBJ,
        ("user" | "u", false) => USER,
        ("group" | "g", true) => GROUP_OBJ,
        ("group" | "g", false) => GROUP,
        ("mask" | "m", true) => MASK,
        ("other" | "o", true) => OTHER,
        _ => return None,
    };
    let id = match tag {
        USER | GROUP => number.unwrap_or(who).parse().ok()?,
        _ => NO_ID,
    };
    let mut bits = 0;
    for letter in permissions.chars() {
        bits |= match letter {
            'r' => 4,
            'w' => 2,
            'x' => 1,
            '-' => 0,
            _ => return None,
        };
    }
    Some((tag, id, bits))
}

/// The permission bits of the mode of a file with this `system.posix_acl_access`: those of
/// owner, mask (the group where there is none) and others, as the kernel's `posix_acl.c` sets
/// them. `None` for what is no such list.
pub fn permissions(value: &[u8]) -> Option<u16> {
    let (version, entries) = value.split_first_chunk::<4>()?;
    let (entries, rest) = entries.as_chunks::<8>();
    if u32::from_le_bytes(*version) != VERSION || !rest.is_empty() {
        return None;
    }
    let of = |wanted: u16| {
        entries.iter().find_map(|[t0, t1, p0, p1, ..]| {
            (u16::from_le_bytes([*t0, *t1]) == wanted).then_some(u16::from_le_bytes([*p0, *p1]) & 7)
        })
    };
    let group = of(MASK).or_else(|| of(GROUP_OBJ))?;
    Some(of(USER_OBJ)? << 6 | group << 3 | of(OTHER)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mode_s_bits_are_those_of_owner_mask_and_others() {
        let of = |text: &[u8]| permissions(&xattr_value(text, true).unwrap());
        let named = b"user::rw-,user:7:rwx,group::r--,mask::rwx,other::--x";
        assert_eq!(of(named), Some(0o671));
        assert_eq!(of(b"user::rwx,group::r-x,other::---"), Some(0o750));
        let whole = xattr_value(named, false).unwrap();
        assert_eq!(permissions(&whole[..whole.len() - 1]), None);
        assert_eq!(permissions(&whole[..4]), None);
        assert_eq!(permissions(b""), None);
    }

    #[test]
    fn a_list_becomes_the_kernels_form_in_the_kernels_order() {
        let text = b"user::rw-\nuser:lisa:rwx:502\nuser:7:r--\ngroup::r--\nother::---\nmask::rwx\n";
        let mut expected = vec![2, 0, 0, 0];
        for (tag, permissions, id) in [
            (1u16, 6u16, u32::MAX),
            (2, 4, 7),
            (2, 7, 502),
            (4, 4, u32::MAX),
            (16, 7, u32::MAX),
            (32, 0, u32::MAX),
        ] {
            expected.extend_from_slice(&tag.to_le_bytes());
            expected.extend_from_slice(&permissions.to_le_bytes());
            expected.extend_from_slice(&id.to_le_bytes());
        }
        assert_eq!(xattr_value(text, false), Some(expected));
    }

    #[test]
    fn a_list_that_cannot_be_kept_is_left_out() {
        for text in [
            &b"user::rw-,group::r--,other::r--"[..],
            b"user::rw-,user:lisa:r--,group::r--,mask::r--,other::r--",
            b"user::rw-,user:1:r--,group::r--,other::r--",
            b"user::rw-,user:1:r--,user:1:r--,group::r--,mask::r--,other::r--",
            b"nonsense",
            b"",
        ] {
            assert_eq!(xattr_value(text, false), None);
        }
        assert!(xattr_value(b"user::rw-,group::r--,other::r--", true).is_some());
    }
}
