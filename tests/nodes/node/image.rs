//! `node check --image`: a blob is read as overlaybd reads it, through real proxies and registries.

use super::made_up::Node;
use super::support::image::Image;
use super::support::noise;
use super::support::registry::Registry;
use super::support::tar::Tar;
use super::tls::proxy;

const PLATFORM: [&str; 2] = ["--platform", "linux/amd64,linux/arm64"];

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// A registry with one image, and a node that reads it in the clear.
fn registry(node: &Node) -> Option<Registry> {
    let registry = Registry::start()?;
    let tar = Tar::new().file("file", noise(1, 300_000)).finish();
    let image = Image::gzip(&[tar]).platform("linux", architecture()).seal();
    registry.push("team/app", "1", &image);
    node.replace(
        "etc/overlaybd-snapshotter/config.json",
        "\"mirrorRegistry\": []",
        &format!(
            "\"mirrorRegistry\": [{{\"host\": \"{}\", \"insecure\": true}}]",
            registry.address()
        ),
    );
    std::fs::remove_dir_all(node.path("etc/containerd/certs.d/docker.io")).unwrap();
    Some(registry)
}

/// Has containerd ask the proxy for images of this registry.
fn mirror(node: &Node, registry: &Registry, url: &str) {
    let directory = registry.address().replace(':', "_");
    node.write(
        &format!("etc/containerd/certs.d/{directory}_/hosts.toml"),
        format!(
            "server = \"{}\"\n[host.\"{url}\"]\n  capabilities = [\"pull\", \"resolve\"]\n  \
             ca = \"/etc/containerd/certs.d/proxy-ca.crt\"\n  \
             [host.\"{url}\".header]\n    Overlaybd-Format = \"original\"\n",
            registry.url()
        ),
    );
}

#[test]
fn a_converted_blob_is_read_from_the_proxy_by_its_own_name() {
    let Some(node) = Node::right() else { return };
    let Some(registry) = registry(&node) else {
        return;
    };
    let proxy = proxy(&node, &registry.url(), &PLATFORM);
    let image = format!(
        "{}/team/app:1_obd",
        proxy.url().trim_start_matches("https://")
    );
    let checked = node.check(&["--proxy", proxy.url(), "--image", &image]);
    assert_eq!(checked.code, 0, "{checked:#?}");
    checked.has_one("ok", &["comes converted, 1 layer"]);
    checked.has_one(
        "ok",
        &[
            "a read of the converted layer at https://127.0.0.1",
            "succeeds",
        ],
    );
    // As overlaybd's, which says so.
    let log = proxy.log();
    assert!(!log.contains("panic"), "{log}");
}

#[test]
fn through_a_mirror_turbo_is_read_from_the_origin_and_native_is_not_there() {
    let Some(node) = Node::right() else { return };
    let Some(registry) = registry(&node) else {
        return;
    };
    let proxy = proxy(&node, &registry.url(), &PLATFORM);
    mirror(&node, &registry, proxy.url());
    let name = |tag: &str| format!("{}/team/app:{tag}", registry.address());
    let turbo = node.check(&["--image", &name("1_turbo")]);
    assert_eq!(turbo.code, 0, "{turbo:#?}");
    turbo.has_one(
        "ok",
        &[
            "a read of the source's layer at http://127.0.0.1",
            "succeeds",
        ],
    );
    let native = node.check(&["--image", &name("1_obd")]);
    assert_eq!(native.of("wrong").len(), 1, "{native:#?}");
    native.has_one("wrong", &["404", "serve --push", "TurboOCI"]);
    let plain = node.check(&["--image", &name("1")]);
    assert_eq!(plain.code, 0, "{plain:#?}");
    plain.has_one("warning", &["ordinary image", "Overlaybd-Format"]);
    let missing = node.check(&["--image", &name("none")]);
    missing.has_one("wrong", &["its manifest cannot be had"]);
    // Where the snapshotter is not told, overlaybd is sent to https, where nobody speaks it.
    node.replace(
        "etc/overlaybd-snapshotter/config.json",
        "\"insecure\": true",
        "\"insecure\": false",
    );
    let checked = node.check(&["--image", &name("1_turbo")]);
    checked.has_one("wrong", &["https://127.0.0.1", "mirrorRegistry"]);
}

#[test]
fn credentials_come_from_where_overlaybd_has_them() {
    let Some(node) = Node::right() else { return };
    let Some(registry) = registry(&node) else {
        return;
    };
    let users = node.path("users").display().to_string();
    // "node", "s3cret-of-node"
    let hash = super::support::command("htpasswd")
        .args(["-bnBC4", "node", "s3cret-of-node"])
        .output();
    let Ok(hash) = hash else {
        return super::support::skip("htpasswd is not installed (tests/setup.sh does)");
    };
    node.write("users", hash.stdout);
    let own = [&PLATFORM[..], &["--htpasswd", &users, "--own-credentials"]].concat();
    let proxy = proxy(&node, &registry.url(), &own);
    let host = proxy.url().trim_start_matches("https://").to_owned();
    node.write(
        "docker/config.json",
        format!(
            "{{\"auths\":{{\"{host}\":{{\"username\":\"node\",\"password\":\"s3cret-of-node\"}}}}}}"
        ),
    );
    let image = format!("{host}/team/app:1_obd");
    let docker = node.path("docker").display().to_string();
    let check = || {
        let output = super::support::proxy::program()
            .env("DOCKER_CONFIG", &docker)
            .args(["node", "check", "--root"])
            .arg(node.directory.path())
            .args(["--proxy", proxy.url(), "--image", &image])
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(!text.contains("s3cret"), "{text}");
        text
    };
    let without = check();
    assert!(
        without.contains("overlaybd has no credentials for it"),
        "{without}"
    );
    let cred = "opt/overlaybd/cred.json";
    node.replace(cred, "proxy.example.com:8480", &host);
    let wrong = check();
    assert!(wrong.contains("the credentials do not suffice"), "{wrong}");
    node.replace(cred, "a password", "s3cret-of-node");
    let right = check();
    assert!(right.contains("a read of the converted layer"), "{right}");
    assert!(right.contains("\n0 points wrong"), "{right}");
    // The same by this program's server.
    node.replace(
        "etc/overlaybd/overlaybd.json",
        "\"mode\": \"file\"",
        "\"mode\": \"uds\"",
    );
    node.replace(
        "etc/overlaybd/overlaybd.json",
        "/opt/overlaybd/cred.json",
        "/run/credentials.sock",
    );
    let away = check();
    assert!(
        away.contains("/run/credentials.sock: overlaybd gets no credentials"),
        "{away}"
    );
    let config = node.path("docker/config.json").display().to_string();
    let socket = node.path("run/credentials.sock").display().to_string();
    let _server = super::credentials::Server::start(&format!("unix:{socket}"), &config, &[]);
    let right = check();
    assert!(right.contains("\n0 points wrong"), "{right}");
}
