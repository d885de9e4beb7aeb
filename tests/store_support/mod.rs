//! A real `MariaDB` server for tests, started on a port of its own.

// Each test binary uses its part of this.
#![allow(dead_code)]

pub mod relay;

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable;
use nix::sys::signal::Signal;
use overlaybd_proxy::oci::{ChainId, Digest, RepoName};
use overlaybd_proxy::store::{BlobFile, BlobStore, Index, IndexError, ManifestKey, SharedLayer};
use parking_lot::Mutex;

/// A running server; stopped and removed when dropped.
pub struct Server {
    directory: tempfile::TempDir,
    port: u16,
    extra: Vec<String>,
    child: Mutex<Option<Child>>,
}

/// Whether each thread of a process is stopped by a signal (state `T` of `proc_pid_stat(5)`).
fn is_stopped(pid: u32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    threads.flatten().all(|thread| {
        let stat = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        let state = stat.rsplit(')').next().unwrap_or_default().trim_start();
        state.starts_with('T')
    })
}

/// Stores a blob of these bytes.
pub fn put(store: &BlobStore, bytes: &[u8]) -> Digest {
    let digest = Digest::of(bytes);
    store.put_bytes(&digest, bytes).unwrap();
    digest
}

/// All bytes of a blob.
pub fn content(blob: &BlobFile) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(blob.size()).unwrap()];
    blob.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

/// Prints that a test is skipped, or fails where all must be done.
pub fn skip(reason: &str) {
    assert!(
        std::env::var("OVERLAYBD_PROXY_TEST_ALL").as_deref() != Ok("1"),
        "SKIPPED is not allowed here: {reason}"
    );
    eprintln!("SKIPPED: {reason}");
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    let places = path
        .split(':')
        .chain(["/usr/sbin", "/usr/bin", "/usr/local/sbin"]);
    places
        .map(|place| Path::new(place).join(program))
        .find(|path| path.is_file())
}

fn is_root() -> bool {
    nix::unistd::Uid::effective().is_root()
}

impl Server {
    /// A server of one's own, or `None` where `MariaDB` is not installed.
    pub fn start(extra: &[&str]) -> Option<Self> {
        let Some(install) = find("mariadb-install-db") else {
            skip("MariaDB is not installed: apt-get install mariadb-server");
            return None;
        };
        let directory = tempfile::tempdir().unwrap();
        let data = format!("--datadir={}", directory.path().join("data").display());
        let mut command = Command::new(install);
        command.args(["--no-defaults", "--skip-test-db", &data]);
        command.arg("--auth-root-authentication-method=normal");
        // Two servers' temporary tables must not meet.
        let tmp = directory.path().join("tmp");
        fs::create_dir(&tmp).unwrap();
        command.arg(format!("--tmpdir={}", tmp.display()));
        command.env("TMPDIR", &tmp);
        if is_root() {
            command.arg("--user=root");
        }
        let output = command.output().unwrap();
        assert!(
            output.status.success(),
            "mariadb-install-db: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self {
            port: listener.local_addr().unwrap().port(),
            directory,
            extra: extra.iter().map(|&text| text.to_owned()).collect(),
            child: Mutex::new(None),
        };
        drop(listener);
        server.up();
        Some(server)
    }

    /// The server that the tests of one binary share while any of them runs.
    pub fn shared() -> Option<Arc<Self>> {
        static SHARED: Mutex<Weak<Server>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock();
        if let Some(server) = shared.upgrade() {
            return Some(server);
        }
        let server = Arc::new(Self::start(&[])?);
        *shared = Arc::downgrade(&server);
        Some(server)
    }

