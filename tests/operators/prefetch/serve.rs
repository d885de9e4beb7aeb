//! Images that a proxy serves: lists for all, and for the images of a rule.

use std::fs;

use serde_json::Value;

use super::support::http;
use super::support::image::{Flavour, layer_digests};
use super::support::proxy::{self, Proxy};
use super::support::registry::Registry;
use super::support::{self, sha256, skopeo};
use super::trace::{records, unpacked};
use super::{LIST, assert_described, image};

const OCI: &str = "application/vnd.oci.image.layer.v1.tar";

#[test]
fn a_rule_chooses_the_list_and_the_compression_of_its_images() {
    let Some(registry) = Registry::start() else {
        return;
    };
    for repo in ["team/a", "team/b", "other"] {
        registry.push(repo, "1", &image(Flavour::Oci));
    }
    let scratch = tempfile::tempdir().unwrap();
    let list = scratch.path().join("a.list");
    fs::write(&list, LIST).unwrap();
    let file = scratch.path().join("config.toml");
    let text = format!(
        "vsize = '64MiB'\nalgorithm = 'lz4'\nbs = 4\n\
         [[policy]]\nrepository = 'team/a'\nprefetch-list = '{}'\n\
         [[policy]]\nrepository = 'team/*'\nalgorithm = 'zstd'\nbs = 16\n",
        list.display()
    );
    fs::write(&file, text).unwrap();
    let data = scratch.path().join("data");
    let config = file.display().to_string();
    let options = ["--platform", "linux/amd64", "--config", &config];
    let proxy = Proxy::start(&registry.url(), &data, &options);

    let manifest = proxy.converted("team/a", "1");
    let digests = layer_digests(&manifest);
    assert_eq!(digests.len(), 3);
    let path = |digest: &str| format!("team/a/blobs/{digest}");
    let blob = proxy.get(&path(&digests[2]));
    assert_eq!(blob.status, 200);
    assert_described(&manifest["layers"][2], &blob.body, OCI);
    assert!(records(&unpacked(&blob.body)).len() > 2);
    // It belongs to this repository only.
    let elsewhere = proxy.get(&format!("other/blobs/{}", digests[2]));
    assert_eq!(elsewhere.status, 404);

    let compression = |repo: &str| {
        let name = format!("{}/{repo}:1_obd", proxy.host());
        let layers = super::inspect(&name);
        let zfile = layers[0]["blob"]["zfile"].clone();
        (
            layers.len(),
            zfile["algorithm"].clone(),
            zfile["block_size"].clone(),
        )
    };
    let of = |count, algorithm: &str, size: u64| (count, Value::from(algorithm), Value::from(size));
    assert_eq!(compression("team/a"), of(3, "lz4", 4096));
    assert_eq!(compression("team/b"), of(2, "zstd", 16384));
    assert_eq!(compression("other"), of(2, "lz4", 4096));
    // What is served is the disk that the source makes, and a stock client takes it.
    let source = format!("{}/team/a:1", registry.address());
    super::check(&format!("{}/team/a:1_obd", proxy.host()), &source);
    if support::have(&["skopeo"]) {
        let out = skopeo::layout(&scratch.path().join("out"), "1_obd");
        skopeo::copied(&proxy.image("team/a", "1_obd"), &out, &[]);
    }

    // A blob that is gone is made again, to the byte.
    proxy.stop();
    let evicted = proxy::blobs(&data)
        .into_iter()
        .find(|path| sha256(&fs::read(path).unwrap()) == digests[2]);
    fs::remove_file(evicted.unwrap()).unwrap();
    let proxy = Proxy::start(&registry.url(), &data, &options);
    let again = proxy.get(&path(&digests[2]));
    assert_eq!(again.status, 200, "{}", proxy.log());
    assert!(again.body == blob.body);
    assert_eq!(proxy.converted("team/a", "1"), manifest);
    let url = format!("{}/v2/{}", proxy.url(), path(&digests[2]));
    let part = http::send("GET", &url, &[("range", "bytes=512-535")], &[]);
    assert_eq!((part.status, &part.body[..]), (206, &blob.body[512..536]));
}
