//! What a program asks of the disk, as strace sees it.

use std::collections::HashMap;
use std::path::Path;
use std::process::{Command, Output};

use super::command;

/// What is traced of a program.
const TRACED: &str = "trace=fsync,fdatasync,rename,renameat,renameat2";

/// A sync or a rename, from its begin to its end; both are positions in the trace.
#[derive(Debug, Clone)]
pub struct Call {
    pub name: String,
    /// What is synced, or renamed.
    pub path: String,
    /// The new name of what is renamed.
    pub to: String,
    pub begin: usize,
    pub end: usize,
}

impl Call {
    pub fn is_sync(&self) -> bool {
        matches!(self.name.as_str(), "fsync" | "fdatasync")
    }
}

/// Whether programs can be traced here; prints SKIPPED if not.
pub fn can_trace() -> bool {
    if !super::have(&["strace"]) {
        return false;
    }
    let tried = command("strace")
        .args(["-qq", "-e", TRACED, "true"])
        .output();
    let can = tried.is_ok_and(|tried| tried.status.success());
    if !can {
        super::skip("no program may be traced here (ptrace)");
    }
    can
}

/// Runs a program under strace with these further arguments for it, and gives the calls that it made
/// in the order of their begin.
#[track_caller]
pub fn run(traced: &Command, more: &[&str]) -> (Output, Vec<Call>) {
    let scratch = tempfile::tempdir().unwrap();
    let trace = scratch.path().join("trace");
    let output = strace(traced, more, &trace).output().unwrap();
    let text = std::fs::read_to_string(&trace).unwrap();
    (output, calls(&text))
}

/// The command that runs another under strace, its calls in the file `trace`.
fn strace(traced: &Command, more: &[&str], trace: &Path) -> Command {
    let mut strace = command("strace");
    strace
        .args(["-f", "-y", "-qq", "-s", "4096", "-e", TRACED])
        .args(more);
    strace.arg("-o").arg(trace).arg(traced.get_program());
    strace.args(traced.get_args());
    for (name, value) in traced.get_envs() {
        match value {
            Some(value) => strace.env(name, value),
            None => strace.env_remove(name),
        };
    }
    if let Some(directory) = traced.get_current_dir() {
        strace.current_dir(directory);
    }
    strace
}

/// Reads a trace: `PID CALL(…) = …`, or the begin and the end of a call on lines of their own where
/// other threads made some meanwhile.
fn calls(trace: &str) -> Vec<Call> {
    let mut calls: Vec<Call> = Vec::new();
    let mut open: HashMap<&str, usize> = HashMap::new();
    for (at, line) in trace.lines().enumerate() {
        let Some((thread, line)) = line.split_once(' ') else {
            continue;
        };
        let line = line.trim_start();
        if line.starts_with("<... ") {
            if let Some(call) = open.remove(thread) {
                calls[call].end = at;
            }
            continue;
        }
        let Some((name, arguments)) = line.split_once('(') else {
            continue;
        };
        let (path, to) = match name {
            "fsync" | "fdatasync" => (between(arguments, '<', '>'), String::new()),
            "rename" | "renameat" | "renameat2" => {
                let mut names = arguments.split('"').skip(1).step_by(2);
                let mut next = || names.next().unwrap_or_default().to_owned();
                (next(), next())
            }
            _ => continue,
        };
        if arguments.ends_with("<unfinished ...>") {
            open.insert(thread, calls.len());
        }
        calls.push(Call {
            name: name.to_owned(),
            path,
            to,
            begin: at,
            end: at,
        });
    }
    calls
}

fn between(text: &str, first: char, last: char) -> String {
    let rest = text.split_once(first).map_or("", |(_, rest)| rest);
    rest.split_once(last)
        .map_or("", |(text, _)| text)
        .to_owned()
}
