//! An index with an image and what it was converted to, side by side.

use serde_json::{Value, json};

use crate::derived::{
    NATIVE, OCI_INDEX, Place, TURBO, assert_head_is_get, entries, image, sha256, text, types,
};
use crate::support::http;
use crate::support::image::{self, Flavour, Image, Packing, Sealed};
use crate::support::proxy::{Proxy, program};
use crate::support::tar::Tar;
use crate::support::{noise, run};

const MERGED: &str = "app/manifests/1_merged";

#[test]
fn the_original_is_first_and_the_converted_forms_follow() {
    let Some(place) = Place::new() else {
        return;
    };
    let answer = place.proxy.get(MERGED);
    assert_eq!(
        answer.header("overlaybd-outcome"),
        Some("converted"),
        "{answer:?}"
    );
    let found = entries(&answer);
    assert_eq!(types(&found), ["", NATIVE, TURBO]);
    let platform = json!({"os": "linux", "architecture": "amd64"});
    for entry in &found {
        assert_eq!(entry["platform"], platform);
        assert_eq!(
            place.by_digest(text(&entry["digest"])).body.len(),
            entry["size"]
        );
    }
    assert_eq!(found[0]["digest"], place.source.digest());
    for (entry, suffix) in found[1..].iter().zip(["_obd", "_turbo"]) {
        let converted = place.by_digest(text(&entry["digest"])).json();
        assert_eq!(converted, place.convert(suffix));
    }
    let again = place.proxy.get(MERGED);
    assert_eq!(again.header("overlaybd-outcome"), Some("found"));
    assert_eq!(again.body, answer.body);
    assert_head_is_get(&place.proxy, MERGED);
    let digest = sha256(&answer.body);
    assert_eq!(place.by_digest(&digest).body, answer.body);
    // After a restart it is found by its digest, and so it is when it was evicted.
    let place = place.restarted(|| {});
    assert_eq!(place.by_digest(&digest).body, answer.body);
    let file = place.blob(&digest);
    let place = place.restarted(|| std::fs::remove_file(file).unwrap());
    assert_eq!(place.by_digest(&digest).body, answer.body);
}

/// Nothing of it is there but the row that says what the digest belongs to.
#[test]
fn an_index_is_made_again_with_the_images_in_it() {
    let Some(place) = Place::new() else {
        return;
    };
    let answer = place.proxy.get(MERGED);
    let data = place.data();
    let place = place.restarted(|| {
        for file in crate::support::proxy::blobs(&data) {
            std::fs::remove_file(file).unwrap();
        }
    });
    assert_eq!(place.by_digest(&sha256(&answer.body)).body, answer.body);
}

#[test]
fn an_index_keeps_its_entries_and_has_the_converted_ones_behind_them() {
    let one = |seed, architecture| {
        let tar = Tar::new().file("data", noise(seed, 20_000)).finish();
        let image = Image::new(Flavour::Docker, &[(&tar, Packing::Gzip)]);
        image.platform("linux", architecture).seal()
    };
    let (amd, arm) = (one(1, "amd64"), one(2, "arm64"));
    let (attestation, attested) = Sealed::attestation(&amd);
    let Some(place) = Place::with(amd.clone(), &["--turbo-suffix", ""]) else {
        return;
    };
    place.registry.push("app", "arm", &arm);
    place.registry.push("app", "attestation", &attestation);
    let list = image::index(
        Flavour::Docker,
        &[
            amd.entry("linux", "amd64"),
            arm.entry("linux", "arm64"),
            attested,
        ],
    );
    place
        .registry
        .push_manifest("app", "all", &list.media_type, &list.bytes);
    let found = entries(&place.proxy.get("app/manifests/all_merged"));
    assert_eq!(types(&found), ["", "", "", NATIVE, NATIVE]);
    let source: Value = serde_json::from_slice(&list.bytes).unwrap();
    assert_eq!(json!(found[..3]), source["manifests"]);
    let converted = place.proxy.get("app/manifests/all_obd").json();
    for (entry, plain) in found[3..]
        .iter()
        .zip(converted["manifests"].as_array().unwrap())
    {
        assert_eq!(entry["digest"], plain["digest"]);
        assert_eq!(entry["platform"], plain["platform"]);
    }
}

#[test]
fn a_layer_that_turbooci_cannot_carry_leaves_the_native_form() {
    let tar = Tar::new().file("data", noise(1, 50_000)).finish();
    let zstd = Image::new(Flavour::Oci, &[(&tar, Packing::Zstd)]).seal();
    let Some(place) = Place::with(zstd, &[]) else {
        return;
    };
    for _ in 0..2 {
        assert_eq!(types(&entries(&place.proxy.get(MERGED))), ["", NATIVE]);
    }
}

