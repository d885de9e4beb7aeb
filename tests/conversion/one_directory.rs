//! Several processes on one data directory, with the index in it.

use crate::support;
use std::collections::BTreeSet;
use std::path::Path;

use support::image::{Image, Sealed};
use support::layout::Layout;
use support::proxy::{Proxy, blobs, rows};
use support::tar::Tar;
use support::until::until;
use support::{http, noise};

const OPTIONS: [&str; 2] = ["--platform", "linux/amd64"];

fn image(name: &str, layers: u64) -> Sealed {
    let seed = |n: u64| n + u64::from(name.bytes().last().unwrap()) * 1000;
    let layer = |n| {
        Tar::new()
            .file(&format!("{name}-{n}"), noise(seed(n), 300_000))
            .finish()
    };
    Image::gzip(&(0..layers).map(layer).collect::<Vec<_>>()).seal()
}

fn manifest(proxy: &Proxy, tag: &str) -> http::Answer {
    let url = format!("{}/v2/images/manifests/{tag}", proxy.url());
    http::send("GET", &url, &[("accept", http::ACCEPT)], b"")
}

fn converted(proxy: &Proxy) -> u64 {
    let counted = proxy.metric("overlaybd_proxy_layers_converted_total");
    counted.unwrap_or(0)
}

#[test]
fn processes_that_start_at_once_on_a_new_directory_all_serve() {
    let place = tempfile::tempdir().unwrap();
    let layout = Layout::create(&place.path().join("images"));
    let upstream = format!("oci:{}", layout.path().display());
    for round in 0..12 {
        let data = place.path().join(format!("data-{round}"));
        std::thread::scope(|scope| {
            let start = || Proxy::start(&upstream, &data, &OPTIONS).stop();
            let starting: Vec<_> = (0..8).map(|_| scope.spawn(start)).collect();
            for started in starting {
                started.join().unwrap();
            }
        });
    }
}

#[test]
fn processes_of_one_directory_convert_each_layer_once() {
    const LAYERS: u64 = 6;
    let place = tempfile::tempdir().unwrap();
    let layout = Layout::create(&place.path().join("images"));
    let tags = ["a", "b", "c"];
    for tag in tags {
        layout.add(tag, &image(tag, LAYERS));
    }
    let upstream = format!("oci:{}", layout.path().display());
    let data = place.path().join("data");
    let proxies = [(); 2].map(|()| Proxy::start(&upstream, &data, &OPTIONS));
    for tag in tags {
        let tag = format!("{tag}_obd");
        let answers: BTreeSet<_> = std::thread::scope(|scope| {
            let ask = |proxy| {
                let tag = &tag;
                scope.spawn(move || manifest(proxy, tag))
            };
            let asked: Vec<_> = proxies.iter().map(ask).collect();
            let answers = asked.into_iter().map(|asked| asked.join().unwrap());
            answers
                .map(|answer| (answer.status, answer.text()))
                .collect()
        });
        assert_eq!(answers.len(), 1, "{answers:?}");
        assert_eq!(answers.first().unwrap().0, 200, "{answers:?}");
    }
    let made: u64 = proxies.iter().map(converted).sum();
    assert_eq!(made, LAYERS * 3);
    proxies.into_iter().for_each(Proxy::stop);
}

fn digests(data: &Path, table: &str, column: &str) -> BTreeSet<String> {
    let path = data.join("index.sqlite");
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    let index = rusqlite::Connection::open_with_flags(path, flags).unwrap();
    let mut found = index
        .prepare(&format!("SELECT {column} FROM {table}"))
        .unwrap();
    let found = found.query_map([], |row| row.get(0)).unwrap();
    found.map(Result::unwrap).collect()
}

#[test]
fn rows_of_evicted_blobs_are_removed_and_the_blobs_are_made_again() {
    const IMAGES: u64 = 8;
    let place = tempfile::tempdir().unwrap();
    let layout = Layout::create(&place.path().join("images"));
    for n in 0..IMAGES {
        layout.add(&n.to_string(), &image(&n.to_string(), 2));
    }
    let upstream = format!("oci:{}", layout.path().display());
    let data = place.path().join("data");
    let options = [
        "--platform",
        "linux/amd64",
        "--cache-size",
        "1MiB",
        "--keep",
        "0s",
    ];
    let proxy = Proxy::start(&upstream, &data, &options);
    let mut first = None;
    for n in 0..IMAGES {
        let answer = manifest(&proxy, &format!("{n}_obd"));
        assert_eq!(answer.status, 200, "{answer:?}");
        first.get_or_insert(answer.json());
    }
    // A row that another tool wrote is not this program's to remove, whatever it names.
    rusqlite::Connection::open(data.join("index.sqlite"))
        .unwrap()
        .execute(
            "INSERT INTO overlaybd_layers VALUES ('h', 'r', 'c', 'sha256:none', 1)",
            [],
        )
        .unwrap();
    until("rows are left only of what is there", || {
        let there: BTreeSet<_> = blobs(&data)
            .into_iter()
            .map(|path| format!("sha256:{}", path.file_name().unwrap().to_string_lossy()))
            .collect();
        let named = [
            digests(&data, "overlaybd_proxy_chains", "data_digest"),
            digests(&data, "overlaybd_proxy_manifests", "out_digest"),
        ];
        named
            .iter()
            .all(|named| named.is_subset(&there))
            .then_some(())
    });
    assert!(rows(&data, "overlaybd_proxy_chains") < 16);
    assert_eq!(rows(&data, "overlaybd_layers"), 1);
    // A node that has the image may still ask for its blobs.
    let layer = first.unwrap()["layers"][0]["digest"]
        .as_str()
        .unwrap()
        .to_owned();
    let blob = proxy.get(&format!("images/blobs/{layer}"));
    assert_eq!(blob.status, 200, "{blob:?}");
    assert_eq!(support::sha256(&blob.body), layer);
    proxy.stop();
}
