//! What a node has when an entry was applied to it, as the kernel comes to it when containerd
//! makes the node, then sets owner, attributes, mode and times, in this order.

use super::acl::{Acl, Value};
use super::{Attributes, Entry, FileType, Ino, Layer, Problem, Timestamp};
use crate::format::block::BlockDeviceMut;

pub(super) const ACCESS: &[u8] = b"system.posix_acl_access";
pub(super) const DEFAULT: &[u8] = b"system.posix_acl_default";
pub(super) const CAPABILITY: &[u8] = b"security.capability";
/// The last second of which containerd can tell the nanoseconds since 1970, and the last of
/// them: any other time, and any before 1970, becomes 1970.
const LATEST: (i64, u32) = (i64::MAX / 1_000_000_000, 854_775_807);
const SET_GID: u16 = 0o2000;

/// What a directory hands on to the nodes that are made in it.
#[derive(Debug, Clone, Default)]
pub(super) struct Heritage {
    /// Its group, if it has the set-group-id bit.
    gid: u32,
    acl: Option<Acl>,
}

/// What a directory has that no entry describes.
pub(in crate::convert) fn implicit() -> Attributes {
    Attributes {
        mode: 0o755,
        uid: 0,
        gid: 0,
        mtime: Timestamp { secs: 0, nanos: 0 },
        xattrs: Vec::new(),
    }
}

impl Heritage {
    /// A new node's attributes, with this mode.
    pub(super) fn node(&self, file_type: FileType, mode: u16) -> Attributes {
        let mut attributes = Attributes {
            mode,
            gid: self.gid,
            ..implicit()
        };
        if let Some(acl) = self.acl.as_ref().filter(|_| file_type != FileType::Symlink) {
            let own = acl.clone().with_mode(mode);
            set(&mut attributes, ACCESS, own.map(|own| own.to_value()));
            if file_type == FileType::Directory {
                set(&mut attributes, DEFAULT, Some(acl.to_value()));
            }
        }
        attributes
    }
}

impl<D: BlockDeviceMut> Layer<'_, D> {
    /// What a directory hands on.
    pub(super) fn heritage(&mut self, directory: Ino) -> Result<Heritage, Problem> {
        if let Some((of, heritage)) = &self.heritage
            && *of == directory
        {
            return Ok(heritage.clone());
        }
        let metadata = self.filesystem.metadata(directory)?;
        let xattrs = self.filesystem.xattrs(directory)?;
        let acl = xattrs.iter().find(|(name, _)| name == DEFAULT);
        let heritage = Heritage {
            gid: match metadata.mode & SET_GID {
                0 => 0,
                _ => metadata.gid,
            },
            acl: match acl.and_then(|(_, value)| Value::parse(value)) {
                Some(Value::List(acl)) => Some(acl),
                _ => None,
            },
        };
        self.heritage = Some((directory, heritage.clone()));
        Ok(heritage)
    }

    /// The attributes that a node has now.
    pub(super) fn present(&mut self, ino: Ino) -> Result<Attributes, Problem> {
        let metadata = self.filesystem.metadata(ino)?;
        Ok(Attributes {
            mode: metadata.mode,
            uid: metadata.uid,
            gid: metadata.gid,
            mtime: metadata.mtime,
            xattrs: self.filesystem.xattrs(ino)?,
        })
    }

    pub(super) fn set_attributes(
        &mut self,
        ino: Ino,
        attributes: &Attributes,
    ) -> Result<(), Problem> {
        self.heritage = None;
        Ok(self.filesystem.set_attributes(ino, attributes)?)
    }
}

/// What becomes of a node with the attributes `node` by the entry.
pub(super) fn described(
    entry: &Entry,
    file_type: FileType,
    mut node: Attributes,
) -> Result<Attributes, Problem> {
    if file_type != FileType::Symlink {
        node.mode = entry.mode;
    }
    node.uid = entry.uid.unwrap_or(node.uid);
    node.gid = entry.gid.unwrap_or(node.gid);
    node.mtime = match (entry.mtime.secs, entry.mtime.nanos) {
        time if time.0 < 0 || time > LATEST => Timestamp { secs: 0, nanos: 0 },
        (secs, nanos) => Timestamp { secs, nanos },
    };
    for (name, value) in &entry.xattrs {
        if !is_kept(name, file_type) {
            continue;
        }
        let refused = |why| Problem::Attribute {
            name: name.clone(),
            why,
        };
        if name == ACCESS || name == DEFAULT {
            match Value::parse(value).ok_or_else(|| refused("it is no valid access list"))? {
                Value::Unsupported => {}
                Value::Nothing => set(&mut node, name, None),
                Value::List(acl) => set(&mut node, name, Some(acl.to_value())),
            }
        } else if name == CAPABILITY && !is_capability(value) {
            return Err(refused("it is no set of capabilities"));
        } else {
            set(&mut node, name, Some(value.clone()));
        }
    }
    // The mode is set last, and changes the list.
    let acl = node.xattrs.iter().find(|(name, _)| name == ACCESS);
    if let Some(Value::List(acl)) = acl.and_then(|(_, value)| Value::parse(value)) {
        let acl = acl.with_mode(node.mode);
        set(&mut node, ACCESS, acl.map(|acl| acl.to_value()));
    }
    node.xattrs.sort_unstable();
    Ok(node)
}

/// Whether Linux takes an attribute of this name for a node of this type, and containerd
/// gives it.
fn is_kept(name: &[u8], file_type: FileType) -> bool {
    let is_directory = file_type == FileType::Directory;
    if name == ACCESS {
        return file_type != FileType::Symlink;
    }
    if name == DEFAULT {
        return is_directory;
    }
    let below = |prefix: &[u8]| name.len() > prefix.len() && name.starts_with(prefix);
    below(b"security.") || (below(b"user.") && (is_directory || file_type == FileType::File))
}

/// Sets an attribute, or takes it away.
fn set(attributes: &mut Attributes, name: &[u8], value: Option<Vec<u8>>) {
    attributes.xattrs.retain(|(known, _)| known != name);
    if let Some(value) = value {
        attributes.xattrs.push((name.to_vec(), value));
    }
}

/// Whether the kernel takes a value for a file's capabilities (`security/commoncap.c`,
/// `cap_convert_nscap`): versions 2 and 3, and nothing but "effective" set beside it. An empty
/// value it takes too, and then neither gives it back nor runs the file.
fn is_capability(value: &[u8]) -> bool {
    let Some((header, rest)) = value.split_first_chunk::<4>() else {
        return false;
    };
    match u32::from_le_bytes(*header) & !1 {
        0x0200_0000 => rest.len() == 16,
        0x0300_0000 => rest.len() == 20 && !rest.ends_with(&[0xff; 4]),
        _ => false,
    }
}
