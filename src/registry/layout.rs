//! An OCI image layout.
#![allow(clippy::unused_async, unused_imports)]

use std::ops::Range;
use std::path::Path;

use bytes::Bytes;
use http::{Request, Response};

use super::{
    Authorization, BlobSource, BlobStream, Body, Error, ForwardOptions, ManifestHead, Pushed,
    PushedManifest, RawManifest, RegistryConfig,
};
use crate::oci::{Descriptor, Digest, RepoName, Selector, Tag};

/// A layout. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Layout {}

fn unbuilt() -> Error {
    Error::Configuration("not built yet".to_owned())
}

impl Layout {
    pub(super) fn open(directory: &Path) -> Result<Self, Error> {
        let _ = directory;
        Err(unbuilt())
    }
    pub(super) fn create(directory: &Path) -> Result<Self, Error> {
        let _ = directory;
        Err(unbuilt())
    }
    pub(super) fn open_archive(file: &Path) -> Result<Self, Error> {
        let _ = file;
        Err(unbuilt())
    }
    pub(super) fn create_archive(file: &Path) -> Result<Self, Error> {
        let _ = file;
        Err(unbuilt())
    }
    pub(super) async fn finish(&self) -> Result<(), Error> {
        Err(unbuilt())
    }
    pub(super) fn host(&self) -> &str {
        ""
    }

    pub(super) async fn head_manifest(
        &self,
        repo: &RepoName,
        selector: &Selector,
    ) -> Result<ManifestHead, Error> {
        let _ = (repo, selector);
        Err(unbuilt())
    }

    pub(super) async fn manifest(
        &self,
        repo: &RepoName,
        selector: &Selector,
    ) -> Result<RawManifest, Error> {
        let _ = (repo, selector);
        Err(unbuilt())
    }

    pub(super) async fn blob(
        &self,
        repo: &RepoName,
        digest: &Digest,
        size: u64,
    ) -> Result<BlobStream, Error> {
        let _ = (repo, digest, size);
        Err(unbuilt())
    }

    pub(super) async fn blob_range(
        &self,
        repo: &RepoName,
        digest: &Digest,
        range: Range<u64>,
    ) -> Result<Bytes, Error> {
        let _ = (repo, digest, range);
        Err(unbuilt())
    }

    pub(super) async fn blob_size(&self, repo: &RepoName, digest: &Digest) -> Result<u64, Error> {
        let _ = (repo, digest);
        Err(unbuilt())
    }

    pub(super) async fn tags(&self, repo: &RepoName) -> Result<Vec<Tag>, Error> {
        let _ = repo;
        Err(unbuilt())
    }

    pub(super) async fn push_blob(
        &self,
        repo: &RepoName,
        digest: &Digest,
        size: u64,
        source: &BlobSource,
    ) -> Result<Pushed, Error> {
        let _ = (repo, digest, size, source);
        Err(unbuilt())
    }

    pub(super) async fn mount_blob(
        &self,
        repo: &RepoName,
        digest: &Digest,
        from: &RepoName,
    ) -> Result<bool, Error> {
        let _ = (repo, digest, from);
        Err(unbuilt())
    }

    pub(super) async fn push_manifest(
        &self,
        repo: &RepoName,
        selector: &Selector,
        media_type: &str,
        bytes: Bytes,
    ) -> Result<PushedManifest, Error> {
        let _ = (repo, selector, media_type, bytes);
        Err(unbuilt())
    }

    pub(super) async fn referrers(
        &self,
        repo: &RepoName,
        subject: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Descriptor>, Error> {
        let _ = (repo, subject, artifact_type);
        Err(unbuilt())
    }

    pub(super) async fn forward(&self, request: Request<Body>) -> Result<Response<Body>, Error> {
        let _ = request;
        Err(unbuilt())
    }
}
