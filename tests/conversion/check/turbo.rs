//! `overlaybd-proxy check` of TurboOCI images, and of what happened to them since.

use std::fs;
use std::path::Path;

use overlaybd_proxy::oci::Digest;
use serde_json::{Value, json};

use super::command::{Layout, convert, differences, problems};
use super::support::tar::{Entry, FIFO, FILE, SYMLINK, Tar};
use super::support::{self, noise};
use super::turbo_image::*;

/// Text that compresses to half, in blocks that begin at any bit.
fn text(seed: u64, len: usize) -> Vec<u8> {
    let letters = noise(seed, len).into_iter().map(|byte| b'a' + byte % 16);
    letters.collect()
}

/// One layer with a point every MiB.
fn large() -> Vec<u8> {
    Tar::new()
        .dir("data/")
        .file("data/first", text(1, 1_500_000))
        .file("data/second", text(2, 2_500_001))
        .file("data/small", "small")
        .finish()
}

/// A layer without file data to speak of.
fn small() -> Vec<u8> {
    Tar::new()
        .dir("etc/")
        .file("etc/one", noise(3, 10_000))
        .file("etc/two", noise(4, 20_000))
        .finish()
}

/// What GNU tar makes of files with holes.
fn sparse() -> Option<Vec<u8>> {
    if !support::have(&["tar"]) {
        return None;
    }
    let place = tempfile::tempdir().unwrap();
    let file = fs::File::create(place.path().join("sparse")).unwrap();
    for (at, length) in [(0, 5000), (20_480, 8192), (40_000, 100), (65_536, 8193)] {
        std::os::unix::fs::FileExt::write_all_at(&file, &noise(20, length), at).unwrap();
    }
    file.set_len(100_001).unwrap();
    let mut gnu_tar = support::command("tar");
    gnu_tar.args(["--create", "--sparse", "--format=posix", "--file=-"]);
    gnu_tar.arg("--directory").arg(place.path()).arg("sparse");
    Some(support::run(&mut gnu_tar).stdout)
}

#[track_caller]
fn assert_same((report, code): (Value, i32)) {
    assert_eq!(problems(&report), "", "{report:#}");
    assert_eq!(differences(&report), [""; 0], "{report:#}");
    assert_eq!(code, 0, "{report:#}");
    assert!(report["images"][0]["names"].as_u64().unwrap() > 0);
}

/// Asserts that the changed image has this problem.
#[track_caller]
fn assert_wrong(pair: &Pair, what: &str, expected: &str) {
    let (report, code) = pair.check("changed");
    let found = problems(&report);
    assert!(found.contains(expected), "{what}: {found}");
    assert_eq!(code, 7, "{what}");
}

#[test]
fn a_turbo_image_of_any_layers_is_the_same() {
    let mut tars = vec![
        (large(), Some(3)),
        (
            Tar::new()
                .file("data/second", text(5, 1_200_000))
                .file("data/empty", "")
                .file("data/zeros", vec![0; 200_000])
                .hard("data/again", "data/first")
                .finish(),
            None,
        ),
        (
            Tar::new()
                .file("data/.wh.second", "")
                .file("data/new", text(6, 1_300_000))
                .soft("link", &"long/".repeat(40))
                .dir("opaque/")
                .finish(),
            Some(9),
        ),
        (Tar::new().finish(), Some(1)),
        (Tar::new().finish(), Some(1)),
    ];
    tars.extend(sparse().map(|tar| (tar, Some(6))));
    for inline in ["0", "4KiB"] {
        let pair = Pair::new(&tars, &["--turbo-inline", inline]);
        assert_same(pair.check("turbo"));
        let index = pair.files(0).index();
        assert!(index.points.len() > 2);
    }
}

#[test]
fn a_source_without_a_name_is_found_by_the_turbo_tag() {
    let pair = Pair::new(&[(small(), Some(6))], &[]);
    pair.layout.name("1_turbo", pair.layout.named("turbo"));
    assert_same(super::command::check(&[&pair.layout.at("1_turbo")]));
}

