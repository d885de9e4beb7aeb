//! Paths that cannot be used: an error names the option that each came from.

use std::os::unix::fs::PermissionsExt as _;

use super::support::image::Image;
use super::support::layout::Layout;
use super::support::tar::Tar;
use super::support::{command, have, is_root, noise};
use super::{Demo, bad, finish, golden, program};

/// Below a file there is no directory, whoever asks.
fn below_a_file(demo: &Demo) -> String {
    let file = demo.path("file");
    std::fs::write(&file, "").unwrap();
    format!("{file}/x")
}

#[test]
fn a_data_directory_that_cannot_be_used_is_named_as_it_was_set() {
    let demo = Demo::new(&["1"]);
    let (place, source) = (below_a_file(&demo), demo.source("1"));
    let upstream = format!("oci:{}", demo.path("source"));
    let out = format!("oci:{}:1", demo.path("out"));
    let commands: [&[&str]; 3] = [
        &["serve", "--listen", "127.0.0.1:0"],
        &["warm", "--upstream", &upstream, "layout:1"],
        &["convert", &source, &out],
    ];
    for command in commands {
        let error = bad(1, &[command, &["--data-dir", &place]].concat());
        let named = format!("the data directory {place} (--data-dir)");
        assert!(error.contains(&named), "{command:?}: {error}");
        assert!(error.contains("Not a directory"), "{command:?}: {error}");
        let mut by_environment = program(command);
        by_environment.env("OVERLAYBD_PROXY_DATA_DIR", &place);
        let ran = finish(by_environment);
        let named = format!("the data directory {place} (OVERLAYBD_PROXY_DATA_DIR)");
        assert!(ran.code == 1 && ran.err.contains(&named), "{ran:?}");
    }
    let config = demo.path("config.toml");
    std::fs::write(&config, format!("data-dir = '{place}'\n")).unwrap();
    let error = bad(1, &["--config", &config, "serve", "--listen=127.0.0.1:0"]);
    let named = format!("the data directory {place} (`data-dir` in {config})");
    assert!(error.contains(&named), "{error}");
}

#[test]
fn other_paths_are_named_with_their_options() {
    let demo = Demo::new(&["1"]);
    let (place, source) = (below_a_file(&demo), demo.source("1"));
    let blob = &golden("lz4-4")[0];
    for (arguments, named) in [
        (&["export", blob, "--output", &place][..], "--output"),
        (&["man", "--dir", &place], "--dir"),
        (&["warm", "--file", &place], "--file"),
        (
            &["convert", "--no-upload", "--dir", &place, &source],
            "--dir",
        ),
        (
            &["cold-start", "--record", &place, &source, "--", "true"],
            "--record",
        ),
    ] {
        let error = bad(1, arguments);
        assert!(error.contains(named), "{arguments:?}: {error}");
        assert!(error.contains("Not a directory"), "{arguments:?}: {error}");
    }
}

#[test]
fn a_directory_that_may_not_be_read_is_not_said_to_be_missing() {
    if !is_root("another user") || !have(&["setpriv"]) {
        return;
    }
    let demo = Demo::new(&["1"]);
    let locked = demo.path("locked");
    let below = format!("{locked}/x");
    std::fs::create_dir_all(&below).unwrap();
    let mode = |bits| std::fs::Permissions::from_mode(bits);
    std::fs::set_permissions(demo.directory.path(), mode(0o755)).unwrap();
    std::fs::set_permissions(&locked, mode(0o700)).unwrap();
    for (arguments, named) in [
        (&["config", "check", "-q", "--hosts-dir"][..], "--hosts-dir"),
        (&["store", "verify", "--data-dir"], "--data-dir"),
        (
            &["config", "check", "-q", "--tls-client-ca"],
            "--tls-client-ca",
        ),
    ] {
        let root = program(arguments);
        let mut other = command("setpriv");
        other.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
        // The program itself is opened before.
        other
            .arg("/proc/self/fd/0")
            .args(root.get_args())
            .arg(&below);
        other.stdin(std::fs::File::open(root.get_program()).unwrap());
        let ran = finish(other);
        assert_eq!(ran.code, 2, "{arguments:?}: {ran:?}");
        let part = format!("{named}: {below} cannot be read: Permission denied");
        assert!(ran.err.contains(&part), "{arguments:?}: {}", ran.err);
    }
}

#[test]
fn what_the_system_says_is_printed_once() {
    let demo = Demo::new(&["1"]);
    let data = demo.path("data");
    // A file that is there, and whose beginning nobody can read.
    let memory = "/proc/self/mem";
    for arguments in [
        &["warm", "--file", memory][..],
        &["--config", memory, "config", "check", "--quiet"],
        // A database that is not there, of which the client's library says so in each of its layers.
        &[
            "serve",
            "--data-dir",
            &data,
            "--listen=127.0.0.1:0",
            "--dbstr=u:p@tcp(127.0.0.1:1)/x",
        ],
    ] {
        let ran = super::ran(arguments);
        assert_ne!(ran.code, 0, "{arguments:?}: {ran:?}");
        let said = ran.err.matches("Input/output error").count();
        assert_eq!(said, 1, "{arguments:?}: {}", ran.err);
    }
}

#[test]
fn sizes_are_printed_in_the_units_that_people_use() {
    let demo = Demo::new(&["1"]);
    let out = format!("oci:{}:1", demo.path("out"));
    let (source, data) = (demo.source("1"), demo.path("data"));
    let error = bad(2, &["convert", &source, &out, "--vsize", "4KiB"]);
    assert!(error.contains("a disk of 4.00 KiB"), "{error}");
    let tar = Tar::new().file("file", noise(2, 3 << 20)).finish();
    let layout = Layout::open(&demo.directory.path().join("source"));
    layout.add("large", &Image::gzip(&[tar]).seal());
    let (large, way) = (demo.source("large"), ["--data-dir", &data]);
    let error = bad(
        3,
        &[&["convert", &large, &out, "--vsize=2MiB"], &way[..]].concat(),
    );
    assert!(error.contains("the disk of 2.00 MiB is full"), "{error}");
    let limit = "--max-layer-size=1MiB";
    let error = bad(3, &[&["convert", &large, &out, limit], &way[..]].concat());
    assert!(error.contains("inflates to over 1.00 MiB"), "{error}");
    // One of a thing is not several.
    let ran = super::ran(&[&["convert", &large, &out], &way[..]].concat());
    assert!(ran.code == 0 && ran.err.contains("1 layer:"), "{}", ran.err);
    assert!(!ran.err.contains("1 layers"), "{}", ran.err);
}
