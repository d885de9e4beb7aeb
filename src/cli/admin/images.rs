//! `images`: the images that a running proxy knows to be converted, listed, shown and forgotten.

use std::fmt::Write as _;
use std::time::{Duration, UNIX_EPOCH};

use http::Method;
use serde_json::{Value, json};

use super::{AdminClient, AdminOptions, number, text};
use crate::cli::context::Context;
use crate::cli::exit::ExitStatus;
use crate::cli::output::{self, count, size};
use crate::cli::warm::names::{Name, Which};

/// Images of one answer.
const PAGE: usize = 1000;
/// The last second of the year 9999: what is beyond the calendar cannot be written.
const LAST_SECOND: Duration = Duration::from_secs(253_402_300_799);

const LS_EXAMPLES: &str = "\
Examples:
  overlaybd-proxy images ls --admin 127.0.0.1:8481
  overlaybd-proxy images ls --newest --limit 20 --admin 127.0.0.1:8481
  overlaybd-proxy images ls --repository team/app --json | jq '.images[] | .reference, .digest'

Listed is what the index remembers of conversions, of all replicas that share it: under which tag an
image was converted, from what, to what and when. The list is not what is kept on the disk: see
`images show` and `cache ls`.";

const SHOW_EXAMPLES: &str = "\
Examples:
  overlaybd-proxy images show library/redis:7 --admin 127.0.0.1:8481
  overlaybd-proxy images show ghcr.io/team/app:1 --json | jq '.images[].parts[] | select(.is_cached)'

Each form in which the image was converted, with its parts: `cached` are those in the blob directory of
the proxy that is asked. What is not there is made again when it is asked for, or fetched from the
bucket of --blob-store, or is where it was pushed.";

const RM_EXAMPLES: &str = "\
Examples:
  overlaybd-proxy images rm library/redis:7 --admin 127.0.0.1:8481 --admin-token-file token

The proxy forgets that the image was converted, in all its forms: the next pull looks its layers up again, and
makes those that are gone. Blobs stay until they are evicted (`cache rm` removes them), as does what is
in a registry or a bucket: layers that are there, which other images may share, are not made again, and
running containers go on reading. Other tags of the same source are looked up again, too. Other replicas may
answer from memory until they are restarted.";

/// List, show and forget the images that a running proxy knows to be converted
#[derive(clap::Args)]
pub struct ImagesArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// List the images that were converted
    #[command(after_help = LS_EXAMPLES)]
    Ls(LsArgs),
    /// Show an image and its parts
    #[command(after_help = SHOW_EXAMPLES)]
    Show(ShowArgs),
    /// Forget that an image was converted
    #[command(after_help = RM_EXAMPLES)]
    Rm(RmArgs),
}

#[derive(clap::Args)]
struct LsArgs {
    /// Only those of this repository
    #[arg(long, value_name = "REPOSITORY")]
    repository: Option<String>,
    /// Only those of the upstream with this host
    #[arg(long, value_name = "HOST")]
    upstream_host: Option<String>,
    /// Only those of this tag, without a suffix, or digest
    #[arg(long, value_name = "TAG")]
    tag: Option<String>,
    /// Only those in this format
    #[arg(long, value_parser = ["native", "turbo"])]
    format: Option<String>,
    /// The latest first, instead of by name
    #[arg(long)]
    newest: bool,
    /// Most images that are listed [default: all]
    #[arg(long, value_name = "NUMBER")]
    limit: Option<usize>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    admin: AdminOptions,
}

#[derive(clap::Args)]
struct ShowArgs {
    /// The image: [REGISTRY/]REPOSITORY:TAG or @DIGEST, the registry as upstreams are chosen by `ns`
    #[arg(value_name = "IMAGE")]
    image: String,
    /// Only in this format
    #[arg(long, value_parser = ["native", "turbo"])]
    format: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    admin: AdminOptions,
}

#[derive(clap::Args)]
struct RmArgs {
    /// The images: [REGISTRY/]REPOSITORY:TAG or @DIGEST, the registry as upstreams are chosen by `ns`
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
    /// Only in this format
    #[arg(long, value_parser = ["native", "turbo"])]
    format: Option<String>,
    #[command(flatten)]
    admin: AdminOptions,
}

