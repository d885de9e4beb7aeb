//! What became of each image, and of all of them.

use std::collections::BTreeSet;

use serde_json::json;

use super::Form;
use crate::cli::exit::{ExitStatus, in_one_line};
use crate::cli::progress::Terminal;
use crate::cli::{output, platforms};
use crate::oci::{Digest, Platform};

/// Most platforms that are named as not converted.
const MANY_PLATFORMS: usize = 32;

/// How an image came to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was converted now, at least in part.
    Converted,
    /// All of it had been converted before.
    Found,
    /// It is there; the proxy does not say since when.
    Ready,
    /// It is no Linux image: there is nothing to convert.
    Skipped,
}

/// An image that is there.
pub struct Warmed {
    pub outcome: Outcome,
    pub digest: Option<Digest>,
    /// Why it was skipped, or has another form.
    pub reason: Option<String>,
    /// Its platforms that were not converted, as far as that is known.
    pub left: Vec<Platform>,
}

impl Warmed {
    /// Something that is no image, for this reason.
    pub fn skipped(reason: String) -> Self {
        Self {
            outcome: Outcome::Skipped,
            digest: None,
            reason: Some(reason),
            left: Vec::new(),
        }
    }
}

impl Outcome {
    pub fn word(self) -> &'static str {
        match self {
            Self::Converted => "converted",
            Self::Found => "found",
            Self::Ready => "ready",
            Self::Skipped => "skipped",
        }
    }
}

/// What it came to.
#[derive(Default)]
pub struct Report {
    converted: u64,
    found: u64,
    ready: u64,
    skipped: u64,
    /// Platforms of images that were not converted, up to [`MANY_PLATFORMS`].
    left: BTreeSet<Platform>,
    pub failed: Vec<(String, anyhow::Error)>,
}

impl Report {
    /// Counts what became of an image.
    pub fn add(&mut self, name: &str, outcome: anyhow::Result<Warmed>) {
        match outcome {
            Ok(warmed) => {
                match warmed.outcome {
                    Outcome::Converted => self.converted += 1,
                    Outcome::Found => self.found += 1,
                    Outcome::Ready => self.ready += 1,
                    Outcome::Skipped => self.skipped += 1,
                }
                let room = MANY_PLATFORMS.saturating_sub(self.left.len());
                self.left.extend(warmed.left.into_iter().take(room));
            }
            Err(error) => self.failed.push((name.to_owned(), error)),
        }
    }
}

/// Says what became of an image, in this form if there was one to make.
pub fn tell(terminal: &Terminal, name: &str, form: Option<Form>, outcome: &anyhow::Result<Warmed>) {
    let mut event = json!({"event": "image", "image": name});
    if let Some(form) = form {
        event["format"] = json!(form.word());
    }
    let title = form.map_or_else(|| name.to_owned(), |form| form.title(name));
    match outcome {
        Ok(warmed) => {
            let word = warmed.outcome.word();
            event["outcome"] = json!(word);
            event["digest"] = json!(warmed.digest.as_ref().map(Digest::as_str));
            match &warmed.reason {
                Some(reason) => {
                    event["reason"] = json!(reason);
                    terminal.tell(format_args!("{title}: {word}, {reason}"));
                }
                None => terminal.tell(format_args!("{title}: {word}")),
            }
        }
        Err(error) => {
            event["outcome"] = json!("failed");
            event["error"] = json!(in_one_line(error));
            terminal.tell(format_args!("{title}: failed, {}", in_one_line(error)));
        }
    }
    terminal.event(&event);
}

/// Says what all of it came to.
pub fn conclude(report: &Report, terminal: &Terminal) -> anyhow::Result<ExitStatus> {
    let Report {
        converted,
        found,
        ready,
        skipped,
        left,
        failed,
    } = report;
    let succeeded = converted + found + ready + skipped;
    let failures: Vec<_> = failed
        .iter()
        .map(|(name, error)| json!({"image": name, "error": in_one_line(error)}))
        .collect();
    terminal.event(&json!({
        "event": "summary",
        "converted": converted,
        "found": found,
        "ready": ready,
        "skipped": skipped,
        "platforms_left": left.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "failed": failures,
    }));
    if !terminal.is_json() {
        let failed = failed.len();
        let (ready, skipped) = (ready_words(*ready), skipped_words(*skipped));
        output::line(format_args!(
            "{converted} converted, {found} {} there{ready}{skipped}, {failed} failed",
            if *found == 1 { "was" } else { "were" },
        ))?;
    }
    if !left.is_empty() {
        let left = platforms::joined(&left.iter().collect::<Vec<_>>());
        terminal.tell(format_args!(
            "not converted: the images for {left} (--platform chooses)"
        ));
    }
    // Otherwise each was printed when it happened.
    for (name, error) in failed.iter().filter(|_| terminal.is_silent()) {
        output::note(format_args!("{name}: failed, {}", in_one_line(error)));
    }
    Ok(match failed.first() {
        None => ExitStatus::Ok,
        Some(_) if succeeded > 0 => ExitStatus::Partly,
        Some((_, error)) => ExitStatus::of(error),
    })
}

fn ready_words(ready: u64) -> String {
    match ready {
        0 => String::new(),
        1 => ", 1 is ready".to_owned(),
        ready => format!(", {ready} are ready"),
    }
}

fn skipped_words(skipped: u64) -> String {
    match skipped {
        0 => String::new(),
        1 => ", 1 is no image".to_owned(),
        skipped => format!(", {skipped} are no images"),
    }
}
