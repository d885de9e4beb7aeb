//! `jobs`: the conversions of a running proxy, listed, begun and cancelled.

use std::fmt::Write as _;

use anyhow::Context as _;
use http::Method;
use serde_json::{Value, json};

use super::{AdminClient, AdminOptions, number, text};
use crate::cli::context::Context;
use crate::cli::exit::{ExitStatus, in_one_line};
use crate::cli::output::{self, count, size};
use crate::cli::standalone::usage;
use crate::cli::warm::names::{Name, Which};
use crate::config::ConfigErrors;

const LS_EXAMPLES: &str = "\
Examples:
  overlaybd-proxy jobs ls --admin 127.0.0.1:8481
  overlaybd-proxy jobs ls --state failed --json | jq '.conversions[].error'";

const START_EXAMPLES: &str = "\
Examples:
  overlaybd-proxy jobs start library/redis:7 --admin 127.0.0.1:8481 --admin-token-file token

The image is converted as policy says, with the proxy's own credentials. `warm --proxy` waits until
images are converted; this does not.";

const CANCEL_EXAMPLES: &str = "\
Examples:
  overlaybd-proxy jobs cancel 17 --admin 127.0.0.1:8481 --admin-token-file token

Layers that were finished stay. Clients that wait for the image get an error, and for a minute none
of them begins the conversion again.";

const FORGET_EXAMPLES: &str = "\
Examples:
  overlaybd-proxy jobs forget --repository team/app --admin 127.0.0.1:8481 --admin-token-file token

A conversion that failed is not begun again for --failure-ttl of `serve`. What is forgotten is begun
again when it is asked for: all failures, or those that have each of these.";

/// List, begin and cancel the conversions of a running proxy
#[derive(clap::Args)]
pub struct JobsArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// List conversions that wait, run, or ended lately
    #[command(after_help = LS_EXAMPLES)]
    Ls(LsArgs),
    /// Have an image converted
    #[command(after_help = START_EXAMPLES)]
    Start(StartArgs),
    /// Cancel conversions
    #[command(after_help = CANCEL_EXAMPLES)]
    Cancel(CancelArgs),
    /// Forget conversions that failed, so that they are begun again
    #[command(after_help = FORGET_EXAMPLES)]
    Forget(ForgetArgs),
}

#[derive(clap::Args)]
struct LsArgs {
    /// Only those in this state
    #[arg(long, value_parser = ["queued", "running", "converted", "failed", "cancelled", "no-image"])]
    state: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    admin: AdminOptions,
}

#[derive(clap::Args)]
struct StartArgs {
    /// The image: [REGISTRY/]REPOSITORY:TAG, the registry as upstreams are chosen by `ns`
    #[arg(value_name = "IMAGE")]
    image: String,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    admin: AdminOptions,
}

#[derive(clap::Args)]
struct CancelArgs {
    /// Their numbers, as `jobs ls` shows them
    #[arg(value_name = "ID", required = true)]
    ids: Vec<u64>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    admin: AdminOptions,
}

#[derive(clap::Args)]
struct ForgetArgs {
    /// Only those of this repository
    #[arg(long, value_name = "REPOSITORY")]
    repository: Option<String>,
    /// Only those of the upstream with this host
    #[arg(long, value_name = "HOST")]
    upstream_host: Option<String>,
    /// Only those of this source manifest
    #[arg(long, value_name = "DIGEST")]
    source: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    admin: AdminOptions,
}

pub async fn run(args: JobsArgs, context: Context) -> anyhow::Result<ExitStatus> {
    match args.action {
        Action::Ls(args) => ls(args, &context).await,
        Action::Start(args) => start(args, &context).await,
        Action::Cancel(args) => cancel(args, &context).await,
        Action::Forget(args) => forget(args, &context).await,
    }
}

/// A conversion, for people.
pub(super) fn line(one: &Value) -> String {
    let mut line = format!(
        "{:>5}  {:<9}  {}/{}",
        one["id"].as_u64().unwrap_or_default(),
        text(one, "state"),
        text(one, "upstream"),
        text(one, "repository"),
    );
    let _ = match text(one, "tag") {
        "" => write!(line, "@{}", text(one, "source")),
        tag => write!(line, ":{tag}"),
    };
    let (all, found) = (
        number(one, "layers", "total"),
        number(one, "layers", "found"),
    );
    let converted = number(one, "layers", "converted");
    if all > 0 {
        let done = found.saturating_add(converted);
        let layers = count(usize::try_from(all).unwrap_or(usize::MAX), "layer");
        let _ = write!(line, "  {done} of {layers}");
        let (read, source) = (number(one, "bytes", "read"), number(one, "bytes", "source"));
        if text(one, "state") == "running" {
            let _ = write!(line, ", {} of {} read", size(read), size(source));
        }
    }
    if let (Some(began), Some(ended)) = (one["started_at"].as_f64(), one["finished_at"].as_f64()) {
        let _ = write!(line, ", {:.1} s", (ended - began).max(0.0));
    }
    if let Some(error) = one["error"].as_str() {
        let _ = write!(line, "\n       {error}");
    }
    if let Some(remedy) = one["remedy"].as_str() {
        let _ = write!(line, "\n       what to do: {remedy}");
    }
    line
}

