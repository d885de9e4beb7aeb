//! Debian's squid as the egress proxy, with its access log as the proof.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::support::process::Process;
use super::support::until::until;
use super::support::{command, find, have, run};

/// The program that knows passwords, of Debian's package.
const NCSA: &str = "/usr/lib/squid/basic_ncsa_auth";

/// A squid on loopback, which alone knows some names: it resolves them by a file of its own.
pub struct Squid {
    process: Process,
    directory: tempfile::TempDir,
    port: u16,
    tls_port: u16,
    looks: AtomicUsize,
}

/// What a squid is to do.
#[derive(Default)]
pub struct Settings<'a> {
    /// Names that it resolves to 127.0.0.1.
    pub names: &'a [&'a str],
    /// User and password without which it does nothing.
    pub user: Option<(&'a str, &'a str)>,
    /// Names to which it does not connect.
    pub denied: &'a [&'a str],
    /// A directory with `server.crt` and `server.key`, to speak TLS with its clients.
    pub tls: Option<&'a Path>,
}

impl Squid {
    /// `None`, and prints SKIPPED, where it is not installed.
    pub fn start(settings: &Settings) -> Option<Self> {
        if !have(&["squid", "htpasswd"]) {
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).display().to_string();
        // Started by root it becomes the user `proxy`.
        let open = |name: &str, mode| {
            let mode = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(path(name), mode).unwrap();
        };
        open("", 0o755);
        std::fs::create_dir(path("log")).unwrap();
        open("log", 0o777);
        let (port, tls_port) = (free_port(), free_port());
        let hosts = settings
            .names
            .iter()
            .map(|name| format!("127.0.0.1 {name}\n"));
        std::fs::write(path("hosts"), hosts.collect::<String>()).unwrap();
        let mut text = format!(
            "http_port 127.0.0.1:{port}\npid_filename none\nlogformat line %rm %ru %>Hs %un\n\
             access_log stdio:{log}/access line\ncache_log {log}/cache\ncache deny all\n\
             cache_mem 8 MB\ncoredump_dir {log}\nshutdown_lifetime 0 seconds\n\
             hosts_file {hosts}\ndns_nameservers 127.0.0.1\npinger_enable off\n\
             netdb_filename none\nvisible_hostname squid.test\nstrip_query_terms off\nmax_filedescriptors 1024\n",
            log = path("log"),
            hosts = path("hosts"),
        );
        if let Some(tls) = settings.tls {
            for name in ["server.crt", "server.key"] {
                std::fs::copy(tls.join(name), path(name)).unwrap();
                open(name, 0o644);
            }
            let (crt, key) = (path("server.crt"), path("server.key"));
            let _ = writeln!(
                text,
                "https_port 127.0.0.1:{tls_port} tls-cert={crt} tls-key={key}"
            );
        }
        for name in settings.denied {
            let _ = writeln!(text, "acl denied dstdomain {name}");
        }
        if !settings.denied.is_empty() {
            text += "http_access deny denied\n";
        }
        if let Some((user, password)) = settings.user {
            let made = run(command("htpasswd").args(["-nbm", user, password]));
            std::fs::write(path("passwords"), made.stdout).unwrap();
            let _ = writeln!(
                text,
                "auth_param basic program {NCSA} {}\nauth_param basic children 1\n\
                 acl users proxy_auth REQUIRED\nhttp_access deny !users",
                path("passwords")
            );
        }
        text += "http_access allow all\n";
        std::fs::write(path("squid.conf"), text).unwrap();
        let mut squid = Command::new(find("squid").unwrap());
        // The names of its shared memory are made of it: those of two at one time differ.
        let name = format!("egress{port}");
        squid.args(["-N", "-n", &name, "-d", "1", "-f", &path("squid.conf")]);
        let mut process = Process::start(squid, &directory.path().join("output"));
        process.wait_for("Accepting HTTP Socket connections at ");
        if settings.tls.is_some() {
            process.wait_for("Accepting HTTPS Socket connections at ");
        }
        Some(Self {
            process,
            directory,
            port,
            tls_port,
            looks: AtomicUsize::new(0),
        })
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn tls_url(&self) -> String {
        format!("https://127.0.0.1:{}", self.tls_port)
    }

    /// Its address with a login.
    pub fn url_as(&self, user: &str, password: &str) -> String {
        format!("http://{user}:{password}@127.0.0.1:{}", self.port)
    }

    /// What it was asked for so far, a line each: method, address, status, user. A tunnel is there
    /// when it has ended.
    pub fn log(&self) -> Vec<String> {
        // A request is written down some time after its answer: when one that came later is there,
        // so are those before it.
        let number = self.looks.fetch_add(1, Ordering::SeqCst);
        let mark = format!("GET http://127.0.0.1:1/look-{number} ");
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        write!(stream, "{mark}HTTP/1.0\r\n\r\n").unwrap();
        stream.read_to_end(&mut Vec::new()).unwrap();
        let text = until("squid writes its log", || {
            let text = std::fs::read_to_string(self.directory.path().join("log/access"));
            text.ok().filter(|text| text.contains(&mark))
        });
        // A connection that nothing was asked on, such as one of two that were opened for one request,
        // is no request.
        let asked = text.lines().filter(|line| !line.contains("/look-"));
        let asked =
            asked.filter(|line| !line.starts_with("- error:transaction-end-before-headers"));
        asked.map(str::to_owned).collect()
    }

    /// Ends it.
    pub fn stop(mut self) {
        self.process.kill();
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}
