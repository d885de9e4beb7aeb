//! The tables that are shared with the reference converter: it builds on whatever blob a row
//! names for a chain, without a look into it.

use crate::{store_support, support};
use std::io::Read as _;
use std::path::Path;
use std::process::Command;

use store_support::{Database, Server};
use support::chain::{blob, chains, changed_blocks, uuid, with_tag};
use support::image::{Image, Sealed, layer_digests};
use support::proxy::Proxy;
use support::registry::Registry;
use support::tar::Tar;
use support::{http, noise, run, sha256};

/// The layers that the golden blobs were made of.
fn golden_tars(count: usize) -> Vec<Vec<u8>> {
    let tar = |number| {
        let packed = std::fs::read(format!("tests/golden/layer{number}.tar.gz")).unwrap();
        let mut tar = Vec::new();
        let mut inflating = flate2::read::GzDecoder::new(&packed[..]);
        inflating.read_to_end(&mut tar).unwrap();
        tar
    };
    (0..count).map(tar).collect()
}

/// What the reference converter made of these layers.
fn golden_blob(number: usize) -> Vec<u8> {
    std::fs::read(format!("tests/golden/lz4-4/{number}.obd")).unwrap()
}

fn tar(name: &str, seed: u64) -> Vec<u8> {
    Tar::new().file(name, noise(seed, 20_000)).finish()
}

struct Bench {
    registry: Registry,
    database: Database,
}

impl Bench {
    fn start() -> Option<Self> {
        let registry = Registry::start()?;
        let database = Database::new(Server::shared()?);
        let bench = Self { registry, database };
        // The tables are made by whoever comes first.
        let data = tempfile::tempdir().unwrap();
        bench.proxy(data.path(), &[]).stop();
        Some(bench)
    }

    fn proxy(&self, data: &Path, more: &[&str]) -> Proxy {
        let dsn = self.database.dsn();
        let always = ["--db-create", "--vsize", "1", "--platform", "linux/amd64"];
        let options = [&always[..], &["--dbstr", &dsn], more].concat();
        Proxy::start(&self.registry.url(), data, &options)
    }

    /// A blob and its row, as the reference converter leaves them.
    fn plant(&self, repo: &str, chain: &str, bytes: &[u8]) {
        let digest = self.registry.push_blob(repo, bytes);
        self.database.execute(&format!(
            "INSERT INTO overlaybd_layers (host, repo, chain_id, data_digest, data_size)
             VALUES ('{}', '{repo}', '{chain}', '{digest}', {})",
            self.registry.address(),
            bytes.len()
        ));
    }

    /// The blobs that the reference converter would take for an image, bottom first: the row of
    /// the repository if the registry has its blob, else that of any repository of the host.
    /// It converts what follows the last one.
    fn reference_build(&self, repo: &str, sealed: &Sealed) -> Vec<String> {
        let host = self.registry.address();
        let mut taken = Vec::new();
        for chain in chains(sealed) {
            let find = |more: &str| {
                self.database.texts(&format!(
                    "SELECT data_digest FROM overlaybd_layers
                     WHERE host = '{host}' AND chain_id = '{chain}' {more}"
                ))
            };
            let own = find(&format!("AND repo = '{repo}'"));
            let is_there = |digest: &String| {
                let url = format!("{}/v2/{repo}/blobs/{digest}", self.registry.url());
                http::send("HEAD", &url, &[], b"").status == 200
            };
            match own
                .into_iter()
                .find(is_there)
                .or(find("").into_iter().next())
            {
                Some(digest) => taken.push(digest),
                None => break,
            }
        }
        taken
    }

    /// A blob and its rows, as version 2 of this program left them.
    fn plant_earlier(&self, repo: &str, chain: &str, bytes: &[u8]) -> String {
        let bytes = with_tag(bytes, "overlaybd-proxy/2 parent=none");
        self.plant(repo, chain, &bytes);
        let digest = sha256(&bytes);
        self.database.execute(&format!(
            "INSERT INTO overlaybd_proxy_chains (chain_id, variant, data_digest, data_size)
             VALUES ('{chain}', 'v2 zstd 65536 {}', '{digest}', {})",
            1 << 30,
            bytes.len()
        ));
        digest
    }

