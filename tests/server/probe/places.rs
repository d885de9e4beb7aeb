//! Where the proxy is, for a node: below a path, for another registry, behind another server,
//! before another proxy.

use crate::probe::reader::{AGENT, Reader};
use crate::probe::{PLATFORM, blob, image, layer_digests};
use crate::support::http::send;
use crate::support::proxy::Proxy;
use crate::support::registry::Registry;
use crate::support::{command, have, run};

/// The redirect of a probe, and a read there.
#[track_caller]
fn assert_read(proxy: &Proxy, url: &str, more: &[(&str, &str)], begin: &str) {
    let headers = [&[("user-agent", AGENT)], more].concat();
    let probe = send("GET", url, &headers, b"");
    assert_eq!(probe.status, 307, "{url}: {probe:?}");
    let address = probe.header("location").unwrap();
    let query = address.strip_prefix(begin);
    let query = query.unwrap_or_else(|| panic!("{address} does not begin with {begin}"));
    assert!(query.starts_with("overlaybd-signed=1c."), "{address}");
    // Whatever the proxy is called outside, the path is the same.
    let at = address.find("//").unwrap() + 2;
    let path = &address[at + address[at..].find('/').unwrap()..];
    let address = format!("{}{path}", proxy.url());
    let part = send("GET", &address, &[("range", "bytes=0-99")], b"");
    assert_eq!(
        (part.status, part.body.len()),
        (206, 100),
        "{address}: {part:?}"
    );
}

#[test]
fn the_address_is_where_the_node_knows_the_proxy() {
    let (Some(first), Some(second)) = (Registry::start(), Registry::start()) else {
        return;
    };
    first.push("app", "1", &image(1, 1, 100_000));
    second.push("app", "1", &image(2, 1, 100_000));
    let data = tempfile::tempdir().unwrap();
    let other = format!(
        "{},path-prefix=deep/hub,ns=reg.example,hosts=hub.example",
        second.url()
    );
    let options = [
        &PLATFORM[..],
        &["--upstream", &other, "--listen-overlaybd", "127.0.0.1:0"],
    ];
    let mut proxy = Proxy::start(&first.url(), data.path(), &options.concat());
    let nodes = proxy.overlaybd();
    let one = layer_digests(&proxy.converted("app", "1")).remove(0);
    let two = layer_digests(&proxy.converted("deep/hub/app", "1")).remove(0);
    let url = proxy.url().to_owned();

    let plain = blob(&url, "app", &one);
    assert_read(&proxy, &plain, &[], &format!("{plain}?"));
    let below = plain.replace("/v2/", "/overlaybd/v2/");
    assert_read(&proxy, &below, &[], &format!("{below}?"));
    let prefixed = blob(&url, "deep/hub/app", &two);
    assert_read(&proxy, &prefixed, &[], &format!("{prefixed}?"));
    let named = blob(&url, "app", &two);
    assert_read(
        &proxy,
        &format!("{named}?ns=reg.example"),
        &[],
        &format!("{named}?ns=reg.example&"),
    );
    let host = [("host", "hub.example:80")];
    let hub = blob("http://hub.example:80", "app", &two);
    let probe = send("GET", &named, &[host[0], ("user-agent", AGENT)], b"");
    let address = probe.header("location").unwrap();
    assert!(
        address.starts_with(&format!("{hub}?overlaybd-signed=")),
        "{address}"
    );
    let at_proxy = address.replace("http://hub.example:80", &url);
    assert_eq!(send("HEAD", &at_proxy, &host, b"").status, 200);
    // The first upstream has no such blob, and the address is not for it.
    assert_eq!(send("HEAD", &at_proxy, &[], b"").status, 403);

    let outside = [
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "r.example, inner"),
    ];
    assert_read(
        &proxy,
        &plain,
        &outside,
        &format!("{}?", blob("https://r.example", "app", &one)),
    );
    // At the listener for nodes, as at the other one.
    let listener = blob(&nodes, "app", &one);
    let mut reader = Reader::new();
    reader.read_all(&listener);
    let address = reader.address(&listener);
    assert!(address.starts_with(&format!("{listener}?")), "{address}");
}