#[test]
fn a_turbo_image_of_the_reference_tools_differs_in_what_they_are_known_for() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let read = |name: String| fs::read(golden.join(name)).unwrap();
    let place = tempfile::tempdir().unwrap();
    let layout = Layout::new(place.path());
    let (mut source, mut turbo) = (Vec::new(), Vec::new());
    let mut notes = Vec::new();
    for number in 0..4 {
        let layer = read(format!("layer{number}.tar.gz"));
        let tar = Tar::new()
            .file("ext4.fs.meta", read(format!("turbo/{number}/ext4.fs.meta")))
            .file(".turbo.ociv1", "")
            .file("gzip.meta", read(format!("turbo/{number}/gzip.meta")))
            .finish();
        let blob = gzip(&tar, 6);
        notes.push((blob.len(), Digest::of(&blob), Digest::of(&layer)));
        source.push((GZIP, layer.clone(), gunzip(&layer)));
        turbo.push((GZIP, blob, tar));
    }
    put_image(&layout, "1", &source);
    put_image(&layout, "turbo", &turbo);
    let mut manifest = layout.document(&layout.named("turbo"));
    for (layer, (size, blob, target)) in manifest["layers"]
        .as_array_mut()
        .unwrap()
        .iter_mut()
        .zip(notes)
    {
        layer["annotations"] = json!({
            format!("{NOTE}version"): "0.1.0-turbo.ociv1",
            format!("{NOTE}blob-digest"): blob,
            format!("{NOTE}blob-size"): size.to_string(),
            format!("{NOTE}turbo-oci/target-digest"): target,
            format!("{NOTE}turbo-oci/target-media-type"): GZIP,
        });
    }
    let manifest = layout.put(super::command::MANIFEST, manifest.to_string().as_bytes());
    layout.name("turbo", manifest);
    let (report, code) = super::command::check(&[&layout.at("turbo"), "--source", &layout.at("1")]);
    assert_eq!(problems(&report), "", "{report:#}");
    assert_eq!(differences(&report), ["/lost+found: extra"], "{report:#}");
    assert_eq!(code, 7);
}

#[test]
fn a_wrong_annotation_of_a_turbo_layer_is_detected() {
    let pair = Pair::new(&[(small(), Some(6)), (small(), None)], &[]);
    let other = format!("sha256:{}", "0".repeat(64));
    for (key, value, expected) in [
        (
            "version",
            Some("0.1.0"),
            "version is \"0.1.0\", and that of",
        ),
        ("version", None, "version is missing"),
        ("blob-digest", Some(other.as_str()), "names another digest"),
        ("blob-size", Some("1"), "names another size"),
        (
            "turbo-oci/target-digest",
            Some(other.as_str()),
            "target-digest names sha256:000",
        ),
        (
            "turbo-oci/target-digest",
            None,
            "nodes take it for a native layer",
        ),
        (
            "turbo-oci/target-media-type",
            Some(TAR),
            "tar\", and the source's layer is gzip",
        ),
        (
            "turbo-oci/target-media-type",
            None,
            "target-media-type is missing",
        ),
    ] {
        pair.change(|layers, _| {
            let notes = layers[0]["annotations"].as_object_mut().unwrap();
            match value {
                Some(value) => drop(notes.insert(format!("{NOTE}{key}"), json!(value))),
                None => drop(notes.remove(&format!("{NOTE}{key}"))),
            }
        });
        assert_wrong(&pair, key, expected);
        // All else is as before.
        let (report, _) = pair.check("changed");
        assert_eq!(problems(&report).lines().count(), 1, "{report:#}");
        assert_eq!(differences(&report), [""; 0], "{key}");
    }
    pair.change(|layers, _| {
        layers[1]["annotations"][format!("{NOTE}turbo-oci/target-media-type")] = json!(GZIP);
    });
    let expected = "tar+gzip\", and the source's layer is a plain tar";
    assert_wrong(&pair, "gzip for a plain tar", expected);
    pair.change(|layers, _| layers[0]["mediaType"] = json!(TAR));
    assert_wrong(&pair, "the blob's media type", "its media type is");
}