    /// The blob that a conversion without any table makes of the bottom layer of an image.
    fn bottom(&self, repo: &str, tag: &str) -> Vec<u8> {
        let data = tempfile::tempdir().unwrap();
        let options = ["--vsize", "1", "--platform", "linux/amd64"];
        let proxy = Proxy::start(&self.registry.url(), data.path(), &options);
        let digest = layer_digests(&proxy.converted(repo, tag))[0].clone();
        proxy.get(&format!("{repo}/blobs/{digest}")).body.to_vec()
    }

    fn rows(&self) -> usize {
        self.database.rows("SELECT * FROM overlaybd_layers").len()
    }
}

#[test]
fn the_reference_finds_its_own_rows_after_a_shorter_image_was_converted_here() {
    let Some(bench) = Bench::start() else { return };
    let two = Image::gzip(&golden_tars(2)).seal();
    let one = Image::gzip(&golden_tars(1)).seal();
    let theirs = [golden_blob(0), golden_blob(1)];
    for (chain, bytes) in chains(&two).iter().zip(&theirs) {
        bench.plant("app", chain, bytes);
    }
    bench.registry.push("app", "short", &one);
    bench.registry.push("elsewhere", "short", &one);
    let data = tempfile::tempdir().unwrap();
    let proxy = bench.proxy(data.path(), &["--push"]);
    for repo in ["app", "elsewhere"] {
        let ours = layer_digests(&proxy.converted(repo, "short"));
        assert_ne!(ours[0], sha256(&theirs[0]));
        // Also where the repository has no row, the host has theirs.
        let built = bench.reference_build(repo, &two);
        assert_eq!(
            built,
            theirs.each_ref().map(|bytes| sha256(bytes)),
            "{repo}"
        );
    }
    assert_eq!(bench.rows(), 2);
    // What another replica knows of it, it has from tables of our own.
    let other_data = tempfile::tempdir().unwrap();
    let other = bench.proxy(other_data.path(), &["--push"]);
    assert_eq!(
        other.converted("app", "short"),
        proxy.converted("app", "short")
    );
    let converted = other.metric("overlaybd_proxy_layers_converted_total");
    assert_eq!(converted, Some(0), "{}", other.log());
}

#[test]
fn the_reference_builds_on_a_whole_chain_that_was_pushed_from_here() {
    let Some(bench) = Bench::start() else { return };
    let base = tar("etc/base", 1);
    let short = Image::gzip(&[base.clone(), tar("etc/a", 2)]).seal();
    let long = Image::gzip(&[base.clone(), tar("etc/a", 2), tar("etc/b", 3)]).seal();
    bench.registry.push("app", "1", &short);
    let data = tempfile::tempdir().unwrap();
    let proxy = bench.proxy(data.path(), &["--push"]);
    let ours = layer_digests(&proxy.converted("app", "1"));
    assert_eq!(bench.reference_build("app", &long), ours);
    // The row of an upper layer that the reference added stays, and nothing is put beside it.
    bench.plant("app", &chains(&long)[2], b"theirs, on top of ours");
    bench.registry.push("app", "2", &long);
    let all = layer_digests(&proxy.converted("app", "2"));
    assert_eq!(all[..2], ours[..]);
    assert_eq!(
        bench.reference_build("app", &long),
        [&ours[..], &[sha256(b"theirs, on top of ours")]].concat()
    );
}

#[test]
fn a_blob_that_the_registry_does_not_have_gets_no_row() {
    let Some(bench) = Bench::start() else { return };
    let sealed = Image::gzip(&[tar("etc/base", 1), tar("etc/a", 2)]).seal();
    bench.registry.push("app", "1", &sealed);
    let data = tempfile::tempdir().unwrap();
    let proxy = bench.proxy(data.path(), &[]);
    let known = proxy.converted("app", "1");
    assert_eq!(bench.rows(), 0);
    let manifests = bench.database.rows("SELECT * FROM overlaybd_manifests");
    assert_eq!(manifests.len(), 0);
    // Rows that an earlier version left there for its own blobs lead nowhere either.
    assert_eq!(bench.reference_build("app", &sealed), Vec::<String>::new());
    proxy.stop();
    // Pushed later, they are shared, without a conversion.
    let proxy = bench.proxy(data.path(), &["--push"]);
    assert_eq!(proxy.converted("app", "1"), known);
    let converted = proxy.metric("overlaybd_proxy_layers_converted_total");
    assert_eq!(converted, Some(0), "{}", proxy.log());
    assert_eq!(bench.reference_build("app", &sealed), layer_digests(&known));
}

