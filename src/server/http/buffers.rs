//! Buffers that are used again: what is read from files goes through them.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

/// The sizes that there are, in bytes.
const SIZES: [usize; 3] = [8 << 10, 64 << 10, LARGEST];
/// The largest buffer, in bytes.
pub(in crate::server) const LARGEST: usize = 256 << 10;
/// Bytes of each size that wait for their next use.
const KEPT: usize = 16 << 20;

/// Buffers that wait for their next use. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(in crate::server) struct Buffers {
    shelves: Arc<[Mutex<Vec<Vec<u8>>>; SIZES.len()]>,
}

/// A buffer; it goes back when dropped.
#[derive(Debug)]
pub(in crate::server) struct Buffer {
    bytes: Vec<u8>,
    length: usize,
    open_files: usize,
    home: Buffers,
}

impl Buffers {
    /// A buffer of `length` bytes, at most [`LARGEST`]; what is in it is anything.
    pub fn take(&self, length: usize) -> Buffer {
        let length = length.min(LARGEST);
        let open_files = SIZES.iter().position(|size| length <= *size);
        let open_files = open_files.unwrap_or(SIZES.len() - 1);
        let used = self.shelves.get(open_files).and_then(|open_files| {
            let mut open_files = open_files.lock();
            open_files.pop()
        });
        let size = SIZES.get(open_files).copied().unwrap_or(length);
        Buffer {
            bytes: used.unwrap_or_else(|| vec![0; size]),
            length,
            open_files,
            home: self.clone(),
        }
    }
}

impl Buffer {
    /// The bytes, to be filled.
    pub fn as_mut(&mut self) -> &mut [u8] {
        self.bytes.get_mut(..self.length).unwrap_or_default()
    }

    /// Its first `length` bytes, to be sent.
    pub fn freeze(mut self, length: usize) -> Bytes {
        self.length = length.min(self.length);
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        let Some(open_files) = self.home.shelves.get(self.open_files) else {
            return;
        };
        let mut open_files = open_files.lock();
        if open_files.len() * bytes.len() < KEPT {
            open_files.push(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reused_buffer_has_the_requested_length() {
        let buffers = Buffers::default();
        let mut first = buffers.take(100);
        first.as_mut().fill(7);
        let place = first.as_ref().as_ptr();
        let bytes = first.freeze(60);
        assert_eq!(bytes.len(), 60);
        drop(bytes);
        let second = buffers.take(8000);
        assert_eq!(second.as_ref().len(), 8000);
        assert_eq!(second.as_ref().as_ptr(), place);
        assert_ne!(buffers.take(9000).as_ref().as_ptr(), place);
    }

    #[test]
    fn the_number_of_kept_items_is_limited() {
        let buffers = Buffers::default();
        let taken: Vec<Buffer> = (0..100).map(|_| buffers.take(LARGEST)).collect();
        drop(taken);
        assert_eq!(buffers.shelves[2].lock().len(), KEPT / LARGEST);
    }
}
