//! Blob files that are not what they were: nothing is read of them, and they make way. A
//! program of its own, which starts no other.

mod store_support;

use std::fs::{self, File};
use std::io::Write;
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use overlaybd_proxy::oci::Digest;
use overlaybd_proxy::store::{Aside, BlobStore, Damage, Examined};
use store_support::{content, put};

const HOUR: Duration = Duration::from_hours(1);

fn open(data: &Path) -> BlobStore {
    BlobStore::at(data, None, HOUR).unwrap()
}

fn children(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

fn flip(path: &Path) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 3).unwrap();
    file.write_all_at(&[byte[0] ^ 1], 3).unwrap();
}

/// Damage as a disk does it: no time tells.
fn rot(path: &Path) {
    let file = File::open(path).unwrap();
    let modified = file.metadata().unwrap().modified().unwrap();
    flip(path);
    file.set_modified(modified).unwrap();
}

fn set_len(path: &Path, len: u64) {
    let file = File::options().write(true).open(path).unwrap();
    file.set_len(len).unwrap();
}

fn replace(path: &Path, with: impl FnOnce(&Path)) {
    fs::remove_file(path).unwrap();
    with(path);
}

const CONTENT: &[u8] = b"the content of a blob";

type Harm = (&'static str, fn(&Path));

/// What may become of a file, and what is then said of it.
const HARMS: [Harm; 8] = [
    ("its bytes have the digest", flip),
    ("it has 20 bytes, not 21", |path| set_len(path, 20)),
    ("it has 0 bytes, not 21", |path| set_len(path, 0)),
    ("it has 4096 bytes, not 21", |path| set_len(path, 4096)),
    ("it is a directory", |path| {
        replace(path, |path| {
            fs::create_dir(path).unwrap();
            fs::write(path.join("inside"), "x").unwrap();
        });
    }),
    ("it is a symbolic link", |path| {
        let elsewhere = path.with_extension("elsewhere");
        fs::rename(path, &elsewhere).unwrap();
        std::os::unix::fs::symlink(elsewhere, path).unwrap();
    }),
    ("it is a named pipe", |path| {
        let mode = nix::sys::stat::Mode::S_IRWXU;
        replace(path, |path| nix::unistd::mkfifo(path, mode).unwrap());
    }),
    ("it is a socket", |path| {
        replace(path, |path| {
            drop(std::os::unix::net::UnixListener::bind(path).unwrap());
        });
    }),
];

#[test]
fn a_damaged_file_is_moved_aside_and_the_blob_is_not_there() {
    for (place, (_, harm)) in HARMS.into_iter().enumerate() {
        for is_restarted in [true, false] {
            let data = tempfile::tempdir().unwrap();
            let mut store = open(data.path());
            let digest = put(&store, CONTENT);
            let before = store.open(&digest).unwrap().unwrap();
            if is_restarted {
                store = open(data.path());
            }
            harm(&store.path(&digest));
            assert!(store.open(&digest).unwrap().is_none(), "{place}");
            assert_eq!(children(&data.path().join("damaged")).len(), 1, "{place}");
            assert_eq!(store.counters().damaged, 1);
            assert!(!store.contains(&digest).unwrap());
            assert!(store.list().unwrap().is_empty());
            // A reader that had this very file open gets an error; one of another file does not.
            assert_eq!(before.is_suspect(), !is_restarted && place < 4, "{place}");
            drop(before);
            put(&store, CONTENT);
            assert_eq!(content(&store.open(&digest).unwrap().unwrap()), CONTENT);
            assert_eq!(store.counters().damaged, 1, "{place}");
        }
    }
}

#[test]
fn a_commit_replaces_any_file_in_the_blobs_place() {
    for (place, (_, harm)) in HARMS.into_iter().enumerate() {
        for is_small in [true, false] {
            let data = tempfile::tempdir().unwrap();
            let store = open(data.path());
            let digest = put(&store, CONTENT);
            harm(&store.path(&digest));
            if is_small {
                put(&store, CONTENT);
            } else {
                let temp = store.begin().unwrap();
                temp.file().write_all(CONTENT).unwrap();
                drop(store.commit(temp, &digest, 21).unwrap());
            }
            let read = content(&store.open(&digest).unwrap().unwrap());
            assert_eq!(read, CONTENT, "{place}");
            assert_eq!(fs::read(store.path(&digest)).unwrap(), CONTENT, "{place}");
        }
    }
}

#[test]
fn a_commit_replaces_a_file_with_undetected_damage() {
    let data = tempfile::tempdir().unwrap();
    let store = open(data.path());
    let digest = put(&store, CONTENT);
    rot(&store.path(&digest));
    let rotten = store.open(&digest).unwrap().unwrap();
    assert_ne!(content(&rotten), CONTENT, "only reading all of it tells");
    put(&store, CONTENT);
    assert_eq!(content(&store.open(&digest).unwrap().unwrap()), CONTENT);
    let large = vec![7; 1 << 20];
    let digest = put(&store, &large);
    rot(&store.path(&digest));
    let temp = store.begin().unwrap();
    temp.file().write_all(&large).unwrap();
    drop(store.commit(temp, &digest, 1 << 20).unwrap());
    assert_eq!(content(&store.open(&digest).unwrap().unwrap()), large);
}

#[test]
fn a_small_blob_is_compared_each_time_that_all_of_it_is_read() {
    let data = tempfile::tempdir().unwrap();
    let store = open(data.path());
    let digest = put(&store, CONTENT);
    let blob = store.open(&digest).unwrap().unwrap();
    assert_eq!(blob.read_all().unwrap().unwrap(), CONTENT);
    rot(&store.path(&digest));
    assert!(blob.read_all().unwrap().is_none());
    assert!(blob.is_suspect());
    assert!(store.open(&digest).unwrap().is_none());
}

#[test]
fn a_file_is_verified_once_after_a_start_and_when_it_was_replaced() {
    let data = tempfile::tempdir().unwrap();
    let first = open(data.path());
    let digest = put(&first, CONTENT);
    for _ in 0..3 {
        drop(first.open(&digest).unwrap().unwrap());
    }
    assert_eq!(first.counters().verified, 0, "its own commit is enough");
    let store = open(data.path());
    for _ in 0..3 {
        drop(store.open(&digest).unwrap().unwrap());
        // Another process notes its use, as it does a minute later.
        let file = File::open(store.path(&digest)).unwrap();
        file.set_modified(SystemTime::now() - HOUR).unwrap();
        drop(first.open(&digest).unwrap().unwrap());
    }
    assert_eq!(store.counters().verified, 1);
    assert_eq!(store.counters().verified_bytes, 21);
    // Copied back by someone, as good as it was.
    let path = store.path(&digest);
    fs::copy(&path, path.with_extension("copy")).unwrap();
    fs::rename(path.with_extension("copy"), &path).unwrap();
    drop(store.open(&digest).unwrap().unwrap());
    drop(store.open(&digest).unwrap().unwrap());
    assert_eq!(store.counters().verified, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_verifications_of_a_file_read_it_once() {
    let data = tempfile::tempdir().unwrap();
    let large = vec![5; 8 << 20];
    let digest = put(&open(data.path()), &large);
    let store = open(data.path());
    let mut waiting = Vec::new();
    for n in 0..64 {
        let (store, digest) = (store.clone(), digest.clone());
        waiting.push(if n % 2 == 0 {
            tokio::spawn(async move { store.open_async(&digest).await.unwrap() })
        } else {
            tokio::task::spawn_blocking(move || store.open(&digest).unwrap())
        });
    }
    for blob in waiting {
        assert_eq!(blob.await.unwrap().unwrap().size(), 8 << 20);
    }
    assert_eq!(store.counters().verified, 1);
    assert!(store.open_async(&Digest::of(b"")).await.unwrap().is_none());
}

#[test]
fn a_write_to_an_open_file_is_detected_by_its_metadata() {
    let data = tempfile::tempdir().unwrap();
    let store = open(data.path());
    let digest = put(&store, CONTENT);
    let blob = store.open(&digest).unwrap().unwrap();
    assert!(blob.look_again() && !blob.is_suspect());
    flip(&store.path(&digest));
    assert!(!blob.look_again() && blob.is_suspect());
    assert!(store.open(&digest).unwrap().is_none());
    // Another process found it damaged, and moved it.
    put(&store, CONTENT);
    let blob = store.open(&digest).unwrap().unwrap();
    rot(&store.path(&digest));
    assert!(blob.look_again(), "nothing tells");
    assert!(open(data.path()).open(&digest).unwrap().is_none());
    assert!(!blob.look_again() && !blob.is_suspect());
}

#[test]
fn an_unfounded_suspicion_causes_one_verification() {
    let data = tempfile::tempdir().unwrap();
    let store = open(data.path());
    let digest = put(&store, CONTENT);
    let blob = store.open(&digest).unwrap().unwrap();
    blob.suspect();
    assert!(blob.is_suspect());
    assert!(!store.open(&digest).unwrap().unwrap().is_suspect());
    assert_eq!(store.counters().verified, 1);
    assert_eq!(store.counters().damaged, 0);
}

#[test]
fn only_the_last_few_damaged_files_are_kept_and_no_large_ones() {
    let data = tempfile::tempdir().unwrap();
    let store = BlobStore::at(data.path(), Some(80_000), HOUR).unwrap();
    let damaged = data.path().join("damaged");
    for seed in 0..40_u8 {
        let digest = put(&store, &[seed; 100]);
        flip(&store.path(&digest));
        assert!(store.open(&digest).unwrap().is_none());
    }
    assert_eq!(children(&damaged).len(), 16);
    // An eighth of the cache is too little for this one, and enough for those.
    let digest = put(&store, &[1; 10_001]);
    flip(&store.path(&digest));
    let examined = store.examine(&digest, true, |_| true).unwrap();
    let Examined::Damaged { aside, .. } = examined else {
        panic!("{examined:?}");
    };
    assert_eq!(aside, Some(Aside::Removed));
    assert!(!store.contains(&digest).unwrap());
    let bytes = children(&damaged)
        .iter()
        .map(|path| path.metadata().unwrap().len())
        .sum::<u64>();
    assert!(bytes <= 10_000, "{bytes}");
}

#[test]
fn an_examination_does_not_count_as_use_nor_block_eviction() {
    let data = tempfile::tempdir().unwrap();
    let store = BlobStore::at(data.path(), Some(1), Duration::ZERO).unwrap();
    let digest = put(&store, &vec![9; 4 << 20]);
    let path = store.path(&digest);
    let file = File::open(&path).unwrap();
    let long_ago = SystemTime::now() - HOUR * 48;
    file.set_modified(long_ago).unwrap();
    drop(file);
    let other = open(data.path());
    let before = other.list().unwrap();
    let examined = other.examine(&digest, true, |_| true).unwrap();
    assert_eq!(examined, Examined::Sound);
    assert_eq!(other.list().unwrap(), before, "the last use is as it was");
    let examined = other.examine(&digest, true, |_| false).unwrap();
    assert_eq!(examined, Examined::Stopped);
    let mut evicted = 0;
    let examined = other.examine(&digest, true, |_| {
        evicted += store.evict().unwrap();
        true
    });
    assert_eq!(examined.unwrap(), Examined::Gone);
    assert_eq!(evicted, 4 << 20);
    assert_eq!(other.counters().damaged, 0);
}

#[test]
fn an_examination_reports_damage_and_moves_files_on_request_only() {
    for (said, harm) in HARMS {
        let data = tempfile::tempdir().unwrap();
        let store = open(data.path());
        let digest = put(&store, CONTENT);
        harm(&store.path(&digest));
        let entries = store.entries().unwrap();
        assert_eq!(entries.len(), 1);
        assert_eq!(entries[0].digest, digest);
        for is_moving in [false, true] {
            let examined = store.examine(&digest, is_moving, |_| true).unwrap();
            let Examined::Damaged { damage, aside } = examined else {
                panic!("{said}: {examined:?}");
            };
            assert!(damage.to_string().starts_with(said), "{damage}");
            let is_gone = fs::symlink_metadata(store.path(&digest)).is_err();
            assert_eq!(is_gone, is_moving, "{said}");
            assert_eq!(aside.is_some(), is_moving, "{said}");
        }
        let examined = store.examine(&digest, true, |_| true).unwrap();
        assert_eq!(examined, Examined::Gone);
    }
}

#[test]
fn a_file_with_read_errors_is_damaged() {
    let data = tempfile::tempdir().unwrap();
    let store = open(data.path());
    let digest = put(&store, CONTENT);
    fs::set_permissions(
        store.path(&digest),
        std::os::unix::fs::PermissionsExt::from_mode(0o0),
    )
    .unwrap();
    if File::open(store.path(&digest)).is_ok() {
        eprintln!("SKIPPED: root may read everything");
        return;
    }
    let examined = store.examine(&digest, false, |_| true).unwrap();
    let Examined::Damaged { damage, .. } = examined else {
        panic!("{examined:?}");
    };
    assert!(matches!(damage, Damage::Unreadable(_)));
    assert!(store.open(&digest).unwrap().is_none());
    put(&store, CONTENT);
    assert_eq!(content(&store.open(&digest).unwrap().unwrap()), CONTENT);
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < Duration::from_mins(2), "not yet: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

const FAST: NonZeroU64 = NonZeroU64::new(1 << 30).unwrap();

#[test]
fn the_scrubber_finds_damage_that_metadata_does_not_show() {
    let data = tempfile::tempdir().unwrap();
    let store = open(data.path());
    let digests: Vec<Digest> = (0..20_u8).map(|seed| put(&store, &[seed; 5000])).collect();
    let rotten = store.open(&digests[7]).unwrap().unwrap();
    rot(&store.path(&digests[7]));
    fs::create_dir(store.path(&Digest::of(b"a directory"))).unwrap_or_else(|_| {
        let path = store.path(&Digest::of(b"a directory"));
        fs::create_dir_all(path).unwrap();
    });
    let scrubber = store.scrub(FAST).unwrap();
    wait_until("a round", || store.counters().scrub_rounds >= 1);
    drop(scrubber);
    let counters = store.counters();
    assert_eq!(counters.damaged, 2);
    assert!(counters.scrubbed >= 21 && counters.scrubbed_bytes >= 100_000);
    assert!(counters.scrub_last_round > 1_600_000_000);
    assert!(rotten.is_suspect());
    assert_eq!(store.list().unwrap().len(), 19);
    // A later process knows when that was.
    let later = open(data.path());
    let scrubber = later.scrub(FAST).unwrap();
    wait_until("the time is read", || {
        later.counters().scrub_last_round >= counters.scrub_last_round
    });
    drop(scrubber);
}

#[test]
fn one_process_scrubs_a_directory_until_another_takes_over() {
    let data = tempfile::tempdir().unwrap();
    let (first, second) = (open(data.path()), open(data.path()));
    put(&first, CONTENT);
    let one = first.scrub(FAST).unwrap();
    wait_until("a round of the first", || {
        first.counters().scrub_rounds >= 1
    });
    let other = second.scrub(FAST).unwrap();
    wait_until("another round of the first", || {
        first.counters().scrub_rounds >= 2
    });
    assert_eq!(second.counters().scrubbed, 0);
    drop((one, other));
    // The lock ends with the thread.
    let lock = File::open(data.path().join("scrub")).unwrap();
    wait_until("the lock is free", || lock.try_lock().is_ok());
    lock.unlock().unwrap();
    let _other = second.scrub(FAST).unwrap();
    wait_until("a round of the second", || {
        second.counters().scrub_rounds >= 1
    });
}
