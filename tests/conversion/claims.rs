//! What an image's config, a row or a tag claims is no proof: converted content is reached only
//! through source layers that were seen to be what they are claimed to be.

use crate::support;
use std::path::Path;

use serde_json::Value;
use support::chain::{chains, with_tag};
use support::image::{Image, Sealed, layer_digests};
use support::proxy::Proxy;
use support::registry::Registry;
use support::tar::Tar;
use support::{http, noise, sha256};

fn tar(name: &str, seed: u64) -> Vec<u8> {
    Tar::new().file(name, noise(seed, 20_000)).finish()
}

/// An image of a base layer that many have, and of one that nobody else should get.
fn honest() -> Image {
    Image::gzip(&[tar("etc/base", 1), tar("etc/secret", 2)])
}

/// The same config with another blob as its top layer.
fn with_top(image: &Image, bytes: Vec<u8>) -> Sealed {
    let mut image = image.clone();
    let top = image.layers.last_mut().unwrap();
    top.bytes = bytes;
    let descriptor = top.descriptor();
    let layers = image.manifest["layers"].as_array_mut().unwrap();
    *layers.last_mut().unwrap() = descriptor;
    image.seal()
}

/// The top layer's tar, packed otherwise: another digest, the same diff id.
fn repacked(level: u32) -> Vec<u8> {
    use std::io::Write as _;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(level));
    encoder.write_all(&tar("etc/secret", 2)).unwrap();
    encoder.finish().unwrap()
}

/// Status, and code and message of the error if it is one. The digests of manifests differ from
/// image to image.
fn answer(proxy: &Proxy, repo: &str, tag: &str) -> (u16, String) {
    let answer = proxy.get(&format!("{repo}/manifests/{tag}_obd"));
    if answer.status == 200 {
        return (200, String::new());
    }
    (answer.status, answer.json()["errors"].to_string())
}

/// Three images whose configs claim the honest one's layers: of garbage, of a layer that is not
/// there, and of the same tar in another packing.
fn push_claimants(registry: &Registry, repo: &str) {
    let image = honest();
    registry.push(repo, "garbage", &with_top(&image, noise(9, 500)));
    let other_tar = support::image::gzip(&tar("etc/other", 3));
    registry.push(repo, "other", &with_top(&image, other_tar));
    let missing = repacked(1);
    registry.push(repo, "missing", &with_top(&image, missing.clone()));
    std::fs::remove_file(registry.blob_path(&sha256(&missing))).unwrap();
    registry.push(repo, "repacked", &with_top(&image, repacked(9)));
}

#[test]
fn a_false_diff_id_gets_the_same_answer_before_and_after_the_chain_is_converted() {
    let Some(registry) = Registry::start() else {
        return;
    };
    registry.push("app", "1", &honest().seal());
    push_claimants(&registry, "app");
    let data = tempfile::tempdir().unwrap();
    let options = ["--platform", "linux/amd64"];
    let proxy = Proxy::start(&registry.url(), data.path(), &options);
    let unknown = ["garbage", "other", "missing"].map(|tag| answer(&proxy, "app", tag));
    assert_eq!(unknown[0].0, 400, "{unknown:?}");
    assert_eq!(unknown[1].0, 400, "{unknown:?}");
    assert!(unknown[1].1.contains("diff id"), "{unknown:?}");
    assert_ne!(unknown[2].0, 200, "{unknown:?}");
    let known = proxy.converted("app", "1");
    let after = ["garbage", "other", "missing"].map(|tag| answer(&proxy, "app", tag));
    assert_eq!(after, unknown);
    // Seen to be something else, it is refused without a look at its bytes again.
    let other = sha256(&support::image::gzip(&tar("etc/other", 3)));
    let looks = registry.count("GET", &other);
    assert_eq!(answer(&proxy, "app", "other"), unknown[1]);
    assert!(registry.count("GET", &other) <= looks + 1);
    // The same tar in another packing is verified once, and then is as good as the first.
    let digest = sha256(&repacked(9));
    let same = proxy.converted("app", "repacked");
    assert_eq!(layer_digests(&same), layer_digests(&known));
    assert_eq!(registry.count("GET", &digest), 1);
    registry.push("copy", "1", &with_top(&honest(), repacked(9)));
    let copy = proxy.converted("copy", "1");
    assert_eq!(layer_digests(&copy), layer_digests(&known));
    assert_eq!(registry.count("GET", &digest), 1);
    let converted = proxy.metric("overlaybd_proxy_layers_converted_total");
    assert_eq!(converted, Some(2), "{}", proxy.log());
}

