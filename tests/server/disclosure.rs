//! What answers do not tell: what was converted, where the upstream is, where files lie.

use crate::{registry_support, server_support};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Response, StatusCode};
use http_body_util::Full;
use overlaybd_proxy::oci::Digest;
use overlaybd_proxy::oci::media_type::{MANIFEST_ACCEPT, OCI_MANIFEST};
use overlaybd_proxy::registry::{Authorization, RegistryConfig, Upstream};
use overlaybd_proxy::server::{Access, UpstreamChoice, UpstreamEntry};
use registry_support::scripted::{self, Answer as Scripted};
use registry_support::tokens::Tokens;
use registry_support::{DockerRegistry, find, noise, push_image, quick, repo, skip};
use server_support::{Proxy, ask, basic, config, plain};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// All that a client can tell of an answer, but for the digest that it asked for and what is
/// another each time.
#[derive(Debug, PartialEq, Eq)]
struct Masked {
    status: u16,
    headers: BTreeMap<String, Vec<String>>,
    body: String,
}

async fn masked_answer(
    proxy: &Proxy,
    method: &Method,
    repo: &str,
    kind: &str,
    digest: &Digest,
    authorization: Option<&str>,
) -> Masked {
    let path = format!("/v2/{repo}/{kind}/{digest}");
    let mut headers = vec![("accept", MANIFEST_ACCEPT)];
    headers.extend(authorization.map(|value| ("authorization", value)));
    let answer = ask(proxy.address, method.clone(), &path, &headers, Bytes::new()).await;
    let masked = |text: &str| text.replace(digest.as_str(), "DIGEST");
    let mut masked_answer = Masked {
        status: answer.status.as_u16(),
        headers: BTreeMap::new(),
        body: masked(&String::from_utf8_lossy(&answer.body)),
    };
    for (name, value) in &answer.headers {
        if *name != "date" && *name != "x-request-id" {
            let values = masked_answer.headers.entry(name.to_string()).or_default();
            values.push(masked(value.to_str().unwrap()));
        }
    }
    masked_answer
}

/// Converted digests of repositories, and one that nobody has heard of.
struct Planted {
    layer: Digest,
    manifest: Digest,
}

const NOWHERE: &str = "no/such";

