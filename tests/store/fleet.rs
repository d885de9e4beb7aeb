//! Several replicas before one registry, with `MariaDB` between them.

use crate::{store_support, support};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use store_support::{Database, Server};
use support::chain::chains;
use support::image::{Image, Sealed};
use support::overlaybd::build;
use support::proxy::Proxy;
use support::registry::Registry;
use support::tar::Tar;
use support::{http, noise, sha256};

/// Options of a replica besides its directory.
fn options(dsn: &str) -> Vec<String> {
    let text = "--push --db-create --lease-ttl 3s --auth-cache-ttl 1s --platform linux/amd64";
    let mut options: Vec<String> = text.split(' ').map(str::to_owned).collect();
    options.extend(["--dbstr".to_owned(), dsn.to_owned()]);
    options
}

fn replica(registry: &Registry, data: &Path, dsn: &str) -> Proxy {
    let options = options(dsn);
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    Proxy::start(&registry.url(), data, &options)
}

fn tar(name: &str, content: &[u8]) -> Vec<u8> {
    Tar::new().file(name, content).finish()
}

/// A small image: a layer that many share, and one of its own.
fn image(number: u64) -> Sealed {
    let shared = tar("etc/shared", &noise(1, 300_000));
    let own = tar("etc/own", &noise(100 + number, 50_000));
    Image::gzip(&[shared, own]).seal()
}

/// The digests of an image's layers, each pulled whole and verified.
#[track_caller]
fn layers(proxy: &Proxy, repo: &str, manifest: &serde_json::Value) -> Vec<String> {
    let layers = manifest["layers"].as_array().unwrap();
    let digests = layers.iter().map(|layer| {
        let digest = layer["digest"].as_str().unwrap().to_owned();
        let blob = proxy.get(&format!("{repo}/blobs/{digest}"));
        assert_eq!(blob.status, 200, "{blob:?}");
        assert_eq!(sha256(&blob.body), digest);
        digest
    });
    digests.collect()
}

#[test]
fn three_replicas_convert_every_chain_once() {
    let (Some(registry), Some(server)) = (Registry::start(), Server::shared()) else {
        return;
    };
    let database = Database::new(server);
    for number in 0..60 {
        registry.push(&format!("app-{number}"), "1", &image(number));
    }
    for number in 0..10 {
        registry.push(&format!("same-{number}"), "1", &image(1000));
    }
    let directories = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let replicas = directories
        .each_ref()
        .map(|data| replica(&registry, data.path(), &database.dsn()));
    // Every image is asked of every replica, in three orders.
    let answers: Vec<Vec<(String, serde_json::Value)>> = std::thread::scope(|scope| {
        let asked: Vec<_> = replicas
            .iter()
            .enumerate()
            .flat_map(|(place, replica)| (0..4).map(move |lane| (place, lane, replica)))
            .map(|(place, lane, replica)| {
                scope.spawn(move || {
                    let names = (0..60).map(|number| format!("app-{number}"));
                    let mut names: Vec<_> = names
                        .chain((0..10).map(|number| format!("same-{number}")))
                        .collect();
                    names.rotate_left(place * 23);
                    let mine = names.into_iter().skip(lane).step_by(4);
                    mine.map(|repo| (repo.clone(), replica.converted(&repo, "1")))
                        .collect()
                })
            })
            .collect();
        asked.into_iter().map(|one| one.join().unwrap()).collect()
    });
    let mut by_repo = std::collections::BTreeMap::new();
    for (repo, manifest) in answers.into_iter().flatten() {
        let known = by_repo
            .entry(repo.clone())
            .or_insert_with(|| manifest.clone());
        assert_eq!(*known, manifest, "{repo}");
    }
    assert_eq!(by_repo.len(), 70);
    // One shared layer, 60 of their own, and the one of the ten that are the same.
    let converted: u64 = replicas
        .iter()
        .map(|replica| {
            replica
                .metric("overlaybd_proxy_layers_converted_total")
                .unwrap()
        })
        .sum();
    assert_eq!(converted, 62);
    let rows = database.rows("SELECT host, repo, chain_id, data_digest FROM overlaybd_layers");
    assert_eq!(rows.len(), 140);
    // Whoever is asked serves all of it, also what another made.
    let names: Vec<_> = by_repo.keys().cloned().collect();
    for (place, repo) in names.iter().enumerate().step_by(5) {
        let digests = layers(&replicas[place % 3], repo, &by_repo[repo]);
        assert_eq!(digests.len(), 2);
        let of_rows: BTreeSet<_> = database
            .texts(&format!(
                "SELECT data_digest FROM overlaybd_layers WHERE repo = '{repo}'"
            ))
            .into_iter()
            .collect();
        assert_eq!(of_rows, digests.into_iter().collect());
    }
    // Pulls outlive the proxies: the tags are in the registry.
    let tagged = http::get(&format!("{}/v2/app-3/manifests/1_obd", registry.url()));
    assert_eq!(tagged.json(), by_repo["app-3"]);
    replicas.into_iter().for_each(Proxy::stop);
}