async fn ls(args: LsArgs, context: &Context) -> anyhow::Result<ExitStatus> {
    let client = AdminClient::new(&args.admin, context)?;
    let query = args.state.map(|state| format!("?state={state}"));
    let path = format!("/conversions{}", query.unwrap_or_default());
    let found = client.get(&path).await?;
    if args.json {
        output::json(&found)?;
        return Ok(ExitStatus::Ok);
    }
    for one in found["conversions"].as_array().unwrap_or(&Vec::new()) {
        output::line(line(one))?;
    }
    Ok(ExitStatus::Ok)
}

async fn start(args: StartArgs, context: &Context) -> anyhow::Result<ExitStatus> {
    let name: Name = args
        .image
        .parse()
        .map_err(|error: String| wrong_image(&error))?;
    let Name { place, which } = &name;
    let Which::Tag(tag) = which else {
        return Err(wrong_image("one tag is expected, neither a digest nor a pattern").into());
    };
    if place
        .host
        .as_ref()
        .is_some_and(|host| host.scheme.is_some())
    {
        let what =
            "a registry is named without http:// or https://: how it is asked is the proxy's";
        return Err(wrong_image(what).into());
    }
    let client = AdminClient::new(&args.admin, context)?;
    let wanted = json!({
        "registry": place.host.as_ref().map(|host| &host.name),
        "repository": place.repo.as_str(),
        "tag": tag.as_str(),
    });
    let answer = client.change(Method::POST, "/conversions", Some(&wanted));
    let answer = answer.await.with_context(|| {
        let is_written = args.image.ends_with(&format!(":{tag}"));
        let hint = if is_written {
            ""
        } else {
            " (no tag was named)"
        };
        format!("image {name}{hint}")
    })?;
    if args.json {
        output::json(&answer)?;
        return Ok(ExitStatus::Ok);
    }
    match answer["digest"].as_str() {
        Some(digest) => output::line(format_args!("converted before: {digest}"))?,
        None => output::line(format_args!("begun: {}", text(&answer, "source")))?,
    }
    Ok(ExitStatus::Ok)
}

fn wrong_image(what: &str) -> ConfigErrors {
    usage(&format!("IMAGE: {what}"))
}

async fn cancel(args: CancelArgs, context: &Context) -> anyhow::Result<ExitStatus> {
    let client = AdminClient::new(&args.admin, context)?;
    let (mut cancelled, mut failed) = (Vec::new(), Vec::new());
    for id in args.ids {
        let path = format!("/conversions/{id}");
        match client.change(Method::DELETE, &path, None).await {
            Ok(_) => {
                if !args.json {
                    output::line(format_args!("{id} is cancelled"))?;
                }
                cancelled.push(id);
            }
            Err(error) => {
                output::note(format_args!("error: {}", in_one_line(&error)));
                failed.push((id, error));
            }
        }
    }
    if args.json {
        let failures = failed.iter();
        let failures = failures.map(|(id, error)| json!({ "id": id, "error": in_one_line(error) }));
        let failures: Vec<Value> = failures.collect();
        output::json(&json!({ "cancelled": cancelled, "failed": failures }))?;
    }
    let first = failed.first().map(|(_, error)| error);
    Ok(ExitStatus::of_several(cancelled.len(), first))
}

async fn forget(args: ForgetArgs, context: &Context) -> anyhow::Result<ExitStatus> {
    let client = AdminClient::new(&args.admin, context)?;
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    for (key, value) in [
        ("repository", &args.repository),
        ("upstream", &args.upstream_host),
        ("source", &args.source),
    ] {
        if let Some(value) = value {
            query.append_pair(key, value);
        }
    }
    let path = format!("/failures?{}", query.finish());
    let answer = client.change(Method::DELETE, &path, None).await?;
    if args.json {
        output::json(&answer)?;
        return Ok(ExitStatus::Ok);
    }
    let forgotten = answer["forgotten"].as_u64().unwrap_or_default();
    let forgotten = usize::try_from(forgotten).unwrap_or(usize::MAX);
    output::line(format_args!("{} forgotten", count(forgotten, "failure")))?;
    Ok(ExitStatus::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_far_a_conversion_has_come() {
        let one = json!({
            "id": 7, "state": "running", "upstream": "registry.example", "repository": "a/b",
            "tag": "1", "layers": { "total": 5, "found": 1, "converted": 2 },
            "bytes": { "source": 4096, "read": 1024, "written": 1 },
            "started_at": 1.0, "finished_at": null, "error": null,
        });
        let line = line(&one);
        assert!(line.contains("running    registry.example/a/b:1"), "{line}");
        assert!(
            line.contains("3 of 5 layers, 1.00 KiB of 4.00 KiB read"),
            "{line}"
        );
        let one = json!({ "id": 8, "state": "failed", "layers": { "total": 1, "found": 0 } });
        let line = super::line(&one);
        assert!(line.ends_with("  0 of 1 layer"), "{line}");
    }
}