async fn plant(proxy: &Proxy, host: &str, repos: &[&str], source: &Digest) -> Planted {
    let text = format!(r#"{{"mediaType":"{OCI_MANIFEST}"}}"#);
    let mut planted = None;
    for name in repos {
        let name = repo(name);
        let layer = proxy.plant(host, &name, source, b"converted layer").await;
        let manifest = proxy.plant(host, &name, source, text.as_bytes()).await;
        planted = Some(Planted { layer, manifest });
    }
    planted.unwrap()
}

/// Asserts that these clients get the same answers for converted digests as for any; returns the statuses.
async fn all_the_same(
    proxy: &Proxy,
    repos: &[&str],
    planted: &Planted,
    clients: &[Option<&str>],
) -> Vec<u16> {
    all_of_these_the_same(proxy, repos, &["manifests", "blobs"], planted, clients).await
}

/// As [`all_the_same`], of these kinds of content only.
async fn all_of_these_the_same(
    proxy: &Proxy,
    repos: &[&str],
    kinds: &[&str],
    planted: &Planted,
    clients: &[Option<&str>],
) -> Vec<u16> {
    let mut statuses = Vec::new();
    let unknown = Digest::of(b"never heard of");
    for repo in repos {
        for client in clients {
            for kind in kinds {
                for method in [Method::GET, Method::HEAD] {
                    let ask = |digest| masked_answer(proxy, &method, repo, kind, digest, *client);
                    let random = ask(&unknown).await;
                    assert!(matches!(random.status, 401 | 404 | 502), "{random:?}");
                    statuses.push(random.status);
                    for digest in [&planted.layer, &planted.manifest] {
                        let converted = ask(digest).await;
                        assert_eq!(converted, random, "{method} {repo} {kind} {client:?}");
                    }
                }
            }
        }
    }
    statuses.sort_unstable();
    statuses.dedup();
    statuses
}

#[tokio::test]
async fn a_converted_digest_looks_unknown_to_clients_without_a_token_for_it() {
    if find("openssl").is_none() {
        return skip("openssl is not installed: apt-get install openssl");
    }
    let rights = vec![
        ("ann", "a", "team/", &["pull", "push"][..]),
        ("bob", "b", "public/", &["pull", "push"][..]),
    ];
    let tokens = Tokens::new(rights);
    let realm = tokens.serve().await;
    let address = format!("http://{}/token", realm.host());
    let started = DockerRegistry::start_with(|_| tokens.settings(&address));
    let Some(registry) = started else { return };
    let token = async |login: (&str, &str), scope: &str| {
        let path = format!("/token?service=test-registry&scope={scope}");
        let login = basic(login.0, login.1);
        let headers = [("authorization", login.as_str())];
        let answer = ask(realm.address, Method::GET, &path, &headers, Bytes::new()).await;
        let document: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        format!("Bearer {}", document["token"].as_str().unwrap())
    };
    let upstream = Upstream::registry(&registry.host, &quick()).unwrap();
    let proxy = Proxy::before(&upstream).await;
    let ann = token(("ann", "a"), "repository:team/secret:pull,push").await;
    let as_ann = Authorization::Client(Some(ann.parse().unwrap()));
    let layers = [noise(100, 1)];
    let manifest = push_image(&upstream, &repo("team/secret"), "v1", &layers, &as_ann).await;
    let source = Digest::of(&manifest);
    let repos = ["team/secret", NOWHERE];
    let planted = plant(&proxy, upstream.host(), &repos, &source).await;
    let bob = token(("bob", "b"), "repository:team/secret:pull").await;
    let other = token(("ann", "a"), "repository:team/other:pull").await;
    let password = basic("ann", "a");
    let clients = [
        None,
        Some("Bearer x"),
        Some(bob.as_str()),
        Some(other.as_str()),
        Some(password.as_str()),
    ];
    let statuses = all_the_same(&proxy, &repos, &planted, &clients).await;
    assert_eq!(statuses, [401]);
    // Whoever may has it, before and after.
    let digest = &planted.layer;
    let answer = masked_answer(
        &proxy,
        &Method::GET,
        "team/secret",
        "blobs",
        digest,
        Some(&ann),
    )
    .await;
    assert_eq!(answer.status, 200);
    let statuses = all_the_same(&proxy, &repos, &planted, &clients).await;
    assert_eq!(statuses, [401]);
}

#[tokio::test]
async fn a_converted_digest_looks_unknown_to_clients_without_a_password() {
    let Some(registry) = DockerRegistry::start_with_users(&[("robot", "r2")]) else {
        return;
    };
    let right = basic("robot", "r2");
    let upstream = Upstream::registry(&registry.host, &quick()).unwrap();
    let as_robot = Authorization::Client(Some(right.parse().unwrap()));
    let layers = [noise(100, 1)];
    let manifest = push_image(&upstream, &repo("a/b"), "v1", &layers, &as_robot).await;
    let source = Digest::of(&manifest);
    let gone = Digest::of(b"a source that is gone");
    let repos = ["a/b", NOWHERE];
    let wrong = basic("robot", "no");
    let clients = [None, Some(wrong.as_str())];

    let proxy = Proxy::before(&upstream).await;
    let planted = plant(&proxy, upstream.host(), &repos, &source).await;
    let statuses = all_the_same(&proxy, &repos, &planted, &clients).await;
    assert_eq!(statuses, [401]);
    // Where the repository does not have the source, a password does not help.
    let clients = [Some(right.as_str())];
    let statuses = all_the_same(&proxy, &[NOWHERE], &planted, &clients).await;
    assert_eq!(statuses, [404]);

    let proxy = Proxy::before(&upstream).await;
    let planted = plant(&proxy, upstream.host(), &repos, &gone).await;
    let statuses = all_the_same(&proxy, &[NOWHERE], &planted, &clients).await;
    assert_eq!(statuses, [404]);
    let kinds = ["manifests"];
    let statuses = all_of_these_the_same(&proxy, &repos, &kinds, &planted, &clients).await;
    assert_eq!(statuses, [404]);
    // Whoever may read the repository may read on what its deleted source became, and nobody else.
    let layer = &planted.layer;
    let read = masked_answer(&proxy, &Method::GET, "a/b", "blobs", layer, clients[0]).await;
    assert_eq!(read.status, 200, "{read:?}");
    let others = [None, Some(wrong.as_str())];
    let statuses = all_the_same(&proxy, &repos, &planted, &others).await;
    assert_eq!(statuses, [401]);

    // The proxy's own password is wrong: all clients are the same then.
    let mut config = config(vec![plain(&upstream)]);
    config.access = Access::Own { htpasswd: None };
    let proxy = Proxy::start(config).await;
    let planted = plant(&proxy, upstream.host(), &repos, &source).await;
    let clients = [None, Some(right.as_str())];
    let statuses = all_of_these_the_same(&proxy, &repos, &kinds, &planted, &clients).await;
    assert_eq!(statuses, [502]);
    // What its password could read when that was converted is read by all, without a question.
    let layer = &planted.layer;
    let read = masked_answer(&proxy, &Method::GET, "a/b", "blobs", layer, None).await;
    assert_eq!(read.status, 200, "{read:?}");
}

/// An upstream that says that there is nothing to those that may not, as some do.
async fn discreet() -> (scripted::Served, Digest) {
    let manifest = br#"{"schemaVersion":2}"#;
    let source = Digest::of(manifest);
    let digest = source.clone();
    let served = scripted::serve(move |request| {
        let may = request.headers().get("authorization");
        let may = may.is_some_and(|value| *value == basic("ann", "pw").as_str());
        let is_it = request.uri().path().ends_with(digest.as_str());
        let response = if may && is_it {
            Response::builder()
                .header("docker-content-digest", digest.as_str())
                .header("content-type", OCI_MANIFEST)
                .header("content-length", manifest.len())
                .body(Full::default())
        } else {
            let text = r#"{"errors":[{"code":"NAME_UNKNOWN","message":"no such repository"}]}"#;
            Response::builder().status(404).body(Full::from(text))
        };
        std::future::ready(Scripted::Http(response.unwrap()))
    })
    .await;
    (served, source)
}

#[tokio::test]
async fn a_converted_digest_looks_unknown_while_the_index_is_unavailable() {
    let (served, source) = discreet().await;
    let upstream = Upstream::registry(&served.host(), &quick()).unwrap();
    let proxy = Proxy::before(&upstream).await;
    let planted = plant(&proxy, upstream.host(), &["a"], &source).await;
    let wrong = basic("bob", "pw");
    let clients = [None, Some(wrong.as_str())];
    let ann = basic("ann", "pw");
    for digest in [&planted.layer, &planted.manifest] {
        let answer = masked_answer(&proxy, &Method::GET, "a", "blobs", digest, Some(&ann)).await;
        assert_eq!(answer.status, 200);
    }
    assert_eq!(
        all_the_same(&proxy, &["a"], &planted, &clients).await,
        [404]
    );
    let index = rusqlite::Connection::open(proxy.directory.path().join("index.sqlite")).unwrap();
    let rename = "ALTER TABLE overlaybd_proxy_links RENAME TO away";
    index.execute(rename, []).unwrap();
    for kind in ["blobs", "manifests"] {
        let random = Digest::of(b"never heard of");
        let random = masked_answer(&proxy, &Method::GET, "a", kind, &random, None).await;
        assert!(random.status >= 500, "{random:?}");
        for digest in [&planted.layer, &planted.manifest] {
            let converted = masked_answer(&proxy, &Method::GET, "a", kind, digest, None).await;
            assert_eq!(converted, random);
        }
    }
}

#[tokio::test]
async fn an_upstream_error_is_not_answered_as_404() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let source = Digest::of(b"a source");
    let digest = source.clone();
    let served = scripted::serve(move |request| {
        let is_source = request.uri().path().ends_with(digest.as_str());
        if is_source {
            count.fetch_add(1, Ordering::SeqCst);
        }
        let response = Response::builder()
            .status(if is_source { 503 } else { 404 })
            .body(Full::default())
            .unwrap();
        std::future::ready(Scripted::Http(response))
    })
    .await;
    let upstream = Upstream::registry(&served.host(), &quick()).unwrap();
    let proxy = Proxy::before(&upstream).await;
    let planted = plant(&proxy, upstream.host(), &["a"], &source).await;
    for (kind, digest) in [("blobs", &planted.layer), ("manifests", &planted.manifest)] {
        let answer = proxy.get(&format!("/v2/a/{kind}/{digest}")).await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{kind}");
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert!(!text.contains(source.as_str()), "{text}");
        assert!(!text.contains(&served.host()), "{text}");
    }
    assert!(asked.load(Ordering::SeqCst) > 0);
}

