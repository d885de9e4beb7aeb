//! The settings that decide the bytes of layers and manifests, as the index names them: short
//! ASCII text.

use std::fmt::Write as _;

use super::super::layer::{Format, Settings};
use super::super::tag::FORMAT_VERSION;
use super::super::types::{ConverterConfig, Others, Platforms};
use crate::oci::Digest;

/// The first format version whose blobs hold the same disk as those of [`FORMAT_VERSION`],
/// for every layer. Raise it to the new version with any change of what is on the disk, even for
/// few layers: whether a blob of an earlier version holds the same disk is then compared, blob by
/// blob.
const SAME_DISK_SINCE: u32 = 3;

/// The version of what decides the bytes of TurboOCI layers, besides [`FORMAT_VERSION`].
///
/// - 1: the windows of gzip indexes held all that was before a block.
/// - 2: they hold what the block refers to.
const TURBO_VERSION: u32 = 2;

/// What precedes the digest of the list that orders the data.
const LIST: &str = "list=";
/// Digits of that digest in a variant.
const LIST_DIGITS: usize = 32;

/// The version of what decides an acceleration layer, besides the list and the layers below. Raise
/// it with any change of the trace that is made of these.
const ACCELERATION_VERSION: u32 = 1;

/// The disk of a blob that a row of the index names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Disk {
    /// The same as that of a blob made now.
    Same,
    /// The same or another: an earlier version made it.
    SameOrAnother,
    /// Another, or it is not known.
    Another,
}

/// What decides the bytes of a layer; of TurboOCI layers also the digest of the source's layer,
/// see [`of_turbo_layer`].
pub(super) fn of_layers(settings: &Settings) -> String {
    if let Format::Turbo(turbo) = settings.format {
        let (stored, size) = (turbo.max_stored_file, settings.virtual_size);
        return format!("turbo v{TURBO_VERSION}.{FORMAT_VERSION} {stored} {size}");
    }
    let mut text = format!(
        "v{FORMAT_VERSION} {} {} {}",
        settings.algorithm,
        settings.block_size.bytes(),
        settings.virtual_size
    );
    if let Some(list) = &settings.prefetch {
        text.push(' ');
        text.push_str(LIST);
        // As much as tells lists apart: the column is short, and a blob's tag has all of it.
        text.extend(list.digest().hex().chars().take(LIST_DIGITS));
    }
    text
}

/// What decides the bytes of the TurboOCI layer that points into the source's `layer`.
pub(super) fn of_turbo_layer(layers: &str, layer: &Digest) -> String {
    format!("{layers} {layer}")
}

/// The disk of blobs that an earlier version recorded under `variant`, compared with that of blobs
/// made now with `settings`, however they are compressed.
pub(super) fn disk(variant: &str, settings: &Settings) -> Disk {
    let mut words = variant.split(' ');
    let version = words
        .next()
        .and_then(|word| word.strip_prefix('v')?.parse::<u32>().ok());
    let virtual_size = words.nth(2).and_then(|word| word.parse::<u64>().ok());
    // What has other words was built on another tool's blobs. A list orders the blob's data, and
    // not the disk's.
    let is_own = words.all(|word| word.starts_with(LIST));
    if virtual_size != Some(settings.virtual_size) || !is_own {
        return Disk::Another;
    }
    match version {
        Some(version) if (SAME_DISK_SINCE..FORMAT_VERSION).contains(&version) => Disk::Same,
        Some(version) if (1..FORMAT_VERSION).contains(&version) => Disk::SameOrAnother,
        _ => Disk::Another,
    }
}

/// What decides the bytes of a manifest: what decides its layers', and this.
pub(super) fn of_images(layers: &str, config: &ConverterConfig) -> String {
    let platforms = match &config.platforms {
        Platforms::All => "all".to_owned(),
        Platforms::Some(wanted) => {
            let names: Vec<String> = wanted.iter().map(ToString::to_string).collect();
            names.join(",")
        }
    };
    let style = &config.style;
    let mut text = format!(
        "{layers} oci={} referrer={} platforms={platforms}",
        u8::from(style.force_oci),
        u8::from(style.referrer)
    );
    if config.others == Others::LeaveOut {
        text.push_str(" only");
    }
    if let Some(fs_type) = &style.fs_type {
        text.push_str(" fs=");
        text.push_str(fs_type);
    }
    if let Some(list) = config
        .settings
        .prefetch
        .as_ref()
        .filter(|_| style.acceleration)
    {
        let _ = write!(
            text,
            " acceleration={ACCELERATION_VERSION}:{}",
            list.digest()
        );
    }
    if text.len() <= 200 && text.is_ascii() {
        text
    } else {
        format!("{layers} {}", Digest::of(text.as_bytes()))
    }
}

/// What decides the bytes of a manifest that has layers of another tool.
pub(super) fn with_foreign_layers(images: &str) -> String {
    format!("{images} foreign")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::convert::layer::{Algorithm, BlockSize};

    #[test]
    fn only_earlier_versions_with_a_disk_of_the_same_size_are_superseded() {
        let settings = Settings {
            algorithm: Algorithm::Lz4,
            block_size: BlockSize::KIB_4,
            virtual_size: 1 << 30,
            max_layer_size: 1,
            threads: 1,
            format: Format::Native,
            prefetch: None,
        };
        for (variant, expected) in [
            ("v1 lz4 4096 1073741824", Disk::SameOrAnother),
            ("v2 zstd 65536 1073741824", Disk::SameOrAnother),
            ("v2 lz4 4096 1073741824 list=12", Disk::SameOrAnother),
            ("v2 lz4 4096 1073741824 list=12 on sha256:34", Disk::Another),
            ("v2 lz4 4096 68719476736", Disk::Another),
            ("v2 lz4 4096 1073741824 foreign", Disk::Another),
            ("v3 zstd 16384 1073741824", Disk::Same),
            ("v3 zstd 16384 1073741824 list=12", Disk::Same),
            ("v0 lz4 4096 1073741824", Disk::Another),
            ("v9 lz4 4096 1073741824", Disk::Another),
            ("", Disk::Another),
            ("v1", Disk::Another),
        ] {
            assert_eq!(disk(variant, &settings), expected, "{variant:?}");
        }
        assert_eq!(disk(&of_layers(&settings), &settings), Disk::Another);
    }
}