pub async fn run(args: ImagesArgs, context: Context) -> anyhow::Result<ExitStatus> {
    match args.action {
        Action::Ls(args) => ls(args, &context).await,
        Action::Show(args) => show(args, &context).await,
        Action::Rm(args) => rm(args, &context).await,
    }
}

/// A query of those of these that are there.
fn query(pairs: &[(&str, Option<&str>)]) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    for (key, value) in pairs {
        if let Some(value) = value {
            query.append_pair(key, value);
        }
    }
    query.finish()
}

/// The query that names one image.
fn named(image: &str, format: Option<&str>) -> Result<String, String> {
    let Name { place, which } = image.parse()?;
    let reference = match which {
        Which::Tag(tag) => tag.to_string(),
        Which::Digest(digest, _) => digest.to_string(),
        Which::Matching(_) => return Err("a tag or a digest is expected, no pattern".to_owned()),
    };
    let registry = place.host.as_ref().map(|host| host.name.as_str());
    Ok(query(&[
        ("registry", registry),
        ("repository", Some(place.repo.as_str())),
        ("reference", Some(&reference)),
        ("format", format),
    ]))
}

/// The name of an image.
fn name(one: &Value) -> String {
    let mark = if one["tag"].is_null() { '@' } else { ':' };
    let (repository, reference) = (text(one, "repository"), text(one, "reference"));
    // Of a layout this is the path of its directory.
    match text(one, "upstream") {
        upstream if upstream.starts_with("oci:") => format!("{repository}{mark}{reference}"),
        upstream => format!("{upstream}/{repository}{mark}{reference}"),
    }
}

fn when(one: &Value) -> String {
    let seconds = one["converted_at"].as_f64().unwrap_or_default();
    let since = Duration::try_from_secs_f64(seconds).unwrap_or_default();
    let at = UNIX_EPOCH.checked_add(since.min(LAST_SECOND));
    humantime::format_rfc3339_seconds(at.unwrap_or(UNIX_EPOCH)).to_string()
}

/// An image, for people.
fn line(one: &Value) -> String {
    let mut line = format!("{}  {}", when(one), name(one));
    let _ = write!(line, "  {}", text(one, "format"));
    if let Some(algorithm) = one["algorithm"].as_str() {
        let _ = write!(line, " {algorithm}");
    }
    let platforms = one["platforms"].as_array().map_or(&[][..], Vec::as_slice);
    let platforms: Vec<&str> = platforms.iter().filter_map(Value::as_str).collect();
    if !platforms.is_empty() {
        let _ = write!(line, "  {}", platforms.join(","));
    }
    let layers = usize::try_from(number(one, "layers", "total")).unwrap_or(usize::MAX);
    let made = number(one, "layers", "converted");
    let converted = size(number(one, "bytes", "converted"));
    let _ = write!(
        line,
        "  {}, {made} made, {converted}",
        count(layers, "layer")
    );
    if let Some(source) = one["bytes"]["source"].as_u64() {
        let _ = write!(line, " from {}", size(source));
    }
    line
}

async fn ls(args: LsArgs, context: &Context) -> anyhow::Result<ExitStatus> {
    let client = AdminClient::new(&args.admin, context)?;
    let mut left = args.limit.unwrap_or(usize::MAX);
    let (mut after, mut images): (Option<String>, Vec<Value>) = (None, Vec::new());
    while left > 0 {
        let limit = left.min(PAGE);
        let query = query(&[
            ("upstream", args.upstream_host.as_deref()),
            ("repository", args.repository.as_deref()),
            ("reference", args.tag.as_deref()),
            ("format", args.format.as_deref()),
            ("order", args.newest.then_some("newest")),
            ("limit", Some(&limit.to_string())),
            ("after", after.as_deref()),
        ]);
        let mut found = client.get(&format!("/images?{query}")).await?;
        if let Value::Array(page) = found["images"].take() {
            left = left.saturating_sub(page.len());
            if args.json {
                images.extend(page);
            } else {
                for one in &page {
                    output::line(line(one))?;
                }
            }
        }
        after = found["next"].as_str().map(ToOwned::to_owned);
        if after.is_none() {
            break;
        }
    }
    if args.json {
        output::json(&json!({ "images": images }))?;
    }
    Ok(ExitStatus::Ok)
}

