//! Programs that are run and measured, each alone.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::{Signal, kill};
use nix::sys::time::TimeValLike as _;
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::Failure;
use crate::meter::Cost;

/// The first argument by which this benchmark is started to measure one program; see [`run`].
pub const MEASURE: &str = "--measure-one-program";

/// What a program took from its start to its end.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    pub cost: Cost,
    /// The most resident memory, in bytes.
    pub peak: u64,
}

/// A command of which nothing depends on this machine's settings or on who runs it.
pub fn command(program: &Path, scratch: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", scratch)
        .env("TMPDIR", scratch)
        .env("DOCKER_CONFIG", scratch)
        .current_dir(scratch)
        .stdin(Stdio::null());
    command
}

/// Runs `program` to its end and measures it.
///
/// The system tells a parent what all of its children took together, so a process comes in
/// between that has no other child: this benchmark itself, with [`MEASURE`].
pub fn run(program: &Path, arguments: &[&str], scratch: &Path) -> Result<Usage, Failure> {
    let (result, log) = (scratch.join("usage.json"), scratch.join("program.log"));
    let mut command = command(&std::env::current_exe()?, scratch);
    command
        .arg(MEASURE)
        .arg(&result)
        .arg(program)
        .args(arguments);
    command.stdout(Stdio::null()).stderr(File::create(&log)?);
    if !command.status()?.success() {
        let said = fs::read_to_string(&log).unwrap_or_default();
        return Err(format!("{} {}: {said}", program.display(), arguments.join(" ")).into());
    }
    let usage: Value = serde_json::from_slice(&fs::read(&result)?)?;
    let micros = |name: &str| Duration::from_micros(usage[name].as_u64().unwrap_or(0));
    Ok(Usage {
        cost: Cost {
            wall: micros("wall"),
            cpu: micros("cpu"),
        },
        peak: usage["peak"].as_u64().unwrap_or(0),
    })
}

/// The process in between: `FILE PROGRAM ARGUMENTS…`.
pub fn measure_one(mut arguments: impl Iterator<Item = String>) -> Result<(), Failure> {
    let (Some(result), Some(program)) = (arguments.next(), arguments.next()) else {
        return Err("a file and a program are expected".into());
    };
    let begin = Instant::now();
    let status = Command::new(&program).args(arguments).status()?;
    let wall = begin.elapsed();
    if !status.success() {
        return Err(format!("{program} ended with {status}").into());
    }
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let cpu = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    let text = json!({
        "wall": wall.as_micros() as u64,
        "cpu": cpu,
        "peak": usage.max_rss() * 1024,
    });
    Ok(fs::write(result, text.to_string())?)
}

/// A server that ends when this is dropped, also where an error is the reason.
pub struct Server {
    child: Child,
    log: PathBuf,
}

/// How long a server may take to come up or to end.
const PATIENCE: Duration = Duration::from_secs(30);

impl Server {
    /// Starts `command` with both of its outputs in the file `log`.
    pub fn start(mut command: Command, log: &Path) -> io::Result<Self> {
        let file = File::create(log)?;
        command.stdout(file.try_clone()?).stderr(file);
        Ok(Self {
            child: command.spawn()?,
            log: log.to_owned(),
        })
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until `ready` gives something.
    pub fn wait_for<T>(&mut self, mut ready: impl FnMut(&Self) -> Option<T>) -> Result<T, Failure> {
        let begin = Instant::now();
        while self.child.try_wait()?.is_none() && begin.elapsed() < PATIENCE {
            if let Some(found) = ready(self) {
                return Ok(found);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Err(format!("a server does not come up: {}", self.log()).into())
    }

    /// The CPU time of all of its threads so far, those that have ended included.
    pub fn cpu(&self) -> io::Result<Duration> {
        // A name in parentheses, which may contain blanks, is the second field.
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let rest = stat.rsplit(')').next().unwrap_or_default();
        let ticks = rest.split_ascii_whitespace().skip(11).take(2);
        let ticks: u64 = ticks.filter_map(|field| field.parse::<u64>().ok()).sum();
        // USER_HZ is 100 in Linux's interface to programs, whatever the kernel's own clock.
        Ok(Duration::from_millis(ticks * 10))
    }

    /// The most memory that it had, in bytes.
    pub fn peak(&self) -> io::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        Ok(crate::meter::peak_of(&status))
    }

    /// Asks it to end, and waits.
    pub fn stop(mut self) {
        let pid = Pid::from_raw(self.child.id() as i32);
        let begin = Instant::now();
        if kill(pid, Signal::SIGTERM).is_ok() {
            while matches!(self.child.try_wait(), Ok(None)) && begin.elapsed() < PATIENCE {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
