//! The tag under which referrers are listed without the API: what is read there and written there.

use serde_json::{Value, json};

use crate::derived::{
    NATIVE, OCI_INDEX, OCI_MANIFEST, Place, TURBO, assert_head_is_get, entries, sha256, text, types,
};
use crate::support::http;
use crate::support::image::Blob;

const SIGNATURE: &str = "application/vnd.test.signature";

impl Place {
    fn tag(&self) -> String {
        self.source.digest().replace(':', "-")
    }

    /// Pushes an artifact about the source straight to the registry; gives its entry in a list.
    fn attach(&self, artifact_type: &str) -> Value {
        let empty = Blob {
            media_type: "application/vnd.oci.empty.v1+json".to_owned(),
            bytes: b"{}".to_vec(),
        };
        self.registry.push_blob("app", &empty.bytes);
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "artifactType": artifact_type,
            "config": empty.descriptor(),
            "layers": [empty.descriptor()],
            "subject": {
                "mediaType": self.source.media_type,
                "digest": self.source.digest(),
                "size": self.source.manifest.len(),
            },
        });
        let bytes = serde_json::to_vec(&manifest).unwrap();
        let digest = sha256(&bytes);
        self.registry
            .push_manifest("app", &digest, OCI_MANIFEST, &bytes);
        json!({
            "mediaType": OCI_MANIFEST,
            "digest": digest,
            "size": bytes.len(),
            "artifactType": artifact_type,
            "x-kept": true,
        })
    }

    fn list_upstream(&self, entries: &[&Value]) -> Vec<u8> {
        let list = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries,
            "annotations": {"kept": "too"}});
        let bytes = serde_json::to_vec(&list).unwrap();
        self.registry
            .push_manifest("app", &self.tag(), OCI_INDEX, &bytes);
        bytes
    }
}

#[test]
fn the_fallback_tag_has_the_upstreams_entries_and_the_converted_ones() {
    let Some(place) = Place::new() else {
        return;
    };
    let (tag, subject) = (place.tag(), place.source.digest());
    let path = format!("app/manifests/{tag}");
    assert_eq!(place.proxy.get(&path).status, 404);
    place.convert("_obd");
    let alone = place.proxy.get(&path);
    assert_eq!(types(&entries(&alone)), [NATIVE]);
    assert_head_is_get(&place.proxy, &path);

    let theirs = place.attach(SIGNATURE);
    let listed = place.list_upstream(&[&theirs]);
    place.convert("_turbo");
    let both = place.proxy.get(&path);
    let found = entries(&both);
    assert_eq!(types(&found), [SIGNATURE, NATIVE, TURBO]);
    assert_eq!(found[0], theirs);
    assert_eq!(both.json()["annotations"]["kept"], "too");
    let digest = sha256(&both.body);
    assert_eq!(both.header("docker-content-digest"), Some(&*digest));
    assert_eq!(both.header("etag"), Some(&*format!("\"{digest}\"")));
    assert_head_is_get(&place.proxy, &path);
    let unchanged = [("if-none-match", &*format!("\"{digest}\""))];
    let url = format!("{}/v2/{path}", place.proxy.url());
    assert_eq!(http::send("GET", &url, &unchanged, b"").status, 304);
    assert_eq!(place.by_digest(&digest).body, both.body);
    // The API has the same, because the upstream lacks it.
    assert_eq!(entries(&place.referrers(&subject, "")), found);
    let query = format!("?artifactType={}", NATIVE.replace('+', "%2B"));
    assert_eq!(
        types(&entries(&place.referrers(&subject, &query))),
        [NATIVE]
    );
    // The upstream's own is there by its digest, as before.
    assert_eq!(place.by_digest(&sha256(&listed)).body, listed);

    // By digest also after a restart, and when the document was evicted.
    let file = place.blob(&digest);
    let place = place.restarted(|| std::fs::remove_file(file).unwrap());
    assert_eq!(place.by_digest(&digest).body, both.body);
}

#[test]
fn what_is_no_list_under_the_fallback_tag_stays_as_it_is() {
    let Some(place) = Place::new() else { return };
    let tag = place.tag();
    place.registry.push("app", &tag, &place.source);
    place.convert("_obd");
    let answer = place.proxy.get(&format!("app/manifests/{tag}"));
    assert_eq!(answer.body, place.source.manifest);
    let subject = place.source.digest();
    assert_eq!(types(&entries(&place.referrers(&subject, ""))), [NATIVE]);
}

/// A client that attaches something adds it to the list that it was shown, and writes all of it.
#[test]
fn attaching_something_pushes_no_converted_image() {
    let Some(place) = Place::new() else { return };
    let native = place.convert("_obd");
    let shown = place.proxy.get(&format!("app/manifests/{}", place.tag()));
    let theirs = place.attach(SIGNATURE);
    let mut list = shown.json();
    list["manifests"]
        .as_array_mut()
        .unwrap()
        .push(theirs.clone());
    let bytes = serde_json::to_vec(&list).unwrap();
    let url = format!("{}/v2/app/manifests/{}", place.proxy.url(), place.tag());
    let written = http::send("PUT", &url, &[("content-type", OCI_INDEX)], &bytes);
    assert_eq!(written.status, 201, "{written:?}\n{}", place.proxy.log());
    let digest = sha256(&bytes);
    assert_eq!(written.header("docker-content-digest"), Some(&*digest));
    assert_eq!(place.by_digest(&digest).body, bytes);

    let upstream = format!("{}/v2/app/manifests/{}", place.registry.url(), place.tag());
    assert_eq!(http::get(&upstream).json()["manifests"], json!([theirs]));
    let layer = text(&native["layers"][0]["digest"]);
    assert!(
        !place.registry.blob_path(layer).exists(),
        "{layer} was pushed"
    );
    let found = entries(&place.proxy.get(&format!("app/manifests/{}", place.tag())));
    assert_eq!(types(&found), [SIGNATURE, NATIVE]);
}
