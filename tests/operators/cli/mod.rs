//! The command line, through the program itself.

mod config;
mod convert;
mod export;
mod help;
mod inspect;
mod paths;
mod secrets;
mod warm;

use crate::support;
use std::path::PathBuf;
use std::process::Command;

use support::image::Image;
use support::layout::Layout;
use support::tar::Tar;

/// What a run of the program came to.
#[derive(Debug)]
struct Ran {
    code: i32,
    out: String,
    err: String,
}

fn program(arguments: &[&str]) -> Command {
    let mut command = support::proxy::program();
    command.args(arguments);
    command
}

#[track_caller]
fn finish(mut command: Command) -> Ran {
    // Relative paths are not those of the working tree.
    let directory = tempfile::tempdir().unwrap();
    let output = command.current_dir(directory.path()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran {
        code: output.status.code().unwrap_or(-1),
        out: text(output.stdout),
        err: text(output.stderr),
    }
}

#[track_caller]
fn ran(arguments: &[&str]) -> Ran {
    finish(program(arguments))
}

/// The output of a run that must go well.
#[track_caller]
fn good(arguments: &[&str]) -> String {
    let ran = ran(arguments);
    assert_eq!(ran.code, 0, "{arguments:?}: {ran:?}");
    ran.out
}

/// What a run that must fail with `code` says on standard error.
#[track_caller]
fn bad(code: i32, arguments: &[&str]) -> String {
    let ran = ran(arguments);
    assert_eq!(ran.code, code, "{arguments:?}: {ran:?}");
    ran.err
}

/// The absolute path of a file of the repository.
fn repository(path: &str) -> String {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    root.join(path).display().to_string()
}

fn golden(set: &str) -> Vec<String> {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    (0..3)
        .map(|n| directory.join(set).join(format!("{n}.obd")))
        .map(|path| path.display().to_string())
        .collect()
}

/// A layout with one image under several tags. Whatever layers were made beside it must keep
/// the rules of overlaybd's reader.
struct Demo {
    directory: tempfile::TempDir,
}

impl Demo {
    fn new(tags: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::create(&directory.path().join("source"));
        let tars = [
            Tar::new().dir("etc").file("etc/name", "one").finish(),
            Tar::new()
                .file("etc/more", support::noise(1, 70_000))
                .finish(),
        ];
        let image = Image::gzip(&tars).platform("linux", architecture()).seal();
        for tag in tags {
            layout.add(tag, &image);
        }
        Self { directory }
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    fn source(&self, tag: &str) -> String {
        format!("oci:{}:{tag}", self.path("source"))
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            support::overlaybd::assert_directory(self.directory.path());
        }
    }
}

/// This machine's, in Go's word.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
