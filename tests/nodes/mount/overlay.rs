//! `mount --overlay` by root.

use std::fs;
use std::path::PathBuf;

use crate::mount::{Converted, Mount, can_mount, is_mounted, text, with_command};
use crate::support::tar::Tar;

/// A directory on a filesystem that can hold a writable layer; `None`, and prints SKIPPED, if there
/// is none.
fn writable(image: &Converted, out: &str) -> Option<PathBuf> {
    if out.contains("must be on a filesystem") {
        crate::support::skip(&format!("a writable layer here: {out}"));
        return None;
    }
    Some(image.path("upper"))
}

#[test]
fn what_is_written_is_kept_where_it_is_asked_for_and_the_image_stays() {
    if !can_mount() {
        return;
    }
    let tar = Tar::new()
        .dir("etc/")
        .file("etc/name", "image\n")
        .file("gone", "")
        .finish();
    let image = Converted::new(&[tar]);
    let (name, at, upper) = (image.image(), image.path("at"), image.path("upper"));
    let script = format!(
        "cd {} && echo mine > etc/name && rm gone && ls",
        at.display()
    );
    let kept = upper.display().to_string();
    let ran = with_command(
        &["--overlay", "--upper", &kept, &name],
        &at,
        &["sh", "-c", &script],
    );
    let Some(upper) = writable(&image, &text(&ran.stderr)) else {
        return;
    };
    assert!(ran.status.success(), "{ran:?}");
    assert_eq!(text(&ran.stdout), "etc\n");
    assert!(!is_mounted(&at));
    assert_eq!(
        fs::read_to_string(upper.join("upper/etc/name")).unwrap(),
        "mine\n"
    );

    // Again, over what was kept; then over nothing.
    let mount = Mount::start(&["--overlay", "--upper", &kept, &name], &at);
    assert_eq!(fs::read_to_string(at.join("etc/name")).unwrap(), "mine\n");
    assert!(!at.join("gone").exists());
    mount.stop();
    let mount = Mount::start(&["--overlay", &name], &at);
    assert_eq!(fs::read_to_string(at.join("etc/name")).unwrap(), "image\n");
    fs::write(at.join("new"), "").unwrap();
    mount.stop();
}
