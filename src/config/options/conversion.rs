//! How images are converted.
// The comments of options are their help texts.
#![allow(clippy::doc_markdown)]

use std::fs::File;
use std::io::{self, Read as _};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{existing_file, optional, required, switch};
use crate::config::{ConfigErrors, FsType, Text, bytes, duration, gibibytes, number};
use crate::convert::image::ImageStyle;
use crate::convert::layer::{Format, Settings, TurboSettings};
use crate::convert::{ConverterConfig, Others, Platforms, PushTarget};
use crate::format::prefetch::{MAX_LIST_BYTES, PrefetchList};
use crate::sizes::Size;

/// Whole blocks of the filesystem.
const BLOCK: u64 = 4096;
/// Below it there is no room for the filesystem itself.
const MIN_DISK: u64 = 1 << 20;
/// Where the 32-bit block numbers of file extents end.
const MAX_DISK: u64 = 16 << 40;
/// Less is taken by a single large layer.
const MIN_MEMORY: u64 = 128 << 20;
/// Larger files belong in the original layer.
const MAX_TURBO_INLINE: u64 = 1 << 20;
/// What "no limit" on conversions comes to.
const MANY: usize = 4096;

/// How images are converted.
#[derive(Debug, Clone, Default, clap::Args, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
#[command(next_help_heading = "Conversion")]
pub struct ConversionOptions {
    /// Platforms that are converted where an image has several, such as linux/riscv64, or all
    /// [default: linux/amd64,linux/arm64]
    #[arg(long, value_name = "PLATFORM", value_delimiter = ',')]
    pub platform: Vec<Text>,
    /// Compression of the blobs: lz4 or zstd
    #[arg(long, value_name = "NAME")]
    pub algorithm: Option<Text>,
    /// KiB of disk in a compressed block: 4, 8, 16, 32 or 64
    #[arg(long, value_name = "KIB")]
    pub bs: Option<Text>,
    /// File with the paths that containers read when they start, one a line, most wanted first:
    /// their data is put together in native layers. A line is /PATH, or /DIRECTORY/ for all
    /// that is below it
    #[arg(long, value_name = "FILE")]
    pub prefetch_list: Option<Text>,
    /// Add a layer to images for which there is a prefetch list, by which nodes read ahead what
    /// is on it when a container starts
    #[arg(long, value_name = "BOOL")]
    pub acceleration_layer: Option<Text>,
    /// Size of the virtual disk: GiB, or for example 512MiB
    #[arg(long, value_name = "GIB")]
    pub vsize: Option<Text>,
    /// Filesystem, mount options and mkfs options, as in 'ext4;;-b 4096'
    #[arg(long, value_name = "TYPE")]
    pub fstype: Option<Text>,
    /// Most bytes that one layer may inflate to
    #[arg(long, value_name = "SIZE")]
    pub max_layer_size: Option<Text>,
    /// Threads that compress; they decide no byte [default: the number of cores]
    #[arg(long, value_name = "N")]
    pub threads: Option<Text>,
    /// Most layers that are converted at one time, 0 for no limit [default: the number of
    /// cores, 2 to 16]
    #[arg(long, value_name = "N", alias = "concurrency-limit")]
    pub conversions: Option<Text>,
    /// Memory for conversions, all of their buffers together [default: a quarter of what there
    /// is, 256MiB to 4GiB]
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<Text>,
    /// How long the conversion of one image may take, once it has begun
    #[arg(long, value_name = "TIME")]
    pub conversion_timeout: Option<Text>,
    /// TurboOCI: files of up to this size are stored in the layer's metadata; for layers of more
    /// files than the 1,000,000 mappings that nodes take
    #[arg(long, value_name = "SIZE")]
    pub turbo_inline: Option<Text>,
    /// TurboOCI: most bytes that one read may have to inflate in vain; images with longer deflate
    /// blocks become what --turbo-fallback says
    #[arg(long, value_name = "SIZE")]
    pub turbo_max_gap: Option<Text>,
    /// Most images that are converted or wait for it; more are answered 429
    #[arg(long, value_name = "N")]
    pub max_queue: Option<Text>,
    /// Keep an index's images for other platforms, and whatever else it has, also where the
    /// converted index is put elsewhere: they are copied
    #[arg(long, value_name = "BOOL")]
    pub keep_platforms: Option<Text>,
    /// Describe converted images with OCI media types even where the source has Docker's
    #[arg(long, value_name = "BOOL")]
    pub oci: Option<Text>,
    /// Make converted images referrers of their source: subject and artifactType are set;
    /// implies --oci
    #[arg(long, value_name = "BOOL", alias = "referrer")]
    pub referrers: Option<Text>,
    /// Use layers that other tools made and the database names, although nothing proves that
    /// they fit each other
    #[arg(long, value_name = "BOOL")]
    pub trust_foreign_layers: Option<Text>,
    /// How long after its last sign of life another replica's conversion is taken over
    #[arg(long, value_name = "TIME")]
    pub lease_ttl: Option<Text>,
}

fn disk_size(text: &str) -> Result<u64, String> {
    let size = gibibytes(text)?;
    if !(MIN_DISK..=MAX_DISK).contains(&size) {
        return Err(format!(
            "a disk of {} is not supported: 1MiB to 16TiB is",
            Size(size)
        ));
    }
    if !size.is_multiple_of(BLOCK) {
        return Err(format!(
            "a disk of {size} bytes is not made of whole blocks of {BLOCK}"
        ));
    }
    Ok(size)
}

