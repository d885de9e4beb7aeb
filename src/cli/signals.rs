//! SIGTERM and SIGINT: the first asks, the second insists.

use std::io;

use tokio::signal::unix::{SignalKind, signal};

/// Listens for SIGTERM and SIGINT from now on. The future ends with the first of them; a
/// second one ends the process at once.
///
/// # Errors
/// When the system does not let us listen.
pub fn shutdown() -> io::Result<impl Future<Output = &'static str> + Send> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (asked, answer) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let mut next = async || {
            tokio::select! {
                _ = terminate.recv() => ("SIGTERM", 143),
                _ = interrupt.recv() => ("SIGINT", 130),
            }
        };
        let (name, _) = next().await;
        // Nobody may be waiting: then the second signal still counts.
        let _ = asked.send(name);
        let (name, code) = next().await;
        eprintln!("{name} again: ending at once");
        std::process::exit(code);
    });
    Ok(async move {
        match answer.await {
            Ok(name) => name,
            // The task ends with the process only.
            Err(_) => std::future::pending().await,
        }
    })
}
