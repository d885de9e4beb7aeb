//! `cache`: the blobs of a data directory, listed, removed and evicted.
// The comments of options are their help texts.
#![allow(clippy::doc_markdown)]

use std::path::Path;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::context::Context;
use super::exit::ExitStatus;
use super::output::{self, count, size};
use super::store::{PlaceOptions, data_dir};
use crate::config::bytes;
use crate::oci::Digest;
use crate::store::{BlobInfo, BlobStore};

const LS_EXAMPLES: &str = "\
Examples:
  overlaybd-proxy cache ls
  overlaybd-proxy cache ls --data-dir /srv/obd --sort size | head
  overlaybd-proxy cache ls --json | jq '.blobs[] | select(.is_copy) | .digest'";

const RM_EXAMPLES: &str = "\
Examples:
  overlaybd-proxy cache rm sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae

Whoever reads a blob just then reads it to its end. A removed blob is made again when it is asked
for; if it is of an image whose source is gone, it cannot be made again. With --blob-store the bucket
keeps it, and it is fetched from there.";

const GC_EXAMPLES: &str = "\
Examples:
  overlaybd-proxy cache gc --to 100GiB --dry-run
  overlaybd-proxy cache gc --to 100GiB

Blobs go in the order in which the proxy evicts them: copies of what upstreams have first, then what
was not used for the longest time; what is open stays. Unlike the proxy, this does not spare what
was used within --keep: containers read a blob by ranges, and have it made again, or fetched from the
bucket of --blob-store, which this leaves as it is.";

/// List, remove and evict the blobs of a data directory, also beside a serving proxy
#[derive(clap::Args)]
pub struct CacheArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// List the blobs
    #[command(after_help = LS_EXAMPLES)]
    Ls(LsArgs),
    /// Remove blobs
    #[command(after_help = RM_EXAMPLES)]
    Rm(RmArgs),
    /// Evict until the blobs have no more than so many bytes
    #[command(after_help = GC_EXAMPLES)]
    Gc(GcArgs),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Sort {
    Digest,
    Size,
    LastUse,
}

#[derive(clap::Args)]
struct LsArgs {
    /// The order: the largest first, the last used first
    #[arg(long, value_enum, default_value = "digest")]
    sort: Sort,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: PlaceOptions,
}

#[derive(clap::Args)]
struct RmArgs {
    /// Their digests
    #[arg(value_name = "DIGEST", required = true)]
    digests: Vec<Digest>,
    #[command(flatten)]
    place: PlaceOptions,
}

#[derive(clap::Args)]
struct GcArgs {
    /// The most bytes that stay
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    to: u64,
    /// Only tell what would be evicted
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: PlaceOptions,
}

pub async fn run(args: CacheArgs, context: Context) -> anyhow::Result<ExitStatus> {
    let work = move || match args.action {
        Action::Ls(args) => ls(&args, &data_dir(&args.place, &context)?),
        Action::Rm(args) => rm(&args, &data_dir(&args.place, &context)?),
        Action::Gc(args) => gc(&args, &data_dir(&args.place, &context)?),
    };
    tokio::task::spawn_blocking(work).await?
}

fn age(blob: &BlobInfo) -> Duration {
    let now = SystemTime::now();
    now.duration_since(blob.last_use).unwrap_or_default()
}

fn line(blob: &BlobInfo) -> String {
    let unused = Duration::from_secs(age(blob).as_secs());
    let kind = if blob.is_copy { "copy" } else { "converted" };
    format!(
        "{}  {:>11}  {kind:<9}  used {} ago",
        blob.digest,
        size(blob.size),
        humantime::format_duration(unused)
    )
}

fn total(blobs: &[BlobInfo]) -> u64 {
    blobs
        .iter()
        .map(|blob| blob.size)
        .fold(0, u64::saturating_add)
}

