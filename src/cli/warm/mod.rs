//! `warm`: images are converted before anyone pulls them.

mod direct;
pub(super) mod names;
mod proxy;
mod report;
mod work;

use std::collections::HashMap;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args as _;
use parking_lot::Mutex;

use super::context::{Context, PasswordFlag};
use super::data;
use super::exit::ExitStatus;
use super::output;
use super::platforms;
use super::progress::{ProgressOptions, Terminal};
use super::signals;
use crate::config::options::{
    BlobStoreOptions, ConversionOptions, PushOptions, RegistryOptions, StoreOptions,
    UpstreamOptions,
};
use crate::config::{ConfigErrors, Origin, Sources, duration, number};
use crate::convert::{Converter, PushTarget, Suffixes};
use crate::oci::reference::{Scheme, is_host, shown_address};
use crate::oci::{Selector, Tag};
use crate::registry::{RegistryConfig, Upstream};
use crate::store::StoreConfig;
use direct::{Converters, Direct};
use names::{Gathered, Name, Place, Which};
use proxy::Proxy;
use report::{Report, Warmed, conclude, tell};
use work::Work;

const EXAMPLES: &str = "\
Examples:
  Through a running proxy:
    overlaybd-proxy warm --proxy http://127.0.0.1:8480 library/redis:7 'library/postgres:16*'

  Straight into the store of the proxy on this machine, with its configuration file:
    overlaybd-proxy warm --file images.txt --all-tags team/app

  What runs in the cluster now:
    kubectl get pods -A -o jsonpath='{.items[*].spec.containers[*].image}' | tr ' ' '\\n' |
        overlaybd-proxy warm --proxy https://obd.example.com --file -

A name without a host is of the first upstream. Lists have one image a line; # begins a comment.
What is converted stays converted: after an interruption the same command goes on where it was.";

/// How long the end waits for uploads to the bucket to be aborted.
const ABORT_WAIT: Duration = Duration::from_secs(2);

/// Have images converted before anyone pulls them
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct WarmArgs {
    /// Images: [HOST/]REPO[:TAG] or [HOST/]REPO@DIGEST; * and ? in a tag match several
    #[arg(value_name = "IMAGE", required_unless_present_any = ["file", "all_tags"])]
    images: Vec<String>,
    /// A list of images, - for standard input; may be repeated
    #[arg(short, long, value_name = "FILE")]
    file: Vec<String>,
    /// All tags of a repository; may be repeated
    #[arg(long, value_name = "REPO")]
    all_tags: Vec<String>,
    /// The proxy to ask, instead of converting here
    #[arg(
        long,
        value_name = "URL",
        env = "OVERLAYBD_PROXY_PROXY",
        hide_env_values = true
    )]
    proxy: Option<String>,
    /// Make the native form; it is the only one without --turbo
    #[arg(long)]
    native: bool,
    /// Make the TurboOCI form; with --native both, in one go
    #[arg(long)]
    turbo: bool,
    /// Images at one time
    #[arg(short, long, value_name = "N", default_value = "4")]
    #[arg(value_parser = |text: &str| number(text, 1..=256_usize))]
    concurrency: usize,
    /// How long one image may take, through a proxy
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = duration)]
    timeout: Duration,
    #[command(flatten)]
    progress: ProgressOptions,
    #[command(flatten)]
    upstream: UpstreamOptions,
    #[command(flatten)]
    push: PushOptions,
    #[command(flatten)]
    conversion: ConversionOptions,
    #[command(flatten)]
    store: StoreOptions,
    #[command(flatten)]
    blob_store: BlobStoreOptions,
    #[command(flatten)]
    registry: RegistryOptions,
    #[command(flatten)]
    password: PasswordFlag,
}

/// What images are converted to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Native,
    Turbo,
}

impl Form {
    fn word(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Turbo => "turbo",
        }
    }

    /// An image in this form, for people.
    fn title(self, name: impl std::fmt::Display) -> String {
        match self {
            Self::Native => name.to_string(),
            Self::Turbo => format!("{name} (TurboOCI)"),
        }
    }
}

impl WarmArgs {
    fn forms(&self) -> &'static [Form] {
        match (self.native, self.turbo) {
            (_, false) => &[Form::Native],
            (false, true) => &[Form::Turbo],
            // In this order the native form is made of the tars that the other one inflated.
            (true, true) => &[Form::Turbo, Form::Native],
        }
    }
}

