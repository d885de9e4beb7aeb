//! `warm`: images are converted before anyone pulls them.

mod direct;
mod names;
mod proxy;

use std::collections::HashMap;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::StreamExt as _;
use parking_lot::Mutex;
use serde_json::json;

use super::context::{Context, PasswordFlag};
use super::exit::ExitStatus;
use super::output;
use super::progress::{ProgressOptions, Terminal};
use super::signals;
use crate::config::options::{
    ConversionOptions, PushOptions, RegistryOptions, StoreOptions, UpstreamOptions,
};
use crate::config::{ConfigErrors, Sources, duration, number};
use crate::convert::{Converter, PushTarget};
use crate::oci::reference::{Scheme, is_host, shown_address};
use crate::oci::{Digest, Selector, Tag};
use crate::registry::{RegistryConfig, Upstream};
use crate::store::Store;
use direct::Direct;
use names::{Gathered, Name, Place, Which};
use proxy::Proxy;

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
    registry: RegistryOptions,
    #[command(flatten)]
    password: PasswordFlag,
}

/// How an image came to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// It was converted now, at least in part.
    Converted,
    /// All of it had been converted before.
    Found,
    /// It is there; the proxy does not say since when.
    Ready,
    /// It is no Linux image: there is nothing to convert.
    Skipped,
}

/// An image that is there.
struct Warmed {
    outcome: Outcome,
    digest: Option<Digest>,
    /// Why it was skipped.
    reason: Option<String>,
}

impl Warmed {
    /// Something that is no image, for this reason.
    fn skipped(reason: String) -> Self {
        Self {
            outcome: Outcome::Skipped,
            digest: None,
            reason: Some(reason),
        }
    }
}

