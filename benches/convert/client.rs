//! A small HTTP/1.1 client with one connection: it takes as little as possible of the cores that
//! a server beside it needs.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use overlaybd_proxy::oci::media_type::MANIFEST_ACCEPT;
use serde_json::Value;

/// How long an answer may take: a conversion of a large image.
const PATIENCE: Duration = Duration::from_hours(1);
/// How often a request is sent on to the same address while the image is converted.
const MAX_WAITS: u32 = 200;
const MAX_LINE: u64 = 16 << 10;

/// A connection that is kept.
pub struct Client {
    host: String,
    connection: BufReader<TcpStream>,
}

/// The head of an answer, and its body where it was not passed on.
pub struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
    headers: Vec<(String, String)>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(known, _)| known == name);
        found.next().map(|(_, value)| value.as_str())
    }

    fn expect(self, status: u16) -> io::Result<Self> {
        if self.status == status {
            return Ok(self);
        }
        let body = String::from_utf8_lossy(&self.body).into_owned();
        Err(io::Error::other(format!(
            "the server answers {}: {body}",
            self.status
        )))
    }
}

/// A blob that a manifest names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    pub digest: String,
    pub size: u64,
}

/// An image's blobs as its manifest has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blobs {
    pub config: Blob,
    pub layers: Vec<Blob>,
}

impl Blobs {
    /// Those of a manifest of one image.
    pub fn of_manifest(manifest: &[u8]) -> io::Result<Self> {
        let manifest: Value = serde_json::from_slice(manifest)?;
        let blob = |descriptor: &Value| {
            let digest = descriptor["digest"].as_str()?.to_owned();
            let size = descriptor["size"].as_u64()?;
            Some(Blob { digest, size })
        };
        let layers: Option<Vec<_>> = match manifest["layers"].as_array() {
            Some(layers) => layers.iter().map(blob).collect(),
            None => None,
        };
        match (blob(&manifest["config"]), layers) {
            (Some(config), Some(layers)) => Ok(Self { config, layers }),
            _ => Err(io::Error::other("this is no manifest of one image")),
        }
    }

    /// Bytes of the layers.
    pub fn bytes(&self) -> u64 {
        self.layers.iter().map(|layer| layer.size).sum()
    }
}

