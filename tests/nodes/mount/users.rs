//! Users other than root, by fusermount3.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

use crate::mount::{Converted, can_mount, text};
use crate::support::tar::{self, Entry, Tar};

/// In a mount namespace in which anyone may open /dev/fuse, as is usual, runs a script as nobody.
const AS_NOBODY: &str = r#"
set -e
[ -e "$1/fuse" ] || mknod -m 666 "$1/fuse" c 10 229
chmod 666 "$1/fuse"
mount --bind "$1/fuse" /dev/fuse
shift
exec setpriv --reuid 65534 --regid 65534 --clear-groups env HOME=/nonexistent "$@"
"#;

fn image() -> Converted {
    let tar = Tar::new()
        .file("open", "for all\n")
        .entry(
            Entry::new(tar::FILE, "secret")
                .mode(0o600)
                .data(b"for root\n"),
        )
        .entry(Entry::new(tar::FILE, "set-uid").mode(0o4755).data(b"x"))
        .finish();
    let image = Converted::new(&[tar]);
    let open = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    open(image.scratch.path(), 0o755);
    // It must own the place to mount at.
    std::fs::create_dir(image.path("at")).unwrap();
    std::fs::create_dir(image.path("tmp")).unwrap();
    open(&image.path("tmp"), 0o1777);
    for path in ["at", "out"] {
        crate::support::run(
            Command::new("chown")
                .args(["-R", "nobody"])
                .arg(image.path(path)),
        );
    }
    let program = crate::support::proxy::program();
    std::fs::copy(program.get_program(), image.path("program")).unwrap();
    image
}

fn as_nobody(image: &Converted, environment: &[(&str, &str)], arguments: &[&str]) -> Output {
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-c", AS_NOBODY, "sh"])
        .arg(image.scratch.path())
        .args(
            environment
                .iter()
                .map(|(name, value)| format!("{name}={value}")),
        )
        .arg(image.path("program"))
        .arg("mount")
        .args(arguments)
        .env("TMPDIR", image.path("tmp"))
        .current_dir("/");
    command.output().unwrap()
}

fn can_be_nobody() -> bool {
    can_mount() && crate::support::have(&["unshare", "setpriv", "mknod"])
}

#[test]
fn a_user_mounts_by_fusermount3_and_permissions_are_the_image_s() {
    if !can_be_nobody() {
        return;
    }
    let image = image();
    let (name, at) = (image.image(), image.path("at").display().to_string());
    let look = format!(
        "id -u; cat {at}/open; cat {at}/secret || echo refused; stat -c %u {at}/secret; \
         grep {at} /proc/self/mounts"
    );
    let ran = as_nobody(&image, &[], &[&name, &at, "--", "sh", "-c", &look]);
    let out = text(&ran.stdout);
    assert!(ran.status.success(), "{ran:?}");
    assert!(out.starts_with("65534\nfor all\nrefused\n0\n"), "{out}");
    assert!(
        out.contains("fuse.overlaybd-proxy ro,nosuid,nodev,"),
        "{out}"
    );
    assert!(!out.contains("allow_other"), "{out}");
    // All files can be one's own instead.
    let look = format!("cat {at}/secret");
    let own = [
        "--owner",
        "65534:65534",
        &name,
        &at,
        "--",
        "sh",
        "-c",
        &look,
    ];
    let ran = as_nobody(&image, &[], &own);
    assert_eq!(text(&ran.stdout), "for root\n", "{ran:?}");
}

#[test]
fn what_a_user_lacks_is_said_with_a_remedy() {
    if !can_be_nobody() {
        return;
    }
    let image = image();
    let (name, at) = (image.image(), image.path("at").display().to_string());
    let plain = [&name, &at, "--", "/bin/true"];
    let ran = as_nobody(&image, &[("PATH", "/nonexistent")], &plain);
    assert_eq!(ran.status.code(), Some(1), "{ran:?}");
    assert!(
        text(&ran.stderr).contains("apt-get install fuse3"),
        "{ran:?}"
    );
    let others = ["--allow-other", &name, &at, "--", "/bin/true"];
    let ran = as_nobody(&image, &[], &others);
    if !ran.status.success() {
        assert!(text(&ran.stderr).contains("user_allow_other"), "{ran:?}");
    }
}

#[test]
fn a_user_writes_in_a_namespace_of_a_command() {
    if !can_be_nobody() {
        return;
    }
    let image = image();
    let (name, at) = (image.image(), image.path("at").display().to_string());
    let write = format!(
        "echo changed > {at}/open && mkdir {at}/new && rm {at}/secret && cat {at}/open && ls {at}; \
         stat -c %u {at}/set-uid"
    );
    let ran = as_nobody(
        &image,
        &[],
        &["--overlay", &name, &at, "--", "sh", "-c", &write],
    );
    let error = text(&ran.stderr);
    if error.contains("user namespace") {
        assert!(error.contains("sysctl"), "{error}");
        crate::support::skip(&format!("a writable layer for users: {error}"));
        return;
    }
    assert!(ran.status.success(), "{ran:?}");
    assert_eq!(
        text(&ran.stdout),
        "changed\nnew\nopen\nset-uid\n0\n",
        "{ran:?}"
    );
    // Nothing is left.
    let left = std::fs::read_dir(image.path("tmp")).unwrap().count();
    assert_eq!((left, std::fs::read_dir(&at).unwrap().count()), (0, 0));
    let ran = as_nobody(&image, &[], &["--overlay", &name, &at]);
    assert!(text(&ran.stderr).contains("name a command"), "{ran:?}");
}
