//! What skopeo writes is read, and what is written skopeo reads.

use overlaybd_proxy::oci::Digest;
use overlaybd_proxy::registry::{RegistryConfig, Upstream};

use super::support::*;

#[tokio::test(flavor = "multi_thread")]
async fn skopeo_reads_layouts_and_archives_that_were_written_here() {
    if !has("skopeo") {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let image = Image::of(&vec![7; 3_000_000]);
    let directory = place.path().join("layout");
    let layout = Upstream::create_layout(&directory).unwrap();
    image.push(&layout, "layout", "v1").await;
    image.push(&layout, "demo", "latest").await;
    let file = place.path().join("archive.tar");
    let archive = {
        let reference = format!("oci-archive:{}:demo:1", file.display());
        Upstream::destination(&reference.parse().unwrap(), &RegistryConfig::default()).unwrap()
    };
    image.push(&archive, "demo", "1").await;
    assert!(!file.exists(), "an archive appears when it is finished");
    archive.finish().await.unwrap();

    for (number, source) in [
        format!("oci:{}:v1", directory.display()),
        format!("oci:{}:demo:latest", directory.display()),
        format!("oci-archive:{}:demo:1", file.display()),
    ]
    .iter()
    .enumerate()
    {
        let manifest = skopeo(&["inspect", "--raw", source]).await;
        assert_eq!(Digest::of(&manifest), image.digest(), "{source}");
        // skopeo verifies every digest on the way.
        let target = place.path().join(format!("copy{number}"));
        let target = format!("dir:{}", target.display());
        skopeo(&["copy", source, &target]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_comes_back_from_a_layout_as_it_went_in() {
    if !has("skopeo") {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let image = Image::of(b"once around");
    let dir = place.path().join("dir");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("version"), "Directory Transport Version: 1.1\n").unwrap();
    std::fs::write(dir.join("manifest.json"), &image.manifest).unwrap();
    for blob in [&image.layer, &image.config] {
        std::fs::write(dir.join(Digest::of(blob).hex()), blob).unwrap();
    }
    let source = format!("dir:{}", dir.display());

    let directory = place.path().join("layout");
    let file = place.path().join("archive.tar");
    for name in [
        format!("oci:{}:demo:latest", directory.display()),
        format!("oci:{}:plain", directory.display()),
        format!("oci-archive:{}:demo:latest", file.display()),
    ] {
        skopeo(&["copy", &source, &name]).await;
    }
    for (number, upstream) in [
        Upstream::layout(&directory).unwrap(),
        Upstream::archive(&file).unwrap(),
    ]
    .into_iter()
    .enumerate()
    {
        let address = serve(upstream.clone()).await;
        let name = format!("docker://{address}/demo:latest");
        let back = place.path().join(format!("back{number}"));
        let back = format!("oci:{}:back", back.display());
        skopeo(&["copy", "--src-tls-verify=false", &name, &back]).await;
        let manifest = skopeo(&["inspect", "--raw", &back]).await;
        assert_eq!(Digest::of(&manifest), image.digest());

        let name = format!("docker://{address}/demo");
        let tags = skopeo(&["list-tags", "--tls-verify=false", &name]).await;
        let tags = String::from_utf8(tags).unwrap();
        assert!(tags.contains("latest"), "{tags}");
        assert_eq!(tags.contains("plain"), number == 0, "{tags}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_skopeo_adds_later_is_found() {
    if !has("skopeo") {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let (first, second) = (Image::of(b"first"), Image::of(b"second"));
    let source = Upstream::create_layout(&place.path().join("source")).unwrap();
    first.push(&source, "layout", "1").await;
    second.push(&source, "layout", "2").await;
    let copy = async |tag: &str, target: &str| {
        let from = format!("oci:{}:{tag}", place.path().join("source").display());
        let to = format!("oci:{}{target}", place.path().join("target").display());
        skopeo(&["copy", &from, &to]).await;
    };
    // Without a tag: what most people type.
    copy("1", "").await;
    let target = Upstream::layout(&place.path().join("target")).unwrap();
    assert_eq!(
        resolved(&target, "any", "latest").await,
        Some(first.digest())
    );
    assert_eq!(resolved(&target, "demo", "2").await, None);
    copy("2", ":demo:2").await;
    assert_eq!(resolved(&target, "demo", "2").await, Some(second.digest()));
    assert_eq!(
        resolved(&target, "any", "latest").await,
        Some(first.digest())
    );
}
