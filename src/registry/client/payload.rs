//! Bodies of our own requests, which can be sent again.

use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use futures_util::stream::try_unfold;
use tokio::io::{AsyncReadExt, AsyncSeekExt};

use crate::registry::{BlobSource, Body, Error, body};

const CHUNK: usize = 128 << 10;

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
            BlobSource::File(path) => Self::File {
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
            } => file_part(path.clone(), *offset, *length),
        }
    }
}

fn file_part(path: PathBuf, offset: u64, length: u64) -> Body {
    body::stream(try_unfold(
        (path, None, length),
        move |(path, file, left)| async move {
            if left == 0 {
                return Ok::<_, Error>(None);
            }
            let mut file = match file {
                Some(file) => file,
                None => open_at(&path, offset).await?,
            };
            let wanted = usize::try_from(left).map_or(CHUNK, |left| left.min(CHUNK));
            let mut chunk = BytesMut::with_capacity(wanted);
            let read = (&mut file)
                .take(wanted as u64)
                .read_buf(&mut chunk)
                .await
                .map_err(|error| Error::io(&path, &error))?;
            if read == 0 {
                return Err(Error::Io {
                    path: path.display().to_string(),
                    cause: format!("it ends {left} bytes early: it changed while being uploaded"),
                });
            }
            let left = left.saturating_sub(read as u64);
            Ok(Some((chunk.freeze(), (path, Some(file), left))))
        },
    ))
}

async fn open_at(path: &Path, offset: u64) -> Result<tokio::fs::File, Error> {
    let open = async {
        let mut file = tokio::fs::File::open(path).await?;
        file.set_max_buf_size(CHUNK);
        file.seek(std::io::SeekFrom::Start(offset)).await?;
        Ok(file)
    };
    open.await.map_err(|error| Error::io(path, &error))
}
