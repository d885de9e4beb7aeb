//! One list of referrers that hangs holds up no other.

use bytes::Bytes;
use overlaybd_proxy::oci::media_type::OCI_MANIFEST;
use overlaybd_proxy::oci::{Digest, Selector};
use overlaybd_proxy::registry::{Authorization, BlobSource, Upstream};

use crate::registry_support::{quick, repo};
use crate::support::gate::Gate;
use crate::support::registry::Registry;

/// Pushes an empty artifact about a subject.
async fn push(upstream: &Upstream, subject: &Digest) {
    let (repo, own) = (repo("app"), Authorization::Own);
    let config = Bytes::from_static(b"{}");
    let digest = Digest::of(&config);
    let source = BlobSource::Bytes(config);
    let pushed = upstream.push_blob(&repo, &digest, 2, &source, &own);
    pushed.await.unwrap();
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {
            "mediaType": "application/vnd.test", "digest": digest.as_str(), "size": 2
        },
        "layers": [],
        "subject": { "mediaType": OCI_MANIFEST, "digest": subject.as_str(), "size": 7 },
    });
    let bytes = Bytes::from(serde_json::to_vec(&manifest).unwrap());
    let selector = Selector::Digest(Digest::of(&bytes));
    let pushed = upstream.push_manifest(&repo, &selector, OCI_MANIFEST, bytes, &own);
    pushed.await.unwrap();
}

#[test]
fn lists_of_several_subjects_are_changed_at_the_same_time() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let gate = Gate::before(registry.address());
    let host = gate.url().split_once("//").unwrap().1.to_owned();
    let upstream = Upstream::registry(&host, &quick()).unwrap();
    let (slow, other) = (Digest::of(b"slow"), Digest::of(b"other"));
    let hold = gate.hold("GET", &format!("sha256-{}", slow.hex()));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let held = runtime.spawn({
        let (upstream, slow) = (upstream.clone(), slow.clone());
        async move { push(&upstream, &slow).await }
    });
    hold.wait();
    let pushed = runtime.block_on(async {
        let limit = std::time::Duration::from_mins(1);
        tokio::time::timeout(limit, push(&upstream, &other)).await
    });
    assert!(pushed.is_ok(), "it waits for the list of another subject");
    hold.release();
    runtime.block_on(held).unwrap();
    for subject in [slow, other] {
        let (repo, own) = (repo("app"), Authorization::Own);
        let found = upstream.referrers(&repo, &subject, None, &own);
        assert_eq!(runtime.block_on(found).unwrap().len(), 1);
    }
}
