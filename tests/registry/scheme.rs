//! The scheme that an address is written with holds, on this machine too: https is TLS, and never
//! anything else.

use crate::{registry_support, support};
use std::path::Path;
use std::process::{Command, Output};

use registry_support::{DockerRegistry, Settings, certificates};
use support::http;
use support::image::{Image, Sealed};
use support::proxy::{Proxy, program};
use support::registry::Registry;
use support::tar::Tar;
use support::{command, have, noise, run};

fn image() -> Sealed {
    let layer = Tar::new().file("name", noise(1, 20_000)).finish();
    Image::gzip(&[layer]).seal()
}

/// A registry over TLS that holds `app:1`, and the authority that its certificate is from.
struct Secure {
    keys: tempfile::TempDir,
    registry: DockerRegistry,
}

impl Secure {
    fn start() -> Option<Self> {
        if !have(&["skopeo", "openssl"]) {
            return None;
        }
        let keys = certificates()?;
        let file = |name: &str| keys.path().join(name).display().to_string();
        let (certificate, key) = (file("server.crt"), file("server.key"));
        let registry = DockerRegistry::start_with(|_| Settings {
            http: format!("  tls:\n    certificate: {certificate}\n    key: {key}\n"),
            ..Settings::default()
        })?;
        let secure = Self { keys, registry };
        secure.push();
        Some(secure)
    }

    /// By way of a registry that needs no TLS.
    fn push(&self) {
        let plain = Registry::start().unwrap();
        plain.push("app", "1", &image());
        let mut copy = command("skopeo");
        copy.args(["--insecure-policy", "copy", "--src-tls-verify=false"]);
        copy.env("SSL_CERT_FILE", self.keys.path().join("ca.crt"));
        copy.arg(format!("docker://{}/app:1", plain.address()));
        copy.arg(format!("docker://{}/app:1", self.registry.host));
        run(&mut copy);
    }

    /// The program on a machine that trusts the authority, so that no option needs to say so.
    fn program(&self) -> Command {
        let mut program = program();
        program.env("SSL_CERT_FILE", self.keys.path().join("ca.crt"));
        program.env_remove("SSL_CERT_DIR");
        program
    }

    fn port(&self) -> &str {
        self.registry.host.rsplit_once(':').unwrap().1
    }

    fn has(&self, tag: &str) -> bool {
        self.registry
            .log()
            .lines()
            .any(|line| line.contains(&format!("PUT /v2/app/manifests/{tag} ")))
    }
}

