//! `config explain`: what pulls of an image would get, and why.
// The comments of options are their help texts.
#![allow(clippy::doc_markdown)]

use std::fmt::Write as _;

use super::context::Context;
use super::exit::ExitStatus;
use super::output;
use crate::config::{ServeOptions, bytes};
use crate::server::{Case, Explanation, ImageQuestion, KnownSize, Pull, explain};

pub(super) const EXAMPLES: &str = "\
Examples:
  overlaybd-proxy config explain redis:7
  overlaybd-proxy config explain docker.io/library/redis:7_obd --json
  overlaybd-proxy --config ./config.toml config explain proxy.example.com/hub/library/redis --ask

IMAGE is written as in a manifest: with the host of an upstream, whose mirror the proxy then is, or
with the proxy's own; without a host it may be either. No registry and no database is asked. Where
a [[policy]] asks for the image's size, each case is shown: --size chooses one, and --ask asks the
upstream, with the proxy's own credentials.";

#[derive(clap::Args)]
pub struct ExplainArgs {
    /// The image, such as redis:7 or docker.io/library/redis:7_obd
    #[arg(value_name = "IMAGE")]
    image: String,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Bytes that the image's layers have, compressed, such as 300MiB
    #[arg(long, value_name = "SIZE", conflicts_with = "ask", value_parser = bytes)]
    size: Option<u64>,
    /// Ask the upstream which image this is, and how large
    #[arg(long)]
    ask: bool,
    #[command(flatten)]
    options: ServeOptions,
}

pub async fn run(args: ExplainArgs, context: &Context) -> anyhow::Result<ExitStatus> {
    let (mut sources, mut errors) = context.service();
    let options = args.options.effective(&mut sources, &mut errors);
    let log = context.log_options(&mut sources, &mut errors);
    let image = args.image.parse::<ImageQuestion>();
    let image = image.map_err(|error| errors.add_line(format!("IMAGE: {error}")));
    let config = options.config(&log, errors)?;
    // A mistake in it is among those of the configuration.
    let Ok(image) = image else {
        return Ok(ExitStatus::Usage);
    };
    let size = match (args.size, args.ask) {
        (Some(size), _) => KnownSize::Bytes(size),
        (None, true) => KnownSize::Ask,
        (None, false) => KnownSize::Unknown,
    };
    let converter = &config.converter;
    let (push, platforms) = (converter.push.as_ref(), &converter.platforms);
    let explanation = explain(&config.server, push, platforms, &image, size).await?;
    if args.json {
        output::json(&explanation)?;
    } else {
        output::line(text(&explanation).trim_end())?;
    }
    Ok(ExitStatus::Ok)
}

fn text(explanation: &Explanation) -> String {
    let mut text = String::new();
    let Explanation {
        upstream,
        repository,
        tag,
        ..
    } = explanation;
    let _ = writeln!(text, "image      {repository}:{tag}");
    let _ = writeln!(text, "upstream   {upstream}");
    if let Some(digest) = &explanation.digest {
        let _ = writeln!(text, "digest     {digest}");
    }
    if let Some(note) = &explanation.note {
        let _ = writeln!(text, "note       {note}");
    }
    if explanation.is_prepared {
        let _ = writeln!(
            text,
            "prepared   when its plain tag is pulled (--convert-on-pull)"
        );
    }
    if explanation.prefers_upstream_tags {
        let what = "a tag with a suffix that the upstream has goes first (--prefer-upstream-tags)";
        let _ = writeln!(text, "preferred  {what}");
    }
    for (number, case) in explanation.cases.iter().enumerate() {
        write_case(&mut text, case, number > 0);
    }
    text
}

fn write_case(text: &mut String, case: &Case, is_other: bool) {
    text.push('\n');
    match (&case.condition, is_other) {
        (Some(condition), false) => {
            let _ = writeln!(text, "if {condition}:");
        }
        (Some(condition), true) => {
            let _ = writeln!(text, "otherwise, if {condition}:");
        }
        (None, true) => text.push_str("otherwise:\n"),
        (None, false) => {}
    }
    let _ = match &case.rule {
        Some(rule) => writeln!(text, "rule       [[policy]] {}: {}", rule.number, rule.text),
        None => writeln!(text, "rule       none"),
    };
    let _ = writeln!(text, "platforms  {}", case.platforms.join(", "));
    let mut way: Option<&Option<String>> = None;
    for pull in &case.pulls {
        if way != Some(&pull.mirror_of) {
            way = Some(&pull.mirror_of);
            let _ = match &pull.mirror_of {
                Some(registry) => {
                    writeln!(text, "pulled through the proxy as a mirror of {registry}:")
                }
                None => writeln!(text, "pulled by the proxy's own name:"),
            };
        }
        write_pull(text, pull);
    }
}

fn write_pull(text: &mut String, pull: &Pull) {
    let header = pull
        .header
        .map_or_else(String::new, |form| format!(" ({form})"));
    let _ = write!(
        text,
        "  {:<32} {}",
        format!("{}{header}", pull.tag),
        pull.gets
    );
    if let Some(otherwise) = pull.otherwise {
        let _ = write!(text, ", or {otherwise} where TurboOCI cannot carry it");
    }
    if let Some(place) = &pull.pushed_to {
        let _ = write!(text, "; pushed to {place}");
    }
    if let Some(why) = &pull.why {
        let _ = write!(text, ": {why}");
    }
    text.push('\n');
}
