//! A registry over HTTP.
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

/// A registry. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Registry {}

fn unbuilt() -> Error {
    Error::Configuration("not built yet".to_owned())
}

impl Registry {
    pub(super) fn new(host: &str, config: &RegistryConfig) -> Result<Self, Error> {
        let _ = (host, config);
        Err(unbuilt())
    }
    pub(super) fn host(&self) -> &str {
        ""
    }

    pub(super) async fn head_manifest(
        &self,
        repo: &RepoName,
        selector: &Selector,
        authorization: &Authorization,
    ) -> Result<ManifestHead, Error> {
        let _ = (repo, selector, authorization);
        Err(unbuilt())
    }

    pub(super) async fn manifest(
        &self,
        repo: &RepoName,
        selector: &Selector,
        authorization: &Authorization,
    ) -> Result<RawManifest, Error> {
        let _ = (repo, selector, authorization);
        Err(unbuilt())
    }

    pub(super) async fn blob(
        &self,
        repo: &RepoName,
        digest: &Digest,
        size: u64,
        authorization: &Authorization,
    ) -> Result<BlobStream, Error> {
        let _ = (repo, digest, size, authorization);
        Err(unbuilt())
    }

    pub(super) async fn blob_range(
        &self,
        repo: &RepoName,
        digest: &Digest,
        range: Range<u64>,
        authorization: &Authorization,
    ) -> Result<Bytes, Error> {
        let _ = (repo, digest, range, authorization);
        Err(unbuilt())
    }

    pub(super) async fn blob_size(
        &self,
        repo: &RepoName,
        digest: &Digest,
        authorization: &Authorization,
    ) -> Result<u64, Error> {
        let _ = (repo, digest, authorization);
        Err(unbuilt())
    }

    pub(super) async fn tags(
        &self,
        repo: &RepoName,
        authorization: &Authorization,
    ) -> Result<Vec<Tag>, Error> {
        let _ = (repo, authorization);
        Err(unbuilt())
    }

    pub(super) async fn push_blob(
        &self,
        repo: &RepoName,
        digest: &Digest,
        size: u64,
        source: &BlobSource,
        authorization: &Authorization,
    ) -> Result<Pushed, Error> {
        let _ = (repo, digest, size, source, authorization);
        Err(unbuilt())
    }

    pub(super) async fn mount_blob(
        &self,
        repo: &RepoName,
        digest: &Digest,
        from: &RepoName,
        authorization: &Authorization,
    ) -> Result<bool, Error> {
        let _ = (repo, digest, from, authorization);
        Err(unbuilt())
    }

    pub(super) async fn push_manifest(
        &self,
        repo: &RepoName,
        selector: &Selector,
        media_type: &str,
        bytes: Bytes,
        authorization: &Authorization,
    ) -> Result<PushedManifest, Error> {
        let _ = (repo, selector, media_type, bytes, authorization);
        Err(unbuilt())
    }

    pub(super) async fn referrers(
        &self,
        repo: &RepoName,
        subject: &Digest,
        artifact_type: Option<&str>,
        authorization: &Authorization,
    ) -> Result<Vec<Descriptor>, Error> {
        let _ = (repo, subject, artifact_type, authorization);
        Err(unbuilt())
    }

    pub(super) async fn forward(
        &self,
        request: Request<Body>,
        options: ForwardOptions,
    ) -> Result<Response<Body>, Error> {
        let _ = (request, options);
        Err(unbuilt())
    }
}
