//! An index with an image and what it was converted to, side by side, under a tag of its own.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::Response;
use http::header::HeaderValue;

use crate::convert::derived::merged;
use crate::convert::layer::Format;
use crate::convert::{ConvertedImage, Converter, StoredManifest};
use crate::oci::{Descriptor, Digest, ImageConfig, Platform, RepoName, Selector};
use crate::registry::Authorization;
use crate::server::cache::open_files::off_thread;
use crate::server::cache::responses::CachedContent;
use crate::server::context::RequestContext;
use crate::server::context::finding::Found;
use crate::server::context::waiting::Waited;
use crate::server::document::Document;
use crate::server::error::ApiError;
use crate::server::http::body::ResponseBody;
use crate::server::http::header_names::OUTCOME;

/// Longest config that is read for its platform, in bytes.
const MAX_CONFIG: u64 = 16 << 20;

/// Bytes of documents that one such index takes in memory.
const MAX_BYTES: u32 = 16 << 20;

/// What is answered to a request for such an index.
pub(in crate::server) enum Merged {
    /// This.
    Answer(Box<Response<ResponseBody>>),
    /// It takes longer than requests wait.
    TooLong,
}

/// `GET` or `HEAD` of the index of `source` and what these converters make of it, to a client that
/// may have the source until then.
///
/// # Errors
/// The error response.
pub(in crate::server) async fn answer(
    context: &RequestContext<'_>,
    repo: &RepoName,
    source: &Digest,
    until: Instant,
    converters: &[Converter],
) -> Result<Merged, ApiError> {
    let (mut images, mut is_found) = (Vec::new(), true);
    for converter in converters {
        match image(context, converter, repo, source).await {
            Ok((image, was_there)) => {
                is_found &= was_there;
                images.push((converter.format(), image));
            }
            Err(Waited::NotTurbo(reason)) => {
                let not_turbo = &context.state.converted.not_turbo;
                not_turbo.insert(source.clone(), reason.into()).await;
            }
            Err(Waited::NoImage(failure) | Waited::Failed(failure)) => return Err(failure),
            Err(Waited::TooLong) => return Ok(Merged::TooLong),
        }
    }
    let index = index(context, repo, source, &images).await?;
    context.keep_document(repo, source, &index).await?;
    let document = Arc::new(Document::new(&index));
    context.keep(CachedContent::Document(Arc::clone(&document)), until);
    let mut response = document.answer(&context.parts.headers, context.is_head());
    let outcome = if is_found { "found" } else { "converted" };
    let outcome = HeaderValue::from_static(outcome);
    response.headers_mut().insert(OUTCOME, outcome);
    Ok(Merged::Answer(Box::new(response)))
}

/// The image that a source becomes, and whether it was there.
async fn image(
    context: &RequestContext<'_>,
    converter: &Converter,
    repo: &RepoName,
    source: &Digest,
) -> Result<(Arc<ConvertedImage>, bool), Waited> {
    let not_turbo = &context.state.converted.not_turbo;
    if converter.format() != Format::Native
        && let Some(reason) = not_turbo.get(source).await
    {
        return Err(Waited::NotTurbo(reason.to_string()));
    }
    let from = context.source(repo);
    let known = context
        .hold
        .question(Box::pin(converter.lookup(&from, source)));
    let known = context.aside(known).await.map_err(Waited::Failed)?;
    let Ok(known) = known else {
        return Err(Waited::TooLong);
    };
    let known = known
        .map_err(|error| Waited::Failed(ApiError::conversion(&error, context.state.is_own())))?;
    match known {
        Some(image) => Ok((image, true)),
        None => Ok((context.wait(converter, repo, source).await?.image, false)),
    }
}

