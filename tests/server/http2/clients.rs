//! Clients of Debian that speak HTTP/2: curl, nghttp, h2load, skopeo.

use crate::http2::{OPTIONS, Scene, curl, image, layer, protocols};
use crate::support::process::Process;
use crate::support::proxy::Proxy;
use crate::support::registry::Registry;
use crate::support::{self, skopeo};

#[test]
fn curl_gets_the_same_by_http_2_as_by_http_1() {
    let Some(scene) = Scene::new(&[]) else { return };
    let get = |path: &str, more: &[&str]| {
        let two = scene.curl(path, &[&["--http2"], more].concat());
        let one = scene.curl(path, &[&["--http1.1"], more].concat());
        assert_eq!((&*two.protocol, &*one.protocol), ("2", "1.1"), "{path}");
        assert_eq!(two.status, one.status, "{path} {more:?}");
        for name in [
            "content-type",
            "content-length",
            "content-range",
            "docker-content-digest",
            "etag",
        ] {
            // The boundary of several ranges is made up anew.
            if !one.header(name).unwrap_or_default().contains("boundary") {
                assert_eq!(two.header(name), one.header(name), "{path} {more:?} {name}");
            }
        }
        for name in ["connection", "transfer-encoding", "keep-alive"] {
            assert_eq!(two.header(name), None, "{path}");
        }
        (two, one)
    };
    let path = "/v2/team/app/manifests/1_obd";
    let (manifest, other) = get(path, &["-L"]);
    assert_eq!(manifest.status, 200);
    assert!(manifest.body == other.body);
    let blob = layer(&manifest.json());
    let (whole, other) = get(&blob, &[]);
    assert_eq!(
        support::sha256(&whole.body),
        blob.rsplit('/').next().unwrap()
    );
    assert!(whole.body == other.body);
    let (part, _) = get(&blob, &["-r", "1000-200999"]);
    assert_eq!(part.status, 206);
    assert!(part.body == whole.body[1000..201_000]);
    let (parts, other) = get(&blob, &["-r", "0-9,100000-199999"]);
    assert_eq!(parts.status, 206);
    assert_eq!(parts.body.len(), other.body.len());
    let piece = &whole.body[100_000..200_000];
    assert!(parts.body.windows(piece.len()).any(|it| it == piece));
    let (head, _) = get(&blob, &["-I"]);
    assert_eq!(head.status, 200);
    assert_eq!(
        head.header("content-length"),
        Some(&*whole.body.len().to_string())
    );
    let tag = manifest
        .header("etag")
        .or(manifest.header("docker-content-digest"))
        .unwrap();
    let condition = format!("If-None-Match: {tag}");
    let (_, one) = get(path, &["-L", "-H", &condition]);
    assert!(one.status == 304 || one.status == 200);
    let (_, _) = get(&blob, &["-r", "99999999-"]);
    let (missing, _) = get("/v2/team/app/manifests/none_obd", &[]);
    assert_eq!(missing.status, 404);
    assert!(missing.json()["errors"][0]["code"].is_string());
    let (outside, _) = get("/elsewhere", &[]);
    assert_eq!(outside.status, 404);
    let seen = protocols(&scene.proxy, "/blobs/", 8);
    assert!(seen.contains(&"HTTP/2.0".to_owned()) && seen.contains(&"HTTP/1.1".to_owned()));
    let name = "overlaybd_proxy_protocol_requests_total";
    assert!(scene.proxy.metric(name).is_some_and(|count| count >= 12));
}

#[test]
fn http_2_can_be_switched_off() {
    let Some(scene) = Scene::new(&["--http2=false"]) else {
        return;
    };
    let got = scene.curl("/v2/", &["--http2"]);
    assert_eq!((got.status, &*got.protocol), (200, "1.1"));
}

