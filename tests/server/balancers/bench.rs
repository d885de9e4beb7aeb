//! Balancers, clients at addresses of their own, an upstream that notes what it is asked, and the
//! lines of the access log.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use serde_json::Value;

use crate::support::image::{Image, layer_digests};
use crate::support::layout::Layout;
use crate::support::process::Process;
use crate::support::proxy::Proxy;
use crate::support::tar::Tar;
use crate::support::{command, noise, run, until::until};

/// A proxy before a layout with one image, `app:1`, and the digests of its converted layers.
pub struct Scene {
    pub proxy: Proxy,
    pub layers: Vec<String>,
    _scratch: tempfile::TempDir,
}

impl Scene {
    #[track_caller]
    pub fn new(options: &[&str]) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let layout = Layout::create(&scratch.path().join("images"));
        let tar = Tar::new().file("etc/app", noise(7, 300_000)).finish();
        layout.add("1", &Image::gzip(&[tar]).seal());
        let upstream = format!("oci:{}", layout.path().display());
        let options = [&["--log-format", "json", "--platform", "all"], options].concat();
        let proxy = Proxy::start(&upstream, &scratch.path().join("data"), &options);
        Self {
            proxy,
            layers: Vec::new(),
            _scratch: scratch,
        }
    }

    /// With the image converted, by a client at `source`.
    #[track_caller]
    pub fn converted(mut self, source: &str) -> Self {
        let answer = get_from(source, self.proxy.host(), "/v2/app/manifests/1_obd", &[]);
        assert_eq!(answer.status, 200, "{answer:?}\n{}", self.proxy.log());
        self.layers = layer_digests(&serde_json::from_str(&answer.body).unwrap());
        self
    }

    /// Whose the request for `path` was, as the access log has it: without the port.
    #[track_caller]
    pub fn client_of(&self, path: &str) -> String {
        client_of(&self.proxy, path)
    }
}

/// Whose the request for `path` was, as the access log has it: without the port.
#[track_caller]
pub fn client_of(proxy: &Proxy, path: &str) -> String {
    let client = until(path, || {
        let log = proxy.log();
        let lines = log
            .lines()
            .rev()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let mut entries = lines.filter(|line| line["target"] == "overlaybd_proxy::access");
        let entry = entries.find(|line| line["path"] == path)?;
        Some(entry["client"].as_str().unwrap().to_owned())
    });
    match client.parse::<SocketAddr>() {
        Ok(address) => address.ip().to_string(),
        Err(_) => client,
    }
}

/// An answer as text.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find_map(|(key, value)| key.eq_ignore_ascii_case(name).then_some(value))
    }
}

fn answer(bytes: &[u8]) -> Answer {
    let text = String::from_utf8_lossy(bytes);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    Answer {
        status: status.unwrap_or(0),
        head: head.to_owned(),
        body: body.to_owned(),
    }
}

/// A connection from an address of this machine.
#[track_caller]
pub fn connect_from(source: &str, host: &str) -> TcpStream {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let stream = runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        let source: IpAddr = source.parse().unwrap();
        socket.bind(SocketAddr::new(source, 0)).unwrap();
        let stream = socket.connect(host.parse().unwrap()).await.unwrap();
        stream.into_std().unwrap()
    });
    stream.set_nonblocking(false).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_mins(1)))
        .unwrap();
    stream
}

/// Sends these bytes from `source`, and reads until the other side closes: the answer, of status 0
/// if there is none.
#[track_caller]
pub fn send_from(source: &str, host: &str, bytes: &[u8]) -> Answer {
    let mut stream = connect_from(source, host);
    // Whoever refuses may have closed.
    let _ = stream.write_all(bytes);
    let mut read = Vec::new();
    let _ = stream.read_to_end(&mut read);
    answer(&read)
}

pub fn request(method: &str, path: &str, headers: &[(&str, &str)]) -> Vec<u8> {
    let mut text = format!("{method} {path} HTTP/1.1\r\nHost: proxy.test\r\nConnection: close\r\n");
    for (name, value) in headers {
        let _ = write!(text, "{name}: {value}\r\n");
    }
    text.push_str("\r\n");
    text.into_bytes()
}

#[track_caller]
pub fn get_from(source: &str, host: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
    send_from(source, host, &request("GET", path, headers))
}

/// curl, from an address of this machine; the answer, of status 0 if there is none.
#[track_caller]
pub fn curl(source: &str, url: &str, more: &[&str]) -> Answer {
    let mut command = command("curl");
    command
        .args([
            "-sik",
            "--max-time",
            "60",
            "--http1.1",
            "--interface",
            source,
        ])
        .args(more)
        .arg(url);
    answer(&command.output().unwrap().stdout)
}

fn free_port() -> u16 {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    free.local_addr().unwrap().port()
}

/// A balancer that listens at some ports of loopback.
pub struct Balancer {
    _process: Process,
    _scratch: tempfile::TempDir,
    pub hosts: Vec<String>,
}

