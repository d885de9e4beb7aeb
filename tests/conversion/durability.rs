//! What is on the disk, and when: a blob before its name, its name before a row, and no more syncs
//! than that takes.

use crate::support;
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::image::Image;
use support::layout::Layout;
use support::noise;
use support::proxy::{program, rows};
use support::tar::Tar;
use support::traced::{self, Call};

/// A layout with an image of so many small layers.
struct Bench {
    scratch: tempfile::TempDir,
    layout: Layout,
}

impl Bench {
    fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let layout = Layout::create(&scratch.path().join("layout"));
        Self { scratch, layout }
    }

    fn add(&self, tag: &str, layers: u64) {
        let seed = |layer| {
            tag.bytes()
                .fold(layer, |sum, byte| sum * 31 + u64::from(byte))
        };
        let tars: Vec<_> = (0..layers)
            .map(|layer| {
                let name = format!("file-{layer}");
                Tar::new().file(&name, noise(seed(layer), 5000)).finish()
            })
            .collect();
        self.layout.add(tag, &Image::gzip(&tars).seal());
    }

    fn data(&self) -> PathBuf {
        self.scratch.path().join("data")
    }

    /// Converts an image into the data directory.
    fn convert(&self, tag: &str) -> Command {
        let mut convert = program();
        let image = format!("oci:{}:{tag}", self.layout.path().display());
        convert.args(["convert", "-q", "--no-upload", "--data-dir"]);
        convert.arg(self.data()).arg(image);
        convert
    }

    /// As [`Bench::convert`], traced; it must succeed.
    #[track_caller]
    fn traced(&self, tag: &str, more: &[&str]) -> Vec<Call> {
        let (output, calls) = traced::run(&self.convert(tag), more);
        assert!(output.status.success(), "{output:?}");
        calls
    }
}

/// The syncs of a file or directory.
fn syncs<'a>(calls: &'a [Call], path: &Path) -> impl Iterator<Item = &'a Call> + use<'a> {
    let path = path.to_owned();
    let is_it = move |call: &&Call| call.is_sync() && Path::new(&call.path) == path;
    calls.iter().filter(is_it)
}

/// The renames of files to blobs' names.
fn placed<'a>(calls: &'a [Call], data: &'a Path) -> Vec<&'a Call> {
    let blobs = data.join("blobs");
    let is_placed = |call: &&Call| Path::new(&call.to).starts_with(&blobs);
    calls.iter().filter(is_placed).collect()
}

fn log_of(data: &Path) -> PathBuf {
    data.join("index.sqlite-wal")
}

#[test]
fn a_blob_and_its_directories_are_on_the_disk_before_a_row_that_an_answer_rests_on() {
    if !traced::can_trace() {
        return;
    }
    let bench = Bench::new();
    bench.add("one", 3);
    let data = bench.data();
    let calls = bench.traced("one", &[]);
    let placed = placed(&calls, &data);
    // Three layers, a config and a manifest.
    assert_eq!(placed.len(), 5, "{calls:#?}");
    let recorded = syncs(&calls, &log_of(&data)).last().unwrap();
    for rename in &placed {
        let file = Path::new(&rename.path);
        let mut before = syncs(&calls, file);
        assert!(before.any(|sync| sync.end < rename.begin), "{rename:?}");
        let mut directory = Path::new(&rename.to).parent().unwrap();
        while directory != data.parent().unwrap() {
            let is_after = |sync: &Call| sync.begin > rename.end && sync.end < recorded.begin;
            let is_shard = Path::new(&rename.to).parent() == Some(directory);
            // Those above are synced once for all that is in them.
            let is_synced = syncs(&calls, directory)
                .any(|sync| sync.end < recorded.begin && (!is_shard || is_after(sync)));
            assert!(is_synced, "{} {rename:?}\n{calls:#?}", directory.display());
            directory = directory.parent().unwrap();
        }
    }
}

