//! A file that several readers read, each from where it is.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;

/// A file from some byte on.
pub(super) struct FileRange<'a> {
    file: &'a File,
    at: u64,
}

impl<'a> FileRange<'a> {
    pub(super) fn from(file: &'a File, at: u64) -> Self {
        Self { file, at }
    }
}

impl Read for FileRange<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(buf, self.at)?;
        self.at = self.at.saturating_add(count as u64);
        Ok(count)
    }
}
