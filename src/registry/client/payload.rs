//! Bodies of requests that can be sent again.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::PathBuf;

use bytes::Bytes;
use futures_util::stream::try_unfold;

use crate::registry::{BlobSource, Body, Error, body};

/// Bytes that are sent at a time.
const CHUNK_BYTES: usize = 128 << 10;
/// Bytes that are read at a time.
const READ_BYTES: usize = 1 << 20;

/// What a request carries.
#[derive(Debug, Clone)]
pub(super) enum Payload {
    Empty,
    Bytes(Bytes),
    /// A part of a file.
    File {
        path: PathBuf,
        offset: u64,
        length: u64,
    },
}

impl Payload {
    /// The bytes of `source` from `start` to `end`.
    pub(super) fn part(source: &BlobSource, start: u64, end: u64) -> Self {
        match source {
            BlobSource::Bytes(bytes) => {
                let at = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX);
                let end = at(end).min(bytes.len());
                Self::Bytes(bytes.slice(at(start).min(end)..end))
            }
            BlobSource::File(path) | BlobSource::Verified { path, .. } => Self::File {
                path: path.clone(),
                offset: start,
                length: end.saturating_sub(start),
            },
        }
    }

    pub(super) fn length(&self) -> u64 {
        match self {
            Self::Empty => 0,
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File { length, .. } => *length,
        }
    }

    pub(super) fn body(&self) -> Body {
        match self {
            Self::Empty => body::empty(),
            Self::Bytes(bytes) => body::full(bytes.clone()),
            Self::File {
                path,
                offset,
                length,
            } => {
                let part = FilePart {
                    path: path.clone(),
                    file: None,
                    offset: *offset,
                    left: *length,
                    piece: Bytes::new(),
                };
                body::stream(try_unfold(part, FilePart::next))
            }
        }
    }
}

/// A part of a file, sent in chunks and read in pieces of several.
struct FilePart {
    path: PathBuf,
    file: Option<File>,
    offset: u64,
    /// Bytes that are still to be read.
    left: u64,
    piece: Bytes,
}

impl FilePart {
    async fn next(mut self) -> Result<Option<(Bytes, Self)>, Error> {
        if self.piece.is_empty() {
            if self.left == 0 {
                return Ok(None);
            }
            let read = tokio::task::spawn_blocking(move || {
                self.read_piece()?;
                Ok::<_, Error>(self)
            });
            let lost = |_| Error::Configuration("the reading of a file was stopped".to_owned());
            self = read.await.map_err(lost)??;
        }
        let chunk = self.piece.split_to(CHUNK_BYTES.min(self.piece.len()));
        Ok(Some((chunk, self)))
    }

    /// Reads the next piece; this waits for the disk.
    fn read_piece(&mut self) -> Result<(), Error> {
        let failed = |error| Error::io(&self.path, &error);
        let mut file = if let Some(file) = self.file.take() {
            file
        } else {
            let mut file = File::open(&self.path).map_err(failed)?;
            file.seek(SeekFrom::Start(self.offset)).map_err(failed)?;
            file
        };
        let wanted = usize::try_from(self.left).map_or(READ_BYTES, |left| left.min(READ_BYTES));
        // Unlike a buffer that is filled by position, it need not be zeroed first.
        let mut piece = Vec::with_capacity(wanted);
        let mut part = file.by_ref().take(wanted as u64);
        let filled = part.read_to_end(&mut piece).map_err(failed)?;
        if filled < wanted {
            let missing = self.left.saturating_sub(filled as u64);
            return Err(Error::Io {
                path: self.path.display().to_string(),
                cause: format!("it ends {missing} bytes early: it changed while being uploaded"),
            });
        }
        self.file = Some(file);
        self.offset = self.offset.saturating_add(filled as u64);
        self.left = self.left.saturating_sub(filled as u64);
        self.piece = piece.into();
        Ok(())
    }
}
