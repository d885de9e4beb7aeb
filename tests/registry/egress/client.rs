//! What a registry leads to, through an egress proxy: token servers, and storages elsewhere.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use overlaybd_proxy::oci::Digest;
use overlaybd_proxy::oci::reference::Scheme;
use overlaybd_proxy::registry::{Authorization, Egress, Error, RegistryConfig, Upstream};

use super::NAME;
use super::registry_support::faults::with;
use super::registry_support::scripted::{Log, Served, serve};
use super::registry_support::tokens::Tokens;
use super::registry_support::{DockerRegistry, noise, push_image, quick, quick_as, repo};
use super::squid::{Settings, Squid};

const CDN: &str = "cdn.corp.test";
const TOKENS: &str = "tokens.corp.test";

fn through(squid: &Squid, config: RegistryConfig) -> RegistryConfig {
    RegistryConfig {
        scheme: Some(Scheme::Http),
        egress: Egress::Proxy(squid.url().parse().unwrap()),
        ..config
    }
}

fn port(host: &str) -> &str {
    host.rsplit_once(':').unwrap().1
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_are_requested_through_the_egress_proxy() {
    let Some(squid) = Squid::start(&Settings {
        names: &[NAME, TOKENS],
        ..Settings::default()
    }) else {
        return;
    };
    let tokens = Tokens::new(vec![("me", "pass", "", &["pull", "push"][..])]);
    let served = tokens.serve().await;
    let realm = format!("http://{TOKENS}:{}/token", served.address.port());
    let settings = tokens.settings(&realm);
    let registry =
        tokio::task::spawn_blocking(move || DockerRegistry::start_with(move |_| settings));
    let Some(registry) = registry.await.unwrap() else {
        return;
    };
    let host = format!("{NAME}:{}", port(&registry.host));
    let upstream = Upstream::registry(&host, &through(&squid, quick_as("me", "pass"))).unwrap();
    let layers = [noise(100_000, 1)];
    push_image(&upstream, &repo("app"), "1", &layers, &Authorization::Own).await;
    assert!(tokens.issued.load(Ordering::SeqCst) > 0);
    let log = squid.log();
    for part in [
        format!("GET {realm}"),
        format!("PUT http://{host}/v2/app/blobs/"),
        format!("PUT http://{host}/v2/app/manifests/1 201"),
    ] {
        assert!(
            log.iter().any(|line| line.starts_with(&part)),
            "{part} in {log:?}"
        );
    }
}

/// A storage with `content`.
async fn storage(content: &Bytes) -> (Served, Log) {
    let (log, content) = (Log::default(), content.clone());
    let served = {
        let log = log.clone();
        serve(move |request| {
            log.add(&request);
            let content = content.clone();
            async move { with(200, &[], content) }
        })
        .await
    };
    (served, log)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redirect_to_a_name_of_the_egress_proxy_is_followed_and_to_a_private_one_refused() {
    let Some(squid) = Squid::start(&Settings {
        names: &[NAME, CDN, "localhost"],
        ..Settings::default()
    }) else {
        return;
    };
    let content = noise(1000, 2);
    let (storage, storage_log) = storage(&content).await;
    let location = Arc::new(parking_lot::Mutex::new(String::new()));
    let registry = {
        let location = Arc::clone(&location);
        serve(move |_| {
            let location = location.lock().clone();
            async move { with(307, &[("location", &location)], "") }
        })
        .await
    };
    let host = format!("{NAME}:{}", registry.address.port());
    let upstream = Upstream::registry(&host, &through(&squid, quick())).unwrap();
    let fetch = async |host: &str| {
        *location.lock() = format!("http://{host}:{}/blob", storage.address.port());
        let (name, digest) = (repo("app"), Digest::of(&content));
        let range = 0..content.len() as u64;
        let fetched = upstream.blob_range(&name, &digest, range, &Authorization::Own);
        fetched.await
    };
    // This machine does not know the name, so the proxy decides.
    assert_eq!(fetch(CDN).await.unwrap(), content);
    assert_eq!(storage_log.all().len(), 1);
    // These it knows.
    for private in ["localhost", "127.0.0.1", "169.254.169.254"] {
        let error = fetch(private).await.unwrap_err();
        assert!(
            matches!(error, Error::Refused { .. }),
            "{private}: {error:?}"
        );
    }
    assert_eq!(storage_log.all().len(), 1);
    let log = squid.log();
    let wanted = format!("GET http://{CDN}:{}/blob 200 -", storage.address.port());
    assert!(log.contains(&wanted), "{log:?}");
    let leaks = |line: &String| line.contains("localhost") || line.contains("169.254");
    assert!(!log.iter().any(leaks), "{log:?}");
}
