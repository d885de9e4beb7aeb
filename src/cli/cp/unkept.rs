//! What a copy does not keep, told at the end.

use std::collections::BTreeMap;

use crate::cli::output;
use crate::lazy::path::shown;

/// Most names of attributes that are told one by one.
const MAX_NAMES: usize = 32;

/// What was not kept, counted.
#[derive(Debug, Default)]
pub struct Unkept {
    counts: BTreeMap<String, u64>,
    /// Files that were not copied at all.
    pub left_out: u64,
}

impl Unkept {
    /// A file has something that its copy does not.
    pub fn lost(&mut self, what: &str) {
        if self.counts.len() < MAX_NAMES || self.counts.contains_key(what) {
            *self.counts.entry(what.to_owned()).or_default() += 1;
        } else {
            *self
                .counts
                .entry("other attributes".to_owned())
                .or_default() += 1;
        }
    }

    /// A file is not copied; said at once.
    pub fn left_out(&mut self, path: &[u8], why: impl std::fmt::Display) {
        output::note(format_args!("{} is not copied: {why}", shown(path)));
        self.left_out += 1;
    }

    /// Says what was not kept.
    pub fn tell(&self) {
        for (what, count) in &self.counts {
            let files = if *count == 1 { "file" } else { "files" };
            output::note(format_args!("not kept: {what} of {count} {files}"));
        }
    }
}
