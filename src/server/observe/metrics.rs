//! Metrics, in Prometheus's format.

use std::sync::atomic::{AtomicI64, AtomicU64};
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::convert::{CacheCount, Status};
use crate::server::route::Kind;
use crate::store::BlobCounters;

/// By which a request is counted.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    route: &'static str,
    method: &'static str,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    route: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CacheLabels {
    cache: &'static str,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabels {
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    call: &'static str,
    result: &'static str,
}

/// The caches that are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::server) enum CacheName {
    /// The upstream's permissions.
    Permission,
    /// Converted images by their source.
    Image,
    /// Converted blobs in the blob directory.
    Blob,
}

impl CacheName {
    /// All of them, in their order.
    const ALL: [Self; 3] = [Self::Permission, Self::Image, Self::Blob];

    fn name(self) -> &'static str {
        match self {
            Self::Permission => "permission",
            Self::Image => "image",
            Self::Blob => "blob",
        }
    }
}

/// What is known only when it is asked for.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::server) struct Snapshot {
    /// The converter's counters.
    pub conversions: Status,
    /// The blob directory's counters.
    pub blobs: BlobCounters,
    /// What became of requests for sources.
    pub sources: Option<[CacheCount; 4]>,
    /// Bytes of all blobs.
    pub blob_bytes: Option<u64>,
    /// Bytes that the disk still takes.
    pub free_bytes: Option<u64>,
    /// Whether the index answers.
    pub is_index_up: bool,
}

type Total = Counter<u64, AtomicU64>;
type Level = Gauge<i64, AtomicI64>;

/// All counters.
pub(in crate::server) struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Total>,
    durations: Family<RouteLabels, Histogram, fn() -> Histogram>,
    sent: Family<RouteLabels, Total>,
    /// Those of each kind of route, found without a lookup.
    routes: Vec<(Histogram, Total)>,
    caches: Family<CacheLabels, Total>,
    stale_permissions: Total,
    signed_addresses: Family<ResultLabels, Total>,
    sources: Family<OutcomeLabels, Total>,
    source_cache_bytes: Family<OutcomeLabels, Total>,
    /// Misses and hits of each cache, likewise.
    lookups: Vec<[Total; 2]>,
    calls: Family<CallLabels, Total>,
    call_durations: Family<RouteLabels, Histogram, fn() -> Histogram>,
    conversions: Family<ResultLabels, Total>,
    conversion_durations: Family<ResultLabels, Histogram, fn() -> Histogram>,
    /// Connections that are open.
    pub connections: Level,
    /// Requests being answered.
    pub requests_open: Level,
    images_running: Level,
    layers_queued: Level,
    layers_running: Level,
    layers_converted: Total,
    layers_found: Total,
    layers_failed: Total,
    source_bytes: Total,
    blob_bytes_written: Total,
    blobs_verified: Total,
    verified_bytes: Total,
    blobs_damaged: Total,
    scrubbed: Total,
    scrubbed_bytes: Total,
    scrub_rounds: Total,
    scrub_last_round: Level,
    blob_bytes: Level,
    free_bytes: Level,
    index_up: Level,
}

fn seconds() -> Histogram {
    // From half a millisecond to over a minute.
    Histogram::new(exponential_buckets(0.0005, 3.0, 12))
}

fn long_seconds() -> Histogram {
    // From a tenth of a second to half an hour.
    Histogram::new(exponential_buckets(0.1, 2.5, 12))
}

