//! One layer, as GNU tar and bsdtar unpack it.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::support::*;

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
            "--acls",
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
        assert_same(&walk(root), &model);
    }
    assert_same(&walk(&unpacked), &model);
}

const EVERYTHING: [&str; 5] = [
    "tar",
    "--format=pax",
    "--xattrs",
    "--xattrs-include=*",
    "--acls",
];

#[test]
fn a_layer_is_what_gnu_tar_makes_of_it() {
    if !is_root() || !has("tar") {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("root");
    everything(&root);
    attributes(&root);
    let again = root.join("empty");
    set_mtime(&again, -77, 5);
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
fn a_layer_is_what_it_is_by_other_packers() {
    if !is_root() || !has("bsdtar") {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("root");
    everything(&root);
    let file = place.path().join("layer.tar");
    attributes(&root);
    run(
        "bsdtar",
        &[
            "--format=pax",
            "--xattrs",
            "--acls",
            "-cf",
            text(&file),
            "-C",
            text(&root),
            ".",
        ],
    );
    assert_same(&walk(&root), &layers(&[&fs::read(&file).unwrap()]));
}
