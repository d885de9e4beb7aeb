//! The settings that decide the bytes of layers and manifests, as the index names them: short
//! ASCII text.

use super::super::layer::Settings;
use super::super::tag::FORMAT_VERSION;
use super::super::types::{ConverterConfig, Others, Platforms};
use crate::oci::Digest;

/// The first format version whose blobs hold the same disk as those of [`FORMAT_VERSION`].
/// Raise it to the new version with any change of what is on the disk.
const SAME_DISK_SINCE: u32 = 1;

/// What decides the bytes of a layer.
pub(super) fn of_layers(settings: &Settings) -> String {
    format!(
        "v{FORMAT_VERSION} {} {} {}",
        settings.algorithm,
        settings.block_size.bytes(),
        settings.virtual_size
    )
}

/// Whether blobs that an earlier version recorded under `variant` hold the same disk as those
/// that are made now with `settings`, however they are compressed.
pub(super) fn has_same_disk(variant: &str, settings: &Settings) -> bool {
    let mut words = variant.split(' ');
    let version = words
        .next()
        .and_then(|word| word.strip_prefix('v')?.parse::<u32>().ok());
    let virtual_size = words.nth(2).and_then(|word| word.parse::<u64>().ok());
    version.is_some_and(|version| (SAME_DISK_SINCE..FORMAT_VERSION).contains(&version))
        && virtual_size == Some(settings.virtual_size)
        // Built on another tool's blobs.
        && words.next().is_none()
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
        };
        for (variant, is_same) in [
            ("v1 lz4 4096 1073741824", true),
            ("v1 zstd 65536 1073741824", true),
            ("v1 lz4 4096 68719476736", false),
            ("v1 lz4 4096 1073741824 foreign", false),
            ("v0 lz4 4096 1073741824", false),
            ("v9 lz4 4096 1073741824", false),
            ("", false),
            ("v1", false),
        ] {
            assert_eq!(has_same_disk(variant, &settings), is_same, "{variant:?}");
        }
        assert!(!has_same_disk(&of_layers(&settings), &settings));
    }
}
