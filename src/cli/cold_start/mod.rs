//! `cold-start`: what a command in an image reads when nothing of it is there yet.

mod account;
mod report;
mod sandbox;
mod watch;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::builder::NonEmptyStringValueParser;

use super::context::Context;
use super::exit::{self, ExitStatus};
use super::image::{self, Found};
use super::lazy::ReadOptions;
use super::mount::signals::Signals;
use super::output;
use super::progress::Terminal;
use crate::config::{bytes, duration};
use crate::format::blob::Stack;
use crate::lazy::fuse::{self, MountOptions};
use crate::lazy::{ImageDisk, ImageFilesystem, ReadLog, Reading, Replay, replay};
use crate::oci::{Descriptor, RunConfig};
use account::{Account, Recording};
use report::{Phase, Probes, Report};
use watch::{Ended, Ends};

/// Most bytes of an image config.
const MAX_CONFIG_BYTES: u64 = 8 << 20;

/// Most bytes of what was fetched in memory.
const MAX_MEMORY: u64 = 1 << 30;

const HELP: &str = "\
Examples:
  What a Python with two modules reads to start:
    overlaybd-proxy cold-start registry.example/app:1_obd -- python3 -c 'import ssl, asyncio'

  As a node reads it, 20 ms away from the registry, until the server is ready; the files that it
  read become a priority list:
    overlaybd-proxy cold-start --refill 256KiB --latency 20ms --until 'Ready to accept' \\
        --record redis.list registry.example/redis:7_obd -- redis-server

The exit status is the command's; 0 if --for or --until ended it, 1 if it ended before --until's
text came or --timeout ended it.
";

/// Run a command in an image of which nothing was read yet, and say what it took
///
/// The image is mounted by FUSE with an empty cache, and bubblewrap runs the command in it:
/// read-only but for /tmp, /run and /var/tmp, with the environment and the working directory that
/// the image says, and with no network but its own loopback. What it writes goes to standard error.
#[derive(clap::Args)]
#[command(after_help = HELP)]
pub struct ColdStartArgs {
    /// The converted image
    image: String,
    /// What is run [default: what the image says]
    #[arg(last = true)]
    command: Vec<OsString>,
    /// Read as a node does: whole pieces of this size, one a request, and nothing ahead
    #[arg(long, value_name = "SIZE", value_parser = refill)]
    refill: Option<u64>,
    /// Do not read ahead what the image's acceleration layer says
    #[arg(long)]
    no_replay: bool,
    /// Add this to each request
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "0s")]
    latency: Duration,
    /// End the command after this time: for servers
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    run_for: Option<Duration>,
    /// End the command when it has written this
    #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    until: Option<String>,
    /// End the command after this time as one that failed
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "5m")]
    timeout: Duration,
    /// Write the files that were read into this file, a priority list for 'convert'
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// How many files are listed
    #[arg(long, value_name = "NUMBER", default_value_t = 20)]
    top: usize,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    lazy: ReadOptions,
}

/// From 4 KiB to 64 MiB.
fn refill(text: &str) -> Result<u64, String> {
    match bytes(text)? {
        size if size.is_power_of_two() && (4 << 10..=64 << 20).contains(&size) => Ok(size),
        _ => Err("it must be a power of two, from 4KiB to 64MiB".to_owned()),
    }
}

