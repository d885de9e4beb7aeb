//! `overlaybd-proxy check`, on images that `overlaybd-proxy convert` made, and on what
//! happened to them since.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use overlaybd_proxy::oci::Digest;
use serde_json::{Value, json};

use super::layers::layer;
use super::support::overlaybd::{self, build};
use super::trees::*;

pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A layout directory, written by hand.
pub struct Layout(PathBuf);

impl Layout {
    pub fn new(root: &Path) -> Self {
        fs::create_dir_all(root.join("blobs/sha256")).unwrap();
        fs::write(root.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        fs::write(
            root.join("index.json"),
            r#"{"schemaVersion":2,"manifests":[]}"#,
        )
        .unwrap();
        Self(root.to_owned())
    }

    /// One that another program makes.
    pub fn at_path(root: &Path) -> Self {
        Self(root.to_owned())
    }

    pub fn blob(&self, digest: &Digest) -> PathBuf {
        self.0.join("blobs/sha256").join(digest.hex())
    }

    pub fn put(&self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = Digest::of(bytes);
        fs::write(self.blob(&digest), bytes).unwrap();
        json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
    }

    pub fn name(&self, tag: &str, mut root: Value) {
        root["annotations"] = json!({"org.opencontainers.image.ref.name": tag});
        let path = self.0.join("index.json");
        let mut index: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let listed = index["manifests"].as_array_mut().unwrap();
        listed.retain(|entry| entry["annotations"] != root["annotations"]);
        listed.push(root);
        fs::write(&path, index.to_string()).unwrap();
    }

    /// The descriptor of an image of these tars.
    pub fn image(&self, architecture: &str, tars: &[&[u8]]) -> Value {
        let mut layers = Vec::new();
        for (number, tar) in tars.iter().enumerate() {
            let media_type = "application/vnd.oci.image.layer.v1.tar";
            layers.push(if number % 2 == 0 {
                let mut gzip =
                    flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                gzip.write_all(tar).unwrap();
                self.put(&format!("{media_type}+gzip"), &gzip.finish().unwrap())
            } else {
                self.put(media_type, tar)
            });
        }
        let diff_ids: Vec<Digest> = tars.iter().map(|tar| Digest::of(tar)).collect();
        let config = json!({
            "architecture": architecture, "os": "linux", "config": {"Env": ["A=b"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids}
        });
        let config = self.put(
            "application/vnd.oci.image.config.v1+json",
            config.to_string().as_bytes(),
        );
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers
        });
        self.put(MANIFEST, manifest.to_string().as_bytes())
    }

    pub fn read(&self, descriptor: &Value) -> Vec<u8> {
        let digest: Digest = descriptor["digest"].as_str().unwrap().parse().unwrap();
        fs::read(self.blob(&digest)).unwrap()
    }

    pub fn document(&self, descriptor: &Value) -> Value {
        serde_json::from_slice(&self.read(descriptor)).unwrap()
    }

    /// The descriptor that a tag leads to.
    pub fn named(&self, tag: &str) -> Value {
        let index: Value =
            serde_json::from_slice(&fs::read(self.0.join("index.json")).unwrap()).unwrap();
        let listed = index["manifests"].as_array().unwrap();
        let is_it =
            |entry: &&Value| entry["annotations"]["org.opencontainers.image.ref.name"] == *tag;
        listed.iter().find(is_it).unwrap().clone()
    }

    pub fn at(&self, tag: &str) -> String {
        format!("oci:{}:{tag}", self.0.display())
    }
}

pub fn program(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_overlaybd-proxy"))
        .current_dir(env!("CARGO_TARGET_TMPDIR"))
        .args(arguments)
        .output()
        .unwrap()
}

pub fn convert(from: &str, to: &str, more: &[&str]) {
    let output = program(&[&["convert", "--quiet", from, to], more].concat());
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    if let Some(layout) = to.strip_prefix("oci:") {
        let layout = layout.split(':').next().unwrap();
        assert!(overlaybd::assert_directory(Path::new(layout)) > 0);
    }
}

/// What a check reports, and how it ends.
pub fn check(arguments: &[&str]) -> (Value, i32) {
    let output = program(&[&["check", "--json"], arguments].concat());
    let code = output.status.code().unwrap();
    let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| {
        panic!("{code}: {}", String::from_utf8_lossy(&output.stderr));
    });
    (report, code)
}

/// `PATH: WHAT` of each difference.
pub fn differences(report: &Value) -> Vec<String> {
    let images = report["images"].as_array().unwrap().iter();
    let all = images.flat_map(|image| image["differences"].as_array().unwrap());
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    all.map(|one| format!("{}: {}", text(&one["path"]), text(&one["what"])))
        .collect()
}

