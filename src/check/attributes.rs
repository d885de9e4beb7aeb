//! What an inode's attributes come to: as containerd sets them, one call after the other, and
//! as the kernel answers.
//! Source: containerd `pkg/archive/tar.go`, `createTarFile`, and `tar_unix.go`; Linux
//! `fs/posix_acl.c`, `fs/attr.c`.

use super::acl::List;
use super::tree::{Attributes, Kind, Time, Xattrs};

const ACCESS: &[u8] = b"system.posix_acl_access";
const DEFAULT: &[u8] = b"system.posix_acl_default";
const CAPABILITY: &[u8] = b"security.capability";

/// The last time that containerd sets, 2^63 - 1 nanoseconds after 1970.
const LATEST: Time = Time {
    secs: 9_223_372_036,
    nanos: 854_775_807,
};
/// What it sets for all that are later, or before 1970.
const EPOCH: Time = Time { secs: 0, nanos: 0 };

/// What an entry of a layer says of its inode.
pub(super) struct Described {
    pub(super) mode: u16,
    /// `None` leaves who owns it.
    pub(super) uid: Option<u32>,
    /// Likewise.
    pub(super) gid: Option<u32>,
    pub(super) mtime: Time,
    pub(super) xattrs: Xattrs,
}

/// The attributes of a new inode in a directory. What a directory hands on: its group, if
/// the set-group-id bit says so, and its default list.
pub(super) fn new_in(parent: &Attributes, kind: &Kind, mode: u16) -> Result<Attributes, String> {
    let mut new = Attributes {
        mode,
        ..Attributes::implicit()
    };
    if parent.mode & 0o2000 != 0 {
        new.gid = parent.gid;
    }
    let handed_on = parent.xattrs.get(DEFAULT);
    if let Some(list) = handed_on.filter(|_| !is_link(kind)) {
        set(&mut new.xattrs, ACCESS, list)?;
        if kind.is_directory() {
            new.xattrs.insert(DEFAULT.into(), list.clone());
        }
    }
    chmod(&mut new, kind, mode)?;
    Ok(new)
}

/// The attributes of an inode with these when an entry has been applied to it.
pub(super) fn applied(
    mut node: Attributes,
    kind: &Kind,
    entry: &Described,
) -> Result<Attributes, String> {
    node.uid = entry.uid.unwrap_or(node.uid);
    node.gid = entry.gid.unwrap_or(node.gid);
    // `chown` takes it from whatever is no directory.
    if !kind.is_directory() {
        node.xattrs.remove(CAPABILITY);
    }
    for (name, value) in entry.xattrs.iter().filter(|(name, _)| is_taken(name, kind)) {
        set(&mut node.xattrs, name, value)?;
    }
    chmod(&mut node, kind, entry.mode)?;
    node.mtime = match entry.mtime {
        time if time < EPOCH || time > LATEST => EPOCH,
        time => time,
    };
    Ok(node)
}

fn is_link(kind: &Kind) -> bool {
    matches!(kind, Kind::Symlink(_))
}

/// Whether an inode of this kind can have an attribute that containerd sets. `trusted` ones
/// it leaves out; what Linux has no place for, too.
fn is_taken(name: &[u8], kind: &Kind) -> bool {
    match name {
        ACCESS => !is_link(kind),
        DEFAULT => kind.is_directory(),
        _ => {
            let has_user = matches!(kind, Kind::File(_) | Kind::Directory(_));
            let below = |space: &[u8]| {
                name.strip_prefix(space)
                    .is_some_and(|rest| !rest.is_empty())
            };
            below(b"security.") || (has_user && below(b"user."))
        }
    }
}

fn set(xattrs: &mut Xattrs, name: &[u8], value: &[u8]) -> Result<(), String> {
    let is_list = matches!(name, ACCESS | DEFAULT);
    if is_list && List::is_of_another_version(value) {
        // Linux says that it does not know such, and containerd goes on.
        return Ok(());
    }
    let value = match name {
        ACCESS | DEFAULT => List::parse(value)?
            .filter(|list| name == DEFAULT || !list.is_a_mode())
            .map(|list| list.value()),
        _ => Some(value.to_vec()),
    };
    match value {
        Some(value) => drop(xattrs.insert(name.into(), value.into())),
        None => drop(xattrs.remove(name)),
    }
    Ok(())
}

fn chmod(node: &mut Attributes, kind: &Kind, mode: u16) -> Result<(), String> {
    if is_link(kind) {
        node.mode = 0o777;
        return Ok(());
    }
    node.mode = mode;
    if let Some(value) = node.xattrs.get(ACCESS).cloned() {
        let list = List::parse(&value)?.map(|list| list.with_mode(mode).value());
        set(&mut node.xattrs, ACCESS, &list.unwrap_or_default())?;
    }
    Ok(())
}