impl Metrics {
    pub fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("overlaybd_proxy"),
            requests: Family::default(),
            durations: Family::new_with_constructor(seconds),
            sent: Family::default(),
            routes: Vec::new(),
            caches: Family::default(),
            stale_permissions: Total::default(),
            signed_addresses: Family::default(),
            sources: Family::default(),
            source_cache_bytes: Family::default(),
            lookups: Vec::new(),
            calls: Family::default(),
            call_durations: Family::new_with_constructor(seconds),
            conversions: Family::default(),
            conversion_durations: Family::new_with_constructor(long_seconds),
            connections: Level::default(),
            requests_open: Level::default(),
            images_running: Level::default(),
            layers_queued: Level::default(),
            layers_running: Level::default(),
            layers_converted: Total::default(),
            layers_found: Total::default(),
            layers_failed: Total::default(),
            source_bytes: Total::default(),
            blob_bytes_written: Total::default(),
            blobs_verified: Total::default(),
            verified_bytes: Total::default(),
            blobs_damaged: Total::default(),
            scrubbed: Total::default(),
            scrubbed_bytes: Total::default(),
            scrub_rounds: Total::default(),
            scrub_last_round: Level::default(),
            blob_bytes: Level::default(),
            free_bytes: Level::default(),
            index_up: Level::default(),
        };
        metrics.register();
        for route in Kind::ALL.map(Kind::name) {
            let labels = RouteLabels { route };
            let durations = metrics.durations.get_or_create(&labels).clone();
            let sent = metrics.sent.get_or_create(&labels).clone();
            metrics.routes.push((durations, sent));
        }
        for cache in CacheName::ALL.map(CacheName::name) {
            let total = |result| {
                let labels = CacheLabels { cache, result };
                metrics.caches.get_or_create(&labels).clone()
            };
            let totals = ["miss", "hit"].map(total);
            metrics.lookups.push(totals);
        }
        metrics
    }

    fn register(&mut self) {
        let registry = &mut self.registry;
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
        plain!("requests", "Requests answered", requests);
        of_unit!(
            "request_duration",
            "Until the answer's last byte",
            Seconds,
            durations
        );
        of_unit!("response_body", "Bytes of answers' bodies", Bytes, sent);
        plain!("cache_lookups", "Lookups in caches", caches);
        plain!(
            "stale_permissions",
            "Earlier permissions of upstreams used because these failed",
            stale_permissions
        );
        plain!(
            "signed_addresses",
            "Addresses of blobs that overlaybd was sent to, and of those refused: expired or forged",
            signed_addresses
        );
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
        plain!("upstream_calls", "Calls to upstreams for requests", calls);
        of_unit!(
            "upstream_call_duration",
            "Until an upstream's head",
            Seconds,
            call_durations
        );
        plain!(
            "conversion_waits",
            "Requests that waited for a conversion",
            conversions
        );
        of_unit!(
            "conversion_wait",
            "How long requests waited",
            Seconds,
            conversion_durations
        );
        plain!("connections", "Connections open", connections);
        plain!("requests_open", "Requests being answered", requests_open);
        plain!(
            "conversions_running",
            "Images being converted",
            images_running
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
        of_unit!("blobs", "Bytes of all blobs kept", Bytes, blob_bytes);
        of_unit!(
            "disk_free",
            "Bytes that the disk still takes",
            Bytes,
            free_bytes
        );
        plain!("index_up", "Whether the index answers", index_up);
    }

    /// A request was answered, or given up.
    pub fn request(
        &self,
        route: Kind,
        method: &http::Method,
        status: u16,
        took: Duration,
        sent: u64,
    ) {
        let method = match *method {
            http::Method::GET => "GET",
            http::Method::HEAD => "HEAD",
            http::Method::PUT => "PUT",
            http::Method::POST => "POST",
            http::Method::PATCH => "PATCH",
            http::Method::DELETE => "DELETE",
            // Clients can make up methods, and each would be a series of its own.
            _ => "other",
        };
        let labels = RequestLabels {
            route: route.name(),
            method,
            status,
        };
        self.requests.get_or_create(&labels).inc();
        if let Some((durations, total)) = self.routes.get(route as usize) {
            durations.observe(took.as_secs_f64());
            total.inc_by(sent);
        }
    }

    /// Something was looked up.
    pub fn lookup(&self, cache: CacheName, is_hit: bool) {
        let totals = self.lookups.get(cache as usize);
        if let Some(total) = totals.and_then(|totals| totals.get(usize::from(is_hit))) {
            total.inc();
        }
    }

    /// An upstream's earlier yes was used in place of an answer.
    pub fn stale_permission(&self) {
        self.stale_permissions.inc();
    }

    /// Something became of a signed address: `issued`, `expired` or `forged`.
    pub fn signed_address(&self, result: &'static str) {
        let labels = ResultLabels { result };
        self.signed_addresses.get_or_create(&labels).inc();
    }

    /// An upstream was asked.
    pub fn call(&self, call: &'static str, is_ok: bool, took: Duration) {
        let result = if is_ok { "ok" } else { "error" };
        self.calls.get_or_create(&CallLabels { call, result }).inc();
        let durations = self
            .call_durations
            .get_or_create(&RouteLabels { route: call });
        durations.observe(took.as_secs_f64());
    }

    /// A request waited for a conversion: `done`, `failed` or `timeout`.
    pub fn waited(&self, result: &'static str, took: Duration) {
        let labels = ResultLabels { result };
        self.conversions.get_or_create(&labels).inc();
        let durations = self.conversion_durations.get_or_create(&labels);
        durations.observe(took.as_secs_f64());
    }

    /// All of it as text.
    ///
    /// # Errors
    /// None that a string could have.
    pub fn encode(&self, now: Snapshot) -> Result<String, std::fmt::Error> {
        use std::sync::atomic::Ordering::Relaxed;
        let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let status = now.conversions;
        self.images_running.set(signed(status.images_running));
        self.layers_queued.set(signed(status.layers_queued));
        self.layers_running.set(signed(status.layers_running));
        for (total, value) in [
            (&self.layers_converted, status.layers_converted),
            (&self.layers_found, status.layers_found),
            (&self.layers_failed, status.layers_failed),
            (&self.source_bytes, status.source_bytes),
            (&self.blob_bytes_written, status.blob_bytes),
            (&self.blobs_verified, now.blobs.verified),
            (&self.verified_bytes, now.blobs.verified_bytes),
            (&self.blobs_damaged, now.blobs.damaged),
            (&self.scrubbed, now.blobs.scrubbed),
            (&self.scrubbed_bytes, now.blobs.scrubbed_bytes),
            (&self.scrub_rounds, now.blobs.scrub_rounds),
        ] {
            total.inner().store(value, Relaxed);
        }
        for count in now.sources.into_iter().flatten() {
            let outcome = count.outcome.name();
            for (family, value) in [
                (&self.sources, count.times),
                (&self.source_cache_bytes, count.bytes),
            ] {
                let total = family.get_or_create(&OutcomeLabels { outcome });
                total.inner().store(value, Relaxed);
            }
        }
        self.scrub_last_round
            .set(signed(now.blobs.scrub_last_round));
        // -1: the disk did not tell.
        self.blob_bytes.set(now.blob_bytes.map_or(-1, signed));
        self.free_bytes.set(now.free_bytes.map_or(-1, signed));
        self.index_up.set(i64::from(now.is_index_up));
        let mut text = String::new();
        text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_appear_in_the_metrics() {
        let metrics = Metrics::new();
        let took = Duration::from_millis(3);
        metrics.request(Kind::Blob, &http::Method::GET, 206, took, 4096);
        metrics.request(Kind::Blob, &http::Method::GET, 206, took, 4096);
        metrics.lookup(CacheName::Blob, true);
        let now = Snapshot {
            conversions: Status {
                layers_converted: 7,
                ..Status::default()
            },
            blobs: BlobCounters {
                damaged: 2,
                scrubbed_bytes: 11,
                scrub_last_round: 1_700_000_000,
                ..BlobCounters::default()
            },
            free_bytes: Some(9),
            ..Snapshot::default()
        };
        let text = metrics.encode(now).unwrap();
        for line in [
            r#"overlaybd_proxy_requests_total{route="blob",method="GET",status="206"} 2"#,
            r#"overlaybd_proxy_response_body_bytes_total{route="blob"} 8192"#,
            r#"overlaybd_proxy_cache_lookups_total{cache="blob",result="hit"} 1"#,
            "overlaybd_proxy_layers_converted_total 7",
            "overlaybd_proxy_disk_free_bytes 9",
            "overlaybd_proxy_blobs_damaged_total 2",
            "overlaybd_proxy_scrubbed_bytes_total 11",
            "overlaybd_proxy_scrub_last_round_timestamp_seconds 1700000000",
            "overlaybd_proxy_blobs_bytes -1",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
    }
}
