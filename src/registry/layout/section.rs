//! A part of a file: a blob in a directory, or a member of an archive.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::Stream;
use futures_util::stream::try_unfold;

use super::blocking;
use crate::registry::Error;

/// Bytes that are read at once.
const CHUNK: u64 = 256 << 10;

/// A part of an open file. It stays readable when the file's name goes.
#[derive(Debug, Clone)]
pub(super) struct Section {
    file: Arc<File>,
    path: Arc<Path>,
    start: u64,
    len: u64,
}

impl Section {
    /// `len` bytes from `start` of the file that was opened at `path`.
    pub(super) fn new(file: Arc<File>, path: Arc<Path>, start: u64, len: u64) -> Self {
        Self {
            file,
            path,
            start,
            len,
        }
    }

    /// Its length in bytes.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Where it is, for messages.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads some bytes of it. Blocks.
    ///
    /// The range must lie within it: its length bounds what is allocated.
    pub(super) fn read(&self, range: &Range<u64>) -> Result<Bytes, Error> {
        let failed = |cause: &io::Error| Error::io(&self.path, cause);
        let len = range.end.checked_sub(range.start);
        let len = len.filter(|_| range.end <= self.len);
        let len = len
            .and_then(|len| usize::try_from(len).ok())
            .ok_or_else(|| {
                let text = format!("bytes {range:?} of {} are asked for", self.len);
                failed(&io::Error::new(io::ErrorKind::UnexpectedEof, text))
            })?;
        let mut bytes = BytesMut::zeroed(len);
        let read = self
            .file
            .read_exact_at(&mut bytes, self.start + range.start);
        read.map_err(|cause| match cause.kind() {
            io::ErrorKind::UnexpectedEof => failed(&io::Error::other("it was cut off")),
            _ => failed(&cause),
        })?;
        Ok(bytes.freeze())
    }

    /// All of it, if it is at most `limit` bytes. Blocks.
    pub(super) fn read_whole(&self, limit: u64) -> Result<Bytes, Error> {
        if self.len > limit {
            let text = format!("{} bytes are more than {limit}", self.len);
            return Err(Error::io(&self.path, &io::Error::other(text)));
        }
        self.read(&(0..self.len))
    }

    /// A range of it, read on demand, on threads that may block.
    pub(super) fn stream(
        self,
        range: Range<u64>,
    ) -> impl Stream<Item = Result<Bytes, Error>> + Send {
        try_unfold((self, range), |(section, range)| async move {
            if range.is_empty() {
                return Ok(None);
            }
            let middle = range.start.saturating_add(CHUNK).min(range.end);
            let part = range.start..middle;
            let (section, bytes) = blocking(move || {
                let bytes = section.read(&part)?;
                Ok((section, bytes))
            })
            .await?;
            Ok(Some((bytes, (section, middle..range.end))))
        })
    }
}
