//! Blobs and pins, a line each, for people.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use crate::cli::output::{count, size};
use crate::store::{BlobInfo, Pin};

pub(super) fn blob_line(blob: &BlobInfo) -> String {
    let age = SystemTime::now().duration_since(blob.last_use);
    let unused = Duration::from_secs(age.unwrap_or_default().as_secs());
    let kind = if blob.is_copy { "copy" } else { "converted" };
    let pinned = if blob.is_pinned { ", pinned" } else { "" };
    format!(
        "{}  {:>11}  {kind:<9}  used {} ago{pinned}",
        blob.digest,
        size(blob.size),
        humantime::format_duration(unused)
    )
}

pub(super) fn pin_line(pin: &Pin) -> String {
    let mut line = format!(
        "{}  {}, {}",
        pin.digest,
        count(pin.blobs, "blob"),
        size(pin.bytes)
    );
    if pin.missing > 0 {
        let _ = write!(line, "; {} of them are not there now", pin.missing);
    }
    line
}
