//! Blobs of a registry: whole, by range, their size.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, StatusCode};

use super::dialer::place;
use super::download::{Blob, Download};
use super::endpoint::Endpoint;
use super::retry::Failure;
use super::scope::Scopes;
use super::{Need, Registry, call, large};
use crate::oci::{Digest, RepoName};
use crate::registry::{Authorization, BlobStream, Error};

impl Registry {
    pub(in crate::registry) async fn blob(
        &self,
        repo: &RepoName,
        digest: &Digest,
        size: u64,
        authorization: &Authorization,
    ) -> Result<BlobStream, Error> {
        let (endpoints, blob) = self.wanted(repo, digest, authorization)?;
        let retry = self.0.config.retry;
        let mut download = Download::new(endpoints, retry, blob, 0..size, Some(size));
        // A missing blob is an error at once, not in the stream.
        download.open().await?;
        Ok(large::stream(download))
    }

    pub(in crate::registry) async fn whole_blob(
        &self,
        repo: &RepoName,
        digest: &Digest,
        authorization: &Authorization,
    ) -> Result<(u64, BlobStream), Error> {
        let (endpoints, blob) = self.wanted(repo, digest, authorization)?;
        let mut download = Download::whole(endpoints, self.0.config.retry, blob);
        download.open().await?;
        let (_, size) = download.wanted();
        Ok((size, large::stream(download)))
    }

    fn wanted(
        &self,
        repo: &RepoName,
        digest: &Digest,
        authorization: &Authorization,
    ) -> Result<(Vec<Arc<Endpoint>>, Blob), Error> {
        let endpoints = self.endpoints(Need::Pull, authorization)?;
        let blob = Blob {
            repo: repo.clone(),
            digest: digest.clone(),
            authorization: authorization.clone(),
        };
        Ok((endpoints, blob))
    }

    pub(in crate::registry) async fn blob_range(
        &self,
        repo: &RepoName,
        digest: &Digest,
        range: Range<u64>,
        authorization: &Authorization,
    ) -> Result<Bytes, Error> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let (endpoints, blob) = self.wanted(repo, digest, authorization)?;
        let mut download = Download::new(endpoints, self.0.config.retry, blob, range, None);
        let mut whole = BytesMut::new();
        while let Some(bytes) = download.next().await? {
            let (next, end) = download.wanted();
            if whole.is_empty() && next == end {
                return Ok(bytes);
            }
            whole.extend_from_slice(&bytes);
            if next == end {
                break;
            }
        }
        Ok(whole.freeze())
    }

    pub(in crate::registry) async fn blob_size(
        &self,
        repo: &RepoName,
        digest: &Digest,
        authorization: &Authorization,
    ) -> Result<u64, Error> {
        self.first(Need::Pull, authorization, |endpoint| async move {
            let scopes = Scopes::pull(repo);
            endpoint
                .blob_size(repo, digest, scopes, authorization)
                .await
        })
        .await
    }
}

impl Endpoint {
    pub(super) async fn blob_size(
        &self,
        repo: &RepoName,
        digest: &Digest,
        scopes: Scopes,
        authorization: &Authorization,
    ) -> Result<u64, Failure> {
        let url = self.url(&format!("{repo}/blobs/{digest}"));
        let headers = HeaderMap::new();
        let call = call(Method::HEAD, url, headers, scopes, authorization);
        let answer = self.call(&call).await?.expect(&[StatusCode::OK]).await?;
        answer.length().ok_or_else(|| {
            let place = place(&Method::HEAD, &answer.url);
            let detail = "the answer does not say how long the blob is".to_owned();
            Error::Invalid { place, detail }.into()
        })
    }
}
