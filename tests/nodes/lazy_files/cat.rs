//! `cat`, and how little of an image it fetches.

use super::support::gate::Gate;
use super::support::registry::Registry;
use super::support::tar::Tar;
use super::support::{noise, sha256};
use super::{Demo, bad, good, ran};

#[test]
fn cat_prints_files_through_links_that_do_not_leave_the_image() {
    let demo = Demo::odd();
    let image = demo.image();
    let all = good(&[
        "cat",
        &image,
        "/etc/name",
        "usr/absolute",
        "lib/up",
        "../../../etc/name",
        "lib/../../etc/./name",
    ]);
    assert_eq!(all, "one\n".repeat(4) + "one\n");
    let data = ran(&["cat", &image, "/usr/lib/again"]);
    assert_eq!(sha256(&data.out), sha256(&noise(7, 200_000)));
    let holes = ran(&["cat", &image, "/lib/holes"]).out;
    assert_eq!(holes.len(), 300_000);
    assert_eq!(&holes[200_000..200_010], b"0123456789");
    assert_eq!(holes.iter().filter(|byte| **byte != 0).count(), 10);
    for (path, part) in [
        ("/etc", "is a directory"),
        ("/dev/null", "no regular file"),
        ("/nowhere", "not in the image"),
        ("/circle", "symbolic links"),
        ("/tmp/gone", "not in the image"),
        ("/etc/name/", "no directory"),
    ] {
        let error = bad(1, &["cat", &image, path]);
        assert!(error.contains(part), "{path}: {error}");
    }
}

#[test]
fn cat_of_a_small_file_fetches_a_few_pieces_of_large_layers() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let mut tars: Vec<_> = (0..3)
        .map(|n| {
            Tar::new()
                .file(&format!("big{n}"), noise(n, 6 << 20))
                .finish()
        })
        .collect();
    let release = "NAME=demo\n".repeat(20);
    tars.insert(
        1,
        Tar::new()
            .dir("etc")
            .file("etc/os-release", &release)
            .finish(),
    );
    let demo = Demo::new(&tars);
    let pushed = format!("{}/demo:1_obd", registry.address());
    let source = format!("oci:{}:1", demo.path("source").display());
    good(&["convert", "-q", "--vsize", "64MiB", &source, &pushed]);
    let gate = Gate::before(registry.address());
    let image = format!("{}/demo:1_obd", gate.url().replace("http://", ""));
    assert_eq!(good(&["cat", &image, "/etc/os-release"]), release);
    let requests = gate.seen();
    let ranges: Vec<_> = requests
        .iter()
        .filter(|request| request.starts_with("GET") && request.contains("/blobs/"))
        .collect();
    let whole = ranges
        .iter()
        .filter(|range| !range.contains("bytes="))
        .count();
    assert_eq!(whole, 0, "{requests:#?}");
    // Head and tail of each layer, then metadata and the file's data.
    assert!(ranges.len() <= 4 * 2 + 6, "{}: {ranges:#?}", ranges.len());
}
