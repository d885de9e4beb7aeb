//! What a converter counts.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::layer_progress::Layers;

/// Most characters of a platform that are logged.
const MAX_PLATFORM: usize = 64;

/// Counters for metrics, since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Status {
    /// Image conversions under way.
    pub images_running: u64,
    /// Layers waiting for a permit.
    pub layers_queued: u64,
    /// Layers being converted.
    pub layers_running: u64,
    /// Layers converted.
    pub layers_converted: u64,
    /// Layers found converted.
    pub layers_found: u64,
    /// Layers whose conversion failed.
    pub layers_failed: u64,
    /// Compressed bytes read from upstreams for conversions.
    pub source_bytes: u64,
    /// Bytes of converted blobs written.
    pub blob_bytes: u64,
    /// Compressed bytes of the layers found converted: nobody read them again.
    pub found_bytes: u64,
    /// Pushes of layers.
    pub pushed_layers: PushCount,
    /// Pushes of images: their documents, once their layers are there.
    pub pushed_images: PushCount,
    /// Pushes of converted images' tags.
    pub pushed_tags: PushCount,
    /// Bytes that pushes uploaded.
    pub pushed_bytes: u64,
}

/// What became of pushes of one kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PushCount {
    /// The registry took them.
    pub pushed: u64,
    /// It had them already.
    pub present: u64,
    /// They failed.
    pub failed: u64,
}

/// The live counters behind [`PushCount`].
#[derive(Debug, Default)]
pub(super) struct PushCounters {
    pub(super) pushed: AtomicU64,
    pub(super) present: AtomicU64,
    pub(super) failed: AtomicU64,
}

impl PushCounters {
    fn count(&self) -> PushCount {
        PushCount {
            pushed: self.pushed.load(Ordering::Relaxed),
            present: self.present.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
        }
    }
}

/// The live counters behind [`Status`].
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) images_running: AtomicU64,
    pub(super) layers_queued: AtomicU64,
    pub(super) layers_running: AtomicU64,
    pub(super) layers_converted: AtomicU64,
    pub(super) layers_found: AtomicU64,
    pub(super) layers_failed: AtomicU64,
    pub(super) source_bytes: AtomicU64,
    pub(super) blob_bytes: AtomicU64,
    pub(super) found_bytes: AtomicU64,
    pub(super) pushed_layers: PushCounters,
    pub(super) pushed_images: PushCounters,
    pub(super) pushed_tags: PushCounters,
    pub(super) pushed_bytes: AtomicU64,
}

impl Counters {
    pub(super) fn status(&self) -> Status {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Status {
            images_running: read(&self.images_running),
            layers_queued: read(&self.layers_queued),
            layers_running: read(&self.layers_running),
            layers_converted: read(&self.layers_converted),
            layers_found: read(&self.layers_found),
            layers_failed: read(&self.layers_failed),
            source_bytes: read(&self.source_bytes),
            blob_bytes: read(&self.blob_bytes),
            found_bytes: read(&self.found_bytes),
            pushed_layers: self.pushed_layers.count(),
            pushed_images: self.pushed_images.count(),
            pushed_tags: self.pushed_tags.count(),
            pushed_bytes: read(&self.pushed_bytes),
        }
    }
}

pub(super) fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Ordering::Relaxed);
}

/// What one conversion did, for the log.
#[derive(Debug, Default)]
pub(super) struct ConversionCounters {
    /// Layers of the images that were looked at.
    pub(super) layers: AtomicU64,
    /// Their compressed bytes.
    pub(super) layer_bytes: AtomicU64,
    pub(super) layers_found: AtomicU64,
    pub(super) layers_made: AtomicU64,
    pub(super) source_bytes: AtomicU64,
    pub(super) blob_bytes: AtomicU64,
    /// Those of the images that were looked at: at most as many as an index may have entries.
    platforms: Mutex<Vec<String>>,
    /// How far each layer has come.
    pub(super) each: Layers,
}

impl ConversionCounters {
    /// An attempt begins: the images are looked at again.
    pub(super) fn begin(&self) {
        self.layers.store(0, Ordering::Relaxed);
        self.layer_bytes.store(0, Ordering::Relaxed);
        self.platforms.lock().clear();
        self.each.clear();
    }

    /// Notes that an image for this platform is converted.
    pub(super) fn platform(&self, platform: &str) {
        // Whoever made the image wrote it.
        let platform: String = platform.chars().take(MAX_PLATFORM).collect();
        let mut platforms = self.platforms.lock();
        if !platforms.contains(&platform) {
            platforms.push(platform);
        }
    }

    /// The platforms of the images.
    pub(super) fn platform_names(&self) -> Vec<String> {
        self.platforms.lock().clone()
    }

    /// The platforms of the images, in one text.
    pub(super) fn platforms(&self) -> String {
        self.platforms.lock().join(",")
    }
}

/// One more of something, until dropped.
pub(super) struct Gauge<'a>(&'a AtomicU64);

impl<'a> Gauge<'a> {
    pub(super) fn up(counter: &'a AtomicU64) -> Self {
        add(counter, 1);
        Self(counter)
    }
}

impl Drop for Gauge<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
