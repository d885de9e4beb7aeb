//! The bucket of `--blob-store`, listed and verified.
// The comments of options are their help texts.
#![allow(clippy::doc_markdown)]

use std::time::SystemTime;

use anyhow::Context as _;
use futures_util::TryStreamExt as _;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::context::Context;
use super::exit::ExitStatus;
use super::output::{self, count, size};
use super::progress::Terminal;
use super::signals;
use super::store::{Progress, finish, tell};
use crate::config::Text;
use crate::config::options::{BlobStoreOptions, RegistryOptions};
use crate::store::{BucketSurvey, ObjectInfo, SeenObject, Survey};

/// Objects that are read at one time.
const AT_A_TIME: usize = 4;

/// Which bucket, and how it is reached.
#[derive(clap::Args)]
pub(super) struct BucketArgs {
    /// What is in the bucket of --blob-store, and not what is in --data-dir; that is also meant
    /// where --blob-store is on the command line
    #[arg(long, help_heading = "Blob store")]
    bucket: bool,
    #[command(flatten)]
    blob_store: BlobStoreOptions,
    #[command(flatten)]
    connection: ConnectionOptions,
}

/// Those options of registries that connections to the storage have, too.
#[derive(Debug, Clone, Default, clap::Args, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
#[command(next_help_heading = "Blob store")]
struct ConnectionOptions {
    /// PEM files with roots that are trusted besides the system's
    #[arg(long, value_name = "FILE", value_delimiter = ',')]
    upstream_ca: Vec<Text>,
    /// Whether the system's roots are trusted
    #[arg(long, value_name = "BOOL")]
    system_roots: Option<Text>,
    /// HTTP proxy through which the storage is reached, as that of registries; none ignores the
    /// environment's
    #[arg(long, value_name = "URL")]
    egress_proxy: Option<Text>,
}

impl BucketArgs {
    /// Whether the command is about the bucket. A setting of the service does not say so: its data
    /// directory is what commands are about otherwise.
    pub(super) fn is_meant(&self, context: &Context) -> bool {
        self.bucket || context.is_flag("blob-store")
    }

    fn open(&self, context: &Context) -> anyhow::Result<BucketSurvey> {
        let (mut sources, mut errors) = context.service();
        sources.effective(&self.connection, &mut errors);
        let registry = sources.effective(&RegistryOptions::default(), &mut errors);
        let blob_store = sources.effective(&self.blob_store, &mut errors);
        let config = blob_store.config(&registry, &mut errors);
        if blob_store.blob_store.is_none() {
            errors.add(
                "blob-store",
                "--bucket is that of --blob-store, which is needed",
            );
        }
        Ok(BucketSurvey::open(&errors.none_or(config)?)?)
    }
}

/// Runs until it is done, or a signal comes.
async fn until_stopped(
    work: impl Future<Output = anyhow::Result<ExitStatus>>,
) -> anyhow::Result<ExitStatus> {
    let shutdown = signals::shutdown().context("signals cannot be received")?;
    tokio::select! {
        done = work => done,
        signal = shutdown => {
            output::note(format_args!("{signal}: given up"));
            Ok(ExitStatus::Interrupted)
        }
    }
}

/// Lists the objects, one page of the storage's in memory at a time.
///
/// # Errors
/// When the storage refuses.
pub(super) async fn ls(
    args: &BucketArgs,
    is_json: bool,
    context: &Context,
) -> anyhow::Result<ExitStatus> {
    let objects = args.open(context)?;
    until_stopped(list(&objects, is_json)).await
}

async fn list(objects: &BucketSurvey, is_json: bool) -> anyhow::Result<ExitStatus> {
    objects.check().await?;
    let (mut number, mut bytes) = (0_usize, 0_u64);
    if is_json {
        output::part("{\"blobs\":[")?;
    }
    let mut infos = objects.list();
    while let Some(info) = infos.try_next().await? {
        if is_json {
            let comma = if number == 0 { "" } else { "," };
            output::part(format_args!("{comma}{}", info.to_json()))?;
        } else {
            output::line(line(&info))?;
        }
        number = number.saturating_add(1);
        bytes = bytes.saturating_add(info.size);
    }
    if is_json {
        output::line("]}")?;
    } else {
        let what = count(number, "object");
        output::note(format_args!(
            "{what}, {}, in {}",
            size(bytes),
            objects.place()
        ));
    }
    Ok(ExitStatus::Ok)
}

fn line(info: &ObjectInfo) -> String {
    let age = SystemTime::now().duration_since(info.written);
    let age = std::time::Duration::from_secs(age.unwrap_or_default().as_secs());
    let age = humantime::format_duration(age);
    format!(
        "{}  {:>11}  written {age} ago",
        info.digest,
        size(info.size)
    )
}

/// Reads all objects and compares them with their digests; deletes those that are damaged, if they
/// are to be deleted.
///
/// # Errors
/// When the storage refuses to list them.
pub(super) async fn verify(
    args: &BucketArgs,
    is_deleting: bool,
    terminal: &Terminal,
    context: &Context,
) -> anyhow::Result<ExitStatus> {
    let verification = Verification {
        objects: args.open(context)?,
        is_deleting,
        survey: Survey::default(),
        progress: Progress::new(terminal),
        terminal,
    };
    until_stopped(verification.run()).await
}

struct Verification<'a> {
    objects: BucketSurvey,
    is_deleting: bool,
    survey: Survey,
    progress: Progress<'a>,
    terminal: &'a Terminal,
}

impl Verification<'_> {
    async fn run(&self) -> anyhow::Result<ExitStatus> {
        self.objects.check().await?;
        let infos = self.objects.list();
        let read = infos.try_for_each_concurrent(AT_A_TIME, |info| async move {
            self.examine(&info).await;
            Ok(())
        });
        if let Err(error) = read.await {
            self.failed(&error);
        }
        finish(&self.survey.counts(), self.terminal)
    }

    fn failed(&self, error: &dyn std::fmt::Display) {
        self.survey.failed();
        let line = format_args!("error: {error}");
        self.terminal.aside(|| output::note(line));
    }

    async fn examine(&self, info: &ObjectInfo) {
        let (survey, digest) = (&self.survey, &info.digest);
        let on_bytes = |bytes| self.progress.tell(survey.read(bytes), None);
        let (found, version) = match self.objects.examine(digest, on_bytes).await {
            Ok(SeenObject::Sound) => return survey.examined(false),
            Ok(SeenObject::Gone) => return,
            Ok(SeenObject::Damaged { found, version }) => (found, version),
            Err(error) => return self.failed(&error),
        };
        survey.examined(true);
        let mut is_removed = false;
        if self.is_deleting {
            match self.objects.delete(digest, &version).await {
                Ok(is_deleted) => is_removed = is_deleted,
                Err(error) => self.failed(&error),
            }
        }
        let reason = match found {
            Some(found) => format!("its bytes have the digest {found}"),
            None => "it has more bytes than the storage says".to_owned(),
        };
        let finding = json!({
            "digest": digest.as_str(),
            "path": self.objects.address(digest),
            "reason": reason,
            "removed": is_removed,
            "moved_to": null,
        });
        tell(&finding, self.terminal);
    }
}