#[test]
fn a_false_diff_id_gets_no_layer_of_another_repository() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let address = registry.address().to_owned();
    registry.push("private", "1", &honest().seal());
    push_claimants(&registry, "public");
    let host_and_repo = format!("{address}/converted");
    let host = format!("{address}/");
    for push in [
        &["--push"][..],
        &["--push-repo", "converted"],
        &["--push-repo", &host_and_repo],
        &["--push-repo", &host],
    ] {
        let data = tempfile::tempdir().unwrap();
        let options = [push, &["--platform", "linux/amd64"]].concat();
        let proxy = Proxy::start(&registry.url(), data.path(), &options);
        let known = proxy.converted("private", "1");
        for tag in ["garbage", "other", "missing"] {
            let (status, text) = answer(&proxy, "public", tag);
            assert_ne!(status, 200, "{push:?} {tag}");
            for digest in layer_digests(&known) {
                assert!(!text.contains(&digest), "{text}");
            }
        }
        // An honest image of the same tars has a right to what was made of them.
        let same = proxy.converted("public", "repacked");
        assert_eq!(layer_digests(&same), layer_digests(&known), "{push:?}");
    }
}

fn index(data: &Path) -> rusqlite::Connection {
    rusqlite::Connection::open(data.join("index.sqlite")).unwrap()
}

