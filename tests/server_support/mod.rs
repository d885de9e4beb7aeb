//! A proxy in the test's own process, and a client that sends exactly what a test says.

// Each test binary uses its part of this.
#![allow(dead_code)]
// Some binaries have it as a part of their `support` too.
#![allow(clippy::duplicate_mod)]

#[path = "../support/overlaybd/mod.rs"]
mod overlaybd;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use overlaybd_proxy::convert::layer::{Format, Settings, TurboSettings};
use overlaybd_proxy::convert::{Converter, ConverterConfig, Others, Platforms, PushTarget};
use overlaybd_proxy::format::zfile::{Algorithm, BlockSize};
use overlaybd_proxy::oci::{Digest, RepoName};
use overlaybd_proxy::registry::Upstream;
use overlaybd_proxy::server::{
    Access, Balancers, Limits, OnTimeout, Server, ServerConfig, TurboConfig, TurboFallback,
    UpstreamChoice, UpstreamEntry,
};
use overlaybd_proxy::store::{CacheSize, IndexConfig, Store, StoreConfig};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// A running proxy; stopped when dropped. The layers that are then in its store must keep the
/// rules of overlaybd's reader.
pub struct Proxy {
    pub address: SocketAddr,
    pub admin: SocketAddr,
    pub store: Store,
    pub directory: tempfile::TempDir,
    stop: Option<oneshot::Sender<()>>,
    task: Option<JoinHandle<bool>>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            overlaybd::assert_directory(self.directory.path());
        }
    }
}

/// An upstream that is there for whatever is asked.
pub fn plain(upstream: &Upstream) -> UpstreamEntry {
    UpstreamEntry {
        upstream: upstream.clone(),
        choice: UpstreamChoice::default(),
    }
}

/// Settings for tests: loopback, any port, short timeouts.
pub fn config(upstreams: Vec<UpstreamEntry>) -> ServerConfig {
    ServerConfig {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        listen_overlaybd: None,
        admin: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
        tls: None,
        http2: true,
        h2c: false,
        upstreams,
        suffix: "_obd".to_owned(),
        turbo: Some(TurboConfig {
            suffix: "_turbo".to_owned(),
            fallback: TurboFallback::Native,
            settings: TurboSettings {
                max_stored_file: 4096,
                max_gap: 4 << 20,
            },
        }),
        merged_suffix: "_merged".to_owned(),
        list_referrers: true,
        p2p_hosts: Vec::new(),
        prefer_upstream_tags: false,
        hold: Duration::from_secs(20),
        on_timeout: OnTimeout::Wait,
        access: Access::PassThrough,
        auth_cache_ttl: Duration::from_secs(30),
        stale_if_error: Duration::ZERO,
        // Most tests mend what they broke, and ask again.
        failure_ttl: Duration::ZERO,
        url_ttl: Duration::from_mins(10),
        blob_redirect: None,
        url_key_file: None,
        admin_token_file: None,
        notification_secret_file: None,
        webhooks: Vec::new(),
        webhook_secret_file: None,
        source_cache: None,
        read_only: false,
        allow_anonymous_push: false,
        follow_redirects: false,
        convert_on_pull: Vec::new(),
        learn_window: None,
        learned_lists: std::path::PathBuf::new(),
        policy: Vec::new(),
        balancers: Balancers::default(),
        limits: Limits {
            drain: Duration::from_secs(10),
            ..Limits::default()
        },
    }
}

pub async fn store(directory: &Path) -> Store {
    Store::open(StoreConfig {
        data_dir: directory.to_owned(),
        index: IndexConfig::Sqlite,
        cache_size: CacheSize::Unbounded,
        keep: Duration::from_mins(1),
        objects: None,
    })
    .await
    .unwrap()
}

pub fn converter(store: Store) -> Converter {
    converter_that_pushes(store, None)
}

