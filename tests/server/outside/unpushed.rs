//! A proxy that is to push and has no credentials for it, or wrong ones: who pulls gets the image.

use crate::outside::{JSON, PLATFORM, events, image, wait_for_events};
use crate::registry_support::DockerRegistry;
use crate::support::http::{self, Answer};
use crate::support::proxy::Proxy;

/// What the client has: `me:right`.
const LOGIN: &str = "Basic bWU6cmlnaHQ=";

/// Puts an image into a registry, as a client of it.
fn push(registry: &DockerRegistry) {
    let image = image(1);
    let login = ("authorization", LOGIN);
    let base = format!("http://{}/v2/team/app", registry.host);
    for blob in &image.blobs {
        let begun = http::send("POST", &format!("{base}/blobs/uploads/"), &[login], b"");
        assert_eq!(begun.status, 202, "{begun:?}");
        let location = begun.header("location").unwrap();
        let digest = blob.digest();
        let url = format!("{location}&digest={digest}");
        let put = http::send("PUT", &url, &[login], &blob.bytes);
        assert_eq!(put.status, 201, "{put:?}");
    }
    let headers = [login, ("content-type", image.media_type.as_str())];
    let url = format!("{base}/manifests/1");
    let put = http::send("PUT", &url, &headers, &image.manifest);
    assert_eq!(put.status, 201, "{put:?}");
}

fn get(proxy: &Proxy, path: &str) -> Answer {
    get_with(proxy, path, &[])
}

fn get_with(proxy: &Proxy, path: &str, more: &[(&str, &str)]) -> Answer {
    let url = format!("{}/v2/{path}", proxy.url());
    let headers = [&[("authorization", LOGIN), ("accept", http::ACCEPT)], more].concat();
    http::send("GET", &url, &headers, b"")
}

#[test]
fn clients_get_the_image_that_cannot_be_pushed() {
    let Some(registry) = DockerRegistry::start_with_users(&[("me", "right")]) else {
        return;
    };
    push(&registry);
    for (ours, warning) in [
        (
            &[][..],
            "the registry wants credentials, and the proxy has none",
        ),
        (
            &["--user", "robot:wrong"],
            "the registry refuses the proxy's own credentials",
        ),
    ] {
        let data = tempfile::tempdir().unwrap();
        let options = [&PLATFORM[..], &JSON, &["--push"], ours].concat();
        let proxy = Proxy::start(&registry.host, data.path(), &options);
        // It is said before anybody pulls.
        let warned = |proxy: &Proxy| {
            let log = proxy.log();
            let mut lines = log.lines();
            let line = lines.find(|line| line.contains("converted images cannot be pushed"));
            line.map(ToOwned::to_owned)
        };
        let line = crate::support::until::until("the warning", || warned(&proxy));
        assert!(line.contains(warning), "{line}");
        assert!(line.contains(&registry.host), "{line}");

        let pulled = get(&proxy, "team/app/manifests/1_obd");
        assert_eq!(pulled.status, 200, "{pulled:?}\n{}", proxy.log());
        let layer = pulled.json()["layers"][0]["digest"].clone();
        let layer = format!("team/app/blobs/{}", layer.as_str().unwrap());
        let blob = get(&proxy, &layer);
        assert_eq!(blob.status, 200, "{blob:?}");
        // Nothing is pushed, and the log says which image that is, and why.
        let there = format!("http://{}/v2/{layer}", registry.host);
        let there = http::send("HEAD", &there, &[("authorization", LOGIN)], b"");
        assert_eq!(there.status, 404, "{there:?}");
        let unpushed = events_with(&proxy, "was not pushed");
        assert_eq!(unpushed.len(), 1, "{}", proxy.log());
        assert_eq!(unpushed[0]["repo"], "team/app");
        assert_eq!(unpushed[0]["tag"], "1");
        assert_eq!(unpushed[0]["registry"], registry.host);
        assert_eq!(
            wait_for_events(&proxy, "an image was converted", 1).len(),
            1
        );

        // It is not tried by every pull, and who has no right to the source still has none.
        let again = get(&proxy, "team/app/manifests/1_obd");
        assert_eq!(again.status, 200, "{again:?}");
        assert_eq!(again.body, pulled.body);
        assert_eq!(events(&proxy, "a conversion begins").len(), 1);
        let stranger = proxy.get("team/app/manifests/1_obd");
        assert_eq!(stranger.status, 401, "{stranger:?}");
        assert!(!proxy.log().contains("robot:wrong"), "{}", proxy.log());
        proxy.stop();
    }
}

