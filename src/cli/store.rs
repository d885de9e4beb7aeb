//! `store verify`: what is kept, compared with its digests.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::bucket::{self, BucketArgs};
use super::context::Context;
use super::exit::ExitStatus;
use super::output::{self, size};
use super::progress::{ProgressOptions, Terminal};
use super::signals;
use crate::config::Text;
use crate::store::{BlobEntry, BlobError, BlobStore, Examined, Survey, SurveyCounts, finding};

/// Most threads that read and hash.
const MOST_THREADS: usize = 4;

const EXAMPLES: &str = "\
Examples:
  overlaybd-proxy store verify
  overlaybd-proxy store verify --data-dir /srv/obd --dry-run
  overlaybd-proxy store verify --json | jq 'select(.event == \"damaged\").digest'
  overlaybd-proxy store verify --blob-store s3://images/obd --delete

Every blob in the data directory is read and compared with its digest. Damaged files are moved to
DATA/damaged, where the last few of them are kept; the blobs are made again when they are asked
for, or fetched from the bucket of --blob-store, whose objects are compared whenever they are
fetched. It may run while the proxy serves from the same directory. When damage was found the program
ends with code 7.

With --blob-store on the command line, or with --bucket, it is the bucket's objects that are read, and
not the data directory. A damaged one is reported, and with --delete deleted, which needs the permission
s3:DeleteObject. It is uploaded again by replicas that have the blob when they start, or send a
reader to it (--blob-store-redirect), and by those that make the blob again.";

/// Look after what is kept
#[derive(clap::Args)]
pub struct StoreArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Read all blobs and compare them with their digests
    #[command(after_help = EXAMPLES)]
    Verify(VerifyArgs),
}

#[derive(clap::Args)]
struct VerifyArgs {
    #[command(flatten)]
    verify: VerifyOptions,
    /// Delete objects of the bucket that are damaged
    #[arg(long, conflicts_with = "dry_run")]
    delete: bool,
    #[command(flatten)]
    place: PlaceOptions,
    #[command(flatten)]
    bucket: BucketArgs,
}

/// How blobs are verified.
#[derive(clap::Args)]
pub(super) struct VerifyOptions {
    /// Only tell what is damaged: move nothing
    #[arg(long)]
    pub(super) dry_run: bool,
    #[command(flatten)]
    pub(super) progress: ProgressOptions,
}

#[derive(Debug, Clone, Default, clap::Args, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(super) struct PlaceOptions {
    /// Directory of everything that is kept [default: /var/lib/overlaybd-proxy for root, else
    /// $XDG_DATA_HOME/overlaybd-proxy or ~/.local/share/overlaybd-proxy]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<Text>,
}

pub async fn run(args: StoreArgs, context: Context) -> anyhow::Result<ExitStatus> {
    let Action::Verify(args) = args.action;
    if args.bucket.is_meant(&context) {
        let terminal = Terminal::choose(args.verify.progress);
        return bucket::verify(&args.bucket, args.delete, &terminal, &context).await;
    }
    if args.delete {
        output::note("error: --delete is for the objects of a bucket: see --bucket");
        return Ok(ExitStatus::Usage);
    }
    verify_directory(&args.verify, data_dir(&args.place, &context)?).await
}

/// Verifies the blobs of a data directory.
///
/// # Errors
/// When the disk refuses.
pub(super) async fn verify_directory(
    options: &VerifyOptions,
    data_dir: PathBuf,
) -> anyhow::Result<ExitStatus> {
    let (is_moving, terminal) = (!options.dry_run, Terminal::choose(options.progress));
    let shutdown = signals::shutdown().context("signals cannot be received")?;
    let work = move || verify(&data_dir, is_moving, &terminal);
    tokio::select! {
        done = tokio::task::spawn_blocking(work) => done?,
        signal = shutdown => {
            output::note(format_args!("{signal}: given up"));
            Ok(ExitStatus::Interrupted)
        }
    }
}

/// A data directory that is there: none is made to be verified.
pub(super) fn data_dir(place: &PlaceOptions, context: &Context) -> anyhow::Result<PathBuf> {
    let (mut sources, mut errors) = context.service();
    let place = sources.effective(place, &mut errors);
    let text = place.data_dir.as_ref().map_or("", Text::as_str);
    let data_dir = PathBuf::from(text);
    match std::fs::metadata(data_dir.join("layout")) {
        Ok(found) if found.is_file() => {}
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            errors.add("data-dir", format!("{text} cannot be read: {error}"));
        }
        _ => {
            let what = format!("{text:?} is no data directory: there is no file `layout` in it");
            errors.add("data-dir", what);
        }
    }
    Ok(errors.none_or(Some(data_dir))?)
}

