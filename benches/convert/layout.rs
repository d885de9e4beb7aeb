//! Images of OCI layouts that are there.

use std::fs::{self, File};
use std::io::{self, BufReader, Read as _};
use std::path::Path;

use overlaybd_proxy::convert::inflate::inflate;
use overlaybd_proxy::oci::Digest;
use overlaybd_proxy::oci::media_type::OCI_MANIFEST;
use serde_json::Value;

use crate::Failure;
use crate::client::Blobs;
use crate::data::{Image, Layer};

fn json(path: &Path) -> Result<Value, Failure> {
    let text = fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(serde_json::from_slice(&text)?)
}

/// The media type that a manifest names, or OCI's.
pub fn media_type(manifest: &[u8]) -> Result<String, Failure> {
    let manifest: Value = serde_json::from_slice(manifest)?;
    Ok(manifest["mediaType"]
        .as_str()
        .unwrap_or(OCI_MANIFEST)
        .to_owned())
}

/// The digest of the manifest that has the tag.
fn tagged(layout: &Path, tag: &str) -> Result<Digest, Failure> {
    let index = json(&layout.join("index.json"))?;
    let manifests = index["manifests"].as_array().map_or(&[][..], Vec::as_slice);
    let named = manifests
        .iter()
        .find(|one| one["annotations"]["org.opencontainers.image.ref.name"] == *tag);
    let digest = named.and_then(|one| one["digest"].as_str());
    let digest = digest.ok_or(format!("{} has no tag {tag}", layout.display()))?;
    Ok(digest.parse()?)
}

/// The blobs of the image that has the tag.
pub fn blobs(layout: &Path, tag: &str) -> Result<Blobs, Failure> {
    let manifest = tagged(layout, tag)?;
    let path = layout.join("blobs/sha256").join(manifest.hex());
    Ok(Blobs::of_manifest(&fs::read(path)?)?)
}

/// The bytes that a layer inflates to.
fn tar_bytes(path: &Path) -> io::Result<u64> {
    let mut file = File::open(path)?;
    let mut head = Vec::new();
    (&mut file).take(8).read_to_end(&mut head)?;
    let input = BufReader::with_capacity(1 << 20, File::open(path)?);
    io::copy(&mut inflate(&head, input)?, &mut io::sink())
}

/// Opens `DIR[:TAG]`. Its layers are read through, so the system has them in memory as it has those
/// of an image that was just made.
pub fn open(name: &str) -> Result<Image, Failure> {
    let (layout, tag) = match name.rsplit_once(':') {
        Some((layout, tag)) if !tag.contains('/') => (layout, tag),
        _ => (name, "latest"),
    };
    let layout = fs::canonicalize(layout).map_err(|error| format!("{layout}: {error}"))?;
    let manifest = tagged(&layout, tag)?;
    let path = |digest: &Digest| layout.join("blobs/sha256").join(digest.hex());
    let blobs = Blobs::of_manifest(&fs::read(path(&manifest))?)
        .map_err(|_| format!("{name}: an image is expected, not an index"))?;
    let config: Digest = blobs.config.digest.parse()?;
    let diff_ids = json(&path(&config))?;
    let diff_ids = diff_ids["rootfs"]["diff_ids"].as_array();
    let diff_ids = diff_ids.map_or(&[][..], Vec::as_slice);
    let mut layers = Vec::new();
    for (blob, diff_id) in blobs.layers.iter().zip(diff_ids) {
        let digest: Digest = blob.digest.parse()?;
        let path = path(&digest);
        layers.push(Layer {
            diff_id: diff_id.as_str().unwrap_or_default().parse()?,
            size: blob.size,
            tar: tar_bytes(&path)?,
            digest,
            path,
        });
    }
    Ok(Image {
        tag: tag.to_owned(),
        config,
        manifest,
        layers,
        layout,
    })
}
