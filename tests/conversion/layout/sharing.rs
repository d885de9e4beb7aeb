//! Files that a layout shares with whoever pushes them, instead of copying them.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use overlaybd_proxy::oci::Digest;
use overlaybd_proxy::registry::{BlobSource, Error, Pushed, Sharing, Upstream};

use super::support::*;

const BYTES: &[u8] = b"bytes of a blob";

fn blob_path(layout: &Path, digest: &Digest) -> PathBuf {
    layout.join("blobs/sha256").join(digest.hex())
}

/// A file for its owner alone, as the store has them.
fn private_file(directory: &Path) -> PathBuf {
    let path = directory.join("private");
    fs::write(&path, BYTES).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}

async fn push(
    layout: &Upstream,
    digest: &Digest,
    path: &Path,
    sharing: Sharing,
) -> Result<Pushed, Error> {
    let source = BlobSource::Verified {
        path: path.to_owned(),
        sharing,
    };
    let size = BYTES.len() as u64;
    layout
        .push_blob(&repo("x"), digest, size, &source, &OWN)
        .await
}

#[tokio::test]
async fn a_temporary_file_is_linked_and_gets_the_permissions_of_the_layout() {
    let place = tempfile::tempdir().unwrap();
    let layout = Upstream::create_layout(&place.path().join("layout")).unwrap();
    let (digest, file) = (Digest::of(BYTES), private_file(place.path()));
    let pushed = push(&layout, &digest, &file, Sharing::Inode).await;
    assert_eq!(pushed.unwrap(), Pushed::Uploaded);
    let path = blob_path(&place.path().join("layout"), &digest);
    let (there, source) = (fs::metadata(&path).unwrap(), fs::metadata(&file).unwrap());
    assert_eq!(there.ino(), source.ino());
    let mark = fs::metadata(place.path().join("layout/oci-layout")).unwrap();
    assert_eq!(there.mode(), mark.mode());
    fs::remove_file(&file).unwrap();
    assert_eq!(fs::read(&path).unwrap(), BYTES);
    assert_eq!(fs::metadata(&path).unwrap().nlink(), 1);
    // What is there already is left alone.
    let file = private_file(place.path());
    let again = push(&layout, &digest, &file, Sharing::Inode).await;
    assert_eq!(again.unwrap(), Pushed::Present);
}

#[tokio::test]
async fn a_file_that_its_owner_keeps_has_no_name_in_the_layout() {
    let place = tempfile::tempdir().unwrap();
    let layout = Upstream::create_layout(&place.path().join("layout")).unwrap();
    let (digest, file) = (Digest::of(BYTES), private_file(place.path()));
    let pushed = push(&layout, &digest, &file, Sharing::Blocks).await;
    assert_eq!(pushed.unwrap(), Pushed::Uploaded);
    let path = blob_path(&place.path().join("layout"), &digest);
    let (there, source) = (fs::metadata(&path).unwrap(), fs::metadata(&file).unwrap());
    assert_ne!(there.ino(), source.ino());
    assert_eq!((source.nlink(), source.mode() & 0o777), (1, 0o600));
    // A change of the one is none of the other.
    fs::write(&path, "changed").unwrap();
    assert_eq!(fs::read(&file).unwrap(), BYTES);
}

#[tokio::test]
async fn a_file_of_another_file_system_is_copied_and_verified() {
    let place = tempfile::tempdir().unwrap();
    let elsewhere = Path::new("/dev/shm");
    let device = |path: &Path| fs::metadata(path).ok().map(|found| found.dev());
    if device(elsewhere).is_none() || device(elsewhere) == device(place.path()) {
        eprintln!("SKIPPED: /dev/shm is no other file system");
        return;
    }
    let elsewhere = tempfile::tempdir_in(elsewhere).unwrap();
    let layout = Upstream::create_layout(place.path()).unwrap();
    let file = private_file(elsewhere.path());
    let wrong = Digest::of(b"other bytes");
    let refused = push(&layout, &wrong, &file, Sharing::Inode).await;
    assert!(matches!(
        refused,
        Err(Error::Mismatch { what: "digest", .. })
    ));
    let digest = Digest::of(BYTES);
    let pushed = push(&layout, &digest, &file, Sharing::Inode).await;
    assert_eq!(pushed.unwrap(), Pushed::Uploaded);
    let there = fs::read(blob_path(place.path(), &digest)).unwrap();
    assert_eq!(there, BYTES);
}

#[tokio::test]
async fn a_file_of_another_length_is_refused_however_it_is_shared() {
    let place = tempfile::tempdir().unwrap();
    let layout = Upstream::create_layout(&place.path().join("layout")).unwrap();
    let digest = Digest::of(BYTES);
    let file = private_file(place.path());
    fs::write(&file, "shorter").unwrap();
    for sharing in [Sharing::Inode, Sharing::Blocks] {
        let refused = push(&layout, &digest, &file, sharing).await;
        assert!(matches!(
            refused,
            Err(Error::Mismatch { what: "length", .. })
        ));
    }
    let blobs = fs::read_dir(place.path().join("layout/blobs/sha256")).unwrap();
    assert_eq!(blobs.count(), 0);
}

#[tokio::test]
async fn a_temporary_directory_is_removed_with_its_owner_or_after_it_was_killed() {
    let place = tempfile::tempdir().unwrap();
    let layout = Upstream::create_layout(place.path()).unwrap();
    let temporary = layout.temporary_directory().unwrap().unwrap();
    let path = temporary.path().to_owned();
    fs::write(path.join("file"), "x").unwrap();
    // Another process may use the layout meanwhile.
    Upstream::create_layout(place.path()).unwrap();
    assert!(path.join("file").exists());
    drop(temporary);
    assert!(!path.exists());
    let left = place.path().join(".overlaybd-proxy-store-Ab3xYz");
    // Names that others chose.
    let others = [".overlaybd-proxy-data", ".overlaybd-proxy-store-of-mine"];
    let others = others.map(|name| place.path().join(name));
    for directory in others.iter().chain([&left]) {
        fs::create_dir(directory).unwrap();
        File::create(directory.join("file")).unwrap();
    }
    Upstream::create_layout(place.path()).unwrap();
    assert!(!left.exists());
    assert!(others.iter().all(|directory| directory.exists()));
}
