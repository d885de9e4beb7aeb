//! `fusermount3`, the set-uid program that mounts for users.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use super::error::{MountError, UnmountError};

/// Its names: distributions with FUSE 2 alone have the second.
const PROGRAMS: [&str; 2] = ["fusermount3", "fusermount"];

/// Names the descriptor over which it hands back the device.
const SOCKET_VARIABLE: &str = "_FUSE_COMMFD";

/// Runs the first of the programs that is installed; `None` if none is.
fn run<T>(start: impl Fn(&str) -> io::Result<T>) -> io::Result<Option<T>> {
    for program in PROGRAMS {
        match start(program) {
            Ok(result) => return Ok(Some(result)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Has it mount at `directory`, and returns the device that speaks for the mount.
pub(super) fn mount(directory: &Path, options: &str) -> Result<OwnedFd, MountError> {
    let (ours, theirs) = UnixStream::pair().map_err(MountError::Kernel)?;
    let theirs = OwnedFd::from(theirs);
    let start = |program: &str| {
        Command::new(program)
            .args(["-o", options, "--"])
            .arg(directory)
            // The socket is its standard input.
            .env(SOCKET_VARIABLE, "0")
            .stdin(theirs.try_clone()?)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
    };
    let started = run(start);
    // Else an early end of the program would not be seen.
    drop(theirs);
    let child = match started {
        Ok(Some(child)) => child,
        Ok(None) => return Err(MountError::NoHelper),
        Err(error) => return Err(MountError::Helper(error.to_string())),
    };
    let device = receive(&ours);
    let output = child
        .wait_with_output()
        .map_err(|error| MountError::Helper(error.to_string()))?;
    match device {
        Ok(Some(device)) => Ok(device),
        Ok(None) => Err(MountError::Helper(said(&output.stderr))),
        Err(error) => Err(MountError::Helper(error.to_string())),
    }
}

/// The descriptor that comes over the socket; `None` when it is closed without one.
fn receive(socket: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    loop {
        let mut parts = [IoSliceMut::new(&mut byte)];
        match recvmsg(socket, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Ok(_) => break,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let mut messages = ancillary.drain();
    Ok(messages.find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    }))
}

/// Has it unmount `directory`: at once, or, with `lazily`, when nobody uses it any more.
pub(super) fn unmount(directory: &Path, lazily: bool) -> Result<(), UnmountError> {
    let failed = |text: String| UnmountError::Helper {
        directory: directory.to_owned(),
        text,
    };
    let flags = if lazily { "-uz" } else { "-u" };
    let start = |program: &str| {
        Command::new(program)
            .args([flags, "--"])
            .arg(directory)
            .stdin(Stdio::null())
            .output()
    };
    let output = match run(start) {
        Ok(Some(output)) => output,
        Ok(None) => return Err(failed("it is not installed".to_owned())),
        Err(error) => return Err(failed(error.to_string())),
    };
    if output.status.success() {
        return Ok(());
    }
    let text = said(&output.stderr);
    if text.contains("busy") {
        return Err(UnmountError::Busy(directory.to_owned()));
    }
    Err(failed(text))
}

fn said(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let text = text.trim();
    match text.split_once(": ") {
        _ if text.is_empty() => "it ended without a word".to_owned(),
        Some((program, rest)) if PROGRAMS.iter().any(|name| program.ends_with(name)) => {
            rest.to_owned()
        }
        _ => text.to_owned(),
    }
}
