//! What an image names, fetched and hashed; what follows is read on threads that may block.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek as _};

use bytes::{Buf as _, Bytes};
use futures_util::TryStreamExt as _;
use sha2::digest::DynDigest;
use tokio::runtime::Handle;

use super::report::Damaged;
use crate::convert::{Source, inflate};
use crate::oci::{Descriptor, DiffId, Digest, Manifest, Selector};
use crate::registry::{self, BlobStream, RawManifest};

/// Most bytes of a config.
const MAX_CONFIG: u64 = 16 << 20;

/// A manifest or index.
pub(super) struct Document {
    pub(super) raw: RawManifest,
    pub(super) manifest: Manifest,
}

/// Fetches a manifest, and hashes it once more: whoever asks does not believe us.
pub(super) async fn document(image: &Source, selector: &Selector) -> anyhow::Result<Document> {
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
pub(super) async fn config(image: &Source, descriptor: &Descriptor) -> anyhow::Result<Vec<u8>> {
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

/// Reads blobs of an image from a thread that may block.
pub(super) struct Blobs {
    image: Source,
    handle: Handle,
    progress: Box<dyn Fn(u64) + Send + Sync>,
}

impl Blobs {
    /// Of this image; `progress` is told of bytes that came.
    pub(super) fn new(image: Source, progress: impl Fn(u64) + Send + Sync + 'static) -> Self {
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

    /// A blob in a file of its own, its digest right.
    pub(super) fn to_file(&self, descriptor: &Descriptor) -> anyhow::Result<File> {
        let mut incoming = self.open(descriptor)?;
        let mut file = tempfile::tempfile()?;
        let copied = io::copy(&mut incoming, &mut file);
        incoming.done("layer", descriptor, copied.map(drop))?;
        file.rewind()?;
        Ok(file)
    }

    /// Gives the tar in a layer to `take`, and sees that layer and tar have their digests.
    pub(super) fn untar<E: std::error::Error + Send + Sync + 'static>(
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
                let tar =
                    inflate::inflate(&head, BufReader::with_capacity(1 << 18, &mut incoming))?;
                let mut tar = Hashed {
                    stream: tar,
                    hash: hasher(&diff_id.0),
                };
                take(&mut tar)?;
                // A tar may end before the layer does.
                io::copy(&mut tar, &mut io::sink())?;
                agrees("the tar of diff id", &diff_id.0, tar.hash)?;
                Ok(())
            });
        incoming.done("layer", descriptor, taken)
    }
}

/// A blob as it comes.
struct Incoming<'a> {
    blobs: &'a Blobs,
    stream: BlobStream,
    chunk: Bytes,
    hash: Hash,
    /// What really happened, where a reader on top only knows that reading failed.
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

    /// The first bytes, which will be read again.
    fn head(&mut self) -> io::Result<Bytes> {
        while self.chunk.len() < inflate::HEAD && self.pull()? {}
        Ok(self.chunk.slice(..self.chunk.len().min(inflate::HEAD)))
    }

    /// Says what went wrong: the transfer, the digest, or what was made of it, in this order.
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
