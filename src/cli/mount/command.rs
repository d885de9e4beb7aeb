//! Runs a command and tells how it ended.

use std::ffi::OsString;
use std::io::{self, IsTerminal as _};
use std::os::unix::process::ExitStatusExt as _;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

use super::signals::{Asked, Signals};
use crate::cli::output;

/// What shells say of a command that cannot be run, and of one that does not exist.
const NOT_RUN: u8 = 126;
const NOT_FOUND: u8 = 127;

/// Runs a command to its end; its exit status as a shell has it.
///
/// # Errors
/// When the system does not say how it ended.
pub async fn run(command: &[OsString], signals: &mut Signals) -> io::Result<u8> {
    let [program, arguments @ ..] = command else {
        return Ok(0);
    };
    let mut child = match Command::new(program).args(arguments).spawn() {
        Ok(child) => child,
        Err(error) => {
            output::note(format_args!(
                "error: {} cannot be run: {error}",
                program.display()
            ));
            let is_missing = error.kind() == io::ErrorKind::NotFound;
            return Ok(if is_missing { NOT_FOUND } else { NOT_RUN });
        }
    };
    let status = loop {
        tokio::select! {
            status = child.wait() => break status?,
            asked = signals.next() => pass_on(&child, asked),
        }
    };
    let code = match (status.code(), status.signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => 1,
    };
    Ok(u8::try_from(code).unwrap_or(1))
}

/// Sends the command the signal that we got; a terminal sends Ctrl-C to both by itself.
fn pass_on(child: &Child, asked: Asked) {
    let signal = match asked {
        Asked::Interrupt if io::stdin().is_terminal() => return,
        Asked::Interrupt => Signal::SIGINT,
        Asked::Terminate => Signal::SIGTERM,
    };
    let id = child.id().and_then(|id| i32::try_from(id).ok());
    if let Some(id) = id {
        // It may have ended meanwhile.
        let _ = kill(Pid::from_raw(id), signal);
    }
}
