//! Where the blobs are that a command is about: in a data directory, or at a running proxy.
// The comments of options are their help texts.
#![allow(clippy::doc_markdown)]

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use http::Method;
use serde_json::{Value, json};

use crate::cli::admin::{AdminClient, AdminOptions, number, text};
use crate::cli::context::Context;
use crate::cli::output::size;
use crate::cli::store::{PlaceOptions, data_dir};
use crate::cli::warm::names::{Name, Place as ImagePlace, Which};
use crate::config::{ConfigErrors, Text};
use crate::oci::{Digest, Tag};
use crate::store::{BlobInfo, BlobStore, Pin};

/// Blobs that a proxy is asked for at one time: the most that it lists.
const PAGE: usize = 10_000;

/// Which data directory or proxy.
#[derive(clap::Args)]
pub(super) struct PlaceArgs {
    #[command(flatten)]
    directory: PlaceOptions,
    /// Ask the running proxy with this address for operators, ADDRESS:PORT, and look into no data
    /// directory. It must be on the command line
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<Text>,
    /// File with the token that changes at a running proxy need, that of `serve`
    #[arg(long, value_name = "FILE")]
    admin_token_file: Option<Text>,
}

/// Where the blobs are.
pub(super) enum Place {
    Directory(PathBuf),
    Proxy(AdminClient),
}

/// What is to be pinned.
#[derive(Debug, Clone)]
pub(super) enum Wanted {
    Digest(Digest),
    Image(Image),
}

/// An image at a proxy.
#[derive(Debug, Clone)]
pub(super) struct Image {
    place: ImagePlace,
    tag: Tag,
}

/// What was evicted.
pub(super) struct Evicted {
    pub(super) blobs: usize,
    pub(super) bytes: u64,
    /// All of them, or as many as the proxy tells of.
    pub(super) shown: Vec<BlobInfo>,
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Digest(digest) => digest.fmt(f),
            Self::Image(Image { place, tag }) => write!(f, "{place}:{tag}"),
        }
    }
}

impl FromStr for Wanted {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(digest) = text.parse() {
            return Ok(Self::Digest(digest));
        }
        let Name { place, which } = text
            .parse::<Name>()
            .map_err(|error| format!("neither a digest nor an image: {error}"))?;
        match which {
            Which::Tag(tag) => Ok(Self::Image(Image { place, tag })),
            _ => Err("a digest alone or an image with one tag is expected".to_owned()),
        }
    }
}

fn blob_of(value: &Value) -> Option<BlobInfo> {
    let last_use = Duration::from_secs(value["last_use"].as_u64()?);
    Some(BlobInfo {
        digest: text(value, "digest").parse().ok()?,
        size: value["size"].as_u64()?,
        last_use: UNIX_EPOCH.checked_add(last_use)?,
        is_copy: value["is_copy"].as_bool()?,
        is_pinned: value["is_pinned"].as_bool()?,
    })
}

fn pin_of(value: &Value) -> Option<Pin> {
    let count = |key: &str| usize::try_from(value[key].as_u64()?).ok();
    Some(Pin {
        digest: text(value, "digest").parse().ok()?,
        blobs: count("blobs")?,
        bytes: value["bytes"].as_u64()?,
        missing: count("missing")?,
    })
}

/// What a list of an answer has.
fn all<T>(value: &Value, key: &str, read: impl Fn(&Value) -> Option<T>) -> anyhow::Result<Vec<T>> {
    let list = value[key].as_array().map(|list| list.iter().map(read));
    let list = list.and_then(Iterator::collect);
    list.with_context(|| {
        format!("the proxy's list of `{key}` cannot be read: is the proxy of this version?")
    })
}

/// Work on a data directory, which waits for the disk.
async fn on_disk<T: Send + 'static>(
    directory: &std::path::Path,
    work: impl FnOnce(BlobStore) -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    let directory = directory.to_owned();
    let work = move || work(BlobStore::at(&directory, None, Duration::ZERO)?);
    tokio::task::spawn_blocking(work).await?
}

