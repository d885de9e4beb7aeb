//! Commands, their exit status, and how mounts end.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;

use crate::mount::{Converted, Mount, can_mount, is_mounted, text, with_command};
use crate::support::process::Process;
use crate::support::tar::Tar;

fn demo() -> Converted {
    Converted::new(&[Tar::new().dir("etc/").file("etc/name", "demo\n").finish()])
}

#[test]
fn the_exit_status_is_the_command_s_and_the_mount_is_gone() {
    if !can_mount() {
        return;
    }
    let image = demo();
    let (name, at) = (image.image(), image.path("at"));
    let file = at.join("etc/name").display().to_string();
    for (command, code, out) in [
        (&["cat", &file][..], 0, "demo\n"),
        (&["sh", "-c", "exit 7"], 7, ""),
        (&["sh", "-c", "kill -9 $$"], 128 + 9, ""),
        (&["no-such-program"], 127, ""),
        (&["/etc/passwd"], 126, ""),
    ] {
        let ran = with_command(&[&name], &at, command);
        assert_eq!(ran.status.code(), Some(code), "{command:?}: {ran:?}");
        assert_eq!(text(&ran.stdout), out, "{command:?}");
        assert!(!is_mounted(&at), "{command:?}");
    }
}

#[test]
fn sigterm_is_passed_on_to_the_command() {
    if !can_mount() {
        return;
    }
    let image = demo();
    let at = image.path("at");
    fs::create_dir_all(&at).unwrap();
    let mut command = crate::support::proxy::program();
    command.args(["mount", &image.image()]).arg(&at);
    command.args([
        "--",
        "sh",
        "-c",
        "trap 'exit 5' TERM; echo ready :; while :; do sleep 0.05; done",
    ]);
    let mut process = Process::start(command, &image.path("log"));
    process.wait_for("ready ");
    assert!(is_mounted(&at));
    assert_eq!(process.stop().code(), Some(5));
    assert!(!is_mounted(&at));
}

#[test]
fn the_mount_says_what_it_is_and_is_read_only() {
    if !can_mount() {
        return;
    }
    let image = demo();
    let at = image.path("at");
    let mount = Mount::start(&[image.image()], &at);
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let line = mounts
        .lines()
        .find(|line| line.contains(at.to_str().unwrap()));
    let fields: Vec<_> = line.unwrap().split(' ').collect();
    assert_eq!(fields[2], "fuse.overlaybd-proxy");
    for option in [
        "ro",
        "nosuid",
        "nodev",
        "default_permissions",
        "allow_other",
    ] {
        assert!(fields[3].split(',').any(|has| has == option), "{fields:?}");
    }
    let refused = fs::write(at.join("new"), "").unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    mount.stop();
}

#[test]
fn umount_ends_the_server() {
    if !can_mount() {
        return;
    }
    let image = demo();
    let at = image.path("at");
    let mut mount = Mount::start(&[image.image()], &at);
    crate::support::run(Command::new("umount").arg(&at));
    assert!(mount.process.end().success());
}

#[test]
fn a_mount_in_use_is_served_until_it_is_left() {
    if !can_mount() {
        return;
    }
    let image = demo();
    let at = image.path("at");
    let mut mount = Mount::start(&[image.image()], &at);
    let mut user = Command::new("sh")
        .args(["-c", "read go; cat etc/name"])
        .current_dir(&at)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    mount.process.signal(Signal::SIGTERM);
    mount.process.wait_for(" is in ");
    assert!(!is_mounted(&at));
    drop(user.stdin.take());
    let output = user.wait_with_output().unwrap();
    assert_eq!(text(&output.stdout), "demo\n");
    assert!(mount.process.end().success());
}

#[test]
fn a_killed_server_leaves_a_mount_that_can_be_taken_away() {
    if !can_mount() {
        return;
    }
    let image = demo();
    let at = image.path("at");
    let mut mount = Mount::start(&[image.image()], &at);
    mount.process.kill();
    let gone = fs::read_dir(&at).unwrap_err();
    assert_eq!(gone.kind(), std::io::ErrorKind::NotConnected);
    let again = with_command(&[image.image()], &at, &["true"]);
    assert_eq!(again.status.code(), Some(1));
    assert!(text(&again.stderr).contains("fusermount3 -u"), "{again:?}");
    crate::support::run(Command::new("fusermount3").arg("-u").arg(&at));
    let again = with_command(&[image.image()], &at, &["true"]);
    assert!(again.status.success(), "{again:?}");
}

#[track_caller]
fn refused(image: &Converted, at: &Path, because: &str) {
    let mut command = crate::support::proxy::program();
    command
        .args(["mount", &image.image()])
        .arg(at)
        .args(["--", "true"]);
    let ran = command.output().unwrap();
    assert_eq!(ran.status.code(), Some(1), "{ran:?}");
    assert!(text(&ran.stderr).contains(because), "{because}: {ran:?}");
}

#[test]
fn a_place_that_is_no_empty_directory_is_refused_before_anything_is_read() {
    if !can_mount() {
        return;
    }
    let image = demo();
    fs::rename(image.path("out"), image.path("away")).unwrap();
    refused(&image, &image.path("missing"), "does not exist");
    fs::write(image.path("file"), "").unwrap();
    refused(&image, &image.path("file"), "is no directory");
    fs::create_dir_all(image.path("full/of-something")).unwrap();
    refused(&image, &image.path("full"), "not empty");
}
