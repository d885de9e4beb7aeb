//! Standard output, and lines for people on standard error.

use std::io::{self, Write};

use serde::Serialize;

/// Writes a line to standard output.
///
/// # Errors
/// When it cannot be written, such as to a reader that left.
pub fn line(text: impl std::fmt::Display) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}

/// Writes a part of a line to standard output; [`line`] ends it.
///
/// # Errors
/// As [`line`].
pub fn part(text: impl std::fmt::Display) -> io::Result<()> {
    write!(io::stdout().lock(), "{text}")
}

/// Writes a line to standard error, if that goes: nothing ends because nobody can read it.
pub fn note(text: impl std::fmt::Display) {
    let line = format!("{text}\n");
    let _ = io::stderr().lock().write_all(line.as_bytes());
}

/// Writes a value as one line of JSON to standard output.
///
/// # Errors
/// As [`line`].
pub fn json(value: &impl Serialize) -> anyhow::Result<()> {
    Ok(line(serde_json::to_string(value)?)?)
}

/// Whether an error only says that the reader of our output left.
pub fn is_closed(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// A size for people.
pub fn size(bytes: u64) -> String {
    crate::sizes::Size(bytes).to_string()
}

/// A number of things for people: `1 layer`, `2 layers`.
pub fn count(number: usize, thing: &str) -> String {
    let end = if number == 1 { "" } else { "s" };
    format!("{number} {thing}{end}")
}

/// The beginning of a digest, enough to tell one from another.
pub fn short(digest: &crate::oci::Digest) -> &str {
    digest.hex().get(..12).unwrap_or(digest.hex())
}
