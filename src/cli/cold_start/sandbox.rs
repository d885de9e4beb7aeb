//! Runs a command with an image as its root directory, by bubblewrap.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;
use std::process::Stdio;

use tokio::process::{Child, Command};

use crate::oci::RunConfig;

const PROGRAM: &str = "bwrap";

/// What of root's rights a command gets when root runs it: those that container engines give,
/// but for making devices.
const CAPABILITIES: [&str; 11] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_NET_BIND_SERVICE",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// Directories in which programs expect to write.
const WRITABLE: [&str; 3] = ["tmp", "run", "var/tmp"];

/// Where programs are looked for when the image does not say it, as container engines do.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Starts a command in namespaces of its own, with `root` as its root directory and what the
/// image's config says as its environment. It ends when this program does.
///
/// # Errors
/// When bubblewrap is not installed or cannot be started.
pub fn start(root: &Path, command: &[OsString], config: &RunConfig) -> io::Result<Child> {
    let mut sandbox = Command::new(PROGRAM);
    sandbox
        .args([
            "--unshare-pid",
            "--unshare-ipc",
            "--unshare-uts",
            "--unshare-net",
        ])
        .args(["--die-with-parent", "--new-session"])
        .args(arguments(root, config));
    if nix::unistd::geteuid().is_root() {
        for capability in CAPABILITIES {
            sandbox.args(["--cap-add", capability]);
        }
    } else {
        sandbox.args(["--unshare-user", "--uid", "0", "--gid", "0"]);
    }
    sandbox
        .arg("--")
        .args(command)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    sandbox.spawn().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => io::Error::new(
            error.kind(),
            "bwrap runs the command in the image, and is not installed: install the package \
             bubblewrap",
        ),
        _ => io::Error::new(error.kind(), format!("{PROGRAM}: {error}")),
    })
}

/// What the command sees, and its environment.
fn arguments(root: &Path, config: &RunConfig) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = Vec::new();
    let mut add = |words: &[&OsStr]| arguments.extend(words.iter().map(OsString::from));
    add(&["--ro-bind".as_ref(), root.as_ref(), "/".as_ref()]);
    // Nothing can be made in an image that is only read: only what is there can be mounted at.
    let is_there = |name: &str| {
        let found = root.join(name).symlink_metadata();
        found.is_ok_and(|found| found.is_dir())
    };
    for (name, option) in [("proc", "--proc"), ("dev", "--dev")] {
        if is_there(name) {
            add(&[option.as_ref(), Path::new("/").join(name).as_ref()]);
        }
    }
    if is_there("sys") {
        add(&["--ro-bind-try".as_ref(), "/sys".as_ref(), "/sys".as_ref()]);
    }
    for name in WRITABLE.into_iter().filter(|name| is_there(name)) {
        add(&["--tmpfs".as_ref(), Path::new("/").join(name).as_ref()]);
    }
    add(&["--clearenv".as_ref()]);
    let has = |name: &str| config.env.iter().any(|(known, _)| known == name);
    let defaults = [("PATH", PATH), ("HOME", "/root")];
    for (name, value) in defaults.into_iter().filter(|(name, _)| !has(name)) {
        add(&["--setenv".as_ref(), name.as_ref(), value.as_ref()]);
    }
    for (name, value) in &config.env {
        add(&["--setenv".as_ref(), name.as_ref(), value.as_ref()]);
    }
    let directory = match config.working_dir.as_str() {
        "" => "/",
        directory => directory,
    };
    add(&["--chdir".as_ref(), directory.as_ref()]);
    arguments
}
