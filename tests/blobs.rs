//! The blob directory: what it keeps, what it lets go, and what a kill leaves. A program of its own: a
//! process that is being started holds the locks that are held here.

mod store_support;

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use overlaybd_proxy::oci::{ChainId, Digest};
use overlaybd_proxy::store::{
    Acquired, BlobError, BlobFile, BlobStore, CacheSize, IndexConfig, Store, StoreConfig,
    StoreError,
};
use parking_lot::{RwLock, RwLockReadGuard};
use proptest::prelude::*;
use store_support::{content, put, skip};

const HOUR: Duration = Duration::from_hours(1);

/// A process that is being started holds, until its exec, whatever is open here, pins too.
static STARTING: RwLock<()> = RwLock::new(());

/// While this is held no process is being started.
fn quiet() -> RwLockReadGuard<'static, ()> {
    STARTING.read()
}

fn start(command: &mut Command) -> std::io::Result<Child> {
    let _alone = STARTING.write();
    command.spawn()
}

fn bytes(seed: u8, size: usize) -> Vec<u8> {
    (0..size).map(|n| seed ^ n.to_le_bytes()[0]).collect()
}

fn files(directory: &Path) -> usize {
    fs::read_dir(directory).map_or(0, Iterator::count)
}

fn blob_path(data_dir: &Path, digest: &Digest) -> std::path::PathBuf {
    let hex = digest.hex();
    data_dir
        .join("blobs")
        .join(digest.algorithm())
        .join(&hex[..2])
        .join(hex)
}

/// Makes a blob's last use on disk older, as for another process.
fn age(data_dir: &Path, digest: &Digest, by: Duration) {
    let file = File::open(blob_path(data_dir, digest)).unwrap();
    file.set_modified(SystemTime::now() - by).unwrap();
}

fn config(data_dir: &Path) -> StoreConfig {
    StoreConfig {
        data_dir: data_dir.to_owned(),
        index: IndexConfig::Sqlite,
        cache_size: CacheSize::Unbounded,
        keep: Duration::ZERO,
        objects: None,
    }
}

#[test]
fn a_committed_blob_is_found_after_reopening_and_no_temporary_file_remains() {
    let data = tempfile::tempdir().unwrap();
    let digest = Digest::of(b"hello");
    {
        let store = BlobStore::at(data.path(), None, HOUR).unwrap();
        assert!(store.open(&digest).unwrap().is_none());
        let temp = store.begin().unwrap();
        temp.file().write_all(b"hello").unwrap();
        assert!(
            store.open(&digest).unwrap().is_none(),
            "visible before its commit"
        );
        assert_eq!(store.bytes_used().unwrap(), 0);
        let blob = store.commit(temp, &digest, 5).unwrap();
        assert_eq!(content(&blob), b"hello");
    }
    let store = BlobStore::at(data.path(), None, HOUR).unwrap();
    let blob = store.open(&digest).unwrap().unwrap();
    assert_eq!(
        (blob.size(), content(&blob).as_slice()),
        (5, b"hello".as_slice())
    );
    assert_eq!(store.list().unwrap()[0].digest, digest);
    assert_eq!(store.bytes_used().unwrap(), 5);
    assert_eq!(files(&data.path().join("tmp")), 0);
    assert!(store.remove(&digest).unwrap() && !store.remove(&digest).unwrap());
    assert_eq!(content(&blob), b"hello", "a reader keeps what it has");
    assert!(!store.contains(&digest).unwrap());
}

