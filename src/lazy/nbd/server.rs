//! Connections, a bounded number at once.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::export::Export;
use super::handshake::shake_hands;
use super::transmission::transmit;
use super::wire::ConnectionError;

/// Most connections; more wait in the kernel.
const MAX_CONNECTIONS: usize = 32;
/// Most threads that read the disk. Fewer than the runtime has, which resolves names with some.
const MAX_READERS: usize = 16;
/// How long what is begun may take at the end.
const DRAIN: Duration = Duration::from_secs(2);

/// Where clients come in.
#[derive(Debug)]
pub enum Listener {
    /// A socket in the file system, for this user and root.
    Unix(UnixListener),
    /// An address.
    Tcp(TcpListener),
}

/// Serves clients until `shutdown` comes; connections are then cut.
pub async fn serve_until(listener: Listener, export: Export, shutdown: impl Future<Output = ()>) {
    let export = Arc::new(export);
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let readers = Arc::new(Semaphore::new(MAX_READERS));
    let mut tasks = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        let accepted = async {
            let permit = Arc::clone(&permits).acquire_owned().await;
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            biased;
            () = &mut shutdown => break,
            accepted = accepted => accepted,
        };
        while tasks.try_join_next().is_some() {}
        match accepted {
            Ok(stream) => {
                let (export, readers) = (Arc::clone(&export), Arc::clone(&readers));
                tasks.spawn(async move {
                    let _held = permit;
                    match converse(stream, export, readers).await {
                        Ok(()) => tracing::debug!("a client is done"),
                        Err(error) => tracing::info!(%error, "a connection ends"),
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection cannot be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop(listener);
    tasks.abort_all();
    let all = async { while tasks.join_next().await.is_some() {} };
    // Only a disk that does not answer takes longer.
    let _ = timeout(DRAIN, all).await;
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

impl Listener {
    async fn accept(&self) -> std::io::Result<Box<dyn Stream>> {
        match self {
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                // The socket's mode says so too, but it cannot be set before there is a socket.
                let peer = stream.peer_cred()?.uid();
                if peer != 0 && peer != nix::unistd::geteuid().as_raw() {
                    let text = format!("user {peer} is not the one who serves");
                    return Err(std::io::Error::other(text));
                }
                Ok(Box::new(stream))
            }
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok(Box::new(stream))
            }
        }
    }
}

async fn converse(
    mut stream: Box<dyn Stream>,
    export: Arc<Export>,
    readers: Arc<Semaphore>,
) -> Result<(), ConnectionError> {
    match shake_hands(&mut stream, &export).await? {
        Some(agreed) => transmit(tokio::io::split(stream), export, agreed, readers).await,
        None => Ok(()),
    }
}
