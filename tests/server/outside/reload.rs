//! SIGHUP: read again what can be read again, and cut nobody off.

use std::path::Path;

use nix::sys::signal::Signal;

use crate::outside::{PLATFORM, image};
use crate::registry_support::{DockerRegistry, Settings, certificates};
use crate::support::gate::Gate;
use crate::support::http;
use crate::support::proxy::{Proxy, program};
use crate::support::registry::Registry;
use crate::support::until::until;

/// Waits until the log says something that it did not say before.
#[track_caller]
fn until_log(proxy: &Proxy, text: &str, count: usize) {
    until(text, || {
        (proxy.log().matches(text).count() >= count).then_some(())
    });
}

fn start_with_file(upstream: &str, data: &Path, file: &Path, more: &[&str]) -> Proxy {
    let mut command = program();
    command.arg("--config").arg(file);
    Proxy::start_as(command, upstream, data, more)
}

#[test]
fn sighup_aborts_no_request_and_changes_the_log_level() {
    let Some(registry) = Registry::start() else {
        return;
    };
    registry.push("app", "1", &image(1));
    let gate = Gate::before(registry.address());
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("config.toml");
    std::fs::write(
        &file,
        "log-level = \"overlaybd_proxy=info\"\nhold = \"1h\"\n",
    )
    .unwrap();
    let data = scratch.path().join("data");
    let proxy = start_with_file(&gate.url(), &data, &file, &PLATFORM);
    let hold = gate.hold("GET", &image(1).blobs.last().unwrap().digest());
    std::thread::scope(|scope| {
        let held = scope.spawn(|| proxy.get("app/manifests/1_obd"));
        hold.wait();
        proxy.signal(Signal::SIGHUP);
        until_log(&proxy, "reload: reloaded", 1);
        hold.release();
        assert_eq!(held.join().unwrap().status, 200);
    });
    // A mistake is logged with its place, and changes nothing.
    std::fs::write(&file, "log-level = \"debug\"\nno-such-key = 1\n").unwrap();
    proxy.signal(Signal::SIGHUP);
    until_log(&proxy, "not reloaded", 1);
    let log = proxy.log();
    assert!(
        log.contains("no-such-key") && log.contains("config.toml"),
        "{log}"
    );
    let outside = || http::get(&format!("{}/outside", proxy.url())).status;
    assert_eq!(outside(), 404);
    assert!(!proxy.log().contains("DEBUG"), "{}", proxy.log());
    std::fs::write(
        &file,
        "log-level = \"overlaybd_proxy=debug\"\nhold = \"2h\"\n",
    )
    .unwrap();
    proxy.signal(Signal::SIGHUP);
    until_log(&proxy, "reload: reloaded", 2);
    // The hold is one of those that need a restart.
    assert!(proxy.log().contains("settings=\"hold\""), "{}", proxy.log());
    assert_eq!(outside(), 404);
    until_log(&proxy, "DEBUG", 1);
    proxy.stop();
}

#[test]
fn sighup_reloads_the_proxys_password() {
    let Some(registry) = DockerRegistry::start_with_users(&[("robot", "right")]) else {
        return;
    };
    let scratch = tempfile::tempdir().unwrap();
    let password = scratch.path().join("password");
    std::fs::write(&password, "wrong\n").unwrap();
    let url = format!("http://{}", registry.host);
    let options = [
        "--own-credentials",
        "--user",
        "robot",
        "--password-file",
        password.to_str().unwrap(),
    ];
    let proxy = Proxy::start(&url, &scratch.path().join("data"), &options);
    let status = || proxy.get("app/tags/list").status;
    assert_eq!(status(), 502);
    std::fs::write(&password, "right\n").unwrap();
    proxy.signal(Signal::SIGHUP);
    // There is no such repository, as the registry now says to those with permission.
    until("the new password is used", || {
        (status() == 404).then_some(())
    });
    std::fs::remove_file(&password).unwrap();
    proxy.signal(Signal::SIGHUP);
    until_log(&proxy, "not reloaded", 1);
    assert_eq!(status(), 404);
}

#[test]
fn sighup_reloads_authorities_and_certificates() {
    let (Some(right), Some(wrong)) = (certificates(), certificates()) else {
        return;
    };
    let path = |name: &str| right.path().join(name).display().to_string();
    let settings = |_: &Path| Settings {
        http: format!(
            "  tls:\n    certificate: {}\n    key: {}\n",
            path("server.crt"),
            path("server.key")
        ),
        ..Default::default()
    };
    let Some(registry) = DockerRegistry::start_with(settings) else {
        return;
    };
    let scratch = tempfile::tempdir().unwrap();
    let own = |name: &str| scratch.path().join(name);
    let copy = |from: &tempfile::TempDir, name: &str| {
        std::fs::copy(from.path().join(name), own(name)).unwrap();
    };
    for name in ["ca.crt", "server.crt", "server.key"] {
        copy(&wrong, name);
    }
    let (ca, certificate, key) = (own("ca.crt"), own("server.crt"), own("server.key"));
    let options = [
        ("--upstream-ca", &ca),
        ("--tls-cert", &certificate),
        ("--tls-key", &key),
    ];
    let options: Vec<&str> = options
        .iter()
        .flat_map(|(name, path)| [*name, path.to_str().unwrap()])
        .collect();
    let url = format!("https://{}", registry.host);
    let proxy = Proxy::start(&url, &own("data"), &options);
    let curl = |ca: &Path| {
        let mut command = std::process::Command::new("curl");
        command.args(["-sS", "-o", "/dev/null", "-w", "%{http_code}", "--cacert"]);
        command
            .arg(ca)
            .arg(format!("{}/v2/app/tags/list", proxy.url()));
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    };
    assert_eq!(curl(&wrong.path().join("ca.crt")), "502");
    copy(&right, "ca.crt");
    proxy.signal(Signal::SIGHUP);
    until("the new authority is trusted", || {
        (curl(&wrong.path().join("ca.crt")) == "404").then_some(())
    });
    // A certificate with another's key is logged, and not used.
    copy(&right, "server.crt");
    proxy.signal(Signal::SIGHUP);
    until_log(&proxy, "certificate and key stay as they were", 1);
    assert_eq!(curl(&wrong.path().join("ca.crt")), "404");
    copy(&right, "server.key");
    proxy.signal(Signal::SIGHUP);
    until("the new certificate is shown", || {
        (curl(&right.path().join("ca.crt")) == "404").then_some(())
    });
}
