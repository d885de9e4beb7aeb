//! The registry client and registries that are not open: passwords, tokens, certificates.

use crate::registry_support;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::{HeaderValue, Request, StatusCode, header};
use overlaybd_proxy::oci::Digest;
use overlaybd_proxy::oci::media_type::OCI_MANIFEST;
use overlaybd_proxy::registry::{
    Authorization, ClientIdentity, Credentials, Error, ForwardOptions, RegistryConfig, TlsOptions,
    Upstream, body,
};
use registry_support::tokens::{self, Tokens};
use registry_support::{
    DockerRegistry, Settings, blob, certificates, get, noise, push_image, quick, quick_as, repo,
    tag, text,
};

const OWN: Authorization = Authorization::Own;

#[tokio::test]
async fn basic_credentials_are_sent_after_a_challenge() {
    let users = [("me", "right:pass")];
    let Some(registry) = DockerRegistry::start_with_users(&users) else {
        return;
    };
    let name = repo("private/app");
    let owner = Upstream::registry(&registry.host, &quick_as("me", "right:pass")).unwrap();
    let layers = [noise(200_000, 4)];
    let manifest = push_image(&owner, &name, "v1", &layers, &OWN).await;
    let found = owner.manifest(&name, &tag("v1"), &OWN).await.unwrap();
    assert_eq!(found.bytes, manifest);
    assert_eq!(
        blob(&owner, "private/app", &layers[0]).await.unwrap(),
        layers[0][..]
    );

    let wrong = Upstream::registry(&registry.host, &quick_as("me", "wr0ng-pass")).unwrap();
    let error = wrong.manifest(&name, &tag("v1"), &OWN).await.unwrap_err();
    assert!(matches!(error, Error::Unauthorized { .. }), "{error:?}");
    assert!(!format!("{error:?} {error}").contains("wr0ng-pass"));

    let nobody = Upstream::registry(&registry.host, &quick()).unwrap();
    let error = nobody.manifest(&name, &tag("v1"), &OWN).await.unwrap_err();
    let Error::Unauthorized { challenges, .. } = error else {
        panic!("{error:?}");
    };
    assert!(challenges[0].to_str().unwrap().starts_with("Basic realm="));

    // The client's own header goes as it is, and instead of ours.
    let clients = |text: &'static str| Authorization::Client(Some(HeaderValue::from_static(text)));
    let good = clients("Basic bWU6cmlnaHQ6cGFzcw==");
    assert!(nobody.manifest(&name, &tag("v1"), &good).await.is_ok());
    for bad in [clients("Basic bWU6d3Jvbmc="), Authorization::Client(None)] {
        let error = owner.manifest(&name, &tag("v1"), &bad).await.unwrap_err();
        assert!(matches!(error, Error::Unauthorized { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn dockers_configuration_and_its_helpers_give_credentials() {
    let users = [("me", "pass")];
    let Some(registry) = DockerRegistry::start_with_users(&users) else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.json");
    let config = |helper: Duration| {
        let mut config = quick();
        config.credentials = Credentials::DockerConfig {
            path: Some(path.clone()),
        };
        config.timeouts.helper = helper;
        config
    };
    let tags = async |config: &RegistryConfig| {
        let upstream = Upstream::registry(&registry.host, config).unwrap();
        upstream.tags(&repo("none"), &OWN).await.unwrap_err()
    };
    let second = Duration::from_secs(10);
    let error = tags(&config(second)).await;
    assert!(matches!(error, Error::Credentials { .. }), "{error:?}");

    let auths = format!(
        r#"{{"auths":{{"{}":{{"auth":"bWU6cGFzcw=="}}}}}}"#,
        registry.host
    );
    std::fs::write(&path, auths).unwrap();
    assert!(tags(&config(second)).await.is_not_found());

    // A helper is found by PATH, which is the whole process's: it gets a name of its own.
    let name = format!("test{}", std::process::id());
    let helper = directory.path().join(format!("docker-credential-{name}"));
    let paths = std::env::var("PATH").unwrap();
    let Some(bin) = paths.split(':').map(PathBuf::from).find(|bin| {
        let place = bin.join(helper.file_name().unwrap());
        std::os::unix::fs::symlink(&helper, place).is_ok()
    }) else {
        registry_support::skip("no directory of PATH can be written to, for a credential helper");
        return;
    };
    let script = |text: &str| {
        // Written by another process: this one's children must not have it open.
        let source = directory.path().join("script");
        std::fs::write(&source, format!("#!/bin/sh\n{text}\n")).unwrap();
        let mut install = Command::new("install");
        registry_support::run(install.args(["-m", "755"]).arg(&source).arg(&helper));
    };
    std::fs::write(&path, format!(r#"{{"credsStore":"{name}"}}"#)).unwrap();
    script(&format!(
        r#"read host; [ "$host" = "{}" ] && echo '{{"Username":"me","Secret":"pass"}}'"#,
        registry.host
    ));
    let good = tags(&config(second)).await;
    script("cat >/dev/null; echo 'credentials not found in native keychain'; exit 1");
    let none = tags(&config(second)).await;
    script("cat >/dev/null; echo s3cret; exit 1");
    let failing = tags(&config(second)).await;
    script("sleep 2");
    let slow = tags(&config(Duration::from_millis(100))).await;
    std::fs::remove_file(bin.join(helper.file_name().unwrap())).unwrap();
    assert!(good.is_not_found(), "{good:?}");
    assert!(matches!(none, Error::Unauthorized { .. }), "{none:?}");
    let shown = failing.to_string();
    assert!(
        shown.contains("docker-credential-") && !shown.contains("s3cret"),
        "{shown}"
    );
    let shown = slow.to_string();
    assert!(
        shown.contains("no answer") && shown.contains(&format!("docker-credential-{name}")),
        "{shown}"
    );
}

/// A registry that wants tokens, and the server that gives them.
async fn with_tokens(
    rights: tokens::Rights,
) -> Option<(
    DockerRegistry,
    std::sync::Arc<Tokens>,
    registry_support::scripted::Served,
)> {
    if registry_support::find("openssl").is_none() {
        registry_support::skip("openssl is not installed: apt-get install openssl");
        return None;
    }
    let tokens = Tokens::new(rights);
    let served = tokens.serve().await;
    let settings = tokens.settings(&format!("http://{}/token", served.host()));
    let registry =
        tokio::task::spawn_blocking(move || DockerRegistry::start_with(move |_| settings));
    Some((registry.await.unwrap()?, tokens, served))
}

const ALL: &[&str] = &["pull", "push", "delete", "*"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_are_fetched_once_a_scope_and_kept() {
    let rights = vec![("me", "pass", "", ALL), ("", "", "open/", &["pull"][..])];
    let Some((registry, tokens, _served)) = with_tokens(rights).await else {
        return;
    };
    let issued = || tokens.issued.load(Ordering::SeqCst);
    let owner = Upstream::registry(&registry.host, &quick_as("me", "pass")).unwrap();
    let layers = [noise(100_000, 5), noise(100_000, 6)];
    push_image(&owner, &repo("open/app"), "v1", &layers, &OWN).await;
    assert_eq!(issued(), 1, "one token is enough for a push");
    owner
        .manifest(&repo("open/app"), &tag("v1"), &OWN)
        .await
        .unwrap();
    assert_eq!(issued(), 2, "pulling needs less");
    let asked = tokens.asked.lock()[1].clone();
    assert_eq!(asked.0, "GET");
    assert!(
        asked.1.contains("scope=repository%3Aopen%2Fapp%3Apull") && asked.2,
        "{asked:?}"
    );
    assert!(asked.1.contains("account=me") && asked.1.contains("service=test-registry"));

    // Many who need the same token wait for one request.
    let nobody = Upstream::registry(&registry.host, &quick()).unwrap();
    let name = repo("open/app");
    let wanted = tag("v1");
    let all = (0..20).map(|_| nobody.manifest(&name, &wanted, &OWN));
    futures_util::future::try_join_all(all).await.unwrap();
    assert_eq!(issued(), 3);

    // Without rights it is a refusal, not a loop.
    push_image(&owner, &repo("closed"), "v1", &layers, &OWN).await;
    let error = nobody
        .manifest(&repo("closed"), &tag("v1"), &OWN)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Unauthorized { .. }), "{error:?}");

    let wrong = Upstream::registry(&registry.host, &quick_as("me", "other")).unwrap();
    let error = wrong.manifest(&name, &wanted, &OWN).await.unwrap_err();
    assert!(error.to_string().contains("wrong password"), "{error}");
    assert!(matches!(error, Error::Unauthorized { .. }), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_token_is_replaced() {
    let Some((registry, tokens, _served)) = with_tokens(vec![("me", "pass", "", ALL)]).await else {
        return;
    };
    *tokens.life.lock() = Some(1);
    let owner = Upstream::registry(&registry.host, &quick_as("me", "pass")).unwrap();
    let name = repo("app");
    push_image(&owner, &name, "v1", &[], &OWN).await;
    owner.manifest(&name, &tag("v1"), &OWN).await.unwrap();
    let before = tokens.issued.load(Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    owner.manifest(&name, &tag("v1"), &OWN).await.unwrap();
    assert_eq!(tokens.issued.load(Ordering::SeqCst), before + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_identity_token_is_exchanged_by_post() {
    let Some((registry, tokens, _served)) = with_tokens(vec![("me", "pass", "", ALL)]).await else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.json");
    let auths = format!(
        r#"{{"auths":{{"{}":{{"identitytoken":"me:pass"}}}}}}"#,
        registry.host
    );
    std::fs::write(&path, auths).unwrap();
    let config = RegistryConfig {
        credentials: Credentials::DockerConfig { path: Some(path) },
        ..quick()
    };
    let owner = Upstream::registry(&registry.host, &config).unwrap();
    push_image(&owner, &repo("app"), "v1", &[], &OWN).await;
    let asked = tokens.asked.lock()[0].clone();
    assert_eq!(asked.0, "POST");
    assert!(
        asked.1.starts_with("grant_type=refresh_token") && !asked.2,
        "{asked:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_passed_through_with_our_own_credentials() {
    let Some((registry, tokens, _served)) = with_tokens(vec![("me", "pass", "", ALL)]).await else {
        return;
    };
    let owner = Upstream::registry(&registry.host, &quick_as("me", "pass")).unwrap();
    let own = ForwardOptions {
        own_credentials: true,
        ..ForwardOptions::default()
    };
    let manifest = push_image(&owner, &repo("a/app"), "v1", &[noise(1000, 1)], &OWN).await;
    // A client of its own, which knows of no challenge yet when the first body comes.
    let fresh = Upstream::registry(&registry.host, &quick_as("me", "pass")).unwrap();
    let put = Request::put("/v2/a/app/manifests/v2")
        .header(header::CONTENT_TYPE, OCI_MANIFEST)
        .header(header::AUTHORIZATION, "Bearer the-clients")
        .body(body::stream(futures_util::stream::iter([Ok::<
            _,
            std::io::Error,
        >(
            manifest.clone(),
        )])));
    let response = fresh.forward(put.unwrap(), own).await.unwrap();
    assert_eq!(response.status(), StatusCode::CREATED);
    let get = get("/v2/a/app/manifests/v2");
    let response = fresh.forward(get, own).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let catalog = Request::get("/v2/_catalog").body(body::empty()).unwrap();
    let response = fresh.forward(catalog, own).await.unwrap();
    assert_eq!(text(response).await, "{\"repositories\":[\"a/app\"]}\n");
    let digest = Digest::of(&manifest);
    let delete = Request::delete(format!("/v2/a/app/manifests/{digest}")).body(body::empty());
    let response = fresh.forward(delete.unwrap(), own).await.unwrap();
    assert_eq!(response.status(), StatusCode::ACCEPTED);

    // Without our credentials the challenge is the client's.
    let before = tokens.issued.load(Ordering::SeqCst);
    let ping = Request::get("/v2/").body(body::empty()).unwrap();
    let response = owner
        .forward(ping, ForwardOptions::default())
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    assert!(response.headers().contains_key(header::WWW_AUTHENTICATE));
    assert_eq!(tokens.issued.load(Ordering::SeqCst), before);
}

/// A registry behind TLS, which wants a client's certificate if `clients`.
fn with_tls(keys: &std::path::Path, clients: bool) -> Option<DockerRegistry> {
    let file = |name: &str| keys.join(name).display().to_string();
    let mut http = format!(
        "  tls:\n    certificate: {}\n    key: {}\n",
        file("server.crt"),
        file("server.key")
    );
    if clients {
        http = format!("{http}    clientcas:\n      - {}\n", file("ca.crt"));
    }
    DockerRegistry::start_with(|_| Settings {
        http,
        ..Settings::default()
    })
}

#[tokio::test]
async fn a_registrys_certificate_is_verified() {
    let Some(keys) = certificates() else { return };
    let Some(registry) = with_tls(keys.path(), false) else {
        return;
    };
    let ping = async |tls: TlsOptions| {
        let config = RegistryConfig { tls, ..quick() };
        let upstream = Upstream::registry(&registry.host, &config).unwrap();
        upstream.tags(&repo("none"), &OWN).await.unwrap_err()
    };
    let with_root = TlsOptions {
        extra_roots: vec![keys.path().join("ca.crt")],
        ..TlsOptions::default()
    };
    assert!(ping(with_root).await.is_not_found());
    let unverified = TlsOptions {
        skip_verify: true,
        ..TlsOptions::default()
    };
    assert!(ping(unverified).await.is_not_found());
    // Without our root it is not trusted. (The key is there so that https is spoken at all.)
    let unknown = TlsOptions {
        client: Some(ClientIdentity {
            certificate: keys.path().join("client.crt"),
            key: keys.path().join("client.key"),
        }),
        ..TlsOptions::default()
    };
    let begin = std::time::Instant::now();
    let error = ping(unknown).await;
    assert!(error.to_string().contains("certificate"), "{error}");
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    assert!(begin.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_client_certificate_is_sent_on_request() {
    let Some(keys) = certificates() else { return };
    let Some(registry) = with_tls(keys.path(), true) else {
        return;
    };
    let mut tls = TlsOptions {
        extra_roots: vec![keys.path().join("ca.crt")],
        ..TlsOptions::default()
    };
    let ping = async |tls: &TlsOptions| {
        let config = RegistryConfig {
            tls: tls.clone(),
            ..quick()
        };
        let upstream = Upstream::registry(&registry.host, &config).unwrap();
        upstream.tags(&repo("none"), &OWN).await.unwrap_err()
    };
    let error = ping(&tls).await;
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    tls.client = Some(ClientIdentity {
        certificate: keys.path().join("client.crt"),
        key: keys.path().join("client.key"),
    });
    assert!(ping(&tls).await.is_not_found());

    // The same by Docker's directory.
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join(&registry.host);
    std::fs::create_dir(&directory).unwrap();
    for (from, to) in [
        ("ca.crt", "ca.crt"),
        ("client.crt", "client.cert"),
        ("client.key", "client.key"),
    ] {
        std::fs::copy(keys.path().join(from), directory.join(to)).unwrap();
    }
    let config = RegistryConfig {
        hosts_dirs: vec!["/nonexistent".into(), root.path().into()],
        ..quick()
    };
    let upstream = Upstream::registry(&registry.host, &config).unwrap();
    let error = upstream.tags(&repo("none"), &OWN).await.unwrap_err();
    assert!(error.is_not_found(), "{error:?}");

    tls.client = Some(ClientIdentity {
        certificate: keys.path().join("client.crt"),
        key: keys.path().join("server.key"),
    });
    let config = RegistryConfig { tls, ..quick() };
    let error = Upstream::registry("r.io", &config).unwrap_err();
    assert!(error.to_string().contains("client.crt"), "{error}");
}