/// Who does the work.
enum Way {
    Direct(Box<Direct>),
    Proxy(Proxy),
}

impl Way {
    async fn tags(&self, place: &Place) -> anyhow::Result<Vec<Tag>> {
        match self {
            Self::Direct(direct) => direct.tags(place).await,
            Self::Proxy(proxy) => proxy.tags(place).await,
        }
    }

    /// What warms one image, in these forms.
    fn for_image(&self, forms: &[Form]) -> ImageWay<'_> {
        match self {
            Self::Direct(direct) => ImageWay::Direct(direct, direct.converters(forms)),
            Self::Proxy(proxy) => ImageWay::Proxy(proxy),
        }
    }
}

/// Who does the work for one image.
enum ImageWay<'a> {
    Direct(&'a Direct, Converters),
    Proxy(&'a Proxy),
}

impl ImageWay<'_> {
    async fn warm(&self, name: &Name, form: Form, terminal: &Terminal) -> anyhow::Result<Warmed> {
        let (text, place) = (form.title(name), &name.place);
        match self {
            Self::Direct(direct, converters) => {
                let selector = match &name.which {
                    Which::Digest(digest, _) => Selector::Digest(digest.clone()),
                    Which::Tag(tag) => Selector::Tag(tag.clone()),
                    Which::Matching(pattern) => anyhow::bail!("{pattern} is more than one image"),
                };
                let warmed = direct.warm(converters, text, place, form, &selector, terminal);
                warmed.await
            }
            Self::Proxy(proxy) => proxy.warm(&text, name, form, terminal).await,
        }
    }
}

pub async fn run(args: WarmArgs, context: Context) -> anyhow::Result<ExitStatus> {
    let terminal = Terminal::choose(args.progress);
    if args.password.is_set() && args.file.iter().any(|file| file == "-") {
        let mut errors = ConfigErrors::default();
        errors.add(
            "password-stdin",
            "standard input is the list of images already",
        );
        return Err(errors.into());
    }
    let gathered = names::gather(&args.images, &args.all_tags, &args.file)?;
    let Gathered {
        names,
        mut wrong,
        bad_lines,
    } = gathered;
    if names.is_empty() {
        wrong.extend(
            bad_lines
                .iter()
                .map(|(place, error)| format!("{place}: {error}")),
        );
    }
    if !wrong.is_empty() {
        let mut errors = ConfigErrors::default();
        for line in wrong {
            errors.add_line(line);
        }
        return Err(errors.into());
    }
    let (way, suffixes) = way(&args, &context, &terminal).await?;
    let shutdown = signals::shutdown().context("signals cannot be received")?;
    let mut report = Report::default();
    // One bad line is no reason to leave the others out.
    for (place, error) in bad_lines {
        let outcome = Err(anyhow::anyhow!(error));
        tell(&terminal, &place, None, &outcome);
        report.add(&place, outcome);
    }
    let report = Mutex::new(report);
    let work = Work {
        way: &way,
        suffixes: &suffixes,
        forms: args.forms(),
        concurrency: args.concurrency,
        terminal: &terminal,
        report: &report,
    };
    let interrupted = tokio::select! {
        () = work.run(names) => None,
        signal = shutdown => Some(signal),
    };
    if let Way::Direct(direct) = &way {
        let store = direct.converter.store();
        if let Some(objects) = store.objects() {
            // What takes longer than conversions wait for it may still be uploaded.
            objects.stop(ABORT_WAIT).await;
        }
        store.abandon_unfinished().await;
    }
    let report = report.into_inner();
    let status = conclude(&report, &terminal)?;
    match interrupted {
        Some(signal) => {
            output::note(format_args!(
                "{signal}: given up; the same command goes on from here"
            ));
            Ok(ExitStatus::Interrupted)
        }
        None => Ok(status),
    }
}

