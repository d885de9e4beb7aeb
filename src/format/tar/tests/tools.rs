//! Tars that other programs wrote.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;

use super::*;

/// A tree with everything that the tools can be made to pack.
fn tree(root: &Path) {
    let long = "d".repeat(120);
    fs::create_dir_all(root.join(&long).join(&long)).unwrap();
    fs::write(root.join(&long).join(&long).join("deep"), b"deep").unwrap();
    fs::write(root.join("file"), vec![b'x'; 5000]).unwrap();
    fs::hard_link(root.join("file"), root.join("hard")).unwrap();
    std::os::unix::fs::symlink("t".repeat(200), root.join("soft")).unwrap();
    // More pieces than the four that fit an old GNU header.
    let sparse = fs::File::create(root.join("sparse")).unwrap();
    for piece in 0..40u64 {
        sparse
            .write_at(
                &[b'a' + u8::try_from(piece % 26).unwrap(); 4096],
                piece * 65_536,
            )
            .unwrap();
    }
    sparse.set_len(40 * 65_536 + 777).unwrap();
    for (name, secs) in [("file", 1_700_000_001), ("sparse", -1_700_000_001)] {
        let time = filetime::FileTime::from_unix_time(secs, 250_000_000);
        filetime::set_file_mtime(root.join(name), time).unwrap();
    }
    let _ = xattr::set(root.join("file"), "user.plain", b"a=b\nc\0d");
}

fn packed(program: &str, args: &[&str], root: &Path) -> Option<Vec<u8>> {
    let out = root.with_extension("tar");
    let result = Command::new(program)
        .args(args)
        .arg("-cf")
        .arg(&out)
        .arg("-C")
        .arg(root)
        .arg(".")
        .output();
    match result {
        Ok(output) => {
            assert!(
                output.status.success(),
                "{program}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
            Some(fs::read(out).unwrap())
        }
        Err(error) => {
            println!("SKIPPED: {program} is not here: {error}");
            None
        }
    }
}

#[test]
fn tars_of_gnu_tar_and_bsdtar_are_read() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("tree");
    tree(&root);
    let has_xattr = xattr::get(root.join("file"), "user.plain")
        .ok()
        .flatten()
        .is_some();
    // Which of them keep sub-seconds and signs, and which keep attributes.
    for (program, args, exact_time, xattrs) in [
        ("tar", &["--format=gnu", "-S"][..], false, false),
        ("tar", &["--format=pax", "-S", "--xattrs"], true, true),
        (
            "tar",
            &["--format=pax", "-S", "--sparse-version=0.0"],
            true,
            false,
        ),
        (
            "tar",
            &["--format=pax", "-S", "--sparse-version=0.1"],
            true,
            false,
        ),
        ("tar", &["--format=pax"], true, false),
        ("tar", &["--format=oldgnu", "-S"], false, false),
        ("bsdtar", &["--format=pax"], true, true),
        ("bsdtar", &["--format=gnutar"], false, false),
    ] {
        let Some(tar) = packed(program, args, &root) else {
            continue;
        };
        let entries = read_all(&tar).unwrap_or_else(|error| panic!("{program} {args:?}: {error}"));
        assert_eq!(entries.len(), 8, "{program} {args:?}");
        for (entry, content) in entries {
            let name = std::str::from_utf8(&entry.path).unwrap();
            let path = root.join(name);
            let what = format!("{program} {args:?}: {name}");
            match &entry.kind {
                EntryKind::File => {
                    assert!(content == fs::read(&path).unwrap(), "{what}");
                    if name.ends_with("sparse") && args.contains(&"-S") {
                        assert_eq!(entry.data.len(), 40, "{what}");
                    }
                }
                EntryKind::Directory => assert!(path.is_dir(), "{what}"),
                EntryKind::Symlink(target) => assert_eq!(target, &[b't'; 200], "{what}"),
                EntryKind::HardLink(target) => {
                    assert!(matches!(&target[..], b"./file" | b"./hard"), "{what}");
                }
                other => panic!("{what}: {other:?}"),
            }
            // bsdtar writes -1.75 as "-2.25", which everyone else, Go too, reads as -2.25.
            let secs = match name {
                "./sparse" if program == "tar" => Some(-1_700_000_001),
                "./file" => Some(1_700_000_001),
                _ => None,
            };
            if let Some(secs) = secs.filter(|_| exact_time) {
                let expected = Timestamp {
                    secs,
                    nanos: 250_000_000,
                };
                assert_eq!(entry.mtime, expected, "{what}");
            }
            let first_name =
                (name == "./file" || name == "./hard") && entry.kind == EntryKind::File;
            if xattrs && has_xattr && first_name {
                assert_eq!(
                    entry.xattrs,
                    [(b"user.plain".to_vec(), b"a=b\nc\0d".to_vec())],
                    "{what}"
                );
            }
        }
    }
}

#[test]
fn tars_of_the_tar_crate_are_read() {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(3);
    header.set_mode(0o4755);
    header.set_uid(3_000_000);
    header.set_mtime(0o777_777_777_777);
    header.set_cksum();
    builder
        .append_data(&mut header, "p/".repeat(80) + "f", &b"abc"[..])
        .unwrap();
    let (entry, content) = only(&builder.into_inner().unwrap());
    assert_eq!(content, b"abc");
    assert_eq!(entry.path, ("p/".repeat(80) + "f").as_bytes());
    assert_eq!((entry.mode, entry.uid), (0o4755, Some(3_000_000)));
    assert_eq!(entry.mtime.secs, 0o777_777_777_777);
}
