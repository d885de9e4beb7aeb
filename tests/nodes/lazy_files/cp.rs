//! `cp`, judged by the kernel's mount of the same disk.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use super::support::walk::Tree;
use super::support::{have, is_root, noise};
use super::{Demo, bad, command, finish, good, ran};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_copy_of_the_whole_image_is_what_the_kernel_mounts() {
    let demo = Demo::odd();
    let Some(mount) = demo.mounted() else { return };
    let to = demo.path("rootfs");
    let ran = ran(&["cp", "-r", &demo.image(), "/", text(&to)]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{ran:?}");
    let expected = Tree::of(mount.path());
    let copied = Tree::of(&to);
    copied.assert_is(&expected, &BTreeSet::new(), "cp -r");
    // Again over what is there, which is the same then.
    good(&["cp", "-r", &demo.image(), "etc", "usr", "tmp", text(&to)]);
    let copied = Tree::of(&to);
    copied.assert_is(&expected, &BTreeSet::new(), "cp -r again");
}

#[test]
fn files_are_copied_to_a_new_name_or_into_a_directory() {
    let demo = Demo::odd();
    let (image, to) = (demo.image(), demo.path("to"));
    let copy = demo.path("copy");
    good(&["cp", &image, "/absolute", text(&copy)]);
    assert_eq!(fs::read(&copy).unwrap(), b"one\n");
    assert_eq!(fs::metadata(&copy).unwrap().mtime(), 1_600_000_000);
    fs::create_dir(&to).unwrap();
    good(&[
        "cp",
        &image,
        "usr/lib/data",
        "usr/lib/again",
        "etc/name",
        text(&to),
    ]);
    assert_eq!(fs::read(to.join("data")).unwrap(), noise(7, 200_000));
    let inode = |name: &str| fs::metadata(to.join(name)).unwrap().ino();
    assert_eq!(inode("data"), inode("again"));
    good(&["cp", "-r", &image, "usr", text(&demo.path("new"))]);
    assert!(demo.path("new/lib/data").is_file());
    good(&["cp", "-r", &image, "usr", text(&to)]);
    assert!(to.join("usr/lib/data").is_file());
    let link = fs::read_link(to.join("usr/lib/up")).unwrap();
    assert_eq!(link, Path::new("../../../../../etc/name"));
    for (arguments, part) in [
        (&["etc", text(&to)][..], "is a directory"),
        (&["dev/pipe", text(&to)], "--recursive"),
        (&["not/there", text(&to)], "not in the image"),
        (&["etc/name", "lib/data", text(&copy)], "no directory"),
        (&["etc/name", text(&demo.path("missing/name"))], "missing"),
    ] {
        let error = bad(1, &[&["cp", &image], arguments].concat());
        assert!(error.contains(part), "{part}: {error}");
    }
    let left: Vec<_> = fs::read_dir(&to)
        .unwrap()
        .map(|it| it.unwrap().file_name())
        .collect();
    let is_temporary = |name: &&std::ffi::OsString| name.to_string_lossy().starts_with(".overlay");
    assert_eq!(left.iter().find(is_temporary), None);
}

#[test]
fn links_in_the_destination_lead_nothing_out_of_it() {
    let demo = Demo::odd();
    let (to, outside) = (demo.path("to"), demo.path("outside"));
    for directory in [&to, &to.join("usr"), &outside] {
        fs::create_dir(directory).unwrap();
    }
    fs::write(outside.join("name"), "precious").unwrap();
    // A directory of the image is a link here, and a file of it another.
    symlink(&outside, to.join("etc")).unwrap();
    symlink(outside.join("name"), to.join("usr/lib")).unwrap();
    let ran = ran(&["cp", "-r", &demo.image(), "etc", "usr", text(&to)]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains("\"/etc\" is not copied"), "{}", ran.err);
    assert!(
        ran.err.contains("\"/usr/lib\" is not copied"),
        "{}",
        ran.err
    );
    let names: Vec<_> = fs::read_dir(&outside).unwrap().collect();
    assert_eq!(names.len(), 1, "{names:?}");
    assert_eq!(fs::read(outside.join("name")).unwrap(), b"precious");
    // A link in a file's place is replaced.
    symlink(outside.join("name"), to.join("name")).unwrap();
    good(&["cp", &demo.image(), "etc/name", text(&to)]);
    assert_eq!(fs::read(outside.join("name")).unwrap(), b"precious");
    assert!(to.join("name").symlink_metadata().unwrap().is_file());
}

#[test]
fn special_files_and_directories_are_not_overwritten() {
    let demo = Demo::odd();
    let to = demo.path("to");
    fs::create_dir_all(to.join("name")).unwrap();
    nix::unistd::mkfifo(&to.join("data"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let image = demo.image();
    let ran = ran(&[
        "cp",
        &image,
        "etc/name",
        "lib/data",
        "etc/secret",
        text(&to),
    ]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(
        ran.err.contains("there is a directory of this name"),
        "{}",
        ran.err
    );
    assert!(
        ran.err.contains("there is a special file of this name"),
        "{}",
        ran.err
    );
    assert!(
        to.join("data")
            .symlink_metadata()
            .unwrap()
            .file_type()
            .is_fifo()
    );
    assert_eq!(fs::read(to.join("secret")).unwrap(), b"s");
}

#[test]
fn without_root_the_owners_and_devices_that_are_not_kept_are_said() {
    if !is_root("running as another user") || !have(&["setpriv"]) {
        return;
    }
    let demo = Demo::odd();
    let to = demo.path("to");
    fs::create_dir(&to).unwrap();
    fs::set_permissions(demo.directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    nix::unistd::chown(&to, Some(65534.into()), Some(65534.into())).unwrap();
    let program = command(&[]);
    // Where others may not reach the program, a copy of it.
    let own = demo.path("program");
    fs::copy(program.get_program(), &own).unwrap();
    let mut command = super::support::command("setpriv");
    command
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
        .arg(&own)
        .args(["cp", "-r", &demo.image(), "/", text(&to)])
        .env("HOME", &to)
        .current_dir(&to);
    let ran = finish(command);
    assert_eq!(ran.code, 1, "{ran:?}");
    for part in ["owner", "set-uid", "\"/dev/null\" is not copied"] {
        assert!(ran.err.contains(part), "{part}: {}", ran.err);
    }
    let secret = fs::metadata(to.join("etc/secret")).unwrap();
    assert_eq!((secret.mode() & 0o7777, secret.uid()), (0o750, 65534));
    let note = xattr::get(to.join("etc/secret"), "user.note").unwrap();
    assert!(
        note.is_some() || ran.err.contains("user.note"),
        "{}",
        ran.err
    );
    assert!(
        to.join("dev/pipe")
            .symlink_metadata()
            .unwrap()
            .file_type()
            .is_fifo()
    );
}
