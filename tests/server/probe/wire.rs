//! Requests over connections that are kept, as overlaybd's HTTP client makes them, and what the
//! kernel has of an answer that nobody reads.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use url::Url;

/// As much is read at once while the head comes.
const PIECE: usize = 4096;
/// As much of a body is read that nobody wants, so that its connection can be used again.
const SKIPPED: usize = 4096;
/// How long the server has to send what it will, before a connection is closed.
const PATIENCE: Duration = Duration::from_millis(300);

pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(':'));
        let found = lines.find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.trim())
    }

    fn length(&self) -> usize {
        let length = self.header("content-length");
        length.map_or(0, |length| length.parse().unwrap())
    }
}

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

struct Connection {
    stream: Box<dyn Stream>,
    /// Its ports, here and there.
    ports: (u16, u16),
}

/// A client with its connections.
pub struct Wire {
    kept: HashMap<String, Connection>,
    /// PEM of whom it trusts.
    authority: Option<PathBuf>,
    /// Bytes of bodies that were sent and that nobody read.
    pub in_vain: u64,
}

impl Wire {
    pub fn new(authority: Option<PathBuf>) -> Self {
        Self {
            kept: HashMap::new(),
            authority,
            in_vain: 0,
        }
    }

    fn connect(&self, url: &Url) -> Connection {
        let host = url.host_str().unwrap();
        let tcp = TcpStream::connect((host, url.port_or_known_default().unwrap())).unwrap();
        tcp.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
        let here = tcp.local_addr().unwrap().port();
        let there = tcp.peer_addr().unwrap().port();
        let stream: Box<dyn Stream> = if url.scheme() == "https" {
            let mut roots = RootCertStore::empty();
            let authority = self.authority.as_ref().unwrap();
            roots
                .add(CertificateDer::from_pem_file(authority).unwrap())
                .unwrap();
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let config = ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(roots)
                .with_no_client_auth();
            let name = ServerName::try_from(host.to_owned()).unwrap();
            let session = ClientConnection::new(Arc::new(config), name).unwrap();
            Box::new(StreamOwned::new(session, tcp))
        } else {
            Box::new(tcp)
        };
        Connection {
            stream,
            ports: (here, there),
        }
    }

    /// One request. Of an answer whose body is not wanted only the head is read.
    #[track_caller]
    pub fn ask(
        &mut self,
        method: &str,
        url: &str,
        headers: &[(&str, &str)],
        is_body_wanted: bool,
    ) -> Reply {
        let url: Url = url.parse().unwrap_or_else(|error| panic!("{url}: {error}"));
        let place = url[..url::Position::BeforePath].to_owned();
        let target = &url[url::Position::BeforePath..url::Position::AfterQuery];
        let mut request = format!("{method} {target} HTTP/1.1\r\nHost: ");
        request += &url[url::Position::BeforeHost..url::Position::AfterPort];
        for (name, value) in headers {
            request.extend(["\r\n", name, ": ", value]);
        }
        request += "\r\nConnection: keep-alive\r\n\r\n";
        // A kept connection may have been closed meanwhile.
        let kept = self.kept.remove(&place);
        let mut found = kept.and_then(|mut kept| {
            kept.stream.write_all(request.as_bytes()).ok()?;
            let (reply, rest) = head(&mut kept.stream)?;
            Some((kept, reply, rest))
        });
        if found.is_none() {
            let mut fresh = self.connect(&url);
            fresh.stream.write_all(request.as_bytes()).unwrap();
            let (reply, rest) = head(&mut fresh.stream).unwrap();
            found = Some((fresh, reply, rest));
        }
        let (mut connection, mut reply, mut body) = found.unwrap();
        let length = if method == "HEAD" { 0 } else { reply.length() };
        let left = length - body.len();
        if !is_body_wanted && left > SKIPPED {
            std::thread::sleep(PATIENCE);
            self.in_vain += body.len() as u64 + unread(connection.ports);
            return reply;
        }
        let mut rest = vec![0; left];
        connection.stream.read_exact(&mut rest).unwrap();
        body.extend(rest);
        if is_body_wanted {
            reply.body = body;
        } else {
            self.in_vain += length as u64;
        }
        if reply.header("connection") != Some("close") {
            self.kept.insert(place, connection);
        }
        reply
    }
}

/// The head of an answer, and what has come of its body.
fn head(stream: &mut dyn Stream) -> Option<(Reply, Vec<u8>)> {
    let mut bytes = Vec::new();
    let end = loop {
        let mut piece = [0; PIECE];
        let read = stream.read(&mut piece).ok().filter(|read| *read > 0)?;
        bytes.extend(&piece[..read]);
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
    };
    let body = bytes.split_off(end);
    let head = String::from_utf8(bytes).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let reply = Reply {
        status,
        head,
        body: Vec::new(),
    };
    Some((reply, body))
}

/// Bytes that one end has sent and the other has not read: in the queues of both sockets, as the
/// kernel tells.
fn unread((here, there): (u16, u16)) -> u64 {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let mut sum = 0;
    for line in table.lines().skip(1) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let port = |word: &str| u16::from_str_radix(word.rsplit_once(':').unwrap().1, 16).unwrap();
        let (sent, received) = words[4].split_once(':').unwrap();
        let queue = match (port(words[1]), port(words[2])) {
            ports if ports == (here, there) => received,
            ports if ports == (there, here) => sent,
            _ => continue,
        };
        sum += u64::from_str_radix(queue, 16).unwrap();
    }
    sum
}