#[test]
fn a_row_that_names_another_chains_blob_is_a_miss_and_replaced() {
    let Some(registry) = Registry::start() else {
        return;
    };
    // Bottom layers of one size: nothing but the blob itself tells them apart.
    let one = Image::gzip(&[tar("etc/one", 11), tar("etc/top", 12)]).seal();
    let two = Image::gzip(&[tar("etc/two", 13), tar("etc/top", 14)]).seal();
    registry.push("one", "1", &one);
    registry.push("two", "1", &two);
    let clean = tempfile::tempdir().unwrap();
    let options = ["--platform", "linux/amd64"];
    let proxy = Proxy::start(&registry.url(), clean.path(), &options);
    let expected = layer_digests(&proxy.converted("two", "1"));
    proxy.stop();

    let data = tempfile::tempdir().unwrap();
    let proxy = Proxy::start(&registry.url(), data.path(), &options);
    let planted = proxy.converted("one", "1");
    proxy.stop();
    let rows = index(data.path());
    for place in 0..2 {
        let layer = &planted["layers"][place];
        let copied = rows.execute(
            "INSERT INTO overlaybd_proxy_chains (chain_id, variant, data_digest, data_size) \
             SELECT ?1, variant, ?2, ?3 FROM overlaybd_proxy_chains WHERE data_digest = ?2",
            rusqlite::params![
                chains(&two)[place],
                layer["digest"].as_str().unwrap(),
                layer["size"].as_i64().unwrap()
            ],
        );
        assert_eq!(copied.unwrap(), 1);
    }
    drop(rows);
    let proxy = Proxy::start(&registry.url(), data.path(), &options);
    assert_eq!(layer_digests(&proxy.converted("two", "1")), expected);
    assert!(proxy.log().contains("not this chain's"), "{}", proxy.log());
    proxy.stop();
    let found: String = index(data.path())
        .query_row(
            "SELECT data_digest FROM overlaybd_proxy_chains WHERE chain_id = ?1",
            [&chains(&two)[0]],
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(found, expected[0]);
}

/// What an earlier version of this program left in a data directory for an image of one layer.
struct Earlier {
    manifest: String,
    layer: String,
}

impl Earlier {
    /// Makes the rows and blobs of the current version into those of version 1.
    fn of(data: &Path, repo: &str, converted: &Value) -> Self {
        let path = |digest: &str| {
            let hex = digest.strip_prefix("sha256:").unwrap();
            data.join("blobs/sha256").join(&hex[..2]).join(hex)
        };
        let put = |bytes: &[u8]| {
            let digest = sha256(bytes);
            let path = path(&digest);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, bytes).unwrap();
            digest
        };
        let now = layer_digests(converted)[0].clone();
        let blob = with_tag(
            &std::fs::read(path(&now)).unwrap(),
            "overlaybd-proxy/1 parent=none",
        );
        let layer = put(&blob);
        assert_ne!(layer, now);
        let mut manifest = converted.clone();
        let text = manifest.to_string().replace(&now, &layer);
        manifest = serde_json::from_str(&text).unwrap();
        manifest["layers"][0]["size"] = blob.len().into();
        let text = manifest.to_string();
        let old = put(text.as_bytes());
        let now_manifest = sha256(converted.to_string().as_bytes());
        let rows = index(data);
        for (sql, from, to) in [
            (
                "UPDATE overlaybd_proxy_chains SET data_digest = ?2 WHERE data_digest = ?1",
                &now,
                &layer,
            ),
            (
                "UPDATE overlaybd_proxy_links SET blob_digest = ?2 WHERE blob_digest = ?1",
                &now,
                &layer,
            ),
            (
                "UPDATE overlaybd_proxy_links SET blob_digest = ?2 WHERE blob_digest = ?1",
                &now_manifest,
                &old,
            ),
            (
                "UPDATE overlaybd_proxy_manifests SET out_digest = ?2 WHERE out_digest = ?1",
                &now_manifest,
                &old,
            ),
        ] {
            assert_eq!(rows.execute(sql, [from, to]).unwrap(), 1, "{sql} {repo}");
        }
        for table in ["overlaybd_proxy_chains", "overlaybd_proxy_manifests"] {
            let renamed = rows.execute(
                &format!("UPDATE {table} SET variant = 'v1' || substr(variant, 3)"),
                [],
            );
            assert_eq!(renamed.unwrap(), 1);
        }
        std::fs::remove_file(path(&now)).unwrap();
        std::fs::remove_file(path(&now_manifest)).unwrap();
        Self {
            manifest: old,
            layer,
        }
    }
}

#[test]
fn what_an_earlier_version_made_is_made_again_and_still_served_by_digest() {
    let Some(registry) = Registry::start() else {
        return;
    };
    registry.push("app", "1", &Image::gzip(&[tar("etc/base", 1)]).seal());
    let data = tempfile::tempdir().unwrap();
    let options = ["--platform", "linux/amd64"];
    let proxy = Proxy::start(&registry.url(), data.path(), &options);
    let answer = proxy.get("app/manifests/1_obd");
    let expected = answer.json();
    assert_eq!(expected.to_string().as_bytes(), &answer.body[..]);
    proxy.stop();
    let earlier = Earlier::of(data.path(), "app", &expected);

    let proxy = Proxy::start(&registry.url(), data.path(), &options);
    // A node that has the old manifest reads on, as long as its blobs are there.
    for path in [
        format!("app/manifests/{}", earlier.manifest),
        format!("app/blobs/{}", earlier.layer),
    ] {
        let answer = proxy.get(&path);
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(sha256(&answer.body), path[path.rfind("sha256").unwrap()..]);
    }
    assert_eq!(proxy.converted("app", "1"), expected);
    assert_eq!(
        proxy.metric("overlaybd_proxy_layers_converted_total"),
        Some(1)
    );
    proxy.stop();
    // When they are gone, the error says what to do.
    let hex = earlier.layer.strip_prefix("sha256:").unwrap();
    std::fs::remove_file(data.path().join("blobs/sha256").join(&hex[..2]).join(hex)).unwrap();
    let proxy = Proxy::start(&registry.url(), data.path(), &options);
    let answer = proxy.get(&format!("app/blobs/{}", earlier.layer));
    assert_eq!(answer.status, 404, "{answer:?}");
    assert!(
        answer.text().contains("pull the image by its tag again"),
        "{answer:?}"
    );
    assert_eq!(proxy.converted("app", "1"), expected);
}

