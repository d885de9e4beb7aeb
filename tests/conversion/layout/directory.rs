//! Layout directories: names, tags, what is pushed, and several who push at once.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures_util::TryStreamExt;
use overlaybd_proxy::oci::media_type::{OCI_INDEX, OCI_MANIFEST};
use overlaybd_proxy::oci::{Digest, Selector, Tag};
use overlaybd_proxy::registry::{BlobSource, Error, Pushed, RegistryConfig, Upstream};
use proptest::prelude::*;

use super::support::*;

#[tokio::test]
async fn a_plain_tag_is_found_under_any_name_and_a_full_name_under_its_own() {
    let place = tempfile::tempdir().unwrap();
    let layout = Upstream::create_layout(place.path()).unwrap();
    let (plain, full) = (Image::of(b"plain"), Image::of(b"full"));
    plain.push(&layout, "layout", "latest").await;
    assert_eq!(
        resolved(&layout, "demo", "latest").await,
        Some(plain.digest())
    );
    full.push(&layout, "demo", "latest").await;
    assert_eq!(
        resolved(&layout, "demo", "latest").await,
        Some(full.digest())
    );
    assert_eq!(
        resolved(&layout, "layout", "latest").await,
        Some(plain.digest())
    );
    // A converted image beside it hides nothing.
    plain.push(&layout, "other", "latest_obd").await;
    assert_eq!(
        resolved(&layout, "other", "latest").await,
        Some(plain.digest())
    );
    let tags = layout.tags(&repo("other"), &OWN).await.unwrap();
    let tags: Vec<&str> = tags.iter().map(Tag::as_str).collect();
    assert_eq!(tags, ["latest", "latest_obd"]);
}

#[tokio::test]
async fn a_manifest_is_served_as_what_it_is_listed_or_says_itself() {
    let place = tempfile::tempdir().unwrap();
    let layout = Upstream::create_layout(place.path()).unwrap();
    let image = Image::of(b"child");
    image.push(&layout, "x", image.digest().as_str()).await;
    let index: Bytes = format!(
        r#"{{"schemaVersion":2,"manifests":[{}]}}"#,
        descriptor(OCI_MANIFEST, &image.manifest)
    )
    .into();
    layout
        .push_manifest(
            &repo("demo"),
            &selector("1"),
            OCI_INDEX,
            index.clone(),
            &OWN,
        )
        .await
        .unwrap();
    let root = layout
        .manifest(&repo("demo"), &selector("1"), &OWN)
        .await
        .unwrap();
    assert_eq!((root.media_type.as_str(), &root.bytes), (OCI_INDEX, &index));
    let by_digest = Selector::Digest(image.digest());
    let child = layout
        .manifest(&repo("demo"), &by_digest, &OWN)
        .await
        .unwrap();
    assert_eq!(child.media_type, OCI_MANIFEST);
    assert_eq!(child.bytes, image.manifest);
    // A layer is a blob of the layout and no manifest of it; so is a config.
    for blob in [&image.layer, &image.config] {
        let digest = Digest::of(blob);
        assert_eq!(resolved(&layout, "demo", digest.as_str()).await, None);
    }
}

#[tokio::test]
async fn a_blob_is_streamed_and_read_in_parts() {
    let place = tempfile::tempdir().unwrap();
    let layout = Upstream::create_layout(place.path()).unwrap();
    let bytes: Bytes = (0..1_000_003u32).map(|n| (n % 251) as u8).collect();
    let (digest, size) = (Digest::of(&bytes), bytes.len() as u64);
    let file = place.path().join("blobs/source");
    std::fs::write(&file, &bytes).unwrap();
    let push = async |size| {
        let source = BlobSource::File(file.clone());
        layout
            .push_blob(&repo("x"), &digest, size, &source, &OWN)
            .await
    };
    assert!(
        !layout
            .mount_blob(&repo("x"), &digest, &repo("y"), &OWN)
            .await
            .unwrap()
    );
    assert_eq!(push(size).await.unwrap(), Pushed::Uploaded);
    assert_eq!(push(size).await.unwrap(), Pushed::Present);
    assert!(
        layout
            .mount_blob(&repo("x"), &digest, &repo("y"), &OWN)
            .await
            .unwrap()
    );
    let stream = layout.blob(&repo("x"), &digest, size, &OWN).await.unwrap();
    let parts: Vec<Bytes> = stream.try_collect().await.unwrap();
    assert!(parts.len() > 1, "a blob comes in parts");
    assert_eq!(parts.concat(), bytes);
    for range in [0..1, 5..70_000, 1_000_002..1_000_003, 9..9] {
        let [start, end] = [range.start, range.end].map(|at| usize::try_from(at).unwrap());
        let part = layout
            .blob_range(&repo("x"), &digest, range, &OWN)
            .await
            .unwrap();
        assert_eq!(part, bytes[start..end]);
    }
    assert_eq!(
        layout.blob_size(&repo("x"), &digest, &OWN).await.unwrap(),
        size
    );
    let beyond = layout
        .blob_range(&repo("x"), &digest, 0..size + 1, &OWN)
        .await;
    assert!(matches!(beyond, Err(Error::Io { .. })));
    let longer = layout.blob(&repo("x"), &digest, size + 1, &OWN).await;
    assert!(matches!(
        longer,
        Err(Error::Mismatch { what: "length", .. })
    ));
}

