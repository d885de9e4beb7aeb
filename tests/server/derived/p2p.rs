//! overlaybd's accelerator address: a node reads at `ADDRESS/URL` what it would read at `URL`, with
//! the same headers.

use std::net::TcpListener;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Response, StatusCode};
use http_body_util::Full;
use overlaybd_proxy::registry::{DialOptions, RegistryConfig, Upstream};
use overlaybd_proxy::server::{ServerConfig, UpstreamChoice, UpstreamEntry};

use crate::derived::{Place, image, text};
use crate::registry_support::scripted::{self, Answer as Scripted, Log, Seen, Served};
use crate::registry_support::tokens::Tokens;
use crate::registry_support::{DockerRegistry, find, quick};
use crate::server_support::{Answer, Proxy, basic, config, plain};
use crate::support::{http as client, sha256};

/// Bytes in pieces, as a node reads them: 256 KiB at most, aligned.
const PIECE: usize = 256 << 10;

/// Reads a blob at an address below `/p2p/`, as a node does.
#[track_caller]
fn read(proxy: &str, url: &str, size: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < size {
        let end = size.min(bytes.len() + PIECE) - 1;
        let range = format!("bytes={}-{end}", bytes.len());
        let headers = [("range", &*range), ("user-agent", "overlaybd/1.0.15")];
        let answer = client::send("GET", &format!("{proxy}/p2p/{url}"), &headers, b"");
        assert_eq!(answer.status, 206, "{url} {range}: {answer:?}");
        assert_eq!(
            answer.header("content-range"),
            Some(&*format!("bytes {}-{end}/{size}", bytes.len()))
        );
        bytes.extend_from_slice(&answer.body);
    }
    bytes
}

#[test]
fn a_node_reads_the_original_layers_of_a_turbooci_image() {
    let Some(place) = Place::new() else { return };
    let turbo = place.convert("_turbo");
    let (registry, proxy) = (place.registry.url(), place.proxy.url());
    let targets = turbo["layers"].as_array().unwrap().iter().map(|layer| {
        text(&layer["annotations"]["containerd.io/snapshot/overlaybd/turbo-oci/target-digest"])
    });
    let mut count = 0;
    for (target, blob) in targets.zip(&place.source.blobs[1..]) {
        assert_eq!(target, blob.digest());
        let host = place.registry.address();
        for url in [
            format!("{registry}/v2/app/blobs/{target}"),
            // A proxy on the way makes one slash of two; a client encodes what it need not.
            format!("http:/{host}/v2/app/blobs/{target}"),
            format!(
                "https://{host}/v2/%61pp/blobs/{}",
                target.replace(':', "%3A")
            ),
        ] {
            assert_eq!(read(proxy, &url, blob.bytes.len()), blob.bytes, "{url}");
            let head = client::send("HEAD", &format!("{proxy}/p2p/{url}"), &[], b"");
            assert_eq!(head.status, 200, "{head:?}");
            assert_eq!(
                head.header("content-length"),
                Some(&*blob.bytes.len().to_string())
            );
            count += 1;
        }
    }
    assert_eq!(count, 6);
}

#[test]
fn a_node_reads_converted_blobs_by_the_names_of_the_upstream_and_of_the_proxy() {
    let Some(place) = Place::new() else { return };
    let native = place.convert("_obd");
    let layer = &native["layers"][0];
    let (digest, size) = (text(&layer["digest"]), layer["size"].as_u64().unwrap());
    let direct = place.proxy.get(&format!("app/blobs/{digest}"));
    for host in [place.registry.address(), place.proxy.host()] {
        let url = format!("http://{host}/v2/app/blobs/{digest}");
        let found = read(place.proxy.url(), &url, usize::try_from(size).unwrap());
        assert_eq!(found, direct.body, "{host}");
    }
}

