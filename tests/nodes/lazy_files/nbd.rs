//! `nbd`, read by the clients that Debian has, and compared with the exported disk.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::client::Server;
use super::support::process::Process;
use super::support::{have, run};
use super::{Demo, bad, command, printed};

#[track_caller]
fn assert_same(one: &Path, other: &Path) {
    run(Command::new("cmp").arg(one).arg(other));
}

/// Bytes that are data, in whole blocks of 4 KiB, neighbours joined.
fn joined(ranges: impl IntoIterator<Item = (u64, u64)>) -> Vec<(u64, u64)> {
    let mut joined: Vec<(u64, u64)> = Vec::new();
    for (start, length) in ranges {
        let (start, end) = (start / 4096 * 4096, (start + length).next_multiple_of(4096));
        match joined.last_mut() {
            Some(last) if last.1 >= start => last.1 = end.max(last.1),
            _ => joined.push((start, end)),
        }
    }
    joined
}

/// What the system says of a sparse file.
fn data_of(file: &Path) -> Vec<(u64, u64)> {
    let file = file.to_str().unwrap();
    let map = printed(
        Path::new("/"),
        "qemu-img",
        &["map", "-f", "raw", "--output=json", file],
    );
    ranges(&map, "start", |extent| extent["data"] == true)
}

fn ranges(json: &str, start: &str, is_data: impl Fn(&Value) -> bool) -> Vec<(u64, u64)> {
    let extents: Vec<Value> = serde_json::from_str(json).unwrap();
    let data = extents.iter().filter(|extent| is_data(extent));
    joined(data.map(|extent| {
        let number = |key: &str| extent[key].as_u64().unwrap();
        (number(start), number("length"))
    }))
}

#[test]
fn qemu_reads_the_exported_disk_and_knows_its_holes() {
    if !have(&["qemu-img", "cmp"]) {
        return;
    }
    let demo = Demo::odd();
    let raw = demo.raw();
    let server = Server::start(&[&demo.image()]);
    let (uri, here) = (server.uri(), demo.directory.path());
    let compared = [
        "compare",
        "-f",
        "raw",
        "-F",
        "raw",
        &uri,
        raw.to_str().unwrap(),
    ];
    assert!(printed(here, "qemu-img", &compared).contains("identical"));
    printed(
        here,
        "qemu-img",
        &["convert", "-f", "raw", "-O", "raw", &uri, "copy.raw"],
    );
    assert_same(&raw, &here.join("copy.raw"));
    let map = printed(
        here,
        "qemu-img",
        &["map", "-f", "raw", "--output=json", &uri],
    );
    let served = ranges(&map, "start", |extent| extent["data"] == true);
    assert!(served.len() > 2, "{map}");
    assert_eq!(served, data_of(&raw));
}

#[test]
fn libnbd_reads_the_exported_disk_over_many_connections_and_knows_its_holes() {
    if !have(&["nbdinfo", "nbdcopy", "cmp"]) {
        return;
    }
    let demo = Demo::odd();
    let raw = demo.raw();
    let server = Server::start(&[&demo.image()]);
    let (uri, here) = (server.uri(), demo.directory.path());
    for more in [
        &["--connections=16"][..],
        &["--synchronous"],
        &["--request-size=33554432"],
    ] {
        let copy = here.join("copy.raw");
        let _ = fs::remove_file(&copy);
        let arguments = [more, &[&uri, copy.to_str().unwrap()]].concat();
        printed(here, "nbdcopy", &arguments);
        assert_same(&raw, &copy);
    }
    let map = printed(here, "nbdinfo", &["--map", "--json", &uri]);
    let served = ranges(&map, "offset", |extent| extent["type"] == 0);
    assert_eq!(served, data_of(&raw));
    let info: Value = serde_json::from_str(&printed(here, "nbdinfo", &["--json", &uri])).unwrap();
    let export = &info["exports"][0];
    assert_eq!(info["protocol"], "newstyle-fixed");
    assert_eq!(info["structured"], true);
    assert_eq!(export["export-size"], 64 << 20);
    assert_eq!(export["is_read_only"], true);
    assert_eq!(export["can_multi_conn"], true);
    assert_eq!(export["can_df"], true);
    assert_eq!(export["can_cache"], true);
    assert_eq!(export["contexts"], serde_json::json!(["base:allocation"]));
    assert_eq!(export["block_size_maximum"], 32 << 20);
    let list = printed(here, "nbdinfo", &["--list", "--json", &uri]);
    assert!(list.contains("1_obd"), "{list}");
}