#[tokio::test]
async fn blobs_are_found_by_sha512_digests() {
    let place = tempfile::tempdir().unwrap();
    let layout = Upstream::create_layout(place.path()).unwrap();
    let abc = "sha512:ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a\
               274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f";
    let digest: Digest = abc.parse().unwrap();
    let push = async |text: &'static str| {
        let source = BlobSource::Bytes(text.into());
        layout
            .push_blob(&repo("x"), &digest, 3, &source, &OWN)
            .await
    };
    assert!(matches!(
        push("abd").await,
        Err(Error::Mismatch { what: "digest", .. })
    ));
    push("abc").await.unwrap();
    let read = layout
        .blob_range(&repo("x"), &digest, 0..3, &OWN)
        .await
        .unwrap();
    assert_eq!(read, "abc");
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_pushes_lose_no_entry() {
    let place = tempfile::tempdir().unwrap();
    let mut pushers = Vec::new();
    for pusher in 0..8 {
        let path = place.path().join("layout");
        // Each with a layout of its own, as processes have: file locks are between those.
        pushers.push(tokio::spawn(async move {
            let layout = Upstream::create_layout(&path).unwrap();
            for number in 0..12 {
                let image = Image::of(format!("{pusher} {number}").as_bytes());
                image
                    .push(&layout, &format!("repo{pusher}"), &format!("v{number}"))
                    .await;
                image.push(&layout, "shared", "moving").await;
            }
        }));
    }
    for pusher in pushers {
        pusher.await.unwrap();
    }
    let layout = Upstream::layout(&place.path().join("layout")).unwrap();
    for pusher in 0..8 {
        for number in 0..12 {
            let image = Image::of(format!("{pusher} {number}").as_bytes());
            let found = resolved(&layout, &format!("repo{pusher}"), &format!("v{number}")).await;
            assert_eq!(found, Some(image.digest()));
        }
    }
    let text = std::fs::read_to_string(place.path().join("layout/index.json")).unwrap();
    assert_eq!(text.matches("shared:moving").count(), 1);
    assert_eq!(leftovers(place.path()), 0);
}

fn leftovers(root: &std::path::Path) -> usize {
    let entries = std::fs::read_dir(root).unwrap().map(Result::unwrap);
    entries
        .map(|entry| {
            let is_ours = entry
                .file_name()
                .to_string_lossy()
                .starts_with(".overlaybd");
            let below = if entry.path().is_dir() {
                leftovers(&entry.path())
            } else {
                0
            };
            usize::from(is_ours) + below
        })
        .sum()
}

#[tokio::test]
async fn temporary_files_of_killed_writers_are_removed() {
    let place = tempfile::tempdir().unwrap();
    Upstream::create_layout(place.path()).unwrap();
    let blobs = place.path().join("blobs/sha256");
    let (dead, alive) = (
        blobs.join(".overlaybd-proxy-dead"),
        blobs.join(".overlaybd-proxy-live"),
    );
    std::fs::write(&dead, "x").unwrap();
    let file = std::fs::File::create(&alive).unwrap();
    file.lock_shared().unwrap();
    Upstream::create_layout(place.path()).unwrap();
    assert!(!dead.exists());
    assert!(alive.exists());
}

#[tokio::test]
async fn an_invalid_push_is_refused_and_leaves_no_file() {
    let place = tempfile::tempdir().unwrap();
    let layout = Upstream::create_layout(place.path()).unwrap();
    let digest = Digest::of(b"right");
    let file = place.path().join("blobs/file");
    std::fs::write(&file, "right").unwrap();
    for (source, size, what) in [
        (BlobSource::Bytes("wrong".into()), 5, "digest"),
        (BlobSource::Bytes("right".into()), 6, "length"),
        (BlobSource::File(file.clone()), 4, "length"),
        (BlobSource::File(file.clone()), 6, "length"),
    ] {
        let pushed = layout
            .push_blob(&repo("x"), &digest, size, &source, &OWN)
            .await;
        let Err(Error::Mismatch { what: found, .. }) = pushed else {
            panic!("{source:?} of {size}: {pushed:?}");
        };
        assert_eq!(found, what);
    }
    let missing = BlobSource::File(place.path().join("nowhere"));
    let pushed = layout
        .push_blob(&repo("x"), &digest, 5, &missing, &OWN)
        .await;
    assert!(pushed.unwrap_err().to_string().contains("nowhere"));
    let wrong = layout
        .push_manifest(
            &repo("x"),
            &Selector::Digest(digest.clone()),
            OCI_MANIFEST,
            "{}".into(),
            &OWN,
        )
        .await;
    assert!(matches!(wrong, Err(Error::Mismatch { .. })));
    assert!(
        layout
            .blob_size(&repo("x"), &digest, &OWN)
            .await
            .unwrap_err()
            .is_not_found()
    );
    assert_eq!(leftovers(place.path()), 0);
}

