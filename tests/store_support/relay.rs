//! A relay in front of a server, which goes away in the middle of a chosen statement.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// The relay's port, and whether the statement was seen.
pub struct Relay {
    pub port: u16,
    pub went_away: Arc<AtomicBool>,
}

/// Relays to `server` until a client sends `statement`, which the server never sees. Then every
/// connection is closed, also new ones for `away`; after that it relays for good.
pub async fn away_at(server: u16, statement: &'static str, away: Duration) -> Relay {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let went_away = Arc::new(AtomicBool::new(false));
    let seen = went_away.clone();
    tokio::spawn(async move {
        let closed = Arc::new(AtomicBool::new(false));
        loop {
            let (client, _) = listener.accept().await.unwrap();
            if closed.load(Ordering::SeqCst) {
                continue;
            }
            let (seen, closed) = (seen.clone(), closed.clone());
            tokio::spawn(async move {
                if relay(client, server, statement, &seen).await {
                    closed.store(true, Ordering::SeqCst);
                    tokio::time::sleep(away).await;
                    closed.store(false, Ordering::SeqCst);
                }
            });
        }
    });
    Relay { port, went_away }
}

/// Whether this connection was the one that ended at the statement.
async fn relay(client: TcpStream, server: u16, statement: &str, seen: &AtomicBool) -> bool {
    let upstream = TcpStream::connect(("127.0.0.1", server)).await.unwrap();
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = upstream.into_split();
    let answers = tokio::spawn(async move {
        let _ = tokio::io::copy(&mut from_server, &mut to_client).await;
    });
    let mut buffer = vec![0; 64 << 10];
    let ended = loop {
        let read = from_client.read(&mut buffer).await.unwrap_or(0);
        if read == 0 {
            break false;
        }
        let sent = &buffer[..read];
        let is_statement = sent
            .windows(statement.len())
            .any(|window| window == statement.as_bytes());
        if is_statement && !seen.swap(true, Ordering::SeqCst) {
            break true;
        }
        if to_server.write_all(sent).await.is_err() {
            break false;
        }
    };
    answers.abort();
    ended
}