/// All bytes of an answer, also of one that breaks off.
async fn whole(address: SocketAddr, method: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\naccept: {MANIFEST_ACCEPT}\r\n\
         connection: close\r\ncontent-length: 0\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // A reset is an end, too.
    let _ = stream.read_to_end(&mut answer).await;
    assert!(!answer.is_empty(), "{method} {path}");
    String::from_utf8_lossy(&answer).into_owned()
}

/// What is done to a layout, and what it is then.
type Damage = (&'static str, fn(&Path, &Image));

struct Image {
    manifest: Digest,
    layer: Digest,
}

fn blob(layout: &Path, digest: &Digest) -> std::path::PathBuf {
    layout.join("blobs").join("sha256").join(digest.hex())
}

const DAMAGES: &[Damage] = &[
    ("nothing", |_, _| {}),
    ("an index that is none", |at, _| {
        std::fs::write(at.join("index.json"), "{").unwrap();
    }),
    ("no index", |at, _| {
        std::fs::remove_file(at.join("index.json")).unwrap();
    }),
    ("an index that is a directory", |at, _| {
        std::fs::remove_file(at.join("index.json")).unwrap();
        std::fs::create_dir(at.join("index.json")).unwrap();
    }),
    ("another index", |at, image| {
        let text = std::fs::read_to_string(at.join("index.json")).unwrap();
        let other = Digest::of(b"x");
        let text = text.replace(image.manifest.as_str(), other.as_str());
        std::fs::write(at.join("index.json"), text).unwrap();
    }),
    ("a changed manifest", |at, image| {
        let path = blob(at, &image.manifest);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[3] ^= 1;
        std::fs::write(&path, bytes).unwrap();
    }),
    ("a cut manifest", |at, image| {
        std::fs::write(blob(at, &image.manifest), "{}").unwrap();
    }),
    ("a manifest that is a directory", |at, image| {
        let path = blob(at, &image.manifest);
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
    }),
    ("a manifest that leads elsewhere", |at, image| {
        let path = blob(at, &image.manifest);
        std::fs::rename(&path, at.parent().unwrap().join("elsewhere")).unwrap();
        symlink("../../../elsewhere", &path).unwrap();
    }),
    ("no manifest", |at, image| {
        std::fs::remove_file(blob(at, &image.manifest)).unwrap();
    }),
    ("a changed layer", |at, image| {
        let path = blob(at, &image.layer);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[700] ^= 1;
        std::fs::write(&path, bytes).unwrap();
    }),
    ("a cut layer", |at, image| {
        std::fs::write(blob(at, &image.layer), "cut").unwrap();
    }),
    ("a layer that is a directory", |at, image| {
        let path = blob(at, &image.layer);
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
    }),
    ("no layer", |at, image| {
        std::fs::remove_file(blob(at, &image.layer)).unwrap();
    }),
    ("a directory of blobs that may not be read", |at, _| {
        let mode = std::fs::Permissions::from_mode(0o000);
        std::fs::set_permissions(at.join("blobs").join("sha256"), mode).unwrap();
    }),
    ("nothing at all", |at, _| {
        std::fs::rename(at, at.parent().unwrap().join("away")).unwrap();
    }),
];

#[tokio::test]
async fn no_response_contains_a_layouts_path() {
    for (name, damage) in DAMAGES {
        let place = tempfile::Builder::new()
            .prefix("very-private-")
            .tempdir()
            .unwrap();
        let path = place.path().join("layout");
        let layout = Upstream::create_layout(&path).unwrap();
        let own = Authorization::Own;
        let layers = [noise(5000, 1)];
        let manifest = push_image(&layout, &repo("demo"), "v1", &layers, &own).await;
        let image = Image {
            manifest: Digest::of(&manifest),
            layer: Digest::of(&layers[0]),
        };
        let proxy = Proxy::before(&Upstream::layout(&path).unwrap()).await;
        damage(&path, &image);
        let none = Digest::of(b"none");
        for asked in [
            "/v2/".to_owned(),
            "/v2/_catalog".to_owned(),
            "/v2/_catalog?n=x".to_owned(),
            "/v2/demo/tags/list".to_owned(),
            "/v2/none/tags/list".to_owned(),
            "/v2/demo/manifests/v1".to_owned(),
            "/v2/demo/manifests/none".to_owned(),
            "/v2/demo/manifests/v1_obd".to_owned(),
            "/v2/demo/manifests/none_obd".to_owned(),
            format!("/v2/demo/manifests/{}", image.manifest),
            format!("/v2/demo/manifests/{}", image.layer),
            format!("/v2/demo/manifests/{none}"),
            format!("/v2/demo/blobs/{}", image.layer),
            format!("/v2/demo/blobs/{none}"),
            format!("/v2/demo/referrers/{}", image.manifest),
            "/v2/Demo/manifests/v1".to_owned(),
            "/v2/demo".to_owned(),
        ] {
            for method in ["GET", "HEAD", "PUT", "DELETE"] {
                let answer = whole(proxy.address, method, &asked).await;
                assert!(
                    !answer.contains("very-private-"),
                    "{name}: {method} {asked}: {answer}"
                );
            }
        }
        // Nor is a guess at it confirmed.
        for guess in [path.clone(), path.join("not")] {
            let ns = format!("/v2/demo/tags/list?ns=oci:{}", guess.display());
            let answer = whole(proxy.address, "GET", &ns).await;
            assert!(answer.starts_with("HTTP/1.1 404"), "{name}: {answer}");
            assert!(answer.contains("NAME_UNKNOWN"), "{name}: {answer}");
        }
        let blobs = path.join("blobs").join("sha256");
        if blobs.exists() {
            let mode = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(blobs, mode).unwrap();
        }
    }
}

type Make = Box<dyn Fn() -> Response<Full<Bytes>> + Send + Sync>;

#[tokio::test]
async fn no_error_contains_a_registrys_address() {
    let status = |status: u16, more: &'static str| {
        move || {
            let text = r#"{"errors":[{"code":"X","message":"said"}]}"#;
            let digest = Digest::of(b"x");
            let mut response = Response::builder()
                .status(status)
                .header("content-type", OCI_MANIFEST);
            if more == "redirect" {
                response = response.header("location", "http://169.254.169.254/latest");
            } else if more == "digest" {
                response = response.header("docker-content-digest", digest.as_str());
            }
            response.body(Full::from(text)).unwrap()
        }
    };
    let makes: Vec<(&str, Make)> = vec![
        ("401", Box::new(status(401, ""))),
        ("403", Box::new(status(403, ""))),
        ("404", Box::new(status(404, ""))),
        ("418", Box::new(status(418, ""))),
        ("429", Box::new(status(429, ""))),
        ("500", Box::new(status(500, ""))),
        ("503", Box::new(status(503, ""))),
        ("no digest", Box::new(status(200, ""))),
        ("another digest", Box::new(status(200, "digest"))),
        ("a redirect", Box::new(status(307, "redirect"))),
    ];
    let mut served = Vec::new();
    let mut registries = Vec::new();
    for (name, make) in makes {
        let one = scripted::serve(move |_| std::future::ready(Scripted::Http(make()))).await;
        registries.push((name, one.host(), quick()));
        served.push(one);
    }
    let hangs_up = scripted::raw(|_, _, _| async {}).await;
    registries.push(("a connection that ends", hangs_up.host(), quick()));
    let silent = scripted::raw(|_, _, stream| async move {
        tokio::time::sleep(Duration::from_mins(1)).await;
        drop(stream);
    })
    .await;
    let mut impatient = quick();
    impatient.timeouts.response = Duration::from_millis(50);
    impatient.retry.attempts = 1;
    registries.push(("silence", silent.host(), impatient));
    // A port that was just let go of.
    let closed = scripted::raw(|_, _, _| async {}).await.host();
    registries.push(("nobody", closed, quick()));
    for access in [Access::PassThrough, Access::Own { htpasswd: None }] {
        no_address(&registries, access).await;
    }
}

