//! Lists of referrers by the API, before a registry that does not have it.

use serde_json::json;

use crate::derived::{
    NATIVE, OCI_INDEX, OCI_MANIFEST, Place, TURBO, assert_head_is_get, entries, image, text, types,
};
use crate::registry_support::DockerRegistry;
use crate::support::image::{self, Flavour, Image, Packing};
use crate::support::proxy::{Proxy, program};
use crate::support::tar::Tar;
use crate::support::{http, noise, run};

#[test]
fn converted_images_are_listed_when_they_are_there() {
    let Some(place) = Place::new() else {
        return;
    };
    let subject = place.source.digest();
    assert_eq!(place.referrers(&subject, "").status, 404);
    let native = place.convert("_obd");
    assert_eq!(types(&entries(&place.referrers(&subject, ""))), [NATIVE]);
    let turbo = place.convert("_turbo");
    let found = entries(&place.referrers(&subject, ""));
    assert_eq!(types(&found), [NATIVE, TURBO]);
    assert_head_is_get(&place.proxy, &format!("app/referrers/{subject}"));

    for (entry, plain) in found.iter().zip([&native, &turbo]) {
        let answer = place.by_digest(text(&entry["digest"]));
        assert_eq!(entry["mediaType"], OCI_MANIFEST);
        assert_eq!(entry["size"], answer.body.len());
        assert_eq!(answer.header("content-type"), Some(OCI_MANIFEST));
        let manifest = answer.json();
        let size = place.source.manifest.len();
        let wanted = json!({"mediaType": OCI_MANIFEST, "digest": subject, "size": size});
        assert_eq!(manifest["subject"], wanted);
        assert_eq!(manifest["artifactType"], entry["artifactType"]);
        assert_eq!(manifest["config"], plain["config"]);
        assert_eq!(manifest["layers"], plain["layers"]);
        assert_head_is_get(
            &place.proxy,
            &format!("app/manifests/{}", text(&entry["digest"])),
        );
        for part in manifest["layers"]
            .as_array()
            .unwrap()
            .iter()
            .chain([&manifest["config"]])
        {
            let path = format!("app/blobs/{}", text(&part["digest"]));
            let blob = place.proxy.get(&path);
            assert_eq!(
                (blob.status, blob.body.len() as u64),
                (200, part["size"].as_u64().unwrap())
            );
        }
    }

    // After a restart they are found by digest, and so they are when they were evicted.
    let digests: Vec<_> = found
        .iter()
        .map(|entry| text(&entry["digest"]).to_owned())
        .collect();
    let place = place.restarted(|| {});
    place.by_digest(&digests[0]);
    let files: Vec<_> = digests.iter().map(|digest| place.blob(digest)).collect();
    let place = place.restarted(|| {
        for file in &files {
            std::fs::remove_file(file).unwrap();
        }
    });
    for digest in &digests {
        place.by_digest(digest);
    }
    assert_eq!(entries(&place.referrers(&subject, "")), found);
}

#[test]
fn a_list_is_filtered_by_artifact_type() {
    let Some(place) = Place::new() else { return };
    let subject = place.source.digest();
    place.convert("_obd");
    place.convert("_turbo");
    for wanted in [NATIVE, TURBO] {
        let query = format!("?artifactType={}", wanted.replace('+', "%2B"));
        let answer = place.referrers(&subject, &query);
        assert_eq!(types(&entries(&answer)), [wanted]);
        assert_eq!(answer.header("oci-filters-applied"), Some("artifactType"));
        assert_head_is_get(&place.proxy, &format!("app/referrers/{subject}{query}"));
    }
    // Nothing of ours: the upstream answers.
    let other = place.referrers(&subject, "?artifactType=application/vnd.test");
    assert_eq!(other.status, 404, "{other:?}");
}

#[test]
fn only_images_of_the_repository_have_converted_forms() {
    let Some(place) = Place::new() else { return };
    let converted = place.proxy.get("app/manifests/1_obd");
    let itself = converted.header("docker-content-digest").unwrap();
    let layer = place.source.blobs[1].digest();
    let unknown = crate::derived::sha256(b"unknown");
    for digest in [itself, &layer, &unknown] {
        let answer = place.referrers(digest, "");
        assert_eq!(answer.status, 404, "{digest}: {answer:?}");
    }
    // Another repository has neither the source nor what it became.
    place.registry.push("other", "1", &image(7));
    let source = place.source.digest();
    let answer = place.proxy.get(&format!("other/referrers/{source}"));
    assert_eq!(answer.status, 404, "{answer:?}");
    let list = entries(&place.referrers(&source, ""));
    let form = text(&list[0]["digest"]);
    let answer = place.proxy.get(&format!("other/manifests/{form}"));
    assert_eq!(answer.status, 404, "{answer:?}");
}

#[test]
fn an_image_whose_layer_was_evicted_is_not_listed() {
    let Some(place) = Place::new() else {
        return;
    };
    let subject = place.source.digest();
    let native = place.convert("_obd");
    assert_eq!(types(&entries(&place.referrers(&subject, ""))), [NATIVE]);
    let layer = place.blob(text(&native["layers"][0]["digest"]));
    let place = place.restarted(|| std::fs::remove_file(layer).unwrap());
    let answer = place.referrers(&subject, "");
    assert_eq!(answer.status, 404, "{answer:?}");
    // It is made again when a node reads it.
    let layer = format!("app/blobs/{}", text(&native["layers"][0]["digest"]));
    assert_eq!(place.proxy.get(&layer).status, 200);
    assert_eq!(types(&entries(&place.referrers(&subject, ""))), [NATIVE]);
}