#[test]
fn layers_of_the_reference_are_served_from_the_upstream_that_has_them() {
    let Some(bench) = Bench::start() else { return };
    let mut tars = golden_tars(2);
    tars.push(tar("etc/more", 4));
    let sealed = Image::gzip(&tars).seal();
    bench.registry.push("app", "1", &sealed);
    let theirs = [golden_blob(0), golden_blob(1)];
    for (chain, bytes) in chains(&sealed).iter().zip(&theirs) {
        bench.plant("app", chain, bytes);
    }
    let data = tempfile::tempdir().unwrap();
    let proxy = bench.proxy(data.path(), &["--trust-foreign-layers"]);
    let manifest = proxy.converted("app", "1");
    let layers = layer_digests(&manifest);
    assert_eq!(layers[..2], theirs.each_ref().map(|bytes| sha256(bytes)));
    for (digest, expected) in layers.iter().zip(&theirs) {
        let url = format!("{}/v2/app/blobs/{digest}", proxy.url());
        let whole = http::get(&url);
        assert_eq!(whole.status, 200, "{whole:?}\n{}", proxy.log());
        assert_eq!(sha256(&whole.body), *digest);
        let part = http::send("GET", &url, &[("range", "bytes=512-1023")], b"");
        assert_eq!(part.status, 206, "{part:?}");
        assert_eq!(part.body[..], expected[512..1024]);
    }
    let own = proxy.get(&format!("app/blobs/{}", layers[2]));
    assert_eq!(sha256(&own.body), layers[2]);
    // The whole of it reads as what the layers say.
    let scratch = tempfile::tempdir().unwrap();
    let paths: Vec<_> = [&theirs[0][..], &theirs[1], &own.body]
        .iter()
        .enumerate()
        .map(|(number, bytes)| {
            let path = scratch.path().join(number.to_string());
            std::fs::write(&path, bytes).unwrap();
            path
        })
        .collect();
    let raw = scratch.path().join("raw");
    support::verifier::disk(&paths, &raw);
    let shown = run(support::command("debugfs")
        .args(["-R", "cat /etc/more"])
        .arg(&raw));
    assert_eq!(shown.stdout, noise(4, 20_000));
    proxy.stop();
    // Asked again, by another process, and without the option: what is ours is found.
    let again = bench.proxy(data.path(), &["--trust-foreign-layers"]);
    assert_eq!(again.converted("app", "1"), manifest);
    let converted = again.metric("overlaybd_proxy_layers_converted_total");
    assert_eq!(converted, Some(0), "{}", again.log());
    again.stop();
    let strict = bench.proxy(data.path(), &[]);
    let ours = layer_digests(&strict.converted("app", "1"));
    assert!(ours.iter().all(|digest| !layers.contains(digest)));
}

#[test]
fn what_was_made_here_is_used_whether_foreign_layers_are_trusted_or_not() {
    let Some(bench) = Bench::start() else { return };
    let sealed = Image::gzip(&[tar("etc/base", 1), tar("etc/a", 2)]).seal();
    bench.registry.push("app", "1", &sealed);
    let data = tempfile::tempdir().unwrap();
    let mut known = None;
    for (more, converts) in [(&[][..], 2), (&["--trust-foreign-layers"], 0), (&[], 0)] {
        let proxy = bench.proxy(data.path(), more);
        let manifest = proxy.converted("app", "1");
        assert_eq!(*known.get_or_insert(manifest.clone()), manifest);
        let converted = proxy.metric("overlaybd_proxy_layers_converted_total");
        assert_eq!(converted, Some(converts), "{more:?}");
        proxy.stop();
    }
}

