//! The log: standard error, as text or JSON, never through a progress bar.

use std::io::{self, Write};

use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::{EnvFilter, reload};

use super::progress::Terminal;
use crate::config::options::{LogConfig, LogFormat};

/// What changes which events are logged.
pub(super) struct LogLevel(Box<SetFilter>);

type SetFilter = dyn Fn(EnvFilter) -> Result<(), reload::Error> + Send + Sync;

impl LogLevel {
    /// Logs these events from now on.
    pub(super) fn set(&self, filter: EnvFilter) -> Result<(), reload::Error> {
        (self.0)(filter)
    }
}

/// Starts the log. The first one stays.
pub(super) fn start(config: LogConfig, terminal: Terminal) -> LogLevel {
    let builder = tracing_subscriber::fmt()
        .with_env_filter(config.filter)
        .with_ansi(Terminal::is_person())
        .with_writer(terminal);
    // An error of the start means that a log runs already.
    match config.format {
        LogFormat::Text => {
            let builder = builder.with_filter_reloading();
            let handle = builder.reload_handle();
            let _ = builder.try_init();
            LogLevel(Box::new(move |filter| handle.reload(filter)))
        }
        LogFormat::Json => {
            let builder = builder.json().flatten_event(true).with_filter_reloading();
            let handle = builder.reload_handle();
            let _ = builder.try_init();
            LogLevel(Box::new(move |filter| handle.reload(filter)))
        }
    }
}

/// Standard error, with the bars out of the way while a line is written.
pub struct Line {
    terminal: Terminal,
    bytes: Vec<u8>,
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        // A log that cannot be written to is no reason to stop.
        self.terminal.aside(|| io::stderr().write_all(&bytes).ok());
    }
}

impl<'a> MakeWriter<'a> for Terminal {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line {
            terminal: self.clone(),
            bytes: Vec::new(),
        }
    }
}
