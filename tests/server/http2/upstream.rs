//! Upstreams that speak HTTP/2: Debian's registry behind nginx, and a server that refuses.

use std::path::Path;
use std::time::Duration;

use crate::http2::{Keys, OPTIONS, image, scripted};
use crate::support;
use crate::support::process::Process;
use crate::support::proxy::Proxy;
use crate::support::registry::Registry;
use crate::support::until::until;

/// nginx with TLS and HTTP/2 before a registry.
struct Front {
    _process: Process,
    directory: tempfile::TempDir,
    port: u16,
}

impl Front {
    fn before(registry: &Registry, keys: &Keys) -> Option<Self> {
        if !support::have(&["nginx"]) {
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().display();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let text = format!(
            "worker_processes 1; pid {place}/pid; error_log {place}/error.log;\n\
             events {{ worker_connections 512; }}\n\
             http {{\n\
             log_format short '$server_protocol $request_method $uri $status $connection';\n\
             access_log {place}/access.log short;\n\
             client_body_temp_path {place}/body; proxy_temp_path {place}/proxy;\n\
             fastcgi_temp_path {place}/fastcgi; uwsgi_temp_path {place}/uwsgi;\n\
             scgi_temp_path {place}/scgi;\n\
             server {{\n\
             listen 127.0.0.1:{port} ssl http2;\n\
             ssl_certificate {}; ssl_certificate_key {};\n\
             client_max_body_size 0;\n\
             location / {{ proxy_pass {}; proxy_set_header Host $http_host;\n\
             proxy_set_header X-Forwarded-Proto https; }}\n\
             }}\n}}\n",
            keys.text("server.crt"),
            keys.text("server.key"),
            registry.url()
        );
        let config = directory.path().join("nginx.conf");
        std::fs::write(&config, text).unwrap();
        let mut command = support::command("nginx");
        let user = if nix::unistd::geteuid().is_root() {
            " user root;"
        } else {
            ""
        };
        command
            .arg("-c")
            .arg(&config)
            .args(["-g", &format!("daemon off;master_process off;{user}")]);
        let process = Process::start(command, &directory.path().join("out"));
        until("nginx", || {
            std::net::TcpStream::connect(("127.0.0.1", port)).ok()
        });
        Some(Self {
            _process: process,
            directory,
            port,
        })
    }

    fn address(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// Protocol, method, path, status and connection of each request.
    fn requests(&self) -> Vec<Vec<String>> {
        let text = std::fs::read_to_string(self.directory.path().join("access.log"));
        let text = text.unwrap_or_default();
        let words = |line: &str| line.split(' ').map(ToOwned::to_owned).collect();
        text.lines().map(words).collect()
    }
}

fn proxy(upstream: &str, keys: &Keys, data: &Path, more: &[&str]) -> Proxy {
    let ca = keys.text("ca.crt");
    let options = [&OPTIONS[..], &["--upstream-ca", &ca], more].concat();
    Proxy::start(upstream, data, &options)
}

#[test]
fn documents_come_by_http_2_and_blobs_by_connections_of_their_own() {
    let Some(keys) = Keys::new() else { return };
    let Some(registry) = Registry::start() else {
        return;
    };
    let Some(front) = Front::before(&registry, &keys) else {
        return;
    };
    registry.push("team/app", "1", &image(1));
    let data = tempfile::tempdir().unwrap();
    let converting = proxy(&front.address(), &keys, data.path(), &["--push"]);
    let get = |path: &str| {
        let answer = converting.get(path);
        assert_eq!(answer.status, 200, "{answer:?}\n{}", converting.log());
        answer
    };
    let manifest = get("team/app/manifests/1_obd").json();
    let digest = manifest["layers"][0]["digest"].as_str().unwrap();
    let blob = get(&format!("team/app/blobs/{digest}"));
    assert_eq!(support::sha256(&blob.body), digest);
    let seen = front.requests();
    let of = |protocol: &str, method: &str, part: &str| {
        let found = seen
            .iter()
            .filter(|it| it[0] == protocol && it[1] == method && it[2].contains(part));
        found.count()
    };
    assert!(
        of("HTTP/2.0", "GET", "/manifests/") + of("HTTP/2.0", "HEAD", "/manifests/") > 0,
        "{seen:?}"
    );
    assert_eq!(of("HTTP/1.1", "HEAD", "/manifests/"), 0, "{seen:?}");
    assert!(of("HTTP/1.1", "GET", "/blobs/") > 0, "{seen:?}");
    assert_eq!(of("HTTP/2.0", "GET", "/blobs/"), 0, "{seen:?}");
    // One connection for all that goes by HTTP/2.
    let mut connections: Vec<&String> = seen
        .iter()
        .filter(|it| it[0] == "HTTP/2.0")
        .map(|it| &it[4])
        .collect();
    connections.sort();
    connections.dedup();
    assert!(connections.len() <= 2, "{seen:?}");
}

#[test]
fn http_2_can_be_switched_off_for_one_upstream() {
    let Some(keys) = Keys::new() else { return };
    let Some(registry) = Registry::start() else {
        return;
    };
    let Some(front) = Front::before(&registry, &keys) else {
        return;
    };
    registry.push("team/app", "1", &image(1));
    let data = tempfile::tempdir().unwrap();
    let upstream = format!("{},http2=off", front.address());
    let converting = proxy(&upstream, &keys, data.path(), &[]);
    assert_eq!(converting.get("team/app/manifests/1_obd").status, 200);
    let seen = front.requests();
    assert!(
        seen.len() > 2 && seen.iter().all(|it| it[0] == "HTTP/1.1"),
        "{seen:?}"
    );
}

#[test]
fn what_was_refused_untouched_is_sent_again() {
    let Some(keys) = Keys::new() else { return };
    for behaviour in [
        scripted::Behaviour::RefuseFirst,
        scripted::Behaviour::RequireHttp1,
        scripted::Behaviour::CloseForHttp1,
        scripted::Behaviour::GoAwayFirst,
    ] {
        let upstream = scripted::http2(&keys, behaviour);
        let data = tempfile::tempdir().unwrap();
        let address = format!("https://{}", upstream.address);
        // No other attempt than the one that HTTP/2 itself allows.
        let asking = proxy(&address, &keys, data.path(), &["--attempts", "1"]);
        let answer = asking.get("team/app/manifests/1_obd");
        // It has no image; that it has answered is enough.
        assert_eq!(
            answer.status,
            404,
            "{behaviour:?}: {answer:?}\n{}",
            asking.log()
        );
        assert!(upstream.requests() >= 2, "{behaviour:?}");
    }
}

#[test]
fn a_host_that_takes_http_1_only_is_asked_over_http_2_once() {
    let Some(keys) = Keys::new() else { return };
    for behaviour in [
        scripted::Behaviour::RequireHttp1,
        scripted::Behaviour::CloseForHttp1,
    ] {
        let upstream = scripted::http2(&keys, behaviour);
        let data = tempfile::tempdir().unwrap();
        let address = format!("https://{}", upstream.address);
        let asking = proxy(&address, &keys, data.path(), &["--attempts", "1"]);
        for tag in ["1_obd", "2_obd", "3_obd"] {
            let answer = asking.get(&format!("team/app/manifests/{tag}"));
            let log = asking.log();
            assert_eq!(answer.status, 404, "{behaviour:?} {tag}: {answer:?}\n{log}");
        }
        assert!(upstream.requests() >= 4, "{behaviour:?}");
        assert_eq!(upstream.over_http2(), 1, "{behaviour:?}\n{}", asking.log());
    }
}

#[test]
fn a_connection_that_is_dead_does_not_hold_requests_for_ever() {
    let Some(keys) = Keys::new() else { return };
    let upstream = scripted::http2(&keys, scripted::Behaviour::FallSilent);
    let data = tempfile::tempdir().unwrap();
    let address = format!("https://{}", upstream.address);
    let more = [
        "--attempts",
        "2",
        "--connect-timeout",
        "2s",
        "--response-timeout",
        "10m",
        "--hold",
        "5m",
    ];
    let asking = proxy(&address, &keys, data.path(), &more);
    let begun = std::time::Instant::now();
    let answer = asking.get("team/app/manifests/1_obd");
    assert_eq!(answer.status, 404, "{answer:?}\n{}", asking.log());
    // The time limit for answers is far away.
    assert!(begun.elapsed() < Duration::from_mins(3));
}
