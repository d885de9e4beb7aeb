//! The real program, serving.

use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::Value;

use super::process::Process;
use super::{http, overlaybd};

/// A running proxy. Killed when dropped; its data directory is the test's, and the layers that
/// are then in there must keep the rules of overlaybd's reader.
pub struct Proxy {
    process: Process,
    data_dir: PathBuf,
    url: String,
    admin: String,
    logs: tempfile::TempDir,
}

/// The program under test.
pub fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_overlaybd-proxy"));
    // Whatever the machine is set to, a test says what it means.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("OVERLAYBD_PROXY_") {
            command.env_remove(name);
        }
    }
    command.env("DOCKER_CONFIG", "/nonexistent");
    // A relative path must not name a place in the working tree.
    command.current_dir(env!("CARGO_TARGET_TMPDIR"));
    command
}

impl Proxy {
    /// `serve` before `upstream`, with further arguments.
    #[track_caller]
    pub fn start(upstream: &str, data_dir: &Path, more: &[&str]) -> Self {
        Self::start_as(program(), upstream, data_dir, more)
    }

    /// As [`Proxy::start`], by a command that has been prepared.
    #[track_caller]
    pub fn start_as(mut command: Command, upstream: &str, data_dir: &Path, more: &[&str]) -> Self {
        let logs = tempfile::tempdir().unwrap();
        // Most tests mend what they broke, and ask again at once; those of failures that are
        // remembered say so by the flag, which goes before this.
        command.env("OVERLAYBD_PROXY_FAILURE_TTL", "0");
        command
            .args(["serve", "--upstream", upstream, "--listen", "127.0.0.1:0"])
            .args(["--admin", "127.0.0.1:0", "--data-dir"])
            .arg(data_dir)
            .args(more);
        let mut process = Process::start(command, &logs.path().join("log"));
        let url = process.wait_for("listening on ");
        let admin = process.wait_for("admin on ");
        Self {
            process,
            data_dir: data_dir.to_owned(),
            url,
            admin,
            logs,
        }
    }

    /// `http://127.0.0.1:PORT`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// `http://127.0.0.1:PORT` of the listener for nodes, of a proxy that was started with one.
    #[track_caller]
    pub fn overlaybd(&mut self) -> String {
        self.process.wait_for("overlaybd on ")
    }

    /// `127.0.0.1:PORT`.
    pub fn host(&self) -> &str {
        self.url.split_once("//").unwrap().1
    }

    /// skopeo's name of an image behind it.
    pub fn image(&self, repo: &str, tag: &str) -> String {
        format!("docker://{}/{repo}:{tag}", self.host())
    }

    /// Asks for `path` below `/v2/`.
    #[track_caller]
    pub fn get(&self, path: &str) -> http::Answer {
        http::get(&format!("{}/v2/{path}", self.url))
    }

    /// The manifest that the image becomes.
    #[track_caller]
    pub fn converted(&self, repo: &str, tag: &str) -> Value {
        let answer = self.get(&format!("{repo}/manifests/{tag}_obd"));
        let log = self.log();
        assert_eq!(answer.status, 200, "{repo}:{tag}: {answer:?}\n{log}");
        answer.json()
    }

    /// The sum of a counter over its labels; `None` if nothing is counted by that name.
    #[track_caller]
    pub fn metric(&self, name: &str) -> Option<u64> {
        let answer = http::get(&format!("{}/metrics", self.admin));
        assert_eq!(answer.status, 200, "{answer:?}");
        let text = answer.text();
        let values = text.lines().filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            let rest = match rest.strip_prefix('{') {
                Some(labels) => labels.split_once("} ")?.1,
                None => rest.strip_prefix(' ')?,
            };
            rest.split(' ').next()?.parse::<u64>().ok()
        });
        values.fold(None, |sum, value| Some(sum.unwrap_or(0) + value))
    }

    /// The value of one series: `name{label="value"}`, without `overlaybd_proxy_`. 0 if there is none.
    #[track_caller]
    pub fn series(&self, series: &str) -> u64 {
        let answer = http::get(&format!("{}/metrics", self.admin));
        assert_eq!(answer.status, 200, "{answer:?}");
        let start = format!("overlaybd_proxy_{series} ");
        let text = answer.text();
        let mut values = text.lines().filter_map(|line| line.strip_prefix(&start));
        values.next().map_or(0, |value| value.parse().unwrap())
    }

    pub fn admin(&self) -> &str {
        &self.admin
    }

    pub fn log(&self) -> String {
        self.process.output()
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The most memory that it had, in MiB.
    #[track_caller]
    pub fn peak_mib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:"));
        let kib: u64 = line
            .unwrap()
            .split_whitespace()
            .nth(1)
            .unwrap()
            .parse()
            .unwrap();
        kib / 1024
    }

    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Asks it to end; it must do so well.
    #[track_caller]
    pub fn stop(self) {
        self.signal(Signal::SIGTERM);
        self.end();
    }

    /// Waits until it has ended, which it was asked to before: a second signal would end it at once.
    #[track_caller]
    pub fn end(mut self) {
        let status = self.process.end();
        assert!(status.success(), "{status}: {}", self.log());
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.process.kill();
        if !std::thread::panicking() {
            overlaybd::assert_directory(&self.data_dir.join("blobs"));
        }
    }
}

/// Everything in a data directory that is a blob or could become one.
pub fn blobs(data_dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut todo = vec![data_dir.join("blobs"), data_dir.join("tmp")];
    while let Some(path) = todo.pop() {
        for child in std::fs::read_dir(&path).into_iter().flatten() {
            let path = child.unwrap().path();
            if path.is_dir() {
                todo.push(path);
            } else {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

/// How many rows the index's table has.
pub fn rows(data_dir: &Path, table: &str) -> usize {
    let index = rusqlite::Connection::open_with_flags(
        data_dir.join("index.sqlite"),
        rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY,
    )
    .unwrap();
    let count: i64 = index
        .query_row(&format!("SELECT count(*) FROM {table}"), [], |row| {
            row.get(0)
        })
        .unwrap();
    usize::try_from(count).unwrap()
}

/// The rows of all of the index's tables together.
pub fn all_rows(data_dir: &Path) -> usize {
    let tables = [
        "overlaybd_layers",
        "overlaybd_manifests",
        "overlaybd_proxy_chains",
        "overlaybd_proxy_layers",
        "overlaybd_proxy_manifests",
        "overlaybd_proxy_pushed",
        "overlaybd_proxy_leases",
    ];
    tables.map(|table| rows(data_dir, table)).iter().sum()
}