#[test]
fn a_tag_with_the_suffix_and_no_image_is_the_upstreams() {
    let Some(place) = Place::new() else { return };
    place.registry.push("app", "own_merged", &image(9));
    let own = place.proxy.get("app/manifests/own_merged");
    assert_eq!(own.header("overlaybd-outcome"), Some("upstream"), "{own:?}");
    assert_eq!(own.body, image(9).manifest);
    assert_eq!(place.proxy.get("app/manifests/none_merged").status, 404);
    let other = tempfile::tempdir().unwrap();
    let options = ["--merged-suffix", ""];
    let proxy = Proxy::start(&place.registry.url(), &other.path().join("data"), &options);
    assert_eq!(proxy.get(MERGED).status, 404);
}

#[test]
fn a_merged_index_is_copied_and_read_by_the_programs_own_commands() {
    let Some(place) = Place::new() else { return };
    let merged = place.proxy.get(MERGED);
    // A stock client copies the tag within the registry: each part goes there first.
    let url = format!("{}/v2/app/manifests/copied", place.proxy.url());
    let put = http::send("PUT", &url, &[("content-type", OCI_INDEX)], &merged.body);
    assert_eq!(put.status, 201, "{put:?}");
    let copied = http::get(&format!("{}/v2/app/manifests/copied", place.registry.url()));
    assert_eq!(copied.body, merged.body);
    let name = format!("{}/app:1_merged", place.proxy.url());
    let shown = run(program().args(["inspect", &name]));
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    for entry in entries(&merged) {
        let kind = entry["artifactType"].as_str().unwrap_or("(shown below)");
        let line = format!("{} linux/amd64 {kind}", text(&entry["digest"]));
        assert!(shown.contains(&line), "{line}: {shown}");
    }
}

/// Each form in it is verified against the source, and what is wrong in one is found.
#[test]
fn a_merged_index_is_verified_against_its_source() {
    if !crate::support::have(&["e2fsck"]) {
        return;
    }
    let arm = Image::gzip(&[Tar::new().file("arm", "for arm").finish()]);
    let arm = arm.platform("linux", "arm64").seal();
    let Some(place) = Place::new() else { return };
    place.registry.push("app", "arm", &arm);
    let entries_of = [
        place.source.entry("linux", "amd64"),
        arm.entry("linux", "arm64"),
    ];
    let list = image::index(Flavour::Oci, &entries_of);
    place
        .registry
        .push_manifest("app", "all", &list.media_type, &list.bytes);
    for (tag, images, kept) in [("1", 2, 1), ("all", 4, 2)] {
        let name = format!("{}/app:{tag}_merged", place.proxy.url());
        let report = run(program().args(["check", "--json", &name]));
        let report: Value = serde_json::from_slice(&report.stdout).unwrap();
        assert_eq!(
            report["images"].as_array().unwrap().len(),
            images,
            "{report}"
        );
        assert_eq!(report["kept"].as_array().unwrap().len(), kept, "{report}");
        assert_eq!(report["problems"], json!([]), "{report}");
    }
    // One that lacks a form of an image, and one with another image in the original's place.
    let merged = place.proxy.get("app/manifests/all_merged").json();
    let mut lacking = merged.clone();
    lacking["manifests"].as_array_mut().unwrap().pop();
    let mut other = merged.clone();
    other["manifests"][1] = other["manifests"][3].clone();
    other["manifests"][1]
        .as_object_mut()
        .unwrap()
        .remove("artifactType");
    for (index, problem) in [(lacking, "is missing"), (other, "has nothing like")] {
        let bytes = serde_json::to_vec(&index).unwrap();
        let url = format!("{}/v2/app/manifests/bad", place.proxy.url());
        let put = http::send("PUT", &url, &[("content-type", OCI_INDEX)], &bytes);
        assert_eq!(put.status, 201, "{put:?}");
        let (name, source) = ("app:bad", "app:all");
        let at = |name: &str| format!("{}/{name}", place.proxy.url());
        let output = program()
            .args(["check", "-q", &at(name), "--source", &at(source)])
            .args(["--platform", "linux/amd64,linux/arm64"])
            .output()
            .unwrap();
        let printed = String::from_utf8_lossy(&output.stdout);
        assert!(
            !output.status.success() && printed.contains(problem),
            "{printed}"
        );
    }
}

#[test]
fn a_tag_of_the_upstreams_own_is_preferred_where_that_is_wanted() {
    let Some(place) = Place::with(image(1), &["--prefer-upstream-tags"]) else {
        return;
    };
    let theirs = place.registry.push("app", "1_merged", &image(2));
    let answer = place.proxy.get(MERGED);
    assert_eq!(answer.header("docker-content-digest"), Some(&*theirs));
}
