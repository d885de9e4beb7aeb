//! A relay in front of a server, which goes away in the middle of a chosen statement.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

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
    let (closed, is_closed) = watch::channel(false);
    let closed = Arc::new(closed);
    tokio::spawn(async move {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            if *is_closed.borrow() {
                continue;
            }
            let (seen, closed, mut is_closed) = (seen.clone(), closed.clone(), is_closed.clone());
            tokio::spawn(async move {
                let is_cut = tokio::select! {
                    is_cut = relay(&mut client, server, statement, &seen) => is_cut,
                    _ = is_closed.wait_for(|closed| *closed) => false,
                };
                if is_cut {
                    closed.send(true).unwrap();
                    drop(client);
                    tokio::time::sleep(away).await;
                    closed.send(false).unwrap();
                }
            });
        }
    });
    Relay { port, went_away }
}

/// Whether this connection met the statement first. It stays open until all others are closed,
/// or the client would go on with one of them.
async fn relay(client: &mut TcpStream, port: u16, statement: &str, seen: &AtomicBool) -> bool {
    let mut server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let (mut asked, mut answered) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    loop {
        let sent = tokio::select! {
            read = client.read(&mut asked) => {
                let question = &asked[..read.unwrap_or(0)];
                let is_statement = question
                    .windows(statement.len())
                    .any(|window| window == statement.as_bytes());
                if is_statement && !seen.swap(true, Ordering::SeqCst) {
                    return true;
                }
                if question.is_empty() { return false }
                server.write_all(question).await
            }
            read = server.read(&mut answered) => {
                let answer = &answered[..read.unwrap_or(0)];
                if answer.is_empty() { return false }
                client.write_all(answer).await
            }
        };
        if sent.is_err() {
            return false;
        }
    }
}
