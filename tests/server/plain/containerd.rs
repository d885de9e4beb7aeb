//! Debian's containerd, whose `hosts.toml` says that its node reads overlaybd.

use std::path::Path;

use super::{MIRRORED, Place, form_of};
use crate::support::http::Answer;
use crate::support::process::Process;
use crate::support::proxy::Proxy;
use crate::support::{command, have, is_root, run, sha256};

/// A containerd of the test's own.
struct Node {
    _process: Process,
    socket: String,
    scratch: tempfile::TempDir,
}

impl Node {
    fn start() -> Option<Self> {
        if !have(&["containerd", "ctr"]) || !is_root("containerd") {
            return None;
        }
        let scratch = tempfile::tempdir().unwrap();
        let at = |name: &str| scratch.path().join(name).display().to_string();
        let socket = at("sock");
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\", \
             \"io.containerd.internal.v1.tracing\"]\n\
             [grpc]\n  address = {socket:?}\n[ttrpc]\n  address = \"{socket}.ttrpc\"\n",
            at("root"),
            at("state"),
        );
        std::fs::write(at("config.toml"), config).unwrap();
        let mut daemon = command("containerd");
        daemon.args(["-c", &at("config.toml")]);
        let mut process = Process::start(daemon, Path::new(&at("log")));
        process.wait_for("containerd successfully ");
        Some(Self {
            _process: process,
            socket,
            scratch,
        })
    }

    /// Fetches an image of the mirrored registry, with these lines of `hosts.toml`; the digest that
    /// its name then stands for, and all content that was fetched for it.
    #[track_caller]
    fn fetch(&self, name: &str, host: &str, lines: &str) -> (String, String) {
        let hosts = self.scratch.path().join(format!("hosts-{name}"));
        let of_registry = hosts.join(MIRRORED);
        std::fs::create_dir_all(&of_registry).unwrap();
        let text = format!(
            "server = \"https://{MIRRORED}\"\n[host.{host:?}]\n  \
             capabilities = [\"pull\", \"resolve\"]\n{lines}"
        );
        std::fs::write(of_registry.join("hosts.toml"), text).unwrap();
        let ctr = |arguments: &[&str]| {
            let global = ["-a", &self.socket, "-n", name];
            run(command("ctr").args([&global[..], arguments].concat())).stdout
        };
        let image = format!("{MIRRORED}/demo:1");
        let hosts = hosts.display().to_string();
        let platform = ["--platform", "linux/amd64"];
        ctr(&[
            &["content", "fetch", "--hosts-dir", &hosts],
            &platform[..],
            &[&image],
        ]
        .concat());
        let images = String::from_utf8(ctr(&["images", "ls"])).unwrap();
        let line = images
            .lines()
            .find(|line| line.starts_with(&image))
            .unwrap();
        let digest = line.split_whitespace().nth(2).unwrap();
        let content = String::from_utf8(ctr(&["content", "ls", "-q"])).unwrap();
        (digest.to_owned(), content)
    }
}

fn turbo(proxy: &Proxy) -> Answer {
    let turbo = proxy.get("demo/manifests/1_turbo");
    assert_eq!(form_of(&turbo), "turbo");
    turbo
}

#[test]
fn containerd_pulls_a_plain_name_and_gets_turbo_where_its_hosts_file_says_so() {
    let Some(node) = Node::start() else { return };
    let Some(place) = Place::new() else { return };
    let mut proxy = place.proxy("data", &["--listen-overlaybd", "127.0.0.1:0"]);
    let listener = proxy.overlaybd();
    let url = proxy.url().to_owned();
    let below = format!("{url}/overlaybd/v2");
    let header = format!("[host.{url:?}.header]\n  Overlaybd-Format = \"auto\"\n");
    let native = format!("[host.{url:?}.header]\n  Overlaybd-Format = [\"native\"]\n");
    let original = place.demo.digest();
    // Before anything is converted.
    let (digest, content) = node.fetch("plain", &url, "");
    assert_eq!(digest, original);
    assert!(content.contains(&place.demo.blobs[1].digest()), "{content}");
    let converted = sha256(&turbo(&proxy).body);
    for (name, host, lines, wanted) in [
        ("header", &url, header.as_str(), &converted),
        ("path", &below, "  override_path = true\n", &converted),
        ("listener", &listener, "", &converted),
        // Its blobs are not where the name leads.
        ("native", &url, &native, &original),
        ("again", &url, "", &original),
    ] {
        let (digest, content) = node.fetch(name, host, lines);
        assert_eq!(&digest, wanted, "{name}\n{}", proxy.log());
        let layers = turbo(&proxy).json()["layers"].clone();
        let small = layers[0]["digest"].as_str().unwrap();
        let is_converted = *wanted == converted;
        assert_eq!(content.contains(small), is_converted, "{name}: {content}");
        let source = place.demo.blobs[1].digest();
        assert_eq!(
            content.contains(&source),
            !is_converted,
            "{name}: {content}"
        );
    }
}