pub async fn run(args: ColdStartArgs, context: Context) -> anyhow::Result<ExitStatus> {
    if let Some(path) = &args.record {
        can_write(path)?;
    }
    let mut signals = Signals::listen()?;
    let opened = tokio::select! {
        opened = Opened::new(&args, &context) => opened?,
        asked = signals.next() => return Ok(asked.status()),
    };
    let ends = Ends {
        after: args.run_for,
        text: args.until.clone(),
        limit: args.timeout,
    };
    let started = opened.run(&ends, &mut signals).await?;
    if let Ended::Asked(asked) = started.ended {
        return Ok(asked.status());
    }
    let account = tokio::select! {
        account = started.account() => account,
        asked = signals.next() => return Ok(asked.status()),
    };
    let account = account
        .inspect_err(|error| {
            output::note(format_args!(
                "which files were read is not known: {error:#}"
            ));
        })
        .ok();
    let list = account.as_ref().map(PriorityList::of);
    let report = started.report(&args, account);
    if args.json {
        output::json(&report)?;
    } else {
        report.print(args.top)?;
    }
    if let Some(path) = &args.record {
        list.context("there is no list of files to be written")?
            .write(path)?;
    }
    match started.ended {
        Ended::Exit(_) if args.until.is_some() => {
            anyhow::bail!("the command ended, and had not written what --until says")
        }
        Ended::Exit(code) => exit::end_as(code),
        Ended::Time | Ended::Text => Ok(ExitStatus::Ok),
        Ended::Limit => anyhow::bail!(
            "the command still ran after {:?}: --timeout gives it longer, --for and --until end it",
            args.timeout
        ),
        Ended::Asked(asked) => Ok(asked.status()),
    }
}

/// The files that were read, as `--record` writes them.
struct PriorityList {
    text: Vec<u8>,
    /// Files that were read and have no place in it.
    left_out: usize,
}

impl PriorityList {
    fn of(account: &Account) -> Self {
        let (text, count) = account.priority_list();
        let left_out = account.files.len().saturating_sub(count);
        Self { text, left_out }
    }

    fn write(&self, path: &Path) -> anyhow::Result<()> {
        std::fs::write(path, &self.text).with_context(|| format!("--record {}", path.display()))?;
        if self.left_out > 0 {
            let files = output::count(self.left_out, "file");
            output::note(format_args!(
                "{files} that were read have no place in the list"
            ));
        }
        Ok(())
    }
}

/// Sees that a file can be written, before the time for it is spent. What is in it stays.
fn can_write(path: &Path) -> anyhow::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    let opened = options.create(true).append(true).open(path);
    opened
        .map(drop)
        .with_context(|| format!("--record {}", path.display()))
}

/// An image of which nothing was read but what opening it takes.
struct Opened {
    name: String,
    disk: ImageDisk,
    log: Arc<ReadLog>,
    filesystem: Arc<ImageFilesystem>,
    /// Reads ahead what the image's acceleration layer says.
    replay: Option<Replay>,
    command: Vec<OsString>,
    config: RunConfig,
    start: Instant,
    /// Requests that opened the layers.
    indexes: usize,
}

impl Opened {
    async fn new(args: &ColdStartArgs, context: &Context) -> anyhow::Result<Self> {
        let terminal = Terminal::plain();
        let image = image::parse(&args.image)?;
        let (found, manifest) = args.lazy.find(&image, context, &terminal).await?;
        let config = run_config(&found, &manifest.config).await;
        let config = config.with_context(|| format!("the config of image {image}"))?;
        let command = match args.command.as_slice() {
            [] => config.command.iter().map(OsString::from).collect(),
            command => command.to_vec(),
        };
        if command.is_empty() {
            anyhow::bail!("the image does not say what is run: name a command behind --");
        }
        // On a node it is in a file: its blob came with the image.
        let trace = if args.no_replay {
            None
        } else {
            found.trace(&manifest).await?
        };
        let reading = Reading {
            piece: args.refill.unwrap_or(Reading::default().piece),
            latency: args.latency,
            // What is forgotten would be fetched, and counted, again.
            memory: MAX_MEMORY,
            node_like: args.refill.is_some(),
            fresh: true,
            keeps_requests: true,
            ..Reading::default()
        };

        let start = Instant::now();
        let (lazy, name) = (&args.lazy, image.to_string());
        let disk = lazy.open_found(&image, &found, &manifest, reading).await?;
        let indexes = disk.traffic.fetched().len();
        let replay = trace.map(|trace| replay(&disk, trace)).transpose()?;
        let log = ReadLog::new(Arc::<Stack>::clone(&disk.stack));
        let device = Arc::clone(&log);
        let opening = tokio::task::spawn_blocking(move || ImageFilesystem::open(device));
        let filesystem = opening.await?.context("the image's root filesystem")?;
        let filesystem = filesystem.waiting(disk.read_timeout);
        Ok(Self {
            name,
            disk,
            log,
            filesystem: Arc::new(filesystem),
            replay,
            command,
            config,
            start,
            indexes,
        })
    }

