//! One interface to registries and layouts.

use std::ops::Range;
use std::path::Path;

use bytes::Bytes;
use http::{HeaderValue, Request, Response};

use super::layout::Links;
use super::{
    Authorization, BlobSource, BlobStream, Body, ClientAuth, Error, ForwardOptions, Layout,
    ManifestHead, Pushed, PushedManifest, RawManifest, Registry, RegistryConfig,
    TemporaryDirectory,
};
use crate::oci::{Descriptor, Digest, ImageReference, RepoName, Selector, Tag};

/// Where images come from or go to. Cheap to clone; clones share connections and tokens.
///
/// A blob that goes into an OCI image layout:
///
/// ```
/// use bytes::Bytes;
/// use overlaybd_proxy::oci::Digest;
/// use overlaybd_proxy::registry::{Authorization, BlobSource, Pushed, Upstream};
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let directory = tempfile::tempdir()?;
/// # let directory = directory.path().join("layout");
/// let layout = Upstream::create_layout(&directory)?;
/// let repo = "team/app".parse()?;
/// let data = Bytes::from_static(b"data");
/// let (digest, source) = (Digest::of(&data), BlobSource::Bytes(data));
/// let pushed = layout
///     .push_blob(&repo, &digest, 4, &source, &Authorization::Own)
///     .await?;
/// assert_eq!(pushed, Pushed::Uploaded);
/// let size = layout
///     .blob_size(&repo, &digest, &Authorization::Own)
///     .await?;
/// assert_eq!(size, 4);
/// layout.finish().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub enum Upstream {
    /// A registry, over HTTP.
    Registry(Registry),
    /// An OCI image layout, in a directory or a tar file. Credentials are ignored.
    Layout(Layout),
}

impl Upstream {
    /// A registry by its host (`docker.io`, `localhost:5000`). Nothing is dialled.
    ///
    /// # Errors
    /// If a setting cannot be used, such as a PEM file that is none.
    pub fn registry(host: &str, config: &RegistryConfig) -> Result<Self, Error> {
        Registry::new(host, config).map(Self::Registry)
    }

    /// An existing OCI image layout directory; symbolic links are followed within it.
    ///
    /// # Errors
    /// If it is none.
    pub fn layout(directory: &Path) -> Result<Self, Error> {
        Layout::open(directory, Links::Within).map(Self::Layout)
    }

    /// An OCI image layout directory that is made if it is not there.
    ///
    /// # Errors
    /// If it cannot be made, or is something else.
    pub fn create_layout(directory: &Path) -> Result<Self, Error> {
        Layout::create(directory).map(Self::Layout)
    }

    /// An existing OCI archive: a layout in an uncompressed tar file.
    ///
    /// # Errors
    /// If it is none.
    pub fn archive(file: &Path) -> Result<Self, Error> {
        Layout::open_archive(file).map(Self::Layout)
    }

    /// The upstream that an image is read from, which the user of the program named: symbolic
    /// links of a layout are followed wherever they lead.
    ///
    /// # Errors
    /// As [`Upstream::registry`], [`Upstream::layout`] and [`Upstream::archive`].
    pub fn source(reference: &ImageReference, config: &RegistryConfig) -> Result<Self, Error> {
        match reference {
            ImageReference::Registry(reference) => Self::registry(&reference.host, config),
            ImageReference::Layout(reference) if reference.archive => {
                Self::archive(&reference.path)
            }
            ImageReference::Layout(reference) => {
                Layout::open(&reference.path, Links::Anywhere).map(Self::Layout)
            }
        }
    }

    /// The upstream that an image is written to; [`Upstream::finish`] ends the writing.
    ///
    /// # Errors
    /// As [`Upstream::registry`] and [`Upstream::create_layout`].
    pub fn destination(reference: &ImageReference, config: &RegistryConfig) -> Result<Self, Error> {
        match reference {
            ImageReference::Registry(reference) => Self::registry(&reference.host, config),
            ImageReference::Layout(reference) if reference.archive => {
                Layout::create_archive(&reference.path).map(Self::Layout)
            }
            ImageReference::Layout(reference) => Self::create_layout(&reference.path),
        }
    }