/// Asks each of these registries, by the number that it has, for all kinds of things.
async fn no_address(registries: &[(&str, String, RegistryConfig)], access: Access) {
    let entry = |(number, (_, host, config)): (usize, &(&str, String, RegistryConfig))| {
        let choice = UpstreamChoice {
            path_prefix: Some(format!("r{number}")),
            ..UpstreamChoice::default()
        };
        let upstream = Upstream::registry(host, config).unwrap();
        UpstreamEntry { upstream, choice }
    };
    let mut config = config(registries.iter().enumerate().map(entry).collect());
    let reads_unasked = access != Access::PassThrough;
    config.access = access;
    let proxy = Proxy::start(config).await;
    let source = Digest::of(b"a source");
    for (number, (name, host, _)) in registries.iter().enumerate() {
        let planted = plant(&proxy, host, &["a"], &source).await;
        let repo = format!("r{number}/a");
        for path in [
            "tags/list".to_owned(),
            "manifests/v1".to_owned(),
            "manifests/v1_obd".to_owned(),
            format!("manifests/{}", planted.manifest),
            format!("blobs/{}", planted.layer),
            format!("blobs/{source}"),
        ] {
            let answer = proxy.get(&format!("/v2/{repo}/{path}")).await;
            let text = format!("{:?} {:?}", answer.headers, answer.body);
            let (address, _) = host.rsplit_once(':').unwrap();
            for secret in [host, address] {
                assert!(!text.contains(secret), "{name}, {path}: {secret}: {text}");
            }
            if !path.contains(source.as_str()) {
                assert!(!text.contains(source.as_str()), "{name}, {path}: {text}");
            }
        }
        // And whatever is wrong with the upstream, it tells nothing of what was converted.
        let unknown = Digest::of(b"never heard of");
        for (kind, digest) in [("manifests", &planted.manifest), ("blobs", &planted.layer)] {
            let ask = |digest| masked_answer(&proxy, &Method::GET, &repo, kind, digest, None);
            let random = ask(&unknown).await;
            // An upstream that has whatever is asked for allows all of it.
            if reads_unasked && kind == "blobs" {
                assert_eq!(ask(digest).await.status, 200, "{name}");
            } else if random.status != 200 {
                assert_eq!(ask(digest).await, random, "{name}, {kind}");
            }
        }
    }
}
