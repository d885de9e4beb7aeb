//! A running command: its output, and what ends it.

use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::time::Duration;

use serde::Serialize;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Child;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::cli::mount::signals::{Asked, Signals};

/// When a command is ended that does not end by itself.
#[derive(Debug, Default, Clone)]
pub struct Ends {
    /// After this time, which counts as a success.
    pub after: Option<Duration>,
    /// When it has written this, which counts as a success.
    pub text: Option<String>,
    /// After this time, which counts as a failure.
    pub limit: Duration,
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ended {
    /// By itself; its exit status, or 128 and the number of the signal that ended it.
    Exit(u8),
    /// It ran for as long as it was to run.
    Time,
    /// It wrote what was waited for.
    Text,
    /// The time that it may take was over.
    Limit,
    /// We were asked to end.
    #[serde(skip)]
    Asked(Asked),
}

/// Waits for a command's end, or for what it is to be ended for. Its output goes to standard
/// error. It may still run then: dropping it kills it.
///
/// # Errors
/// When the system does not say how it ended.
pub async fn wait(child: &mut Child, ends: &Ends, signals: &mut Signals) -> std::io::Result<Ended> {
    let start = Instant::now();
    let text = ends.text.as_ref().map(String::as_bytes);
    let (found, mut seen) = mpsc::channel(1);
    let mut outputs = tokio::task::JoinSet::new();
    if let Some(output) = child.stdout.take() {
        outputs.spawn(show(output, text.map(<[u8]>::to_vec), found.clone()));
    }
    if let Some(output) = child.stderr.take() {
        outputs.spawn(show(output, text.map(<[u8]>::to_vec), found.clone()));
    }
    // Kept, so that the channel does not end before the command.
    let _found = found;
    let after = sleep(start, ends.after);
    let ended = tokio::select! {
        biased;
        Some(()) = seen.recv() => return Ok(Ended::Text),
        status = child.wait() => status?,
        () = after => return Ok(Ended::Time),
        () = tokio::time::sleep_until(start + ends.limit) => return Ok(Ended::Limit),
        asked = signals.next() => return Ok(Ended::Asked(asked)),
    };
    // What it wrote last; programs that it left behind may keep its output open.
    let rest = async { while outputs.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(Duration::from_millis(200), rest).await;
    if seen.try_recv().is_ok() {
        return Ok(Ended::Text);
    }
    let code = ended.code().or_else(|| Some(128 + ended.signal()?));
    let code = code.and_then(|code| u8::try_from(code).ok());
    Ok(Ended::Exit(code.unwrap_or(1)))
}

async fn sleep(start: Instant, time: Option<Duration>) {
    match time {
        Some(time) => tokio::time::sleep_until(start + time).await,
        None => std::future::pending().await,
    }
}

/// Copies output to standard error, and tells when `text` was in it.
async fn show(mut output: impl AsyncRead + Unpin, text: Option<Vec<u8>>, found: mpsc::Sender<()>) {
    let mut chunk = vec![0; 16 << 10];
    let mut tail = Vec::new();
    while let Ok(length @ 1..) = output.read(&mut chunk).await {
        let bytes = chunk.get(..length).unwrap_or_default();
        // Nobody may be reading.
        let _ = std::io::stderr().lock().write_all(bytes);
        let Some(text) = &text else { continue };
        tail.extend_from_slice(bytes);
        if tail.windows(text.len().max(1)).any(|window| window == text) {
            let _ = found.try_send(());
        }
        let keep = tail.len().saturating_sub(text.len());
        tail.drain(..keep);
    }
}
