//! Real registries for tests: Debian's `docker-registry` on a free port, with what it
//! takes to be private; and a server that misbehaves by script.

// Each test binary uses its part of this.
#![allow(dead_code)]
// Some binaries have it as a part of their `support` too.
#![allow(clippy::duplicate_mod)]

pub mod faults;
#[path = "../support/overlaybd/mod.rs"]
mod overlaybd;
pub mod scripted;
pub mod tokens;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use http::{Request, Response, header};
use http_body_util::BodyExt as _;
use overlaybd_proxy::oci::media_type::MANIFEST_ACCEPT;
use overlaybd_proxy::oci::{Digest, RepoName, Selector, Tag};
use overlaybd_proxy::registry::{
    Authorization, BlobSource, Body, Credentials, Error, RegistryConfig, RetryPolicy, Secret,
    Upstream, body,
};

/// Prints that a test is skipped, or fails where all must be done.
pub fn skip(reason: &str) {
    assert!(
        std::env::var("OVERLAYBD_PROXY_TEST_ALL").as_deref() != Ok("1"),
        "SKIPPED is not allowed here: {reason}"
    );
    eprintln!("SKIPPED: {reason}");
}

pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':')
        .chain(["/usr/sbin", "/usr/bin"])
        .map(|place| Path::new(place).join(program))
        .find(|path| path.is_file())
}

/// Runs a program that must succeed.
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A running `docker-registry`; stopped and removed when dropped. The layers that were pushed
/// to it must keep the rules of overlaybd's reader.
pub struct DockerRegistry {
    pub directory: tempfile::TempDir,
    pub host: String,
    child: Child,
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if !std::thread::panicking() {
            overlaybd::assert_directory(&self.directory.path().join("storage"));
        }
    }
}

/// Settings of a registry, in its own YAML: below `auth:` and below `http:`.
#[derive(Default)]
pub struct Settings {
    pub auth: String,
    pub http: String,
}

impl DockerRegistry {
    /// An open registry, or `None` where it is not installed.
    pub fn start() -> Option<Self> {
        Self::start_with(|_| Settings::default())
    }

    /// A registry with users from `htpasswd`.
    pub fn start_with_users(users: &[(&str, &str)]) -> Option<Self> {
        if find("htpasswd").is_none() {
            skip("htpasswd is not installed: apt-get install apache2-utils");
            return None;
        }
        Self::start_with(|directory| {
            let path = directory.join("htpasswd");
            let mut text = String::new();
            for (user, password) in users {
                text += run(Command::new("htpasswd").args(["-nbB", user, password])).trim();
                text.push('\n');
            }
            fs::write(&path, text).unwrap();
            let auth = format!(
                "  htpasswd:\n    realm: test\n    path: {}\n",
                path.display()
            );
            Settings {
                auth,
                ..Settings::default()
            }
        })
    }

    pub fn start_with(settings: impl FnOnce(&Path) -> Settings) -> Option<Self> {
        let Some(program) = find("docker-registry") else {
            skip("docker-registry is not installed: apt-get install docker-registry");
            return None;
        };
        let directory = tempfile::tempdir().unwrap();
        let settings = settings(directory.path());
        // Between our letting go of a port and the registry's taking it another may come.
        for _ in 0..5 {
            if let Some(child) = try_start(&program, directory.path(), &settings) {
                let (child, port) = child;
                return Some(Self {
                    directory,
                    host: format!("127.0.0.1:{port}"),
                    child,
                });
            }
        }
        panic!("docker-registry does not start");
    }

