//! The log: standard error, as text or JSON, never through a progress bar.

use std::io::{self, Write};

use tracing_subscriber::fmt::MakeWriter;

use super::progress::Terminal;
use crate::config::options::{LogConfig, LogFormat};

/// Starts the log. The first one stays.
pub(super) fn start(config: LogConfig, terminal: Terminal) {
    let builder = tracing_subscriber::fmt()
        .with_env_filter(config.filter)
        .with_ansi(Terminal::is_person())
        .with_writer(terminal);
    // An error means that a log runs already.
    let _ = match config.format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
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