#[test]
fn a_pushed_tag_of_an_earlier_version_is_replaced() {
    let Some(registry) = Registry::start() else {
        return;
    };
    registry.push("app", "1", &Image::gzip(&[tar("etc/base", 1)]).seal());
    let data = tempfile::tempdir().unwrap();
    let options = ["--push", "--platform", "linux/amd64"];
    let proxy = Proxy::start(&registry.url(), data.path(), &options);
    let expected = proxy.converted("app", "1");
    proxy.stop();
    let earlier = Earlier::of(data.path(), "app", &expected);
    let hex = earlier.layer.strip_prefix("sha256:").unwrap();
    let blobs = data.path().join("blobs/sha256");
    registry.push_blob(
        "app",
        &std::fs::read(blobs.join(&hex[..2]).join(hex)).unwrap(),
    );
    let hex = earlier.manifest.strip_prefix("sha256:").unwrap();
    let manifest = std::fs::read(blobs.join(&hex[..2]).join(hex)).unwrap();
    registry.push_manifest("app", "1_obd", support::image::OCI_MANIFEST, &manifest);
    let tagged = || http::get(&format!("{}/v2/app/manifests/1_obd", registry.url())).json();
    assert_ne!(tagged(), expected);

    let proxy = Proxy::start(&registry.url(), data.path(), &options);
    assert_eq!(proxy.converted("app", "1"), expected);
    // The tag follows the answer.
    support::until::until("the tag names the image", || {
        (tagged() == expected).then_some(())
    });
}

/// The index's record of what a compressed layer was seen to inflate to.
fn put_diff_id(data: &Path, layer: &str, diff_id: &str) {
    let put = index(data).execute(
        "INSERT INTO overlaybd_proxy_layers (layer_digest, diff_id) VALUES (?1, ?2)",
        [layer, diff_id],
    );
    assert_eq!(put.unwrap(), 1);
}

#[test]
fn a_layer_is_hashed_unless_the_index_has_it_with_the_diff_id_of_the_config() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let honest = honest();
    registry.push("honest", "1", &honest.seal());
    push_claimants(&registry, "claims");
    let options = ["--platform", "linux/amd64"];
    let clean = tempfile::tempdir().unwrap();
    let proxy = Proxy::start(&registry.url(), clean.path(), &options);
    let expected = layer_digests(&proxy.converted("honest", "1"));
    proxy.stop();

    let data = tempfile::tempdir().unwrap();
    Proxy::start(&registry.url(), data.path(), &options).stop();
    let top = honest.layers[1].digest();
    let [real, other] = [tar("etc/secret", 2), tar("etc/other", 3)].map(|tar| sha256(&tar));
    // A wrong record of a sound layer: it is hashed, which shows what it is.
    put_diff_id(data.path(), &top, &other);
    // The index is where verified layers are recorded, by this program alone, and is believed: that
    // this layer passes shows that it was not hashed.
    let claimed = sha256(&support::image::gzip(&tar("etc/other", 3)));
    put_diff_id(data.path(), &claimed, &real);
    let proxy = Proxy::start(&registry.url(), data.path(), &options);
    assert_eq!(layer_digests(&proxy.converted("honest", "1")), expected);
    proxy.stop();
    let found: String = index(data.path())
        .query_row(
            "SELECT diff_id FROM overlaybd_proxy_layers WHERE layer_digest = ?1",
            [&top],
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(found, real);
    std::fs::remove_dir_all(data.path().join("blobs")).unwrap();
    let forgotten = index(data.path()).execute("DELETE FROM overlaybd_proxy_chains", []);
    assert_eq!(forgotten.unwrap(), 2);
    let proxy = Proxy::start(&registry.url(), data.path(), &options);
    assert_eq!(answer(&proxy, "claims", "other").0, 200);
    assert_eq!(answer(&proxy, "claims", "garbage").0, 400);
}
