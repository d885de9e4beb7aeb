//! What a cold start took, for people and programs.

use serde::Serialize;

use super::account::{Account, FileShare};
use super::watch::Ended;
use crate::cli::output;

/// Requests, bytes and time of a part of the start.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Phase {
    /// Requests for ranges of blobs.
    pub requests: u64,
    /// Bytes that came.
    pub bytes: u64,
    /// Seconds.
    pub seconds: f64,
}

impl Phase {
    /// What came after `before`.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self {
            requests: self.requests.saturating_sub(before.requests),
            bytes: self.bytes.saturating_sub(before.bytes),
            seconds: (self.seconds - before.seconds).max(0.0),
        }
    }
}

/// What a node asks besides ranges with data, when it opens an image.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Probes {
    /// Requests for one byte.
    pub of_one_byte: u64,
    /// Requests without a range, of which nothing is read.
    pub without_range: u64,
}

impl Probes {
    /// Those for so many blobs.
    #[must_use]
    pub fn of(blobs: u64) -> Self {
        Self {
            of_one_byte: 3 * blobs,
            without_range: blobs,
        }
    }
}

/// What a cold start took.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The image.
    pub image: String,
    /// What was run.
    pub command: Vec<String>,
    /// How it ended.
    pub ended: Ended,
    /// Layers of the image.
    pub layers: usize,
    /// Bytes of the blobs of all layers.
    pub image_bytes: u64,
    /// Bytes of a piece, if the image was read as a node reads it.
    pub refill: Option<u64>,
    /// Milliseconds that were added to each request.
    pub latency_ms: u64,
    /// All of it.
    #[serde(flatten)]
    pub total: Phase,
    /// Until the image was mounted.
    pub opening: Phase,
    /// From then until the command ended.
    pub running: Phase,
    /// What a node asks besides, if the image was read as a node reads it.
    pub probes: Option<Probes>,
    /// What the requests were for; none if that could not be found out.
    pub account: Option<Account>,
}

impl Report {
    /// Writes it to standard output, with the `top` files that needed the most.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn print(&self, top: usize) -> anyhow::Result<()> {
        let ended = match self.ended {
            Ended::Exit(code) => format!("exit status {code}"),
            Ended::Time => "ended when its time was over".to_owned(),
            Ended::Text => "ended when it had written what was waited for".to_owned(),
            Ended::Limit => "ended by the time limit".to_owned(),
            Ended::Asked(_) => "interrupted".to_owned(),
        };
        output::line(format_args!("{}: {ended}", self.command.join(" ")))?;
        let line = |name: &str, phase: &Phase| {
            output::line(format_args!(
                "  {name:<9}{:>6} requests {:>12} {:>9.3} s",
                phase.requests,
                output::size(phase.bytes),
                phase.seconds
            ))
        };
        line("in all", &self.total)?;
        line("opening", &self.opening)?;
        line("running", &self.running)?;
        let size = output::size(self.image_bytes);
        let layers = output::count(self.layers, "layer");
        output::line(format_args!("  of an image of {size} in {layers}"))?;
        if let Some(probes) = &self.probes {
            output::line(format_args!(
                "  besides, a node asks {} times for one byte, and {} without a range",
                probes.of_one_byte,
                output::count(usize::try_from(probes.without_range)?, "time")
            ))?;
        }
        match &self.account {
            Some(account) => print_account(account, top),
            None => Ok(()),
        }
    }
}

fn print_account(account: &Account, top: usize) -> anyhow::Result<()> {
    output::line(format_args!(
        "  what was read is {} of compressed blocks",
        output::size(account.needed_bytes)
    ))?;
    output::line("\nrequests         read  what needed them first")?;
    let line = |requests: u64, bytes: u64, name: &str| {
        let bytes = output::size(bytes);
        output::line(format_args!("{requests:>8} {bytes:>12}  {name}"))
    };
    for (name, share) in &account.kinds {
        line(share.requests, share.read_bytes, name)?;
    }
    let mut files: Vec<&FileShare> = account.files.iter().collect();
    // Equal ones stay in the order in which they were read.
    files.sort_by_key(|file| std::cmp::Reverse((file.share.requests, file.share.read_bytes)));
    output::line("")?;
    for file in files.iter().take(top) {
        let path = String::from_utf8_lossy(&file.path);
        // What an image names must not move the cursor.
        let path: String = path.chars().filter(|c| !c.is_control()).collect();
        line(file.share.requests, file.share.read_bytes, &path)?;
    }
    if let Some(more @ 1..) = files.len().checked_sub(top) {
        output::line(format_args!(
            "{:>23}  {}",
            "",
            output::count(more, "more file")
        ))?;
    }
    Ok(())
}
