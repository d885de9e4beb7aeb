//! What a signed address is, and what it allows.

use crate::probe::reader::{AGENT, Reader};
use crate::probe::{KEY, Scene, keys, now, sign};
use crate::support::http::{Answer, send};
use crate::support::{have, sha256};

/// What is behind the last dot, which no log may have.
fn signature(address: &str) -> &str {
    address.rsplit_once('.').unwrap().1
}

#[track_caller]
fn assert_refused(answer: &Answer, word: &str) {
    assert_eq!(answer.status, 403, "{answer:?}");
    let code = &answer.json()["errors"][0];
    assert_eq!(code["code"], "DENIED", "{answer:?}");
    let text = code["message"].as_str().unwrap();
    assert!(
        text.contains(word) && text.contains("ask for the blob again"),
        "{text}"
    );
    assert_eq!(answer.header("www-authenticate"), None, "{answer:?}");
}

#[test]
fn everyone_else_gets_the_blob_as_it_is() {
    let Some(scene) = Scene::new(&[]) else { return };
    let url = scene.blob();
    let probe = send("GET", &url, &[("user-agent", AGENT)], b"");
    assert_eq!(probe.status, 307, "{probe:?}");
    assert_eq!(probe.header("content-length"), Some("0"));
    assert_eq!(probe.header("cache-control"), Some("no-store"));
    let address = probe.header("location").unwrap();
    assert!(
        address.starts_with(&format!("{url}?overlaybd-signed=1c.")),
        "{address}"
    );
    let size = scene.bytes().len().to_string();
    for agent in [
        "curl/8.14",
        "containerd/2.1.3+unknown",
        "docker/28",
        "overlaybd",
        "x overlaybd/1",
    ] {
        let answer = send("GET", &url, &[("user-agent", agent)], b"");
        assert_eq!(answer.status, 200, "{agent}: {answer:?}");
        assert_eq!(sha256(&answer.body), scene.layers[0], "{agent}");
    }
    let head = send("HEAD", &url, &[("user-agent", AGENT)], b"");
    assert_eq!(
        (head.status, head.header("content-length")),
        (200, Some(&*size))
    );
    let range = send(
        "GET",
        &url,
        &[("user-agent", AGENT), ("range", "bytes=0-0")],
        b"",
    );
    assert_eq!((range.status, range.body.len()), (206, 1));
    // Errors are as they were.
    let unknown = url.replace(&scene.layers[0], &sha256(b"unknown"));
    assert_eq!(
        send("GET", &unknown, &[("user-agent", AGENT)], b"").status,
        404
    );
}

#[test]
fn a_signed_address_is_read_by_whoever_has_it_whole_in_part_and_by_head() {
    let Some(scene) = Scene::new(&[]) else { return };
    let (address, bytes) = (scene.signed(), scene.bytes());
    for agent in [AGENT, "curl/8.14"] {
        let whole = send("GET", &address, &[("user-agent", agent)], b"");
        assert_eq!(
            (whole.status, &whole.body[..]),
            (200, &bytes[..]),
            "{agent}"
        );
        let head = send("HEAD", &address, &[("user-agent", agent)], b"");
        let length = bytes.len().to_string();
        assert_eq!(
            (head.status, head.header("content-length")),
            (200, Some(&*length))
        );
        let asked = [("user-agent", agent), ("range", "bytes=5-9,20-29")];
        let parts = send("GET", &address, &asked, b"");
        assert_eq!(parts.status, 206, "{parts:?}");
        // Credentials that a client brings along are nobody's business.
        let asked = [
            ("range", "bytes=100-199"),
            ("authorization", "Basic bm9ib2R5Ong="),
        ];
        let part = send("GET", &address, &asked, b"");
        assert_eq!((part.status, &part.body[..]), (206, &bytes[100..200]));
    }
    for method in ["PUT", "DELETE", "POST", "PATCH"] {
        let plain = send(method, &scene.blob(), &[], b"").status;
        assert_eq!(send(method, &address, &[], b"").status, plain, "{method}");
    }
}

