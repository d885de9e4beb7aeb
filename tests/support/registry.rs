//! Debian's docker-registry as an upstream.

use std::path::{Path, PathBuf};

use super::image::Sealed;
use super::process::Process;
use super::{http, overlaybd};

/// A registry with an empty storage. Killed and removed when dropped; the layers that were
/// pushed to it must keep the rules of overlaybd's reader.
pub struct Registry {
    process: Process,
    directory: tempfile::TempDir,
    address: String,
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.process.kill();
        if !std::thread::panicking() {
            overlaybd::assert_directory(&self.storage());
        }
    }
}

impl Registry {
    /// `None`, and prints SKIPPED, where it is not installed.
    pub fn start() -> Option<Self> {
        Self::start_with("")
    }

    /// As [`Registry::start`], with more of its configuration.
    pub fn start_with(more: &str) -> Option<Self> {
        if !super::have(&["docker-registry"]) {
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let storage = directory.path().join("storage");
        let config = directory.path().join("config.yml");
        std::fs::write(
            &config,
            format!(
                "version: 0.1\nlog:\n  level: info\n  accesslog:\n    disabled: false\nstorage:\n  \
                 filesystem:\n    rootdirectory: {}\n  delete:\n    enabled: true\nhttp:\n  \
                 addr: 127.0.0.1:0\n{more}",
                storage.display()
            ),
        )
        .unwrap();
        let mut command = super::command("docker-registry");
        command.arg("serve").arg(&config);
        let mut process = Process::start(command, &directory.path().join("log"));
        let address = process.wait_for("listening on ");
        Some(Self {
            process,
            directory,
            address,
        })
    }

    /// `127.0.0.1:PORT`.
    pub fn address(&self) -> &str {
        &self.address
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Requests answered so far, as `METHOD PATH` lines of the access log.
    pub fn requests(&self) -> Vec<String> {
        let output = self.process.output();
        let access = output.lines().filter(|line| !line.starts_with("time="));
        access
            .filter_map(|line| {
                let (_, rest) = line.split_once("] \"")?;
                let (request, _) = rest.split_once(" HTTP/")?;
                Some(request.to_owned())
            })
            .collect()
    }

    /// How many of the requests begin with `method` and have `part` in their path.
    pub fn count(&self, method: &str, part: &str) -> usize {
        let requests = self.requests();
        let of_kind = requests
            .iter()
            .filter(|request| request.starts_with(method) && request.contains(part));
        of_kind.count()
    }

    /// The file that holds a blob.
    pub fn blob_path(&self, digest: &str) -> PathBuf {
        let hex = digest.strip_prefix("sha256:").unwrap();
        let blobs = self.storage().join("docker/registry/v2/blobs/sha256");
        blobs.join(&hex[..2]).join(hex).join("data")
    }

    pub fn storage(&self) -> PathBuf {
        self.directory.path().join("storage")
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Lets it answer nothing until it is thawed.
    #[track_caller]
    pub fn freeze(&self) {
        self.process.freeze();
    }

    pub fn thaw(&self) {
        self.process.thaw();
    }

    /// Pushes an image as it is, lies and all; gives the manifest's digest.
    #[track_caller]
    pub fn push(&self, repo: &str, tag: &str, image: &Sealed) -> String {
        for blob in &image.blobs {
            self.push_blob(repo, &blob.bytes);
        }
        self.push_manifest(repo, tag, &image.media_type, &image.manifest)
    }

    #[track_caller]
    pub fn push_blob(&self, repo: &str, bytes: &[u8]) -> String {
        let digest = super::sha256(bytes);
        let begun = http::send(
            "POST",
            &format!("{}/v2/{repo}/blobs/uploads/", self.url()),
            &[],
            b"",
        );
        assert_eq!(begun.status, 202, "{begun:?}");
        let location = begun.header("location").unwrap().to_owned();
        let address = if location.starts_with('/') {
            format!("{}{location}", self.url())
        } else {
            location
        };
        let mark = if address.contains('?') { '&' } else { '?' };
        let octets = [("content-type", "application/octet-stream")];
        let put = http::send(
            "PUT",
            &format!("{address}{mark}digest={digest}"),
            &octets,
            bytes,
        );
        assert_eq!(put.status, 201, "{put:?}");
        digest
    }

    #[track_caller]
    pub fn push_manifest(&self, repo: &str, tag: &str, media_type: &str, bytes: &[u8]) -> String {
        let put = http::send(
            "PUT",
            &format!("{}/v2/{repo}/manifests/{tag}", self.url()),
            &[("content-type", media_type)],
            bytes,
        );
        assert_eq!(put.status, 201, "{put:?}");
        super::sha256(bytes)
    }
}
