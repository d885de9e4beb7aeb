//! What is sent in vain when a node opens an image.

use crate::probe::reader::Reader;
use crate::probe::{Scene, blob, image};
use crate::registry_support::certificates;
use crate::support::image::layer_digests;
use crate::support::sha256;

/// So much may be sent in vain, in bytes a layer.
const MOST: u64 = 64 << 10;

/// Opens all layers and reads them; what was sent in vain.
#[track_caller]
fn read(reader: &mut Reader, proxy: &str, layers: &[String]) -> u64 {
    for layer in layers {
        let url = blob(proxy, "app", layer);
        assert_eq!(sha256(&reader.read_all(&url)), *layer);
    }
    reader.wire.in_vain
}

#[test]
fn a_node_that_opens_layers_is_sent_nothing_in_vain_and_reads_on_without_credentials() {
    let Some(scene) = Scene::of(&image(1, 2, 8 << 20), &[]) else {
        return;
    };
    let mut reader = Reader::new();
    for layer in &scene.layers {
        let size = reader.open(&blob(scene.proxy.url(), "app", layer)).unwrap();
        assert!(size > 8 << 20, "{size}");
    }
    let before = scene.registry.requests().len();
    let in_vain = read(&mut reader, scene.proxy.url(), &scene.layers);
    eprintln!("in vain, of 2 layers: {in_vain} bytes");
    assert!(in_vain <= 2 * MOST, "{in_vain}");
    let answers = reader.answers(0);
    let is_right = |(kind, status): &(_, u16)| match *kind {
        "head" | "range" => *status == 206,
        _ => *status == 307,
    };
    assert!(answers.iter().all(is_right), "{answers:?}");
    let opened = answers.iter().filter(|(kind, _)| *kind != "range");
    assert_eq!(opened.count(), 4, "{answers:?}");
    assert_eq!(scene.registry.requests().len(), before, "it was asked");
    let issued = scene.proxy.metric("overlaybd_proxy_signed_addresses_total");
    assert_eq!(issued, Some(2));
}

#[test]
fn over_tls_a_node_is_sent_nothing_in_vain_either() {
    let Some(pki) = certificates() else { return };
    let Some(registry) = crate::support::registry::Registry::start() else {
        return;
    };
    registry.push("app", "1", &image(1, 2, 8 << 20));
    let data = tempfile::tempdir().unwrap();
    let file = |name: &str| pki.path().join(name).display().to_string();
    let (cert, key) = (file("server.crt"), file("server.key"));
    let proxy = crate::probe::Proxy::start(
        &registry.url(),
        data.path(),
        &[
            "--tls-cert",
            &cert,
            "--tls-key",
            &key,
            "--platform",
            "linux/amd64",
        ],
    );
    let mut reader = Reader::trusting(Some(pki.path().join("ca.crt")));
    let manifest = reader.manifest(&format!("{}/v2/app/manifests/1_obd", proxy.url()));
    let layers = layer_digests(&manifest);
    let in_vain = read(&mut reader, proxy.url(), &layers);
    eprintln!("in vain over TLS, of 2 layers: {in_vain} bytes");
    assert!(in_vain <= 2 * MOST, "{in_vain}");
    let address = reader.address(&blob(proxy.url(), "app", &layers[0]));
    assert!(address.starts_with(proxy.url()), "{address}");
    assert!(proxy.url().starts_with("https://"), "{}", proxy.url());
}

#[test]
fn without_signed_addresses_the_start_of_each_layer_is_sent_in_vain() {
    let Some(scene) = Scene::of(&image(1, 2, 8 << 20), &["--url-ttl", "0"]) else {
        return;
    };
    let mut reader = Reader::new();
    let in_vain = read(&mut reader, scene.proxy.url(), &scene.layers);
    eprintln!("in vain without signed addresses, of 2 layers: {in_vain} bytes");
    // What the sockets' buffers take is the machine's business.
    assert!(in_vain > 2 * MOST, "{in_vain}");
    let answers = reader.answers(0);
    assert!(answers.contains(&("whole", 200)), "{answers:?}");
    let issued = scene.proxy.metric("overlaybd_proxy_signed_addresses_total");
    assert_eq!(issued, Some(0));
}
