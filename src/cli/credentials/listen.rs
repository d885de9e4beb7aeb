//! Where questions come in: a socket of this machine, or a loopback port.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::answer::refusal;
use super::known::Known;
use super::question::Question;

/// Most connections; more wait in the kernel.
const MAX_CONNECTIONS: usize = 64;
/// Longest head of a request, in bytes.
const MAX_HEAD: usize = 16 << 10;
/// How long a request's head may take.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection may take: one request, one answer.
const CONNECTION_TIMEOUT: Duration = Duration::from_mins(1);
/// How long open connections are waited for at the end.
const DRAIN: Duration = Duration::from_secs(2);

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// A socket in the file system.
    Unix(PathBuf),
    /// A loopback address.
    Tcp(SocketAddr),
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            if path.is_empty() {
                return Err(
                    "a path is expected: unix:/run/overlaybd-proxy/credentials.sock".into(),
                );
            }
            return Ok(Self::Unix(path.into()));
        }
        let address = text.replace("localhost:", "127.0.0.1:");
        let Ok(address) = address.parse::<SocketAddr>() else {
            return Err("unix:PATH or 127.0.0.1:PORT is expected".to_owned());
        };
        if !address.ip().to_canonical().is_loopback() {
            return Err(format!(
                "{address} can be reached from elsewhere, and whoever asks is told passwords: \
                 use unix:PATH, or 127.0.0.1:PORT"
            ));
        }
        Ok(Self::Tcp(address))
    }
}

impl Listen {
    /// Begins to listen. A socket that another process left is replaced.
    pub async fn bind(self) -> anyhow::Result<Server> {
        match self {
            Self::Unix(path) => {
                let shown = path.display().to_string();
                remove_left(&path)
                    .await
                    .with_context(|| format!("cannot listen on {shown}"))?;
                let listener = UnixListener::bind(&path)
                    .with_context(|| format!("cannot listen on {shown}"))?;
                // Who connects before that is refused all the same, by who they are.
                let mode = std::fs::Permissions::from_mode(0o600);
                std::fs::set_permissions(&path, mode)
                    .with_context(|| format!("{shown}: its mode cannot be set"))?;
                Ok(Server::Unix { listener, path })
            }
            Self::Tcp(address) => {
                let listener = TcpListener::bind(address)
                    .await
                    .with_context(|| format!("cannot listen on {address}"))?;
                tracing::warn!(
                    %address,
                    "every user of this machine, and containers on the host's network, may ask for \
                     passwords here: a socket (--listen unix:PATH) is for root and this user only"
                );
                let address = listener.local_addr().unwrap_or(address);
                Ok(Server::Tcp { listener, address })
            }
        }
    }
}

/// Removes a socket that nobody listens on any more.
pub async fn remove_left(path: &Path) -> io::Result<()> {
    let kind = match std::fs::symlink_metadata(path) {
        Ok(found) => found.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !kind.is_socket() {
        return Err(io::Error::other(
            "there is a file of this name, and it is no socket",
        ));
    }
    match UnixStream::connect(path).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path)
        }
        Ok(_) => Err(io::Error::other("another process listens there")),
        Err(error) => Err(error),
    }
}

/// A bound listener.
pub enum Server {
    /// Its file is removed at the end.
    Unix {
        /// It.
        listener: UnixListener,
        /// Its file.
        path: PathBuf,
    },
    /// On a loopback address.
    Tcp {
        /// It.
        listener: TcpListener,
        /// With the port that it got.
        address: SocketAddr,
    },
}

impl Server {
    /// For people.
    pub fn address(&self) -> String {
        match self {
            Self::Unix { path, .. } => format!("unix:{}", path.display()),
            Self::Tcp { address, .. } => format!("http://{address}"),
        }
    }