fn events_with(proxy: &Proxy, part: &str) -> Vec<serde_json::Value> {
    let log = proxy.log();
    let lines = log.lines().filter(|line| line.contains(part));
    lines
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect()
}

#[test]
fn nodes_that_read_elsewhere_get_the_original_of_what_cannot_be_pushed() {
    let Some(registry) = DockerRegistry::start_with_users(&[("me", "right")]) else {
        return;
    };
    push(&registry);
    let data = tempfile::tempdir().unwrap();
    let options = [&PLATFORM[..], &["--push", "--user", "robot:wrong"]].concat();
    let proxy = Proxy::start(&registry.host, data.path(), &options);
    let path = format!("team/app/manifests/1?ns={}", registry.host);
    let wanted = [("overlaybd-format", "native")];
    // The first one finds out that nothing can be pushed, the second knows it.
    for _ in 0..2 {
        let pulled = get_with(&proxy, &path, &wanted);
        assert_eq!(pulled.status, 200, "{pulled:?}\n{}", proxy.log());
        assert_eq!(pulled.header("overlaybd-outcome"), Some("original"));
        let why = pulled.header("overlaybd-fallback").unwrap();
        assert!(why.contains("--push"), "{why}");
        assert_eq!(pulled.body, image(1).manifest);
    }
    // By the proxy's own name it is read here.
    let pulled = get_with(&proxy, "team/app/manifests/1", &wanted);
    assert_eq!(
        pulled.header("overlaybd-outcome"),
        Some("found"),
        "{pulled:?}"
    );
    proxy.stop();
}

#[test]
fn an_image_is_pushed_once_the_credentials_are_mended() {
    let users = [("me", "right"), ("robot", "works")];
    let Some(registry) = DockerRegistry::start_with_users(&users) else {
        return;
    };
    push(&registry);
    let scratch = tempfile::tempdir().unwrap();
    let password = scratch.path().join("password");
    std::fs::write(&password, "wrong\n").unwrap();
    let file = password.display().to_string();
    let ours = ["--push", "--user", "robot", "--password-file", &file];
    let options = [&PLATFORM[..], &JSON, &ours].concat();
    let proxy = Proxy::start(&registry.host, &scratch.path().join("data"), &options);
    let pulled = get(&proxy, "team/app/manifests/1_obd");
    assert_eq!(pulled.status, 200, "{pulled:?}");
    assert_eq!(events_with(&proxy, "was not pushed").len(), 1);
    std::fs::write(&password, "works\n").unwrap();
    proxy.signal(nix::sys::signal::Signal::SIGHUP);
    wait_for_events(&proxy, "reloaded", 1);
    let again = get(&proxy, "team/app/manifests/1_obd");
    assert_eq!(again.status, 200, "{again:?}");
    assert_eq!(again.body, pulled.body);
    wait_for_events(&proxy, "a converted image got its tag", 1);
    let there = format!("http://{}/v2/team/app/manifests/1_obd", registry.host);
    let login = [("authorization", LOGIN), ("accept", http::ACCEPT)];
    let there = http::send("GET", &there, &login, b"");
    assert_eq!(there.status, 200, "{there:?}");
    assert_eq!(there.body, pulled.body);
    proxy.stop();
}
