//! Many readers, many names, holes.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::sync::Barrier;

use crate::mount::{Converted, Mount, can_mount};
use crate::support::tar::Tar;
use crate::support::{noise, sha256, verifier};

#[test]
fn sixteen_readers_at_once_read_the_same_bytes() {
    if !can_mount() {
        return;
    }
    let files: Vec<_> = (0..24_u64)
        .map(|n| {
            (
                format!("file-{n}"),
                noise(n, 150_000 + 4321 * usize::try_from(n).unwrap()),
            )
        })
        .collect();
    let tar = files
        .iter()
        .fold(Tar::new(), |tar, (name, data)| tar.file(name, data));
    let image = Converted::new(&[tar.finish()]);
    let at = image.path("at");
    let mount = Mount::start(&[image.image()], &at);
    let start = Barrier::new(16);
    std::thread::scope(|scope| {
        for reader in 0..16 {
            let (files, at, start) = (&files, &at, &start);
            scope.spawn(move || {
                start.wait();
                // Each in another order.
                for n in 0..files.len() {
                    let (name, data) = &files[(n * 5 + reader * 7) % files.len()];
                    let found = fs::read(at.join(name)).unwrap();
                    assert_eq!(sha256(&found), sha256(data), "{name}");
                }
            });
        }
    });
    mount.stop();
}

#[test]
fn a_directory_of_many_names_lists_each_once() {
    const COUNT: usize = 40_000;
    if !can_mount() {
        return;
    }
    let name = |n: usize| format!("d/a-rather-long-name-of-a-file-{n:07}");
    let tar = (0..COUNT).fold(Tar::new().dir("d/"), |tar, n| tar.file(&name(n), ""));
    let image = Converted::new(&[tar.finish()]);
    let at = image.path("at");
    let mount = Mount::start(&[image.image()], &at);
    let listed: Vec<_> = fs::read_dir(at.join("d"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let distinct: BTreeSet<_> = listed.iter().collect();
    assert_eq!((listed.len(), distinct.len()), (COUNT, COUNT));
    for n in [0, 1, 12_345, COUNT - 1] {
        fs::metadata(at.join(name(n))).unwrap();
    }
    // Also what does not exist is remembered, and still does not.
    for _ in 0..2 {
        let missing = fs::metadata(at.join(name(COUNT))).unwrap_err();
        assert_eq!(missing.kind(), std::io::ErrorKind::NotFound);
    }
    mount.stop();
}

#[test]
fn all_names_of_a_file_are_one_inode() {
    if !can_mount() {
        return;
    }
    let tar = Tar::new()
        .dir("a/")
        .file("a/one", "shared")
        .hard("two", "a/one")
        .hard("a/three", "a/one")
        .finish();
    let image = Converted::new(&[tar]);
    let at = image.path("at");
    let mount = Mount::start(&[image.image()], &at);
    let stat = |name: &str| {
        let found = fs::metadata(at.join(name)).unwrap();
        (found.dev(), found.ino(), found.nlink())
    };
    assert_eq!(stat("a/one"), stat("two"));
    assert_eq!(stat("a/one"), stat("a/three"));
    assert_eq!(stat("two").2, 3);
    assert_eq!(fs::metadata(&at).unwrap().ino(), 1);
    mount.stop();
}

/// The byte ranges that `lseek` calls data.
fn data(file: &mut File) -> Vec<(u64, u64)> {
    use nix::unistd::{Whence, lseek};
    let (mut found, mut at) = (Vec::new(), 0);
    while let Ok(start) = lseek(&*file, at, Whence::SeekData) {
        let end = lseek(&*file, start, Whence::SeekHole).unwrap();
        found.push((start.unsigned_abs(), end.unsigned_abs()));
        at = end;
    }
    found
}

#[test]
fn holes_are_where_the_kernel_sees_them() {
    if !can_mount() {
        return;
    }
    let mut holes = vec![0; 5 << 20];
    for at in [0, 1 << 20, (2 << 20) + 4096, (5 << 20) - 4096] {
        holes[at..at + 4096].copy_from_slice(&noise(at as u64, 4096));
    }
    let tar = Tar::new()
        .file("holes", &holes)
        .file("full", noise(1, 300_001))
        .file("zeros", vec![0; 1 << 20])
        .finish();
    let image = Converted::new(&[tar]);
    let raw = image.path("raw");
    verifier::disk(&image.blobs, &raw);
    let kernel = verifier::Mount::new(&raw, &image.path("loop"));
    let at = image.path("at");
    let mount = Mount::start(&[image.image()], &at);
    for name in ["holes", "full", "zeros"] {
        let open = |root: &std::path::Path| File::open(root.join(name)).unwrap();
        let (mut ours, mut theirs) = (open(&at), open(kernel.path()));
        assert_eq!(data(&mut ours), data(&mut theirs), "{name}");
        let mut bytes = Vec::new();
        ours.seek(SeekFrom::Start(0)).unwrap();
        ours.read_to_end(&mut bytes).unwrap();
        if name == "holes" {
            assert_eq!(sha256(&bytes), sha256(&holes));
        }
    }
    mount.stop();
}

#[test]
fn what_was_seen_once_is_answered_by_the_kernel_alone() {
    if !can_mount() {
        return;
    }
    let tar = Tar::new()
        .dir("d/")
        .file("d/file", "content\n")
        .soft("link", "d/file")
        .finish();
    let image = Converted::new(&[tar]);
    let at = image.path("at");
    let mount = Mount::start(&[image.image()], &at);
    // The path of a name, a link's target, data, attributes, what does not exist, a directory.
    let look = "cat link && stat -c %s d/file && test ! -e d/missing && ls d";
    let seen = || {
        let output = std::process::Command::new("timeout")
            .args(["10", "sh", "-c", look])
            .current_dir(&at)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        crate::mount::text(&output.stdout)
    };
    assert_eq!(seen(), "content\n8\nfile\n");
    // The second time a directory's names are remembered.
    seen();
    mount.process.freeze();
    let again = seen();
    mount.process.thaw();
    assert_eq!(again, "content\n8\nfile\n");
    mount.stop();
}
