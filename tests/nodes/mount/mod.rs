//! `mount`: the kernel's own ext4, another user, signals and a registry that fails are the judges.

mod commands;
mod faults;
mod overlay;
mod raw;
mod readers;
mod trees;
mod users;

use crate::support;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use nix::sys::signal::Signal;
use support::image::Image;
use support::layout::Layout;
use support::process::Process;
use support::proxy::Proxy;
use support::pulled::Pulled;

/// Whether FUSE is here and we may mount; prints SKIPPED if not.
fn can_mount() -> bool {
    let opened = File::options().read(true).write(true).open("/dev/fuse");
    if let Err(error) = opened {
        support::skip(&format!("/dev/fuse: {error}"));
        return false;
    }
    support::is_root("mounting to compare with the kernel's own ext4")
        && support::have(&["skopeo", "e2fsck", "fusermount3", "find"])
}

/// A mount in the foreground, ended when dropped.
struct Mount {
    process: Process,
    at: PathBuf,
    _logs: tempfile::TempDir,
}

impl Mount {
    #[track_caller]
    fn start<S: AsRef<OsStr>>(arguments: &[S], at: &Path) -> Self {
        fs::create_dir_all(at).unwrap();
        let logs = tempfile::tempdir().unwrap();
        let mut command = support::proxy::program();
        // What another mount has read must not help this one.
        command.env("XDG_CACHE_HOME", logs.path().join("cache"));
        command.arg("mount").args(arguments).arg(at);
        let mut process = Process::start(command, &logs.path().join("log"));
        process.wait_for(" is mounted at ");
        Self {
            process,
            at: at.to_owned(),
            _logs: logs,
        }
    }

    /// Ends it as Ctrl-C does; it must go well, and leave nothing.
    #[track_caller]
    fn stop(mut self) -> String {
        self.process.signal(Signal::SIGINT);
        let status = self.process.end();
        assert!(status.success(), "{status}: {}", self.process.output());
        assert_eq!(fs::read_dir(&self.at).unwrap().count(), 0);
        self.process.output()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        self.process.kill();
        // What a killed server leaves; nothing is there after a good end.
        let _ = Command::new("umount").args(["-l"]).arg(&self.at).output();
    }
}

fn is_mounted(at: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let place = format!(" {} ", at.display());
    mounts.lines().any(|line| line.contains(&place))
}

/// Runs `mount ARGUMENTS DIR -- COMMAND`.
fn with_command<S: AsRef<OsStr>>(arguments: &[S], at: &Path, command: &[&str]) -> Output {
    // What a killed server left is neither there nor missing.
    let _ = fs::create_dir_all(at);
    let cache = tempfile::tempdir().unwrap();
    let mut program = support::proxy::program();
    program.env("XDG_CACHE_HOME", cache.path());
    program.arg("mount").args(arguments).arg(at).arg("--");
    program.args(command).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// An image that was converted into files.
struct Converted {
    scratch: tempfile::TempDir,
    /// The layers' blobs, bottom first.
    blobs: Vec<PathBuf>,
}

impl Converted {
    /// Of these tars.
    #[track_caller]
    fn new(tars: &[Vec<u8>]) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let source = Layout::create(&scratch.path().join("source"));
        source.add("1", &Image::gzip(tars).seal());
        let upstream = format!("oci:{}", source.path().display());
        let proxy = Proxy::start(&upstream, &scratch.path().join("data"), &[]);
        let out = scratch.path().join("out");
        let blobs = Pulled::into_layout(&proxy, "demo", "1_obd", &out).layers;
        Self { scratch, blobs }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// The layout's name of the image.
    fn image(&self) -> String {
        format!("oci:{}:1_obd", self.path("out").display())
    }
}
