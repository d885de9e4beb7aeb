//! An OCI image layout, in a directory or a tar file, that answers as a registry does.
//! Source: OCI image-spec `image-layout.md`.
//!
//! | file | subject |
//! |---|---|
//! | `naming`, `index` | which repositories and tags `index.json` stands for; editing it |
//! | `directory`, `beneath`, `stamp`, `temp`, `share` | a layout in a directory |
//! | `archive`, `new_archive` | a layout in a tar file, read and made |
//! | `section`, `hash` | bytes of blobs |
//! | `referrers` | the referrers of a manifest |
//! | `serve`, `range` | `GET` and `HEAD` of the `/v2/` surface |
//!
//! A layout has no rights: whoever may ask may have all of it. What others put into it is
//! found at the next request. Files are read on threads that may block.

mod archive;
mod beneath;
mod directory;
mod hash;
mod index;
mod naming;
mod new_archive;
mod referrers;
mod section;
mod serve;
mod share;
mod stamp;
mod temp;

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};

use super::config::MAX_MANIFEST;
use super::{
    BlobSource, BlobStream, Body, Error, ManifestHead, Pushed, PushedManifest, RawManifest,
};
use crate::oci::{Descriptor, Digest, Manifest, RepoName, Selector, Tag};

use archive::Archive;
pub(super) use beneath::Links;
use directory::Directory;
use hash::Hash;
use index::{Index, NewEntry};
use naming::Name;
use new_archive::NewArchive;
use section::Section;
pub use temp::TemporaryDirectory;

/// A layout. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Layout {
    host: Arc<str>,
    content: Arc<Content>,
}

#[derive(Debug)]
enum Content {
    Directory(Directory),
    Archive(Archive),
    New(NewArchive),
}

impl Content {
    fn index(&self) -> Result<Arc<Index>, Error> {
        match self {
            Self::Directory(directory) => directory.index(),
            Self::Archive(archive) => Ok(Arc::clone(&archive.contents()?.index)),
            Self::New(archive) => archive.layout().index(),
        }
    }

    fn blob(&self, digest: &Digest) -> Result<Option<Section>, Error> {
        match self {
            Self::Directory(directory) => directory.blob(digest),
            Self::Archive(archive) => Ok(archive.contents()?.blob(digest)),
            Self::New(archive) => archive.layout().blob(digest),
        }
    }

    fn writable(&self) -> Result<&Directory, Error> {
        match self {
            Self::Directory(directory) => Ok(directory),
            Self::New(archive) => Ok(archive.layout()),
            Self::Archive(archive) => Err(Error::Unsupported {
                place: archive.path().display().to_string(),
                detail: "an archive that is read cannot be written: name another for the result"
                    .to_owned(),
            }),
        }
    }
}

/// Does work that may block on a thread that may.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| {
            Err(Error::Io {
                path: "a layout".to_owned(),
                cause: error.to_string(),
            })
        })
}

impl Layout {
    fn new(content: Content) -> Self {
        let path = match &content {
            Content::Directory(directory) => directory.root(),
            Content::Archive(archive) => archive.path(),
            Content::New(archive) => archive.path(),
        };
        Self {
            host: format!("oci:{}", path.display()).into(),
            content: Arc::new(content),
        }
    }

    pub(super) fn open(directory: &Path, links: Links) -> Result<Self, Error> {
        Directory::open(directory, links)
            .map(Content::Directory)
            .map(Self::new)
    }

    pub(super) fn create(directory: &Path) -> Result<Self, Error> {
        Directory::create(directory)
            .map(Content::Directory)
            .map(Self::new)
    }

    pub(super) fn open_archive(file: &Path) -> Result<Self, Error> {
        Archive::open(file).map(Content::Archive).map(Self::new)
    }

    pub(super) fn create_archive(file: &Path) -> Result<Self, Error> {
        NewArchive::create(file).map(Content::New).map(Self::new)
    }

    pub(super) async fn finish(&self) -> Result<(), Error> {
        let content = Arc::clone(&self.content);
        blocking(move || match &*content {
            Content::New(archive) => archive.finish(),
            Content::Directory(_) | Content::Archive(_) => Ok(()),
        })
        .await
    }

    /// A directory for files in the making, whose files the layout can share.
    pub(super) fn temporary_directory(&self) -> Result<TemporaryDirectory, Error> {
        let root = self.content.writable()?.root();
        TemporaryDirectory::create(root, temp::STORE_PREFIX)
    }

    pub(super) fn host(&self) -> &str {
        &self.host
    }

