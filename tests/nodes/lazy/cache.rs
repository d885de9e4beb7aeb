//! The cache on the disk.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use filetime::FileTime;
use http::StatusCode;
use overlaybd_proxy::lazy::{DiskCache, Reading};

use crate::lazy::served::{Served, files_in, large, open_large, read, usage};
use crate::support::gate::Gate;
use crate::support::proxy::program;
use crate::support::{is_root, run};

fn cached(directory: &Path, limit: u64) -> Reading {
    Reading {
        attempts: 1,
        cache: Some(DiskCache::open(directory, limit).unwrap()),
        ..Reading::default()
    }
}

fn ls(served: &Served, cache: &Path, more: &[&str]) -> Command {
    let mut command = program();
    command.args(["ls", &served.name(), "--cache-dir"]);
    command.arg(cache).args(more);
    command.env("RUST_BACKTRACE", "0");
    command
}

fn ranges(served: &Served) -> usize {
    served.gate.count("GET", "/blobs/")
}

#[test]
fn a_second_process_asks_for_no_part_of_a_blob_again() {
    let Some(served) = Served::start(3, false) else {
        return;
    };
    let cache = tempfile::tempdir().unwrap();
    let cache = cache.path().join("made/here");
    let first = run(&mut ls(&served, &cache, &[]));
    assert!(String::from_utf8_lossy(&first.stdout).contains("etc"));
    let asked = ranges(&served);
    assert!(asked > 0);
    let second = run(&mut ls(&served, &cache, &[]));
    assert_eq!(second.stdout, first.stdout);
    assert_eq!(ranges(&served), asked);
    // Nobody else's.
    for file in files_in(&cache) {
        assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o600, "{file:?}");
    }
    let blobs = std::fs::read_dir(cache.join("pieces-v1")).unwrap();
    let blobs = blobs.map(|entry| entry.unwrap().path());
    for directory in blobs.filter(|path| path.is_dir()) {
        assert_eq!(directory.metadata().unwrap().mode() & 0o777, 0o700);
    }
    // And with nothing kept there are requests again.
    run(&mut ls(&served, &cache, &["--cache-size", "0"]));
    assert_eq!(ranges(&served), 2 * asked);
}

#[test]
fn what_is_kept_is_read_without_the_server() {
    let Some(served) = Served::start(2, false) else {
        return;
    };
    let cache = tempfile::tempdir().unwrap();
    {
        let (_disk, files) = served.files(cached(cache.path(), 1 << 30));
        assert!(read(&files, &open_large(&files), 1 << 20).unwrap() == large());
    }
    served.gate.fail(Some(StatusCode::SERVICE_UNAVAILABLE));
    let (disk, files) = served.files(cached(cache.path(), 1 << 30));
    assert!(read(&files, &open_large(&files), 128 << 10).unwrap() == large());
    assert_eq!(disk.traffic.requests(), 0);
    assert!(disk.traffic.from_disk() > large().len() as u64);
}

#[test]
fn what_one_registry_sent_is_not_read_in_an_image_of_another() {
    let Some(mut served) = Served::start(1, false) else {
        return;
    };
    let cache = tempfile::tempdir().unwrap();
    {
        let (_disk, files) = served.files(cached(cache.path(), 1 << 30));
        assert!(read(&files, &open_large(&files), 1 << 20).unwrap() == large());
    }
    let first = std::mem::replace(&mut served.gate, Gate::before(served.registry.address()));
    {
        let (disk, files) = served.files(cached(cache.path(), 1 << 30));
        assert!(read(&files, &open_large(&files), 1 << 20).unwrap() == large());
        assert_eq!(disk.traffic.from_disk(), 0);
    }
    served.gate = first;
    let (disk, files) = served.files(cached(cache.path(), 1 << 30));
    assert!(read(&files, &open_large(&files), 1 << 20).unwrap() == large());
    assert_eq!(disk.traffic.requests(), 0);
}

#[test]
fn a_cache_keeps_to_its_size_and_drops_what_was_not_read_for_longest() {
    let Some(served) = Served::start(2, false) else {
        return;
    };
    let cache = tempfile::tempdir().unwrap();
    let limit = 4 << 20;
    let (first, files) = served.files(cached(cache.path(), limit));
    drop((first, files));
    // All of it is old, until opening reads it again.
    let old = files_in(cache.path());
    let age = |file: &Path| {
        filetime::set_file_mtime(file, FileTime::from_unix_time(1_000_000, 0)).unwrap();
    };
    for file in &old {
        age(file);
    }
    let reading = Reading {
        ahead: 0,
        ..cached(cache.path(), limit)
    };
    let (disk, files) = served.files(reading);
    assert_eq!(disk.traffic.requests(), 0);
    let is_fresh = |file: &&PathBuf| file.metadata().unwrap().mtime() > 1_000_000;
    let read: Vec<_> = old.iter().filter(is_fresh).collect();
    assert!(read.len() >= 4, "{old:?}");
    age(read[0]);
    // More than there is room for.
    let file = open_large(&files);
    let mut buffer = vec![0; 1 << 20];
    for at in 0..4 {
        files.read(&file, at << 20, &mut buffer).unwrap();
    }
    drop((disk, files));
    assert!(!read[0].exists(), "the oldest is there");
    let (bytes, count) = usage(cache.path());
    assert!(bytes <= limit && count >= 8, "{count} files, {bytes} bytes");
}