/// All problems, one a line.
pub fn problems(report: &Value) -> String {
    let images = report["images"].as_array().unwrap().iter();
    let all = images.flat_map(|image| image["problems"].as_array().unwrap());
    let all = all.chain(report["problems"].as_array().unwrap());
    all.map(|problem| problem.as_str().unwrap())
        .collect::<Vec<_>>()
        .join("\n")
}

/// Packs all that is in a directory.
fn pack(root: &Path) -> Vec<u8> {
    let names = fs::read_dir(root).unwrap();
    let mut names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    let output = Command::new("tar")
        .args([
            "--format=pax",
            "--xattrs",
            "--xattrs-include=*",
            "--sort=name",
        ])
        .args(["-cf", "-", "-C", text(root), "--"])
        .args(names)
        .output()
        .unwrap();
    assert!(output.status.success());
    output.stdout
}

#[test]
fn a_converted_tree_is_the_same_and_each_change_is_detected() {
    if !is_root() || !has("tar") {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("root");
    everything(&root);
    let has_attributes = plain_attributes(&root);
    let source = Layout::new(&place.path().join("source"));
    let above = layer("file .wh.empty\ndir new\nfile new/file -> content\nhard zz2 -> big");
    source.name("true", source.image("amd64", &[&pack(&root), &above]));
    let target = Layout(place.path().join("target"));
    convert(&source.at("true"), &target.at("true_obd"), &[]);
    let (report, code) = check(&[&target.at("true_obd"), "--source", &source.at("true")]);
    assert_eq!(
        (differences(&report).as_slice(), code),
        (&[][..], 0),
        "{report:#}"
    );
    assert!(report["images"][0]["names"].as_u64().unwrap() > 20);

    // The image of a tree with one change, held against the tree without.
    let changed = |what: &str, change: &dyn Fn(&Path), expected: &[&str]| {
        let copy = place.path().join("copy");
        run("cp", &["-a", text(&root), text(&copy)]);
        change(&copy);
        source.name("other", source.image("amd64", &[&pack(&copy), &above]));
        convert(&source.at("other"), &target.at("other_obd"), &[]);
        let (report, code) = check(&[&target.at("other_obd"), "--source", &source.at("true")]);
        let mut found = differences(&report);
        // The times of directories that something was changed in are not the point.
        found.retain(|one| one != "/: mtime");
        assert_eq!(found, expected, "{what}");
        assert_eq!(code, 7, "{what}");
        fs::remove_dir_all(&copy).unwrap();
    };
    let keeping_time = |path: &Path, change: &dyn Fn()| {
        let time = filetime::FileTime::from_last_modification_time(&fs::metadata(path).unwrap());
        change();
        filetime::set_file_mtime(path, time).unwrap();
    };
    changed(
        "one byte",
        &|copy| {
            let path = copy.join("many-holes");
            keeping_time(&path, &|| {
                let mut bytes = fs::read(&path).unwrap();
                bytes[9000] ^= 1;
                fs::write(&path, bytes).unwrap();
            });
        },
        &["/many-holes: content"],
    );
    changed(
        "a mode",
        &|copy| {
            fs::set_permissions(copy.join("suid"), fs::Permissions::from_mode(0o4755)).unwrap();
        },
        &["/suid: mode"],
    );
    changed(
        "a nanosecond",
        &|copy| {
            let time = fs::metadata(copy.join("sparse")).unwrap();
            let time = filetime::FileTime::from_last_modification_time(&time);
            set_mtime(
                &copy.join("sparse"),
                time.unix_seconds(),
                time.nanoseconds() - 1,
            );
        },
        &["/sparse: mtime"],
    );
    changed(
        "a hard link that is a copy",
        &|copy| {
            run(
                "cp",
                &[
                    "-a",
                    text(&copy.join("link")),
                    text(&copy.join("link-too.new")),
                ],
            );
            fs::rename(copy.join("link-too.new"), copy.join("link-too")).unwrap();
        },
        &["/link-too: hard link"],
    );
    if has_attributes {
        changed(
            "an attribute",
            &|copy| xattr::remove(copy.join("suid"), "security.capability").unwrap(),
            &["/suid: xattr security.capability"],
        );
    }
}

/// A converted image in a layout, and its source in another.
fn converted(place: &Path) -> (Layout, Layout) {
    let source = Layout::new(&place.join("source"));
    let bottom = layer("dir d\nfile d/a -> some content\nfile b");
    let top = layer("file .wh.b\nfile d/c -> more");
    source.name("1", source.image("amd64", &[&bottom, &top]));
    let target = Layout(place.join("target"));
    convert(&source.at("1"), &target.at("1_obd"), &[]);
    (source, target)
}

#[test]
fn a_flipped_byte_is_detected_anywhere() {
    let place = tempfile::tempdir().unwrap();
    let (source, target) = converted(place.path());
    let image = target.document(&target.named("1_obd"));
    let layers = [
        image["layers"][0].clone(),
        image["layers"][1].clone(),
        image["config"].clone(),
    ];
    for descriptor in layers.iter().chain([&target.named("1_obd")]) {
        let digest: Digest = descriptor["digest"].as_str().unwrap().parse().unwrap();
        let whole = target.read(descriptor);
        for at in [whole.len() / 2, whole.len() - 2] {
            let mut bytes = whole.clone();
            bytes[at] ^= 4;
            fs::write(target.blob(&digest), bytes).unwrap();
            let output = program(&[
                "check",
                "--json",
                &target.at("1_obd"),
                "--source",
                &source.at("1"),
            ]);
            if descriptor["mediaType"] == MANIFEST {
                assert_eq!(output.status.code(), Some(4));
                continue;
            }
            assert_eq!(output.status.code(), Some(7));
            let report: Value = serde_json::from_slice(&output.stdout).unwrap();
            let found = problems(&report);
            assert!(
                found.contains(digest.as_str()) && found.contains("its bytes have"),
                "{found}"
            );
        }
        fs::write(target.blob(&digest), whole).unwrap();
    }
    // The source is verified too: a comparison with what it is not would say nothing.
    let layer = source.document(&source.named("1"))["layers"][0].clone();
    let mut bytes = source.read(&layer);
    bytes[30] ^= 1;
    let digest: Digest = layer["digest"].as_str().unwrap().parse().unwrap();
    fs::write(source.blob(&digest), bytes).unwrap();
    let (report, code) = check(&[&target.at("1_obd"), "--source", &source.at("1")]);
    assert_eq!(code, 7);
    assert!(problems(&report).contains("the source"), "{report:#}");
}

/// Puts a layer of the converted image in another's place, with all digests made to fit.
fn with_layers(target: &Layout, change: impl FnOnce(&mut Vec<Vec<u8>>)) {
    let mut image = target.document(&target.named("1_obd"));
    let mut config = target.document(&image["config"]);
    let layers = image["layers"].as_array().unwrap();
    let mut blobs: Vec<Vec<u8>> = layers.iter().map(|layer| target.read(layer)).collect();
    let annotations = layers[0]["annotations"].clone();
    change(&mut blobs);
    let media_type = "application/vnd.oci.image.layer.v1.tar";
    let layers: Vec<Value> = blobs
        .iter()
        .map(|blob| {
            let mut layer = target.put(media_type, blob);
            layer["annotations"] = annotations.clone();
            let prefix = "containerd.io/snapshot/overlaybd";
            layer["annotations"][format!("{prefix}/blob-digest")] = layer["digest"].clone();
            layer["annotations"][format!("{prefix}/blob-size")] = json!(blob.len().to_string());
            layer
        })
        .collect();
    config["rootfs"]["diff_ids"] = layers.iter().map(|layer| layer["digest"].clone()).collect();
    image["config"] = target.put(
        "application/vnd.oci.image.config.v1+json",
        config.to_string().as_bytes(),
    );
    image["layers"] = json!(layers);
    target.name("1_obd", target.put(MANIFEST, image.to_string().as_bytes()));
}

#[test]
fn a_wrong_block_checksum_is_detected_although_all_digests_match() {
    let place = tempfile::tempdir().unwrap();
    let (source, target) = converted(place.path());
    with_layers(&target, |blobs| {
        let middle = blobs[0].len() / 2;
        blobs[0][middle] ^= 1;
    });
    let (report, code) = check(&[&target.at("1_obd"), "--source", &source.at("1")]);
    assert_eq!(code, 7);
    assert!(problems(&report).contains("CRC"), "{report:#}");
    assert!(report["images"][0]["names"].is_null());
}

#[test]
fn a_layer_that_overlaybd_refuses_is_detected() {
    let place = tempfile::tempdir().unwrap();
    let source = Layout::new(&place.path().join("source"));
    let file = |byte: u8| {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(12_000);
        header.set_mode(0o644);
        let content = [byte; 12_000];
        tar.append_data(&mut header, "file", &content[..]).unwrap();
        tar.into_inner().unwrap()
    };
    // The zeros above hide what is below.
    source.name("1", source.image("amd64", &[&file(7), &file(0)]));
    let target = Layout(place.path().join("target"));
    convert(&source.at("1"), &target.at("1_obd"), &[]);
    let checked = || check(&[&target.at("1_obd"), "--source", &source.at("1")]);
    assert_eq!(checked().1, 0);
    with_layers(&target, |blobs| blobs[1] = build::version_1(&blobs[1]));
    let (report, code) = checked();
    assert_eq!(code, 7);
    let image = target.document(&target.named("1_obd"));
    let digest = image["layers"][1]["digest"].as_str().unwrap();
    let found = problems(&report);
    for part in [
        &format!("layer {digest}: overlaybd refuses it: mapping "),
        " zeros at 0",
        "convert the image again",
    ] {
        assert!(found.contains(part), "{part} is not in {found}");
    }
    assert_eq!(found.lines().count(), 1, "{found}");
    // What is in it can be read, and is what it should be.
    assert_eq!(report["images"][0]["names"], 1);
    assert_eq!(differences(&report), [""; 0]);
}

#[test]
fn layers_of_different_chains_are_detected() {
    let place = tempfile::tempdir().unwrap();
    let (source, target) = converted(place.path());
    with_layers(&target, |blobs| blobs.swap(0, 1));
    let (report, code) = check(&[&target.at("1_obd"), "--source", &source.at("1")]);
    assert_eq!(code, 7);
    assert!(problems(&report).contains("it was made upon"), "{report:#}");
}

#[test]
fn a_changed_config_is_detected() {
    let place = tempfile::tempdir().unwrap();
    let (source, target) = converted(place.path());
    let mut image = target.document(&target.named("1_obd"));
    let mut config = target.document(&image["config"]);
    config["config"]["Env"] = json!(["A=c"]);
    image["config"] = target.put(
        "application/vnd.oci.image.config.v1+json",
        config.to_string().as_bytes(),
    );
    target.name("1_obd", target.put(MANIFEST, image.to_string().as_bytes()));
    let (report, code) = check(&[&target.at("1_obd"), "--source", &source.at("1")]);
    assert_eq!(code, 7);
    assert!(problems(&report).contains("the config"), "{report:#}");
    assert_eq!(differences(&report), [""; 0]);
}

#[test]
fn the_source_is_found_by_the_tag_and_all_of_an_index_is_checked() {
    let place = tempfile::tempdir().unwrap();
    let layout = Layout::new(&place.path().join("both"));
    let images: Vec<Value> = [("amd64", "file a -> x"), ("arm64", "file b -> y")]
        .iter()
        .map(|(architecture, spec)| {
            let mut image = layout.image(architecture, &[&layer(spec)]);
            image["platform"] = json!({"os": "linux", "architecture": architecture});
            image
        })
        .collect();
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": images});
    layout.name("1", layout.put(INDEX, index.to_string().as_bytes()));
    convert(&layout.at("1"), &layout.at("1_obd"), &["--platform", "all"]);
    let (report, code) = check(&[&layout.at("1_obd")]);
    assert_eq!(code, 0, "{report:#}");
    assert_eq!(report["images"].as_array().unwrap().len(), 2);

    convert(
        &layout.at("1"),
        &layout.at("some_obd"),
        &["--platform", "linux/arm64"],
    );
    let (report, code) = check(&[&layout.at("some_obd"), "--source", &layout.at("1")]);
    assert_eq!(code, 0, "{report:#}");
    assert_eq!(report["images"].as_array().unwrap().len(), 1);
    assert_eq!(report["kept"], json!([images[0]["digest"]]));
    let (report, code) = check(&[&layout.at("1_obd"), "--platform", "all"]);
    assert_eq!((report["images"].as_array().unwrap().len(), code), (2, 0));
    let only = ["--platform", "linux/amd64"];
    let (report, code) = check(&[&[layout.at("1_obd").as_str()], &only[..]].concat());
    assert_eq!(
        (report["images"][0]["platform"].as_str(), code),
        (Some("linux/amd64"), 0)
    );
}

#[test]
fn an_image_that_cannot_be_checked_is_an_error_with_a_remedy() {
    let place = tempfile::tempdir().unwrap();
    let (source, target) = converted(place.path());
    let said = |arguments: &[&str], code| {
        let output = program(&[&["check"], arguments].concat());
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{said}");
        said
    };
    let digest = target.named("1_obd")["digest"].as_str().unwrap().to_owned();
    let by_digest = format!("oci:{}@{digest}", target.0.display());
    assert!(said(&[&by_digest], 2).contains("--source"));
    assert!(said(&[&target.at("1_obd")], 4).contains("not found"));
    // An image that was never converted, held against itself.
    let output = program(&["check", &source.at("1"), "--source", &source.at("1")]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(7));
    assert!(text.contains("not in overlaybd format"), "{text}");
}
