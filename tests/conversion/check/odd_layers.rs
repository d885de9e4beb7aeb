//! What odd layers come to, by containerd's own unpacking, and that a conversion of each is
//! held against the same.

use std::fs;
use std::path::Path;

use overlaybd_proxy::check::{Tree, What};

use super::command::{Layout, check, convert, differences, problems};
use super::shapes::{self, Shape};
use super::support::containerd::{Containerd, Snapshotter};
use super::support::image::{Flavour, Image, Packing};
use super::trees::*;

/// What is different from what containerd unpacked. Directories have the time of the unpacking
/// there, if nothing describes them or a higher layer changed what is in them.
fn different(model: &Tree, root: &Path) -> Vec<String> {
    let is_time_of_directory = |path: &[u8], what: &What| {
        let path = String::from_utf8_lossy(path);
        let path = root.join(path.trim_start_matches('/'));
        let is_directory = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir());
        is_directory && *what == What::Mtime
    };
    let differences = model.differences(&walk(root), 20);
    let real = differences
        .iter()
        .filter(|one| !is_time_of_directory(&one.path, &one.what));
    real.map(ToString::to_string).collect()
}

#[test]
fn odd_layers_equal_what_containerd_unpacks() {
    let Some(containerd) = Containerd::start() else {
        return;
    };
    let shapes: Vec<Shape> = [shapes::read_alike(), shapes::attributes(), shapes::names()].concat();
    let mut wrong = Vec::new();
    for (name, tars) in &shapes {
        let tars: Vec<&[u8]> = tars.iter().map(Vec::as_slice).collect();
        let packed: Vec<_> = tars.iter().map(|tar| (*tar, Packing::Plain)).collect();
        let image = Image::new(Flavour::Oci, &packed).seal();
        let unpacked = containerd.mount(&image, Snapshotter::Native).unwrap();
        let lines = different(&layers(&tars), unpacked.path());
        wrong.extend(lines.iter().map(|line| format!("{name}: {line}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Converts each image and checks the result against it.
fn assert_checked(shapes: &[Shape]) {
    let place = tempfile::tempdir().unwrap();
    let mut wrong = Vec::new();
    for (number, (name, tars)) in shapes.iter().enumerate() {
        let tars: Vec<&[u8]> = tars.iter().map(Vec::as_slice).collect();
        let source = Layout::new(&place.path().join(format!("source-{number}")));
        source.name("1", source.image("amd64", &tars));
        let target = format!("oci:{}:1", place.path().join(format!("{number}")).display());
        println!("{name}");
        convert(&source.at("1"), &target, &[]);
        let (report, code) = check(&[&target, "--source", &source.at("1")]);
        if code != 0 {
            let differences = differences(&report).join(", ");
            wrong.push(format!("{name}: {differences}{}", problems(&report)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_conversion_of_odd_layers_is_the_same() {
    assert_checked(&shapes::read_alike());
}

#[test]
fn a_conversion_of_odd_attributes_is_the_same() {
    assert_checked(&shapes::attributes());
}

#[test]
fn a_conversion_of_odd_names_and_sparse_maps_is_the_same() {
    assert_checked(&shapes::names());
}

/// The stacks in `tests/cases`, bottom first.
fn cases() -> Vec<Shape> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let mut files: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file() && path.extension().is_some_and(|end| end != "md"))
        .collect();
    files.sort();
    let mut stacks: Vec<Shape> = Vec::new();
    for file in files {
        let mut bytes = fs::read(&file).unwrap();
        if file.extension().is_some_and(|extension| extension == "gz") {
            let mut tar = Vec::new();
            let mut gzip = flate2::read::GzDecoder::new(bytes.as_slice());
            std::io::Read::read_to_end(&mut gzip, &mut tar).unwrap();
            bytes = tar;
        }
        let name = file.file_name().unwrap().to_str().unwrap();
        let name = name.split('.').next().unwrap();
        match stacks.last_mut() {
            Some((last, tars)) if *last == name => tars.push(bytes),
            _ => stacks.push((Box::leak(name.to_owned().into_boxed_str()), vec![bytes])),
        }
    }
    stacks
}

#[test]
fn a_conversion_of_each_small_input_is_the_same() {
    let cases = cases();
    assert!(cases.len() >= 10);
    assert_checked(&cases);
}
