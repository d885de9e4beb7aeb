//! Access control lists, as attributes have them and as the kernel keeps them.
//! Source: Linux `include/uapi/linux/posix_acl_xattr.h`, `fs/posix_acl.c`.

const VERSION: u32 = 2;
/// Whose an entry is.
const USER_OBJ: u16 = 1;
const USER: u16 = 2;
const GROUP_OBJ: u16 = 4;
const GROUP: u16 = 8;
const MASK: u16 = 16;
const OTHER: u16 = 32;

/// A list that the kernel takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct List(Vec<Entry>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    tag: u16,
    permissions: u16,
    /// Whose it is in particular, if anybody's.
    id: u32,
}

impl List {
    /// Reads an attribute's value. `None` for one without entries, which takes a list away.
    ///
    /// # Errors
    /// When the kernel would refuse it.
    pub(super) fn parse(value: &[u8]) -> Result<Option<Self>, String> {
        if value.is_empty() {
            return Ok(None);
        }
        let refused = || "an access control list that Linux refuses".to_owned();
        let (version, entries) = value.split_first_chunk::<4>().ok_or_else(refused)?;
        let (entries, rest) = entries.as_chunks::<8>();
        if u32::from_le_bytes(*version) != VERSION || !rest.is_empty() {
            return Err(refused());
        }
        let entries: Vec<Entry> = entries
            .iter()
            .map(|&[t0, t1, p0, p1, i0, i1, i2, i3]| {
                let tag = u16::from_le_bytes([t0, t1]);
                let id = match tag {
                    USER | GROUP => u32::from_le_bytes([i0, i1, i2, i3]),
                    _ => u32::MAX,
                };
                let permissions = u16::from_le_bytes([p0, p1]);
                Entry {
                    tag,
                    permissions,
                    id,
                }
            })
            .collect();
        match entries.as_slice() {
            [] => Ok(None),
            _ if is_valid(&entries) => Ok(Some(Self(entries))),
            _ => Err(refused()),
        }
    }

    /// Whether an attribute's value is a list of a version that Linux does not know.
    pub(super) fn is_of_another_version(value: &[u8]) -> bool {
        let version = value.first_chunk::<4>();
        version.is_some_and(|version| u32::from_le_bytes(*version) != VERSION)
    }

    /// The attribute's value.
    pub(super) fn value(&self) -> Vec<u8> {
        let entries = self.0.iter().flat_map(|entry| {
            let (tag, permissions) = (entry.tag.to_le_bytes(), entry.permissions.to_le_bytes());
            [&tag[..], &permissions[..], &entry.id.to_le_bytes()[..]].concat()
        });
        VERSION.to_le_bytes().into_iter().chain(entries).collect()
    }

    /// Whether it says no more than a mode can: then the kernel keeps none.
    pub(super) fn is_a_mode(&self) -> bool {
        let mut tags = self.0.iter().map(|entry| entry.tag);
        tags.all(|tag| matches!(tag, USER_OBJ | GROUP_OBJ | OTHER))
    }

    /// What `chmod` does to it: the mode's group is the mask, where there is one.
    #[must_use]
    pub(super) fn with_mode(mut self, mode: u16) -> Self {
        let has_mask = self.0.iter().any(|entry| entry.tag == MASK);
        for entry in &mut self.0 {
            let shift = match entry.tag {
                USER_OBJ => 6,
                GROUP_OBJ if !has_mask => 3,
                MASK => 3,
                OTHER => 0,
                _ => continue,
            };
            entry.permissions = mode >> shift & 7;
        }
        self
    }
}

/// The owner, named users, the group, named groups, the mask and all others, in this order;
/// with anyone named there must be a mask.
fn is_valid(entries: &[Entry]) -> bool {
    let order = |tag| match tag {
        USER_OBJ => Some(0),
        USER => Some(1),
        GROUP_OBJ => Some(2),
        GROUP => Some(3),
        MASK => Some(4),
        OTHER => Some(5),
        _ => None,
    };
    let count = |wanted| entries.iter().filter(|entry| entry.tag == wanted).count();
    let named = count(USER) + count(GROUP);
    entries.iter().all(|entry| {
        let is_named = matches!(entry.tag, USER | GROUP);
        order(entry.tag).is_some() && entry.permissions < 8 && !(is_named && entry.id == u32::MAX)
    }) && entries.is_sorted_by_key(|entry| order(entry.tag))
        && [USER_OBJ, GROUP_OBJ, OTHER].map(count) == [1, 1, 1]
        && count(MASK) <= 1
        && (named == 0 || count(MASK) == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let list = entries.iter().map(|&(tag, permissions, id)| Entry {
            tag,
            permissions,
            id,
        });
        List(list.collect()).value()
    }

    const NAMED: [(u16, u16, u32); 5] = [
        (USER_OBJ, 6, u32::MAX),
        (USER, 7, 1000),
        (GROUP_OBJ, 4, u32::MAX),
        (MASK, 7, u32::MAX),
        (OTHER, 0, u32::MAX),
    ];

    #[test]
    fn a_mode_changes_owner_mask_and_others() {
        // As containerd leaves the three files of a layer with this list and other modes.
        let list = List::parse(&value(&NAMED)).unwrap().unwrap();
        let mut expected = NAMED;
        (expected[0].1, expected[3].1, expected[4].1) = (7, 5, 5);
        assert_eq!(list.clone().with_mode(0o4755).value(), value(&expected));
        assert_eq!(list.with_mode(0o670).value(), value(&NAMED));
        let plain: Vec<_> = NAMED.into_iter().filter(|entry| entry.0 != USER).collect();
        let list = List::parse(&value(&plain)).unwrap().unwrap();
        assert!(!list.is_a_mode());
        let plain: Vec<_> = plain.into_iter().filter(|entry| entry.0 != MASK).collect();
        assert!(List::parse(&value(&plain)).unwrap().unwrap().is_a_mode());
    }

    #[test]
    fn an_acl_that_the_kernel_refuses_is_refused() {
        assert_eq!(List::parse(b""), Ok(None));
        assert_eq!(List::parse(&value(&[])), Ok(None));
        let mut swapped = NAMED;
        swapped.swap(0, 2);
        let unmasked: Vec<_> = NAMED.into_iter().filter(|entry| entry.0 != MASK).collect();
        let mut nobody = NAMED;
        nobody[1].2 = u32::MAX;
        for wrong in [
            &b"abc"[..],
            &value(&swapped),
            &value(&unmasked),
            &value(&nobody),
        ] {
            List::parse(wrong).unwrap_err();
        }
    }
}
