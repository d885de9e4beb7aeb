//! Layers of the writers that images come from.

use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};

use overlaybd_proxy::format::gzip_index::{DEFAULT_SPAN, GzipError, MIN_SPAN};

use super::check::{check, golden, index, mixture, words};

/// What a program makes of standard input; `None`, and said so, where it is not installed.
fn through(program: &str, arguments: &[&str], input: &[u8]) -> Option<Vec<u8>> {
    let child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("SKIPPED: {program} is not installed");
            return None;
        }
        Err(error) => panic!("{program}: {error}"),
    };
    let mut stdin = child.stdin.take().unwrap();
    let output = std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(input).unwrap());
        child.wait_with_output().unwrap()
    });
    assert!(output.status.success(), "{program} {arguments:?}");
    Some(output.stdout)
}

#[test]
fn layers_of_real_writers_can_be_indexed() {
    let tar = mixture(5 << 20, 4);
    let levels = ["-1", "-2", "-3", "-4", "-5", "-6", "-7", "-8", "-9"];
    let mut writers: Vec<(&str, Vec<&str>)> =
        levels.iter().map(|level| ("gzip", vec![*level])).collect();
    writers.push(("gzip", vec!["--rsyncable"]));
    writers.push(("pigz", vec![]));
    writers.push(("pigz", vec!["-1"]));
    writers.push(("pigz", vec!["--rsyncable"]));
    writers.push(("pigz", vec!["--independent"]));
    writers.push(("igzip", vec!["-0"]));
    writers.push(("igzip", vec!["-3"]));
    writers.push(("libdeflate-gzip", vec!["-6"]));
    writers.push(("libdeflate-gzip", vec!["-12"]));
    for (program, arguments) in writers {
        if let Some(blob) = through(program, &arguments, &tar) {
            check(
                &format!("{program} {arguments:?}"),
                &blob,
                &tar,
                DEFAULT_SPAN,
            );
        }
    }
    // It reads files only, and takes its time.
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tar");
    std::fs::write(&path, &tar[..1 << 20]).unwrap();
    let arguments = ["-c", "--i1", path.to_str().unwrap()];
    if let Some(blob) = through("zopfli", &arguments, b"") {
        check("zopfli", &blob, &tar[..1 << 20], MIN_SPAN);
    }
}

/// What is kept of a writer that is not installed (`tests/golden/README.md`).
fn kept(name: &str) -> Vec<u8> {
    std::fs::read(golden(&format!("gzip/{name}.gz"))).unwrap()
}

#[test]
fn layers_of_go_s_writers_can_be_indexed() {
    let tar = words(600_000, 13);
    for name in [
        "go-1",
        "go-6",
        "klauspost-5",
        "klauspost-stateless",
        "pgzip",
    ] {
        let blob = kept(name);
        check(name, &blob, &tar, MIN_SPAN);
        let (_, indexed) = index(&blob, MIN_SPAN).unwrap();
        assert!(indexed.entries >= 3, "{name}: {} entries", indexed.entries);
    }
}

#[test]
fn layers_of_several_members_are_refused_where_the_second_begins() {
    for name in ["estargz", "bgzip", "mgzip"] {
        let blob = kept(name);
        let mut first = flate2::bufread::GzDecoder::new(&blob[..]);
        first.read_to_end(&mut Vec::new()).unwrap();
        let second = (blob.len() - first.into_inner().len()) as u64;
        let error = index(&blob, MIN_SPAN).unwrap_err();
        assert!(
            matches!(error, GzipError::MultipleMembers(at) if at == second),
            "{name}: {error}"
        );
        assert!(error.is_unsupported());
    }
}