    /// Uploads that were begun and neither ended nor cancelled.
    pub fn open_uploads(&self, repo: &str) -> usize {
        let storage = self.directory.path().join("storage/docker/registry/v2");
        let uploads = storage.join(format!("repositories/{repo}/_uploads"));
        // The registry leaves directories of cancelled uploads behind, but not this file.
        fs::read_dir(uploads).map_or(0, |entries| {
            entries
                .filter(|entry| entry.as_ref().unwrap().path().join("startedat").exists())
                .count()
        })
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

fn try_start(program: &Path, directory: &Path, settings: &Settings) -> Option<(Child, u16)> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let storage = directory.join("storage");
    let auth = if settings.auth.is_empty() {
        String::new()
    } else {
        format!("auth:\n{}", settings.auth)
    };
    let text = format!(
        "version: 0.1\nlog:\n  level: debug\nstorage:\n  filesystem:\n    rootdirectory: {}\n  \
         delete:\n    enabled: true\nhttp:\n  addr: 127.0.0.1:{port}\n{}{auth}",
        storage.display(),
        settings.http
    );
    let config = directory.join("config.yml");
    fs::write(&config, text).unwrap();
    let log = fs::File::create(directory.join("log")).unwrap();
    let mut child = Command::new(program)
        .args(["serve".as_ref(), config.as_os_str()])
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(20) && child.try_wait().unwrap().is_none() {
        if is_listening(port) {
            return Some((child, port));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let _ = child.kill();
    let _ = child.wait();
    let log = fs::read_to_string(directory.join("log")).unwrap_or_default();
    eprintln!("docker-registry has not come up:\n{log}");
    None
}

fn is_listening(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else {
        return false;
    };
    let _ = stream.set_read_timeout(Some(Duration::from_millis(500)));
    let request = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let mut start = [0; 4];
    // A TLS listener answers in the clear too, with an error.
    stream.write_all(request).is_ok() && stream.read_exact(&mut start).is_ok()
}

/// Certificates of `certs/make.sh`, in a directory of their own.
pub fn certificates() -> Option<tempfile::TempDir> {
    if find("openssl").is_none() {
        skip("openssl is not installed: apt-get install openssl");
        return None;
    }
    let directory = tempfile::tempdir().unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("certs/make.sh");
    run(Command::new(script).arg(directory.path()));
    Some(directory)
}

/// Settings that do not make a test wait.
pub fn quick() -> RegistryConfig {
    RegistryConfig {
        retry: RetryPolicy {
            attempts: 4,
            base: Duration::from_millis(5),
            max: Duration::from_millis(20),
            max_retry_after: Duration::from_secs(3),
        },
        ..RegistryConfig::default()
    }
}

/// The same, with a password.
pub fn quick_as(username: &str, password: &str) -> RegistryConfig {
    RegistryConfig {
        credentials: Credentials::Basic {
            username: username.to_owned(),
            password: Secret::new(password),
        },
        ..quick()
    }
}

pub fn repo(text: &str) -> RepoName {
    text.parse().unwrap()
}

pub fn tag(text: &str) -> Selector {
    Selector::Tag(text.parse::<Tag>().unwrap())
}

/// Bytes without a pattern, the same for the same seed.
pub fn noise(length: usize, seed: u64) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes.into()
}

/// A blob, read whole.
pub async fn blob(upstream: &Upstream, name: &str, bytes: &Bytes) -> Result<Vec<u8>, Error> {
    let digest = Digest::of(bytes);
    let size = bytes.len() as u64;
    let own = Authorization::Own;
    let stream = upstream.blob(&repo(name), &digest, size, &own).await?;
    let chunks: Vec<Bytes> = stream.try_collect().await?;
    Ok(chunks.concat())
}

pub fn get(path: &str) -> Request<Body> {
    Request::get(path)
        .header(header::ACCEPT, MANIFEST_ACCEPT)
        .body(body::empty())
        .unwrap()
}

pub async fn text(response: Response<Body>) -> String {
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Pushes blobs and a manifest of them; the manifest's bytes.
pub async fn push_image(
    upstream: &Upstream,
    repo: &RepoName,
    name: &str,
    layers: &[Bytes],
    own: &Authorization,
) -> Bytes {
    let config = Bytes::from_static(br#"{"architecture":"amd64","os":"linux"}"#);
    let mut listed = Vec::new();
    for bytes in std::iter::once(&config).chain(layers) {
        let digest = Digest::of(bytes);
        let size = bytes.len() as u64;
        let source = BlobSource::Bytes(bytes.clone());
        upstream
            .push_blob(repo, &digest, size, &source, own)
            .await
            .unwrap();
        let media_type = if listed.is_empty() {
            "application/vnd.oci.image.config.v1+json"
        } else {
            "application/vnd.oci.image.layer.v1.tar"
        };
        listed.push(
            serde_json::json!({"mediaType": media_type, "digest": digest.as_str(), "size": size}),
        );
    }
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": overlaybd_proxy::oci::media_type::OCI_MANIFEST,
        "config": listed[0],
        "layers": listed[1..],
    });
    let bytes = Bytes::from(serde_json::to_vec(&manifest).unwrap());
    let media_type = overlaybd_proxy::oci::media_type::OCI_MANIFEST;
    upstream
        .push_manifest(repo, &tag(name), media_type, bytes.clone(), own)
        .await
        .unwrap();
    bytes
}
