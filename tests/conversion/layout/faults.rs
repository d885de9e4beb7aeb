//! Damaged and hostile layouts: errors that say so, never a panic, never wrong bytes.

use std::os::unix::fs::symlink;
use std::path::Path;

use overlaybd_proxy::oci::Digest;
use overlaybd_proxy::registry::{Error, RegistryConfig, Upstream};

use super::support::*;

async fn layout_with(image: &Image, path: &Path) -> Upstream {
    let layout = Upstream::create_layout(path).unwrap();
    image.push(&layout, "demo", "1").await;
    layout
}

fn blob(root: &Path, digest: &Digest) -> std::path::PathBuf {
    root.join("blobs")
        .join(digest.algorithm())
        .join(digest.hex())
}

#[tokio::test]
async fn a_damaged_manifest_is_an_error() {
    let place = tempfile::tempdir().unwrap();
    let image = Image::of(b"x");
    let layout = layout_with(&image, place.path()).await;
    let path = blob(place.path(), &image.digest());
    let mut bytes = image.manifest.to_vec();
    bytes[20] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let read = layout.manifest(&repo("demo"), &selector("1"), &OWN).await;
    assert!(matches!(read, Err(Error::Mismatch { what: "digest", .. })));
    bytes.pop();
    std::fs::write(&path, &bytes).unwrap();
    let read = layout.manifest(&repo("demo"), &selector("1"), &OWN).await;
    assert!(matches!(read, Err(Error::Mismatch { what: "length", .. })));
    std::fs::remove_file(&path).unwrap();
    assert_eq!(resolved(&layout, "demo", "1").await, None);
}