#[test]
fn an_address_that_openssl_signs_with_the_key_is_good_and_any_other_is_not() {
    if !have(&["openssl"]) {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let (_, [option, path]) = keys(scratch.path(), &[KEY]);
    let Some(scene) = Scene::new(&[&option, &path]) else {
        return;
    };
    let (url, upstream) = (scene.blob(), scene.registry.address());
    let [layer, other] = &scene.layers[..] else {
        panic!("{:?}", scene.layers)
    };
    let (later, earlier) = (now() + 60, now() - 1);
    let ask = |query: &str| {
        send(
            "GET",
            &format!("{url}?{query}"),
            &[("range", "bytes=0-9")],
            b"",
        )
    };
    let good = sign(KEY, "c", later, upstream, "app", layer);
    let answer = ask(&good);
    assert_eq!((answer.status, answer.body.len()), (206, 10), "{answer:?}");
    assert_eq!(ask(&format!("x=1&{good}")).status, 206);

    let expired = sign(KEY, "c", earlier, upstream, "app", layer);
    assert_refused(&ask(&expired), "has expired");
    for (wrong, text) in [
        (
            "another key",
            sign(crate::probe::OTHER_KEY, "c", later, upstream, "app", layer),
        ),
        (
            "another blob",
            sign(KEY, "c", later, upstream, "app", other),
        ),
        (
            "another repository",
            sign(KEY, "c", later, upstream, "app2", layer),
        ),
        (
            "another upstream",
            sign(KEY, "c", later, "127.0.0.1:1", "app", layer),
        ),
        ("another kind", good.replace("=1c.", "=1s.")),
        ("another version", good.replace("=1c.", "=2c.")),
        (
            "a later end",
            good.replace(&later.to_string(), &(later + 1).to_string()),
        ),
        (
            "an expired one made good",
            expired.replace(&earlier.to_string(), &later.to_string()),
        ),
        ("cut", good[..good.len() - 1].to_owned()),
        ("twice", format!("{good}&{good}")),
        ("nothing", "overlaybd-signed=".to_owned()),
        ("no value", "overlaybd-signed".to_owned()),
        (
            "an encoded key",
            good.replace("overlaybd-", "overlaybd%2D")
                .replace("=1c.", "=1s."),
        ),
    ] {
        assert_refused(&ask(&text), "not signed");
        let head = send("HEAD", &format!("{url}?{text}"), &[], b"");
        assert_eq!(head.status, 403, "{wrong}");
    }
    // For another blob and another repository, also with an address that is good for this one.
    for elsewhere in [url.replace(layer, other), url.replace("/app/", "/app2/")] {
        let answer = send("GET", &format!("{elsewhere}?{good}"), &[], b"");
        assert_refused(&answer, "not signed");
    }
    let refused = scene.proxy.metric("overlaybd_proxy_signed_addresses_total");
    assert_eq!(refused, Some(1 + 13 * 2 + 2));
}

#[test]
fn a_reader_whose_address_is_refused_asks_anew_and_goes_on() {
    if !have(&["openssl"]) {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let (_, [option, path]) = keys(scratch.path(), &[KEY]);
    let Some(scene) = Scene::new(&[&option, &path]) else {
        return;
    };
    let (url, upstream) = (scene.blob(), scene.registry.address());
    let bytes = scene.bytes();
    let mut reader = Reader::new();
    reader.open(&url).unwrap();
    let expired = sign(KEY, "c", now() - 1, upstream, "app", &scene.layers[0]);
    let mut altered = reader.address(&url).to_owned();
    let last = if altered.ends_with('0') { "1" } else { "0" };
    altered.replace_range(altered.len() - 1.., last);
    for bad in [format!("{url}?{expired}"), altered] {
        reader.remember(&url, &bad);
        let since = reader.asked.len();
        let reply = reader.read(&url, 1000, 2000).unwrap();
        assert_eq!(reply.body, bytes[1000..3000]);
        let answers = [
            ("range", 403),
            ("head", 206),
            ("whole", 307),
            ("range", 206),
        ];
        assert_eq!(reader.answers(since), answers);
        assert_ne!(reader.address(&url), bad);
    }
}

#[test]
fn no_log_has_a_signature() {
    let mut command = crate::support::proxy::program();
    command.args(["--log-level", "trace"]);
    let Some(registry) = crate::support::registry::Registry::start() else {
        return;
    };
    registry.push("app", "1", &crate::probe::image(1, 1, 1000));
    let data = tempfile::tempdir().unwrap();
    let proxy = crate::probe::Proxy::start_as(
        command,
        &registry.url(),
        data.path(),
        &crate::probe::PLATFORM,
    );
    let layer = crate::probe::layer_digests(&proxy.converted("app", "1")).remove(0);
    let url = crate::probe::blob(proxy.url(), "app", &layer);
    let mut reader = Reader::new();
    reader.read_all(&url);
    let address = reader.address(&url).to_owned();
    let forged = address.replace("=1c.", "=1s.");
    assert_eq!(send("GET", &forged, &[], b"").status, 403);
    let log = proxy.log();
    assert!(
        log.contains(&format!("path=\"/v2/app/blobs/{layer}\"")) || log.contains(&layer),
        "{log}"
    );
    assert!(log.contains("no key here has signed"), "{log}");
    for secret in [signature(&address), "overlaybd-signed="] {
        assert!(!log.contains(secret), "{secret} in the log");
    }
}
