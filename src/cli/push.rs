//! The one place where a finished image leaves for its destination.

use crate::convert::{ConvertedImage, Source};
use crate::oci::{RepoName, Selector};
use crate::registry::Upstream;
use crate::store::Store;

/// Where a converted image goes.
pub struct Destination {
    /// The registry or layout.
    pub upstream: Upstream,
    /// The repository.
    pub repo: RepoName,
    /// The tag.
    pub selector: Selector,
}

/// Brings a converted image, and what its index keeps unconverted, to its destination.
pub async fn deliver(
    store: &Store,
    image: &ConvertedImage,
    source: &Source,
    destination: &Destination,
) -> anyhow::Result<()> {
    let _ = (store, image, source);
    destination.upstream.finish().await?;
    anyhow::bail!("pushing is not built yet")
}
