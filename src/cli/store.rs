//! `store verify`: what is kept, compared with its digests.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::context::Context;
use super::exit::ExitStatus;
use super::output::{self, size};
use super::progress::{ProgressOptions, Terminal};
use super::signals;
use crate::config::Text;
use crate::store::{Aside, BlobEntry, BlobStore, Examined};

/// Most threads that read and hash.
const MOST_THREADS: usize = 4;

const EXAMPLES: &str = "\
Examples:
  overlaybd-proxy store verify
  overlaybd-proxy store verify --data-dir /srv/obd --dry-run
  overlaybd-proxy store verify --json | jq 'select(.event == \"damaged\").digest'

Every blob in the data directory is read and compared with its digest. Damaged files are moved to
DATA/damaged, where the last few of them are kept; the blobs are made again when they are asked
for, or fetched from the bucket of --blob-store, whose objects are compared whenever they are
fetched. It may run while the proxy serves from the same directory. When damage was found the program
ends with code 7.";

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
    /// Only tell what is damaged: move nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    place: PlaceOptions,
    #[command(flatten)]
    progress: ProgressOptions,
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
    let terminal = Terminal::choose(args.progress);
    let data_dir = data_dir(&args.place, &context)?;
    let shutdown = signals::shutdown().context("signals cannot be received")?;
    let work = move || verify(&data_dir, !args.dry_run, &terminal);
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

/// What was found so far.
#[derive(Default)]
struct Tally {
    blobs: AtomicU64,
    bytes: AtomicU64,
    damaged: AtomicU64,
    failed: AtomicU64,
}

fn verify(data_dir: &Path, is_moving: bool, terminal: &Terminal) -> anyhow::Result<ExitStatus> {
    let store = BlobStore::at(data_dir, None, Duration::ZERO)?;
    let entries = store.entries()?;
    let total = entries.iter().map(|entry| entry.size).sum();
    let bar = terminal.bytes_bar(data_dir.display().to_string(), total);
    let tally = Tally::default();
    let printed = Mutex::new(Instant::now());
    let on_bytes = |bytes: u64| {
        bar.inc(bytes);
        let done = tally.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let mut printed = printed.lock();
        if terminal
            .repeats_every()
            .is_some_and(|every| !every.is_zero() && printed.elapsed() >= every)
        {
            *printed = Instant::now();
            terminal.tell(format_args!("read {} of {}", size(done), size(total)));
            terminal.event(&json!({ "event": "progress", "bytes": done, "of": total }));
        }
        true
    };
    let left = Mutex::new(entries.into_iter());
    let next = || left.lock().next();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads.min(MOST_THREADS) {
            scope.spawn(|| {
                while let Some(entry) = next() {
                    let examined = store.examine(&entry.digest, is_moving, on_bytes);
                    match examined {
                        Ok(examined) => tell(&store, &entry, &examined, &tally, terminal),
                        Err(error) => {
                            tally.failed.fetch_add(1, Ordering::Relaxed);
                            let line = format_args!("error: {}: {error}", entry.digest);
                            terminal.aside(|| output::note(line));
                        }
                    }
                }
            });
        }
    });
    bar.finish_and_clear();
    finish(&tally, terminal)
}

fn tell(
    store: &BlobStore,
    entry: &BlobEntry,
    examined: &Examined,
    tally: &Tally,
    terminal: &Terminal,
) {
    let (damage, aside) = match examined {
        Examined::Damaged { damage, aside } => (damage, aside),
        Examined::Sound => {
            tally.blobs.fetch_add(1, Ordering::Relaxed);
            return;
        }
        // The proxy evicted or replaced it meanwhile.
        Examined::Gone | Examined::Stopped => return,
    };
    tally.blobs.fetch_add(1, Ordering::Relaxed);
    tally.damaged.fetch_add(1, Ordering::Relaxed);
    let path = store.path(&entry.digest);
    let (where_to, moved_to) = match aside {
        Some(Aside::Moved(target)) => (format!("moved to {}", target.display()), Some(target)),
        Some(Aside::Removed) => ("removed".to_owned(), None),
        Some(Aside::Gone) | None => ("left where it is".to_owned(), None),
    };
    if terminal.is_json() {
        terminal.event(&json!({
            "event": "damaged",
            "digest": entry.digest,
            "path": path,
            "reason": damage.to_string(),
            "removed": matches!(aside, Some(Aside::Removed)),
            "moved_to": moved_to,
        }));
    } else {
        let line = format!("damaged {}: {damage}; {where_to}", path.display());
        // A reader that left does not stop the work.
        terminal.aside(|| output::line(line).ok());
    }
}

fn finish(tally: &Tally, terminal: &Terminal) -> anyhow::Result<ExitStatus> {
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let (blobs, bytes) = (read(&tally.blobs), read(&tally.bytes));
    let (damaged, failed) = (read(&tally.damaged), read(&tally.failed));
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
