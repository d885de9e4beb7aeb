//! Which files' data lies together at the end of a layer, and in which order.

use std::sync::Arc;

use super::list::PrefetchList;
use super::usual;

/// The files that are wanted when a container starts, in the order of their data: those that most
/// programs read, then those of a list, which are next to the filesystem's metadata.
///
/// The default is that no file is.
#[derive(Debug, Clone, Default)]
pub struct DataOrder {
    has_usual: bool,
    list: Option<Arc<PrefetchList>>,
}

impl DataOrder {
    /// That with a list, if there is one.
    #[must_use]
    pub fn new(list: Option<Arc<PrefetchList>>) -> Self {
        Self {
            has_usual: true,
            list,
        }
    }

    /// The place of a file's data among that of those that are wanted, 0 for the first; `None` if
    /// it is not wanted. `parents` and `name` make up its path; `size` is in bytes.
    #[must_use]
    pub fn rank(&self, parents: &[Vec<u8>], name: &[u8], size: u64) -> Option<u32> {
        if !self.has_usual && self.list.is_none() {
            return None;
        }
        let mut path = parents.join(&b'/');
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        let listed = self.list.as_ref().and_then(|list| list.rank(&path));
        match listed {
            Some(rank) => Some(usual::END.saturating_add(rank)),
            None if self.has_usual => usual::rank(&path, size),
            None => None,
        }
    }
}
