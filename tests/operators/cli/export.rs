//! `export`, on blobs that the reference's tools wrote and on images of our own.

use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::support::image::{Flavour, Image, index};
use super::support::layout::Layout;
use super::{Demo, bad, golden, good, ran};

const GOLDEN_DISK: &str = "de4c4ef41fb5c528d21add2fe4fdf1fdcd8537fa744cadfa6bbc772600e17912";

fn sha256(path: &Path) -> String {
    use sha2::Digest as _;
    let mut file = std::fs::File::open(path).unwrap();
    let (mut hasher, mut buffer) = (sha2::Sha256::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer).unwrap() {
            0 => return super::support::hex(&hasher.finalize()),
            n => hasher.update(&buffer[..n]),
        }
    }
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn the_reference_s_blobs_make_their_disk_sparse_and_readable() {
    for set in ["lz4-4", "lz4-64", "zstd-16"] {
        let directory = tempfile::tempdir().unwrap();
        let raw = directory.path().join("disk.raw");
        let blobs = golden(set);
        let out = good(&[
            "export",
            &blobs[0],
            &blobs[1],
            &blobs[2],
            "--output",
            raw.to_str().unwrap(),
        ]);
        assert!(out.contains("1.00 GiB"), "{out}");
        assert_eq!(sha256(&raw), GOLDEN_DISK, "{set}");
        let metadata = std::fs::metadata(&raw).unwrap();
        assert_eq!(metadata.len(), 1 << 30);
        assert!(
            metadata.blocks() * 512 < 16 << 20,
            "{} blocks",
            metadata.blocks()
        );
        assert_eq!(metadata.mode() & 0o400, 0o400);
        assert_eq!(names(directory.path()), ["disk.raw"]);
    }
}

#[test]
fn the_order_of_blobs_decides_the_disk() {
    let directory = tempfile::tempdir().unwrap();
    let raw = directory.path().join("disk.raw");
    let blobs = golden("lz4-4");
    good(&["export", &blobs[0], &blobs[1], "-o", raw.to_str().unwrap()]);
    assert_ne!(sha256(&raw), GOLDEN_DISK);
}

#[test]
fn a_file_that_is_there_is_overwritten_only_by_force() {
    let directory = tempfile::tempdir().unwrap();
    let raw = directory.path().join("disk.raw");
    std::fs::write(&raw, "precious").unwrap();
    let (name, blobs) = (raw.display().to_string(), golden("lz4-4"));
    let error = bad(2, &["export", &blobs[0], "-o", &name]);
    assert!(error.contains("--force"), "{error}");
    assert_eq!(std::fs::read(&raw).unwrap(), b"precious");
    good(&[
        "export", &blobs[0], &blobs[1], &blobs[2], "-o", &name, "--force",
    ]);
    assert_eq!(sha256(&raw), GOLDEN_DISK);
    bad(
        2,
        &[
            "export",
            &blobs[0],
            "-o",
            directory.path().to_str().unwrap(),
            "--force",
        ],
    );
}

#[test]
fn a_directory_that_is_not_there_is_named_as_it_was_given() {
    let error = bad(1, &["export", &golden("lz4-4")[0], "-o", "/nowhere/x.raw"]);
    assert!(error.contains("--output /nowhere/x.raw"), "{error}");
    assert!(error.contains("No such file or directory"), "{error}");
    assert!(!error.contains("overlaybd-export"), "{error}");
}

#[test]
fn a_platform_that_an_image_is_not_there_for_is_the_images_fault() {
    let demo = Demo::new(&["1"]);
    let layout = Layout::open(&demo.directory.path().join("source"));
    let image = Image::gzip(&[]).platform("linux", "amd64").seal();
    layout.store(&image);
    layout.tag("2", &index(Flavour::Oci, &[image.entry("linux", "amd64")]));
    let raw = demo.path("disk.raw");
    let way = ["export", "--platform", "linux/riscv64", "-o", &raw];
    let error = bad(3, &[&way[..], &[&demo.source("2")]].concat());
    assert!(
        error.contains("there is no image for linux/riscv64"),
        "{error}"
    );
}