    /// Starts the process and waits until it answers.
    pub fn up(&self) {
        let base = self.directory.path();
        let log = fs::File::create(base.join("log")).unwrap();
        let mut command = Command::new(find("mariadbd").expect("mariadbd beside its installer"));
        command
            .arg("--no-defaults")
            .arg(format!("--datadir={}", base.join("data").display()))
            .arg(format!("--socket={}", self.socket().display()))
            .arg(format!("--pid-file={}", base.join("pid").display()))
            .arg(format!("--tmpdir={}", base.join("tmp").display()))
            .arg(format!("--port={}", self.port))
            .args(["--bind-address=127.0.0.1", "--skip-name-resolve"])
            .args(["--innodb-buffer-pool-size=16M", "--max-connections=300"])
            .args(&self.extra)
            .stdout(Stdio::null())
            .stderr(log);
        if is_root() {
            command.arg("--user=root");
        }
        *self.child.lock() = Some(command.spawn().unwrap());
        let started = Instant::now();
        loop {
            // The initial handshake packet names the server; a port alone may be open too early.
            if let Ok(mut stream) = std::net::TcpStream::connect(("127.0.0.1", self.port)) {
                use std::io::Read;
                let _ = stream.set_read_timeout(Some(Duration::from_secs(2)));
                if matches!(stream.read(&mut [0; 16]), Ok(n) if n > 0) {
                    return;
                }
            }
            assert!(
                started.elapsed() < Duration::from_mins(1),
                "MariaDB does not start: {}",
                fs::read_to_string(base.join("log")).unwrap_or_default()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Kills the process as a power cut would.
    pub fn down(&self) {
        if let Some(mut child) = self.child.lock().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Stops the process, all of its threads, and waits until they stand.
    pub fn freeze(&self) {
        let pid = self.kill(Signal::SIGSTOP);
        let started = Instant::now();
        while !is_stopped(pid) {
            assert!(started.elapsed() < Duration::from_mins(1), "it goes on");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Lets a frozen process go on.
    pub fn thaw(&self) {
        self.kill(Signal::SIGCONT);
    }

    fn kill(&self, signal: Signal) -> u32 {
        let child = self.child.lock();
        let pid = child.as_ref().unwrap().id();
        let raw = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
        nix::sys::signal::kill(raw, signal).unwrap();
        pid
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("sock")
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// A Go DSN for the administrator.
    pub fn dsn(&self, database: &str) -> String {
        format!("root@tcp(127.0.0.1:{})/{database}", self.port)
    }

    /// A new, empty database.
    pub async fn database(&self) -> String {
        let name = format!("test_{:016x}", rand::random::<u64>());
        self.execute("mysql", &format!("CREATE DATABASE {name}"))
            .await;
        name
    }

    /// Does statements as an operator would, past the code under test.
    pub async fn execute(&self, database: &str, sql: &str) {
        let url = format!("mysql://root@127.0.0.1:{}/{database}", self.port);
        let options =
            mysql_async::OptsBuilder::from_opts(mysql_async::Opts::from_url(&url).unwrap())
                .prefer_socket(false);
        let mut connection = mysql_async::Conn::new(options).await.unwrap();
        connection.query_drop(sql).await.unwrap();
        connection.disconnect().await.unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.down();
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Runtime::new().unwrap()
}

/// A database of its own on the shared server, as a DSN.
pub struct Database {
    server: Arc<Server>,
    name: String,
}

impl Database {
    pub fn new(server: Arc<Server>) -> Self {
        let name = runtime().block_on(server.database());
        Self { server, name }
    }

    pub fn server(&self) -> &Server {
        &self.server
    }

    pub fn dsn(&self) -> String {
        self.server.dsn(&self.name)
    }

    pub fn execute(&self, sql: &str) {
        runtime().block_on(self.server.execute(&self.name, sql));
    }

    pub fn rows(&self, sql: &str) -> Vec<mysql_async::Row> {
        runtime().block_on(async {
            let url = format!(
                "mysql://root@127.0.0.1:{}/{}",
                self.server.port(),
                self.name
            );
            let options =
                mysql_async::OptsBuilder::from_opts(mysql_async::Opts::from_url(&url).unwrap())
                    .prefer_socket(false);
            let mut connection = mysql_async::Conn::new(options).await.unwrap();
            let rows = connection.query(sql).await.unwrap();
            connection.disconnect().await.unwrap();
            rows
        })
    }

    pub fn texts(&self, sql: &str) -> Vec<String> {
        let rows = self.rows(sql);
        rows.into_iter().map(|row| row.get(0).unwrap()).collect()
    }
}

/// Rows as a conversion that was pushed leaves them: this program's own, and those that are
/// shared with the reference converter.
#[allow(async_fn_in_trait)]
pub trait Recorded {
    async fn put_layer(
        &self,
        host: &str,
        repo: &RepoName,
        chain: &ChainId,
        digest: &Digest,
        size: u64,
        variant: &str,
    ) -> Result<(), IndexError>;

    async fn put_manifest(
        &self,
        key: &ManifestKey,
        digest: &Digest,
        size: u64,
        variant: &str,
    ) -> Result<(), IndexError>;
}

impl Recorded for Index {
    async fn put_layer(
        &self,
        host: &str,
        repo: &RepoName,
        chain: &ChainId,
        digest: &Digest,
        size: u64,
        variant: &str,
    ) -> Result<(), IndexError> {
        let layer = SharedLayer {
            chain,
            digest,
            size,
            below: None,
        };
        self.put_built(chain, variant, digest, size).await?;
        self.share_layer(host, repo, &layer).await.map(drop)
    }

    async fn put_manifest(
        &self,
        key: &ManifestKey,
        digest: &Digest,
        size: u64,
        variant: &str,
    ) -> Result<(), IndexError> {
        self.put_built_manifest(&key.source, variant, &key.media_type, digest, size)
            .await?;
        self.share_manifest(key, digest, size).await
    }
}
