//! The files of `examples/node`, tried with the programs that read them.

use super::made_up::{Node, example};
use super::support::{command, have, run};

#[test]
fn the_examples_for_containerd_2_and_for_a_path_are_right_too() {
    let Some(node) = Node::right() else { return };
    let copy = |from: &str, to: &str| node.write(to, std::fs::read(example(from)).unwrap());
    copy("containerd/config-2.x.toml", "etc/containerd/config.toml");
    copy(
        "containerd/certs.d-by-path/docker.io/hosts.toml",
        "etc/containerd/certs.d/docker.io/hosts.toml",
    );
    let checked = node.check(&["--offline"]);
    assert_eq!(checked.code, 0, "{checked:#?}");
    assert_eq!(checked.of("warning"), [""; 0], "{checked:#?}");
    checked.has_one(
        "ok",
        &["leads to https://proxy.example.com:8480/overlaybd/v2"],
    );
    checked.has_one("ok", &["CRI's snapshotter is \"overlaybd\""]);
}

#[test]
fn the_example_for_plain_http_is_right_for_a_proxy_without_tls_only() {
    let Some(node) = Node::right() else { return };
    let file = std::fs::read(example("overlaybd-snapshotter/config-plain-http.json")).unwrap();
    let plain = ["--offline", "--proxy", "http://proxy.example.com:8480"];
    node.check(&plain).has_one(
        "wrong",
        &["https://proxy.example.com:8480", "\"insecure\": true"],
    );
    node.write("etc/overlaybd-snapshotter/config.json", file);
    let checked = node.check(&plain);
    assert_eq!(checked.code, 0, "{checked:#?}");
    checked.has_one("ok", &["images of proxy.example.com:8480 are read by http"]);
}

#[test]
fn parts_for_overlaybd_are_right_where_they_are_put_in() {
    let Some(node) = Node::right() else { return };
    let parts = std::fs::read_to_string(example("overlaybd/parts.json")).unwrap();
    let parts: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&parts).unwrap();
    assert!(parts.len() >= 4);
    for file in ["crt", "key"] {
        let made = std::fs::read(node.path(&format!("certs/client.{file}"))).unwrap();
        node.write(&format!("etc/overlaybd/client.{file}"), made);
    }
    let whole = std::fs::read_to_string(node.path("etc/overlaybd/overlaybd.json")).unwrap();
    for (name, part) in parts {
        let mut config: serde_json::Value = serde_json::from_str(&whole).unwrap();
        let part = part.as_object().unwrap().clone();
        config.as_object_mut().unwrap().extend(part);
        node.write("etc/overlaybd/overlaybd.json", config.to_string());
        let checked = node.check(&["--offline"]);
        assert_eq!(checked.code, 0, "{name}: {checked:#?}");
        assert_eq!(checked.of("warning"), [""; 0], "{name}: {checked:#?}");
    }
}

#[test]
fn debians_containerd_takes_the_example_for_it() {
    if !have(&["containerd"]) {
        return;
    }
    let config = example("containerd/config-1.x.toml");
    let output = run(command("containerd")
        .arg("--config")
        .arg(config)
        .args(["config", "dump"]));
    let dumped: toml::Table = String::from_utf8(output.stdout).unwrap().parse().unwrap();
    assert_eq!(
        dumped["proxy_plugins"]["overlaybd"]["address"].as_str(),
        Some("/run/overlaybd-snapshotter/overlaybd.sock")
    );
    let version = dumped["version"].as_integer().unwrap();
    let plugins = &dumped["plugins"];
    let (images, registry) = if version >= 3 {
        let images = &plugins["io.containerd.cri.v1.images"];
        (images, &images["registry"])
    } else {
        let cri = &plugins["io.containerd.grpc.v1.cri"];
        (&cri["containerd"], &cri["registry"])
    };
    assert_eq!(images["snapshotter"].as_str(), Some("overlaybd"));
    assert_eq!(
        images["disable_snapshot_annotations"].as_bool(),
        Some(false)
    );
    assert_eq!(
        registry["config_path"].as_str(),
        Some("/etc/containerd/certs.d")
    );
}

#[test]
fn systemd_finds_nothing_wrong_with_the_unit() {
    if !have(&["systemd-analyze"]) {
        return;
    }
    // The program need not be installed for this.
    let directory = tempfile::tempdir().unwrap();
    let name = "overlaybd-proxy-credentials.service";
    let unit = std::fs::read_to_string(example(&format!("systemd/{name}"))).unwrap();
    let unit = unit.replace(
        "/usr/local/bin/overlaybd-proxy",
        env!("CARGO_BIN_EXE_overlaybd-proxy"),
    );
    let path = directory.path().join(name);
    std::fs::write(&path, unit).unwrap();
    let output = command("systemd-analyze")
        .args(["verify", "--man=no"])
        .arg(&path)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let about = said
        .lines()
        .filter(|line| line.contains(name))
        .collect::<Vec<_>>();
    assert_eq!(about, [""; 0], "{said}");
}