impl Client {
    /// Connects to `HOST:PORT`.
    pub fn connect(host: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(host)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self {
            host: host.to_owned(),
            connection: BufReader::with_capacity(256 << 10, stream),
        })
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        (&mut self.connection).take(MAX_LINE).read_line(&mut line)?;
        match line.strip_suffix("\r\n") {
            Some(line) => Ok(line.to_owned()),
            None => Err(io::Error::other("an answer's head ends early")),
        }
    }

    /// Sends a request with `size` bytes of `body`, and reads the answer's head.
    fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &str,
        size: u64,
        body: &mut dyn Read,
    ) -> io::Result<Answer> {
        let host = &self.host;
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n{headers}");
        if method != "GET" {
            head += &format!("Content-Length: {size}\r\n");
        }
        let stream = self.connection.get_mut();
        stream.write_all((head + "\r\n").as_bytes())?;
        io::copy(&mut body.take(size), stream)?;
        let first = self.line()?;
        let status = first.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status = status.ok_or_else(|| io::Error::other(format!("{first:?} is no answer")))?;
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            match line.split_once(':') {
                Some((name, value)) => {
                    headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
                }
                None => break,
            }
        }
        Ok(Answer {
            status,
            headers,
            body: Vec::new(),
        })
    }

    /// Reads the body of an answer and passes it on.
    fn body(&mut self, answer: &Answer, out: &mut dyn Write) -> io::Result<u64> {
        let body = |client: &mut Self, length: u64, out: &mut dyn Write| {
            let copied = copy(&mut client.connection, length, out)?;
            if copied < length {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
            }
            Ok(copied)
        };
        if let Some(length) = answer.header("content-length") {
            let length = length.parse().map_err(io::Error::other)?;
            return body(self, length, out);
        }
        if answer.header("transfer-encoding") != Some("chunked") {
            return Ok(0);
        }
        let mut bytes = 0;
        loop {
            let line = self.line()?;
            let length = u64::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
            bytes += body(self, length, out)?;
            self.line()?;
            if length == 0 {
                return Ok(bytes);
            }
        }
    }

    /// A request with a body; the answer's is kept.
    pub fn request(
        &mut self,
        method: &str,
        path: &str,
        headers: &str,
        size: u64,
        body: &mut dyn Read,
    ) -> io::Result<Answer> {
        let mut answer = self.send(method, path, headers, size, body)?;
        let mut kept = Vec::new();
        self.body(&answer, &mut kept)?;
        answer.body = kept;
        Ok(answer)
    }

    /// The body behind `path`.
    pub fn get(&mut self, path: &str) -> io::Result<Vec<u8>> {
        let answer = self.request("GET", path, "", 0, &mut io::empty())?;
        Ok(answer.expect(200)?.body)
    }

    /// A manifest, which may be being made.
    pub fn manifest(&mut self, repo: &str, reference: &str) -> io::Result<Vec<u8>> {
        let accept = format!("Accept: {MANIFEST_ACCEPT}\r\n");
        let mut path = format!("/v2/{repo}/manifests/{reference}");
        for _ in 0..MAX_WAITS {
            let answer = self.request("GET", &path, &accept, 0, &mut io::empty())?;
            let Some(location) = answer.header("location").filter(|_| answer.status == 307) else {
                return Ok(answer.expect(200)?.body);
            };
            let here = format!("http://{}", self.host);
            location
                .strip_prefix(&here)
                .unwrap_or(location)
                .clone_into(&mut path);
        }
        Err(io::Error::other("the conversion does not end"))
    }

    /// Reads a manifest and all of its blobs, to nowhere.
    pub fn pull(&mut self, repo: &str, reference: &str) -> io::Result<Blobs> {
        let blobs = Blobs::of_manifest(&self.manifest(repo, reference)?)?;
        for blob in [&blobs.config].into_iter().chain(&blobs.layers) {
            let path = format!("/v2/{repo}/blobs/{}", blob.digest);
            let answer = self.send("GET", &path, "", 0, &mut io::empty())?;
            let bytes = self.body(&answer, &mut io::sink())?;
            if answer.expect(200)?.header("content-length").is_none() || bytes != blob.size {
                return Err(io::Error::other(format!("{} is not whole", blob.digest)));
            }
        }
        Ok(blobs)
    }

    /// Pushes a blob.
    pub fn push_blob(
        &mut self,
        repo: &str,
        digest: &str,
        size: u64,
        body: &mut dyn Read,
    ) -> io::Result<()> {
        let path = format!("/v2/{repo}/blobs/uploads/");
        let begun = self.request("POST", &path, "", 0, &mut io::empty())?;
        let begun = begun.expect(202)?;
        let location = begun.header("location").unwrap_or_default();
        let here = format!("http://{}", self.host);
        let location = location.strip_prefix(&here).unwrap_or(location);
        let and = if location.contains('?') { '&' } else { '?' };
        let path = format!("{location}{and}digest={digest}");
        let kind = "Content-Type: application/octet-stream\r\n";
        self.request("PUT", &path, kind, size, body)?.expect(201)?;
        Ok(())
    }

    /// Pushes a manifest.
    pub fn push_manifest(
        &mut self,
        repo: &str,
        tag: &str,
        media_type: &str,
        bytes: &[u8],
    ) -> io::Result<()> {
        let path = format!("/v2/{repo}/manifests/{tag}");
        let kind = format!("Content-Type: {media_type}\r\n");
        let mut body = bytes;
        self.request("PUT", &path, &kind, bytes.len() as u64, &mut body)?
            .expect(201)?;
        Ok(())
    }
}

/// Passes on what is read, without a buffer between.
fn copy(input: &mut impl BufRead, mut left: u64, out: &mut dyn Write) -> io::Result<u64> {
    let mut copied = 0;
    while left > 0 {
        let available = input.fill_buf()?;
        if available.is_empty() {
            break;
        }
        let count = available
            .len()
            .min(usize::try_from(left).unwrap_or(usize::MAX));
        out.write_all(&available[..count])?;
        input.consume(count);
        left -= count as u64;
        copied += count as u64;
    }
    Ok(copied)
}
