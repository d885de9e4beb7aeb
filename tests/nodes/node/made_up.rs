//! Root directories of nodes, right at first.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::support;

/// A node whose files are those of `examples/node`.
pub struct Node {
    pub directory: tempfile::TempDir,
}

/// What `node check` found.
#[derive(Debug)]
pub struct Checked {
    pub code: i32,
    pub points: Vec<Value>,
    pub err: String,
}

/// A file of `examples/node`.
pub fn example(path: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    root.join("examples/node").join(path)
}

impl Node {
    /// With TurboOCI from Docker Hub through the examples' proxy, and credentials in a file.
    pub fn right() -> Option<Self> {
        if !support::have(&["openssl"]) {
            return None;
        }
        let node = Self {
            directory: tempfile::tempdir().unwrap(),
        };
        let copy = |from: &str, to: &str| {
            node.write(to, std::fs::read_to_string(example(from)).unwrap());
        };
        copy("containerd/config-1.x.toml", "etc/containerd/config.toml");
        let hosts = "containerd/certs.d/docker.io/hosts.toml";
        copy(hosts, &format!("etc/{hosts}"));
        copy(
            "overlaybd-snapshotter/config.json",
            "etc/overlaybd-snapshotter/config.json",
        );
        copy("overlaybd/overlaybd.json", "etc/overlaybd/overlaybd.json");
        node.replace(
            "etc/overlaybd/overlaybd.json",
            "\"uds\",\n    \"path\": \"/run/overlaybd-proxy/credentials.sock\"",
            "\"file\",\n    \"path\": \"/opt/overlaybd/cred.json\"",
        );
        copy("overlaybd/cred.json", "opt/overlaybd/cred.json");
        let mode = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(node.path("opt/overlaybd/cred.json"), mode).unwrap();
        let certificates = node.path("certs");
        support::run(
            support::command("sh")
                .arg(repository("certs/make.sh"))
                .arg(&certificates),
        );
        let authority = std::fs::read_to_string(certificates.join("ca.crt")).unwrap();
        node.write("etc/containerd/certs.d/proxy-ca.crt", &authority);
        node.write("etc/ssl/certs/ca-certificates.crt", &authority);
        node.write(
            "proc/modules",
            "target_core_user 1 0 - Live 0x0\ntcm_loop 1 0 - Live 0x0\noverlay 1 0 - Live 0x0\n",
        );
        node.write(
            "proc/mounts",
            "configfs /sys/kernel/config configfs rw,relatime 0 0\n",
        );
        node.write("proc/42/comm", "overlaybd-tcmu\n");
        node.listen("run/overlaybd-snapshotter/overlaybd.sock", SETTINGS);
        Some(node)
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.directory.path().join(path)
    }

    pub fn write(&self, path: &str, text: impl AsRef<[u8]>) {
        let path = self.path(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    #[track_caller]
    pub fn replace(&self, path: &str, from: &str, to: &str) {
        let text = std::fs::read_to_string(self.path(path)).unwrap();
        assert!(text.contains(from), "{path} has no {from:?}");
        self.write(path, text.replacen(from, to, 1));
    }

    pub fn remove(&self, path: &str) {
        std::fs::remove_file(self.path(path)).unwrap();
    }

    /// Answers what comes first with these bytes.
    pub fn listen(&self, path: &str, answer: &'static [u8]) {
        let path = self.path(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let listener = UnixListener::bind(path).unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut bytes = [0; 33];
                let _ = stream.read_exact(&mut bytes);
                let _ = stream.write_all(answer);
            }
        });
    }

    /// What `node check` says of it.
    #[track_caller]
    pub fn check(&self, more: &[&str]) -> Checked {
        let output = support::proxy::program()
            .args(["node", "check", "--json", "--root"])
            .arg(self.directory.path())
            .args(more)
            .output()
            .unwrap();
        let out = String::from_utf8(output.stdout).unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        let found: Value =
            serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}{err}"));
        let checked = Checked {
            code: output.status.code().unwrap(),
            points: found["points"].as_array().unwrap().clone(),
            err,
        };
        assert_eq!(found["ok"], checked.code == 0, "{found}");
        assert_eq!(found["wrong"], checked.of("wrong").len(), "{found}");
        checked
    }
}

impl Checked {
    /// What is said at a level, with the remedy.
    pub fn of(&self, level: &str) -> Vec<String> {
        let points = self.points.iter().filter(|point| point["level"] == level);
        let text = |point: &Value, key: &str| point[key].as_str().unwrap_or_default().to_owned();
        points
            .map(|point| format!("{}\n> {}", text(point, "what"), text(point, "remedy")))
            .collect()
    }

    /// That just one point is at this level, and says all of this.
    #[track_caller]
    pub fn has_one(&self, level: &str, parts: &[&str]) {
        let found = self.of(level);
        let fits = |text: &&String| parts.iter().all(|part| text.contains(part));
        assert_eq!(
            found.iter().filter(fits).count(),
            1,
            "{parts:?} in {self:#?}"
        );
    }
}

/// An empty SETTINGS frame, with which servers of HTTP/2 begin.
pub const SETTINGS: &[u8] = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00";

/// The absolute path of a file of the repository.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}
