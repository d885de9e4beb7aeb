//! Access control lists as `setxattr` takes them, and what `chmod` makes of them (kernel,
//! `fs/posix_acl.c`, `include/uapi/linux/posix_acl_xattr.h`).

const VERSION: u32 = 2;
/// Tags of `linux/posix_acl.h`.
const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// What the value of an attribute is to the kernel.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// Of a version that it does not know: the attribute is not supported.
    Unsupported,
    /// A list without entries, which takes away the one that is there.
    Nothing,
    /// A list.
    List(Acl),
}

/// A well-formed list: tags, permissions and ids in the kernel's order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Acl(Vec<(u16, u16, u32)>);

impl Value {
    /// `None` for what the kernel refuses.
    pub(super) fn parse(value: &[u8]) -> Option<Self> {
        if value.is_empty() {
            return Some(Self::Nothing);
        }
        let (version, entries) = value.split_first_chunk::<4>()?;
        if u32::from_le_bytes(*version) != VERSION {
            return Some(Self::Unsupported);
        }
        let (entries, rest) = entries.as_chunks::<8>();
        if !rest.is_empty() {
            return None;
        }
        if entries.is_empty() {
            return Some(Self::Nothing);
        }
        let entries = entries.iter().map(|[t0, t1, p0, p1, id @ ..]| {
            (
                u16::from_le_bytes([*t0, *t1]),
                u16::from_le_bytes([*p0, *p1]),
                u32::from_le_bytes(*id),
            )
        });
        let acl = Acl(entries.collect());
        acl.is_valid().then_some(Self::List(acl))
    }
}

impl Acl {
    /// As `posix_acl_valid` has it: owner, users, group, groups, mask, others; a mask where
    /// there are users or groups.
    fn is_valid(&self) -> bool {
        let place = |tag| match tag {
            USER_OBJ => 0,
            USER => 1,
            GROUP_OBJ => 2,
            GROUP => 3,
            MASK => 4,
            _ => 5,
        };
        let count = |wanted| self.0.iter().filter(|(tag, ..)| *tag == wanted).count();
        let known = self.0.iter().all(|&(tag, permissions, id)| {
            let is_named = matches!(tag, USER | GROUP);
            let is_known = matches!(tag, USER_OBJ | USER | GROUP_OBJ | GROUP | MASK | OTHER);
            is_known && permissions <= 7 && (!is_named || id != u32::MAX)
        });
        known
            && self.0.is_sorted_by_key(|(tag, ..)| place(*tag))
            && [USER_OBJ, GROUP_OBJ, OTHER]
                .iter()
                .all(|tag| count(*tag) == 1)
            && count(MASK) <= 1
            && (count(USER) + count(GROUP) == 0 || count(MASK) == 1)
    }

    /// After `chmod`: the mode's bits are those of owner, others, and mask, or the group
    /// where there is no mask. `None` where the mode then says all of it.
    pub(super) fn with_mode(mut self, mode: u16) -> Option<Self> {
        let has_mask = self.0.iter().any(|(tag, ..)| *tag == MASK);
        for (tag, permissions, _) in &mut self.0 {
            match *tag {
                USER_OBJ => *permissions = mode >> 6 & 7,
                GROUP_OBJ if !has_mask => *permissions = mode >> 3 & 7,
                MASK => *permissions = mode >> 3 & 7,
                OTHER => *permissions = mode & 7,
                _ => {}
            }
        }
        (has_mask || self.0.len() > 3).then_some(self)
    }

    /// The attribute's value.
    pub(super) fn to_value(&self) -> Vec<u8> {
        let mut value = VERSION.to_le_bytes().to_vec();
        for (tag, permissions, id) in &self.0 {
            value.extend_from_slice(&tag.to_le_bytes());
            value.extend_from_slice(&permissions.to_le_bytes());
            value.extend_from_slice(&id.to_le_bytes());
        }
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_ID: u32 = u32::MAX;

    fn named() -> Acl {
        Acl(vec![
            (USER_OBJ, 6, NO_ID),
            (USER, 7, 1000),
            (USER, 1, 7),
            (GROUP_OBJ, 4, NO_ID),
            (MASK, 7, NO_ID),
            (OTHER, 4, NO_ID),
        ])
    }

    #[test]
    fn an_acl_is_validated_as_in_the_kernel() {
        let value = named().to_value();
        assert_eq!(Value::parse(&value), Some(Value::List(named())));
        assert_eq!(Value::parse(b""), Some(Value::Nothing));
        assert_eq!(Value::parse(&value[..4]), Some(Value::Nothing));
        assert_eq!(Value::parse(b"junk"), Some(Value::Unsupported));
        for broken in [&b"abc"[..], &value[..value.len() - 1]] {
            assert_eq!(Value::parse(broken), None, "{broken:?}");
        }
        let change = |change: fn(&mut Vec<(u16, u16, u32)>)| {
            let mut acl = named();
            change(&mut acl.0);
            Value::parse(&acl.to_value())
        };
        for refused in [
            change(|acl| acl.swap(0, 1)),
            change(|acl| acl.swap(3, 4)),
            change(|acl| acl.retain(|entry| entry.0 != MASK)),
            change(|acl| acl.retain(|entry| entry.0 != USER_OBJ)),
            change(|acl| acl.push((OTHER, 0, NO_ID))),
            change(|acl| acl[0].1 = 8),
            change(|acl| acl[1].2 = NO_ID),
            change(|acl| acl[5].0 = 0x40),
        ] {
            assert_eq!(refused, None);
        }
    }

    #[test]
    fn the_mode_is_applied_after_the_acl() {
        let acl = named().with_mode(0o640).unwrap();
        let permissions: Vec<_> = acl.0.iter().map(|entry| entry.1).collect();
        assert_eq!(permissions, [6, 7, 1, 4, 4, 0]);
        let plain = vec![
            (USER_OBJ, 7, NO_ID),
            (GROUP_OBJ, 7, NO_ID),
            (OTHER, 7, NO_ID),
        ];
        assert_eq!(Acl(plain.clone()).with_mode(0o640), None);
        let mut masked = plain;
        masked.insert(2, (MASK, 7, NO_ID));
        let masked = Acl(masked).with_mode(0o640).unwrap();
        let permissions: Vec<_> = masked.0.iter().map(|entry| entry.1).collect();
        assert_eq!(permissions, [6, 7, 4, 0]);
    }
}