#[test]
fn blobs_that_are_put_together_are_all_there_in_their_order() {
    let data = tempfile::tempdir().unwrap();
    let digests = [1, 2, 3].map(|seed| Digest::of(&bytes(seed, 100)));
    let contents = [1, 2, 3].map(|seed| bytes(seed, 100));
    {
        let store = BlobStore::at(data.path(), None, HOUR).unwrap();
        let there = put(&store, &contents[1]);
        assert_eq!(there, digests[1]);
        let all: Vec<(&Digest, &[u8])> = digests
            .iter()
            .zip(contents.iter().map(|it| &**it))
            .collect();
        let placed = store.put_together(&all).unwrap();
        let found: Vec<Vec<u8>> = placed.iter().map(content).collect();
        assert_eq!(found, contents);
        assert!(store.put_together(&[]).unwrap().is_empty());
        let lie = store.put_together(&[(&digests[0], &contents[0]), (&digests[1], &contents[2])]);
        assert!(matches!(lie.unwrap_err(), BlobError::Digest { .. }));
    }
    let store = BlobStore::at(data.path(), None, HOUR).unwrap();
    for (digest, wanted) in digests.iter().zip(&contents) {
        assert_eq!(&content(&store.open(digest).unwrap().unwrap()), wanted);
    }
    assert_eq!(store.list().unwrap().len(), 3);
    assert_eq!(files(&data.path().join("tmp")), 0);
}

#[test]
fn blobs_that_are_put_together_evict_for_all_of_them() {
    let _quiet = quiet();
    let data = tempfile::tempdir().unwrap();
    let store = BlobStore::at(data.path(), Some(300), Duration::ZERO).unwrap();
    let before = [1, 2, 3].map(|seed| put(&store, &bytes(seed, 100)));
    let contents = [4, 5].map(|seed| bytes(seed, 100));
    let [fourth, fifth] = [0, 1].map(|at| Digest::of(&contents[at]));
    let both = [
        (&fourth, contents[0].as_slice()),
        (&fifth, contents[1].as_slice()),
    ];
    drop(store.put_together(&both).unwrap());
    let all = before.iter().chain([&fourth, &fifth]);
    let there: Vec<_> = all.map(|digest| store.contains(digest).unwrap()).collect();
    assert_eq!(there, [false, false, true, true, true]);
    assert_eq!(store.bytes_used().unwrap(), 300);
}

#[test]
fn an_ending_process_leaves_what_was_committed_and_none_of_its_own_files() {
    let data = tempfile::tempdir().unwrap();
    let store = BlobStore::at(data.path(), None, HOUR).unwrap();
    let other = BlobStore::at(data.path(), None, HOUR).unwrap();
    let committed = put(&store, b"committed");
    let (mine, theirs) = (store.begin().unwrap(), other.begin().unwrap());
    mine.file().write_all(b"half").unwrap();
    theirs.file().write_all(b"hello").unwrap();
    assert_eq!(files(&data.path().join("tmp")), 2);
    // A thread is still writing.
    store.abandon_temporary_files();
    assert_eq!(files(&data.path().join("tmp")), 1);
    mine.file().write_all(b" of it").unwrap();
    assert!(store.commit(mine, &Digest::of(b"half of it"), 10).is_err());
    assert!(store.begin().is_err(), "it is created for nobody");
    assert!(store.contains(&committed).unwrap());
    // Others go on.
    let digest = Digest::of(b"hello");
    other.commit(theirs, &digest, 5).unwrap();
    assert!(store.contains(&digest).unwrap());
    assert_eq!(files(&data.path().join("tmp")), 0);
}

#[test]
fn a_blob_with_another_digest_is_refused_and_leaves_no_file() {
    let data = tempfile::tempdir().unwrap();
    let store = BlobStore::at(data.path(), None, HOUR).unwrap();
    let error = store.put_bytes(&Digest::of(b"a"), b"b").unwrap_err();
    assert!(matches!(error, BlobError::Digest { .. }));
    let temp = store.begin().unwrap();
    temp.file().write_all(b"abc").unwrap();
    let error = store.commit(temp, &Digest::of(b"abc"), 4).unwrap_err();
    assert!(matches!(
        error,
        BlobError::Size {
            expected: 4,
            found: 3,
            ..
        }
    ));
    drop(store.begin().unwrap());
    assert!(store.list().unwrap().is_empty());
    assert_eq!(files(&data.path().join("tmp")), 0);
    let sha512 = "sha512:cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e";
    let empty: Digest = sha512.parse().unwrap();
    assert_eq!(store.put_bytes(&empty, b"").unwrap().size(), 0);
    assert_eq!(store.list().unwrap().len(), 1);
}

