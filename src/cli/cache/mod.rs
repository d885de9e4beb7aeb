//! `cache`: the blobs of a data directory or of a running proxy: listed, pinned, removed, evicted
//! and verified.
// The comments of options are their help texts.
#![allow(clippy::doc_markdown)]

mod lines;
mod place;
mod verification;

use std::fmt::Display;

use serde_json::{Value, json};

use super::bucket::{self, BucketArgs};
use super::context::Context;
use super::exit::ExitStatus;
use super::output::{self, count, size};
use super::store::{VerifyOptions, verify_directory};
use crate::config::bytes;
use crate::oci::Digest;
use crate::store::{BlobInfo, Pin};
use lines::{blob_line, pin_line};
use place::{Place, PlaceArgs, Wanted};

const LS_EXAMPLES: &str = "\
Examples:
  overlaybd-proxy cache ls
  overlaybd-proxy cache ls --data-dir /srv/obd --sort size | head
  overlaybd-proxy cache ls --json | jq '.blobs[] | select(.is_copy) | .digest'
  overlaybd-proxy cache ls --pins --admin 127.0.0.1:8481
  overlaybd-proxy cache ls --blob-store s3://images/obd --blob-store-endpoint https://minio.example.com

With --blob-store on the command line, or with --bucket, it is the bucket's objects that are listed, by
digest, and not the data directory.";

const RM_EXAMPLES: &str = "\
Examples:
  overlaybd-proxy cache rm sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae

Whoever reads a blob just then reads it to its end. A removed blob is made again when it is asked
for; if it is of an image whose source is gone, it cannot be made again. With --blob-store the bucket
keeps it, and it is fetched from there. What is pinned is not removed.";

const PIN_EXAMPLES: &str = "\
Examples:
  overlaybd-proxy cache pin sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae
  overlaybd-proxy cache pin library/redis:7 --admin 127.0.0.1:8481 --admin-token-file token

What is pinned is neither evicted nor removed until it is unpinned, after a restart as before. A
manifest is pinned with its config and its layers, an index with its manifests and theirs, as far as
these manifests are there: what one names that comes later is kept once the index is pinned again. A name is
that of an image at a running proxy: what is pinned is what its tag is converted to now, and not what
the tag is moved to later; it must have been converted. What is pinned counts in --cache-size.";

const UNPIN_EXAMPLES: &str = "\
Examples:
  overlaybd-proxy cache unpin sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae

The digests are those that were pinned, which `cache ls --pins` lists. A layer that another pin keeps,
too, stays pinned.";

const GC_EXAMPLES: &str = "\
Examples:
  overlaybd-proxy cache gc --to 100GiB --dry-run
  overlaybd-proxy cache gc --to 100GiB

Blobs go in the order in which the proxy evicts them: copies of what upstreams have first, then what
was not used for the longest time; what is open or pinned stays. Unlike the proxy, this does not spare
what was used within --keep: containers read a blob by ranges, and have it made again, or fetched from
the bucket of --blob-store, which this leaves as it is.";

const VERIFY_EXAMPLES: &str = "\
Examples:
  overlaybd-proxy cache verify
  overlaybd-proxy cache verify --admin 127.0.0.1:8481 --admin-token-file token

As `store verify`: every blob is read and compared with its digest, and damaged files are moved to
DATA/damaged. A running proxy does so on one thread, one such verification at a time; it is cancelled
when this command is interrupted. When damage was found the program ends with code 7.";

/// List, pin, remove, evict and verify the blobs of a data directory or of a running proxy
#[derive(clap::Args)]
pub struct CacheArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// List the blobs
    #[command(after_help = LS_EXAMPLES)]
    Ls(Box<LsArgs>),
    /// Remove blobs
    #[command(after_help = RM_EXAMPLES)]
    Rm(DigestArgs),
    /// Keep blobs or whole images until they are unpinned
    #[command(after_help = PIN_EXAMPLES)]
    Pin(PinArgs),
    /// Let what was pinned be evicted again
    #[command(after_help = UNPIN_EXAMPLES)]
    Unpin(DigestArgs),
    /// Evict until the blobs have no more than so many bytes
    #[command(after_help = GC_EXAMPLES)]
    Gc(GcArgs),
    /// Read all blobs and compare them with their digests
    #[command(after_help = VERIFY_EXAMPLES)]
    Verify(VerifyArgs),
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
    /// List what was pinned, with what it keeps
    #[arg(long, conflicts_with_all = ["sort", "bucket"])]
    pins: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: PlaceArgs,
    #[command(flatten)]
    bucket: BucketArgs,
}

#[derive(clap::Args)]
struct DigestArgs {
    /// Their digests
    #[arg(value_name = "DIGEST", required = true)]
    digests: Vec<Digest>,
    #[command(flatten)]
    place: PlaceArgs,
}

#[derive(clap::Args)]
struct PinArgs {
    /// Digests of blobs, manifests or indexes; with --admin also [REGISTRY/]REPOSITORY:TAG
    #[arg(value_name = "DIGEST|IMAGE", required = true)]
    what: Vec<Wanted>,
    #[command(flatten)]
    place: PlaceArgs,
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
    place: PlaceArgs,
}

#[derive(clap::Args)]
struct VerifyArgs {
    #[command(flatten)]
    verify: VerifyOptions,
    #[command(flatten)]
    place: PlaceArgs,
}