impl Place {
    /// The place that is meant. A setting of the service's `--admin` does not mean the proxy.
    ///
    /// # Errors
    /// When there is none.
    pub(super) fn of(args: &PlaceArgs, context: &Context) -> anyhow::Result<Self> {
        if context.is_flag("admin") && context.is_flag("data-dir") {
            let mut errors = ConfigErrors::default();
            errors.add(
                "admin",
                "a running proxy is asked or --data-dir is looked into: leave one of them out",
            );
            return Err(errors.into());
        }
        if context.is_flag("admin") {
            let options = AdminOptions {
                admin: args.admin.clone(),
                admin_token_file: args.admin_token_file.clone(),
            };
            return Ok(Self::Proxy(AdminClient::new(&options, context)?));
        }
        if context.is_flag("admin-token-file") {
            let mut errors = ConfigErrors::default();
            errors.add(
                "admin-token-file",
                "is for a running proxy: name it with --admin, too",
            );
            return Err(errors.into());
        }
        Ok(Self::Directory(data_dir(&args.directory, context)?))
    }

    /// The blobs, by digest.
    ///
    /// # Errors
    /// As all of these: when the disk, or the proxy, refuses.
    pub(super) async fn blobs(&self) -> anyhow::Result<Vec<BlobInfo>> {
        let client = match self {
            Self::Directory(directory) => {
                return on_disk(directory, |store| Ok(store.list()?)).await;
            }
            Self::Proxy(client) => client,
        };
        let mut blobs: Vec<BlobInfo> = Vec::new();
        loop {
            let after = blobs.last().map(|last| format!("&after={}", last.digest));
            let after = after.unwrap_or_default();
            let path = format!("/cache/blobs?limit={PAGE}{after}");
            let page = client.get(&path).await?;
            let found = all(&page, "blobs", blob_of)?;
            let is_last = page["next"].is_null() || found.is_empty();
            blobs.extend(found);
            if is_last {
                return Ok(blobs);
            }
        }
    }

    /// What was pinned.
    pub(super) async fn pins(&self) -> anyhow::Result<Vec<Pin>> {
        match self {
            Self::Directory(directory) => on_disk(directory, |store| Ok(store.pins()?)).await,
            Self::Proxy(client) => all(&client.get("/cache/pins").await?, "pins", pin_of),
        }
    }

    /// Removes a blob.
    pub(super) async fn remove(&self, digest: &Digest) -> anyhow::Result<()> {
        let of = digest.clone();
        match self {
            Self::Directory(directory) => {
                let remove = move |store: BlobStore| {
                    let is_removed = store.remove(&of)?;
                    is_removed
                        .then_some(())
                        .with_context(|| format!("there is no blob {of}"))
                };
                on_disk(directory, remove).await
            }
            Self::Proxy(client) => {
                let path = format!("/cache/blobs/{digest}");
                client.change(Method::DELETE, &path, None).await.map(drop)
            }
        }
    }

    /// Pins something.
    pub(super) async fn pin(&self, wanted: &Wanted) -> anyhow::Result<Pin> {
        match (self, wanted) {
            (Self::Directory(directory), Wanted::Digest(digest)) => {
                let of = digest.clone();
                let pin = move |store: BlobStore| {
                    let pinned = store.pin(&of)?;
                    pinned.with_context(|| format!("there is no blob {of}"))
                };
                on_disk(directory, pin).await
            }
            (Self::Directory(_), Wanted::Image(_)) => bail!("a proxy knows what a name is"),
            (Self::Proxy(client), wanted) => {
                let body = match wanted {
                    Wanted::Digest(digest) => json!({ "digest": digest.as_str() }),
                    Wanted::Image(Image { place, tag }) => json!({
                        "registry": place.host.as_ref().map(|host| &host.name),
                        "repository": place.repo.as_str(),
                        "tag": tag.as_str(),
                    }),
                };
                let pinned = client.change(Method::POST, "/cache/pins", Some(&body));
                pin_of(&pinned.await?).context("the proxy does not say what was pinned")
            }
        }
    }