fn verify(data_dir: &Path, is_moving: bool, terminal: &Terminal) -> anyhow::Result<ExitStatus> {
    let store = BlobStore::at(data_dir, None, Duration::ZERO)?;
    let entries = store.entries()?;
    let total = entries.iter().map(|entry| entry.size).sum();
    let bar = terminal.bytes_bar(data_dir.display().to_string(), total);
    let survey = Survey::default();
    let progress = Progress::new(terminal);
    let on_bytes = |bytes: u64| {
        bar.inc(bytes);
        progress.tell(survey.read(bytes), Some(total));
        true
    };
    let on_finding = |entry: &BlobEntry, examined: &Result<Examined, BlobError>| match examined {
        Ok(Examined::Damaged { damage, aside }) => {
            let path = store.path(&entry.digest);
            tell(
                &finding(&entry.digest, &path, damage, aside.as_ref()),
                terminal,
            );
        }
        Ok(_) => {}
        Err(error) => {
            let line = format_args!("error: {}: {error}", entry.digest);
            terminal.aside(|| output::note(line));
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = threads.min(MOST_THREADS);
    store.survey(entries, threads, is_moving, &survey, on_bytes, on_finding);
    bar.finish_and_clear();
    finish(&survey.counts(), terminal)
}

/// Says now and then how many bytes were read.
pub(super) struct Progress<'a> {
    terminal: &'a Terminal,
    told: Mutex<Instant>,
}

impl<'a> Progress<'a> {
    pub(super) fn new(terminal: &'a Terminal) -> Self {
        Self {
            terminal,
            told: Mutex::new(Instant::now()),
        }
    }

    /// `total`: how many there are, if that is known.
    pub(super) fn tell(&self, done: u64, total: Option<u64>) {
        let terminal = self.terminal;
        let mut told = self.told.lock();
        if terminal
            .repeats_every()
            .is_some_and(|every| !every.is_zero() && told.elapsed() >= every)
        {
            *told = Instant::now();
            match total {
                Some(total) => {
                    terminal.tell(format_args!("read {} of {}", size(done), size(total)));
                }
                None => terminal.tell(format_args!("read {}", size(done))),
            }
            terminal.event(&json!({ "event": "progress", "bytes": done, "of": total }));
        }
    }
}

/// Prints a damaged blob, as [`finding`] says it.
pub(super) fn tell(finding: &Value, terminal: &Terminal) {
    let text = |key: &str| finding[key].as_str();
    if terminal.is_json() {
        let mut event = finding.clone();
        event["event"] = "damaged".into();
        terminal.event(&event);
        return;
    }
    let where_to = match text("moved_to") {
        Some(target) => format!("moved to {target}"),
        None if finding["removed"] == true => "removed".to_owned(),
        None => "left where it is".to_owned(),
    };
    let (path, reason) = (text("path"), text("reason"));
    let line = format!(
        "damaged {}: {}; {where_to}",
        path.unwrap_or_default(),
        reason.unwrap_or_default()
    );
    // A reader that left does not stop the work.
    terminal.aside(|| output::line(line).ok());
}

/// Prints what was found in all.
pub(super) fn finish(counts: &SurveyCounts, terminal: &Terminal) -> anyhow::Result<ExitStatus> {
    let SurveyCounts {
        blobs,
        bytes,
        damaged,
        failed,
    } = *counts;
    if terminal.is_json() {
        terminal.event(&json!({
            "event": "verified",
            "blobs": blobs,
            "bytes": bytes,
            "damaged": damaged,
            "failed": failed,
        }));
    } else if !terminal.is_silent() {
        output::line(format_args!(
            "verified {}, {}: {damaged} damaged",
            output::count(usize::try_from(blobs)?, "blob"),
            size(bytes)
        ))?;
    }
    Ok(match (failed, damaged) {
        (0, 0) => ExitStatus::Ok,
        (0, _) => ExitStatus::Different,
        (_, _) => ExitStatus::Failed,
    })
}