/// The list in a file.
pub(super) fn prefetch_list(path: &str) -> Result<PrefetchList, String> {
    let path = existing_file(path)?;
    let read = || {
        let mut text = Vec::new();
        // One byte more shows that it is too long.
        let most = MAX_LIST_BYTES as u64 + 1;
        File::open(&path)?.take(most).read_to_end(&mut text)?;
        Ok::<_, io::Error>(text)
    };
    let text = read().map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
    PrefetchList::parse(&text).map_err(|error| format!("{}: {error}", path.display()))
}

impl ConversionOptions {
    /// The platforms, or the mistakes in their names.
    pub fn platforms(&self, errors: &mut ConfigErrors) -> Platforms {
        if self.platform.iter().any(|text| text.as_str() == "all") {
            if self.platform.len() > 1 {
                errors.add("platform", "all says it all: leave the others out");
            }
            return Platforms::All;
        }
        Platforms::Some(super::list(errors, "platform", &self.platform, str::parse))
    }

    /// How TurboOCI layers are made.
    pub fn turbo(&self, errors: &mut ConfigErrors) -> Option<TurboSettings> {
        let inline =
            required(
                errors,
                "turbo-inline",
                self.turbo_inline.as_ref(),
                |text| match bytes(text)? {
                    size if size > MAX_TURBO_INLINE => Err(format!(
                        "{text:?} is too large: the format is for files that stay in the original \
                     layer, so up to 1MiB is taken"
                    )),
                    size => Ok(size),
                },
            );
        let max_gap = required(errors, "turbo-max-gap", self.turbo_max_gap.as_ref(), bytes);
        Some(TurboSettings {
            max_stored_file: inline?,
            max_gap: max_gap?,
        })
    }

    /// The converter's settings, for native layers. `is_elsewhere`: converted images are put into another
    /// repository than their sources'.
    pub fn config(
        &self,
        push: Option<PushTarget>,
        is_elsewhere: bool,
        errors: &mut ConfigErrors,
    ) -> Option<ConverterConfig> {
        let algorithm = required(errors, "algorithm", self.algorithm.as_ref(), str::parse);
        // The reference's `--bs 0` is for the default, as its empty `--algorithm` is.
        let bs = self.bs.as_ref().map(|text| match text.as_str() {
            "0" => Text::from("16"),
            _ => text.clone(),
        });
        let block_size = required(errors, "bs", bs.as_ref(), str::parse);
        let virtual_size = required(errors, "vsize", self.vsize.as_ref(), disk_size);
        let fs_type = required(errors, "fstype", self.fstype.as_ref(), str::parse::<FsType>);
        let limit = self.max_layer_size.as_ref();
        let max_layer_size = required(errors, "max-layer-size", limit, |text| match bytes(text)? {
            0 => Err("no layer inflates to 0 bytes: use for example 64GiB".to_owned()),
            size => Ok(size),
        });
        let threads = required(errors, "threads", self.threads.as_ref(), |text| {
            number(text, 1..=1024)
        });
        let conversions = required(errors, "conversions", self.conversions.as_ref(), |text| {
            number(text, 0..=MANY).map(|n| if n == 0 { MANY } else { n })
        });
        let memory = required(
            errors,
            "memory",
            self.memory.as_ref(),
            |text| match bytes(text)? {
                size if size < MIN_MEMORY => Err("a conversion needs 128MiB or more".to_owned()),
                size => Ok(size),
            },
        );
        let max_queue = required(errors, "max-queue", self.max_queue.as_ref(), |text| {
            number(text, 1..=1_000_000)
        });
        let timeout = self.conversion_timeout.as_ref();
        let timeout = required(errors, "conversion-timeout", timeout, |text| {
            match duration(text)? {
                time if time.is_zero() => Err("a time over 0 is needed".to_owned()),
                // As far as the clock goes.
                time => Ok(time.min(Duration::from_hours(24 * 365))),
            }
        });
        let platforms = self.platforms(errors);
        let keep = switch(errors, "keep-platforms", self.keep_platforms.as_ref());
        let others = match (is_elsewhere, keep) {
            (false, _) => Others::Stay,
            (true, false) => Others::LeaveOut,
            (true, true) => Others::Copy,
        };
        let force_oci = switch(errors, "oci", self.oci.as_ref());
        let referrer = switch(errors, "referrers", self.referrers.as_ref());
        let trust = self.trust_foreign_layers.as_ref();
        let trust_foreign_layers = switch(errors, "trust-foreign-layers", trust);
        let lease_ttl =
            required(
                errors,
                "lease-ttl",
                self.lease_ttl.as_ref(),
                |text| match duration(text)? {
                    time if time.as_secs() < 3 => {
                        Err("under 3s a busy replica is taken for a dead one".to_owned())
                    }
                    time => Ok(time),
                },
            );
        let acceleration = self.acceleration_layer.as_ref();
        let acceleration = switch(errors, "acceleration-layer", acceleration);
        let prefetch = self.prefetch_list.as_ref();
        let prefetch = optional(errors, "prefetch-list", prefetch, prefetch_list);
        Some(ConverterConfig {
            settings: Settings {
                algorithm: algorithm?,
                block_size: block_size?,
                virtual_size: virtual_size?,
                max_layer_size: max_layer_size?,
                threads: threads?,
                format: Format::Native,
                prefetch: prefetch.map(Arc::new),
            },
            platforms,
            others,
            style: ImageStyle {
                force_oci,
                referrer,
                fs_type: fs_type?.annotation(),
                is_turbo: false,
                acceleration,
            },
            conversions: conversions?,
            memory: memory?,
            max_queue: max_queue?,
            timeout: timeout?,
            trust_foreign_layers,
            lease_ttl: lease_ttl?,
            push,
        })
    }
}