/// A part of an image, for people.
fn part_line(part: &Value) -> String {
    let place = if part["is_cached"] == true {
        "cached"
    } else {
        "-"
    };
    let bytes = part["size"].as_u64().map_or_else(|| "-".to_owned(), size);
    let mut line = format!(
        "  {}  {:>11}  {:<8}  {place}",
        text(part, "digest"),
        bytes,
        text(part, "kind"),
    );
    if let Some(platform) = part["platform"].as_str() {
        let _ = write!(line, "  {platform}");
    }
    line
}

async fn show(args: ShowArgs, context: &Context) -> anyhow::Result<ExitStatus> {
    let query = match named(&args.image, args.format.as_deref()) {
        Ok(query) => query,
        Err(error) => {
            output::note(format_args!("error: IMAGE: {error}"));
            return Ok(ExitStatus::Usage);
        }
    };
    let client = AdminClient::new(&args.admin, context)?;
    let found = client.get(&format!("/image?{query}")).await?;
    if args.json {
        output::json(&found)?;
        return Ok(ExitStatus::Ok);
    }
    for one in found["images"].as_array().unwrap_or(&Vec::new()) {
        output::line(line(one))?;
        output::line(format_args!("  source    {}", text(one, "source")))?;
        output::line(format_args!("  converted {}", text(one, "digest")))?;
        output::line(format_args!("  settings  {}", text(one, "settings")))?;
        for part in one["parts"].as_array().unwrap_or(&Vec::new()) {
            output::line(part_line(part))?;
        }
    }
    Ok(ExitStatus::Ok)
}

async fn rm(args: RmArgs, context: &Context) -> anyhow::Result<ExitStatus> {
    let mut queries = Vec::new();
    for image in &args.images {
        match named(image, args.format.as_deref()) {
            Ok(query) => queries.push(query),
            Err(error) => {
                output::note(format_args!("error: {image}: {error}"));
                return Ok(ExitStatus::Usage);
            }
        }
    }
    let client = AdminClient::new(&args.admin, context)?;
    let (mut succeeded, mut failed) = (0, None);
    for query in queries {
        let path = format!("/image?{query}");
        match client.change(Method::DELETE, &path, None).await {
            Ok(answer) => {
                succeeded += 1;
                for one in answer["forgotten"].as_array().unwrap_or(&Vec::new()) {
                    output::line(format_args!("forgotten: {}", line(one)))?;
                }
            }
            Err(error) => {
                output::note(format_args!("error: {error:#}"));
                failed.get_or_insert(error);
            }
        }
    }
    Ok(ExitStatus::of_several(succeeded, failed.as_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_was_converted_to_what() {
        let one = json!({
            "upstream": "registry.example", "repository": "a/b", "reference": "1", "tag": "1",
            "format": "native", "algorithm": "zstd", "platforms": ["linux/amd64", "linux/arm64"],
            "layers": { "total": 4, "converted": 1 },
            "bytes": { "source": 4096, "converted": 1024 }, "converted_at": 1.5,
        });
        assert_eq!(
            line(&one),
            "1970-01-01T00:00:01Z  registry.example/a/b:1  native zstd  linux/amd64,linux/arm64  \
             4 layers, 1 made, 1.00 KiB from 4.00 KiB"
        );
        let part =
            json!({ "digest": "sha256:1", "kind": "layer", "size": null, "is_cached": true });
        assert!(part_line(&part).contains("layer     cached"));
    }

    #[test]
    fn an_image_is_named_by_tag_or_digest_and_no_pattern() {
        assert_eq!(
            named("ghcr.io/team/app:1", None).as_deref(),
            Ok("registry=ghcr.io&repository=team%2Fapp&reference=1")
        );
        let query = named("app", Some("turbo")).unwrap();
        assert_eq!(query, "repository=app&reference=latest&format=turbo");
        assert!(named("app:*", None).is_err());
    }

    #[test]
    fn times_beyond_the_calendar_are_written_all_the_same() {
        for seconds in [-1.0, 0.0, 1e30, f64::MAX] {
            let text = when(&json!({ "converted_at": seconds }));
            assert!(text.ends_with('Z'), "{text}");
        }
    }
}
