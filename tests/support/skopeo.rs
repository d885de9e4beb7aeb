//! The stock client.

use std::path::Path;
use std::process::{Command, Output};

fn skopeo() -> Command {
    let mut command = super::command("skopeo");
    command.args(["--insecure-policy", "--command-timeout", "4m"]);
    command
}

fn copy(from: &str, to: &str, more: &[&str]) -> Command {
    let mut command = skopeo();
    command
        .args(["copy", "--preserve-digests", "--src-tls-verify=false"])
        .args(["--dest-tls-verify=false", "--retry-times", "0"])
        .args(more)
        .args([from, to]);
    command
}

/// Copies an image, which must work.
#[track_caller]
pub fn copied(from: &str, to: &str, more: &[&str]) {
    super::run(&mut copy(from, to, more));
}

/// Tries to copy an image.
pub fn try_copy(from: &str, to: &str) -> Output {
    copy(from, to, &[]).output().unwrap()
}

/// `oci:DIR:TAG`.
pub fn layout(directory: &Path, tag: &str) -> String {
    format!("oci:{}:{tag}", directory.display())
}
