//! Images with programs in them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::support::image::{Flavour, Image, Packing};
use crate::support::layout::Layout;
use crate::support::proxy::program;
use crate::support::tar::{Entry, FILE, Tar};
use crate::support::{self, run};

/// Whether images can be mounted and run in here; prints SKIPPED if not.
pub fn can_run() -> bool {
    if !Path::new("/dev/fuse").exists() {
        support::skip("there is no /dev/fuse");
        return false;
    }
    support::is_root("a sandbox over a mount") && support::have(&["bwrap"])
}

/// Programs of this machine and what they load: names in an image, and where they are here.
fn files() -> BTreeMap<String, PathBuf> {
    let mut files = BTreeMap::new();
    for name in ["sh", "cat", "sleep", "echo"] {
        let path = support::find(name).unwrap();
        let output = run(Command::new("ldd").arg(&path));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        for word in text.split_whitespace().filter(|word| word.starts_with('/')) {
            files.insert(word.trim_start_matches('/').to_owned(), PathBuf::from(word));
        }
        files.insert(format!("bin/{name}"), path);
    }
    files
}

/// A small image with a shell, of two layers, as it comes before conversion.
pub fn small() -> Image {
    let mut base = Tar::new();
    for name in ["proc", "dev", "tmp", "srv"] {
        base = base.dir(&format!("{name}/"));
    }
    let mut made = BTreeSet::new();
    for (name, source) in files() {
        let parents: Vec<_> = Path::new(&name).ancestors().skip(1).collect();
        for parent in parents.into_iter().rev() {
            if !parent.as_os_str().is_empty() && made.insert(parent.to_owned()) {
                base = base.dir(&format!("{}/", parent.display()));
            }
        }
        let data = std::fs::read(source).unwrap();
        base = base.entry(Entry::new(FILE, &name).mode(0o755).data(&data));
    }
    let large = support::noise(7, 3 << 20);
    let application = Tar::new()
        .dir("srv/")
        .file("srv/first", "the first\n")
        .file("srv/second", "the second\n")
        .file("srv/never", large)
        .hard("srv/zweite", "srv/second");
    let (base, application) = (base.finish(), application.finish());
    let layers = [
        (&base[..], Packing::Gzip),
        (&application[..], Packing::Plain),
    ];
    let mut image = Image::new(Flavour::Oci, &layers);
    image.config["config"]["WorkingDir"] = "/srv".into();
    image.config["config"]["Env"] = serde_json::json!(["PATH=/bin", "GREETING=good morning"]);
    image.config["config"]["Cmd"] = serde_json::json!(["/bin/cat", "first"]);
    image
}

/// A converted image in a layout, and its name there.
pub struct Converted {
    directory: tempfile::TempDir,
}

impl Converted {
    /// Converts an image, with further arguments for `convert`.
    #[track_caller]
    pub fn new(image: &Image, more: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let source = Layout::create(&directory.path().join("source"));
        source.add("1", &image.seal());
        let converted = Self { directory };
        let from = format!("oci:{}:1", source.path().display());
        let output = program()
            .args(["convert", "-q", &from, &converted.name()])
            .args(more)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        converted
    }

    /// The image's name.
    pub fn name(&self) -> String {
        format!("oci:{}:1", self.directory.path().join("out").display())
    }

    /// Where files of a test go.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// `cold-start` with arguments before and behind `--`.
    pub fn start(&self, options: &[&str], command: &[&str]) -> Output {
        start(&self.name(), options, command)
    }

    /// As [`start`](Self::start), with `--json`.
    #[track_caller]
    pub fn report(&self, options: &[&str], command: &[&str]) -> Value {
        report(&self.name(), options, command)
    }
}

/// `cold-start` of any image.
pub fn start(image: &str, options: &[&str], command: &[&str]) -> Output {
    let mut start = program();
    start.arg("cold-start").args(options).arg(image);
    if !command.is_empty() {
        start.arg("--").args(command);
    }
    start.output().unwrap()
}

/// What `cold-start --json` says of a start that went well.
#[track_caller]
pub fn report(image: &str, options: &[&str], command: &[&str]) -> Value {
    let options: Vec<_> = ["--json"].iter().chain(options).copied().collect();
    let output = start(image, &options, command);
    assert!(output.status.success(), "{}", support_text(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// What a command wrote, for messages.
pub fn support_text(output: &Output) -> String {
    format!(
        "{}: {}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}
