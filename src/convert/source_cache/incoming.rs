//! A blob that is being downloaded, as its readers see it.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream::try_unfold;
use rustix::io::{Errno, ReadWriteFlags, preadv2};
use tokio::sync::watch;

use crate::oci::Digest;
use crate::registry::Error;

/// So much of a blob's end is given out only when its digest is verified.
const HELD_BYTES: u64 = 64 << 10;
/// Bytes that are read at once, which each reader has in memory.
const READ_BYTES: usize = 64 << 10;
/// A range that begins so few bytes behind what is there is waited for.
const NEAR_BYTES: u64 = 4 << 20;

/// A download that is under way. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Incoming {
    digest: Digest,
    state: watch::Receiver<State>,
}

/// How far a download has come.
#[derive(Debug, Clone)]
pub(super) enum State {
    /// The upstream has not answered yet.
    Opening,
    /// Its bytes come.
    Coming(Coming),
    /// There will be none.
    Failed(Error),
}

#[derive(Debug, Clone)]
pub(super) struct Coming {
    /// The blob's file, under whatever name. It is not removed from the disk while this is open.
    pub(super) file: Arc<File>,
    pub(super) size: u64,
    /// Bytes that are in the file.
    pub(super) written: u64,
    pub(super) end: End,
}

/// How a download ended.
#[derive(Debug, Clone)]
pub(super) enum End {
    /// It has not.
    None,
    /// All bytes are there, and are the digest's.
    Verified,
    /// All bytes that will be there are.
    Broken(Error),
}

/// Who reads a download.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trust {
    /// Who takes what comes for the blob: gets all of it only if it is.
    Blindly,
    /// Who verifies the digest, too.
    Verifying,
}

/// Reads a range of a blob that is being downloaded.
#[derive(Debug, Clone)]
pub struct Reader {
    digest: Digest,
    state: watch::Receiver<State>,
    file: Arc<File>,
    size: u64,
    left: Range<u64>,
    trust: Trust,
}

/// The task is gone: the process ends.
fn interrupted(digest: &Digest) -> Error {
    Error::Unreachable {
        place: digest.to_string(),
        cause: "the download was interrupted".to_owned(),
    }
}

impl Incoming {
    pub(super) fn new(digest: Digest) -> (watch::Sender<State>, Self) {
        let (sender, state) = watch::channel(State::Opening);
        (sender, Self { digest, state })
    }

    /// What is downloaded.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Waits until the upstream has answered; the reader is of the whole blob.
    ///
    /// # Errors
    /// That the upstream has none, or none for the one that began the download.
    pub async fn opened(mut self) -> Result<Reader, Error> {
        let waited = self
            .state
            .wait_for(|state| !matches!(state, State::Opening))
            .await;
        let state = waited
            .map(|state| state.clone())
            .map_err(|_| interrupted(&self.digest))?;
        match state {
            State::Coming(coming) => Ok(Reader {
                digest: self.digest,
                state: self.state,
                file: coming.file,
                size: coming.size,
                left: 0..coming.size,
                trust: Trust::Blindly,
            }),
            State::Failed(error) => Err(error),
            State::Opening => Err(interrupted(&self.digest)),
        }
    }
}

impl Reader {
    /// The blob's length in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The first byte that was not given out yet.
    pub(super) fn offset(&self) -> u64 {
        self.left.start
    }

    /// Whether a byte is there, or soon will be.
    #[must_use]
    pub fn is_near(&self, offset: u64) -> bool {
        match &*self.state.borrow() {
            State::Coming(coming) => offset <= coming.written.saturating_add(NEAR_BYTES),
            State::Opening | State::Failed(_) => false,
        }
    }

    /// The same, for this range only.
    #[must_use]
    pub fn of(self, range: Range<u64>) -> Self {
        Self {
            left: range.start..range.end.min(self.size),
            ..self
        }
    }

    /// The same, for who verifies the digest.
    pub(super) fn verifying(self) -> Self {
        Self {
            trust: Trust::Verifying,
            ..self
        }
    }

    /// The next bytes; `None` at the end.
    ///
    /// # Errors
    /// That the download broke off, or brought other bytes.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        if self.left.is_empty() {
            return Ok(None);
        }
        let until = self.wait().await?;
        let length = usize::try_from(until.saturating_sub(self.left.start));
        let length = length.unwrap_or(READ_BYTES).min(READ_BYTES);
        let bytes = read(&self.file, self.left.start, length)
            .await
            .map_err(|cause| Error::Io {
                path: self.digest.to_string(),
                cause: cause.to_string(),
            })?;
        self.left.start = self.left.start.saturating_add(bytes.len() as u64);
        Ok(Some(bytes))
    }

    /// Waits for bytes, and says up to where they may be given out.
    async fn wait(&mut self) -> Result<u64, Error> {
        loop {
            if let State::Coming(coming) = &*self.state.borrow_and_update() {
                let until = available(coming, self.trust).min(self.left.end);
                if until > self.left.start {
                    return Ok(until);
                }
                if let End::Broken(error) = &coming.end {
                    return Err(error.clone());
                }
            }
            if self.state.changed().await.is_err() {
                return Err(interrupted(&self.digest));
            }
        }
    }

    /// The bytes as a stream.
    pub fn into_stream(self) -> impl Stream<Item = Result<Bytes, Error>> + Send + 'static {
        try_unfold(self, |mut reader| async move {
            let bytes = reader.next().await?;
            Ok(bytes.map(|bytes| (bytes, reader)))
        })
    }
}

/// Up to where bytes may be given out.
fn available(coming: &Coming, trust: Trust) -> u64 {
    match (&coming.end, trust) {
        (End::Verified, _) | (_, Trust::Verifying) => coming.written,
        _ => coming.written.min(coming.size.saturating_sub(HELD_BYTES)),
    }
}

/// Reads `length` bytes: what was just written is in memory, and read at once.
pub(super) async fn read(file: &Arc<File>, offset: u64, length: usize) -> io::Result<Bytes> {
    let mut buffer = vec![0; length];
    match preadv2(
        &**file,
        &mut [IoSliceMut::new(&mut buffer)],
        offset,
        ReadWriteFlags::NOWAIT,
    ) {
        Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(length) => {
            buffer.truncate(length);
            return Ok(buffer.into());
        }
        Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS | Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    let file = Arc::clone(file);
    tokio::task::spawn_blocking(move || {
        file.read_exact_at(&mut buffer, offset)?;
        Ok(buffer.into())
    })
    .await
    .map_err(io::Error::other)?
}
