//! A file for the metadata of a chain's TurboOCI layers, one behind the other, so that a chain of
//! any length takes one open file.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::format::block::{BlockDevice, SharedDevice, check_range};

/// Bytes that are copied at once.
const BUFFER_BYTES: usize = 256 << 10;

/// The file; it has no name, and goes with the last device in it.
#[derive(Debug)]
pub struct Scratch {
    file: File,
    length: Mutex<u64>,
}

impl Scratch {
    /// Uses `file`, which is empty and open for reading and writing.
    #[must_use]
    pub fn new(file: File) -> Self {
        Self {
            file,
            length: Mutex::new(0),
        }
    }

    /// Adds all of `content`, as a device.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub fn append(self: &Arc<Self>, content: &mut dyn Read) -> io::Result<SharedDevice> {
        let mut length = self.length.lock();
        let start = *length;
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let count = match content.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let part = buffer.get(..count).unwrap_or_default();
            self.file.write_all_at(part, *length)?;
            *length += count as u64;
        }
        Ok(Arc::new(Part {
            scratch: Arc::clone(self),
            start,
            size: *length - start,
        }))
    }
}

/// A part of the file.
#[derive(Debug)]
struct Part {
    scratch: Arc<Scratch>,
    start: u64,
    size: u64,
}

impl BlockDevice for Part {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        check_range(self.size, offset, buf.len() as u64)?;
        self.scratch.file.read_exact_at(buf, self.start + offset)
    }
}
