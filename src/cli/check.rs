//! `check`: verifies a converted image against its source.

use std::sync::Arc;

use indicatif::ProgressBar;

use super::context::Context;
use super::exit::ExitStatus;
use super::image::{self, Found, ImageOptions, NotConverted};
use super::output::{self, short, size};
use super::progress::{ProgressOptions, Terminal};
use crate::check::{ImageReport, Options, Report, Repository, Step, check};
use crate::config::ConfigErrors;
use crate::oci::{ImageReference, Manifest, Platform, Selector};
use crate::registry::Authorization;

/// Verify a converted image, and compare its root filesystem with its source's
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  overlaybd-proxy check 127.0.0.1:8480/library/redis:7_obd
  overlaybd-proxy check 127.0.0.1:8480/library/redis:7_turbo
  overlaybd-proxy check oci:out:7_obd --source docker.io/library/redis:7
  overlaybd-proxy check --json --platform linux/arm64 registry.example/app:1_obd

Every digest of manifest, config and layers is verified, and every block's checksum. Then the
source's layers are extracted by code that shares nothing with the conversion, and all of both
root filesystems is compared: type, mode, owner, size, time to the nanosecond, attributes, link
targets, hard links, device numbers and content. The converted blobs are kept in unnamed
temporary files meanwhile ($TMPDIR). The exit code is 7 if anything is wrong.

Of a TurboOCI image it is also verified that its layers point into the source's, that nodes can
mount it and list its files without reading data, and that inflating can begin at each point of
its gzip indexes. The source's layers are kept in temporary files, too, as they are and unpacked.")]
pub struct CheckArgs {
    /// The converted image: [HOST/]REPO[:TAG], oci:DIR[:TAG], oci-archive:FILE[:TAG]
    #[arg(value_name = "IMAGE")]
    image: String,
    /// The image that it was made of [default: what it names as its subject, else its own
    /// name without the suffix]
    #[arg(long, value_name = "IMAGE")]
    source: Option<String>,
    /// The suffix of converted images' tags [default: _obd, _turbo and
    /// _merged]
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    suffix: Option<String>,
    /// The images of an index that are checked, or all [default: all that were converted]
    #[arg(long, value_name = "PLATFORM", value_delimiter = ',')]
    platform: Vec<String>,
    /// Most differences that are listed of an image
    #[arg(long, value_name = "NUMBER", default_value_t = 50)]
    limit: usize,
    #[command(flatten)]
    progress: ProgressOptions,
    #[command(flatten)]
    images: ImageOptions,
}

pub async fn run(args: CheckArgs, context: Context) -> anyhow::Result<ExitStatus> {
    let converted = image::parse(&args.image)?;
    let named = args.source.as_deref().map(image::parse).transpose()?;
    let terminal = Terminal::choose(args.progress);
    let hosts: Vec<&ImageReference> = std::iter::once(&converted).chain(&named).collect();
    let registries = args.images.registries(&hosts, &context, &terminal)?;

    let found = Found::look_up(&converted, &registries).await?;
    let of = |found: &Found| Repository {
        upstream: found.upstream.clone(),
        repo: found.repo.clone(),
        authorization: Authorization::Own,
    };
    let suffixes = args
        .suffix
        .as_deref()
        .map_or(SUFFIXES.to_vec(), |one| vec![one]);
    let (source, source_selector) = match &named {
        Some(named) => {
            let found = Found::look_up(named, &registries).await?;
            (of(&found), Selector::Digest(found.raw.digest))
        }
        None => (of(&found), derived(&found, &converted, &suffixes)?),
    };
    let progress = progress(terminal.clone(), args.image.clone());
    let options = Options {
        platforms: platforms(&args.platform)?,
        limit: args.limit,
        progress,
    };
    // By digest from here on: a tag may move.
    let selector = Selector::Digest(found.raw.digest.clone());
    let converted = of(&found);
    let report = check(
        (&source, &source_selector),
        (&converted, &selector),
        &options,
    );
    let report = report.await?;
    if report.is_empty() {
        let image = report.converted.to_string();
        return Err(NotConverted { image }.into());
    }
    if terminal.is_json() {
        output::json(&report)?;
    } else {
        print(&report)?;
    }
    Ok(if report.is_same() {
        ExitStatus::Ok
    } else {
        ExitStatus::Different
    })
}