pub async fn run(args: CacheArgs, context: Context) -> anyhow::Result<ExitStatus> {
    match args.action {
        Action::Ls(args) if args.bucket.is_meant(&context) => {
            if args.sort != Sort::Digest || args.pins || context.is_flag("admin") {
                output::note(
                    "error: a bucket is listed by digest: without --sort, --pins and --admin",
                );
                return Ok(ExitStatus::Usage);
            }
            bucket::ls(&args.bucket, args.json, &context).await
        }
        Action::Ls(args) => {
            let place = Place::of(&args.place, &context)?;
            if args.pins {
                ls_pins(&place, args.json).await
            } else {
                ls(&place, args.sort, args.json).await
            }
        }
        Action::Rm(args) => rm(&Place::of(&args.place, &context)?, args.digests).await,
        Action::Pin(args) => pin(&Place::of(&args.place, &context)?, args.what).await,
        Action::Unpin(args) => unpin(&Place::of(&args.place, &context)?, args.digests).await,
        Action::Gc(args) => gc(&Place::of(&args.place, &context)?, &args).await,
        Action::Verify(args) => match Place::of(&args.place, &context)? {
            Place::Directory(directory) => verify_directory(&args.verify, directory).await,
            Place::Proxy(client) => verification::run(&client, &args.verify).await,
        },
    }
}

async fn ls(place: &Place, sort: Sort, is_json: bool) -> anyhow::Result<ExitStatus> {
    let mut blobs = place.blobs().await?;
    match sort {
        Sort::Digest => {}
        Sort::Size => blobs.sort_by_key(|blob| std::cmp::Reverse(blob.size)),
        Sort::LastUse => blobs.sort_by_key(|blob| std::cmp::Reverse(blob.last_use)),
    }
    if is_json {
        let blobs: Vec<Value> = blobs.iter().map(BlobInfo::to_json).collect();
        output::json(&json!({ "blobs": blobs }))?;
        return Ok(ExitStatus::Ok);
    }
    for blob in &blobs {
        output::line(blob_line(blob))?;
    }
    let pinned = blobs.iter().filter(|blob| blob.is_pinned);
    let pinned = pinned.fold(0_u64, |sum, blob| sum.saturating_add(blob.size));
    output::note(format_args!(
        "{}, {}, of which {} are pinned",
        count(blobs.len(), "blob"),
        size(total(&blobs)),
        size(pinned)
    ));
    Ok(ExitStatus::Ok)
}

async fn ls_pins(place: &Place, is_json: bool) -> anyhow::Result<ExitStatus> {
    let pins = place.pins().await?;
    if is_json {
        let pins: Vec<Value> = pins.iter().map(Pin::to_json).collect();
        output::json(&json!({ "pins": pins }))?;
        return Ok(ExitStatus::Ok);
    }
    for pin in &pins {
        output::line(pin_line(pin))?;
    }
    output::note(count(pins.len(), "pin"));
    Ok(ExitStatus::Ok)
}

fn total(blobs: &[BlobInfo]) -> u64 {
    blobs
        .iter()
        .map(|blob| blob.size)
        .fold(0, u64::saturating_add)
}

/// How several things went, of which each is tried.
#[derive(Default)]
struct Several {
    succeeded: usize,
    failed: Option<anyhow::Error>,
}

impl Several {
    fn add(&mut self, what: impl Display, outcome: anyhow::Result<String>) -> anyhow::Result<()> {
        match outcome {
            Ok(line) => {
                self.succeeded += 1;
                output::line(line)?;
            }
            Err(error) => {
                output::note(format_args!("error: {what}: {error:#}"));
                self.failed.get_or_insert(error);
            }
        }
        Ok(())
    }

    fn status(&self) -> ExitStatus {
        ExitStatus::of_several(self.succeeded, self.failed.as_ref())
    }
}

async fn rm(place: &Place, digests: Vec<Digest>) -> anyhow::Result<ExitStatus> {
    let mut all = Several::default();
    for digest in digests {
        let removed = place.remove(&digest).await;
        all.add(&digest, removed.map(|()| format!("removed {digest}")))?;
    }
    Ok(all.status())
}

async fn pin(place: &Place, wanted: Vec<Wanted>) -> anyhow::Result<ExitStatus> {
    let is_name = |wanted: &Wanted| matches!(wanted, Wanted::Image(_));
    if matches!(place, Place::Directory(_)) && wanted.iter().any(is_name) {
        output::note("error: a running proxy knows what a name is: --admin ADDRESS asks it");
        return Ok(ExitStatus::Usage);
    }
    let mut all = Several::default();
    for wanted in wanted {
        let pinned = place.pin(&wanted).await;
        all.add(
            &wanted,
            pinned.map(|pin| format!("pinned {}", pin_line(&pin))),
        )?;
    }
    if let Some(warning) = place.excess().await {
        output::note(warning);
    }
    Ok(all.status())
}

async fn unpin(place: &Place, digests: Vec<Digest>) -> anyhow::Result<ExitStatus> {
    let mut all = Several::default();
    for digest in digests {
        let unpinned = place.unpin(&digest).await;
        all.add(&digest, unpinned.map(|()| format!("unpinned {digest}")))?;
    }
    Ok(all.status())
}

async fn gc(place: &Place, args: &GcArgs) -> anyhow::Result<ExitStatus> {
    let evicted = place.evict(args.to, args.dry_run).await?;
    if args.json {
        let shown: Vec<Value> = evicted.shown.iter().map(BlobInfo::to_json).collect();
        output::json(&json!({
            "dry_run": args.dry_run,
            "evicted": shown,
            "blobs": evicted.blobs,
            "bytes_freed": evicted.bytes,
        }))?;
        return Ok(ExitStatus::Ok);
    }
    for blob in &evicted.shown {
        output::line(blob_line(blob))?;
    }
    let what = if args.dry_run {
        "would be evicted"
    } else {
        "evicted"
    };
    output::note(format_args!(
        "{} {what}, {}",
        count(evicted.blobs, "blob"),
        size(evicted.bytes)
    ));
    Ok(ExitStatus::Ok)
}