    /// A directory for temporary data from which a layout that is written shares files
    /// ([`BlobSource::Verified`]): in it, or beside the archive. `None` for a registry.
    ///
    /// # Errors
    /// When it cannot be made, or the layout is only read.
    pub fn temporary_directory(&self) -> Result<Option<TemporaryDirectory>, Error> {
        match self {
            Self::Registry(_) => Ok(None),
            Self::Layout(layout) => layout.temporary_directory().map(Some),
        }
    }

    /// The host by which the index knows it ([`crate::oci::reference::index_host`]);
    /// `oci:` and the absolute path for a layout.
    #[must_use]
    pub fn host(&self) -> &str {
        match self {
            Self::Registry(registry) => registry.host(),
            Self::Layout(layout) => layout.host(),
        }
    }

    /// What content comes from: the host, and behind it the address (scheme, host and port) of
    /// the registry and of each of its mirrors; only [`Upstream::host`] for a layout.
    #[must_use]
    pub fn sources(&self) -> String {
        match self {
            Self::Registry(registry) => registry.sources(),
            Self::Layout(layout) => layout.host().to_owned(),
        }
    }

    /// Speaks to the registry as `fresh` does from now on: with its certificates, credentials,
    /// mirrors and time limits; so do all clones. What is under way ends as it began. `false`,
    /// and no change, if `fresh` is something else. A layout has nothing to take over.
    pub fn take_over(&self, fresh: &Self) -> bool {
        match (self, fresh) {
            (Self::Registry(registry), Self::Registry(fresh)) => registry.take_over(fresh),
            _ => self.host() == fresh.host(),
        }
    }

