//! Trees through the mount equal those of the kernel's own ext4, to the last field of `stat`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::mount::{Mount, can_mount};
use crate::support::everything::{Extent, plant};
use crate::support::image::{Flavour, Image, Packing};
use crate::support::proxy::Proxy;
use crate::support::pulled::Pulled;
use crate::support::registry::Registry;
use crate::support::tar::{self, Entry, Tar};
use crate::support::turbo::Turbo;
use crate::support::walk::Tree;
use crate::support::{command, run, verifier};

/// Everything that `stat` shows, of all names below `root`; the root's inode is another.
fn listing(root: &Path) -> Vec<String> {
    let format = "%P\\t%y\\t%m\\t%U\\t%G\\t%s\\t%b\\t%n\\t%T@\\t%C@\\t%A@\\t%i\\t%l\\0";
    let listed = run(command("find")
        .arg(root)
        .args(["-mindepth", "1", "-printf", format]));
    let lines = listed.stdout.split(|byte| *byte == 0);
    let mut lines: Vec<_> = lines.map(|line| line.escape_ascii().to_string()).collect();
    lines.sort();
    lines
}

/// The tar that GNU tar makes of a tree, by its digest.
fn packed(root: &Path) -> String {
    let tar = run(command("tar")
        // In PAX form the names of sparse files have the process's number; attributes come in the
        // disk's order by the kernel and sorted by us.
        .args(["--create", "--sort=name", "--numeric-owner", "--format=gnu"])
        .args(["--sparse", "-C"])
        .arg(root)
        .arg("."));
    crate::support::sha256(&tar.stdout)
}

fn everything(scratch: &Path) -> Vec<u8> {
    let root = scratch.join("tree");
    plant(&root, Extent::Full);
    let file = scratch.join("layer.tar");
    run(command("tar")
        .args([
            "--create",
            "--numeric-owner",
            "--format=posix",
            "--xattrs",
            "--xattrs-include=*",
        ])
        .args(["--acls", "--sparse", "--file"])
        .arg(&file)
        .arg("-C")
        .arg(&root)
        .arg("."));
    fs::read(&file).unwrap()
}

/// A second layer that removes, replaces and adds.
fn changes() -> Vec<u8> {
    Tar::new()
        .file(".wh.file-511", "")
        .file("file-4097", "replaced: the other names of the file stay")
        .file("many/.wh.a-name-of-some-length-7", "")
        .entry(Entry::new(tar::CHAR, "late").device(1, 5))
        .hard("late-link", "file-512")
        .finish()
}

#[test]
fn an_image_with_everything_is_mounted_as_the_kernel_mounts_it() {
    if !can_mount() || !crate::support::have(&["tar", "mknod", "setfacl"]) {
        return;
    }
    let Some(registry) = Registry::start() else {
        return;
    };
    let scratch = tempfile::tempdir().unwrap();
    let tars = [everything(scratch.path()), changes()];
    let layers: Vec<_> = tars.iter().map(|tar| (&tar[..], Packing::Gzip)).collect();
    registry.push("demo", "1", &Image::new(Flavour::Oci, &layers).seal());
    let proxy = Proxy::start(&registry.url(), &scratch.path().join("data"), &[]);
    let (at, loop_at) = (scratch.path().join("fuse"), scratch.path().join("loop"));
    let none = BTreeSet::new();

    let pulled = Pulled::into_layout(&proxy, "demo", "1_obd", &scratch.path().join("out"));
    let raw = scratch.path().join("raw");
    verifier::disk(&pulled.layers, &raw);
    verifier::e2fsck(&raw).unwrap();
    let kernel = verifier::Mount::new(&raw, &loop_at);
    let expected = Tree::of(kernel.path());
    assert!(expected.0.len() > 3000, "{} names", expected.0.len());

    let image = proxy.image("demo", "1_obd");
    let layout = format!("oci:{}:1_obd", scratch.path().join("out").display());
    let files: Vec<_> = pulled
        .layers
        .iter()
        .map(|path| path.to_str().unwrap())
        .collect();
    for what in [&[image.as_str()][..], &[layout.as_str()], &files] {
        let mount = Mount::start(what, &at);
        let shown = what.join(" ");
        Tree::of(&at).assert_is(&expected, &none, &shown);
        assert_eq!(listing(&at), listing(&loop_at), "{shown}");
        assert_eq!(packed(&at), packed(&loop_at), "{shown}");
        let log = mount.stop();
        assert!(!log.contains("WARN") && !log.contains("ERROR"), "{log}");
    }
    drop(kernel);

    // The other form, of the same layers.
    let answer = proxy.get("demo/manifests/1_turbo");
    assert_eq!(answer.header("overlaybd-outcome"), Some("converted"));
    let turbo = Turbo::of(&proxy, "demo", &answer.json(), |digest| {
        registry.blob_path(digest)
    });
    let expected = turbo.tree().unwrap();
    let mount = Mount::start(&[proxy.image("demo", "1_turbo")], &at);
    Tree::of(&at).assert_is(&expected, &none, "TurboOCI");
    mount.stop();
}

#[test]
fn the_platform_that_is_named_is_mounted() {
    if !can_mount() {
        return;
    }
    let Some(registry) = Registry::start() else {
        return;
    };
    let entries = [("amd64", "one"), ("riscv64", "another")].map(|(architecture, content)| {
        let tar = Tar::new().file("which", content).finish();
        let image = Image::gzip(&[tar]).platform("linux", architecture).seal();
        registry.push("demo", architecture, &image);
        image.entry("linux", architecture)
    });
    let index = crate::support::image::index(Flavour::Oci, &entries);
    registry.push_manifest("demo", "1", &index.media_type, &index.bytes);
    let scratch = tempfile::tempdir().unwrap();
    let proxy = Proxy::start(
        &registry.url(),
        &scratch.path().join("data"),
        &["--platform", "all"],
    );
    let at = scratch.path().join("at");
    for (platform, content) in [("linux/amd64", "one"), ("linux/riscv64", "another")] {
        let image = proxy.image("demo", "1_obd");
        let mount = Mount::start(&["--platform", platform, &image], &at);
        assert_eq!(fs::read_to_string(at.join("which")).unwrap(), content);
        mount.stop();
    }
}