pub fn converter_that_pushes(store: Store, push: Option<PushTarget>) -> Converter {
    let config = ConverterConfig {
        settings: Settings {
            algorithm: Algorithm::Lz4,
            block_size: BlockSize::KIB_4,
            virtual_size: 64 << 30,
            max_layer_size: 1 << 30,
            threads: 2,
            format: Format::Native,
            prefetch: None,
        },
        platforms: Platforms::All,
        others: Others::Stay,
        style: overlaybd_proxy::convert::image::ImageStyle::default(),
        conversions: 2,
        memory: 512 << 20,
        max_queue: 4096,
        timeout: std::time::Duration::from_hours(1),
        trust_foreign_layers: false,
        lease_ttl: Duration::from_secs(30),
        push,
    };
    Converter::new(store, config).unwrap()
}

impl Proxy {
    pub async fn start(config: ServerConfig) -> Self {
        Self::that_pushes(config, None).await
    }

    pub async fn that_pushes(config: ServerConfig, push: Option<PushTarget>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = store(directory.path()).await;
        let converter = converter_that_pushes(store.clone(), push);
        let server = Server::bind(config, converter).await.unwrap();
        let (address, admin) = (server.local_addr(), server.admin_addr().unwrap());
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(server.run(async move {
            let _ = stopped.await;
        }));
        Self {
            address,
            admin,
            store,
            directory,
            stop: Some(stop),
            task: Some(task),
        }
    }

    /// A proxy before one upstream.
    pub async fn before(upstream: &Upstream) -> Self {
        Self::start(config(vec![plain(upstream)])).await
    }

    /// Begins to stop.
    pub fn stop(&mut self) {
        drop(self.stop.take());
    }

    /// Stops; whether all requests came to their end.
    pub async fn stopped(mut self) -> bool {
        self.stop();
        self.task.take().unwrap().await.unwrap()
    }

    /// Makes these bytes converted content that `source` became.
    pub async fn plant(
        &self,
        host: &str,
        repo: &RepoName,
        source: &Digest,
        bytes: &[u8],
    ) -> Digest {
        let digest = Digest::of(bytes);
        drop(self.store.blobs().put_bytes(&digest, bytes).unwrap());
        let index = self.store.index();
        index
            .link(host, repo, source, std::slice::from_ref(&digest))
            .await
            .unwrap();
        digest
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.ask(Method::GET, path, &[]).await
    }

    pub async fn head(&self, path: &str) -> Answer {
        self.ask(Method::HEAD, path, &[]).await
    }

    pub async fn ask(&self, method: Method, path: &str, headers: &[(&str, &str)]) -> Answer {
        ask(self.address, method, path, headers, Bytes::new()).await
    }
}

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }

    /// The code of an OCI error document.
    pub fn code(&self) -> String {
        let document: serde_json::Value = serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {:?}", self.body));
        document["errors"][0]["code"].as_str().unwrap().to_owned()
    }
}

/// One request on a connection of its own. A layer that comes whole must keep the rules of
/// overlaybd's reader.
pub async fn ask(
    address: SocketAddr,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: Bytes,
) -> Answer {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut request = Request::builder().method(method).uri(path);
    if !headers.iter().any(|(name, _)| *name == "host") {
        request = request.header("host", address.to_string());
    }
    for (name, value) in headers {
        let name: HeaderName = name.parse().unwrap();
        request = request.header(name, HeaderValue::from_str(value).unwrap());
    }
    let request = request.body(Full::new(body)).unwrap();
    let response = sender.send_request(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    if parts.status == StatusCode::OK && path.contains("/blobs/") {
        overlaybd::assert_if_layer(path, &body);
    }
    Answer {
        status: parts.status,
        headers: parts.headers,
        body,
    }
}

/// The value of a `Basic` authorization.
pub fn basic(user: &str, password: &str) -> String {
    use base64::Engine as _;
    let encoded = base64::prelude::BASE64_STANDARD.encode(format!("{user}:{password}"));
    format!("Basic {encoded}")
}
