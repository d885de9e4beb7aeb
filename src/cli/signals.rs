//! SIGTERM and SIGINT: the first asks, the second insists. SIGHUP: read the settings again.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::exit::{self, ExitStatus};
use super::output;

/// Has a write beyond the limit of a file's size (`ulimit -f`) fail from now on, as one on a full
/// disk does: by default its signal would end the process.
///
/// # Errors
/// When the system does not let us listen.
pub fn survive_file_size_limit() -> io::Result<()> {
    // The handler stays when its receiver goes.
    signal(SignalKind::from_raw(libc::SIGXFSZ)).map(drop)
}

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
                _ = terminate.recv() => ("SIGTERM", ExitStatus::Terminated),
                _ = interrupt.recv() => ("SIGINT", ExitStatus::Interrupted),
            }
        };
        let (name, _) = next().await;
        // Nobody may be waiting: then the second signal still counts.
        let _ = asked.send(name);
        let (name, status) = next().await;
        output::note(format_args!("{name} again: ending at once"));
        exit::end(status)
    });
    Ok(async move {
        match answer.await {
            Ok(name) => name,
            // The task ends with the process only.
            Err(_) => std::future::pending().await,
        }
    })
}

/// Listens for SIGHUP from now on: it ends nothing any more.
///
/// # Errors
/// When the system does not let us listen.
pub fn hangups() -> io::Result<Signal> {
    signal(SignalKind::hangup())
}