#[test]
fn the_least_recently_used_goes_first_and_the_bound_holds() {
    let _quiet = quiet();
    let data = tempfile::tempdir().unwrap();
    let store = BlobStore::at(data.path(), Some(300), Duration::ZERO).unwrap();
    let [a, b, c] = [1, 2, 3].map(|seed| put(&store, &bytes(seed, 100)));
    drop(store.open(&a).unwrap().unwrap());
    let d = put(&store, &bytes(4, 100));
    let there = [&a, &b, &c, &d].map(|digest| store.contains(digest).unwrap());
    assert_eq!(there, [true, false, true, true]);
    assert_eq!(store.bytes_used().unwrap(), 300);
    // Larger than the whole cache: it is kept alone, since it is being used.
    let large = put(&store, &bytes(5, 1000));
    assert!(store.contains(&large).unwrap());
    assert_eq!(store.bytes_used().unwrap(), 1000);
    let small = put(&store, &bytes(6, 1));
    assert_eq!(store.list().unwrap().len(), 1);
    assert!(store.contains(&small).unwrap());
}

#[test]
fn a_pinned_blob_is_never_evicted_whoever_pins_it() {
    let _quiet = quiet();
    let data = tempfile::tempdir().unwrap();
    let store = BlobStore::at(data.path(), Some(100), Duration::ZERO).unwrap();
    // Locks belong to open files, so a second store is as good as a second process.
    let other = BlobStore::at(data.path(), Some(100), Duration::ZERO).unwrap();
    let (a, b) = (put(&store, &bytes(1, 100)), Digest::of(&bytes(2, 100)));
    let pin = other.open(&a).unwrap().unwrap();
    let clone = pin.file().try_clone().unwrap();
    drop(pin);
    put(&store, &bytes(2, 100));
    assert!(store.contains(&a).unwrap() && store.contains(&b).unwrap());
    drop(clone);
    assert_eq!(store.evict().unwrap(), 100);
    assert_eq!(store.bytes_used().unwrap(), 100);
}

#[test]
fn what_is_pinned_until_it_is_unpinned_is_evicted_by_no_store() {
    let _quiet = quiet();
    let data = tempfile::tempdir().unwrap();
    let open = || BlobStore::at(data.path(), Some(100), Duration::ZERO).unwrap();
    let (store, other) = (open(), open());
    let a = put(&store, &bytes(1, 100));
    assert_eq!(other.pin(&a).unwrap().unwrap().bytes, 100);
    let b = put(&store, &bytes(2, 100));
    assert_eq!(store.evict().unwrap(), 100);
    assert!(store.contains(&a).unwrap() && !store.contains(&b).unwrap());
    let refused = store.remove(&a).unwrap_err();
    assert!(matches!(refused, BlobError::Pinned { by, .. } if by == a));
    let later = open();
    for store in [&store, &other, &later] {
        assert_eq!(store.evict_to(0).unwrap(), []);
        assert_eq!(store.pinned_use().unwrap().bytes, 100);
    }
    assert!(later.unpin(&a).unwrap() && !store.unpin(&a).unwrap());
    assert_eq!(store.evict_to(0).unwrap().len(), 1);
    assert_eq!(store.pin(&a).unwrap(), None);
    assert_eq!(files(&data.path().join("tmp")), 0);
}

#[test]
fn a_blob_is_kept_for_the_keep_time_after_its_last_use() {
    let _quiet = quiet();
    let data = tempfile::tempdir().unwrap();
    let store = BlobStore::at(data.path(), Some(100), HOUR).unwrap();
    let [a, b, c] = [1, 2, 3].map(|seed| put(&store, &bytes(seed, 100)));
    assert_eq!(
        store.bytes_used().unwrap(),
        300,
        "all are within their time"
    );
    // A later process knows the uses from the disk.
    let store = BlobStore::at(data.path(), Some(100), HOUR).unwrap();
    for digest in [&a, &b, &c] {
        age(data.path(), digest, HOUR * 2);
    }
    drop(store.open(&b).unwrap().unwrap());
    age(data.path(), &c, Duration::from_mins(59));
    assert_eq!(store.evict().unwrap(), 100);
    let there = [&a, &b, &c].map(|digest| store.contains(digest).unwrap());
    assert_eq!(there, [false, true, true]);
    let modified = fs::metadata(blob_path(data.path(), &b))
        .unwrap()
        .modified()
        .unwrap();
    assert!(
        modified.elapsed().unwrap_or_default() < HOUR / 2,
        "the use was written down"
    );
}