    fn place(&self, what: &str, repo: &RepoName, name: impl std::fmt::Display) -> String {
        format!("{what} {name} of {repo} in {}", self.host)
    }

    pub(super) async fn head_manifest(
        &self,
        repo: &RepoName,
        selector: &Selector,
    ) -> Result<ManifestHead, Error> {
        let manifest = self.manifest(repo, selector).await?;
        Ok(ManifestHead {
            size: manifest.bytes.len() as u64,
            digest: manifest.digest,
            media_type: manifest.media_type,
        })
    }

    pub(super) async fn manifest(
        &self,
        repo: &RepoName,
        selector: &Selector,
    ) -> Result<RawManifest, Error> {
        let place = self.place("manifest", repo, selector);
        let content = Arc::clone(&self.content);
        let (repo, selector) = (repo.clone(), selector.clone());
        blocking(move || manifest(&content, &place, &repo, &selector)).await
    }

    async fn section(&self, repo: &RepoName, digest: &Digest) -> Result<Section, Error> {
        let content = Arc::clone(&self.content);
        let wanted = digest.clone();
        let found = blocking(move || content.blob(&wanted)).await?;
        found.ok_or_else(|| Error::NotFound {
            place: self.place("blob", repo, digest),
            detail: "the layout has no such blob".to_owned(),
        })
    }

    pub(super) async fn blob(
        &self,
        repo: &RepoName,
        digest: &Digest,
        size: u64,
    ) -> Result<BlobStream, Error> {
        let section = self.section(repo, digest).await?;
        if section.len() != size {
            return Err(Error::Mismatch {
                place: self.place("blob", repo, digest),
                what: "length",
                expected: size.to_string(),
                found: section.len().to_string(),
            });
        }
        Ok(BlobStream {
            inner: Box::pin(section.stream(0..size)),
        })
    }

    pub(super) async fn blob_range(
        &self,
        repo: &RepoName,
        digest: &Digest,
        range: Range<u64>,
    ) -> Result<Bytes, Error> {
        let section = self.section(repo, digest).await?;
        blocking(move || section.read(&range)).await
    }

    pub(super) async fn blob_size(&self, repo: &RepoName, digest: &Digest) -> Result<u64, Error> {
        Ok(self.section(repo, digest).await?.len())
    }

    pub(super) async fn tags(&self, repo: &RepoName) -> Result<Vec<Tag>, Error> {
        let content = Arc::clone(&self.content);
        let wanted = repo.clone();
        let tags = blocking(move || Ok(content.index()?.tags(&wanted))).await?;
        if tags.is_empty() {
            return Err(Error::NotFound {
                place: format!("tags of {repo} in {}", self.host),
                detail: "the layout has no such repository".to_owned(),
            });
        }
        Ok(tags.into_iter().collect())
    }

    /// The repositories, in order.
    async fn repos(&self) -> Result<Vec<RepoName>, Error> {
        let content = Arc::clone(&self.content);
        blocking(move || Ok(content.index()?.repos().into_iter().collect())).await
    }

    pub(super) async fn try_push(&self) -> Result<(), Error> {
        let content = Arc::clone(&self.content);
        blocking(move || content.writable()?.try_push()).await
    }

    pub(super) async fn push_blob(
        &self,
        _repo: &RepoName,
        digest: &Digest,
        size: u64,
        source: &BlobSource,
    ) -> Result<Pushed, Error> {
        let content = Arc::clone(&self.content);
        let (digest, source) = (digest.clone(), source.clone());
        blocking(move || content.writable()?.push(&digest, size, &source)).await
    }

    /// A layout's blobs are in all its repositories.
    pub(super) async fn mount_blob(
        &self,
        _repo: &RepoName,
        digest: &Digest,
        _from: &RepoName,
    ) -> Result<bool, Error> {
        let content = Arc::clone(&self.content);
        let digest = digest.clone();
        blocking(move || Ok(content.blob(&digest)?.is_some())).await
    }

