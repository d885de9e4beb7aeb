//! One layer, as GNU tar and bsdtar unpack it.

use std::fs;
use std::path::Path;
use std::process::Command;

use overlaybd_proxy::check::Tree;

use super::trees::*;

/// Packs a tree, unpacks it elsewhere, and sees that the model says the same, of the
/// unpacked tree and, where the format loses nothing, of the tree itself.
fn round(root: &Path, pack: &[&str], loses: bool) {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("layer.tar");
    let (program, options) = pack.split_first().unwrap();
    let output = Command::new(program)
        .args(options)
        .args(["-cf", text(&file), "-C", text(root), "."])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{pack:?}: {said}");
    let unpacked = place.path().join("unpacked");
    fs::create_dir(&unpacked).unwrap();
    run(
        "tar",
        &[
            "--xattrs",
            "--xattrs-include=*",
            "--numeric-owner",
            "--same-owner",
            "-p",
            "-xf",
            text(&file),
            "-C",
            text(&unpacked),
        ],
    );
    let model = layers(&[&fs::read(&file).unwrap()]);
    assert!(model.len() > 20, "{pack:?}");
    println!("{pack:?}");
    if !loses {
        assert_same_below(&walk(root), &model);
    }
    assert_same_below(&walk(&unpacked), &model);
}

/// Fails with what is different but for the root, of which layers keep nothing.
fn assert_same_below(expected: &Tree, found: &Tree) {
    let differences = expected.differences(found, 20);
    let below = differences.iter().filter(|one| one.path != b"/");
    let lines: Vec<String> = below.map(ToString::to_string).collect();
    assert!(lines.is_empty(), "{}", lines.join("\n"));
}

const EVERYTHING: [&str; 4] = ["tar", "--format=pax", "--xattrs", "--xattrs-include=*"];

#[test]
fn a_layer_equals_what_gnu_tar_extracts() {
    if !is_root() || !has("tar") {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("root");
    everything(&root);
    plain_attributes(&root);
    round(&root, &EVERYTHING, false);
    for version in ["0.0", "0.1", "1.0"] {
        let version = format!("--sparse-version={version}");
        round(
            &root,
            &[&EVERYTHING[..], &["--sparse", &version]].concat(),
            false,
        );
    }
    round(&root, &["tar", "--format=gnu"], true);
    round(&root, &["tar", "--format=gnu", "--sparse"], true);
    round(&root, &["tar", "--format=oldgnu", "--sparse"], true);
}

#[test]
fn layers_of_other_packers_equal_the_packed_tree() {
    if !is_root() || !has("bsdtar") {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("root");
    everything(&root);
    let file = place.path().join("layer.tar");
    plain_attributes(&root);
    run(
        "bsdtar",
        &[
            "--format=pax",
            "--xattrs",
            "-cf",
            text(&file),
            "-C",
            text(&root),
            ".",
        ],
    );
    assert_same_below(&walk(&root), &layers(&[&fs::read(&file).unwrap()]));
}
