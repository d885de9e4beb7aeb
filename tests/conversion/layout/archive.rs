//! OCI archives: the same bytes for the same images, read where they lie.

use futures_util::TryStreamExt;
use overlaybd_proxy::oci::Digest;
use overlaybd_proxy::registry::{BlobSource, Error, RegistryConfig, Upstream};

use super::support::*;

fn create(file: &std::path::Path) -> Upstream {
    let name = format!("oci-archive:{}", file.display());
    Upstream::destination(&name.parse().unwrap(), &RegistryConfig::default()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archives_bytes_do_not_depend_on_the_order_that_blobs_came_in() {
    let place = tempfile::tempdir().unwrap();
    let image = Image::of(b"same");
    let mut made = Vec::new();
    for order in 0..3 {
        let file = place.path().join(format!("{order}.tar"));
        let archive = create(&file);
        let mut blobs: Vec<bytes::Bytes> = (0..9u8).map(|n| vec![n; 5000].into()).collect();
        blobs.rotate_left(order * 2);
        let mut pushes = tokio::task::JoinSet::new();
        for blob in blobs {
            let archive = archive.clone();
            pushes.spawn(async move { push_blob(&archive, &blob).await });
        }
        pushes.join_all().await;
        image.push(&archive, "demo", "1").await;
        archive.finish().await.unwrap();
        made.push(std::fs::read(&file).unwrap());
    }
    assert!(made.iter().all(|bytes| *bytes == made[0]));
    let entries = std::fs::read_dir(place.path()).unwrap().count();
    assert_eq!(entries, 3, "nothing is left beside the archives");
}

#[tokio::test]
async fn an_unfinished_archive_leaves_no_file_and_replaces_none() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("archive.tar");
    std::fs::write(&file, "old").unwrap();
    let archive = create(&file);
    Image::of(b"new").push(&archive, "demo", "1").await;
    assert_eq!(std::fs::read(&file).unwrap(), b"old");
    drop(archive);
    assert_eq!(std::fs::read(&file).unwrap(), b"old");
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn an_archive_is_read_by_ranges_and_never_written() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("archive.tar");
    let image = Image::of(&vec![3; 700_000]);
    let archive = create(&file);
    image.push(&archive, "demo", "1").await;
    // A name of over a hundred characters in the tar.
    let long: Digest = format!("sha512:{}", sha512_of_empty()).parse().unwrap();
    let source = BlobSource::Bytes("".into());
    archive
        .push_blob(&repo("x"), &long, 0, &source, &OWN)
        .await
        .unwrap();
    archive.finish().await.unwrap();

    let read = Upstream::archive(&file).unwrap();
    let (digest, size) = (Digest::of(&image.layer), image.layer.len() as u64);
    let parts: Vec<bytes::Bytes> = read
        .blob(&repo("demo"), &digest, size, &OWN)
        .await
        .unwrap()
        .try_collect()
        .await
        .unwrap();
    assert_eq!(parts.concat(), image.layer);
    let part = read
        .blob_range(&repo("demo"), &digest, 600..1600, &OWN)
        .await
        .unwrap();
    assert_eq!(part, image.layer[600..1600]);
    assert_eq!(read.blob_size(&repo("demo"), &long, &OWN).await.unwrap(), 0);
    let pushed = read.push_blob(&repo("x"), &digest, 1, &source, &OWN).await;
    assert!(matches!(pushed, Err(Error::Unsupported { .. })));
}

fn sha512_of_empty() -> &'static str {
    "cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce\
     47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e"
}

#[tokio::test]
async fn an_archive_that_is_replaced_is_read_anew() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("archive.tar");
    let mut reader: Option<Upstream> = None;
    for content in [b"one", b"two"] {
        let image = Image::of(content);
        let archive = create(&file);
        image.push(&archive, "demo", "1").await;
        archive.finish().await.unwrap();
        let reader = reader.get_or_insert_with(|| Upstream::archive(&file).unwrap());
        assert_eq!(resolved(reader, "demo", "1").await, Some(image.digest()));
    }
}

#[tokio::test]
async fn a_compressed_archive_is_refused_with_the_remedy() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("archive.tar.gz");
    std::fs::write(&file, b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03").unwrap();
    let error = Upstream::archive(&file).unwrap_err().to_string();
    assert!(
        error.contains("gzip") && error.contains("decompress"),
        "{error}"
    );
}