    /// What the manifest is, without fetching it; the tag is resolved.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn head_manifest(
        &self,
        repo: &RepoName,
        selector: &Selector,
        authorization: &Authorization,
    ) -> Result<ManifestHead, Error> {
        match self {
            Self::Registry(registry) => registry.head_manifest(repo, selector, authorization).await,
            Self::Layout(layout) => layout.head_manifest(repo, selector).await,
        }
    }

    /// Fetches a manifest. Its digest is verified and its size bounded.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn manifest(
        &self,
        repo: &RepoName,
        selector: &Selector,
        authorization: &Authorization,
    ) -> Result<RawManifest, Error> {
        match self {
            Self::Registry(registry) => registry.manifest(repo, selector, authorization).await,
            Self::Layout(layout) => layout.manifest(repo, selector).await,
        }
    }

    /// Fetches a manifest from the host that is written to, whatever mirrors have.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn written_manifest(
        &self,
        repo: &RepoName,
        selector: &Selector,
        authorization: &Authorization,
    ) -> Result<RawManifest, Error> {
        match self {
            Self::Registry(registry) => {
                registry
                    .written_manifest(repo, selector, authorization)
                    .await
            }
            Self::Layout(layout) => layout.manifest(repo, selector).await,
        }
    }

    /// Fetches a blob of `size` bytes as a stream, which resumes where a connection broke.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn blob(
        &self,
        repo: &RepoName,
        digest: &Digest,
        size: u64,
        authorization: &Authorization,
    ) -> Result<BlobStream, Error> {
        match self {
            Self::Registry(registry) => registry.blob(repo, digest, size, authorization).await,
            Self::Layout(layout) => layout.blob(repo, digest, size).await,
        }
    }

    /// Fetches a blob of which only the digest is known; also gives the size that the upstream
    /// states. The stream is as that of [`blob`](Self::blob).
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn whole_blob(
        &self,
        repo: &RepoName,
        digest: &Digest,
        authorization: &Authorization,
    ) -> Result<(u64, BlobStream), Error> {
        match self {
            Self::Registry(registry) => registry.whole_blob(repo, digest, authorization).await,
            Self::Layout(layout) => {
                let size = layout.blob_size(repo, digest).await?;
                Ok((size, layout.blob(repo, digest, size).await?))
            }
        }
    }

    /// Whether these credentials may read a blob, by a `HEAD` whose redirects (307, 308) to other
    /// hosts count as a yes; gives its size in bytes where the upstream states it.
    ///
    /// # Errors
    /// The upstream's no; see [`Error`].
    pub async fn can_read_blob(
        &self,
        repo: &RepoName,
        digest: &Digest,
        authorization: &Authorization,
    ) -> Result<Option<u64>, Error> {
        match self {
            Self::Registry(registry) => registry.can_read_blob(repo, digest, authorization).await,
            Self::Layout(layout) => layout.blob_size(repo, digest).await.map(Some),
        }
    }

    /// Fetches some bytes of a blob. The range must lie within it.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn blob_range(
        &self,
        repo: &RepoName,
        digest: &Digest,
        range: Range<u64>,
        authorization: &Authorization,
    ) -> Result<Bytes, Error> {
        match self {
            Self::Registry(registry) => {
                registry
                    .blob_range(repo, digest, range, authorization)
                    .await
            }
            Self::Layout(layout) => layout.blob_range(repo, digest, range).await,
        }
    }

    /// The size of a blob in bytes, if it is there.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn blob_size(
        &self,
        repo: &RepoName,
        digest: &Digest,
        authorization: &Authorization,
    ) -> Result<u64, Error> {
        match self {
            Self::Registry(registry) => registry.blob_size(repo, digest, authorization).await,
            Self::Layout(layout) => layout.blob_size(repo, digest).await,
        }
    }

    /// The size in bytes of a blob that is there: as its descriptor says, else as the upstream
    /// does.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn size_of(
        &self,
        repo: &RepoName,
        descriptor: &Descriptor,
        authorization: &Authorization,
    ) -> Result<u64, Error> {
        match descriptor.size {
            Some(size) => Ok(size),
            None => {
                self.blob_size(repo, &descriptor.digest, authorization)
                    .await
            }
        }
    }

    /// Whether a repository may be read: its list of tags, or what a page has of it, is an answer.
    ///
    /// # Errors
    /// The registry's no; see [`Error`].
    pub async fn can_read(
        &self,
        repo: &RepoName,
        authorization: &Authorization,
    ) -> Result<(), Error> {
        match self {
            Self::Registry(registry) => registry.can_read(repo, authorization).await,
            Self::Layout(layout) => layout.tags(repo).await.map(drop),
        }
    }

    /// All tags of a repository, in the upstream's order.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn tags(
        &self,
        repo: &RepoName,
        authorization: &Authorization,
    ) -> Result<Vec<Tag>, Error> {
        match self {
            Self::Registry(registry) => registry.tags(repo, authorization).await,
            Self::Layout(layout) => layout.tags(repo).await,
        }
    }

    /// Whether blobs may be pushed: an upload is begun and cancelled, or a file created and removed.
    ///
    /// # Errors
    /// The upstream's no; see [`Error`].
    pub async fn try_push(
        &self,
        repo: &RepoName,
        authorization: &Authorization,
    ) -> Result<(), Error> {
        match self {
            Self::Registry(registry) => registry.try_push(repo, authorization).await,
            Self::Layout(layout) => layout.try_push().await,
        }
    }

    /// Uploads a blob of `size` bytes, unless it is there.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn push_blob(
        &self,
        repo: &RepoName,
        digest: &Digest,
        size: u64,
        source: &BlobSource,
        authorization: &Authorization,
    ) -> Result<Pushed, Error> {
        match self {
            Self::Registry(registry) => {
                registry
                    .push_blob(repo, digest, size, source, authorization)
                    .await
            }
            Self::Layout(layout) => layout.push_blob(repo, digest, size, source).await,
        }
    }

    /// Makes a blob of the repository `from` appear in `repo`; `false` if the upstream
    /// will not, and it has to be pushed.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn mount_blob(
        &self,
        repo: &RepoName,
        digest: &Digest,
        from: &RepoName,
        authorization: &Authorization,
    ) -> Result<bool, Error> {
        match self {
            Self::Registry(registry) => {
                registry.mount_blob(repo, digest, from, authorization).await
            }
            Self::Layout(layout) => layout.mount_blob(repo, digest, from).await,
        }
    }

    /// Stores a manifest by tag or digest, and lists it under its `subject`, if it has one.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn push_manifest(
        &self,
        repo: &RepoName,
        selector: &Selector,
        media_type: &str,
        bytes: Bytes,
        authorization: &Authorization,
    ) -> Result<PushedManifest, Error> {
        match self {
            Self::Registry(registry) => {
                registry
                    .push_manifest(repo, selector, media_type, bytes, authorization)
                    .await
            }
            Self::Layout(layout) => {
                layout
                    .push_manifest(repo, selector, media_type, bytes)
                    .await
            }
        }
    }

    /// The manifests whose `subject` this is, by the API or the fallback tag.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn referrers(
        &self,
        repo: &RepoName,
        subject: &Digest,
        artifact_type: Option<&str>,
        authorization: &Authorization,
    ) -> Result<Vec<Descriptor>, Error> {
        match self {
            Self::Registry(registry) => {
                registry
                    .referrers(repo, subject, artifact_type, authorization)
                    .await
            }
            Self::Layout(layout) => layout.referrers(repo, subject, artifact_type).await,
        }
    }

    /// Passes a request of the `/v2/` surface through, bodies streamed both ways.
    ///
    /// Only path and query of the request's address count. Statuses of any kind are returned
    /// as they are, redirects too unless they are to be followed; nothing that could act twice
    /// is repeated. A layout answers `GET` and `HEAD` itself.
    ///
    /// # Errors
    /// If there is no response: [`Error::Unreachable`], [`Error::TimedOut`],
    /// [`Error::Refused`], or those of getting a token.
    pub async fn forward(
        &self,
        request: Request<Body>,
        options: ForwardOptions,
    ) -> Result<Response<Body>, Error> {
        match self {
            Self::Registry(registry) => registry.forward(request, options).await,
            Self::Layout(layout) => layout.forward(request).await,
        }
    }

    /// The settings that a registry is reached by; a layout has none.
    #[must_use]
    pub fn registry_config(&self) -> Option<&RegistryConfig> {
        match self {
            Self::Registry(registry) => Some(registry.config()),
            Self::Layout(_) => None,
        }
    }

    /// Whether there are credentials of the proxy's own for the registry itself, be they right or
    /// wrong. A layout needs none.
    ///
    /// # Errors
    /// [`Error::Credentials`] where they cannot be had.
    pub async fn has_credentials(&self) -> Result<bool, Error> {
        match self {
            Self::Registry(registry) => registry.has_credentials().await,
            Self::Layout(_) => Ok(true),
        }
    }

    /// How a client of the proxy authenticates, with a token for `scopes` (each
    /// `repository:NAME:ACTIONS`) if the registry has a token server. `login` is the client's own
    /// Basic `Authorization`. No mirror is asked; a layout requires nothing.
    ///
    /// # Errors
    /// [`Error::Unauthorized`] where these credentials are refused; see [`Error`].
    pub async fn authenticate_client(
        &self,
        scopes: &[String],
        login: Option<&HeaderValue>,
    ) -> Result<ClientAuth, Error> {
        match self {
            Self::Registry(registry) => registry.authenticate_client(scopes, login).await,
            Self::Layout(_) => Ok(ClientAuth::Anonymous),
        }
    }

    /// Ends the writing: an archive appears under its name only now. Others have nothing to do.
    ///
    /// # Errors
    /// If the archive cannot be written.
    pub async fn finish(&self) -> Result<(), Error> {
        match self {
            Self::Registry(_) => Ok(()),
            Self::Layout(layout) => layout.finish().await,
        }
    }
}