#[test]
fn the_former_names_of_the_annotations_are_read() {
    let pair = Pair::new(&[(small(), Some(6))], &[]);
    pair.change(|layers, _| {
        let notes = layers[0]["annotations"].as_object_mut().unwrap();
        for key in ["target-digest", "target-media-type"] {
            let value = notes.remove(&format!("{NOTE}turbo-oci/{key}")).unwrap();
            notes.insert(format!("{NOTE}fastoci/{key}"), value);
        }
        notes.insert(format!("{NOTE}version"), json!("0.1.0-fastoci"));
    });
    assert_same(pair.check("changed"));
}

#[test]
fn wrong_diff_ids_and_numbers_of_layers_are_detected() {
    let pair = Pair::new(&[(small(), Some(6)), (large(), Some(6))], &[]);
    let other = format!("sha256:{}", "0".repeat(64));
    pair.change(|_, config| config["rootfs"]["diff_ids"][1] = json!(other));
    assert_wrong(&pair, "a diff id", &format!("the tar of diff id {other}"));
    pair.change(|layers, config| {
        layers.pop();
        config["rootfs"]["diff_ids"].as_array_mut().unwrap().pop();
    });
    assert_wrong(&pair, "a layer less", "it has 1 layers and 1 diff ids");
    pair.change(|_, config| {
        config["rootfs"]["diff_ids"].as_array_mut().unwrap().pop();
    });
    assert_wrong(&pair, "a diff id less", "the config's diff ids are not");
    assert_wrong(&pair, "a diff id less", "it has 2 layers and 1 diff ids");
}

#[test]
fn turbo_layers_in_another_order_are_detected() {
    let pair = Pair::new(&[(small(), Some(6)), (large(), Some(6))], &[]);
    pair.change(|layers, config| {
        layers.swap(0, 1);
        let diff_ids = config["rootfs"]["diff_ids"].as_array_mut().unwrap();
        diff_ids.swap(0, 1);
    });
    assert_wrong(&pair, "swapped", "nodes would read other bytes");
    assert_wrong(&pair, "swapped", "its gzip index is of another layer");
    assert_wrong(&pair, "swapped", "it was made upon");
}

#[test]
fn a_turbo_layer_upon_a_native_one_is_detected() {
    let pair = Pair::new(&[(small(), Some(6)), (large(), Some(6))], &[]);
    convert(
        &pair.layout.at("1"),
        &pair.layout.at("1_obd"),
        &["--vsize", "1"],
    );
    let native = pair.manifest("1_obd")["layers"][0].clone();
    pair.change(|layers, config| {
        config["rootfs"]["diff_ids"][0] = native["digest"].clone();
        layers[0] = native;
    });
    assert_wrong(&pair, "mixed", "it is a TurboOCI layer upon a native one");
    // What is the other way round, nodes can stack.
    let native = pair.manifest("1_obd")["layers"][1].clone();
    pair.change(|layers, config| {
        config["rootfs"]["diff_ids"][1] = native["digest"].clone();
        layers[1] = native;
    });
    let (report, _) = pair.check("changed");
    assert!(!problems(&report).contains("upon a native"), "{report:#}");
    assert_eq!(differences(&report), [""; 0]);
}