/// The index of a source and these images of it.
async fn index(
    context: &RequestContext<'_>,
    repo: &RepoName,
    source: &Digest,
    images: &[(Format, Arc<ConvertedImage>)],
) -> Result<StoredManifest, ApiError> {
    let is_own = context.state.is_own();
    let budget = context.state.manifest_bytes.acquire_many(MAX_BYTES);
    let budget = context.aside(context.hold.question(budget)).await?;
    let Ok(Ok(_permit)) = budget else {
        return Err(context.later().await);
    };
    let selector = Selector::Digest(source.clone());
    let upstream = context.chosen.upstream;
    let asked = upstream.manifest(repo, &selector, &context.authorization);
    let Ok(raw) = context
        .aside(context.hold.question(Box::pin(asked)))
        .await?
    else {
        return Err(context.later().await);
    };
    let raw = raw.map_err(|error| ApiError::upstream(&error, is_own))?;
    let original = StoredManifest {
        digest: raw.digest,
        media_type: raw.media_type,
        bytes: raw.bytes,
    };
    let platform = match images.first() {
        Some((_, image)) => platform(context, repo, image).await?,
        None => None,
    };
    // A source that is an overlaybd image stands for itself.
    let images: Vec<(Format, &ConvertedImage)> = images
        .iter()
        .filter(|(_, image)| image.root.digest != *source)
        .map(|(format, image)| (*format, &**image))
        .collect();
    merged(&original, platform.as_ref(), &images).map_err(|error| {
        tracing::warn!(%error, %source, "there is no index with the original");
        ApiError::internal(error)
    })
}

/// The platform of an image that is no index, as its config says.
async fn platform(
    context: &RequestContext<'_>,
    repo: &RepoName,
    image: &ConvertedImage,
) -> Result<Option<Platform>, ApiError> {
    let [one] = image.manifests.as_slice() else {
        return Ok(None);
    };
    if one.manifest.digest != image.root.digest {
        return Ok(None);
    }
    let config = config(context, repo, &one.config, &image.source).await?;
    let config = ImageConfig::parse(&config).map_err(ApiError::internal)?;
    Ok(config.platform)
}

/// The bytes of a converted config, wherever it is.
async fn config(
    context: &RequestContext<'_>,
    repo: &RepoName,
    config: &Descriptor,
    source: &Digest,
) -> Result<Bytes, ApiError> {
    let digest = &config.digest;
    let (upstream, repo, authorization) = match context.find(repo, digest, source).await? {
        Found::File(blob) => {
            let read = off_thread(move || blob.file.read_all()).await;
            return match read.map_err(|error| ApiError::from(&error))? {
                Some(bytes) => Ok(bytes.into()),
                // It was damaged, and is made again when the client asks again.
                None => Err(context.later().await),
            };
        }
        Found::Pushed(upstream, repo) => (upstream, repo, Authorization::Own),
        Found::Upstream => {
            let upstream = context.chosen.upstream.clone();
            (upstream, repo.clone(), context.authorization.clone())
        }
    };
    let size = config.size.filter(|size| *size <= MAX_CONFIG);
    let size = size.ok_or_else(|| ApiError::unknown_blob(digest))?;
    let read = upstream.blob_range(&repo, digest, 0..size, &authorization);
    let bytes = context.aside(Box::pin(read)).await?;
    let is_own = matches!(authorization, Authorization::Own);
    let bytes = bytes.map_err(|error| ApiError::upstream(&error, is_own))?;
    if Digest::of(&bytes) == *digest {
        Ok(bytes)
    } else {
        Err(ApiError::unknown_blob(digest))
    }
}

/// The index of what `source` became and is there now, for a request by its digest after it was
/// evicted.
///
/// # Errors
/// When it cannot be made.
pub(in crate::server) async fn again(
    context: &RequestContext<'_>,
    repo: &RepoName,
    source: &Digest,
) -> Result<Option<StoredManifest>, ApiError> {
    let ready = context.ready(repo, source).await.images;
    if context.state.config.merged_suffix.is_empty() || ready.is_empty() {
        return Ok(None);
    }
    let images: Vec<_> = ready
        .into_iter()
        .map(|(converter, image)| (converter.format(), image))
        .collect();
    index(context, repo, source, &images).await.map(Some)
}