async fn way(
    args: &WarmArgs,
    context: &Context,
    terminal: &Terminal,
) -> anyhow::Result<(Way, Suffixes)> {
    let (mut sources, mut found) = context.service();
    let errors = &mut found;
    let upstream = sources.effective(&args.upstream, errors);
    let push = sources.effective(&args.push, errors);
    let conversion = sources.effective(&args.conversion, errors);
    let store = sources.effective(&args.store, errors);
    let blob_store = sources.effective(&args.blob_store, errors);
    context.start_log(&mut sources, errors, terminal, &[]);
    if let Some(url) = &args.proxy {
        let way = to_proxy(url, args, sources, &push, found)?;
        return Ok((Way::Proxy(way.0), way.1));
    }
    let mut registry = sources.effective(&args.registry, errors);
    args.password.apply(&mut registry, errors)?;
    let (named, registries) = upstream.config(&registry, errors);
    let suffixes = suffixes(args, &push, errors);
    let fallback = push.turbo_fallback(errors);
    let push = push.target(&registries, errors);
    let is_elsewhere = push.as_ref().is_some_and(PushTarget::is_elsewhere);
    let converter = conversion.config(push, is_elsewhere, errors);
    let turbo = conversion.turbo(errors);
    let objects = blob_store.config(&registry, errors);
    let store = store.config(errors);
    let store = store.map(|store| StoreConfig { objects, ..store });
    let default = named.into_iter().next().map(|upstream| upstream.target);
    let all = (|| Some((store?, converter?, turbo?, fallback?, default?, suffixes?)))();
    let (store, converter, turbo, fallback, default, suffixes) = found.none_or(all)?;
    let asked_for = platforms::asked_for(&converter.platforms, sources.origin("platform"));
    let store = data::open(store, sources.origin("data-dir")).await?;
    let converter = Converter::new(store, converter)?;
    let direct = Direct {
        converter,
        turbo,
        fallback,
        registries,
        default,
        asked_for,
        opened: Mutex::new(HashMap::new()),
    };
    Ok((Way::Direct(Box::new(direct)), suffixes))
}

/// The ends of converted images' tags, that of each form that is wanted among them.
fn suffixes(args: &WarmArgs, push: &PushOptions, errors: &mut ConfigErrors) -> Option<Suffixes> {
    let suffixes = push.suffixes(errors)?;
    if args.turbo && suffixes.turbo.is_none() {
        errors.add("turbo", "there are no such images: --turbo-suffix is empty");
        return None;
    }
    Some(suffixes)
}

/// What is converted, to what and where it is kept is the proxy's own setting: a flag that says it here would
/// do nothing.
fn refuse_settings_of_the_proxy(sources: &Sources, errors: &mut ConfigErrors) {
    let command = clap::Command::new("settings");
    let command = UpstreamOptions::augment_args(command);
    let command = PushOptions::augment_args(command);
    let command = ConversionOptions::augment_args(command);
    let command = StoreOptions::augment_args(command);
    let command = BlobStoreOptions::augment_args(command);
    for key in command.get_arguments().filter_map(clap::Arg::get_long) {
        // They tell by which tags the proxy is asked.
        let is_asked_by = ["suffix", "turbo-suffix"].contains(&key);
        if !is_asked_by && *sources.origin(key) == Origin::Flag {
            errors.add(
                key,
                "with --proxy, that proxy's own setting counts: leave this out, or start the proxy with it",
            );
        }
    }
}

/// The proxy's own settings say nothing of how it is reached: only flags and environment count.
fn to_proxy(
    url: &str,
    args: &WarmArgs,
    sources: Sources,
    push: &PushOptions,
    mut found: ConfigErrors,
) -> anyhow::Result<(Proxy, Suffixes)> {
    let errors = &mut found;
    refuse_settings_of_the_proxy(&sources, errors);
    drop(sources);
    let (mut own, _) = Sources::read(None, std::collections::BTreeMap::new());
    let mut registry = own.effective(&args.registry, errors);
    args.password.apply(&mut registry, errors)?;
    let (scheme, host) = Scheme::split(url);
    let host = host.trim_end_matches('/');
    if !is_host(host) {
        errors.add(
            "proxy",
            format!(
                "{:?} is no proxy: http://HOST:PORT is expected",
                shown_address(url)
            ),
        );
    }
    // The proxy holds a request for its own `--hold`, which may be long.
    registry.response_timeout = Some(match &args.registry.response_timeout {
        Some(time) => time.clone(),
        None => "10m".into(),
    });
    let config = registry.config(errors).map(|config| RegistryConfig {
        scheme: scheme.or(config.scheme),
        ..config
    });
    let suffixes = suffixes(args, push, errors);
    let both = (|| Some((config?, suffixes?)))();
    let (config, suffixes) = found.none_or(both)?;
    let proxy = Proxy {
        upstream: Upstream::registry(host, &config)?,
        host: host.to_owned(),
        suffixes: suffixes.clone(),
        timeout: args.timeout,
    };
    Ok((proxy, suffixes))
}