#[test]
fn a_turbo_layer_whose_tar_holds_something_else_is_detected() {
    let pair = Pair::new(&[(small(), Some(6)), (small(), None)], &[]);
    let change = |change: &dyn Fn(&mut Files), expected: &str| {
        pair.change_files(0, |files| change(files));
        assert_wrong(&pair, expected, expected);
    };
    change(&|files| files.remove(".turbo.ociv1"), "has no .turbo.ociv1");
    change(&|files| files.remove("ext4.fs.meta"), "has no ext4.fs.meta");
    change(&|files| files.remove("gzip.meta"), "has no gzip.meta");
    change(&|files| files.add("more", b"x"), "also has more, which");
    change(
        &|files| files.add("erofs.fs.meta", b"x"),
        "also has erofs.fs.meta, which",
    );
    for name in ["ext4.fs.meta", ".turbo.ociv1", "gzip.meta"] {
        let expected = format!("also has {name} twice");
        change(&|files| files.add(name, b"x"), &expected);
    }
    change(
        &|files| files.0.push(("pipe".into(), FIFO, Vec::new())),
        "also has pipe, of the kind '6'",
    );
    change(
        &|files| {
            files.remove(".turbo.ociv1");
            files.0.push((".turbo.ociv1".into(), SYMLINK, Vec::new()));
        },
        "has no .turbo.ociv1",
    );
    pair.change_blob(0, |_| {
        let mut tar = Tar::new();
        tar.raw(&Entry::new(FILE, "ext4.fs.meta").size((4 << 30) + 1));
        let tar = tar.finish();
        (gzip(&tar, 6), tar)
    });
    assert_wrong(&pair, "large", "its files have more than 4294967296 bytes");
    change(
        &|files| (0..64).for_each(|number| files.add(&number.to_string(), b"")),
        "more than 64 entries",
    );
    pair.change_files(1, |files| files.add("gzip.meta", b"x"));
    assert_wrong(
        &pair,
        "plain",
        "and the layer that it points into is not gzip",
    );
    // Nothing but what belongs there, in another order, is as good.
    pair.change_files(1, |files| files.0.reverse());
    assert_same(pair.check("changed"));
}

#[test]
fn truncated_and_damaged_metadata_is_detected() {
    let pair = Pair::new(&[(small(), Some(6))], &[]);
    let meta = pair.files(0).get("ext4.fs.meta").to_vec();
    for length in [0, 100, 600, meta.len() / 2, meta.len() - 513] {
        pair.change_files(0, |files| files.get_mut("ext4.fs.meta").truncate(length));
        let (report, code) = pair.check("changed");
        assert!(
            problems(&report).starts_with("layer sha256:"),
            "{length}: {report:#}"
        );
        assert!(report["images"][0]["names"].is_null(), "{length}");
        assert_eq!(code, 7, "{length}");
    }
    pair.change_files(0, |files| {
        let meta = files.get_mut("ext4.fs.meta");
        meta[1000] ^= 1;
    });
    assert_wrong(&pair, "a flipped byte", "CRC");
    // The tar, and the gzip around it.
    let blob = pair.layout.read(&pair.manifest("turbo")["layers"][0]);
    let tar = gunzip(&blob);
    for length in [100, 600, 3000] {
        pair.change_blob(0, |_| {
            let cut = tar[..length].to_vec();
            (gzip(&cut, 6), cut)
        });
        let (report, code) = pair.check("changed");
        assert!(
            problems(&report).contains("its tar: "),
            "{length}: {report:#}"
        );
        assert_eq!(code, 7);
    }
    for length in [5, 100, blob.len() / 2, blob.len() - 1] {
        pair.change_blob(0, |blob| (blob[..length].to_vec(), tar.clone()));
        let (report, code) = pair.check("changed");
        assert!(
            problems(&report).contains("layer sha256:"),
            "{length}: {report:#}"
        );
        assert_eq!(code, 7);
    }
}