#[test]
fn processes_that_share_a_cache_keep_to_its_size_together() {
    let Some(served) = Served::start(6, false) else {
        return;
    };
    let cache = tempfile::tempdir().unwrap();
    let children: Vec<_> = (0..4)
        .map(|_| {
            ls(&served, cache.path(), &["--cache-size", "1MiB"])
                .stdout(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        assert!(String::from_utf8_lossy(&output.stdout).contains("etc"));
    }
    let (bytes, count) = usage(cache.path());
    assert!(
        bytes <= 1 << 20 && count > 0,
        "{count} files, {bytes} bytes"
    );
}

#[test]
fn a_damaged_piece_is_never_read() {
    let Some(served) = Served::start(2, false) else {
        return;
    };
    let cache = tempfile::tempdir().unwrap();
    {
        let (_disk, files) = served.files(cached(cache.path(), 1 << 30));
        assert!(read(&files, &open_large(&files), 1 << 20).unwrap() == large());
    }
    let files_before = files_in(cache.path());
    for (number, file) in files_before.iter().enumerate() {
        let mut bytes = std::fs::read(file).unwrap();
        let middle = bytes.len() / 2;
        match number % 3 {
            0 => bytes[middle] ^= 1,
            1 => bytes.truncate(middle),
            // As after a power cut: as long as it was, and empty.
            _ => bytes.fill(0),
        }
        std::fs::write(file, bytes).unwrap();
    }
    let (disk, files) = served.files(cached(cache.path(), 1 << 30));
    assert!(read(&files, &open_large(&files), 1 << 20).unwrap() == large());
    assert!(disk.traffic.requests() > 0);
    assert_eq!(disk.traffic.from_disk(), 0);
}

#[test]
fn what_came_damaged_does_not_stay_in_the_cache() {
    let Some(served) = Served::start(1, false) else {
        return;
    };
    let cache = tempfile::tempdir().unwrap();
    // Both ends of the blob: what came damaged is fetched anew once.
    served.gate.damage_ranges(&served.layer(0), 2);
    {
        let (_disk, files) = served.files(cached(cache.path(), 1 << 30));
        assert!(read(&files, &open_large(&files), 1 << 20).unwrap() == large());
    }
    served.gate.fail(Some(StatusCode::SERVICE_UNAVAILABLE));
    let (_disk, files) = served.files(cached(cache.path(), 1 << 30));
    assert!(read(&files, &open_large(&files), 1 << 20).unwrap() == large());
}

/// How many warnings of the cache a command that works made.
fn warnings(command: &mut Command) -> usize {
    let output = run(command);
    assert!(String::from_utf8_lossy(&output.stdout).contains("etc"));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    said.matches("kept on the disk").count()
}

#[test]
fn without_a_place_to_write_reading_works_and_says_so_once() {
    let Some(served) = Served::start(4, false) else {
        return;
    };
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("file");
    std::fs::write(&file, "").unwrap();
    assert_eq!(warnings(&mut ls(&served, &file, &[])), 1);
    if !is_root("other users' directories and small disks") {
        return;
    }
    let foreign = scratch.path().join("foreign");
    std::fs::create_dir_all(foreign.join("pieces-v1")).unwrap();
    std::os::unix::fs::chown(foreign.join("pieces-v1"), Some(65_534), None).unwrap();
    assert_eq!(warnings(&mut ls(&served, &foreign, &[])), 1);
    assert_eq!(usage(&foreign).1, 0);
    let small = scratch.path().join("small");
    std::fs::create_dir(&small).unwrap();
    run(Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=300k", "tmpfs"])
        .arg(&small));
    let full = warnings(&mut ls(&served, &small, &[]));
    run(Command::new("mount").args(["-o", "remount,ro"]).arg(&small));
    let read_only = warnings(&mut ls(&served, &small, &[]));
    run(Command::new("umount").arg(&small));
    assert_eq!((full, read_only), (1, 1));
}

#[test]
fn a_directory_that_others_can_read_is_closed_to_them() {
    let scratch = tempfile::tempdir().unwrap();
    let pieces = scratch.path().join("pieces-v1");
    std::fs::create_dir(&pieces).unwrap();
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(&pieces, open).unwrap();
    DiskCache::open(scratch.path(), 1 << 20).unwrap();
    assert_eq!(pieces.metadata().unwrap().mode() & 0o777, 0o700);
}