fn text(output: &Output) -> String {
    let bytes = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[track_caller]
fn pull(proxy: &Proxy) {
    let answer = proxy.get("app/manifests/1_obd");
    assert_eq!(answer.status, 200, "{answer:?}");
}

#[test]
fn a_loopback_upstream_with_https_in_its_url_uses_tls() {
    let Some(secure) = Secure::start() else {
        return;
    };
    for (name, more) in [
        ("127.0.0.1", &[][..]),
        ("localhost", &[]),
        // What is said for all does not undo what is written for one.
        ("127.0.0.1", &["--plain-http"]),
    ] {
        let data = tempfile::tempdir().unwrap();
        let upstream = format!("https://{name}:{}", secure.port());
        let proxy = Proxy::start_as(secure.program(), &upstream, data.path(), more);
        pull(&proxy);
        proxy.stop();
    }
    // From the file, with a further key that says otherwise.
    let data = tempfile::tempdir().unwrap();
    let config = data.path().join("config.toml");
    let url = format!("https://localhost:{}", secure.port());
    let table = format!("[[upstream]]\nurl = '{url}'\nplain-http = true\nattempts = 1\n");
    std::fs::write(&config, table).unwrap();
    let mut warm = secure.program();
    warm.arg("--config")
        .arg(&config)
        .args(["warm", "--data-dir"]);
    run(warm.arg(data.path().join("data")).arg("app:1"));
}

#[test]
fn images_with_https_in_their_names_use_tls() {
    let Some(secure) = Secure::start() else {
        return;
    };
    let image = |tag: &str| format!("https://localhost:{}/app:{tag}", secure.port());
    let with = |arguments: &[&str]| {
        let mut command = secure.program();
        command.args(arguments);
        run(&mut command)
    };
    with(&[
        "convert",
        "--platform",
        "linux/amd64",
        &image("1"),
        &image("1_obd"),
    ]);
    assert!(secure.has("1_obd"));
    with(&["inspect", &image("1_obd")]);
    with(&["check", &image("1_obd")]);
    with(&["check", "--source", &image("1"), &image("1_obd")]);
    let data = tempfile::tempdir().unwrap();
    let data = data.path().display().to_string();
    with(&["warm", "--data-dir", &data, &image("1")]);
    // In the form of the standalone converter, and without a scheme where the file has it.
    let repository = format!("https://localhost:{}/app", secure.port());
    with(&["convert", "-r", &repository, "-i", "1", "-o", "2_obd"]);
    assert!(secure.has("2_obd"));
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("config.toml");
    let host = format!("localhost:{}", secure.port());
    std::fs::write(&config, format!("[[upstream]]\nurl = 'https://{host}'\n")).unwrap();
    let config = config.display().to_string();
    let bare = format!("{host}/app:1_obd");
    with(&["--config", &config, "inspect", &bare]);
}

#[test]
fn a_push_to_an_https_url_uses_tls() {
    let (Some(secure), Some(plain)) = (Secure::start(), Registry::start()) else {
        return;
    };
    plain.push("app", "3", &image());
    let data = tempfile::tempdir().unwrap();
    let to = format!("https://localhost:{}/", secure.port());
    let options = ["--push-repo", &to];
    let proxy = Proxy::start_as(secure.program(), &plain.url(), data.path(), &options);
    let answer = proxy.get("app/manifests/3_obd");
    assert_eq!(answer.status, 200, "{answer:?}");
    support::until::until("the tag is pushed", || secure.has("3_obd").then_some(()));
    proxy.stop();
}

#[test]
fn a_warm_up_of_an_https_proxy_uses_tls() {
    let (Some(keys), Some(registry)) = (certificates(), Registry::start()) else {
        return;
    };
    registry.push("app", "1", &image());
    let file = |name: &str| keys.path().join(name).display().to_string();
    let (certificate, key) = (file("server.crt"), file("server.key"));
    let data = tempfile::tempdir().unwrap();
    let options = ["--tls-cert", &certificate, "--tls-key", &key];
    let proxy = Proxy::start(&registry.url(), data.path(), &options);
    assert!(proxy.url().starts_with("https://"), "{}", proxy.url());
    let warm = |variable: Option<&str>, arguments: &[&str]| {
        let mut warm = program();
        warm.env("SSL_CERT_FILE", file("ca.crt"));
        // Of the image's own settings none is the proxy's.
        warm.env("OVERLAYBD_PROXY_PLAIN_HTTP", "true");
        if let Some(proxy) = variable {
            warm.env("OVERLAYBD_PROXY_PROXY", proxy);
        }
        warm.arg("warm").args(arguments).arg("app:1");
        run(&mut warm)
    };
    warm(None, &["--proxy", proxy.url()]);
    warm(Some(proxy.url()), &[]);
    proxy.stop();
}

/// A run that must fail, because it was to speak TLS with a server that does not.
#[track_caller]
fn refused(directory: &Path, arguments: &[&str]) {
    let mut command = program();
    let output = command
        .args(arguments)
        .current_dir(directory)
        .output()
        .unwrap();
    let said = text(&output);
    assert_eq!(output.status.code(), Some(4), "{arguments:?}: {said}");
    assert!(
        said.contains("does not speak TLS") && said.contains("write http://"),
        "{arguments:?}: {said}"
    );
}

#[test]
fn there_is_no_fallback_from_tls_to_plain_http() {
    let Some(registry) = Registry::start() else {
        return;
    };
    registry.push("app", "1", &image());
    let before = registry.requests().len();
    let secure = registry.url().replace("http:", "https:");
    let secure_image = format!("{secure}/app:1");
    let directory = tempfile::tempdir().unwrap();
    let refused = |arguments: &[&str]| refused(directory.path(), arguments);
    for name in [&secure, &secure.replace("127.0.0.1", "localhost")] {
        refused(&["convert", &format!("{name}/app:1"), "oci:out:1"]);
        refused(&[
            "convert",
            "--plain-http",
            &format!("{name}/app:1"),
            "oci:out:1",
        ]);
        refused(&["warm", "-q", "--proxy", name, "app:1"]);
    }
    refused(&["inspect", &secure_image]);
    refused(&["check", &secure_image]);
    refused(&[
        "warm",
        "-q",
        "--upstream",
        &secure,
        "--data-dir=data",
        "app:1",
    ]);
    let data = directory.path().join("serving");
    let proxy = Proxy::start(&secure, &data, &[]);
    for path in ["app/manifests/1", "app/manifests/1_obd", "app/tags/list"] {
        let answer = proxy.get(path);
        assert_eq!(answer.status, 502, "{path}: {answer:?}");
        // The upstream's address is logged, but not in the answer.
        assert!(answer.text().contains("cannot be reached"), "{answer:?}");
    }
    assert!(
        proxy.log().contains("does not speak TLS"),
        "{}",
        proxy.log()
    );
    proxy.stop();
    assert_eq!(registry.requests().len(), before);
    // What is written http, or nothing, is asked in the clear as ever.
    for upstream in [registry.url(), registry.address().to_owned()] {
        let proxy = Proxy::start(&upstream, &data, &[]);
        pull(&proxy);
        proxy.stop();
    }
}

#[test]
fn http_in_a_url_holds_although_there_are_tls_settings() {
    let (Some(keys), Some(registry)) = (certificates(), Registry::start()) else {
        return;
    };
    registry.push("app", "1", &image());
    let authority = keys.path().join("ca.crt").display().to_string();
    let data = tempfile::tempdir().unwrap();
    let options = ["--upstream-ca", &authority];
    let proxy = Proxy::start(&registry.url(), data.path(), &options);
    pull(&proxy);
    proxy.stop();
    let name = format!("{}/app:1", registry.url());
    let out = format!("oci:{}:1", data.path().join("out").display());
    let mut convert = program();
    convert.args(["convert", "--upstream-ca", &authority]);
    run(convert.args(["--platform", "linux/amd64", &name, &out]));
    let answer = http::get(&format!("{}/v2/", registry.url()));
    assert_eq!(answer.status, 200);
}