#[test]
fn each_way_in_which_a_gzip_index_can_be_wrong_is_detected() {
    let pair = Pair::new(&[(large(), Some(6))], &[]);
    let count = pair.files(0).index().points.len();
    assert!(count > 3);
    assert!(
        pair.files(0)
            .index()
            .points
            .iter()
            .any(|point| point.bits > 0)
    );
    let change = |what: &str, change: &dyn Fn(&mut Index), expected: &[&str]| {
        pair.change_files(0, |files| {
            let mut index = files.index();
            change(&mut index);
            files.set_index(&index);
        });
        let (report, code) = pair.check("changed");
        let found = problems(&report);
        for expected in expected {
            assert!(found.contains(expected), "{what}: {found}");
        }
        assert_eq!(found.lines().count(), expected.len(), "{what}: {found}");
        assert_eq!(code, if expected.is_empty() { 0 } else { 7 }, "{what}");
        // The files are read without the index.
        assert_eq!(differences(&report), [""; 0], "{what}");
    };
    let is_wrong = |number: usize| format!("point {number} of its gzip index, for byte ");
    change("written again", &|_| {}, &[]);
    for number in 1..count {
        change(
            "a window",
            &|index| index.points[number].window.fill(b'z'),
            &[&is_wrong(number)],
        );
        change(
            "a bit offset",
            &|index| index.points[number].bits = (index.points[number].bits + 3) % 8,
            &[&is_wrong(number)],
        );
        change(
            "a place in the layer",
            &|index| index.points[number].at.compressed += 1,
            &[&is_wrong(number)],
        );
        change(
            "a place in the tar",
            &|index| index.points[number].at.uncompressed += 1,
            &[&is_wrong(number)],
        );
    }
    let places = pair.files(0).index().points;
    let second = format!(
        "for byte {} of the tar at byte {} of the layer",
        places[2].at.uncompressed, places[2].at.compressed
    );
    change(
        "two windows",
        &|index| {
            index.points[1].window.fill(0);
            index.points[2].window.fill(0);
        },
        &[&is_wrong(1), &second],
    );
    // Every point is right, although fewer are there; all are of the other stream.
    change("fewer", &|index| drop(index.points.drain(1..3)), &[]);
    change(
        "of a longer layer",
        &|index| index.compressed += 1,
        &["says that the layer that it points into has "],
    );
    change(
        "of a longer tar",
        &|index| index.uncompressed += 512,
        &["says that the tar in it has "],
    );
}

#[test]
fn many_wrong_points_are_counted() {
    let tar = Tar::new().file("file", text(9, 8_000_000)).finish();
    let pair = Pair::new(&[(tar, Some(6))], &[]);
    pair.change_files(0, |files| {
        let mut index = files.index();
        assert!(index.points.len() > 7);
        for point in &mut index.points[1..] {
            point.window.fill(0);
        }
        files.set_index(&index);
    });
    let (report, _) = pair.check("changed");
    let found = problems(&report);
    assert_eq!(found.lines().count(), 6, "{found}");
    assert!(found.contains(" more of the "), "{found}");
}

#[test]
fn the_gzip_index_of_another_layer_and_a_damaged_one_are_detected() {
    let pair = Pair::new(&[(small(), Some(6)), (large(), Some(6))], &[]);
    let other = pair.files(0).get("gzip.meta").to_vec();
    pair.change_files(1, |files| *files.get_mut("gzip.meta") = other);
    assert_wrong(
        &pair,
        "of another layer",
        "its gzip index is of another layer",
    );
    pair.change_files(1, |files| files.get_mut("gzip.meta").truncate(400));
    assert_wrong(&pair, "truncated", "the gzip index's header is damaged");
    pair.change_files(1, |files| files.get_mut("gzip.meta")[400] ^= 1);
    assert_wrong(&pair, "a window", "the gzip index's window at ");
    pair.change_files(1, |files| {
        let index = files.get_mut("gzip.meta");
        let last = index.len() - 1;
        index[last] ^= 1;
    });
    assert_wrong(&pair, "the table", "the gzip index's table is damaged");
}

