//! The platforms that `convert` was asked for, beside those that its source has.

use std::collections::BTreeSet;

use crate::config::Origin;
use crate::convert::{ConvertError, ConvertedImage, Platforms, Source};
use crate::oci::{Digest, ImageConfig, Manifest, Platform, Selector};
use crate::registry::Authorization;
use crate::store::Store;

/// That a source is not there for a platform that was asked for.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct LacksPlatform(pub(super) String);

/// The longest image config that is read, in bytes.
const MAX_CONFIG: u64 = 16 << 20;

/// What is read of a source to know its platforms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Read {
    /// The manifest alone, which says it where it is an index.
    Manifest,
    /// Also the config of a source that is one image.
    Config,
}

/// The platforms that a source names: those of an index's entries, or the image's own. Empty
/// where it names none, or some only in indexes within it.
///
/// # Errors
/// When the source cannot be read.
pub(super) async fn of_source(
    source: &Source,
    digest: &Digest,
    read: Read,
) -> Result<Vec<Platform>, ConvertError> {
    let Source {
        upstream,
        repo,
        authorization,
    } = source;
    let selector = Selector::Digest(digest.clone());
    let raw = upstream.manifest(repo, &selector, authorization).await?;
    let image = match Manifest::parse(&raw.media_type, &raw.bytes) {
        Ok(Manifest::Image(image)) => image,
        Ok(Manifest::Index(index)) => {
            let images = index
                .manifests
                .iter()
                .filter(|entry| !entry.is_attestation());
            let named: Option<Vec<_>> = images.map(|entry| entry.platform.clone()).collect();
            return Ok(named.unwrap_or_default());
        }
        // Whoever converts it says what is wrong with it.
        Err(_) => return Ok(Vec::new()),
    };
    if read == Read::Manifest {
        return Ok(Vec::new());
    }
    let size = upstream.size_of(repo, &image.config, authorization).await?;
    if size > MAX_CONFIG {
        return Ok(Vec::new());
    }
    let config = match &image.config.data {
        Some(data) => data.clone(),
        None => whole(source, &image.config.digest, size, authorization).await?,
    };
    if image.config.digest.of_same_kind(&config) != image.config.digest {
        // As above.
        return Ok(Vec::new());
    }
    let platform = ImageConfig::parse(&config)
        .ok()
        .and_then(|config| config.platform);
    Ok(platform.into_iter().collect())
}

async fn whole(
    source: &Source,
    digest: &Digest,
    size: u64,
    authorization: &Authorization,
) -> Result<bytes::Bytes, ConvertError> {
    use futures_util::TryStreamExt as _;
    let stream = source
        .upstream
        .blob(&source.repo, digest, size, authorization);
    let whole = stream
        .await?
        .try_fold(bytes::BytesMut::new(), |mut whole, chunk| async move {
            whole.extend_from_slice(&chunk);
            Ok(whole)
        })
        .await?;
    Ok(whole.freeze())
}

/// The first of `wanted` that a source with these platforms lacks.
pub(super) fn lacking<'a>(wanted: &'a [Platform], there: &[Platform]) -> Option<&'a Platform> {
    let is_there = |wanted: &Platform| there.iter().any(|one| one.satisfies(wanted));
    wanted
        .iter()
        .find(|wanted| !there.is_empty() && !is_there(wanted))
}

/// The platforms that somebody named for this run.
pub(super) fn asked_for(platforms: &Platforms, origin: &Origin) -> Vec<Platform> {
    match (platforms, origin) {
        (Platforms::Some(wanted), Origin::Flag | Origin::Environment) => wanted.clone(),
        _ => Vec::new(),
    }
}

/// That none of the platforms that were asked for is there, or which of them are not; `None` where
/// there is nothing to tell, which is so where nobody asked.
///
/// # Errors
/// [`LacksPlatform`], or when the source cannot be read.
pub(super) async fn check(
    asked_for: &[Platform],
    source: &Source,
    digest: &Digest,
) -> anyhow::Result<Option<String>> {
    if asked_for.is_empty() {
        return Ok(None);
    }
    // What one image is for is in its config, which the conversion reads: `check_single`.
    let there = of_source(source, digest, Read::Manifest).await?;
    let is_there = |wanted: &&Platform| there.iter().any(|one| one.satisfies(wanted));
    let lacking: Vec<_> = asked_for.iter().filter(|one| !is_there(one)).collect();
    // What is for no Linux at all is skipped, or refused, by whoever converts it.
    let is_linux = there.iter().any(|one| one.os == "linux");
    if !is_linux || lacking.is_empty() {
        return Ok(None);
    }
    if lacking.len() < asked_for.len() {
        return Ok(Some(format!("not there for {}", joined(&lacking))));
    }
    Err(lacks(&lacking, &there).into())
}

fn lacks(lacking: &[&Platform], there: &[Platform]) -> LacksPlatform {
    LacksPlatform(format!(
        "not there for {}, which --platform asks for; it is for {}",
        joined(lacking),
        joined(&there.iter().collect::<Vec<_>>())
    ))
}

/// That an image without an index is for none of the platforms that were asked for, as its converted
/// config says. One whose config is not in the store is not looked at: nothing is asked for it.
///
/// # Errors
/// [`LacksPlatform`], or when the store cannot be read.
pub(super) async fn check_single(
    asked_for: &[Platform],
    store: &Store,
    image: &ConvertedImage,
) -> anyhow::Result<()> {
    let [made] = image.manifests.as_slice() else {
        return Ok(());
    };
    if asked_for.is_empty() || made.manifest.digest != image.root.digest {
        return Ok(());
    }
    let (blobs, digest) = (store.blobs().clone(), made.config.digest.clone());
    let read = tokio::task::spawn_blocking(move || {
        let blob = blobs
            .open(&digest)?
            .filter(|blob| blob.size() <= MAX_CONFIG);
        blob.map_or(Ok(None), |blob| blob.read_all())
    });
    let Some(bytes) = read.await?? else {
        return Ok(());
    };
    let platform = ImageConfig::parse(&bytes).ok();
    let Some(platform) = platform.and_then(|config| config.platform) else {
        return Ok(());
    };
    if asked_for.iter().any(|wanted| platform.satisfies(wanted)) {
        return Ok(());
    }
    let wanted: Vec<&Platform> = asked_for.iter().collect();
    Err(lacks(&wanted, &[platform]).into())
}

/// The platforms of an image that stay unconverted.
pub(super) fn left(image: &ConvertedImage) -> impl Iterator<Item = &Platform> {
    let images = image.kept.iter().filter(|entry| !entry.is_attestation());
    images.filter_map(|entry| entry.platform.as_ref())
}

/// Which platforms were converted and which were left, as one line; `None` where there is
/// nothing to tell.
pub(super) fn summary(image: &ConvertedImage, there: &[Platform]) -> Option<String> {
    let made: BTreeSet<&Platform> = image
        .manifests
        .iter()
        .filter_map(|made| made.platform.as_ref())
        .collect();
    if made.is_empty() {
        return None;
    }
    let left: BTreeSet<&Platform> = there.iter().filter(|one| !made.contains(one)).collect();
    let text = format!("converted: {}", joined(&made));
    if !left.is_empty() {
        let left = joined(&left);
        return Some(format!(
            "{text}; not converted: {left} (--platform chooses)"
        ));
    }
    Some(text)
}

/// Names, separated by commas.
pub(super) fn joined<'a>(platforms: impl IntoIterator<Item = &'a &'a Platform>) -> String {
    let names: Vec<String> = platforms.into_iter().map(ToString::to_string).collect();
    names.join(", ")
}
