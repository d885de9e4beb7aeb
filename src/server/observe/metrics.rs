//! Metrics, in Prometheus's format.

use std::sync::atomic::{AtomicI64, AtomicU64};
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use super::events::Events;
use super::levels::{ScrapedMetrics, Snapshot};
use super::process::{ProcessMetrics, ProcessStat};
use super::refusals::Refusals;
use crate::convert::Conversion;
use crate::registry;
use crate::server::route::Kind;

/// What tells builds apart.
const BUILD: [(&str, &str); 1] = [("version", env!("CARGO_PKG_VERSION"))];

/// The route of answers with a part of a blob. Nodes read images so, and wait for each; a whole blob
/// takes as long as its client does.
const BLOB_RANGE: &str = "blob-range";

/// By which a request is counted.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    route: &'static str,
    method: &'static str,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ProtocolLabels {
    protocol: &'static str,
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
struct ConversionLabels {
    format: &'static str,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    upstream: String,
    call: &'static str,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct UpstreamLabels {
    upstream: String,
}

/// What became of a call to an upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::server) enum Called {
    /// It answered.
    Answered,
    /// It answered with an error, such as that there is no such thing.
    Refused,
    /// It did not answer, or said that it cannot: 5xx, 429.
    Failing,
}

impl Called {
    /// Of a call's result.
    pub fn of<T>(result: &Result<T, registry::Error>) -> Self {
        match result {
            Ok(_) => Self::Answered,
            Err(error) if error.is_failing() => Self::Failing,
            Err(_) => Self::Refused,
        }
    }
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
    pub const ALL: [Self; 3] = [Self::Permission, Self::Image, Self::Blob];

    fn name(self) -> &'static str {
        match self {
            Self::Permission => "permission",
            Self::Image => "image",
            Self::Blob => "blob",
        }
    }
}

type Total = Counter<u64, AtomicU64>;
type Level = Gauge<i64, AtomicI64>;

/// All counters.
pub(in crate::server) struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Total>,
    protocols: Family<ProtocolLabels, Total>,
    /// Of HTTP/1 and HTTP/2, likewise found without a lookup.
    versions: [Total; 2],
    durations: Family<RouteLabels, Histogram, fn() -> Histogram>,
    sent: Family<RouteLabels, Total>,
    /// Those of each kind of route, found without a lookup.
    routes: Vec<(Histogram, Total)>,
    /// Those of ranges of blobs, likewise.
    ranges: (Histogram, Total),
    caches: Family<CacheLabels, Total>,
    stale_permissions: Total,
    signed_addresses: Family<ResultLabels, Total>,
    /// Misses and hits of each cache, likewise.
    lookups: Vec<[Total; 2]>,
    calls: Family<CallLabels, Total>,
    upstreams_up: Family<UpstreamLabels, Level>,
    call_durations: Family<RouteLabels, Histogram, fn() -> Histogram>,
    conversions: Family<ResultLabels, Total>,
    conversion_durations: Family<ResultLabels, Histogram, fn() -> Histogram>,
    images: Family<ConversionLabels, Total>,
    image_durations: Family<ConversionLabels, Histogram, fn() -> Histogram>,
    image_sizes: Family<ConversionLabels, Histogram, fn() -> Histogram>,
    /// Connections that are open.
    pub connections: Level,
    /// Requests being answered.
    pub requests_open: Level,
    /// Requests and connections that limits refused.
    pub refusals: Refusals,
    /// Notifications, webhooks, and answers while an upstream fails.
    pub events: Events,
    levels: ScrapedMetrics,
    process: ProcessMetrics,
}

fn seconds() -> Histogram {
    // From half a millisecond to over a minute.
    Histogram::new(exponential_buckets(0.0005, 3.0, 12))
}

fn long_seconds() -> Histogram {
    // From a tenth of a second to half an hour.
    Histogram::new(exponential_buckets(0.1, 2.5, 12))
}

fn image_bytes() -> Histogram {
    // From a megabyte to 16 GB.
    Histogram::new(exponential_buckets(1e6, 4.0, 8))
}

