//! Manifests, configs and blobs of an image, fetched and verified by their digests.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek as _};

use bytes::{Buf as _, Bytes};
use futures_util::TryStreamExt as _;
use sha2::digest::DynDigest;
use tokio::runtime::Handle;

use super::decompress;
use super::report::Damaged;
use crate::oci::{Descriptor, DiffId, Digest, Manifest, RepoName, Selector};
use crate::registry::{self, Authorization, BlobStream, RawManifest, Upstream};

/// Most bytes of a config.
const MAX_CONFIG: u64 = 16 << 20;

/// Where an image is fetched from.
#[derive(Debug, Clone)]
pub struct Repository {
    /// The registry or layout.
    pub upstream: Upstream,
    /// The repository in it.
    pub repo: RepoName,
    /// The credentials.
    pub authorization: Authorization,
}

/// A manifest or index.
pub(super) struct Document {
    pub(super) raw: RawManifest,
    pub(super) manifest: Manifest,
}

/// Fetches a manifest. Its digest is computed here too: the client's own comparison is part of
/// what is being verified.
pub(super) async fn document(image: &Repository, selector: &Selector) -> anyhow::Result<Document> {
    let raw = image
        .upstream
        .manifest(&image.repo, selector, &image.authorization)
        .await?;
    let expected = match selector {
        Selector::Digest(digest) => digest,
        Selector::Tag(_) => &raw.digest,
    };
    let mut hash = hasher(expected);
    hash.update(&raw.bytes);
    agrees("manifest", expected, hash)?;
    let manifest = Manifest::parse(&raw.media_type, &raw.bytes)?;
    Ok(Document { raw, manifest })
}

/// Fetches a config.
pub(super) async fn config(image: &Repository, descriptor: &Descriptor) -> anyhow::Result<Vec<u8>> {
    if let Some(data) = &descriptor.data {
        return Ok(data.to_vec());
    }
    let (digest, authorization) = (&descriptor.digest, &image.authorization);
    let size = image
        .upstream
        .size_of(&image.repo, descriptor, authorization);
    let size = size.await?;
    if size > MAX_CONFIG {
        return Err(Damaged(format!("config {digest}: {size} bytes are too many")).into());
    }
    let mut stream = image
        .upstream
        .blob(&image.repo, digest, size, &image.authorization)
        .await?;
    let mut hash = hasher(digest);
    let mut whole = Vec::new();
    while let Some(bytes) = stream.try_next().await? {
        hash.update(&bytes);
        whole.extend_from_slice(&bytes);
    }
    agrees("config", digest, hash)?;
    Ok(whole)
}

type Hash = Box<dyn DynDigest + Send>;

fn hasher(digest: &Digest) -> Hash {
    match digest.algorithm() {
        "sha512" => Box::new(sha2::Sha512::default()),
        _ => Box::new(sha2::Sha256::default()),
    }
}

fn agrees(what: &str, expected: &Digest, hash: Hash) -> Result<(), Damaged> {
    use std::fmt::Write as _;
    let mut found = String::new();
    for byte in hash.finalize() {
        let _ = write!(found, "{byte:02x}");
    }
    if found == expected.hex() {
        return Ok(());
    }
    let algorithm = expected.algorithm();
    Err(Damaged(format!(
        "{what} {expected}: its bytes have the digest {algorithm}:{found}"
    )))
}

/// The blobs of an image, read synchronously: for threads that may block.
pub(super) struct Blobs {
    image: Repository,
    handle: Handle,
    progress: Box<dyn Fn(u64) + Send + Sync>,
}

impl Blobs {
    /// Those of `image`; `progress` is called with the number of bytes received.
    pub(super) fn new(image: Repository, progress: impl Fn(u64) + Send + Sync + 'static) -> Self {
        Self {
            image,
            handle: Handle::current(),
            progress: Box::new(progress),
        }
    }