#[test]
fn many_uses_are_recorded_with_one_write() {
    let data = tempfile::tempdir().unwrap();
    let store = BlobStore::at(data.path(), None, HOUR * 24).unwrap();
    let a = put(&store, b"a");
    age(data.path(), &a, Duration::from_secs(30));
    let path = blob_path(data.path(), &a);
    let before = fs::metadata(&path).unwrap().modified().unwrap();
    for _ in 0..100 {
        drop(store.open(&a).unwrap().unwrap());
    }
    assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), before);
    let used = store.list().unwrap()[0].last_use;
    assert!(used > before, "this process knows it better");
}

#[test]
fn two_stores_share_one_size_limit() {
    let _quiet = quiet();
    let data = tempfile::tempdir().unwrap();
    let stores = [(); 2].map(|()| BlobStore::at(data.path(), Some(500), Duration::ZERO).unwrap());
    for seed in 0..40 {
        put(&stores[usize::from(seed) % 2], &bytes(seed, 100));
        assert!(stores[0].bytes_used().unwrap() <= 500);
        let seen = stores.each_ref().map(|store| {
            let list = store.list().unwrap();
            list.into_iter()
                .map(|blob| (blob.digest, blob.size))
                .collect::<Vec<_>>()
        });
        assert_eq!(seen[0], seen[1]);
    }
}

#[test]
fn space_is_reserved_before_use_and_blobs_are_evicted_for_it() {
    let data = tempfile::tempdir().unwrap();
    let store = BlobStore::at(data.path(), None, HOUR).unwrap();
    let free = store.bytes_free().unwrap();
    let error = store.reserve(u64::MAX).unwrap_err();
    assert!(matches!(error, BlobError::TooLittleSpace { .. }) && error.is_no_space());
    let half = free / 8 * 5;
    let mut first = store.reserve(half).unwrap();
    assert!(
        store.reserve(half).is_err(),
        "the same room was given twice"
    );
    first.spent(half);
    drop(store.reserve(half).unwrap());
    drop(first);
    drop(store.reserve(half).unwrap());
}

#[test]
fn a_full_disk_fails_one_blob_and_keeps_the_others() {
    let data = tempfile::tempdir().unwrap();
    let mounted = start(
        Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=2m", "tmpfs"])
            .arg(data.path())
            .stderr(Stdio::null()),
    );
    if !mounted.is_ok_and(|mut mount| mount.wait().unwrap().success()) {
        return skip("mounting a small tmpfs needs root");
    }
    let outcome = std::panic::catch_unwind(|| {
        let _quiet = quiet();
        let store = BlobStore::at(data.path(), None, Duration::ZERO).unwrap();
        let small = put(&store, &bytes(1, 1000));
        let error = store.put_bytes(&Digest::of(&bytes(2, 4 << 20)), &bytes(2, 4 << 20));
        let error = error.unwrap_err();
        assert!(error.is_no_space(), "{error}");
        assert_eq!(files(&data.path().join("tmp")), 0);
        assert_eq!(
            content(&store.open(&small).unwrap().unwrap()),
            bytes(1, 1000)
        );
        let big = put(&store, &bytes(3, 1 << 20));
        // A conversion that needs the room gets it from what may go.
        drop(store.reserve(3 << 19).unwrap());
        assert!(!store.contains(&big).unwrap());
    });
    let umount = start(Command::new("umount").arg("-l").arg(data.path()));
    umount.unwrap().wait().unwrap();
    outcome.unwrap();
}

#[test]
fn a_directory_of_another_layout_is_refused() {
    let data = tempfile::tempdir().unwrap();
    fs::write(
        data.path().join("layout"),
        "overlaybd-proxy data directory, layout 2\n",
    )
    .unwrap();
    let error = BlobStore::at(data.path(), None, HOUR).unwrap_err();
    assert!(matches!(error, BlobError::Layout { .. }), "{error}");
    // One whose making was cut short is taken up again.
    fs::write(data.path().join("layout"), "overlaybd-proxy da").unwrap();
    BlobStore::at(data.path(), None, HOUR).unwrap();
    BlobStore::at(data.path(), None, HOUR).unwrap();
}