#[test]
fn a_damaged_block_leaves_no_file() {
    let directory = tempfile::tempdir().unwrap();
    let blob = directory.path().join("damaged.obd");
    let mut bytes = std::fs::read(&golden("lz4-4")[0]).unwrap();
    bytes[40_000] ^= 1;
    std::fs::write(&blob, bytes).unwrap();
    let raw = directory.path().join("disk.raw");
    let ran = ran(&[
        "export",
        blob.to_str().unwrap(),
        "-o",
        raw.to_str().unwrap(),
    ]);
    assert_ne!(ran.code, 0, "{ran:?}");
    assert_eq!(names(directory.path()), ["damaged.obd"]);
}

#[test]
fn blobs_mixed_with_images_and_unconverted_images_are_errors() {
    let demo = Demo::new(&["1"]);
    let raw = demo.path("disk.raw");
    let error = bad(
        2,
        &["export", &golden("lz4-4")[0], &demo.source("1"), "-o", &raw],
    );
    assert!(
        error.contains("either one image or only blob files"),
        "{error}"
    );
    let error = bad(3, &["export", &demo.source("1"), "-o", &raw]);
    assert!(error.contains("convert it first"), "{error}");
    assert!(!Path::new(&raw).exists());
}

/// The files of an image's layers, which was converted into `out`.
fn blobs(demo: &Demo, image: &str) -> Vec<String> {
    let report: serde_json::Value =
        serde_json::from_str(&good(&["inspect", "--json", image])).unwrap();
    let layers = report["layers"].as_array().unwrap().iter();
    layers
        .map(|layer| layer["digest"].as_str().unwrap().replace("sha256:", ""))
        .map(|hex| demo.path(&format!("out/blobs/sha256/{hex}")))
        .collect()
}

#[test]
fn an_image_and_its_blobs_export_the_same_disk() {
    let demo = Demo::new(&["1"]);
    let out = format!("oci:{}:1_obd", demo.path("out"));
    good(&["convert", "-q", "--vsize", "64MiB", &demo.source("1"), &out]);
    let (of_image, of_blobs) = (demo.path("image.raw"), demo.path("blobs.raw"));
    good(&["export", &out, "-o", &of_image]);
    let blobs = blobs(&demo, &out);
    good(&["export", &blobs[0], &blobs[1], "-o", &of_blobs]);
    assert_eq!(std::fs::metadata(&of_image).unwrap().len(), 64 << 20);
    assert_eq!(sha256(Path::new(&of_image)), sha256(Path::new(&of_blobs)));
}

#[test]
fn blobs_of_different_chains_are_refused() {
    let demo = Demo::new(&["1"]);
    let out = format!("oci:{}:1", demo.path("out"));
    good(&["convert", "-q", "--vsize", "64MiB", &demo.source("1"), &out]);
    let blobs = blobs(&demo, &out);
    let raw = demo.path("disk.raw");
    for blobs in [&[blobs[1].as_str()][..], &[&blobs[1], &blobs[0]]] {
        let error = bad(2, &[&["export", "-o", &raw], blobs].concat());
        assert!(error.contains("from the bottom up"), "{error}");
        assert!(!Path::new(&raw).exists());
    }
    good(&["export", "-o", &raw, &blobs[0], &blobs[1]]);
}

#[test]
fn a_disk_is_not_written_to_standard_output_and_json_reports_its_size() {
    let blob = &golden("lz4-4")[0];
    for output in [&["-o", "-"][..], &["--output=-"]] {
        let error = bad(2, &[&["export", blob], output].concat());
        assert!(error.contains("name a file"), "{error}");
    }
    let directory = tempfile::tempdir().unwrap();
    let raw = directory.path().join("disk.raw").display().to_string();
    let done: serde_json::Value =
        serde_json::from_str(&good(&["export", "--json", blob, "-o", &raw])).unwrap();
    assert_eq!(done["output"], raw);
    assert_eq!(done["disk_bytes"], 1 << 30);
    assert!(done["data_bytes"].as_u64().unwrap() > 0);
}