#[test]
fn without_tls_http_2_is_spoken_where_it_is_allowed() {
    if !support::have(&["curl"]) {
        return;
    }
    let Some(registry) = Registry::start() else {
        return;
    };
    registry.push("team/app", "1", &image(1));
    let data = tempfile::tempdir().unwrap();
    let more = ["--h2c", "--listen-overlaybd", "127.0.0.1:0"];
    let options = [&OPTIONS[..], &more].concat();
    let mut proxy = Proxy::start(&registry.url(), data.path(), &options);
    let overlaybd = proxy.overlaybd();
    for (base, tag) in [(proxy.url(), "1_obd"), (&overlaybd, "1")] {
        let path = format!("{base}/v2/team/app/manifests/{tag}");
        for (flag, protocol) in [("--http2-prior-knowledge", "2"), ("--http1.1", "1.1")] {
            let got = curl(&path, &[flag, "-L"]);
            assert_eq!((got.status, &*got.protocol), (200, protocol));
            assert!(
                got.json()["layers"][0]["annotations"].is_object(),
                "{got:?}"
            );
        }
    }
    // Operators' address stays as it was.
    let output = support::command("curl")
        .args(["-s", "--http2-prior-knowledge", proxy.admin()])
        .output();
    assert!(!output.unwrap().status.success());
    drop(proxy);
    let data = tempfile::tempdir().unwrap();
    let proxy = Proxy::start(&registry.url(), data.path(), &OPTIONS);
    let output = support::command("curl")
        .args(["-s", "--http2-prior-knowledge", proxy.url()])
        .output();
    assert!(!output.unwrap().status.success());
}

#[test]
fn one_connection_carries_many_requests() {
    if !support::have(&["nghttp", "h2load"]) {
        return;
    }
    let Some(scene) = Scene::new(&["--auth-cache-ttl", "1h"]) else {
        return;
    };
    let manifest = scene.curl("/v2/team/app/manifests/1_obd", &["--http2", "-L"]);
    let blob = layer(&manifest.json());
    let url = format!("{}{blob}", scene.proxy.url());
    let output = support::run(
        support::command("nghttp")
            .args(["-n", "-s", "-m", "20", "--no-verify-peer"])
            .arg(&url),
    );
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(text.matches(" 200 ").count(), 20, "{text}");
    let output = support::run(
        support::command("h2load")
            .args([
                "-n",
                "1000",
                "-c",
                "1",
                "-m",
                "50",
                "-H",
                "range: bytes=5-70004",
            ])
            .arg(&url),
    );
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        text.contains("1000 succeeded, 0 failed, 0 errored"),
        "{text}"
    );
    assert!(text.contains("status codes: 1000 2xx"), "{text}");
    assert!(text.contains("Application protocol: h2"), "{text}");
}

/// skopeo chooses HTTP/1.1, whatever is offered; Debian's registry, as a mirror, HTTP/2.
#[test]
fn clients_written_in_go_pull_and_push() {
    if !support::have(&["skopeo"]) {
        return;
    }
    let Some(scene) = Scene::new(&[]) else { return };
    let target = tempfile::tempdir().unwrap();
    let from = scene.proxy.url().replace("https://", "docker://");
    let layout = skopeo::layout(target.path(), "1");
    skopeo::copied(&format!("{from}/team/app:1_obd"), &layout, &[]);
    skopeo::copied(&layout, &format!("{from}/team/pushed:1"), &[]);
    let pushed = scene.registry.count("PUT", "/v2/team/pushed/manifests/1");
    assert_eq!(pushed, 1, "{:?}", scene.registry.requests());

    let config = target.path().join("mirror.yml");
    let text = format!(
        "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
         http: {{addr: 127.0.0.1:0}}\nproxy: {{remoteurl: {}}}\n",
        target.path().join("mirror").display(),
        scene.proxy.url()
    );
    std::fs::write(&config, text).unwrap();
    let mut command = support::command("docker-registry");
    command
        .arg("serve")
        .arg(&config)
        .env("SSL_CERT_FILE", scene.keys.path("ca.crt"));
    let mut mirror = Process::start(command, &target.path().join("log"));
    let address = mirror.wait_for("listening on ");
    let mirrored = skopeo::layout(target.path(), "mirrored");
    let image = format!("docker://{address}/team/app:1_obd");
    skopeo::copied(&image, &mirrored, &[]);
    let seen = protocols(&scene.proxy, "/team/app/", 4);
    assert!(seen.contains(&"HTTP/2.0".to_owned()), "{seen:?}");
}