    /// What it took until now.
    fn so_far(&self) -> Phase {
        Phase {
            requests: self.disk.traffic.requests(),
            bytes: self.disk.traffic.bytes(),
            seconds: self.start.elapsed().as_secs_f64(),
        }
    }

    /// Mounts the image, runs the command in it, and takes the mount away.
    async fn run(mut self, ends: &Ends, signals: &mut Signals) -> anyhow::Result<Started> {
        let directory = tempfile::tempdir().context("a directory to mount at")?;
        let options = MountOptions {
            name: self.name.clone(),
            ..MountOptions::default()
        };
        let (filesystem, at) = (Arc::clone(&self.filesystem), directory.path().to_owned());
        let mount = move || fuse::mount(filesystem, &at, &options);
        let mounted = tokio::task::spawn_blocking(mount).await??;
        let opening = self.so_far();

        let mut child = sandbox::start(directory.path(), &self.command, &self.config)?;
        let ended = watch::wait(&mut child, ends, signals).await?;
        let total = self.so_far();
        // What it goes on to read is no part of the start.
        self.replay.take();
        let recording = Recording {
            fetched: self.disk.traffic.fetched(),
            opening: self.indexes,
            reads: self.log.reads(),
        };
        if !matches!(ended, Ended::Exit(_)) {
            // What it runs in goes with it.
            child.kill().await.context("the command is not ended")?;
        }
        let clear = move || {
            drop(mounted);
            directory.close()
        };
        tokio::task::spawn_blocking(clear)
            .await?
            .context("the directory of the mount is left")?;
        Ok(Started {
            disk: self.disk,
            command: self.command,
            ended,
            opening,
            total,
            recording: Arc::new(recording),
        })
    }
}

/// A start that is over.
struct Started {
    disk: ImageDisk,
    command: Vec<OsString>,
    ended: Ended,
    opening: Phase,
    total: Phase,
    recording: Arc<Recording>,
}

impl Started {
    async fn account(&self) -> anyhow::Result<Account> {
        let (disk, recording) = (self.disk.clone(), Arc::clone(&self.recording));
        tokio::task::spawn_blocking(move || Account::new(&recording, &disk)).await?
    }

    fn report(&self, args: &ColdStartArgs, account: Option<Account>) -> Report {
        let layers = &self.disk.layers;
        let targets = layers.iter().filter_map(|layer| layer.target.as_ref());
        let blobs: Vec<_> = layers
            .iter()
            .map(|layer| &layer.blob)
            .chain(targets)
            .collect();
        let text = |word: &OsString| word.to_string_lossy().into_owned();
        Report {
            image: args.image.clone(),
            command: self.command.iter().map(text).collect(),
            ended: self.ended,
            layers: layers.len(),
            image_bytes: blobs.iter().map(|(_, size)| size).sum(),
            refill: args.refill,
            latency_ms: u64::try_from(args.latency.as_millis()).unwrap_or(u64::MAX),
            total: self.total,
            opening: self.opening,
            running: self.total.since(self.opening),
            probes: args.refill.map(|_| Probes::of(blobs.len() as u64)),
            account,
        }
    }
}

/// How the image's programs are run.
async fn run_config(found: &Found, config: &Descriptor) -> anyhow::Result<RunConfig> {
    let origin = found.origin();
    let (upstream, repo) = (&origin.upstream, &origin.repo);
    let size = upstream
        .size_of(repo, config, &origin.authorization)
        .await?;
    if size > MAX_CONFIG_BYTES {
        anyhow::bail!(
            "it has {}, more than {}",
            output::size(size),
            output::size(MAX_CONFIG_BYTES)
        );
    }
    let bytes = upstream
        .blob_range(repo, &config.digest, 0..size, &origin.authorization)
        .await?;
    if config.digest.of_same_kind(&bytes) != config.digest {
        anyhow::bail!("its bytes are not those of {}", config.digest);
    }
    Ok(RunConfig::parse(&bytes)?)
}