impl Balancer {
    /// haproxy, which passes connections on to `to`: a port for each way to do that, as its
    /// `server` lines have it.
    #[track_caller]
    pub fn haproxy(to: &str, ways: &[&str]) -> Self {
        let mut text = "global\n  maxconn 200\ndefaults\n  mode tcp\n  timeout connect 10s\n  \
                        timeout client 2m\n  timeout server 2m\n"
            .to_owned();
        let mut hosts = Vec::new();
        for way in ways {
            let port = free_port();
            hosts.push(format!("127.0.0.1:{port}"));
            let _ = write!(
                text,
                "listen p{port}\n  bind 127.0.0.1:{port}\n  server s {to} {way}\n"
            );
        }
        let scratch = tempfile::tempdir().unwrap();
        let file = scratch.path().join("haproxy.cfg");
        std::fs::write(&file, text).unwrap();
        let mut haproxy = command("haproxy");
        haproxy.arg("-db").arg("-f").arg(&file);
        Self::started(haproxy, scratch, hosts)
    }

    /// nginx with these servers; `{port}` of each is its own, and `{next}` that of the one behind it.
    #[track_caller]
    pub fn nginx(servers: &[String]) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let directory = scratch.path().display();
        let ports: Vec<u16> = servers.iter().map(|_| free_port()).collect();
        let mut text = format!(
            "daemon off;\nmaster_process off;\npid {directory}/pid;\nerror_log {directory}/error;\n\
             events {{}}\nhttp {{\naccess_log off;\nclient_body_temp_path {directory}/b;\n\
             proxy_temp_path {directory}/p;\nfastcgi_temp_path {directory}/f;\n\
             uwsgi_temp_path {directory}/u;\nscgi_temp_path {directory}/s;\n"
        );
        for (place, server) in servers.iter().enumerate() {
            let next = ports.get(place + 1).copied().unwrap_or_default();
            let server = server.replace("{next}", &format!("127.0.0.1:{next}"));
            let _ = write!(
                text,
                "server {{\nlisten 127.0.0.1:{};\nlocation / {{\n{server}\n}}\n}}\n",
                ports[place]
            );
        }
        text.push_str("}\n");
        let file = scratch.path().join("nginx.conf");
        std::fs::write(&file, text).unwrap();
        let mut nginx = command("nginx");
        nginx
            .arg("-c")
            .arg(&file)
            .arg("-e")
            .arg(scratch.path().join("error"));
        let hosts = ports
            .iter()
            .map(|port| format!("127.0.0.1:{port}"))
            .collect();
        Self::started(nginx, scratch, hosts)
    }

    #[track_caller]
    fn started(
        command: std::process::Command,
        scratch: tempfile::TempDir,
        hosts: Vec<String>,
    ) -> Self {
        let process = Process::start(command, &scratch.path().join("out"));
        for host in &hosts {
            until("the balancer listens", || TcpStream::connect(host).ok());
        }
        Self {
            _process: process,
            _scratch: scratch,
            hosts,
        }
    }
}

/// An upstream that answers everything alike, notes the heads of requests, and lets those for paths
/// with `slow` wait until it is opened.
pub struct Upstream {
    pub host: String,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    heads: Mutex<Vec<String>>,
    is_open: Mutex<bool>,
    opened: Condvar,
}

impl Upstream {
    /// `headers`: lines that its answers have besides.
    pub fn start(headers: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let state = Arc::new(State::default());
        let served = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, state) = (stream.unwrap(), Arc::clone(&served));
                std::thread::spawn(move || serve(stream, &state, headers));
            }
        });
        Self { host, state }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.host)
    }

    /// The heads of requests for a path, in lower case.
    pub fn asked(&self, path: &str) -> Vec<String> {
        let heads = self.state.heads.lock();
        heads
            .iter()
            .filter(|head| head.contains(path))
            .cloned()
            .collect()
    }

    /// Lets those that wait go on.
    pub fn open(&self) {
        *self.state.is_open.lock() = true;
        self.state.opened.notify_all();
    }
}

fn serve(mut stream: TcpStream, state: &State, headers: &str) {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            match stream.read(&mut byte) {
                Ok(1) => head.push(byte[0]),
                _ => return,
            }
        }
        let head = String::from_utf8_lossy(&head).to_lowercase();
        let is_slow = head.lines().next().unwrap().contains("slow");
        state.heads.lock().push(head);
        if is_slow {
            let mut is_open = state.is_open.lock();
            while !*is_open {
                state.opened.wait(&mut is_open);
            }
        }
        let text = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n{headers}\r\n{{}}"
        );
        if stream.write_all(text.as_bytes()).is_err() {
            return;
        }
    }
}

/// A directory with a certificate authority and a server's certificate.
pub fn certificates(directory: &Path) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("certs/make.sh");
    run(std::process::Command::new(script).arg(directory));
}
