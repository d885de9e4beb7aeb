//! What becomes of errors.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use http::StatusCode;
use overlaybd_proxy::lazy::{ImageFilesystem, LayerPlace, OpenFile, Reading};

use crate::lazy::served::{Served, large, open_large, read};
use crate::support::proxy::program;
use crate::support::run;
use crate::support::until::until;

/// A megabyte from the middle of the large file.
const MIDDLE: u64 = 9 << 20;

fn read_middle(files: &ImageFilesystem, file: &OpenFile) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; 1 << 20];
    files.read(file, MIDDLE, &mut buffer)?;
    Ok(buffer)
}

fn middle() -> Vec<u8> {
    let start = usize::try_from(MIDDLE).unwrap();
    large()[start..start + (1 << 20)].to_vec()
}

#[test]
fn an_upstream_that_fails_for_a_while_is_asked_again() {
    let Some(served) = Served::start(1, false) else {
        return;
    };
    let reading = Reading {
        attempts: 20,
        ..Reading::default()
    };
    let (_disk, files) = served.files(reading);
    let file = open_large(&files);
    let before = served.gate.seen().len();
    served.gate.fail(Some(StatusCode::SERVICE_UNAVAILABLE));
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| read_middle(&files, &file));
        until("a second request", || {
            (served.gate.seen().len() > before + 1).then_some(())
        });
        served.gate.fail(None);
        assert!(reader.join().unwrap().unwrap() == middle());
    });
}

#[test]
fn what_is_denied_or_gone_is_an_error_at_once_and_for_now_only() {
    let Some(served) = Served::start(1, false) else {
        return;
    };
    let (_disk, files) = served.files(Reading::default());
    let file = open_large(&files);
    for status in [StatusCode::NOT_FOUND, StatusCode::FORBIDDEN] {
        let before = served.gate.seen().len();
        served.gate.fail(Some(status));
        let error = read_middle(&files, &file).unwrap_err().to_string();
        assert!(error.contains(&served.layer(0)), "{error}");
        assert_eq!(served.gate.seen().len(), before + 1, "{status}");
    }
    served.gate.fail(None);
    assert!(read_middle(&files, &file).unwrap() == middle());
}

#[test]
fn an_upstream_that_stands_still_is_an_error_in_the_end() {
    let Some(served) = Served::start(1, false) else {
        return;
    };
    let reading = Reading {
        timeout: Duration::from_millis(300),
        total: Duration::from_millis(900),
        ahead: 0,
        ..Reading::default()
    };
    let (disk, files) = served.files(reading);
    let file = open_large(&files);
    served.registry.freeze();
    let before = disk.traffic.requests();
    let error = read_middle(&files, &file).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
    assert!(error.to_string().contains("no answer within"), "{error}");
    assert!(disk.traffic.requests() > before + 1, "one attempt");
    served.registry.thaw();
    assert!(read_middle(&files, &file).unwrap() == middle());
}

#[test]
fn a_damaged_block_is_fetched_anew_and_named_if_it_stays_damaged() {
    let Some(served) = Served::start(1, false) else {
        return;
    };
    let (disk, files) = served.files(Reading::default());
    let file = open_large(&files);
    served.gate.damage_ranges(&served.layer(0), 1);
    assert!(read(&files, &file, 1 << 20).unwrap() == large());
    drop((disk, files));
    let (_disk, files) = served.files(Reading::default());
    served.gate.damage_ranges(&served.layer(0), usize::MAX);
    let error = read_middle(&files, &file).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
    let text = error.to_string();
    let names = text.contains(&format!("blob {}", served.layer(0)));
    assert!(names && text.contains("the CRC of block "), "{text}");
}

#[test]
fn an_image_is_opened_although_an_index_came_damaged() {
    for is_turbo in [false, true] {
        let Some(served) = Served::start(1, is_turbo) else {
            return;
        };
        // Both ends of the blob, or all of it: a small one is one request.
        let count = if is_turbo { 1 } else { 2 };
        served.gate.damage_ranges(&served.layer(0), count);
        let (_disk, files) = served.files(Reading::default());
        assert!(read(&files, &open_large(&files), 1 << 20).unwrap() == large());
    }
}

#[test]
fn a_read_in_a_runtime_that_has_ended_is_an_error() {
    let Some(mut served) = Served::start(1, false) else {
        return;
    };
    let (_disk, files) = served.files(Reading::default());
    let file = open_large(&files);
    let runtime = std::mem::replace(&mut served.runtime, tokio::runtime::Runtime::new().unwrap());
    let held = served.gate.hold("GET", &served.layer(0));
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| read_middle(&files, &file));
        held.wait();
        runtime.shutdown_background();
        let error = reader.join().unwrap().unwrap_err();
        assert!(error.to_string().contains("is ending"), "{error}");
    });
    let error = read_middle(&files, &file).unwrap_err();
    assert!(error.to_string().contains("is ending"), "{error}");
    held.release();
}

#[test]
fn a_size_in_the_manifest_that_is_not_true_costs_no_time() {
    let Some(served) = Served::start(1, false) else {
        return;
    };
    // It is no TurboOCI layer, which is found out at its beginning, and it is fetched anew.
    let mut places = served.places();
    let blob = (places[0].blob.0.clone(), 1 << 60);
    places[0] = LayerPlace {
        blob: blob.clone(),
        target: Some(blob),
    };
    let start = Instant::now();
    let error = served.try_open(places, Reading::default()).unwrap_err();
    assert!(error.to_string().contains("TurboOCI"), "{error}");
    let took = start.elapsed();
    assert!(took < Duration::from_secs(20), "{took:?}");
}

/// How `cat` of the large file ends.
fn cat(served: &Served, cache: &Path) -> (Option<i32>, String) {
    let mut command = program();
    command.args(["cat", &served.name(), "/data/large", "--cache-dir"]);
    let output = command.arg(cache).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), said)
}

#[test]
fn the_exit_status_says_whether_the_registry_or_the_image_is_at_fault() {
    let Some(served) = Served::start(1, false) else {
        return;
    };
    let (layer, scratch) = (served.layer(0), tempfile::tempdir().unwrap());
    let opened = scratch.path().join("opened");
    run(program()
        .args(["ls", &served.name(), "/data", "--cache-dir"])
        .arg(&opened));
    assert_eq!(cat(&served, scratch.path()).0, Some(0));
    // What opening takes is in the one cache, and not in the other.
    let caches = [opened, scratch.path().join("none")];
    let ends_with = |expected| {
        for cache in &caches {
            let (code, said) = cat(&served, cache);
            assert_eq!(code, Some(expected), "{said}");
        }
    };
    served.gate.fail_where(&layer, Some(StatusCode::NOT_FOUND));
    ends_with(4);
    served.gate.fail_where(&layer, None);
    served.gate.damage_ranges(&layer, usize::MAX);
    ends_with(3);
}
