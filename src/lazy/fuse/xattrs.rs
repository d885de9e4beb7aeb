//! Extended attributes. The kernel does not keep them, and asks for some at each `execve`.

use std::sync::Arc;

use moka::sync::Cache;

use crate::format::ext4::{Error, Ino};
use crate::lazy::ImageFilesystem;

/// Most bytes of attributes in memory.
const MOST: u64 = 8 << 20;
/// What an inode costs beside the attributes themselves.
const OVERHEAD: u32 = 128;

type Pairs = Arc<Vec<(Vec<u8>, Vec<u8>)>>;

/// Attributes by inode.
pub(super) struct Xattrs(Cache<Ino, Pairs>);

impl Xattrs {
    pub(super) fn new() -> Self {
        let weigher = |_: &Ino, pairs: &Pairs| {
            let bytes = pairs.iter().map(|(name, value)| name.len() + value.len());
            u32::try_from(bytes.sum::<usize>())
                .unwrap_or(u32::MAX)
                .saturating_add(OVERHEAD)
        };
        let cache = Cache::builder().max_capacity(MOST).weigher(weigher);
        Self(cache.build())
    }

    /// All attributes of an inode.
    pub(super) fn of(&self, filesystem: &ImageFilesystem, ino: Ino) -> Result<Pairs, Arc<Error>> {
        self.0
            .try_get_with(ino, || filesystem.xattrs(ino).map(Arc::new))
    }
}

/// The names as `listxattr` gives them. Those of `trusted.` are for root.
pub(super) fn list(pairs: &[(Vec<u8>, Vec<u8>)], is_root: bool) -> Vec<u8> {
    let mut names = Vec::new();
    for (name, _) in pairs {
        if is_root || !name.starts_with(b"trusted.") {
            names.extend_from_slice(name);
            names.push(0);
        }
    }
    names
}
