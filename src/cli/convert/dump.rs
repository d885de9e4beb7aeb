//! The documents of a converted image as files: `--dump-manifest`.

use std::path::Path;

use anyhow::Context as _;

use crate::convert::ConvertedImage;
use crate::oci::ManifestKind;
use crate::store::Store;

/// Writes the documents of a converted image into a directory.
pub(super) fn dump(store: &Store, image: &ConvertedImage, directory: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(directory)?;
    let kind = ManifestKind::from_media_type(&image.root.media_type);
    let is_index = kind.is_some_and(ManifestKind::is_index);
    if is_index {
        std::fs::write(directory.join("index.json"), &image.root.bytes)?;
    } else if image.manifests.is_empty() {
        std::fs::write(directory.join("manifest.json"), &image.root.bytes)?;
    }
    for made in &image.manifests {
        let platform = made.platform.as_ref().filter(|_| is_index);
        let suffix =
            platform.map(|platform| format!("-{}", platform.to_string().replace('/', "-")));
        let suffix = suffix.unwrap_or_default();
        let manifest = directory.join(format!("manifest{suffix}.json"));
        std::fs::write(manifest, &made.manifest.bytes)?;
        let digest = &made.config.digest;
        let config = store
            .blobs()
            .open(digest)?
            .with_context(|| format!("config {digest} is not in the store any more"))?;
        let mut file = std::fs::File::create(directory.join(format!("config{suffix}.json")))?;
        let mut from = config.file();
        std::io::copy(&mut from, &mut file)?;
    }
    Ok(())
}