#[test]
fn a_dead_replicas_lease_is_taken_over() {
    let (Some(registry), Some(server)) = (Registry::start(), Server::shared()) else {
        return;
    };
    let database = Database::new(server);
    let big = tar("big", &noise(5, 60_000_000));
    registry.push("big", "1", &Image::gzip(&[big]).seal());
    let (first_data, second_data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let first = replica(&registry, first_data.path(), &database.dsn());
    let second = replica(&registry, second_data.path(), &database.dsn());
    std::thread::scope(|scope| {
        let url = format!("{}/v2/big/manifests/1_obd", first.url());
        let doomed = scope.spawn(move || http::try_send("GET", &url, &[], b"").is_err());
        let begin = Instant::now();
        while database
            .texts("SELECT name FROM overlaybd_proxy_leases")
            .is_empty()
        {
            assert!(begin.elapsed() < Duration::from_secs(30), "{}", first.log());
        }
        first.signal(Signal::SIGKILL);
        let manifest = second.converted("big", "1");
        assert_eq!(layers(&second, "big", &manifest).len(), 1);
        assert!(
            doomed.join().unwrap(),
            "it was killed too late for this test"
        );
    });
    assert_eq!(
        second.metric("overlaybd_proxy_layers_converted_total"),
        Some(1)
    );
    assert!(
        database
            .texts("SELECT name FROM overlaybd_proxy_leases")
            .is_empty()
    );
}

#[test]
fn cached_images_are_served_without_the_database() {
    let (Some(registry), Some(server)) = (Registry::start(), Server::start(&[])) else {
        return;
    };
    let database = Database::new(Arc::new(server));
    for number in 0..12 {
        registry.push(&format!("app-{number}"), "1", &image(number));
    }
    let data = tempfile::tempdir().unwrap();
    let dsn = format!(
        "{}?timeout=2s&readTimeout=2s&writeTimeout=2s",
        database.dsn()
    );
    let proxy = replica(&registry, data.path(), &dsn);
    let known: Vec<_> = (0..6)
        .map(|number| proxy.converted(&format!("app-{number}"), "1"))
        .collect();
    for (number, manifest) in known.iter().enumerate() {
        layers(&proxy, &format!("app-{number}"), manifest);
    }
    let rows = database.rows("SELECT * FROM overlaybd_layers").len();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let load: Vec<_> = (0..4_usize)
            .map(|lane| {
                let (proxy, known, stop) = (&proxy, &known, &stop);
                scope.spawn(move || {
                    let mut pulled = 0;
                    while !stop.load(Ordering::Relaxed) {
                        let number = (lane + pulled) % known.len();
                        let repo = format!("app-{number}");
                        assert_eq!(proxy.converted(&repo, "1"), known[number]);
                        layers(proxy, &repo, &known[number]);
                        pulled += 1;
                    }
                    pulled
                })
            })
            .collect();
        std::thread::sleep(Duration::from_millis(500));
        database.server().down();
        // What is not known needs the database, and says so; it is no miss and no wrong answer.
        let refused = proxy.get("app-7/manifests/1_obd");
        assert!(matches!(refused.status, 500..=599), "{refused:?}");
        assert!(
            refused.json()["errors"][0]["message"].is_string(),
            "{refused:?}"
        );
        std::thread::sleep(Duration::from_secs(1));
        database.server().up();
        let begin = Instant::now();
        loop {
            let answer = proxy.get("app-7/manifests/1_obd");
            if answer.status == 200 {
                break;
            }
            assert!(begin.elapsed() < Duration::from_secs(30), "{answer:?}");
            std::thread::sleep(Duration::from_millis(200));
        }
        stop.store(true, Ordering::Relaxed);
        for lane in load {
            assert!(lane.join().unwrap() > 0);
        }
    });
    for number in 6..12 {
        let repo = format!("app-{number}");
        let manifest = proxy.converted(&repo, "1");
        layers(&proxy, &repo, &manifest);
    }
    assert_eq!(
        database.rows("SELECT * FROM overlaybd_layers").len(),
        rows + 12
    );
    let log = proxy.log();
    assert!(log.contains("database") || log.contains("MySQL"), "{log}");
}

