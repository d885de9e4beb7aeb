//! What a pulling client does, as plainly as it can be done.

use anyhow::ensure;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use overlaybd_proxy::oci::Digest;
use serde_json::Value;

/// A client of one repository.
pub struct Client {
    http: hyper_util::client::legacy::Client<HttpConnector, Empty<Bytes>>,
    repository: String,
}

impl Client {
    /// `repository` is `http://HOST/v2/NAME`.
    pub fn new(repository: &str) -> Self {
        Self {
            http: hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build_http(),
            repository: repository.to_owned(),
        }
    }

    /// The manifest of a tag.
    pub async fn manifest(&self, tag: &str) -> anyhow::Result<Value> {
        let bytes = self.get(&format!("manifests/{tag}")).await?;
        Ok(serde_json::from_slice(&bytes)?)
    }

    /// A blob, as it came.
    pub async fn blob(&self, digest: &Digest) -> anyhow::Result<Bytes> {
        self.get(&format!("blobs/{digest}")).await
    }

    async fn get(&self, path: &str) -> anyhow::Result<Bytes> {
        let request = Request::get(format!("{}/{path}", self.repository))
            .header(
                "accept",
                "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json",
            )
            .body(Empty::new())?;
        let response = self.http.request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        ensure!(
            status.is_success(),
            "GET {path}: {status}: {}",
            String::from_utf8_lossy(&body)
        );
        Ok(body)
    }
}