    fn open(&self, descriptor: &Descriptor) -> Result<Incoming<'_>, registry::Error> {
        let (image, digest) = (&self.image, &descriptor.digest);
        let stream = async {
            let (upstream, repo) = (&image.upstream, &image.repo);
            let authorization = &image.authorization;
            let size = upstream.size_of(repo, descriptor, authorization).await?;
            upstream.blob(repo, digest, size, authorization).await
        };
        Ok(Incoming {
            stream: self.handle.block_on(stream)?,
            blobs: self,
            chunk: Bytes::new(),
            hash: hasher(digest),
            failure: None,
        })
    }

    /// A blob whose digest was verified, in an unnamed temporary file.
    pub(super) fn to_file(&self, descriptor: &Descriptor) -> anyhow::Result<File> {
        let mut incoming = self.open(descriptor)?;
        let mut file = tempfile::tempfile()?;
        let copied = io::copy(&mut incoming, &mut file);
        incoming.done("layer", descriptor, copied.map(drop))?;
        file.rewind()?;
        Ok(file)
    }

    /// Gives the tar in a layer to `take`, and verifies the digests of layer and tar.
    pub(super) fn untar<E: Into<anyhow::Error>>(
        &self,
        descriptor: &Descriptor,
        diff_id: &DiffId,
        take: impl FnOnce(&mut dyn Read) -> Result<(), E>,
    ) -> anyhow::Result<()> {
        let mut incoming = self.open(descriptor)?;
        let taken = incoming
            .head()
            .map_err(anyhow::Error::from)
            .and_then(|head| {
                let layer = BufReader::with_capacity(1 << 18, &mut incoming);
                untar(&head, layer, diff_id, take)
            });
        incoming.done("layer", descriptor, taken)
    }
}

/// Gives the tar in a layer that starts with `head`, as `layer` does, to `take`, and verifies the
/// tar's digest.
pub(super) fn untar<E: Into<anyhow::Error>>(
    head: &[u8],
    layer: impl BufRead,
    diff_id: &DiffId,
    take: impl FnOnce(&mut dyn Read) -> Result<(), E>,
) -> anyhow::Result<()> {
    // If it was the transfer that failed, that will be found to be the reason.
    let damaged = |error: io::Error| Damaged(error.to_string());
    let mut tar = Hashed {
        stream: decompress::decompress(head, layer).map_err(damaged)?,
        hash: hasher(&diff_id.0),
    };
    take(&mut tar).map_err(Into::into)?;
    // A tar may end before the layer does.
    io::copy(&mut tar, &mut io::sink()).map_err(damaged)?;
    agrees("the tar of diff id", &diff_id.0, tar.hash)?;
    Ok(())
}

/// The body of a blob.
struct Incoming<'a> {
    blobs: &'a Blobs,
    stream: BlobStream,
    chunk: Bytes,
    hash: Hash,
    /// The registry's error; readers on top see an [`io::Error`] only.
    failure: Option<registry::Error>,
}

impl Incoming<'_> {
    fn pull(&mut self) -> io::Result<bool> {
        match self.blobs.handle.block_on(self.stream.try_next()) {
            Ok(Some(bytes)) => {
                self.hash.update(&bytes);
                (self.blobs.progress)(bytes.len() as u64);
                self.chunk = match self.chunk.len() {
                    0 => bytes,
                    _ => [&self.chunk[..], &bytes[..]].concat().into(),
                };
                Ok(true)
            }
            Ok(None) => Ok(false),
            Err(error) => {
                let text = error.to_string();
                self.failure = Some(error);
                Err(io::Error::other(text))
            }
        }
    }

    /// The first bytes, without consuming them.
    fn head(&mut self) -> io::Result<Bytes> {
        while self.chunk.len() < decompress::HEAD && self.pull()? {}
        Ok(self.chunk.slice(..self.chunk.len().min(decompress::HEAD)))
    }

    /// The first error of: the transfer, the digest, `outcome`.
    fn done<E: Into<anyhow::Error>>(
        mut self,
        what: &str,
        descriptor: &Descriptor,
        outcome: Result<(), E>,
    ) -> anyhow::Result<()> {
        // A damaged layer may end its reader early, and its digest says more than that.
        let rest = io::copy(&mut self, &mut io::sink());
        if let Some(failure) = self.failure {
            return Err(failure.into());
        }
        rest?;
        agrees(what, &descriptor.digest, self.hash)?;
        outcome.map_err(Into::into)
    }
}

impl Read for Incoming<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() && self.pull()? {}
        let count = self.chunk.len().min(buf.len());
        if let Some(part) = buf.get_mut(..count) {
            self.chunk.copy_to_slice(part);
        }
        Ok(count)
    }
}

struct Hashed<R> {
    stream: R,
    hash: Hash,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let count = self.stream.read(buf)?;
        self.hash.update(buf.get(..count).unwrap_or_default());
        Ok(count)
    }
}
