//! An S3 server with one bucket: s3s-fs, which keeps an object as a file of its name.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::gate::Gate;
use super::process::Process;
use super::proxy::{Proxy, program};

/// What the server takes.
pub const KEY_ID: &str = "AKIDTEST";
pub const SECRET: &str = "s3cr3t/of+tests";
const BUCKET: &str = "images";
const PREFIX: &str = "obd";

/// A server with an empty bucket, and a gate before it. Killed and removed when dropped.
pub struct Bucket {
    _process: Process,
    pub directory: tempfile::TempDir,
    pub gate: Gate,
}

/// Where `tests/setup.sh` installs it.
fn server() -> Option<PathBuf> {
    let built = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("tools/bin/s3s-fs");
    Some(built)
        .filter(|path| path.is_file())
        .or_else(|| super::find("s3s-fs"))
}

impl Bucket {
    /// `None`, and prints SKIPPED, where it is not installed.
    pub fn start() -> Option<Self> {
        let Some(server) = server() else {
            super::skip("s3s-fs is not installed: tests/setup.sh does it, with cargo");
            return None;
        };
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join(BUCKET)).unwrap();
        let mut command = Command::new(server);
        command
            .args(["--host", "127.0.0.1", "--port", "0"])
            .args(["--access-key", KEY_ID, "--secret-key", SECRET])
            .arg(directory.path())
            .env("RUST_LOG", "s3s_fs=info");
        let mut process = Process::start(command, &directory.path().join("log"));
        let address = process.wait_for("running at http://");
        Some(Self {
            _process: process,
            directory,
            gate: Gate::before(&address),
        })
    }

    /// The options of a replica that uses it.
    pub fn options(&self) -> Vec<String> {
        options(&self.gate.url())
    }

    /// A replica before `upstream`.
    #[track_caller]
    pub fn replica(&self, upstream: &str, data_dir: &Path, more: &[&str]) -> Proxy {
        let options = self.options();
        let options = options.iter().map(String::as_str);
        let options: Vec<&str> = options.chain(more.iter().copied()).collect();
        Proxy::start_as(with_credentials(program()), upstream, data_dir, &options)
    }

    /// The file of a blob's object.
    pub fn object(&self, digest: &str) -> PathBuf {
        let hex = digest.strip_prefix("sha256:").unwrap();
        let bucket = self.directory.path().join(BUCKET).join(PREFIX);
        bucket.join("blobs/sha256").join(&hex[..2]).join(hex)
    }

    /// The bytes of a blob's object, if there is one.
    pub fn bytes(&self, digest: &str) -> Option<Vec<u8>> {
        std::fs::read(self.object(digest)).ok()
    }
}

/// The options of a replica that uses the bucket behind an endpoint.
pub fn options(endpoint: &str) -> Vec<String> {
    options_of(&format!("s3://{BUCKET}/{PREFIX}"), endpoint)
}

/// The same of any bucket.
pub fn options_of(bucket: &str, endpoint: &str) -> Vec<String> {
    ["--blob-store", bucket, "--blob-store-endpoint", endpoint]
        .map(str::to_owned)
        .into()
}

/// With the bucket's credentials, and nothing else that the machine has of such.
pub fn with_credentials(command: Command) -> Command {
    let mut command = without_credentials(command);
    command
        .env("AWS_ACCESS_KEY_ID", KEY_ID)
        .env("AWS_SECRET_ACCESS_KEY", SECRET);
    command
}

/// With nothing that the machine has of credentials.
pub fn without_credentials(mut command: Command) -> Command {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("AWS_") {
            command.env_remove(name);
        }
    }
    command
}