#[test]
fn behind_nginx_that_ends_tls_the_address_is_https() {
    if !have(&["nginx", "openssl"]) {
        return;
    }
    let Some(pki) = crate::registry_support::certificates() else {
        return;
    };
    let Some(scene) = crate::probe::Scene::new(&[]) else {
        return;
    };
    let scratch = tempfile::tempdir().unwrap();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let (pki_path, directory) = (pki.path().display(), scratch.path().display());
    let config = format!(
        "daemon off;\nmaster_process off;\npid {directory}/pid;\nerror_log {directory}/error;\n\
         events {{}}\nhttp {{\naccess_log off;\nclient_body_temp_path {directory}/b;\n\
         proxy_temp_path {directory}/p;\nfastcgi_temp_path {directory}/f;\n\
         uwsgi_temp_path {directory}/u;\nscgi_temp_path {directory}/s;\n\
         server {{\nlisten 127.0.0.1:{port} ssl;\nssl_certificate {pki_path}/server.crt;\n\
         ssl_certificate_key {pki_path}/server.key;\nlocation / {{\nproxy_pass {};\n\
         proxy_set_header Host $http_host;\nproxy_set_header X-Forwarded-Proto $scheme;\n}}\n}}\n}}\n",
        scene.proxy.url()
    );
    let file = scratch.path().join("nginx.conf");
    std::fs::write(&file, config).unwrap();
    let mut nginx = command("nginx");
    nginx
        .arg("-c")
        .arg(&file)
        .arg("-e")
        .arg(scratch.path().join("error"));
    let _nginx = crate::support::process::Process::start(nginx, &scratch.path().join("out"));
    crate::support::until::until("nginx listens", || {
        std::net::TcpStream::connect(("127.0.0.1", port)).ok()
    });
    let outside = format!("https://127.0.0.1:{port}");
    let mut reader = Reader::trusting(Some(pki.path().join("ca.crt")));
    let url = blob(&outside, "app", &scene.layers[0]);
    assert_eq!(reader.read_all(&url), scene.bytes());
    let address = reader.address(&url);
    assert!(address.starts_with(&format!("{url}?")), "{address}");
}

/// A proxy with users before a registry, another one before it that passes credentials through,
/// and what nodes are given for both.
struct Chain {
    inner: Proxy,
    outer: Proxy,
    layer: String,
    _registry: Registry,
    _scratch: tempfile::TempDir,
}

impl Chain {
    fn new(options: &[&str]) -> Option<Self> {
        if !have(&["htpasswd"]) {
            return None;
        }
        let registry = Registry::start()?;
        registry.push("app", "1", &image(1, 1, 300_000));
        let scratch = tempfile::tempdir().unwrap();
        let users = scratch.path().join("users");
        let made = run(command("htpasswd").args(["-nbB", "ann", "pw"]));
        std::fs::write(&users, made.stdout).unwrap();
        let users = users.display().to_string();
        let inner = [&PLATFORM[..], &["--htpasswd", &users]].concat();
        let inner = Proxy::start(&registry.url(), &scratch.path().join("inner"), &inner);
        let outer = [&PLATFORM[..], options].concat();
        let outer = Proxy::start(inner.url(), &scratch.path().join("outer"), &outer);
        let mut reader = Reader::of("ann:pw");
        let manifest = reader.manifest(&format!("{}/v2/app/manifests/1_obd", inner.url()));
        Some(Self {
            layer: layer_digests(&manifest).remove(0),
            inner,
            outer,
            _registry: registry,
            _scratch: scratch,
        })
    }
}

#[test]
fn a_node_reads_through_a_proxy_before_another_one() {
    for options in [&[][..], &["--cache-source"], &["--url-ttl", "0"]] {
        let Some(chain) = Chain::new(options) else {
            return;
        };
        let url = blob(chain.outer.url(), "app", &chain.layer);
        let mut reader = Reader::of("ann:pw");
        let bytes = reader.read_all(&url);
        assert_eq!(crate::support::sha256(&bytes), chain.layer, "{options:?}");
        // The inner one sends nobody away whom it does not know.
        let inner = reader
            .asked
            .iter()
            .filter(|asked| asked.url.contains(chain.inner.host()));
        assert_eq!(inner.count(), 0, "{:?}", reader.asked);
    }
}

#[test]
fn a_node_reads_at_an_accelerator_what_the_proxy_signed() {
    for options in [&[][..], &["--cache-source"]] {
        let Some(chain) = Chain::new(options) else {
            return;
        };
        let url = blob(chain.inner.url(), "app", &chain.layer);
        for accelerator in [&chain.outer, &chain.inner] {
            let mut reader = Reader::of("ann:pw");
            reader.accelerator = Some(format!("{}/p2p", accelerator.url()));
            let bytes = reader.read_all(&url);
            assert_eq!(crate::support::sha256(&bytes), chain.layer);
            let reads = reader
                .asked
                .iter()
                .filter(|asked| asked.url.contains("/p2p/"));
            for read in reads {
                assert_eq!((read.status, &read.authorization), (206, &None), "{read:?}");
            }
            // What was altered is refused by whoever has the key.
            let address = reader.address(&url).replace("=1c.", "=1s.");
            let answer = send(
                "GET",
                &format!("{}/p2p/{address}", accelerator.url()),
                &[],
                b"",
            );
            assert_eq!(answer.status, 403, "{answer:?}");
        }
    }
}