#[test]
fn whatever_is_no_blob_of_an_upstream_is_refused_and_asked_of_nobody() {
    let Some(place) = Place::new() else { return };
    let trap = TcpListener::bind("127.0.0.1:0").unwrap();
    trap.set_nonblocking(true).unwrap();
    let elsewhere = trap.local_addr().unwrap();
    let layer = place.source.blobs[1].digest();
    let host = place.registry.address();
    let before = place.registry.requests().len();
    for (url, status, word) in [
        (
            format!("http://{elsewhere}/v2/app/blobs/{layer}"),
            403,
            "--p2p-host",
        ),
        (
            format!("http://{host}@{elsewhere}/v2/app/blobs/{layer}"),
            400,
            "/p2p/https",
        ),
        (
            format!("http://registry.invalid/v2/app/blobs/{layer}"),
            403,
            "--upstream",
        ),
        (
            "http://169.254.169.254/latest/meta-data".to_owned(),
            403,
            "no upstream",
        ),
        (
            format!("http://{host}/v2/app/manifests/1"),
            403,
            "blobs only",
        ),
        (format!("http://{host}/v2/"), 403, "blobs only"),
        (format!("http://{host}/metrics"), 403, "blobs only"),
        (
            format!("http://{host}/v2/app/blobs/uploads/x"),
            403,
            "blobs only",
        ),
        (
            format!("http://{host}/v2/app/%2e%2e/blobs/{layer}"),
            400,
            "dots",
        ),
        (
            format!("http://{host}/v2/app%2fblobs/{layer}"),
            400,
            "encoded slash",
        ),
        (
            format!("ftp://{host}/v2/app/blobs/{layer}"),
            400,
            "/p2p/https",
        ),
        (String::new(), 400, "/p2p/https"),
    ] {
        let address = format!("{}/p2p/{url}", place.proxy.url());
        let answer = client::send("GET", &address, &[], b"");
        assert_eq!(answer.status, status, "{url}: {answer:?}");
        assert!(answer.text().contains(word), "{url}: {answer:?}");
    }
    let url = format!(
        "{}/p2p/http://{host}/v2/app/blobs/{layer}",
        place.proxy.url()
    );
    for method in ["PUT", "POST", "DELETE", "PATCH", "OPTIONS"] {
        let answer = client::send(method, &url, &[], b"");
        assert_eq!(answer.status, 405, "{method}: {answer:?}");
    }
    assert_eq!(place.registry.requests().len(), before);
    assert!(
        trap.accept().is_err(),
        "the proxy went where a client told it to"
    );
}

/// A registry that wants tokens, with `team/app:1`, and what issues them.
async fn tokens() -> Option<(Arc<Tokens>, Served, DockerRegistry)> {
    if find("openssl").is_none() {
        crate::support::skip("openssl is not installed: apt-get install openssl");
        return None;
    }
    let tokens = Tokens::new(vec![("ann", "secret", "team/", &["pull", "push"])]);
    let served = tokens.serve().await;
    let settings = tokens.settings(&format!("http://{}/token", served.host()));
    let registry = DockerRegistry::start_with(|_| settings)?;
    let as_ann = crate::registry_support::quick_as("ann", "secret");
    let upstream = Upstream::registry(&registry.host, &as_ann).unwrap();
    let source = image(1);
    let (repo, own) = (
        "team/app".parse().unwrap(),
        overlaybd_proxy::registry::Authorization::Own,
    );
    for blob in &source.blobs {
        let digest = blob.digest().parse().unwrap();
        let bytes = Bytes::from(blob.bytes.clone());
        let size = bytes.len() as u64;
        let from = overlaybd_proxy::registry::BlobSource::Bytes(bytes);
        upstream
            .push_blob(&repo, &digest, size, &from, &own)
            .await
            .unwrap();
    }
    let tag = crate::registry_support::tag("1");
    let manifest = Bytes::from(source.manifest.clone());
    let pushed = upstream.push_manifest(&repo, &tag, &source.media_type, manifest, &own);
    pushed.await.unwrap();
    Some((tokens, served, registry))
}