/// What the suffix is unless it is said otherwise.
const SUFFIXES: [&str; 3] = ["_obd", "_turbo", "_merged"];

/// The platforms that are asked for; none for all of them.
fn platforms(texts: &[String]) -> Result<Vec<Platform>, ConfigErrors> {
    let mut errors = ConfigErrors::default();
    let named = texts.iter().filter(|text| *text != "all");
    let platforms: Vec<Platform> = named
        .filter_map(|text| errors.take("platform", text.parse()))
        .collect();
    errors.none_or(Some(platforms))
}

/// The source, where none is named.
fn derived(
    found: &Found,
    converted: &ImageReference,
    suffixes: &[&str],
) -> Result<Selector, ConfigErrors> {
    let subject = match &found.manifest {
        Manifest::Image(image) => &image.subject,
        Manifest::Index(index) => &index.subject,
    };
    if let Some(subject) = subject {
        return Ok(Selector::Digest(subject.digest.clone()));
    }
    let without = match converted.selector() {
        Selector::Tag(tag) => {
            let mut suffixes = suffixes.iter().filter(|suffix| !suffix.is_empty());
            suffixes.find_map(|suffix| tag.as_str().strip_suffix(suffix)?.parse().ok())
        }
        Selector::Digest(_) => None,
    };
    without.map(Selector::Tag).ok_or_else(|| {
        let suffixes: Vec<String> = suffixes.iter().map(|one| format!("{one:?}")).collect();
        let mut errors = ConfigErrors::default();
        errors.add_line(format!(
            "{converted} does not say what it was made of, and its tag does not end in {}: name \
             the image with --source",
            suffixes.join(" or ")
        ));
        errors
    })
}

fn progress(terminal: Terminal, image: String) -> Arc<dyn Fn(Step) + Send + Sync> {
    let bar: parking_lot::Mutex<ProgressBar> = ProgressBar::hidden().into();
    Arc::new(move |step| {
        let mut bar = bar.lock();
        match step {
            Step::Image { platform, bytes } => {
                bar.finish_and_clear();
                let name = platform.map_or(image.clone(), |platform| platform.to_string());
                *bar = terminal.bytes_bar(name, bytes);
            }
            Step::Bytes(count) => bar.inc(count),
        }
        if bar.length().is_some_and(|length| bar.position() >= length) {
            bar.finish_and_clear();
        }
    })
}

fn print(report: &Report) -> anyhow::Result<()> {
    output::line(format_args!("source     {}", report.source))?;
    output::line(format_args!("converted  {}", report.converted))?;
    for problem in &report.problems {
        output::line(format_args!("WRONG: {problem}"))?;
    }
    for image in &report.images {
        print_image(image)?;
    }
    for kept in &report.kept {
        output::line(format_args!("{}: left as it is", short(kept)))?;
    }
    for left_out in &report.left_out {
        output::line(format_args!("{}: left out", short(left_out)))?;
    }
    Ok(())
}

fn print_image(image: &ImageReport) -> anyhow::Result<()> {
    let name = image
        .platform
        .as_deref()
        .unwrap_or_else(|| short(&image.converted));
    for problem in &image.problems {
        output::line(format_args!("{name}: WRONG: {problem}"))?;
    }
    for difference in &image.differences {
        output::line(format_args!("{name}: DIFFERENT: {difference}"))?;
    }
    if image.more {
        output::line(format_args!("{name}: and more; --limit shows them"))?;
    }
    let (layers, bytes) = (output::count(image.layers, "layer"), size(image.blob_bytes));
    let are = if image.layers == 1 { "is" } else { "are" };
    match image.names {
        Some(names) if image.is_same() => output::line(format_args!(
            "{name}: the same: {names} names; {layers} of {bytes} {are} whole"
        ))?,
        Some(names) => output::line(format_args!("{name}: NOT the same; {names} names"))?,
        None => output::line(format_args!("{name}: the root filesystem was not compared"))?,
    }
    Ok(())
}