    /// Answers until `shutdown` comes.
    pub async fn answer_until(self, known: Arc<Known>, shutdown: impl Future<Output = ()>) {
        let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut tasks = JoinSet::new();
        let mut shutdown = pin!(shutdown);
        loop {
            let accepted = async {
                let permit = Arc::clone(&permits).acquire_owned().await;
                (permit, self.accept().await)
            };
            let (permit, accepted) = tokio::select! {
                biased;
                () = &mut shutdown => break,
                accepted = accepted => accepted,
            };
            while tasks.try_join_next().is_some() {}
            match accepted {
                Ok((stream, peer)) => {
                    let known = Arc::clone(&known);
                    tasks.spawn(async move {
                        let _held = permit;
                        serve(stream, peer, known).await;
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection cannot be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
        if let Self::Unix { path, .. } = &self {
            // It may be gone, or another's by now: nothing hangs on it.
            let _ = std::fs::remove_file(path);
        }
        let all = async { while tasks.join_next().await.is_some() {} };
        let _ = timeout(DRAIN, all).await;
    }

    async fn accept(&self) -> io::Result<(Box<dyn Stream>, Peer)> {
        match self {
            Self::Unix { listener, .. } => {
                let (stream, _) = listener.accept().await?;
                let user = stream.peer_cred()?.uid();
                Ok((Box::new(stream), Peer::User(user)))
            }
            Self::Tcp { listener, .. } => {
                let (stream, _) = listener.accept().await?;
                Ok((Box::new(stream), Peer::Loopback))
            }
        }
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Peer {
    /// A process of this user, as the kernel says.
    User(u32),
    /// Somebody on this machine.
    Loopback,
}

async fn serve(stream: Box<dyn Stream>, peer: Peer, known: Arc<Known>) {
    let service = service_fn(|request: Request<Incoming>| {
        let known = Arc::clone(&known);
        async move { Ok::<_, Infallible>(respond(&request, peer, &known).await) }
    });
    // overlaybd opens a connection for each question.
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .keep_alive(false)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    match timeout(CONNECTION_TIMEOUT, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a connection ended"),
        Err(_) => tracing::debug!("a connection took too long"),
    }
}

async fn respond(request: &Request<Incoming>, peer: Peer, known: &Arc<Known>) -> Reply {
    let trace = format!("{:016x}", rand::random::<u64>());
    if let Err(why) = may_ask(request, peer) {
        tracing::warn!(trace, ?peer, why, "a question is refused");
        return reply(StatusCode::FORBIDDEN, &refusal(&trace, why));
    }
    if request.method() != Method::GET {
        let mut reply = reply(
            StatusCode::METHOD_NOT_ALLOWED,
            &refusal(&trace, "GET is expected"),
        );
        let allowed = header::HeaderValue::from_static("GET");
        reply.headers_mut().insert(header::ALLOW, allowed);
        return reply;
    }
    let question = match asked(request.uri().query().unwrap_or_default()) {
        Ok(question) => question,
        Err(why) => {
            let why = format!("remote_url: {why}");
            tracing::warn!(trace, why, "a question is not understood");
            return reply(StatusCode::BAD_REQUEST, &refusal(&trace, &why));
        }
    };
    let answer = known.ask(&question).await;
    tracing::info!(trace, place = %question.place(), found = answer.is_usable(), "answered");
    reply(StatusCode::OK, &answer.body(&question, &trace))
}

/// Who is told.
fn may_ask(request: &Request<Incoming>, peer: Peer) -> Result<(), &'static str> {
    match peer {
        Peer::User(user) if user == 0 || user == nix::unistd::geteuid().as_raw() => Ok(()),
        Peer::User(_) => Err("only root and the user of this program may ask"),
        Peer::Loopback => {
            // A web page may have a browser of this machine ask by a name of its own.
            let host = request.headers().get(header::HOST);
            let host = host.and_then(|host| host.to_str().ok());
            let authority = host.and_then(|host| host.parse::<http::uri::Authority>().ok());
            let is_loopback = authority.is_some_and(|authority| {
                let name = authority.host().trim_matches(['[', ']']);
                let address = name.parse::<std::net::IpAddr>();
                name.eq_ignore_ascii_case("localhost")
                    || address.is_ok_and(|address| address.is_loopback())
            });
            if is_loopback {
                Ok(())
            } else {
                Err("ask by a loopback address")
            }
        }
    }
}

/// overlaybd does not encode the address.
fn asked(query: &str) -> Result<Question, String> {
    let mut pairs = url::form_urlencoded::parse(query.as_bytes());
    match pairs.find(|(name, _)| name == "remote_url") {
        Some((_, address)) => Question::of_address(&address),
        None => Err("it is missing: ?remote_url=https://HOST/v2/REPO/blobs/DIGEST".to_owned()),
    }
}

type Reply = Response<Full<Bytes>>;

fn reply(status: StatusCode, body: &serde_json::Value) -> Reply {
    let mut reply = Response::new(Full::from(body.to_string()));
    *reply.status_mut() = status;
    let headers = reply.headers_mut();
    let json = header::HeaderValue::from_static("application/json");
    headers.insert(header::CONTENT_TYPE, json);
    let no_store = header::HeaderValue::from_static("no-store");
    headers.insert(header::CACHE_CONTROL, no_store);
    reply
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sockets_and_loopback_addresses_are_listened_on() {
        let tcp = |text: &str| Listen::Tcp(text.parse().unwrap());
        for (text, wanted) in [
            ("unix:/run/x.sock", Some(Listen::Unix("/run/x.sock".into()))),
            (
                "unix:///run/x.sock",
                Some(Listen::Unix("/run/x.sock".into())),
            ),
            ("127.0.0.1:0", Some(tcp("127.0.0.1:0"))),
            ("localhost:19876", Some(tcp("127.0.0.1:19876"))),
            ("[::1]:5", Some(tcp("[::1]:5"))),
            ("0.0.0.0:5", None),
            ("192.0.2.1:5", None),
            ("[::]:5", None),
            ("unix:", None),
            ("registry:5", None),
        ] {
            assert_eq!(text.parse::<Listen>().ok(), wanted, "{text}");
        }
    }
}