#[derive(Debug, Clone)]
enum Step {
    Put(u8),
    Pin(u8),
    Unpin(u8),
    Remove(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..20u8).prop_map(Step::Put),
        2 => (0..20u8).prop_map(Step::Pin),
        2 => (0..20u8).prop_map(Step::Unpin),
        1 => (0..20u8).prop_map(Step::Remove),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 24,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]
    #[test]
    fn any_operations_keep_pinned_blobs_and_the_size_limit(
        steps in proptest::collection::vec(step(), 1..60)
    ) {
        const BOUND: u64 = 400;
        let _quiet = quiet();
        let data = tempfile::tempdir().unwrap();
        let store = BlobStore::at(data.path(), Some(BOUND), Duration::ZERO).unwrap();
        let sized = |seed: u8| bytes(seed, 10 + usize::from(seed) * 10);
        let mut pins: HashMap<u8, BlobFile> = HashMap::new();
        for step in steps {
            match step {
                Step::Put(seed) => {
                    let digest = Digest::of(&sized(seed));
                    let was_there = store.contains(&digest).unwrap();
                    put(&store, &sized(seed));
                    prop_assert!(store.contains(&digest).unwrap());
                    // What is there already takes no room and makes none.
                    if !was_there {
                        let pinned: u64 = pins.values().map(BlobFile::size).sum();
                        let own = 10 + u64::from(seed) * 10;
                        prop_assert!(store.bytes_used().unwrap() <= BOUND.max(pinned + own));
                    }
                }
                Step::Pin(seed) => {
                    if let Some(pin) = store.open(&Digest::of(&sized(seed))).unwrap() {
                        pins.insert(seed, pin);
                    }
                }
                Step::Unpin(seed) => drop(pins.remove(&seed)),
                Step::Remove(seed) => {
                    if !pins.contains_key(&seed) {
                        store.remove(&Digest::of(&sized(seed))).unwrap();
                    }
                }
            }
            for (&seed, pin) in &pins {
                prop_assert!(store.contains(pin.digest()).unwrap());
                prop_assert_eq!(content(pin), sized(seed));
            }
            store.evict().unwrap();
            let pinned: u64 = pins.values().map(BlobFile::size).sum();
            prop_assert!(store.bytes_used().unwrap() <= BOUND.max(pinned));
            let listed: u64 = store.list().unwrap().iter().map(|blob| blob.size).sum();
            prop_assert_eq!(store.bytes_used().unwrap(), listed);
        }
    }
}

#[test]
fn readers_on_every_blob_never_fail_under_eviction() {
    let _quiet = quiet();
    let data = tempfile::tempdir().unwrap();
    let bound = 50_000;
    let store = BlobStore::at(data.path(), Some(bound), Duration::ZERO).unwrap();
    let other = BlobStore::at(data.path(), Some(bound), Duration::ZERO).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..4u8)
        .map(|n| {
            let store = if n % 2 == 0 {
                store.clone()
            } else {
                other.clone()
            };
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || {
                let mut read = 0;
                while !stop.load(Ordering::SeqCst) {
                    for seed in 0..100 {
                        let expected = bytes(seed, 1000 + usize::from(seed));
                        let digest = Digest::of(&expected);
                        if let Some(blob) = store.open(&digest).unwrap() {
                            assert_eq!(content(&blob), expected);
                            assert!(store.contains(&digest).unwrap(), "evicted under a pin");
                            read += 1;
                        }
                    }
                }
                read
            })
        })
        .collect();
    let writers: Vec<_> = [&store, &other]
        .into_iter()
        .cloned()
        .map(|store| {
            std::thread::spawn(move || {
                for _ in 0..3 {
                    for seed in 0..100 {
                        put(&store, &bytes(seed, 1000 + usize::from(seed)));
                    }
                }
            })
        })
        .collect();
    for writer in writers {
        writer.join().unwrap();
    }
    stop.store(true, Ordering::SeqCst);
    let read: usize = readers
        .into_iter()
        .map(|reader| reader.join().unwrap())
        .sum();
    assert!(read > 0);
    store.evict().unwrap();
    assert!(store.bytes_used().unwrap() <= bound);
}