#[test]
fn a_mapping_that_points_elsewhere_is_detected() {
    let pair = Pair::new(&[(small(), Some(6))], &["--turbo-inline", "0"]);
    let change = |change: &dyn Fn(&mut Warp)| {
        pair.change_files(0, |files| {
            let mut warp = files.warp();
            change(&mut warp);
            files.set_warp(&warp);
        });
        pair.check("changed")
    };
    let is_data = |mapping: &&mut Mapping| mapping.tag == 1 && !mapping.zeroed;
    assert_same(change(&|_| {}));
    let (report, code) = change(&|warp| {
        warp.mappings.iter_mut().find(is_data).unwrap().place += 1;
    });
    assert_eq!(differences(&report), ["/etc/one: content"], "{report:#}");
    assert_eq!((problems(&report).as_str(), code), ("", 7));
    let (report, code) = change(&|warp| {
        warp.mappings.iter_mut().find(is_data).unwrap().place = 1 << 50;
    });
    let found = problems(&report);
    let expected = "1 of its mappings point outside of the ";
    assert!(found.contains(expected) && code == 7, "{found}");
    let (report, code) = change(&|warp| {
        warp.mappings.iter_mut().find(is_data).unwrap().tag = 2;
    });
    let found = problems(&report);
    assert!(found.contains("is in a third file") && code == 7, "{found}");
    // Most that readers take are a million.
    let (report, code) = change(&|warp| {
        let last = *warp.mappings.last().unwrap();
        let more = (1..=1_000_000).map(|number| Mapping {
            offset: last.offset + last.length + number,
            length: 1,
            place: 8,
            zeroed: true,
            tag: 0,
        });
        warp.mappings.extend(more);
    });
    let found = problems(&report);
    assert!(
        found.contains("the limit is 1000000") && code == 7,
        "{found}"
    );
}

/// One that holds a file of these bytes, which are mapped.
fn with_block(bytes: &[u8]) -> Pair {
    let (attribute, holes) = (vec![b'x'; 2000], noise(7, 6 * 4096));
    let map: Vec<String> = (0..6)
        .map(|number| format!("{},4096", number * 8192))
        .collect();
    let sparse = Entry::new(FILE, "holes")
        .pax("GNU.sparse.size", (6 * 8192).to_string())
        .pax("GNU.sparse.numblocks", "6")
        .pax("GNU.sparse.map", map.join(","))
        .data(&holes);
    let tar = Tar::new()
        .entry(Entry::new(FILE, "attributes").xattr("user.long", attribute))
        .entry(sparse)
        .dir("directory/")
        .file("directory/name-of-a-file", "content")
        .soft("link", &"long/".repeat(40))
        .file("block", bytes)
        .finish();
    Pair::new(&[(tar, None)], &["--turbo-inline", "0"])
}

#[test]
fn metadata_that_is_in_the_original_layer_is_detected() {
    const LENGTH: usize = 1 << 20;
    // What a filesystem of these files has of its own does not depend on their content.
    let warp = with_block(&noise(1, LENGTH)).files(0).warp();
    let own = |warp: &Warp| -> Vec<Mapping> {
        let mappings = warp.mappings.iter().copied();
        mappings.filter(|it| it.tag == 0 && !it.zeroed).collect()
    };
    let mut content = Vec::new();
    let mut places = Vec::new();
    for mapping in own(&warp) {
        places.push((mapping, content.len() as u64 / 512));
        let start = usize::try_from(mapping.place * 512).unwrap();
        let length = usize::try_from(mapping.length * 512).unwrap();
        content.extend(&warp.front[start..start + length]);
    }
    assert!(content.len() < LENGTH);
    content.extend(noise(1, LENGTH - content.len()));
    let pair = with_block(&content);
    assert_eq!(own(&pair.files(0).warp()), own(&warp));
    assert_same(pair.check("turbo"));
    let mut found_at = Vec::new();
    // One block after the other, which takes its mapping apart.
    let blocks = places.iter().flat_map(|&(own, place)| {
        let starts = (0..own.length).step_by(8);
        starts.map(move |start| (own, start, 8.min(own.length - start), place + start))
    });
    for (own, start, length, place) in blocks {
        pair.change_files(0, |files| {
            let mut warp = files.warp();
            let data = warp
                .mappings
                .iter()
                .find(|it| it.tag == 1 && it.length > 100);
            let data = data.unwrap().place;
            let number = warp.mappings.iter().position(|it| *it == own).unwrap();
            let part = |from: u64, length| Mapping {
                offset: own.offset + from,
                length,
                place: own.place + from,
                ..own
            };
            let moved = Mapping {
                place: data + place,
                tag: 1,
                ..part(start, length)
            };
            let behind = part(start + length, own.length - start - length);
            let parts = [part(0, start), moved, behind];
            let parts = parts.into_iter().filter(|part| part.length > 0);
            warp.mappings.splice(number..=number, parts);
            files.set_warp(&warp);
        });
        let (report, code) = pair.check("changed");
        // It reads the same: only that nodes need the data for it is wrong.
        assert_eq!(differences(&report), [""; 0], "{own:?} {start}");
        let found = problems(&report);
        if found.is_empty() {
            continue;
        }
        assert_eq!(code, 7);
        let expected = "nodes have to mount the image and list its files without reading any data";
        assert!(found.contains(expected), "{found}");
        let path = found
            .strip_prefix("the filesystem without its data: ")
            .unwrap();
        let path = path.split(':').next().unwrap().to_owned();
        found_at.push(((own.offset + start) / 8, path));
    }
    // Superblock, group descriptors and inodes; the blocks of both directories, of a long link, of
    // attributes and of extents. Bitmaps of free space nobody reads.
    let mut paths: Vec<&str> = found_at.iter().map(|(_, path)| path.as_str()).collect();
    paths.sort_unstable();
    let expected = [
        "/",
        "/",
        "/",
        "/",
        "/attributes",
        "/directory",
        "/holes",
        "/link",
    ];
    assert_eq!(paths, expected, "{found_at:?}");
}