    /// By a tag, the manifest is listed under its name; by a digest, it is stored, and
    /// listed only if it has a subject, which it could not be found from otherwise.
    pub(super) async fn push_manifest(
        &self,
        repo: &RepoName,
        selector: &Selector,
        media_type: &str,
        bytes: Bytes,
    ) -> Result<PushedManifest, Error> {
        let digest = match selector {
            Selector::Digest(digest) => digest.clone(),
            Selector::Tag(_) => Digest::of(&bytes),
        };
        let name = match selector {
            Selector::Digest(_) => None,
            Selector::Tag(tag) => Some(Name::text(repo, tag)),
        };
        let size = bytes.len() as u64;
        if size > MAX_MANIFEST as u64 {
            let detail = format!("a manifest of {size} bytes is over {MAX_MANIFEST}");
            return Err(Error::invalid(
                &self.place("manifest", repo, selector),
                detail,
            ));
        }
        let attachment = referrers::attachment(&bytes);
        let is_listed = name.is_some() || attachment.is_some();
        let entry = NewEntry {
            media_type: media_type.to_owned(),
            digest: digest.clone(),
            size,
            artifact_type: attachment.and_then(|attachment| attachment.artifact_type),
            name,
        };
        let content = Arc::clone(&self.content);
        blocking(move || {
            let layout = content.writable()?;
            layout.push(&entry.digest, size, &BlobSource::Bytes(bytes))?;
            if is_listed {
                layout.list(&entry)
            } else {
                Ok(())
            }
        })
        .await?;
        Ok(PushedManifest {
            digest,
            referrers_api: true,
        })
    }

    pub(super) async fn referrers(
        &self,
        _repo: &RepoName,
        subject: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Descriptor>, Error> {
        let content = Arc::clone(&self.content);
        let (subject, wanted) = (subject.clone(), artifact_type.map(str::to_owned));
        blocking(move || referrers::find(&content, &subject, wanted.as_deref())).await
    }

    pub(super) async fn forward(&self, request: Request<Body>) -> Result<Response<Body>, Error> {
        // An upload's body is of no use; the connection's owner drains it.
        let (parts, _) = request.into_parts();
        serve::answer(self, &parts).await
    }
}

/// Most tags that are listed in the error for one that is not there.
const MANY_TAGS: usize = 20;

/// Reads a manifest and verifies it.
fn manifest(
    content: &Content,
    place: &str,
    repo: &RepoName,
    selector: &Selector,
) -> Result<RawManifest, Error> {
    let index = content.index()?;
    let not_found = |detail: &str| Error::NotFound {
        place: place.to_owned(),
        detail: detail.to_owned(),
    };
    let (digest, listed) = match selector {
        Selector::Tag(tag) => {
            let entry = index.find(repo, tag);
            let entry = entry.ok_or_else(|| {
                let tags = index.tags(repo);
                let tags: Vec<String> = tags.iter().map(ToString::to_string).collect();
                let there = match tags.as_slice() {
                    [] => String::new(),
                    [tag] => format!("; there is {tag}"),
                    tags if tags.len() <= MANY_TAGS => format!("; there are {}", tags.join(", ")),
                    tags => {
                        let first = tags.get(..MANY_TAGS).unwrap_or_default().join(", ");
                        format!("; there are {first} and {} more", tags.len() - MANY_TAGS)
                    }
                };
                not_found(&format!("the layout has no such tag{there}"))
            })?;
            (&entry.digest, Some(entry))
        }
        Selector::Digest(digest) => (digest, index.by_digest(digest)),
    };
    let section = content.blob(digest)?;
    let section = section.ok_or_else(|| not_found("the layout has no such manifest"))?;
    let mismatch = |what, expected: String, found: String| Error::Mismatch {
        place: place.to_owned(),
        what,
        expected,
        found,
    };
    let size = listed.and_then(|entry| entry.size);
    if let Some(size) = size.filter(|size| *size != section.len()) {
        let (expected, found) = (size.to_string(), section.len().to_string());
        return Err(mismatch("length", expected, found));
    }
    if section.len() > MAX_MANIFEST as u64 {
        return Err(match listed {
            None => not_found("the layout's blob of this digest is no manifest"),
            Some(_) => Error::invalid(
                place,
                format!(
                    "a manifest of {} bytes is over {MAX_MANIFEST}",
                    section.len()
                ),
            ),
        });
    }
    let bytes = section.read_whole(MAX_MANIFEST as u64)?;
    let found = Hash::of(digest, &bytes);
    if found != digest.as_str() {
        return Err(mismatch("digest", digest.to_string(), found));
    }
    let listed_as = listed.map(|entry| entry.media_type.as_str());
    let media_type = match listed_as.filter(|media_type| !media_type.is_empty()) {
        Some(media_type) => media_type.to_owned(),
        // Layers and configs are blobs of the layout too.
        None => Manifest::parse("", &bytes)
            .map_err(|_| not_found("the layout's blob of this digest is no manifest"))?
            .kind()
            .media_type()
            .to_owned(),
    };
    Ok(RawManifest {
        digest: digest.clone(),
        media_type,
        bytes,
    })
}