impl Metrics {
    pub fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("overlaybd_proxy"),
            requests: Family::default(),
            protocols: Family::default(),
            versions: Default::default(),
            durations: Family::new_with_constructor(seconds),
            sent: Family::default(),
            routes: Vec::new(),
            ranges: (seconds(), Total::default()),
            caches: Family::default(),
            stale_permissions: Total::default(),
            signed_addresses: Family::default(),
            lookups: Vec::new(),
            calls: Family::default(),
            upstreams_up: Family::default(),
            call_durations: Family::new_with_constructor(seconds),
            conversions: Family::default(),
            conversion_durations: Family::new_with_constructor(long_seconds),
            images: Family::default(),
            image_durations: Family::new_with_constructor(long_seconds),
            image_sizes: Family::new_with_constructor(image_bytes),
            connections: Level::default(),
            requests_open: Level::default(),
            refusals: Refusals::default(),
            events: Events::default(),
            levels: ScrapedMetrics::default(),
            process: ProcessMetrics::new(),
        };
        metrics.register();
        metrics.versions = ["http/1", "http/2"].map(|protocol| {
            let labels = ProtocolLabels { protocol };
            metrics.protocols.get_or_create(&labels).clone()
        });
        for route in Kind::ALL.map(Kind::name) {
            let series = metrics.of_route(route);
            metrics.routes.push(series);
        }
        metrics.ranges = metrics.of_route(BLOB_RANGE);
        for cache in CacheName::ALL.map(CacheName::name) {
            let total = |result| {
                let labels = CacheLabels { cache, result };
                metrics.caches.get_or_create(&labels).clone()
            };
            let totals = ["miss", "hit"].map(total);
            metrics.lookups.push(totals);
        }
        // There from the start, with 0: an increase from nothing is none for Prometheus.
        for result in ["done", "failed", "timeout"] {
            let labels = ResultLabels { result };
            let _ = metrics.conversions.get_or_create(&labels);
            let _ = metrics.conversion_durations.get_or_create(&labels);
        }
        for format in ["native", "turbo"] {
            for outcome in ["converted", "failed", "cancelled", "no-image"] {
                let labels = ConversionLabels { format, outcome };
                let _ = metrics.images.get_or_create(&labels);
                let _ = metrics.image_durations.get_or_create(&labels);
                let _ = metrics.image_sizes.get_or_create(&labels);
            }
        }
        for result in ["issued", "expired", "forged"] {
            let labels = ResultLabels { result };
            let _ = metrics.signed_addresses.get_or_create(&labels);
        }
        metrics
    }

    fn of_route(&self, route: &'static str) -> (Histogram, Total) {
        let labels = RouteLabels { route };
        let durations = self.durations.get_or_create(&labels).clone();
        (durations, self.sent.get_or_create(&labels).clone())
    }

    fn register(&mut self) {
        self.events.register(&mut self.registry);
        self.levels.register(&mut self.registry);
        self.refusals.register(&mut self.registry);
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
        registry.register("build", "Which build this is", Info::new(BUILD.to_vec()));
        plain!("requests", "Requests answered", requests);
        plain!(
            "protocol_requests",
            "Requests that came, by the protocol of their connection",
            protocols
        );
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
        plain!("upstream_calls", "Calls to upstreams for requests", calls);
        plain!(
            "upstream_up",
            "Whether the last call to an upstream was answered: 0 for no answer, 5xx and 429",
            upstreams_up
        );
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
        plain!("conversions", "Conversions of images that ended", images);
        of_unit!(
            "conversion_duration",
            "How long they took, once admitted",
            Seconds,
            image_durations
        );
        of_unit!(
            "conversion_source",
            "Compressed bytes of their layers",
            Bytes,
            image_sizes
        );
        plain!("connections", "Connections open", connections);
        plain!("requests_open", "Requests being answered", requests_open);
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
        let is_range = route == Kind::Blob && status == http::StatusCode::PARTIAL_CONTENT.as_u16();
        let labels = RequestLabels {
            route: if is_range { BLOB_RANGE } else { route.name() },
            method,
            status,
        };
        self.requests.get_or_create(&labels).inc();
        let series = if is_range {
            Some(&self.ranges)
        } else {
            self.routes.get(route as usize)
        };
        if let Some((durations, total)) = series {
            durations.observe(took.as_secs_f64());
            total.inc_by(sent);
        }
    }

    /// A request has come.
    pub fn version(&self, version: http::Version) {
        let [one, two] = &self.versions;
        let total = if version == http::Version::HTTP_2 {
            two
        } else {
            one
        };
        total.inc();
    }

    /// Something was looked up.
    pub fn lookup(&self, cache: CacheName, is_hit: bool) {
        let totals = self.lookups.get(cache as usize);
        if let Some(total) = totals.and_then(|totals| totals.get(usize::from(is_hit))) {
            total.inc();
        }
    }

    /// Misses and hits of a cache since the start.
    pub fn lookups(&self, cache: CacheName) -> [u64; 2] {
        let totals = self.lookups.get(cache as usize);
        totals.map_or([0, 0], |totals| totals.each_ref().map(Counter::get))
    }

    /// Whether the last call to an upstream was answered; `None` if there was none.
    pub fn is_up(&self, upstream: &str) -> Option<bool> {
        let labels = UpstreamLabels {
            upstream: upstream.to_owned(),
        };
        let level = self.upstreams_up.get(&labels)?.get();
        Some(level != 0)
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
    pub fn call(&self, upstream: &str, call: &'static str, called: Called, took: Duration) {
        let result = match called {
            Called::Answered => "ok",
            Called::Refused | Called::Failing => "error",
        };
        let upstream = upstream.to_owned();
        let up = UpstreamLabels {
            upstream: upstream.clone(),
        };
        let is_up = i64::from(called != Called::Failing);
        self.upstreams_up.get_or_create(&up).set(is_up);
        let labels = CallLabels {
            upstream,
            call,
            result,
        };
        self.calls.get_or_create(&labels).inc();
        let durations = self
            .call_durations
            .get_or_create(&RouteLabels { route: call });
        durations.observe(took.as_secs_f64());
    }

    /// The conversion of an image ended.
    pub fn converted(&self, conversion: &Conversion) {
        let labels = ConversionLabels {
            format: conversion.format.name(),
            outcome: conversion.state.name(),
        };
        self.images.get_or_create(&labels).inc();
        let took = conversion.started_at.zip(conversion.finished_at);
        let took = took.and_then(|(began, ended)| ended.duration_since(began).ok());
        if let Some(took) = took {
            let durations = self.image_durations.get_or_create(&labels);
            durations.observe(took.as_secs_f64());
        }
        if conversion.source_bytes > 0 {
            #[allow(clippy::cast_precision_loss)]
            let bytes = conversion.source_bytes as f64;
            self.image_sizes.get_or_create(&labels).observe(bytes);
        }
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
    pub fn encode(&self, now: &Snapshot, process: ProcessStat) -> Result<String, std::fmt::Error> {
        self.levels.set(now);
        self.process.set(process);
        let mut text = String::new();
        text::encode_registry(&mut text, &self.registry)?;
        text::encode_registry(&mut text, self.process.registry())?;
        text::encode_eof(&mut text)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::convert::Status;
    use crate::store::BlobCounters;

    #[test]
    fn counters_appear_in_the_metrics() {
        let metrics = Metrics::new();
        let took = Duration::from_millis(3);
        metrics.request(Kind::Blob, &http::Method::GET, 206, took, 4096);
        metrics.request(Kind::Blob, &http::Method::GET, 206, took, 4096);
        metrics.request(Kind::Blob, &http::Method::GET, 200, took, 5);
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
        let text = metrics.encode(&now, ProcessStat::default()).unwrap();
        for line in [
            r#"overlaybd_proxy_requests_total{route="blob-range",method="GET",status="206"} 2"#,
            r#"overlaybd_proxy_response_body_bytes_total{route="blob-range"} 8192"#,
            r#"overlaybd_proxy_response_body_bytes_total{route="blob"} 5"#,
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
