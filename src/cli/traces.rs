//! Traces of `serve`: spans posted to a collector by the client for other services.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::registry::Poster;
use crate::server::ServerConfig;
use crate::telemetry::{self, Post, PostError, Reply, Running, TelemetryConfig};

/// The longest that the end waits for the last spans.
const LAST: Duration = Duration::from_secs(5);

/// Starts traces, if there are to be any. The collector is reached as the first registry among the
/// upstreams is: with the same authorities, egress proxy and time limits.
///
/// # Errors
/// When these cannot be used.
pub(super) fn start(
    config: Option<TelemetryConfig>,
    warnings: &[String],
    server: &ServerConfig,
) -> anyhow::Result<Option<Running>> {
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    let Some(config) = config else {
        return Ok(None);
    };
    let mut upstreams = server.upstreams.iter();
    let registry = upstreams.find_map(|entry| entry.upstream.registry_config());
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

/// Sends the last spans, for some seconds at most, and no longer than open requests are waited for:
/// `since` is when the end began.
pub(super) async fn stop(running: Option<Running>, since: Option<Instant>, drain: Duration) {
    if let Some(running) = running {
        let passed = since.map_or(Duration::ZERO, |since| since.elapsed());
        running.stop(drain.saturating_sub(passed).min(LAST)).await;
    }
}