#[test]
fn a_directory_that_a_process_left_unsynced_is_synced_by_the_next_one() {
    if !traced::can_trace() {
        return;
    }
    let bench = Bench::new();
    bench.add("one", 1);
    bench.add("other", 1);
    let data = bench.data();
    let parent = data.join("blobs/sha256");
    let made = bench.convert("other").output().unwrap();
    assert!(made.status.success(), "{made:?}");
    for shard in 0..=255 {
        let _ = fs::remove_dir(parent.join(format!("{shard:02x}")));
    }

    // The disk refuses the sync of the new directories' parent: nothing rests on what is in them.
    let chains = rows(&data, "overlaybd_proxy_chains");
    let at = parent.to_str().unwrap();
    let refusing = ["-P", at, "-e", "inject=fsync:error=EIO"];
    let (refused, calls) = traced::run(&bench.convert("one"), &refusing);
    assert!(!refused.status.success(), "{refused:?}");
    assert!(syncs(&calls, &parent).next().is_some(), "{calls:#?}");
    assert_eq!(rows(&data, "overlaybd_proxy_chains"), chains);

    // As if each directory had been left like that.
    for shard in 0..=255 {
        let _ = fs::create_dir(parent.join(format!("{shard:02x}")));
    }
    let calls = bench.traced("one", &[]);
    let recorded = syncs(&calls, &log_of(&data)).last().unwrap();
    let is_synced = syncs(&calls, &parent).any(|sync| sync.end < recorded.begin);
    assert!(is_synced, "{calls:#?}");
    // Once for all of them.
    assert!(syncs(&calls, &parent).count() <= 2, "{calls:#?}");
}

#[test]
fn the_layers_of_an_image_are_synced_at_one_time() {
    if !traced::can_trace() {
        return;
    }
    let bench = Bench::new();
    bench.add("many", 12);
    let data = bench.data();
    // A disk on which each sync takes 30 ms.
    let slow = ["-e", "inject=fsync:delay_enter=30000"];
    let calls = bench.traced("many", &slow);
    // The documents are the last two, and synced together in any case.
    let names: HashMap<&str, usize> = placed(&calls, &data)
        .iter()
        .enumerate()
        .map(|(number, rename)| (rename.path.as_str(), number))
        .collect();
    assert_eq!(names.len(), 14, "{calls:#?}");
    let layers: Vec<_> = calls
        .iter()
        .filter(|call| call.is_sync() && names.contains_key(call.path.as_str()))
        .collect();
    let together = |call: &Call| {
        let open = |other: &&&Call| other.begin <= call.begin && call.begin < other.end;
        layers[..layers.len() - 3].iter().filter(open).count()
    };
    let most = layers[..layers.len() - 3]
        .iter()
        .map(|call| together(call))
        .max();
    assert!(most >= Some(2) && most <= Some(5), "{most:?}\n{calls:#?}");
}

#[test]
fn the_rows_of_layers_take_no_syncs_of_their_own() {
    if !traced::can_trace() {
        return;
    }
    let bench = Bench::new();
    // The first makes the tables.
    bench.add("first", 1);
    bench.add("few", 1);
    bench.add("many", 9);
    bench.traced("first", &[]);
    let data = bench.data();
    let [few, many] = ["few", "many"].map(|tag| {
        let calls = bench.traced(tag, &[]);
        syncs(&calls, &log_of(&data)).count()
    });
    // One for the image; SQLite has one more for the log's header and for what it does at the end. A
    // layer has two rows.
    for syncs in [few, many] {
        assert!((1..=3).contains(&syncs), "{few} {many}");
    }
}

#[test]
fn a_pin_and_its_directory_are_on_the_disk_before_it_is_said() {
    if !traced::can_trace() {
        return;
    }
    let bench = Bench::new();
    bench.add("one", 1);
    bench.traced("one", &[]);
    let data = bench.data();
    let blobs = support::proxy::blobs(&data);
    let name = blobs[0].file_name().unwrap().to_str().unwrap();
    // Twice: one that is replaced is on the disk as the first is.
    for _ in 0..2 {
        let mut pin = program();
        pin.args(["cache", "pin", &format!("sha256:{name}"), "--data-dir"]);
        let (output, calls) = traced::run(pin.arg(&data), &[]);
        assert!(output.status.success(), "{output:?}");
        let pinned = data.join("pinned");
        let rename = calls
            .iter()
            .find(|call| Path::new(&call.to).starts_with(&pinned));
        let rename = rename.unwrap_or_else(|| panic!("{calls:#?}"));
        let mut before = syncs(&calls, Path::new(&rename.path));
        assert!(before.any(|sync| sync.end < rename.begin), "{calls:#?}");
        for directory in [&pinned, &data] {
            let mut after = syncs(&calls, directory);
            assert!(after.any(|sync| sync.begin > rename.end), "{calls:#?}");
        }
    }
}