#[test]
fn false_rows_are_not_built_upon_and_not_changed() {
    let (Some(registry), Some(server)) = (Registry::start(), Server::shared()) else {
        return;
    };
    // What it must come to, from a database without lies.
    let sealed = image(7);
    registry.push("clean", "1", &sealed);
    let clean = Database::new(Arc::clone(&server));
    let clean_data = tempfile::tempdir().unwrap();
    let honest = replica(&registry, clean_data.path(), &clean.dsn());
    let expected = honest.converted("clean", "1");
    let clean_blob = expected["layers"][0]["digest"].as_str().unwrap().to_owned();
    honest.stop();

    // The reference's own schema, and what an operator may have added to it.
    let database = Database::new(server);
    database.execute(
        "CREATE TABLE overlaybd_layers (
           host varchar(255) NOT NULL, repo varchar(255) NOT NULL,
           chain_id varchar(255) NOT NULL, data_digest varchar(255) NOT NULL,
           data_size bigint(20) NOT NULL, made_at timestamp DEFAULT CURRENT_TIMESTAMP,
           note varchar(20) DEFAULT 'theirs',
           PRIMARY KEY (host, repo, chain_id), KEY extra (data_digest),
           KEY index_registry_chainId (host, chain_id) USING BTREE) DEFAULT CHARSET=utf8",
    );
    let chains = chains(&sealed);
    let golden = std::fs::read("tests/golden/lz4-4/0.obd").unwrap();
    let golden = build::of_chain(&golden, &chains[0]);
    let host = registry.address();
    let plant = |repo: &str, chain: &str, digest: &str, size: usize| {
        database.execute(&format!(
            "INSERT INTO overlaybd_layers (host, repo, chain_id, data_digest, data_size)
             VALUES ('{host}', '{repo}', '{chain}', '{digest}', {size})"
        ));
    };
    // A blob that is not there; another tool's blob that is; one that is no overlaybd blob;
    // a blob of ours in the wrong place of the chain; a digest that is none.
    registry.push("missing", "1", &sealed);
    plant("missing", &chains[0], &sha256(b"nothing"), 7);
    registry.push("foreign", "1", &sealed);
    registry.push_blob("foreign", &golden);
    plant("foreign", &chains[0], &sha256(&golden), golden.len());
    registry.push("junk", "1", &sealed);
    registry.push_blob("junk", b"junk");
    plant("junk", &chains[0], &sha256(b"junk"), 4);
    registry.push("moved", "1", &sealed);
    let blob = http::get(&format!("{}/v2/clean/blobs/{clean_blob}", registry.url()));
    registry.push_blob("moved", &blob.body);
    plant("moved", &chains[1], &clean_blob, blob.body.len());
    registry.push("text", "1", &sealed);
    plant("text", &chains[0], "no digest", 4);

    let data = tempfile::tempdir().unwrap();
    let proxy = replica(&registry, data.path(), &database.dsn());
    for repo in ["missing", "foreign", "junk", "moved", "text"] {
        let manifest = proxy.converted(repo, "1");
        assert_eq!(manifest["layers"], expected["layers"], "{repo}");
        layers(&proxy, repo, &manifest);
    }
    // They are another tool's, and so is what that tool may have built on them.
    let rows = database.texts("SELECT concat(repo, ' ', data_digest) FROM overlaybd_layers");
    let rows: BTreeSet<_> = rows.into_iter().collect();
    let planted = [
        format!("missing {}", sha256(b"nothing")),
        format!("foreign {}", sha256(&golden)),
        format!("junk {}", sha256(b"junk")),
        format!("moved {clean_blob}"),
        "text no digest".to_owned(),
    ];
    assert_eq!(rows, BTreeSet::from(planted));
    proxy.stop();
}
