//! Images without a mount: `ls`, `cat`, `cp`, `find` and `nbd`, through the program itself.

mod cat;
mod client;
mod cp;
mod find;
mod ls;
mod nbd;
mod nbd_protocol;
mod walk;

use crate::support;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::image::Image;
use support::layout::Layout;
use support::tar::{self, Entry, Tar};
use support::verifier::Mount;

/// What a run of the program came to.
#[derive(Debug)]
struct Ran {
    code: i32,
    out: Vec<u8>,
    err: String,
}

fn command(arguments: &[&str]) -> Command {
    let mut command = support::proxy::program();
    command.args(arguments);
    command
}

#[track_caller]
fn ran(arguments: &[&str]) -> Ran {
    finish(command(arguments))
}

#[track_caller]
fn finish(mut command: Command) -> Ran {
    let output = command.output().unwrap();
    Ran {
        code: output.status.code().unwrap_or(-1),
        out: output.stdout,
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// The output of a run that must go well.
#[track_caller]
fn good(arguments: &[&str]) -> String {
    let ran = ran(arguments);
    assert_eq!(ran.code, 0, "{arguments:?}: {ran:?}");
    String::from_utf8(ran.out).unwrap()
}

/// What a run that must fail with `code` says on standard error.
#[track_caller]
fn bad(code: i32, arguments: &[&str]) -> String {
    let ran = ran(arguments);
    assert_eq!(ran.code, code, "{arguments:?}: {ran:?}");
    ran.err
}

/// A converted image in a layout.
struct Demo {
    directory: tempfile::TempDir,
}

impl Demo {
    fn new(tars: &[Vec<u8>]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::create(&directory.path().join("source"));
        layout.add("1", &Image::gzip(tars).seal());
        let demo = Self { directory };
        let source = format!("oci:{}:1", demo.path("source").display());
        good(&["convert", "-q", "--vsize", "64MiB", &source, &demo.image()]);
        demo
    }

    /// Kinds of files, names and attributes, over two layers.
    fn odd() -> Self {
        let mut holes = vec![0; 300_000];
        holes[200_000..200_010].copy_from_slice(b"0123456789");
        let lower = Tar::new()
            .dir("etc")
            .file("etc/name", "one\n")
            .entry(Entry::new(tar::DIRECTORY, "tmp").mode(0o1777))
            .file("tmp/gone", "gone")
            .dir("usr")
            .dir("usr/lib")
            .file("usr/lib/data", support::noise(7, 200_000))
            .hard("usr/lib/again", "usr/lib/data")
            .file("usr/lib/holes", &holes)
            .soft("lib", "usr/lib")
            .soft("usr/lib/up", "../../../../../etc/name")
            .soft("absolute", "/etc/name")
            .soft("usr/absolute", "/etc/name")
            .soft("circle", "circle2")
            .soft("circle2", "circle")
            .soft("nowhere", "not/there");
        let upper = Tar::new()
            .file("tmp/.wh.gone", "")
            .entry(
                Entry::new(tar::FILE, "etc/secret")
                    .mode(0o4750)
                    .owner(1000, 2000)
                    .xattr("user.note", "kept")
                    .data(b"s"),
            )
            .dir("dev")
            .entry(Entry::new(tar::CHAR, "dev/null").device(1, 3).mode(0o666))
            .entry(Entry::new(tar::BLOCK, "dev/disk").device(8, 17).mode(0o660))
            .entry(Entry::new(tar::FIFO, "dev/pipe"))
            .entry(
                Entry::new(tar::FILE, "etc/old")
                    .pax("mtime", "1600000000.123456789")
                    .data(b"old"),
            )
            .file("etc/.hidden", "")
            .file("etc/line\nbreak", "n")
            .entry(Entry {
                name: b"etc/\xff\xfe",
                ..Entry::new(tar::FILE, "")
            });
        Self::new(&[lower.finish(), upper.finish()])
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn image(&self) -> String {
        format!("oci:{}:1_obd", self.path("out").display())
    }

    /// The disk as a file.
    fn raw(&self) -> PathBuf {
        let raw = self.path("disk.raw");
        good(&["export", &self.image(), "-o", raw.to_str().unwrap()]);
        raw
    }

    /// What the kernel finds on the disk; `None`, and prints SKIPPED, where it may not mount.
    fn mounted(&self) -> Option<Mount> {
        support::is_root("a mount").then(|| Mount::new(&self.raw(), &self.path("mounted")))
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            support::overlaybd::assert_directory(self.directory.path());
        }
    }
}

/// What another program prints, run in a directory.
#[track_caller]
fn printed(directory: &Path, program: &str, arguments: &[impl AsRef<OsStr>]) -> String {
    let mut command = support::command(program);
    command.args(arguments).current_dir(directory);
    command.env("LC_ALL", "C").env("TZ", "UTC");
    String::from_utf8(support::run(&mut command).stdout).unwrap()
}
