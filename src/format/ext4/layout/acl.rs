//! POSIX ACLs, as `getxattr` gives them (`include/uapi/linux/posix_acl_xattr.h`) and as ext4
//! stores them (`acl.h`).

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::format::assert_layout::assert_layout;

/// What both forms begin with.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct AclHeader {
    pub(crate) version: U32,
}

assert_layout!(AclHeader, 4, { version: 0 });

/// An entry with an id.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct AclEntry {
    pub(crate) short: AclShortEntry,
    pub(crate) id: U32,
}

assert_layout!(AclEntry, 8, { short: 0, id: 4 });

/// An entry without an id.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct AclShortEntry {
    pub(crate) tag: U16,
    pub(crate) permissions: U16,
}

assert_layout!(AclShortEntry, 4, { tag: 0, permissions: 2 });
