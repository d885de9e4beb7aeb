//! Traces of `serve` and `convert`: spans posted to a collector by the client for other services.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::HeaderMap;

use crate::registry::{Poster, RegistryConfig, Upstream};
use crate::telemetry::{self, ActiveSpan, Post, PostError, Reply, Running, TelemetryConfig};

/// The longest that the end waits for the last spans.
const LAST: Duration = Duration::from_secs(5);

/// Starts traces, if there are to be any. The collector is reached as the first registry among
/// `upstreams` is: with the same authorities, egress proxy and time limits.
///
/// # Errors
/// When these cannot be used.
pub(super) fn start<'a>(
    config: Option<TelemetryConfig>,
    mut upstreams: impl Iterator<Item = &'a Upstream>,
) -> anyhow::Result<Option<Running>> {
    let Some(config) = config else {
        return Ok(None);
    };
    let registry: Option<&RegistryConfig> = upstreams.find_map(Upstream::registry_config);
    let registry = registry.cloned().unwrap_or_default();
    let poster = Poster::new(config.endpoint.as_str(), &registry)?;
    tracing::info!(
        collector = poster.place(),
        sampling = ?config.sampling,
        queue = config.queue.spans,
        "spans of requests and conversions are sent (--otlp-endpoint)"
    );
    let poster = Arc::new(poster);
    let post: Post = Box::new(move |headers, body| {
        let poster = Arc::clone(&poster);
        Box::pin(async move {
            let answered = poster.post_any(headers, body).await;
            answered
                .map(|answered| Reply {
                    status: answered.status,
                    retry_after: answered.retry_after,
                    body: answered.body,
                })
                .map_err(|unsent| PostError {
                    cause: unsent.cause,
                    is_transient: unsent.is_transient,
                })
        })
    });
    Ok(telemetry::start(config, post))
}

/// Begins the span of a command, below that of the program that runs it, which says so in the
/// environment (OpenTelemetry's specification, "Environment Variables as Context Propagation
/// Carriers").
pub(super) fn command(name: &'static str) -> ActiveSpan {
    let mut headers = HeaderMap::new();
    for (header, variable) in [("traceparent", "TRACEPARENT"), ("tracestate", "TRACESTATE")] {
        let value = std::env::var(variable).ok();
        if let Some(Ok(value)) = value.map(|value| value.parse()) {
            headers.insert(header, value);
        }
    }
    telemetry::command(name, &headers)
}

/// Sends the last spans of a command, for some seconds at most.
pub(super) async fn end(running: Option<Running>) {
    if let Some(running) = running {
        running.stop(LAST).await;
    }
}

/// Sends the last spans, for some seconds at most, and no longer than open requests are waited for:
/// `since` is when the end began.
pub(super) async fn stop(running: Option<Running>, since: Option<Instant>, drain: Duration) {
    if let Some(running) = running {
        let passed = since.map_or(Duration::ZERO, |since| since.elapsed());
        running.stop(drain.saturating_sub(passed).min(LAST)).await;
    }
}
