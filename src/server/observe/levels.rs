//! Metrics of what is known only when it is asked for: counters of other parts, and states.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::object_levels::ObjectMetrics;
use crate::convert::{CacheCount, PushCount, Status};
use crate::store::{BlobCounters, ObjectCounters, PinnedUse};
use crate::telemetry::SpanCounts;

type Total = Counter<u64, AtomicU64>;
type Level = Gauge<i64, AtomicI64>;

/// What is known only when it is asked for.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::server) struct Snapshot {
    /// The converter's counters.
    pub conversions: Status,
    /// Failed conversions that are not tried again yet.
    pub failures: usize,
    /// The blob directory's counters.
    pub blobs: BlobCounters,
    /// Blobs that were evicted.
    pub evicted: u64,
    /// The object storage's counters, if there is one.
    pub objects: Option<ObjectCounters>,
    /// What became of requests for sources.
    pub sources: Option<[CacheCount; 4]>,
    /// What became of spans, if there are traces.
    pub spans: Option<SpanCounts>,
    /// Bytes of all blobs.
    pub blob_bytes: Option<u64>,
    /// What is pinned until it is unpinned.
    pub pinned: Option<PinnedUse>,
    /// Bytes that the disk still takes.
    pub free_bytes: Option<u64>,
    /// Whether the index answers.
    pub is_index_up: bool,
    /// Requests that wait: for a conversion, for an upstream, for what tells whether they may have
    /// something.
    pub waiting: [usize; 3],
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AwaitedLabels {
    awaited: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PushLabels {
    part: &'static str,
    outcome: &'static str,
}

/// The metrics of a [`Snapshot`].
#[derive(Default)]
pub(super) struct ScrapedMetrics {
    objects: ObjectMetrics,
    sources: Family<OutcomeLabels, Total>,
    source_cache_bytes: Family<OutcomeLabels, Total>,
    spans: Family<OutcomeLabels, Total>,
    requests_waiting: Family<AwaitedLabels, Level>,
    images_running: Level,
    failures_remembered: Level,
    layers_queued: Level,
    layers_running: Level,
    layers_converted: Total,
    layers_found: Total,
    layers_failed: Total,
    source_bytes: Total,
    blob_bytes_written: Total,
    found_bytes: Total,
    pushes: Family<PushLabels, Total>,
    pushed_bytes: Total,
    blobs_verified: Total,
    verified_bytes: Total,
    blobs_damaged: Total,
    blobs_evicted: Total,
    scrubbed: Total,
    scrubbed_bytes: Total,
    scrub_rounds: Total,
    scrub_last_round: Level,
    blob_bytes: Level,
    pinned_blobs: Level,
    pinned_bytes: Level,
    free_bytes: Level,
    index_up: Level,
}

impl ScrapedMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        self.objects.register(registry);
        macro_rules! plain {
            ($name:literal, $help:literal, $metric:ident) => {
                registry.register($name, $help, self.$metric.clone());
            };
        }
        macro_rules! of_unit {
            ($name:literal, $help:literal, $unit:ident, $metric:ident) => {
                registry.register_with_unit($name, $help, Unit::$unit, self.$metric.clone());
            };
        }
        plain!(
            "source_cache",
            "Requests for manifests and blobs of sources, and layers of conversions, by what became of them",
            sources
        );
        of_unit!(
            "source_cache",
            "Bytes of them, as the heads of answers tell",
            Bytes,
            source_cache_bytes
        );
        plain!(
            "trace_spans",
            "Spans of traces that ended, by what became of them",
            spans
        );
        plain!(
            "conversions_running",
            "Images being converted",
            images_running
        );
        plain!(
            "failures_remembered",
            "Conversions that failed and are not tried again yet",
            failures_remembered
        );
        plain!(
            "layers_queued",
            "Layers waiting to be converted",
            layers_queued
        );
        plain!("layers_running", "Layers being converted", layers_running);
        plain!("layers_converted", "Layers converted", layers_converted);
        plain!("layers_found", "Layers found converted", layers_found);
        plain!(
            "layers_failed",
            "Layers whose conversion failed",
            layers_failed
        );
        of_unit!(
            "source_read",
            "Compressed bytes read for conversions",
            Bytes,
            source_bytes
        );
        of_unit!(
            "blobs_written",
            "Bytes of converted blobs written",
            Bytes,
            blob_bytes_written
        );
        of_unit!(
            "layers_found",
            "Compressed bytes of layers found converted, which were not read again",
            Bytes,
            found_bytes
        );
        plain!(
            "pushes",
            "Pushes of converted layers, images and tags, by what became of them",
            pushes
        );
        of_unit!("pushed", "Bytes that pushes uploaded", Bytes, pushed_bytes);
        plain!(
            "blobs_verified",
            "Files of blobs read to their end and compared with their digests",
            blobs_verified
        );
        of_unit!(
            "blobs_verified",
            "Bytes of blobs read and compared with their digests",
            Bytes,
            verified_bytes
        );
        plain!(
            "blobs_damaged",
            "Damaged files of blobs that were found and taken away",
            blobs_damaged
        );
        plain!(
            "scrubbed_blobs",
            "Files of blobs that the scrubber read to their end",
            scrubbed
        );
        of_unit!(
            "scrubbed",
            "Bytes that the scrubber read",
            Bytes,
            scrubbed_bytes
        );
        plain!(
            "scrub_rounds",
            "Times that the scrubber came to the end of all blobs",
            scrub_rounds
        );
        of_unit!(
            "scrub_last_round_timestamp",
            "When a scrubber of this data directory last came to the end of all blobs; 0: never",
            Seconds,
            scrub_last_round
        );
        plain!(
            "blobs_evicted",
            "Blobs that were removed to make room for others",
            blobs_evicted
        );
        of_unit!("blobs", "Bytes of all blobs kept", Bytes, blob_bytes);
        plain!(
            "blobs_pinned",
            "Blobs that are pinned until they are unpinned",
            pinned_blobs
        );
        of_unit!(
            "blobs_pinned",
            "Bytes of blobs that are pinned until they are unpinned",
            Bytes,
            pinned_bytes
        );
        of_unit!(
            "disk_free",
            "Bytes that the disk still takes",
            Bytes,
            free_bytes
        );
        plain!("index_up", "Whether the index answers", index_up);
        plain!(
            "requests_waiting",
            "Requests that wait, by what for",
            requests_waiting
        );
    }

    fn set_pushes(&self, part: &'static str, count: PushCount) {
        for (outcome, value) in [
            ("pushed", count.pushed),
            ("present", count.present),
            ("failed", count.failed),
        ] {
            let total = self.pushes.get_or_create(&PushLabels { part, outcome });
            total.inner().store(value, Ordering::Relaxed);
        }
    }

    /// Takes over what is known now.
    pub(super) fn set(&self, now: &Snapshot) {
        let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        self.objects.set(now.objects.as_ref());
        let status = now.conversions;
        self.images_running.set(signed(status.images_running));
        let failures = i64::try_from(now.failures).unwrap_or(i64::MAX);
        self.failures_remembered.set(failures);
        self.layers_queued.set(signed(status.layers_queued));
        self.layers_running.set(signed(status.layers_running));
        for (total, value) in [
            (&self.layers_converted, status.layers_converted),
            (&self.layers_found, status.layers_found),
            (&self.layers_failed, status.layers_failed),
            (&self.source_bytes, status.source_bytes),
            (&self.blob_bytes_written, status.blob_bytes),
            (&self.found_bytes, status.found_bytes),
            (&self.pushed_bytes, status.pushed_bytes),
            (&self.blobs_verified, now.blobs.verified),
            (&self.verified_bytes, now.blobs.verified_bytes),
            (&self.blobs_damaged, now.blobs.damaged),
            (&self.blobs_evicted, now.evicted),
            (&self.scrubbed, now.blobs.scrubbed),
            (&self.scrubbed_bytes, now.blobs.scrubbed_bytes),
            (&self.scrub_rounds, now.blobs.scrub_rounds),
        ] {
            total.inner().store(value, Ordering::Relaxed);
        }
        for (part, count) in [
            ("layer", status.pushed_layers),
            ("image", status.pushed_images),
            ("tag", status.pushed_tags),
        ] {
            self.set_pushes(part, count);
        }
        for count in now.sources.iter().flatten() {
            let outcome = count.outcome.name();
            for (family, value) in [
                (&self.sources, count.times),
                (&self.source_cache_bytes, count.bytes),
            ] {
                let total = family.get_or_create(&OutcomeLabels { outcome });
                total.inner().store(value, Ordering::Relaxed);
            }
        }
        if let Some(spans) = now.spans {
            for (outcome, value) in [
                ("exported", spans.exported),
                ("dropped", spans.dropped),
                ("failed", spans.failed),
            ] {
                let total = self.spans.get_or_create(&OutcomeLabels { outcome });
                total.inner().store(value, Ordering::Relaxed);
            }
        }
        self.scrub_last_round
            .set(signed(now.blobs.scrub_last_round));
        // -1: the disk did not tell.
        self.blob_bytes.set(now.blob_bytes.map_or(-1, signed));
        let pinned = |of: fn(PinnedUse) -> u64| now.pinned.map_or(-1, |now| signed(of(now)));
        self.pinned_blobs.set(pinned(|now| now.blobs));
        self.pinned_bytes.set(pinned(|now| now.bytes));
        self.free_bytes.set(now.free_bytes.map_or(-1, signed));
        self.index_up.set(i64::from(now.is_index_up));
        let awaited = ["conversion", "upstream", "permission"];
        for (awaited, requests) in awaited.into_iter().zip(now.waiting) {
            let level = self
                .requests_waiting
                .get_or_create(&AwaitedLabels { awaited });
            level.set(i64::try_from(requests).unwrap_or(i64::MAX));
        }
    }
}