#[test]
fn nbdkit_reads_the_disk_through_an_address() {
    if !have(&["nbdkit", "nbdcopy", "cmp"]) {
        return;
    }
    let demo = Demo::odd();
    let raw = demo.raw();
    let mut serving = command(&["nbd", &demo.image(), "--tcp", "127.0.0.1:0"]);
    serving.env("OVERLAYBD_PROXY_LISTEN", "0.0.0.0:1");
    let mut process = Process::start(serving, &demo.path("log"));
    let uri = process.wait_for("listening on ");
    assert!(uri.starts_with("nbd://127.0.0.1:"), "{uri}");
    let copy = demo.path("copy.raw");
    let through = format!("nbdcopy \"$uri\" {}", copy.display());
    let arguments = ["-U", "-", "nbd", &format!("uri={uri}"), "--run", &through];
    printed(demo.directory.path(), "nbdkit", &arguments);
    assert_same(&raw, &copy);
    for address in ["0.0.0.0:10809", "192.0.2.1:1", "[::]:1"] {
        let error = bad(2, &["nbd", &demo.image(), "--tcp", address]);
        assert!(error.contains("can be reached from elsewhere"), "{error}");
    }
}

#[test]
fn the_socket_is_its_owner_s_and_goes_with_the_server() {
    let demo = Demo::odd();
    let mut server = Server::start(&[&demo.image()]);
    let socket = server.socket.clone();
    let mode = fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let name = socket.to_str().unwrap();
    let error = bad(1, &["nbd", &demo.image(), "--socket", name]);
    assert!(error.contains("another process listens there"), "{error}");
    // With a client in the middle of it.
    let mut client = server.connect();
    client.go();
    assert!(server.process.stop().success());
    client.end();
    assert!(!socket.exists());
    // One that a process left is replaced, and no other file.
    drop(UnixListener::bind(&socket).unwrap());
    let mut command = command(&["nbd", &demo.image(), "--socket", name]);
    command.current_dir(demo.directory.path());
    let mut process = Process::start(command, &demo.path("log"));
    process.wait_for("listening on ");
    assert!(fs::metadata(&socket).unwrap().file_type().is_socket());
    assert!(process.stop().success());
    fs::write(&socket, "precious").unwrap();
    let error = bad(1, &["nbd", &demo.image(), "--socket", name]);
    assert!(error.contains("no socket"), "{error}");
    assert_eq!(fs::read(&socket).unwrap(), b"precious");
    bad(2, &["nbd", &demo.image()]);
    bad(
        2,
        &[
            "nbd",
            &demo.image(),
            "--socket",
            name,
            "--tcp",
            "127.0.0.1:0",
        ],
    );
}

#[test]
fn a_damaged_block_is_an_error_of_its_reads_alone() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/lz4-4");
    let directory = tempfile::tempdir().unwrap();
    let blob = directory.path().join("damaged.obd");
    let mut bytes = fs::read(root.join("0.obd")).unwrap();
    bytes[40_000] ^= 1;
    fs::write(&blob, bytes).unwrap();
    let server = Server::start(&[blob.to_str().unwrap()]);
    let mut client = server.connect();
    client.go();
    let (mut failed, mut read, step) = (0, 0, 1 << 20);
    for part in 0..1024_u32 {
        client.request(0, 0, part.into(), u64::from(part) * step, 1 << 20);
        match client.error(part.into()) {
            0 => read += 1,
            5 => failed += 1,
            error => panic!("error {error}"),
        }
    }
    assert!(
        failed > 0 && read > 900,
        "{failed} failed, {read} were read"
    );
}