// ---- other processes: this binary again, running just `child` ----

const DATA: &str = "OVERLAYBD_PROXY_STORE_TEST_DATA";
const WORK: &str = "OVERLAYBD_PROXY_STORE_TEST_WORK";

/// Another process, killed when this is dropped.
struct Other(Child);

impl Other {
    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn spawn(data_dir: &Path, work: &str) -> Other {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["child", "--exact", "--nocapture"])
        .env(DATA, data_dir)
        .env(WORK, work)
        .stdout(Stdio::null());
    Other(start(&mut command).unwrap())
}

fn wait_for(path: &Path) {
    for _ in 0..6000 {
        if path.exists() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{} does not appear", path.display());
}

/// The part of the other process; nothing when run as a test.
#[tokio::test]
async fn child() {
    let (Ok(data), Ok(work)) = (std::env::var(DATA), std::env::var(WORK)) else {
        return;
    };
    let data = Path::new(&data);
    let store = Store::open(config(data)).await.unwrap();
    if work.as_str() == "hold" {
        let temp = store.blobs().begin().unwrap();
        let lease = store.acquire("chain", HOUR).await.unwrap();
        assert!(matches!(lease, Acquired::Mine(_)));
        temp.file().write_all(b"half").unwrap();
        let pinned = store.blobs().open(&Digest::of(b"pinned")).unwrap();
        fs::write(data.join("ready"), "").unwrap();
        tokio::time::sleep(HOUR).await;
        drop((temp, pinned));
    } else {
        for n in 0u64.. {
            let seed: u64 = rand::random();
            let content = seed.to_le_bytes().repeat(4096);
            let digest = Digest::of(&content);
            let temp = store.blobs().begin().unwrap();
            for part in content.chunks(1000) {
                temp.file().write_all(part).unwrap();
            }
            let size = u64::try_from(content.len()).unwrap();
            drop(store.blobs().commit(temp, &digest, size).unwrap());
            let chain = ChainId(Digest::of(&seed.to_le_bytes()));
            let put = store.index().put_built(&chain, "v1", &digest, size);
            put.await.unwrap();
            if n == 2 {
                fs::write(data.join("ready"), "").unwrap();
            }
        }
    }
}

#[tokio::test]
async fn files_and_leases_of_ended_processes_are_removed() {
    let data = tempfile::tempdir().unwrap();
    let before = Store::open(config(data.path())).await.unwrap();
    let pinned = put(before.blobs(), b"pinned");
    let mut child = spawn(data.path(), "hold");
    wait_for(&data.path().join("ready"));
    let store = Store::open(StoreConfig {
        cache_size: CacheSize::Bytes(0),
        ..config(data.path())
    })
    .await
    .unwrap();
    assert_eq!(files(&data.path().join("tmp")), 1);
    let lease = store.acquire("chain", HOUR).await.unwrap();
    assert!(matches!(lease, Acquired::Held { .. }));
    assert_eq!(
        store.blobs().evict().unwrap(),
        0,
        "the other process has it open"
    );
    child.kill();
    let evicted = {
        let _quiet = quiet();
        store.blobs().evict().unwrap()
    };
    assert_eq!(evicted, 6);
    assert!(!store.blobs().contains(&pinned).unwrap());
    let store = Store::open(config(data.path())).await.unwrap();
    assert_eq!(files(&data.path().join("tmp")), 0);
    let lease = store.acquire("chain", HOUR).await.unwrap();
    assert!(matches!(lease, Acquired::Mine(_)));
    drop(before);
}

#[tokio::test]
async fn a_kill_at_any_time_leaves_complete_blobs_and_no_row_without_one() {
    let rounds = std::env::var("OVERLAYBD_PROXY_TEST_KILLS");
    let rounds = rounds.ok().and_then(|text| text.parse().ok()).unwrap_or(12);
    let data = tempfile::tempdir().unwrap();
    for _ in 0..rounds {
        let ready = data.path().join("ready");
        let _ = fs::remove_file(&ready);
        let mut children = [(); 2].map(|()| spawn(data.path(), "write"));
        wait_for(&ready);
        std::thread::sleep(Duration::from_micros(rand::random_range(0..20_000)));
        for child in &mut children {
            child.kill();
        }
        let store = Store::open(config(data.path())).await.unwrap();
        assert_eq!(files(&data.path().join("tmp")), 0);
        assert_eq!(files(&data.path().join("owners")), 1);
        for blob in store.blobs().list().unwrap() {
            let open = store.blobs().open(&blob.digest).unwrap().unwrap();
            assert_eq!(Digest::of(&content(&open)), blob.digest);
        }
        let raw = rusqlite::Connection::open(data.path().join("index.sqlite")).unwrap();
        let mut rows = raw
            .prepare("SELECT data_digest FROM overlaybd_proxy_chains")
            .unwrap();
        let rows = rows.query_map([], |row| row.get::<_, String>(0)).unwrap();
        let mut count = 0;
        for row in rows {
            let digest = row.unwrap().parse().unwrap();
            assert!(
                store.blobs().contains(&digest).unwrap(),
                "a row without a blob"
            );
            count += 1;
        }
        assert!(count > 0);
    }
}

#[tokio::test]
async fn an_unusable_data_directory_is_an_error() {
    let data = tempfile::tempdir().unwrap();
    let file = data.path().join("file");
    fs::write(&file, "").unwrap();
    let error = Store::open(config(&file)).await.unwrap_err();
    assert!(matches!(error, StoreError::Blobs(_)), "{error}");
}

#[test]
fn a_pinned_blob_is_not_open_and_no_process_evicts_it() {
    let data = tempfile::tempdir().unwrap();
    let ours = BlobStore::at(data.path(), Some(0), Duration::ZERO).unwrap();
    // Another one has its own descriptors, as another process would.
    let other = BlobStore::at(data.path(), Some(0), Duration::ZERO).unwrap();
    let digest = Digest::of(b"pinned");
    let pin = ours.put_bytes(&digest, b"pinned").unwrap().pin().unwrap();
    let path = fs::canonicalize(blob_path(data.path(), &digest)).unwrap();
    let open = fs::read_dir("/proc/self/fd").unwrap();
    let mut open = open.filter_map(|entry| fs::read_link(entry.unwrap().path()).ok());
    assert!(open.all(|target| target != path));
    let again = pin.clone();
    drop(pin);
    for store in [&ours, &other] {
        assert_eq!(store.evict().unwrap(), 0);
    }
    drop(again);
    assert_eq!(other.evict().unwrap(), 6);
    assert!(ours.open(&digest).unwrap().is_none());
}

#[test]
fn a_shared_blob_is_reopened_on_demand() {
    let data = tempfile::tempdir().unwrap();
    let store = BlobStore::at(data.path(), Some(0), Duration::ZERO).unwrap();
    let contents: Vec<_> = (0..600).map(|n| format!("blob {n}").into_bytes()).collect();
    let shared: Vec<_> = contents
        .iter()
        .map(|content| {
            let file = store.put_bytes(&Digest::of(content), content).unwrap();
            store.share(file).unwrap()
        })
        .collect();
    // Far fewer are open, and each is opened again.
    let blobs = fs::canonicalize(data.path().join("blobs")).unwrap();
    let open = fs::read_dir("/proc/self/fd").unwrap();
    let open = open.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    assert!(open.filter(|target| target.starts_with(&blobs)).count() <= 256);
    assert_eq!(store.evict().unwrap(), 0);
    for (content, blob) in contents.iter().zip(&shared) {
        let mut found = vec![0; content.len()];
        blob.read_exact_at(&mut found, 0).unwrap();
        assert_eq!(found, *content);
    }
    // One that is gone after all is an error, and no other bytes.
    let first = &shared[0];
    assert!(store.remove(first.digest()).unwrap());
    for blob in &shared[1..] {
        blob.read_exact_at(&mut [0; 4], 0).unwrap();
    }
    assert!(first.read_exact_at(&mut [0; 4], 0).is_err());
}