#[test]
fn nothing_is_listed_where_that_is_turned_off() {
    let options = ["--list-referrers=false"];
    let Some(place) = Place::with(image(1), &options) else {
        return;
    };
    place.convert("_obd");
    let subject = place.source.digest();
    assert_eq!(place.referrers(&subject, "").status, 404);
    let tag = subject.replace(':', "-");
    assert_eq!(place.proxy.get(&format!("app/manifests/{tag}")).status, 404);
}

#[test]
fn an_index_and_each_image_in_it_have_converted_forms() {
    let tar = |seed| Tar::new().file("data", noise(seed, 20_000)).finish();
    let one = |seed, architecture| {
        let tar = tar(seed);
        let image = Image::new(Flavour::Docker, &[(&tar, Packing::Gzip)]);
        image.platform("linux", architecture).seal()
    };
    let (amd, arm) = (one(1, "amd64"), one(2, "arm64"));
    let Some(place) = Place::with(amd.clone(), &[]) else {
        return;
    };
    place.registry.push("app", "arm", &arm);
    let list = image::index(
        Flavour::Docker,
        &[amd.entry("linux", "amd64"), arm.entry("linux", "arm64")],
    );
    place
        .registry
        .push_manifest("app", "all", &list.media_type, &list.bytes);
    let converted = place.proxy.get("app/manifests/all_obd").json();

    let found = entries(&place.referrers(&list.digest(), ""));
    assert_eq!(types(&found), [NATIVE]);
    assert_eq!(found[0]["mediaType"], OCI_INDEX);
    let index = place.by_digest(text(&found[0]["digest"])).json();
    assert_eq!(index["manifests"], converted["manifests"]);
    assert_eq!(index["subject"]["digest"], list.digest());
    assert_eq!(index["subject"]["mediaType"], list.media_type);

    for (image, entry) in [&amd, &arm]
        .into_iter()
        .zip(converted["manifests"].as_array().unwrap())
    {
        let found = entries(&place.referrers(&image.digest(), ""));
        assert_eq!(types(&found), [NATIVE]);
        let form = place.by_digest(text(&found[0]["digest"])).json();
        assert_eq!(form["mediaType"], OCI_MANIFEST);
        assert_eq!(form["subject"]["digest"], image.digest());
        let plain = place.by_digest(text(&entry["digest"])).json();
        let digests = image::layer_digests;
        assert_eq!(digests(&form), digests(&plain));
        assert_eq!(
            form["layers"][0]["mediaType"],
            "application/vnd.oci.image.layer.v1.tar"
        );
    }
}

/// `convert --referrers` pushes the very manifest that is listed: it is there once.
#[test]
fn what_the_upstream_lists_is_not_listed_again() {
    let Some(place) = Place::new() else { return };
    place.convert("_obd");
    let subject = place.source.digest();
    let before = entries(&place.referrers(&subject, ""));
    let source = format!("{}/app:1", place.registry.url());
    let to = format!("{}/app:pushed", place.registry.url());
    let scratch = tempfile::tempdir().unwrap();
    run(program()
        .args(["convert", "--referrers=true", "--data-dir"])
        .arg(scratch.path())
        .args([&source, &to]));
    let tag = subject.replace(':', "-");
    let url = format!("{}/v2/app/manifests/{tag}", place.registry.url());
    assert_eq!(http::get(&url).json()["manifests"], json!(before));
    assert_eq!(entries(&place.referrers(&subject, "")), before);
}

#[test]
fn converted_forms_are_told_to_those_who_may_have_the_source() {
    let Some(registry) = DockerRegistry::start_with_users(&[("ann", "secret")]) else {
        return;
    };
    let scratch = tempfile::tempdir().unwrap();
    let url = format!("http://{}", registry.host);
    let login = crate::server_support::basic("ann", "secret");
    let ann = [("authorization", &*login), ("accept", http::ACCEPT)];
    let source = image(1);
    for blob in &source.blobs {
        let begun = http::send("POST", &format!("{url}/v2/app/blobs/uploads/"), &ann, b"");
        let to = begun.header("location").unwrap();
        let to = format!("{to}&digest={}", blob.digest());
        assert_eq!(http::send("PUT", &to, &ann[..1], &blob.bytes).status, 201);
    }
    let kind = [ann[0], ("content-type", &*source.media_type)];
    let to = format!("{url}/v2/app/manifests/1");
    assert_eq!(http::send("PUT", &to, &kind, &source.manifest).status, 201);
    let proxy = Proxy::start(&url, &scratch.path().join("data"), &[]);
    let get = |path: &str, headers: &[(&str, &str)]| {
        http::send(
            "GET",
            &format!("{}/v2/app/{path}", proxy.url()),
            headers,
            b"",
        )
    };
    assert_eq!(get("manifests/1_obd", &ann).status, 200);
    let list = format!("referrers/{}", source.digest());
    let found = entries(&get(&list, &ann));
    let manifest = format!("manifests/{}", text(&found[0]["digest"]));
    assert_eq!(get(&manifest, &ann).status, 200);
    let wrong = crate::server_support::basic("ann", "guess");
    let tag = format!("manifests/{}", source.digest().replace(':', "-"));
    for headers in [&[][..], &[("authorization", &*wrong)]] {
        for path in [&list, &manifest, &tag] {
            let refused = get(path, headers);
            // This registry has no such API, whoever asks.
            let status = if path.starts_with("referrers") {
                404
            } else {
                401
            };
            assert_eq!(refused.status, status, "{path}: {refused:?}");
            assert!(!refused.text().contains("sha256:"), "{refused:?}");
        }
    }
}