/// A node with an accelerator gets its token from the origin, and this proxy never sees how.
#[tokio::test]
async fn a_token_of_the_upstreams_own_is_passed_to_that_upstream() {
    let Some((_tokens, served, registry)) = tokens().await else {
        return;
    };
    let query = "service=test-registry&scope=repository:team/app:pull";
    let login = basic("ann", "secret");
    let headers = [("authorization", &*login)];
    let path = format!("/token?{query}");
    let token =
        crate::server_support::ask(served.address, Method::GET, &path, &headers, Bytes::new());
    let token: serde_json::Value = serde_json::from_slice(&token.await.body).unwrap();
    let token = format!("Bearer {}", text(&token["token"]));
    let log = Log::default();
    let seen = log.clone();
    let other = scripted::serve(move |request| {
        seen.add(&request);
        std::future::ready(Scripted::Http(Response::new(Full::from("other"))))
    })
    .await;
    // Where paths choose, clients authenticate at the proxy, and no other token is let in.
    let entry = |host: &str, prefix: &str| UpstreamEntry {
        upstream: Upstream::registry(host, &quick()).unwrap(),
        choice: UpstreamChoice {
            path_prefix: Some(prefix.to_owned()),
            ..UpstreamChoice::default()
        },
    };
    let entries = vec![entry(&registry.host, "one"), entry(&other.host(), "two")];
    let proxy = Proxy::start(config(entries)).await;
    let layer = &image(1).blobs[1];
    let path = format!(
        "/p2p/http://{}/v2/team/app/blobs/{}",
        registry.host,
        layer.digest()
    );
    let with = [("authorization", &*token)];
    let found = proxy.ask(Method::GET, &path, &with).await;
    assert_eq!(found.status, StatusCode::OK, "{found:?}");
    assert_eq!(found.body, layer.bytes);
    // Without a token the origin's own challenge is the answer.
    let refused = proxy.get(&path).await;
    assert_eq!(refused.status, StatusCode::UNAUTHORIZED, "{refused:?}");
    let challenge = refused.header("www-authenticate");
    assert!(challenge.contains(&served.host()), "{challenge}");
    // As a path of the proxy's own the same token is none of those that it gave out.
    let by_path = format!("/v2/one/team/app/blobs/{}", layer.digest());
    let refused = proxy.ask(Method::GET, &by_path, &with).await;
    assert_eq!(refused.status, StatusCode::UNAUTHORIZED, "{refused:?}");
    // A token that the proxy gave out for one upstream is not shown to another.
    let path = "/v2/one/_token?service=overlaybd-proxy&scope=repository:one/team/app:pull";
    let wrapped = proxy.ask(Method::GET, path, &headers).await;
    let wrapped: serde_json::Value = serde_json::from_slice(&wrapped.body).unwrap();
    let wrapped = format!("Bearer {}", text(&wrapped["token"]));
    let path = format!(
        "/p2p/http://{}/v2/team/app/blobs/{}",
        other.host(),
        layer.digest()
    );
    let answer = proxy
        .ask(Method::GET, &path, &[("authorization", &wrapped)])
        .await;
    assert_eq!(answer.body, "other", "{answer:?}");
    let shown = log.all();
    assert!(!shown.is_empty());
    assert!(
        shown
            .iter()
            .all(|seen| !seen.headers.contains_key("authorization")),
        "{shown:?}"
    );
}

/// A storage service, and a proxy that may or may not read there.
/// A registry that stands for another one is not given what was meant for that.
#[tokio::test]
async fn credentials_for_a_registry_are_not_sent_to_what_stands_for_it() {
    let log = Log::default();
    let seen = log.clone();
    let mirror = scripted::serve(move |request| {
        seen.add(&request);
        std::future::ready(Scripted::Http(Response::new(Full::from("blob"))))
    })
    .await;
    let entry = UpstreamEntry {
        upstream: Upstream::registry(&mirror.host(), &quick()).unwrap(),
        choice: UpstreamChoice {
            namespaces: vec!["registry.example".to_owned()],
            ..UpstreamChoice::default()
        },
    };
    let proxy = Proxy::start(config(vec![entry])).await;
    let login = basic("ann", "secret");
    let with = [("authorization", &*login)];
    let digest = sha256(b"blob");
    let ask = async |host: &str| {
        let path = format!("/p2p/http://{host}/v2/team/app/blobs/{digest}");
        let answer = proxy.ask(Method::GET, &path, &with).await;
        assert_eq!(answer.body, "blob", "{answer:?}");
    };
    ask("registry.example").await;
    let given = |one: &Seen| one.headers.contains_key("authorization");
    assert!(!log.all().is_empty() && !log.all().iter().any(given));
    ask(&mirror.host()).await;
    assert!(log.all().iter().any(given));
}

