//! Whether a manifest in a registry is one that this program made.
//!
//! A tag may be replaced only then, so this must be seen, not taken from what a manifest says of
//! itself: either the index records that a source became this manifest, or every layer's blob
//! carries this program's mark and names the blob below it. The latter holds without an index,
//! and for what another replica or an older version made.

use super::super::image::BLOB_DIGEST;
use super::super::layer::LayerBlob;
use super::super::tag::UserTag;
use super::types::Source;
use super::{ConvertError, Converter, Home, blocking, remote};
use crate::format::block::SharedDevice;
use crate::oci::{Digest, ImageManifest, Manifest, Selector};
use crate::registry::{self, Authorization, RawManifest};

/// Most entries of an index that are looked at.
const MOST_ENTRIES: usize = 64;

impl Converter {
    /// Whether this program made a manifest of `home`, where images from `source` are pushed.
    pub(super) async fn has_made(
        &self,
        source: &Source,
        home: &Home,
        raw: &RawManifest,
    ) -> Result<bool, ConvertError> {
        if self.is_recorded(source, home, &raw.digest).await? {
            return Ok(true);
        }
        let place = Source {
            upstream: home.upstream.clone(),
            repo: home.repo.clone(),
            authorization: Authorization::Own,
        };
        let index = match Manifest::parse(&raw.media_type, &raw.bytes) {
            Ok(Manifest::Image(image)) => return is_marked(&place, &image).await,
            Ok(Manifest::Index(index)) if index.manifests.len() <= MOST_ENTRIES => index,
            _ => return Ok(false),
        };
        // Entries that are not converted stay as they were in the source's index.
        let mut has_marked = false;
        for entry in &index.manifests {
            let Some(image) = image_of(&place, &entry.digest).await? else {
                continue;
            };
            if is_overlaybd(&image) {
                if !is_marked(&place, &image).await? {
                    return Ok(false);
                }
                has_marked = true;
            }
        }
        Ok(has_marked)
    }

    /// Whether the index says that a source here became this manifest, and that it was pushed.
    async fn is_recorded(
        &self,
        source: &Source,
        home: &Home,
        digest: &Digest,
    ) -> Result<bool, ConvertError> {
        let index = self.inner.store.index();
        if !index.is_pushed(&home.host, &home.repo, digest).await? {
            return Ok(false);
        }
        let host = source.upstream.host();
        let sources = index.sources(host, &source.repo, digest).await?;
        // An image that came in overlaybd format is recorded as what it became itself.
        Ok(sources.iter().any(|source| source != digest))
    }
}

/// The image manifest that an entry of an index names, if it is one and is there.
async fn image_of(place: &Source, digest: &Digest) -> Result<Option<ImageManifest>, ConvertError> {
    let selector = Selector::Digest(digest.clone());
    let fetched = place
        .upstream
        .manifest(&place.repo, &selector, &place.authorization)
        .await;
    let raw = match fetched {
        Ok(raw) => raw,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    Ok(match Manifest::parse(&raw.media_type, &raw.bytes) {
        Ok(Manifest::Image(image)) => Some(image),
        _ => None,
    })
}

fn is_overlaybd(image: &ImageManifest) -> bool {
    let mut layers = image.layers.iter();
    layers.any(|layer| layer.annotations.contains_key(BLOB_DIGEST))
}

/// Whether every layer's blob carries this program's mark, of any version, over the one below.
async fn is_marked(place: &Source, image: &ImageManifest) -> Result<bool, ConvertError> {
    if !is_overlaybd(image) {
        return Ok(false);
    }
    let mut below = None;
    for layer in &image.layers {
        let digest = layer.digest.clone();
        let size = place
            .upstream
            .size_of(&place.repo, layer, &place.authorization)
            .await?;
        let device: SharedDevice = remote::device(place.clone(), digest, size);
        // Also one that nodes refuse: an earlier version made those.
        let blob = match blocking(move || Ok(LayerBlob::open_readable(device))).await? {
            Ok(blob) => blob,
            Err(error) => match upstream_error(&error) {
                Some(error) if !error.is_not_found() => return Err(error.clone().into()),
                _ => return Ok(false),
            },
        };
        match blob.user_tag().parse::<UserTag>() {
            Ok(mark) if mark.parent == below => below = Some(layer.digest.clone()),
            _ => return Ok(false),
        }
    }
    Ok(true)
}

/// Why the registry did not give the bytes, where that is why a blob could not be opened.
fn upstream_error<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a registry::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        let inner = error.downcast_ref::<std::io::Error>();
        let inner = inner.and_then(std::io::Error::get_ref);
        if let Some(found) = inner.and_then(|inner| inner.downcast_ref()) {
            return Some(found);
        }
        next = error.source();
    }
    None
}
