//! `status`: what a running proxy does and keeps.

use serde_json::json;

use super::{AdminClient, AdminOptions, number, text};
use crate::cli::context::Context;
use crate::cli::exit::ExitStatus;
use crate::cli::output::{self, count, size};

/// Conversions that are shown.
const MOST_SHOWN: usize = 10;

const EXAMPLES: &str = "\
Examples:
  overlaybd-proxy status --admin 127.0.0.1:8481
  overlaybd-proxy --config /etc/overlaybd-proxy/config.toml status --json";

/// Tell what a running proxy does and keeps
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct StatusArgs {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    admin: AdminOptions,
}

pub async fn run(args: StatusArgs, context: Context) -> anyhow::Result<ExitStatus> {
    let client = AdminClient::new(&args.admin, &context)?;
    let (cache, conversions) = (
        client.get("/cache").await?,
        client.get("/conversions").await?,
    );
    if args.json {
        let conversions = &conversions["conversions"];
        output::json(&json!({ "cache": cache, "conversions": conversions }))?;
        return Ok(ExitStatus::Ok);
    }
    let none = Vec::new();
    let all = conversions["conversions"].as_array().unwrap_or(&none);
    let of = |state: &str| all.iter().filter(|one| text(one, "state") == state).count();
    output::line(format_args!(
        "conversions  {} running, {} queued; lately {} converted, {} failed, {} cancelled",
        of("running"),
        of("queued"),
        of("converted"),
        of("failed"),
        of("cancelled"),
    ))?;
    let blobs = number(&cache, "converted", "blobs");
    output::line(format_args!(
        "kept         {} of converted images, {}; {} of copies of upstreams' blobs",
        size(number(&cache, "converted", "bytes")),
        count(usize::try_from(blobs).unwrap_or(usize::MAX), "blob"),
        size(number(&cache, "copies", "bytes")),
    ))?;
    let blobs = number(&cache, "pinned", "blobs");
    let (pinned, most) = (
        number(&cache, "pinned", "bytes"),
        cache["cache_size"].as_u64(),
    );
    let excess = match most {
        Some(most) if pinned > most => {
            format!("; more than the {} of --cache-size: unpin some", size(most))
        }
        Some(_) | None => String::new(),
    };
    output::line(format_args!(
        "pinned       {}, {}{excess}",
        count(usize::try_from(blobs).unwrap_or(usize::MAX), "blob"),
        size(pinned),
    ))?;
    let free = cache["bytes_free"].as_u64().unwrap_or_default();
    let evicted = cache["evicted"].as_u64().unwrap_or_default();
    let evicted = count(usize::try_from(evicted).unwrap_or(usize::MAX), "blob");
    output::line(format_args!(
        "disk         {} free; {evicted} evicted since the start",
        size(free)
    ))?;
    for one in all.iter().take(MOST_SHOWN) {
        output::line(super::jobs::line(one))?;
    }
    Ok(ExitStatus::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_are_not_there_are_zero() {
        let cache = json!({ "converted": { "blobs": 3 } });
        assert_eq!(number(&cache, "converted", "blobs"), 3);
        assert_eq!(number(&cache, "copies", "bytes"), 0);
    }
}
