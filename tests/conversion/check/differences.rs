//! Every difference that matters is found, and nothing else.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt, chown, lchown, symlink};
use std::path::Path;

use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use overlaybd_proxy::check::What;

use super::trees::*;

/// What is found after `change`, by path.
fn found(root: &Path, change: impl FnOnce(&Path)) -> Vec<(String, What)> {
    let place = tempfile::tempdir().unwrap();
    let copy = place.path().join("copy");
    run("cp", &["-a", text(root), text(&copy)]);
    assert_same(&walk(root), &walk(&copy));
    change(&copy);
    let differences = walk(root).differences(&walk(&copy), 100);
    let shown = |path: Vec<u8>| String::from_utf8_lossy(&path).into_owned();
    differences
        .into_iter()
        // A directory's time changes with what is in it; a change says so itself.
        .filter(|difference| difference.what != What::Mtime || difference.path == b"/empty")
        .map(|difference| (shown(difference.path), difference.what))
        .collect()
}

#[test]
fn each_change_is_found_and_named() {
    if !is_root() || !has("cp") {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("root");
    everything(&root);
    let has_attributes = attributes(&root);
    let one = |path: &str, what: What| vec![(path.to_owned(), what)];
    let remake = |path: &Path, kind, device| {
        fs::remove_file(path).unwrap();
        mknod(path, kind, Mode::from_bits_truncate(0o620), device).unwrap();
    };

    assert_eq!(found(&root, |_| ()), []);
    assert_eq!(
        found(&root, |copy| {
            let file = fs::OpenOptions::new()
                .write(true)
                .open(copy.join("sparse"))
                .unwrap();
            file.write_all_at(&[1], 8_000_000).unwrap();
        }),
        one("/sparse", What::Content)
    );
    assert_eq!(
        found(&root, |copy| {
            let file = fs::OpenOptions::new()
                .write(true)
                .open(copy.join("all-hole"))
                .unwrap();
            file.set_len(1).unwrap();
        }),
        one("/all-hole", What::Size)
    );
    assert_eq!(
        found(&root, |copy| {
            fs::set_permissions(copy.join("suid"), fs::Permissions::from_mode(0o755)).unwrap();
        }),
        one("/suid", What::Mode)
    );
    assert_eq!(
        found(&root, |copy| lchown(copy.join("link"), Some(4), None)
            .unwrap()),
        one("/link", What::Uid)
    );
    assert_eq!(
        found(&root, |copy| chown(copy.join("etc"), None, Some(4))
            .unwrap()),
        one("/etc", What::Gid)
    );
    assert_eq!(
        found(&root, |copy| {
            let time = fs::metadata(copy.join("empty")).unwrap();
            let time = filetime::FileTime::from_last_modification_time(&time);
            set_mtime(
                &copy.join("empty"),
                time.unix_seconds(),
                time.nanoseconds() + 1,
            );
        }),
        one("/empty", What::Mtime)
    );
    assert_eq!(
        found(&root, |copy| {
            fs::remove_file(copy.join("dangling")).unwrap();
            symlink("/nowhere/./..", copy.join("dangling")).unwrap();
        }),
        one("/dangling", What::Target)
    );
    assert_eq!(
        found(&root, |copy| remake(
            &copy.join("null"),
            SFlag::S_IFCHR,
            makedev(1, 5)
        )),
        one("/null", What::Device)
    );
    assert_eq!(
        found(&root, |copy| remake(
            &copy.join("null"),
            SFlag::S_IFBLK,
            makedev(1, 3)
        )),
        one("/null", What::Type)
    );
    assert_eq!(
        found(&root, |copy| {
            fs::remove_dir_all(copy.join("deep")).unwrap();
            fs::write(copy.join("new"), "").unwrap();
        }),
        [
            ("/new".to_owned(), What::Extra),
            ("/deep".to_owned(), What::Missing)
        ]
    );
    // A copy that is equal in all but being the same.
    assert_eq!(
        found(&root, |copy| {
            run(
                "cp",
                &["-a", text(&copy.join("zz")), text(&copy.join("zz.new"))],
            );
            fs::rename(copy.join("zz.new"), copy.join("zz")).unwrap();
        }),
        one("/zz", What::HardLinks)
    );
    // And one that is the same where it should only be equal.
    assert_eq!(
        found(&root, |copy| {
            for name in ["one", "two"] {
                fs::write(copy.join(name), "").unwrap();
            }
            fs::remove_file(copy.join("one")).unwrap();
            fs::remove_file(copy.join("two")).unwrap();
            fs::remove_file(copy.join("suid")).unwrap();
            fs::hard_link(copy.join("empty"), copy.join("suid")).unwrap();
        })
        .first(),
        Some(&("/suid".to_owned(), What::HardLinks))
    );
    if has_attributes {
        let remove = |name: &'static str, key: &'static str| {
            found(&root, |copy| xattr::remove(copy.join(name), key).unwrap())
        };
        assert_eq!(
            remove("suid", "security.capability"),
            one("/suid", What::Xattr(b"security.capability".to_vec()))
        );
        assert_eq!(
            remove("empty", "user.none"),
            one("/empty", What::Xattr(b"user.none".to_vec()))
        );
        assert_eq!(
            found(&root, |copy| xattr::set(
                copy.join("etc"),
                "trusted.secret",
                b"y"
            )
            .unwrap()),
            one("/etc", What::Xattr(b"trusted.secret".to_vec()))
        );
        assert_eq!(
            found(&root, |copy| xattr::set(
                copy.join("etc"),
                "user.more",
                b"y"
            )
            .unwrap()),
            one("/etc", What::Xattr(b"user.more".to_vec()))
        );
    }
}

#[test]
fn the_list_of_differences_is_bounded() {
    let place = tempfile::tempdir().unwrap();
    for name in ["a", "b"] {
        fs::create_dir(place.path().join(name)).unwrap();
    }
    for number in 0..50 {
        fs::write(place.path().join(format!("b/{number}")), "").unwrap();
    }
    let (a, b) = (walk(&place.path().join("a")), walk(&place.path().join("b")));
    assert_eq!(a.differences(&b, 7).len(), 7);
    assert!(a.differences(&b, 1000).len() >= 50);
}

#[test]
fn a_directory_deeper_than_the_system_takes_paths_is_walked() {
    let place = tempfile::tempdir().unwrap();
    let name = "d".repeat(250);
    let down = format!("mkdir {name}; cd -P {name}\n").repeat(40);
    let script = format!("set -e\n{down}echo deep > bottom\n");
    let output = std::process::Command::new("bash")
        .args(["-c", &script])
        .current_dir(place.path())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(walk(place.path()).len(), 41);
    run("rm", &["-rf", text(&place.path().join(&name))]);
}
