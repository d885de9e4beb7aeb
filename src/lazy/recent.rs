//! Pieces in memory, the last used of them.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

/// A piece of a blob: which blob, and the number of the piece.
pub(super) type Key = (u32, u64);

/// Pieces up to a number of bytes; those that were not used for longest are dropped.
#[derive(Debug)]
pub(super) struct Recent {
    limit: u64,
    bytes: u64,
    clock: u64,
    pieces: HashMap<Key, (Bytes, u64)>,
    /// The pieces by when they were last used.
    order: BTreeMap<u64, Key>,
}

impl Recent {
    pub(super) fn new(limit: u64) -> Self {
        Self {
            limit,
            bytes: 0,
            clock: 0,
            pieces: HashMap::new(),
            order: BTreeMap::new(),
        }
    }

    pub(super) fn contains(&self, key: Key) -> bool {
        self.pieces.contains_key(&key)
    }

    pub(super) fn get(&mut self, key: Key) -> Option<Bytes> {
        let (bytes, used) = self.pieces.get_mut(&key)?;
        self.clock += 1;
        self.order.remove(used);
        self.order.insert(self.clock, key);
        *used = self.clock;
        Some(bytes.clone())
    }

    pub(super) fn remove(&mut self, key: Key) {
        if let Some((bytes, used)) = self.pieces.remove(&key) {
            self.order.remove(&used);
            self.bytes -= bytes.len() as u64;
        }
    }

    /// Removes all pieces of a blob.
    pub(super) fn remove_all(&mut self, blob: u32) {
        let keys: Vec<Key> = self.pieces.keys().copied().collect();
        for key in keys.into_iter().filter(|key| key.0 == blob) {
            self.remove(key);
        }
    }

    pub(super) fn insert(&mut self, key: Key, bytes: Bytes) {
        self.remove(key);
        self.clock += 1;
        self.bytes += bytes.len() as u64;
        self.order.insert(self.clock, key);
        self.pieces.insert(key, (bytes, self.clock));
        while self.bytes > self.limit
            && let Some((_, oldest)) = self.order.pop_first()
        {
            if let Some((bytes, _)) = self.pieces.remove(&oldest) {
                self.bytes -= bytes.len() as u64;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pieces_that_were_not_used_for_longest_are_dropped() {
        let mut recent = Recent::new(30);
        for number in 0..3 {
            recent.insert((0, number), Bytes::from_static(&[0; 10]));
        }
        assert!(recent.get((0, 0)).is_some());
        recent.insert((1, 0), Bytes::from_static(&[1; 10]));
        let left = [(0, 0), (0, 1), (0, 2), (1, 0)].map(|key| recent.contains(key));
        assert_eq!(left, [true, false, true, true]);
        recent.insert((1, 0), Bytes::from_static(&[1; 21]));
        assert_eq!((recent.bytes, recent.pieces.len()), (21, 1));
        recent.remove((1, 0));
        recent.remove((1, 0));
        assert_eq!((recent.bytes, recent.order.len()), (0, 0));
        for (blob, number) in [(1, 0), (2, 1), (1, 2)] {
            recent.insert((blob, number), Bytes::from_static(&[0; 10]));
        }
        recent.remove_all(1);
        assert_eq!((recent.bytes, recent.order.len()), (10, 1));
        assert!(recent.contains((2, 1)));
    }
}
