//! TLS in front, with the development authority of `certs/make.sh`.

use crate::{registry_support, server_support};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use http::Response;
use http_body_util::Full;
use overlaybd_proxy::registry::Upstream;
use overlaybd_proxy::server::{ClientCertificates, Server, ServerError, TlsConfig};
use registry_support::scripted::{self, Answer as Scripted, Served};
use registry_support::{certificates, find, quick, skip};
use server_support::{Proxy, config, converter, plain, store};

struct Scene {
    proxy: Proxy,
    _served: Served,
    certificates: tempfile::TempDir,
}

fn tls(directory: &Path, clients: ClientCertificates) -> TlsConfig {
    TlsConfig {
        certificate: directory.join("server.crt"),
        key: directory.join("server.key"),
        clients,
    }
}

async fn scene(clients: impl FnOnce(&Path) -> ClientCertificates) -> Option<Scene> {
    if find("curl").is_none() {
        skip("curl is not installed: apt-get install curl");
        return None;
    }
    let certificates = certificates()?;
    let served = scripted::serve(|_| {
        let response = Response::new(Full::from("hello"));
        std::future::ready(Scripted::Http(response))
    })
    .await;
    let upstream = Upstream::registry(&served.host(), &quick()).unwrap();
    let mut config = config(vec![plain(&upstream)]);
    let directory = certificates.path();
    config.tls = Some(tls(directory, clients(directory)));
    Some(Scene {
        proxy: Proxy::start(config).await,
        _served: served,
        certificates,
    })
}

impl Scene {
    /// What curl gets, or its exit code.
    async fn curl(&self, arguments: &[&str]) -> Result<String, i32> {
        let ca = self.certificates.path().join("ca.crt");
        let mut command = Command::new("curl");
        command
            .args(["-sS", "--max-time", "10", "--cacert"])
            .arg(ca);
        command.args(arguments);
        command.arg(format!("https://{}/v2/", self.proxy.address));
        let output = tokio::task::spawn_blocking(move || command.output().unwrap())
            .await
            .unwrap();
        match output.status.code() {
            Some(0) => Ok(String::from_utf8(output.stdout).unwrap()),
            code => Err(code.unwrap_or(-1)),
        }
    }

    /// The serial number of the certificate that is shown.
    async fn serial(&self) -> String {
        let address = self.proxy.address;
        let text = tokio::task::spawn_blocking(move || {
            let shell = format!(
                "openssl s_client -connect {address} </dev/null 2>/dev/null | \
                 openssl x509 -noout -serial"
            );
            Command::new("sh").args(["-c", &shell]).output().unwrap()
        });
        String::from_utf8(text.await.unwrap().stdout).unwrap()
    }
}

#[tokio::test]
async fn a_client_that_trusts_the_authority_is_answered() {
    let Some(scene) = scene(|_| ClientCertificates::Ignored).await else {
        return;
    };
    assert_eq!(scene.curl(&[]).await.as_deref(), Ok("hello"));
    assert_eq!(scene.curl(&["--tlsv1.3"]).await.as_deref(), Ok("hello"));
    let limit = ["--tls-max", "1.2"];
    assert_eq!(scene.curl(&limit).await.as_deref(), Ok("hello"));
    // 60: the certificate cannot be verified.
    assert_eq!(
        scene
            .curl(&["--cacert", "/etc/ssl/certs/ca-certificates.crt"])
            .await,
        Err(60)
    );
}

#[tokio::test]
async fn client_certificates_are_required_optional_or_ignored() {
    let authority = |directory: &Path| directory.join("ca.crt");
    for (is_required, anonymous) in [(true, false), (false, true)] {
        let scene = scene(|directory| {
            if is_required {
                ClientCertificates::Required(authority(directory))
            } else {
                ClientCertificates::Optional(authority(directory))
            }
        });
        let Some(scene) = scene.await else { return };
        let other = certificates().unwrap();
        let path =
            |directory: &tempfile::TempDir, name| directory.path().join(name).display().to_string();
        let ours = [
            path(&scene.certificates, "client.crt"),
            path(&scene.certificates, "client.key"),
        ];
        let theirs = [path(&other, "client.crt"), path(&other, "client.key")];
        let with = |pair: &[String; 2]| {
            [
                "--cert".to_owned(),
                pair[0].clone(),
                "--key".to_owned(),
                pair[1].clone(),
            ]
        };
        let ask = async |arguments: &[String]| {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            scene.curl(&arguments).await
        };
        assert_eq!(ask(&[]).await.is_ok(), anonymous);
        assert_eq!(ask(&with(&ours)).await.as_deref(), Ok("hello"));
        assert!(ask(&with(&theirs)).await.is_err());
    }
}

#[tokio::test]
async fn a_new_certificate_is_loaded_and_an_invalid_one_is_not() {
    let Some(scene) = scene(|_| ClientCertificates::Ignored).await else {
        return;
    };
    let old = scene.serial().await;
    assert!(old.starts_with("serial="), "{old}");
    let certificate = scene.certificates.path().join("server.crt");
    std::fs::write(&certificate, "no certificate").unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(scene.serial().await, old);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("certs/make.sh");
    registry_support::run(Command::new(script).arg(scene.certificates.path()));
    let begun = Instant::now();
    while scene.serial().await == old {
        assert!(begun.elapsed() < Duration::from_secs(15), "not read again");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(scene.curl(&[]).await.as_deref(), Ok("hello"));
}

#[tokio::test]
async fn unusable_files_are_named_at_startup() {
    let Some(certificates) = certificates() else {
        return;
    };
    let other = registry_support::certificates().unwrap();
    let directory = certificates.path();
    let upstream = Upstream::registry("127.0.0.1:1", &quick()).unwrap();
    let missing = TlsConfig {
        certificate: directory.join("none.crt"),
        ..tls(directory, ClientCertificates::Ignored)
    };
    let mixed = TlsConfig {
        key: other.path().join("server.key"),
        ..tls(directory, ClientCertificates::Ignored)
    };
    let key_as_authority = tls(
        directory,
        ClientCertificates::Required(directory.join("server.key")),
    );
    for (tls, named) in [
        (missing, "none.crt"),
        (mixed, "server.key"),
        (key_as_authority, "server.key"),
    ] {
        let data = tempfile::tempdir().unwrap();
        let mut config = config(vec![plain(&upstream)]);
        config.tls = Some(tls);
        let converter = converter(store(data.path()).await);
        match Server::bind(config, converter).await {
            Err(ServerError::Configuration(text)) => {
                assert!(text.contains(named), "{text}");
            }
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("{named} should be refused"),
        }
    }
}