#[test]
fn a_blob_built_on_the_references_base_layer_is_not_used_as_a_bottom_layer() {
    if !support::have(&["mkfs.ext4", "debugfs"]) {
        return;
    }
    let Some(bench) = Bench::start() else { return };
    let sealed = Image::gzip(&[tar("etc/base", 1), tar("etc/a", 2)]).seal();
    bench.registry.push("app", "1", &sealed);
    // As `--mkfs=false` has it: the blob holds what was changed of a filesystem that is in
    // another blob.
    let scratch = tempfile::tempdir().unwrap();
    let (before, after) = (scratch.path().join("before"), scratch.path().join("after"));
    std::fs::File::create(&before)
        .unwrap()
        .set_len(1 << 30)
        .unwrap();
    run(Command::new(support::find("mkfs.ext4").unwrap())
        .args([
            "-q",
            "-F",
            "-O",
            "^has_journal,sparse_super,flex_bg",
            "-G",
            "1",
        ])
        .arg(&before));
    run(Command::new("cp")
        .args(["--sparse=always"])
        .arg(&before)
        .arg(&after));
    let file = scratch.path().join("file");
    std::fs::write(&file, noise(1, 20_000)).unwrap();
    let write = format!("write {} base", file.display());
    run(support::command("debugfs")
        .args(["-w", "-R", &write])
        .arg(&after));
    let chain = &chains(&sealed)[0];
    let changed = blob(1 << 30, &uuid(chain), "", &changed_blocks(&before, &after));
    bench.plant("app", chain, &changed);
    let data = tempfile::tempdir().unwrap();
    let proxy = bench.proxy(data.path(), &["--trust-foreign-layers"]);
    let layers = layer_digests(&proxy.converted("app", "1"));
    assert!(!layers.contains(&sha256(&changed)));
    assert!(proxy.log().contains("--mkfs=false"), "{}", proxy.log());
    // A whole one is taken.
    let empty = scratch.path().join("empty");
    std::fs::File::create(&empty)
        .unwrap()
        .set_len(1 << 30)
        .unwrap();
    let whole = blob(1 << 30, &uuid(chain), "", &changed_blocks(&empty, &after));
    bench.registry.push("whole", "1", &sealed);
    bench.plant("whole", chain, &whole);
    let data = tempfile::tempdir().unwrap();
    let proxy = bench.proxy(data.path(), &["--trust-foreign-layers"]);
    assert_eq!(
        layer_digests(&proxy.converted("whole", "1"))[0],
        sha256(&whole)
    );
}

#[test]
fn a_row_of_an_earlier_version_with_the_same_disk_is_replaced() {
    let Some(bench) = Bench::start() else { return };
    let base = tar("etc/base", 1);
    let sealed = Image::gzip(&[base, tar("etc/a", 2)]).seal();
    bench.registry.push("app", "1", &sealed);
    let chain = &chains(&sealed)[0];
    let blob = bench.bottom("app", "1");
    let old = bench.plant_earlier("app", chain, &blob);
    assert_ne!(old, sha256(&blob));
    let data = tempfile::tempdir().unwrap();
    let proxy = bench.proxy(data.path(), &["--push"]);
    let ours = layer_digests(&proxy.converted("app", "1"));
    assert_eq!(bench.reference_build("app", &sealed), ours);
    assert_eq!(bench.rows(), 2, "{}", proxy.log());
}

#[test]
fn a_row_of_an_earlier_version_with_another_disk_is_kept() {
    let Some(bench) = Bench::start() else { return };
    let base = tar("etc/base", 1);
    let short = Image::gzip(&[base.clone(), tar("etc/a", 2)]).seal();
    let long = Image::gzip(&[base, tar("etc/a", 2), tar("etc/b", 3)]).seal();
    bench.registry.push("app", "1", &long);
    // As if that version had unpacked the layer otherwise.
    bench
        .registry
        .push("other", "1", &Image::gzip(&[tar("etc/base", 9)]).seal());
    let chain = &chains(&short)[0];
    let other = with_uuid(&bench.bottom("other", "1"), chain);
    let old = bench.plant_earlier("app", chain, &other);
    // The reference built on it.
    bench.plant("app", &chains(&short)[1], b"theirs, on top of it");
    let data = tempfile::tempdir().unwrap();
    let proxy = bench.proxy(data.path(), &["--push"]);
    let ours = layer_digests(&proxy.converted("app", "1"));
    // What is served here is all of one piece, and so is what the reference goes on with.
    assert!(!ours.contains(&old));
    let built = bench.reference_build("app", &long);
    assert_eq!(built, [old, sha256(b"theirs, on top of it")]);
    assert!(proxy.log().contains("another disk"), "{}", proxy.log());
    let again = tempfile::tempdir().unwrap();
    let again = bench.proxy(again.path(), &["--push"]);
    assert_eq!(layer_digests(&again.converted("app", "1")), ours);
}

/// A bottom layer's blob again, for another chain.
fn with_uuid(bytes: &[u8], chain: &str) -> Vec<u8> {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("blob");
    std::fs::write(&path, bytes).unwrap();
    let raw = scratch.path().join("raw");
    support::verifier::disk(&[path], &raw);
    let empty = scratch.path().join("empty");
    std::fs::File::create(&empty)
        .unwrap()
        .set_len(1 << 30)
        .unwrap();
    blob(1 << 30, &uuid(chain), "", &changed_blocks(&empty, &raw))
}
