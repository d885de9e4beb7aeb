//! A collector in the test: it keeps what it is sent, and answers as it is told.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;

use flate2::read::GzDecoder;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use parking_lot::Mutex;
use prost::Message as _;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::support::hex;
use crate::support::until::until;

/// What it answers.
#[derive(Clone, Copy)]
pub enum Answers {
    /// This status.
    Status(u16),
    /// Nothing, as long as the test runs.
    Never,
}

#[derive(Default)]
struct Received {
    connections: usize,
    heads: Vec<String>,
    /// Bodies as they were before they were compressed.
    bodies: Vec<Vec<u8>>,
}

/// A collector.
pub struct Collector {
    address: SocketAddr,
    scheme: &'static str,
    received: Arc<Mutex<Received>>,
    answers: Arc<Mutex<Answers>>,
}

/// A span, with its ids in hexadecimal digits and its attributes as text.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    pub name: String,
    pub trace: String,
    pub id: String,
    pub parent: String,
    pub state: String,
    pub kind: i32,
    pub attributes: BTreeMap<String, String>,
    /// Traces and spans.
    pub links: Vec<(String, String)>,
    pub is_error: bool,
}

pub const INTERNAL: i32 = 1;
pub const SERVER: i32 = 2;
pub const CLIENT: i32 = 3;

impl Span {
    #[track_caller]
    pub fn get(&self, key: &str) -> &str {
        let found = self.attributes.get(key);
        found.unwrap_or_else(|| panic!("no {key} in {self:?}"))
    }
}

fn texts(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |one: &KeyValue| match one.value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::BoolValue(is)) => is.to_string(),
        other => format!("{other:?}"),
    };
    let pairs = attributes.iter().map(|one| (one.key.clone(), text(one)));
    pairs.collect()
}

impl Collector {
    pub fn start() -> Self {
        Self::start_as(None)
    }

    /// With TLS: by `server.crt` and `server.key` in this directory.
    pub fn start_with_tls(keys: &Path) -> Self {
        let certificates = CertificateDer::pem_file_iter(keys.join("server.crt")).unwrap();
        let key = PrivateKeyDer::from_pem_file(keys.join("server.key")).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(certificates.map(Result::unwrap).collect(), key)
            .unwrap();
        Self::start_as(Some(Arc::new(config)))
    }

    fn start_as(tls: Option<Arc<ServerConfig>>) -> Self {
        let scheme = if tls.is_some() { "https" } else { "http" };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let received: Arc<Mutex<Received>> = Arc::default();
        let answers = Arc::new(Mutex::new(Answers::Status(200)));
        let kept = (Arc::clone(&received), Arc::clone(&answers));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (received, answers) = kept.clone();
                received.lock().connections += 1;
                let (stream, tls) = (stream.unwrap(), tls.clone());
                std::thread::spawn(move || match tls {
                    None => serve(stream, &received, &answers),
                    Some(config) => {
                        let connection = ServerConnection::new(config).unwrap();
                        serve(StreamOwned::new(connection, stream), &received, &answers);
                    }
                });
            }
        });
        Self {
            address,
            scheme,
            received,
            answers,
        }
    }

    pub fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    pub fn answers(&self, answers: Answers) {
        *self.answers.lock() = answers;
    }

    pub fn connections(&self) -> usize {
        self.received.lock().connections
    }

    pub fn heads(&self) -> Vec<String> {
        self.received.lock().heads.clone()
    }

    pub fn bodies(&self) -> Vec<Vec<u8>> {
        self.received.lock().bodies.clone()
    }

    fn requests(&self) -> Vec<ExportTraceServiceRequest> {
        let bodies = self.bodies();
        let decoded = bodies
            .iter()
            .map(|body| ExportTraceServiceRequest::decode(&body[..]).unwrap());
        decoded.collect()
    }

    /// The attributes of the service.
    #[track_caller]
    pub fn resource(&self) -> BTreeMap<String, String> {
        let requests = self.requests();
        let resource = requests[0].resource_spans[0].resource.as_ref().unwrap();
        texts(&resource.attributes)
    }

    pub fn spans(&self) -> Vec<Span> {
        let requests = self.requests();
        let resources = requests.iter().flat_map(|one| &one.resource_spans);
        let scopes = resources.flat_map(|one| &one.scope_spans);
        scopes
            .flat_map(|one| &one.spans)
            .map(|span| Span {
                name: span.name.clone(),
                trace: hex(&span.trace_id),
                id: hex(&span.span_id),
                parent: hex(&span.parent_span_id),
                state: span.trace_state.clone(),
                kind: span.kind,
                attributes: texts(&span.attributes),
                links: span
                    .links
                    .iter()
                    .map(|link| (hex(&link.trace_id), hex(&link.span_id)))
                    .collect(),
                is_error: span.status.as_ref().is_some_and(|status| status.code == 2),
            })
            .collect()
    }

    /// Waits for a span of that name.
    #[track_caller]
    pub fn wait(&self, name: &str) -> Span {
        until(name, || {
            let spans = self.spans();
            spans.into_iter().find(|span| span.name == name)
        })
    }
}

fn serve(mut stream: impl Read + Write, received: &Mutex<Received>, answers: &Mutex<Answers>) {
    let (mut bytes, mut buffer) = (Vec::new(), [0; 16 << 10]);
    loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "));
            let whole = end + 4 + length.unwrap().parse::<usize>().unwrap();
            if bytes.len() >= whole {
                let rest = bytes.split_off(whole);
                let mut body = bytes.split_off(end + 4);
                bytes = rest;
                if head.contains("content-encoding: gzip") {
                    let mut plain = Vec::new();
                    GzDecoder::new(&body[..]).read_to_end(&mut plain).unwrap();
                    body = plain;
                }
                let answer = *answers.lock();
                {
                    let mut received = received.lock();
                    received.heads.push(head);
                    if matches!(answer, Answers::Status(200)) {
                        received.bodies.push(body);
                    }
                }
                let Answers::Status(status) = answer else {
                    // Until the other side leaves.
                    while let Ok(1..) = stream.read(&mut buffer) {}
                    return;
                };
                let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n");
                if stream.write_all(answer.as_bytes()).is_err() {
                    return;
                }
                continue;
            }
        }
        match stream.read(&mut buffer) {
            Ok(count @ 1..) => bytes.extend_from_slice(&buffer[..count]),
            _ => return,
        }
    }
}