async fn storage(hosts: &[&str], dial: DialOptions) -> (Proxy, Served, Log) {
    let log = Log::default();
    let seen = log.clone();
    let served = scripted::serve(move |request| {
        seen.add(&request);
        let answer = match request.uri().path() {
            "/moved" => Response::builder()
                .status(307)
                .header("location", "http://127.0.0.1:1/x")
                .body(Full::default()),
            _ => Response::builder().status(206).body(Full::from("stored")),
        };
        std::future::ready(Scripted::Http(answer.unwrap()))
    })
    .await;
    let registry = RegistryConfig { dial, ..quick() };
    let upstream = Upstream::registry("registry.invalid", &registry).unwrap();
    let port = served.address.port().to_string();
    let hosts = hosts
        .iter()
        .map(|host| host.replace("PORT", &port))
        .collect();
    let config = ServerConfig {
        p2p_hosts: hosts,
        ..config(vec![plain(&upstream)])
    };
    (Proxy::start(config).await, served, log)
}

fn allowed() -> DialOptions {
    DialOptions {
        allow_hosts: vec!["127.0.0.1".to_owned()],
        allow_downgrade: true,
    }
}

async fn get(proxy: &Proxy, url: &str) -> Answer {
    let path = format!("/p2p/{url}");
    let headers = [
        ("authorization", "Bearer x"),
        ("range", "bytes=0-5"),
        ("cookie", "a=b"),
    ];
    proxy.ask(Method::GET, &path, &headers).await
}

#[tokio::test]
async fn a_signed_address_of_an_allowed_host_is_read_to_the_letter() {
    let (proxy, served, log) = storage(&["127.0.0.1:PORT"], allowed()).await;
    let address = "/bucket/%2F../a;b?X-Amz-Signature=a%2Bb%7E&y=1+2";
    let answer = get(&proxy, &format!("http://{}{address}", served.host())).await;
    assert_eq!(answer.status, StatusCode::PARTIAL_CONTENT, "{answer:?}");
    assert_eq!(answer.body, "stored");
    let seen = &log.all()[0];
    assert_eq!(seen.uri.to_string(), address);
    assert_eq!(seen.headers["range"], "bytes=0-5");
    for name in ["authorization", "cookie"] {
        assert!(!seen.headers.contains_key(name), "{seen:?}");
    }
    // A redirect is the answer, not followed.
    let moved = get(&proxy, &format!("http:/{}/moved", served.host())).await;
    assert_eq!(moved.status, StatusCode::TEMPORARY_REDIRECT, "{moved:?}");
    // Nothing is kept: each is asked anew.
    get(&proxy, &format!("http://{}{address}", served.host())).await;
    assert_eq!(log.all().len(), 3);
}

#[tokio::test]
async fn hosts_that_are_not_allowed_and_private_addresses_are_not_read() {
    let (proxy, served, log) = storage(&["cdn.example"], allowed()).await;
    let answer = get(&proxy, &format!("http://{}/x", served.host())).await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN, "{answer:?}");
    // Another port is another host.
    let (proxy, other, _) = storage(&["127.0.0.1"], allowed()).await;
    let answer = get(&proxy, &format!("http://{}/x", other.host())).await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN, "{answer:?}");
    assert!(log.all().is_empty());
    // Allowed by name, and yet at an address that is nobody's to be led to.
    for dial in [
        DialOptions::default(),
        DialOptions {
            allow_downgrade: true,
            ..DialOptions::default()
        },
        DialOptions {
            allow_downgrade: false,
            ..allowed()
        },
    ] {
        let hosts = ["127.0.0.1:PORT", "localhost:PORT"];
        let (proxy, served, log) = storage(&hosts, dial.clone()).await;
        for host in [served.host(), served.other_name()] {
            let answer = get(&proxy, &format!("http://{host}/x")).await;
            assert_eq!(
                answer.status,
                StatusCode::BAD_GATEWAY,
                "{dial:?} {host}: {answer:?}"
            );
        }
        assert!(log.all().is_empty(), "{dial:?}");
    }
}
