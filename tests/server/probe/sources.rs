//! Blobs of sources, which nodes read of TurboOCI images.

use crate::probe::reader::Reader;
use crate::probe::rights::{Private, bob};
use crate::probe::{PLATFORM, blob, image};
use crate::support::gate::Gate;
use crate::support::http::{get, send};
use crate::support::layout::Layout;
use crate::support::proxy::Proxy;
use crate::support::registry::Registry;
use crate::support::until::until;

/// A proxy before an open registry with one image, by way of a gate.
struct Open {
    proxy: Proxy,
    gate: Gate,
    layer: Vec<u8>,
    url: String,
    _registry: Registry,
    _data: tempfile::TempDir,
}

impl Open {
    fn new(options: &[&str]) -> Option<Self> {
        let registry = Registry::start()?;
        let image = image(1, 1, 8 << 20);
        registry.push("app", "1", &image);
        let gate = Gate::before(registry.address());
        let data = tempfile::tempdir().unwrap();
        let proxy = Proxy::start(&gate.url(), data.path(), &[&PLATFORM[..], options].concat());
        let layer = &image.blobs[1];
        Some(Self {
            url: blob(proxy.url(), "app", &layer.digest()),
            layer: layer.bytes.clone(),
            proxy,
            gate,
            _registry: registry,
            _data: data,
        })
    }
}

/// Waits until a whole blob comes from the cache.
#[track_caller]
fn until_kept(ask: impl Fn() -> crate::support::http::Answer) {
    until("it is in the cache", || {
        (ask().header("overlaybd-outcome") == Some("hit")).then_some(())
    });
}

#[test]
fn a_source_that_anyone_may_read_is_read_at_a_signed_address() {
    for options in [&[][..], &["--own-credentials"]] {
        let Some(open) = Open::new(options) else {
            return;
        };
        let mut reader = Reader::new();
        assert_eq!(reader.read_all(&open.url), open.layer);
        assert!(reader.wire.in_vain <= 64 << 10, "{}", reader.wire.in_vain);
        assert!(reader.address(&open.url).contains("overlaybd-signed=1s."));
    }
}

#[test]
fn opening_a_source_downloads_nothing_into_the_cache_and_what_is_there_is_read_from_it() {
    let Some(open) = Open::new(&["--cache-source"]) else {
        return;
    };
    let filled = || {
        let name = "overlaybd_proxy_source_cache_total{outcome=\"filled\"}";
        let metrics = get(&format!("{}/metrics", open.proxy.admin())).text();
        let mut lines = metrics.lines();
        lines.find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok())
    };
    let mut reader = Reader::new();
    reader.open(&open.url).unwrap();
    reader.read(&open.url, 1 << 20, 1000).unwrap();
    assert_eq!(filled(), Some(0));
    assert_eq!(send("GET", &open.url, &[], b"").body, open.layer);
    assert_eq!(filled(), Some(1));
    until_kept(|| send("GET", &open.url, &[], b""));
    // The same address, from now on without the upstream.
    let before = open.gate.seen().len();
    let since = reader.asked.len();
    let reply = reader.read(&open.url, 1 << 20, 1000).unwrap();
    assert_eq!(reply.body, open.layer[1 << 20..(1 << 20) + 1000]);
    assert_eq!(reply.header("overlaybd-outcome"), Some("hit"));
    assert_eq!(reader.answers(since), [("range", 206)]);
    assert_eq!(open.gate.seen().len(), before);
}

#[test]
fn a_layouts_blobs_are_read_at_signed_addresses() {
    let scratch = tempfile::tempdir().unwrap();
    let layout = Layout::create(&scratch.path().join("layout"));
    let image = image(1, 1, 8 << 20);
    layout.add("1", &image);
    let upstream = format!("oci:{}", layout.path().display());
    let proxy = Proxy::start(&upstream, &scratch.path().join("data"), &PLATFORM);
    let url = blob(proxy.url(), "app", &image.blobs[1].digest());
    let mut reader = Reader::new();
    assert_eq!(reader.read_all(&url), image.blobs[1].bytes);
    assert!(reader.wire.in_vain <= 64 << 10, "{}", reader.wire.in_vain);
}

#[test]
fn what_only_the_clients_credentials_open_is_read_with_them_until_it_is_here() {
    let Some(private) = Private::new() else {
        return;
    };
    let data = private.scratch.path().join("data");
    let proxy = private.start(&data, &["--cache-source"]);
    let url = blob(proxy.url(), "team/app", &private.layer);
    let mut reader = bob();
    let bytes = reader.read_all(&url);
    let with = |asked: &&crate::probe::reader::Asked| asked.authorization.is_some();
    let authorization = reader.asked.iter().rfind(with).unwrap();
    let token = authorization.authorization.clone().unwrap();
    assert!(reader.answers(0).contains(&("whole", 200)));
    until_kept(|| send("GET", &url, &[("authorization", &token)], b""));
    let mut reader = bob();
    assert_eq!(reader.read_all(&url), bytes);
    assert!(reader.address(&url).contains("overlaybd-signed=1s."));
    assert!(!reader.answers(0).contains(&("whole", 200)));
}