fn ls(args: &LsArgs, directory: &Path) -> anyhow::Result<ExitStatus> {
    let store = BlobStore::at(directory, None, Duration::ZERO)?;
    let mut blobs = store.list()?;
    match args.sort {
        Sort::Digest => {}
        Sort::Size => blobs.sort_by_key(|blob| std::cmp::Reverse(blob.size)),
        Sort::LastUse => blobs.sort_by_key(|blob| std::cmp::Reverse(blob.last_use)),
    }
    if args.json {
        let blobs: Vec<Value> = blobs.iter().map(BlobInfo::to_json).collect();
        output::json(&json!({ "blobs": blobs }))?;
        return Ok(ExitStatus::Ok);
    }
    for blob in &blobs {
        output::line(line(blob))?;
    }
    let bytes = size(total(&blobs));
    output::note(format_args!("{}, {bytes}", count(blobs.len(), "blob")));
    Ok(ExitStatus::Ok)
}

fn rm(args: &RmArgs, directory: &Path) -> anyhow::Result<ExitStatus> {
    let store = BlobStore::at(directory, None, Duration::ZERO)?;
    let mut status = ExitStatus::Ok;
    for digest in &args.digests {
        if store.remove(digest)? {
            output::line(format_args!("removed {digest}"))?;
        } else {
            output::note(format_args!("error: there is no blob {digest}"));
            status = ExitStatus::Partly;
        }
    }
    Ok(status)
}

fn gc(args: &GcArgs, directory: &Path) -> anyhow::Result<ExitStatus> {
    let store = BlobStore::at(directory, Some(args.to), Duration::ZERO)?;
    let before = store.list()?;
    let evicted: Vec<BlobInfo> = if args.dry_run {
        planned(before, args.to)
    } else {
        store.evict()?;
        let after = store.list()?;
        let mut gone = before;
        gone.retain(|blob| {
            after
                .binary_search_by(|one| one.digest.cmp(&blob.digest))
                .is_err()
        });
        gone
    };
    let freed = total(&evicted);
    if args.json {
        let evicted: Vec<Value> = evicted.iter().map(BlobInfo::to_json).collect();
        let bytes = json!({ "dry_run": args.dry_run, "evicted": evicted, "bytes_freed": freed });
        output::json(&bytes)?;
        return Ok(ExitStatus::Ok);
    }
    for blob in &evicted {
        output::line(line(blob))?;
    }
    let what = if args.dry_run {
        "would be evicted"
    } else {
        "evicted"
    };
    output::note(format_args!(
        "{} {what}, {}",
        count(evicted.len(), "blob"),
        size(freed)
    ));
    Ok(ExitStatus::Ok)
}

/// What the proxy would evict if nothing is being read.
fn planned(mut blobs: Vec<BlobInfo>, most: u64) -> Vec<BlobInfo> {
    let mut excess = total(&blobs).saturating_sub(most);
    blobs.sort_by(|a, b| a.eviction_order().cmp(&b.eviction_order()));
    let needed = blobs.into_iter().take_while(|blob| {
        let is_needed = excess > 0;
        excess = excess.saturating_sub(blob.size);
        is_needed
    });
    needed.collect()
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    fn blob(name: &str, size: u64, used: u64, is_copy: bool) -> BlobInfo {
        BlobInfo {
            digest: Digest::of(name.as_bytes()),
            size,
            last_use: UNIX_EPOCH + Duration::from_secs(used),
            is_copy,
        }
    }

    #[test]
    fn copies_go_first_then_what_was_not_used_for_the_longest_time() {
        let blobs = || {
            vec![
                blob("new", 10, 300, false),
                blob("old", 10, 100, false),
                blob("copy", 10, 900, true),
            ]
        };
        let names = |most| -> Vec<Digest> {
            planned(blobs(), most)
                .into_iter()
                .map(|blob| blob.digest)
                .collect()
        };
        assert_eq!(names(30), []);
        assert_eq!(names(29), [Digest::of(b"copy")]);
        assert_eq!(names(15), [Digest::of(b"copy"), Digest::of(b"old")]);
        assert_eq!(names(0).len(), 3);
    }
}
