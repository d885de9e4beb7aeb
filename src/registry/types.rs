//! Requests to an upstream and its answers.

use std::fmt;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::Stream;
use http::HeaderValue;

use super::{Error, Renewal};
use crate::oci::Digest;

/// Whose credentials a request carries.
#[derive(Clone)]
pub enum Authorization {
    /// Our own, with the token flow.
    Own,
    /// A client's `Authorization`, passed as it is; a 401 is passed back.
    Client(Option<HeaderValue>),
    /// Of the clients that wait for the same content: when one's are refused, another's are used.
    Renewed(Renewal),
}

impl fmt::Debug for Authorization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Own => "Own",
            Self::Client(None) => "Client(None)",
            Self::Client(Some(_)) => "Client(***)",
            Self::Renewed(_) => "Renewed(***)",
        })
    }
}

/// What a manifest is, without its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestHead {
    /// The digest of its bytes.
    pub digest: Digest,
    /// Their number.
    pub size: u64,
    /// The media type that it is served with.
    pub media_type: String,
}

/// A manifest as it came, its digest verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawManifest {
    /// The digest of `bytes`: the one asked for, or SHA-256.
    pub digest: Digest,
    /// The media type that it was served with.
    pub media_type: String,
    /// The bytes.
    pub bytes: Bytes,
}

/// The bytes of a blob as they come, of exactly the promised length; the digest is for
/// the reader to verify, who hashes them anyway.
pub struct BlobStream {
    pub(crate) inner: Pin<Box<dyn Stream<Item = Result<Bytes, Error>> + Send>>,
}

impl Stream for BlobStream {
    type Item = Result<Bytes, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.inner.as_mut().poll_next(context)
    }
}

impl fmt::Debug for BlobStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BlobStream")
    }
}

/// Where the bytes of a blob to be pushed are.
#[derive(Debug, Clone)]
pub enum BlobSource {
    /// In memory.
    Bytes(Bytes),
    /// In a file, whole.
    File(PathBuf),
    /// In a file whose bytes were compared with the digest, and which nobody writes to again. A
    /// layout on the same file system shares it instead of copying it.
    Verified {
        /// The file.
        path: PathBuf,
        /// How it may be shared.
        sharing: Sharing,
    },
}

/// How a layout may share a file that was verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// Its blocks, where the file system can do that (`FICLONE`): the file stays its owner's alone.
    Blocks,
    /// Its inode, by a hard link: its owner removes its own name soon.
    Inode,
}

/// What pushing a blob came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// It was there before.
    Present,
    /// It was uploaded.
    Uploaded,
}

/// The upstream's answer to a pushed manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushedManifest {
    /// Its digest.
    pub digest: Digest,
    /// Whether the upstream keeps the list of referrers itself (`OCI-Subject`); otherwise
    /// the list under the fallback tag has been brought up to date.
    pub referrers_api: bool,
}

/// How a request is passed through.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ForwardOptions {
    /// Whether our own credentials replace the client's.
    pub own_credentials: bool,
    /// What becomes of redirects of `GET` and `HEAD`.
    pub redirects: Redirects,
}

/// What becomes of redirects.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Redirects {
    /// They are returned.
    #[default]
    Returned,
    /// They are followed where they stay with the host that was asked, else returned.
    FollowedAtHome,
    /// They are followed.
    Followed,
}