impl Outcome {
    fn word(self) -> &'static str {
        match self {
            Self::Converted => "converted",
            Self::Found => "found",
            Self::Ready => "ready",
            Self::Skipped => "skipped",
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

    async fn warm(
        &self,
        name: &Name,
        selector: Selector,
        terminal: &Terminal,
    ) -> anyhow::Result<Warmed> {
        let text = name.to_string();
        match self {
            Self::Direct(direct) => direct.warm(text, &name.place, selector, terminal).await,
            Self::Proxy(proxy) => proxy.warm(&text, &name.place, &selector, terminal).await,
        }
    }
}

/// What it came to.
#[derive(Default)]
struct Report {
    converted: u64,
    found: u64,
    ready: u64,
    skipped: u64,
    failed: Vec<(String, anyhow::Error)>,
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
    let (way, suffix) = way(&args, &context, &terminal).await?;
    let shutdown = signals::shutdown().context("signals cannot be received")?;
    let mut report = Report::default();
    // One bad line is no reason to leave the others out.
    for (place, error) in bad_lines {
        let outcome = Err(anyhow::anyhow!(error));
        tell(&terminal, &place, &outcome);
        report
            .failed
            .extend(outcome.err().map(|error| (place, error)));
    }
    let report = Mutex::new(report);
    let interrupted = tokio::select! {
        () = work(&way, &suffix, names, args.concurrency, &terminal, &report) => None,
        signal = shutdown => Some(signal),
    };
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
) -> anyhow::Result<(Way, String)> {
    let (mut sources, mut found) = context.service();
    let errors = &mut found;
    let upstream = sources.effective(&args.upstream, errors);
    let push = sources.effective(&args.push, errors);
    let conversion = sources.effective(&args.conversion, errors);
    let store = sources.effective(&args.store, errors);
    context.start_log(&mut sources, errors, terminal, &[]);
    if let Some(url) = &args.proxy {
        let way = to_proxy(url, args, sources, &push, found)?;
        return Ok((Way::Proxy(way.0), way.1));
    }
    let mut registry = sources.effective(&args.registry, errors);
    args.password.apply(&mut registry, errors)?;
    let (named, registries) = upstream.config(&registry, errors);
    let suffix = push.suffix(&mut ConfigErrors::default());
    let push = push.target(&registries, errors);
    let is_elsewhere = push.as_ref().is_some_and(PushTarget::is_elsewhere);
    let converter = conversion.config(push, is_elsewhere, errors);
    let store = store.config(errors);
    let default = named.into_iter().next().map(|upstream| upstream.target);
    let all = (|| Some((store?, converter?, default?, suffix?)))();
    let (store, converter, default, suffix) = found.none_or(all)?;
    let store = Store::open(store).await?;
    let direct = Direct {
        converter: Converter::new(store, converter)?,
        registries,
        default,
        opened: Mutex::new(HashMap::new()),
    };
    Ok((Way::Direct(Box::new(direct)), suffix))
}

/// The proxy's own settings say nothing of how it is reached: only flags and environment count.
fn to_proxy(
    url: &str,
    args: &WarmArgs,
    sources: Sources,
    push: &PushOptions,
    mut found: ConfigErrors,
) -> anyhow::Result<(Proxy, String)> {
    drop(sources);
    let errors = &mut found;
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
    let suffix = push.suffix(errors);
    let both = (|| Some((config?, suffix?)))();
    let (config, suffix) = found.none_or(both)?;
    let proxy = Proxy {
        upstream: Upstream::registry(host, &config)?,
        host: host.to_owned(),
        suffix: suffix.clone(),
        timeout: args.timeout,
    };
    Ok((proxy, suffix))
}

async fn work(
    way: &Way,
    suffix: &str,
    names: Vec<Name>,
    concurrency: usize,
    terminal: &Terminal,
    report: &Mutex<Report>,
) {
    let total = terminal.count_bar("images".to_owned(), 0);
    let add = |name: &str, outcome: anyhow::Result<Warmed>| {
        tell(terminal, name, &outcome);
        let mut report = report.lock();
        match outcome {
            Ok(Warmed { outcome, .. }) => match outcome {
                Outcome::Converted => report.converted += 1,
                Outcome::Found => report.found += 1,
                Outcome::Ready => report.ready += 1,
                Outcome::Skipped => report.skipped += 1,
            },
            Err(error) => report.failed.push((name.to_owned(), error)),
        }
    };
    let mut images = Vec::new();
    for name in names {
        let Which::Matching(pattern) = &name.which else {
            images.push(name);
            continue;
        };
        match way.tags(&name.place).await {
            Ok(tags) => {
                let tags = names::chosen(pattern, suffix, tags);
                if tags.is_empty() {
                    add(&name.to_string(), Err(anyhow::anyhow!("no tag matches")));
                }
                images.extend(tags.into_iter().map(|tag| Name {
                    place: name.place.clone(),
                    which: Which::Tag(tag),
                }));
            }
            Err(error) => add(&name.to_string(), Err(error)),
        }
    }
    let mut seen = std::collections::BTreeSet::new();
    images.retain(|name| seen.insert(name.to_string()));
    total.set_length(images.len() as u64);
    let (add, total) = (&add, &total);
    let one = |name: Name| async move {
        let selector = match &name.which {
            Which::Digest(digest) => Selector::Digest(digest.clone()),
            Which::Tag(tag) => Selector::Tag(tag.clone()),
            Which::Matching(_) => return,
        };
        let outcome = way.warm(&name, selector, terminal).await;
        add(&name.to_string(), outcome);
        total.inc(1);
    };
    futures_util::stream::iter(images)
        .map(one)
        .buffer_unordered(concurrency)
        .collect::<()>()
        .await;
    total.finish_and_clear();
}

fn tell(terminal: &Terminal, name: &str, outcome: &anyhow::Result<Warmed>) {
    match outcome {
        Ok(warmed) => {
            let word = warmed.outcome.word();
            match &warmed.reason {
                Some(reason) => terminal.tell(format_args!("{name}: {word}, {reason}")),
                None => terminal.tell(format_args!("{name}: {word}")),
            }
            let mut event = json!({
                "event": "image",
                "image": name,
                "outcome": word,
                "digest": warmed.digest.as_ref().map(Digest::as_str),
            });
            if let Some(reason) = &warmed.reason {
                event["reason"] = json!(reason);
            }
            terminal.event(&event);
        }
        Err(error) => {
            terminal.tell(format_args!("{name}: failed, {error:#}"));
            terminal.event(&json!({
                "event": "image",
                "image": name,
                "outcome": "failed",
                "error": format!("{error:#}"),
            }));
        }
    }
}

fn conclude(report: &Report, terminal: &Terminal) -> anyhow::Result<ExitStatus> {
    let Report {
        converted,
        found,
        ready,
        skipped,
        failed,
    } = report;
    let succeeded = converted + found + ready + skipped;
    let failures: Vec<_> = failed
        .iter()
        .map(|(name, error)| json!({"image": name, "error": format!("{error:#}")}))
        .collect();
    terminal.event(&json!({
        "event": "summary",
        "converted": converted,
        "found": found,
        "ready": ready,
        "skipped": skipped,
        "failed": failures,
    }));
    if !terminal.is_json() {
        let ready = match ready {
            0 => String::new(),
            ready => format!(", {ready} are ready"),
        };
        let skipped = match skipped {
            0 => String::new(),
            skipped => format!(", {skipped} are no images"),
        };
        let failed = failed.len();
        output::line(format_args!(
            "{converted} converted, {found} were there{ready}{skipped}, {failed} failed"
        ))?;
    }
    // Otherwise each was printed when it happened.
    for (name, error) in failed.iter().filter(|_| terminal.is_silent()) {
        output::note(format_args!("{name}: failed, {error:#}"));
    }
    Ok(match failed.first() {
        None => ExitStatus::Ok,
        Some(_) if succeeded > 0 => ExitStatus::Partly,
        Some((_, error)) => ExitStatus::of(error),
    })
}