#[test]
fn a_source_layer_that_is_gone_or_of_another_kind_is_detected() {
    let pair = Pair::new(&[(small(), Some(6)), (large(), Some(6))], &[]);
    let layer = pair.manifest("1")["layers"][1].clone();
    let digest: Digest = layer["digest"].as_str().unwrap().parse().unwrap();
    let whole = pair.layout.read(&layer);
    let mut flipped = whole.clone();
    flipped[20] ^= 1;
    fs::write(pair.layout.blob(&digest), flipped).unwrap();
    let (report, code) = pair.check("turbo");
    let found = problems(&report);
    assert!(found.starts_with("the source: layer sha256:"), "{found}");
    assert!(
        found.contains("its bytes have the digest") && code == 7,
        "{found}"
    );
    fs::remove_file(pair.layout.blob(&digest)).unwrap();
    let (report, code) = pair.check("turbo");
    let found = problems(&report);
    assert!(found.contains("not found") && code == 7, "{found}");
    fs::write(pair.layout.blob(&digest), whole).unwrap();

    // A source that became zstd, or several members, with the same tars.
    let tar = large();
    let zstd = zstd::encode_all(&tar[..], 1).unwrap();
    let members: Vec<u8> = tar.chunks(1 << 20).flat_map(|part| gzip(part, 6)).collect();
    for (bytes, media_type, expected) in [
        (
            zstd,
            "application/vnd.oci.image.layer.v1.tar+zstd",
            "is zstd, of which nodes",
        ),
        (
            members,
            GZIP,
            "the deflate data ends at byte 1048576 of the tar",
        ),
    ] {
        let small = small();
        let layers = [
            (GZIP, gzip(&small, 6), small),
            (media_type, bytes.clone(), tar.clone()),
        ];
        put_image(&pair.layout, "1", &layers);
        pair.change_files(1, |files| {
            let mut index = files.index();
            index.compressed = bytes.len() as u64;
            index.points.truncate(1);
            files.set_index(&index);
        });
        assert_wrong(&pair, expected, expected);
    }
}

#[test]
fn a_report_for_people_names_the_point_that_is_wrong() {
    let pair = Pair::new(&[(large(), Some(6))], &[]);
    pair.change_files(0, |files| {
        let mut index = files.index();
        index.points[2].window.fill(0);
        files.set_index(&index);
    });
    let arguments = [
        "check",
        &pair.layout.at("changed"),
        "--source",
        &pair.layout.at("1"),
    ];
    let output = super::command::program(&arguments);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("WRONG: layer sha256:"), "{said}");
    assert!(said.contains("point 2 of its gzip index"), "{said}");
    assert_eq!(output.status.code(), Some(7));
}