#[tokio::test]
async fn other_directories_and_files_are_refused_as_layouts() {
    let place = tempfile::tempdir().unwrap();
    let open = |name: &str| {
        Upstream::layout(&place.path().join(name))
            .unwrap_err()
            .to_string()
    };
    assert!(open("nowhere").contains("nowhere"));
    std::fs::create_dir(place.path().join("bare")).unwrap();
    assert!(open("bare").contains("oci-layout"));
    for (number, (mark, index)) in [
        ("{}", r#"{"manifests":[]}"#),
        (r#"{"imageLayoutVersion":"2.0.0"}"#, r#"{"manifests":[]}"#),
        (r#"{"imageLayoutVersion":"1.0.0"}"#, "{"),
        (r#"{"imageLayoutVersion":"1.0.0"}"#, "[]"),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("bad{number}");
        std::fs::create_dir(place.path().join(&name)).unwrap();
        std::fs::write(place.path().join(&name).join("oci-layout"), mark).unwrap();
        std::fs::write(place.path().join(&name).join("index.json"), index).unwrap();
        assert!(open(&name).contains(&name));
    }
    let taken = place.path().join("taken");
    std::fs::create_dir(&taken).unwrap();
    std::fs::write(taken.join("thesis.tex"), "").unwrap();
    let error = Upstream::create_layout(&taken).unwrap_err().to_string();
    assert!(error.contains("thesis.tex"), "{error}");
}

#[tokio::test]
async fn a_blob_that_is_a_symbolic_link_is_not_followed() {
    let place = tempfile::tempdir().unwrap();
    let image = Image::of(b"x");
    let root = place.path().join("layout");
    let layout = layout_with(&image, &root).await;
    let digest = Digest::of(&image.layer);
    let path = blob(&root, &digest);
    let secret = place.path().join("secret");
    std::fs::write(&secret, &image.layer).unwrap();
    let read = async || layout.blob_size(&repo("x"), &digest, &OWN).await;

    for target in [secret.as_path(), Path::new("../../../secret")] {
        std::fs::remove_file(&path).unwrap();
        symlink(target, &path).unwrap();
        let error = read().await.unwrap_err();
        assert!(
            !error.is_not_found() && error.to_string().contains("leads out"),
            "{error}"
        );
    }
    // Within the layout a link may lead anywhere.
    std::fs::remove_file(&path).unwrap();
    std::fs::write(root.join("blobs/shared"), &image.layer).unwrap();
    symlink("../shared", &path).unwrap();
    assert_eq!(read().await.unwrap(), image.layer.len() as u64);

    std::fs::remove_file(&path).unwrap();
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let error = read().await.unwrap_err().to_string();
    assert!(error.contains("no regular file"), "{error}");
}

#[tokio::test]
async fn an_invalid_index_json_is_an_error_until_it_is_valid_again() {
    let place = tempfile::tempdir().unwrap();
    let image = Image::of(b"x");
    let layout = layout_with(&image, place.path()).await;
    let path = place.path().join("index.json");
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    let read = layout
        .head_manifest(&repo("demo"), &selector("1"), &OWN)
        .await;
    assert!(matches!(read, Err(Error::Invalid { .. })), "{read:?}");
    std::fs::write(&path, &whole).unwrap();
    assert_eq!(resolved(&layout, "demo", "1").await, Some(image.digest()));
}

#[tokio::test]
async fn an_index_rewritten_in_place_at_the_same_length_is_noticed() {
    let place = tempfile::tempdir().unwrap();
    let (one, two) = (Image::of(b"1"), Image::of(b"2"));
    let layout = layout_with(&one, place.path()).await;
    two.push(&layout, "demo", "2").await;
    let path = place.path().join("index.json");
    let text = std::fs::read_to_string(&path).unwrap();
    for _ in 0..20 {
        std::fs::write(&path, text.replace("demo:2", "demo:3")).unwrap();
        assert_eq!(resolved(&layout, "demo", "2").await, None);
        std::fs::write(&path, &text).unwrap();
        assert_eq!(resolved(&layout, "demo", "2").await, Some(two.digest()));
    }
}

#[tokio::test]
async fn a_truncated_archive_is_an_error_or_gives_right_content() {
    let place = tempfile::tempdir().unwrap();
    let (whole, image) = archive(place.path()).await;
    let file = place.path().join("cut.tar");
    let mut refused = 0;
    for len in (0..whole.len())
        .step_by(97)
        .chain([whole.len() - 1, whole.len() - 1024])
    {
        std::fs::write(&file, &whole[..len]).unwrap();
        match Upstream::archive(&file) {
            Err(_) => refused += 1,
            Ok(cut) => {
                if let Some(digest) = resolved(&cut, "demo", "1").await {
                    assert_eq!(digest, image.digest());
                }
            }
        }
    }
    assert!(refused > 20, "{refused}");
}

#[tokio::test]
async fn an_archive_with_a_flipped_bit_gives_no_wrong_manifest() {
    let place = tempfile::tempdir().unwrap();
    let (whole, image) = archive(place.path()).await;
    let file = place.path().join("flipped.tar");
    let (mut refused, mut right) = (0, 0);
    for at in (0..whole.len()).step_by(31) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        std::fs::write(&file, &bytes).unwrap();
        let Ok(flipped) = Upstream::archive(&file) else {
            refused += 1;
            continue;
        };
        let read = flipped.manifest(&repo("demo"), &selector("1"), &OWN).await;
        match read {
            Ok(manifest) => {
                assert_eq!(manifest.bytes, image.manifest);
                right += 1;
            }
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 10 && right > 10, "{refused} {right}");
}

/// The bytes of an archive of one image, which is at `demo:1` in it.
async fn archive(place: &Path) -> (Vec<u8>, Image) {
    let file = place.join("whole.tar");
    let name = format!("oci-archive:{}", file.display());
    let archive =
        Upstream::destination(&name.parse().unwrap(), &RegistryConfig::default()).unwrap();
    let image = Image::of(b"content");
    image.push(&archive, "demo", "1").await;
    archive.finish().await.unwrap();
    (std::fs::read(&file).unwrap(), image)
}

#[tokio::test]
async fn an_archive_with_wrong_lengths_is_refused() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("lies.tar");
    let member = |kind: tar::EntryType, name: &str, size: u64, data: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_path(name).unwrap();
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_cksum();
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend_from_slice(data);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes
    };
    let regular = tar::EntryType::Regular;
    let mark = br#"{"imageLayoutVersion":"1.0.0"}"#;
    let index = br#"{"manifests":[]}"#;
    let good = [
        member(regular, "./oci-layout", mark.len() as u64, mark),
        member(regular, "./index.json", index.len() as u64, index),
    ]
    .concat();
    std::fs::write(&file, &good).unwrap();
    Upstream::archive(&file).unwrap();

    let digest = Digest::of(b"");
    let name = format!("blobs/sha256/{}", digest.hex());
    let pax = |records: &[u8]| {
        member(
            tar::EntryType::XHeader,
            "pax",
            records.len() as u64,
            records,
        )
    };
    for (what, bytes) in [
        ("a size beyond all", member(regular, &name, u64::MAX, b"")),
        (
            "a size beyond the end",
            member(regular, &name, 1 << 40, b""),
        ),
        (
            "a huge extension",
            member(tar::EntryType::XHeader, "pax", 1 << 40, b""),
        ),
        ("a long extension", {
            let long = vec![b'x'; 1 << 20];
            member(
                tar::EntryType::GNULongName,
                "long",
                long.len() as u64,
                &long,
            )
        }),
        (
            "a pax size beyond all",
            [
                pax(b"29 size=18446744073709551615\n"),
                member(regular, &name, 0, b""),
            ]
            .concat(),
        ),
        (
            "a pax record that lies",
            [pax(b"99 size=1\n"), member(regular, &name, 0, b"")].concat(),
        ),
        ("a link", member(tar::EntryType::Symlink, &name, 0, b"")),
        (
            "a sparse file",
            [
                pax(b"22 GNU.sparse.major=1\n"),
                member(regular, &name, 0, b""),
            ]
            .concat(),
        ),
        ("half a header", vec![1; 100]),
    ] {
        std::fs::write(&file, [good.clone(), bytes].concat()).unwrap();
        let error = Upstream::archive(&file)
            .map(|_| what)
            .unwrap_err()
            .to_string();
        assert!(error.contains("lies.tar"), "{what}: {error}");
    }
    std::fs::write(&file, b"").unwrap();
    assert!(
        Upstream::archive(&file)
            .unwrap_err()
            .to_string()
            .contains("oci-layout")
    );
}
