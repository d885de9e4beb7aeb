//! Small images, and a server in front of a layout.

use std::io::Write;
use std::net::SocketAddr;
use std::process::Command;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use overlaybd_proxy::oci::media_type::{OCI_CONFIG, OCI_LAYER, OCI_MANIFEST};
use overlaybd_proxy::oci::{Digest, RepoName, Selector};
use overlaybd_proxy::registry::{
    Authorization, BlobSource, Body, ForwardOptions, PushedManifest, Upstream, body,
};

pub const OWN: Authorization = Authorization::Own;

pub fn repo(text: &str) -> RepoName {
    text.parse().unwrap()
}

pub fn selector(text: &str) -> Selector {
    text.parse().unwrap()
}

/// An image of one layer with one file.
pub struct Image {
    pub layer: Bytes,
    pub config: Bytes,
    pub manifest: Bytes,
}

impl Image {
    pub fn of(content: &[u8]) -> Self {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, "file", content).unwrap();
        let tar = tar.into_inner().unwrap();
        // skopeo would compress what is not, and change the digests. Level 0 keeps the size.
        let mut layer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
        layer.write_all(&tar).unwrap();
        let layer = layer.finish().unwrap();
        let config = format!(
            r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":["{}"]}}}}"#,
            Digest::of(&tar)
        );
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{},"layers":[{}]}}"#,
            descriptor(OCI_CONFIG, config.as_bytes()),
            descriptor(&format!("{OCI_LAYER}+gzip"), &layer),
        );
        Self {
            layer: layer.into(),
            config: config.into(),
            manifest: manifest.into(),
        }
    }

    pub fn digest(&self) -> Digest {
        Digest::of(&self.manifest)
    }

    pub async fn push(&self, upstream: &Upstream, name: &str, tag: &str) -> PushedManifest {
        for blob in [&self.layer, &self.config] {
            push_blob(upstream, blob).await;
        }
        push_manifest(upstream, name, tag, &self.manifest).await
    }
}

pub fn descriptor(media_type: &str, bytes: &[u8]) -> String {
    let (digest, size) = (Digest::of(bytes), bytes.len());
    format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":{size}}}"#)
}

pub async fn push_blob(upstream: &Upstream, bytes: &Bytes) {
    let (digest, size) = (Digest::of(bytes), bytes.len() as u64);
    let source = BlobSource::Bytes(bytes.clone());
    upstream
        .push_blob(&repo("x"), &digest, size, &source, &OWN)
        .await
        .unwrap();
}

pub async fn push_manifest(
    upstream: &Upstream,
    name: &str,
    reference: &str,
    bytes: &Bytes,
) -> PushedManifest {
    upstream
        .push_manifest(
            &repo(name),
            &selector(reference),
            OCI_MANIFEST,
            bytes.clone(),
            &OWN,
        )
        .await
        .unwrap()
}

/// The digest that a tag leads to, if it leads anywhere.
pub async fn resolved(upstream: &Upstream, name: &str, reference: &str) -> Option<Digest> {
    let (name, reference) = (repo(name), selector(reference));
    match upstream.head_manifest(&name, &reference, &OWN).await {
        Ok(head) => Some(head.digest),
        Err(error) => {
            assert!(error.is_not_found(), "{error}");
            None
        }
    }
}

/// Asks a layout as a client would, without a wire between.
pub async fn ask(upstream: &Upstream, request: Request<()>) -> (Response<()>, Bytes) {
    let request = request.map(|()| body::empty());
    let response = upstream
        .forward(request, ForwardOptions::default())
        .await
        .unwrap();
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    (Response::from_parts(parts, ()), bytes)
}

pub async fn get(upstream: &Upstream, path: &str) -> (Response<()>, Bytes) {
    ask(upstream, Request::get(path).body(()).unwrap()).await
}

/// A header of an answer; empty if it is not there.
pub fn header<'a>(response: &'a Response<()>, name: &str) -> &'a str {
    response
        .headers()
        .get(name)
        .map_or("", |value| value.to_str().unwrap())
}

/// Serves a layout on a free port of the loopback, for as long as the runtime lives.
pub async fn serve(upstream: Upstream) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let upstream = upstream.clone();
            let service = service_fn(move |request: Request<hyper::body::Incoming>| {
                let upstream = upstream.clone();
                async move {
                    let request =
                        request.map(|body| -> Body { body.map_err(Into::into).boxed_unsync() });
                    upstream.forward(request, ForwardOptions::default()).await
                }
            });
            tokio::spawn(
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service),
            );
        }
    });
    address
}

/// Whether a program is there; prints SKIPPED if not.
pub fn has(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok();
    if !found {
        eprintln!("SKIPPED: {program} is not installed");
    }
    found
}

/// Runs skopeo, which must succeed, and returns what it prints.
pub async fn skopeo(arguments: &[&str]) -> Vec<u8> {
    let output = tokio::process::Command::new("skopeo")
        .args(["--insecure-policy"])
        .args(arguments)
        .output()
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "skopeo {arguments:?}: {said}");
    output.stdout
}