#[tokio::test]
async fn a_referrer_is_found_by_its_subject_wherever_it_is_listed() {
    let place = tempfile::tempdir().unwrap();
    let layout = Upstream::create_layout(place.path()).unwrap();
    let image = Image::of(b"subject");
    image.push(&layout, "demo", "1").await;
    let referrer = |kind: &str| -> Bytes {
        let subject = descriptor(OCI_MANIFEST, &image.manifest);
        format!(
            r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","artifactType":"{kind}","config":{},"layers":[],"subject":{subject},"annotations":{{"k":"v"}}}}"#,
            descriptor("application/vnd.oci.empty.v1+json", b"{}")
        )
        .into()
    };
    // By digest, by tag, and as the fallback tag's index has it.
    let (first, second, third) = (referrer("a/one"), referrer("a/two"), referrer("a/three"));
    push_manifest(&layout, "demo", Digest::of(&first).as_str(), &first).await;
    push_manifest(&layout, "demo", "second", &second).await;
    push_blob(&layout, &third).await;
    let fallback: Bytes = format!(
        r#"{{"schemaVersion":2,"manifests":[{},{}]}}"#,
        descriptor(OCI_MANIFEST, &third),
        descriptor(OCI_MANIFEST, b"not here"),
    )
    .into();
    let tag = image.digest().as_str().replace(':', "-");
    layout
        .push_manifest(&repo("demo"), &selector(&tag), OCI_INDEX, fallback, &OWN)
        .await
        .unwrap();

    let all = layout
        .referrers(&repo("demo"), &image.digest(), None, &OWN)
        .await
        .unwrap();
    let mut kinds: Vec<&str> = all
        .iter()
        .filter_map(|one| one.artifact_type.as_deref())
        .collect();
    kinds.sort_unstable();
    assert_eq!(kinds, ["a/one", "a/three", "a/two"]);
    let one = layout
        .referrers(&repo("demo"), &image.digest(), Some("a/one"), &OWN)
        .await
        .unwrap();
    let [one] = one.as_slice() else {
        panic!("{one:?}");
    };
    assert_eq!(one.digest, Digest::of(&first));
    assert_eq!(
        (one.size, one.annotations["k"].as_str()),
        (Some(first.len() as u64), "v")
    );
    // Its entry has no name, and is not taken for the latest image.
    assert_eq!(resolved(&layout, "demo", "latest").await, None);
    let none = layout
        .referrers(&repo("demo"), &Digest::of(b""), None, &OWN)
        .await
        .unwrap();
    assert!(none.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_sequence_of_pushes_reads_as_the_last_of_each_name(
        pushes in prop::collection::vec((0..4usize, 0..3usize, 0..6u8), 1..20)
    ) {
        let repos = ["layout", "demo", "r.io/demo", "a/b"];
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let place = tempfile::tempdir().unwrap();
            let layout = Upstream::create_layout(&place.path().join("dir")).unwrap();
            let file = place.path().join("archive.tar");
            let name = format!("oci-archive:{}", file.display()).parse().unwrap();
            let archive = Upstream::destination(&name, &RegistryConfig::default()).unwrap();
            let mut model = BTreeMap::new();
            for (name, tag, content) in pushes {
                let image = Image::of(&[content]);
                for target in [&layout, &archive] {
                    image.push(target, repos[name], &format!("v{tag}")).await;
                }
                model.insert((repos[name], tag), image.digest());
            }
            archive.finish().await.unwrap();
            let read = Upstream::archive(&file).unwrap();
            for upstream in [&layout, &archive, &read] {
                for name in repos {
                    for tag in 0..3 {
                        let mut expected = model.get(&(name, tag));
                        if name == "demo" {
                            expected = expected.or(model.get(&("r.io/demo", tag)));
                        }
                        expected = expected.or(model.get(&("layout", tag)));
                        let found = resolved(upstream, name, &format!("v{tag}")).await;
                        assert_eq!(found.as_ref(), expected, "{name}:v{tag}");
                    }
                }
            }
        });
    }
}