    /// Takes a pin away.
    pub(super) async fn unpin(&self, digest: &Digest) -> anyhow::Result<()> {
        let of = digest.clone();
        match self {
            Self::Directory(directory) => {
                let unpin = move |store: BlobStore| {
                    let is_unpinned = store.unpin(&of)?;
                    is_unpinned.then_some(()).with_context(|| {
                        format!("{of} was not pinned itself: `cache ls --pins` lists what was")
                    })
                };
                on_disk(directory, unpin).await
            }
            Self::Proxy(client) => {
                let path = format!("/cache/pins/{digest}");
                client.change(Method::DELETE, &path, None).await.map(drop)
            }
        }
    }

    /// Evicts until the blobs have at most so many bytes, or says what would be evicted.
    pub(super) async fn evict(&self, to: u64, is_planned: bool) -> anyhow::Result<Evicted> {
        match self {
            Self::Directory(directory) => {
                let evict = move |store: BlobStore| {
                    let evicted = if is_planned {
                        store.planned_evictions(to)?
                    } else {
                        store.evict_to(to)?
                    };
                    Ok(Evicted {
                        blobs: evicted.len(),
                        bytes: super::total(&evicted),
                        shown: evicted,
                    })
                };
                on_disk(directory, evict).await
            }
            Self::Proxy(client) => {
                let wanted = json!({ "to": to, "dry_run": is_planned });
                let answer = client.change(Method::POST, "/cache/evictions", Some(&wanted));
                let answer = answer.await?;
                let blobs = answer["blobs"].as_u64().unwrap_or_default();
                Ok(Evicted {
                    blobs: usize::try_from(blobs).unwrap_or(usize::MAX),
                    bytes: answer["bytes_freed"].as_u64().unwrap_or_default(),
                    shown: all(&answer, "evicted", blob_of)?,
                })
            }
        }
    }

    /// What to say if the pinned blobs alone exceed the bound of a running proxy.
    pub(super) async fn excess(&self) -> Option<String> {
        let Self::Proxy(client) = self else {
            return None;
        };
        let cache = client.get("/cache").await.ok()?;
        let (pinned, most) = (
            number(&cache, "pinned", "bytes"),
            cache["cache_size"].as_u64()?,
        );
        (pinned > most).then(|| {
            format!(
                "warning: the pinned blobs have {}, and the cache may have {}: unpin some, or raise \
                 --cache-size",
                size(pinned),
                size(most)
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_pinned_is_a_digest_or_an_image_with_a_tag() {
        let digest = Digest::of(b"x");
        let wanted: Wanted = digest.as_str().parse().unwrap();
        assert!(matches!(wanted, Wanted::Digest(found) if found == digest));
        let wanted: Wanted = "registry.example/team/app:1".parse().unwrap();
        let Wanted::Image(Image { place, tag }) = wanted else {
            unreachable!("an image");
        };
        assert_eq!((place.repo.as_str(), tag.as_str()), ("team/app", "1"));
        for wrong in ["", "A B", "app:*", &format!("app@{digest}")] {
            assert!(wrong.parse::<Wanted>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn blobs_and_pins_are_read_as_they_are_written() {
        let blob = BlobInfo {
            digest: Digest::of(b"x"),
            size: 7,
            last_use: UNIX_EPOCH + Duration::from_secs(9),
            is_copy: true,
            is_pinned: true,
        };
        assert_eq!(blob_of(&blob.to_json()), Some(blob));
        let pin = Pin {
            digest: Digest::of(b"x"),
            blobs: 3,
            bytes: 7,
            missing: 1,
        };
        assert_eq!(pin_of(&pin.to_json()), Some(pin));
        assert!(all(&json!({ "pins": [{}] }), "pins", pin_of).is_err());
    }
}
