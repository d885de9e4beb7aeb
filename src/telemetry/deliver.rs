//! Sends spans to the collector, in batches.

use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::pin::pin;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, StatusCode};
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SpanData;
use tokio::sync::{mpsc, oneshot};

use super::Counters;
use super::config::{TelemetryConfig, header_lines};
use super::encode::{encode, gzip, refused};

/// Posts a body with these headers to the collector's address.
pub type Post =
    Box<dyn Fn(HeaderMap, Bytes) -> BoxFuture<'static, Result<Reply, PostError>> + Send + Sync>;

/// The collector's answer.
#[derive(Debug, Clone)]
pub struct Reply {
    /// Its status.
    pub status: StatusCode,
    /// How long it wishes to be left alone.
    pub retry_after: Option<Duration>,
    /// The beginning of its body.
    pub body: Bytes,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostError {
    /// The cause, without secrets.
    pub cause: String,
    /// Whether another attempt may succeed.
    pub is_transient: bool,
}

/// The wait before the second attempt; it doubles with each.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// That spans are lost is logged so often at most.
const WARN_EVERY: Duration = Duration::from_mins(1);
/// Most bytes of the file with headers.
const MAX_HEADERS: u64 = 64 << 10;

/// What sends spans to the collector.
pub(super) struct Delivery {
    config: TelemetryConfig,
    post: Post,
    resource: ResourceAttributesWithSchema,
    counters: &'static Counters,
    warned: Option<Instant>,
    /// Spans that were lost since then.
    lost: u64,
    /// Those that the queue had no room for, as far as it was logged.
    dropped: u64,
}

impl Delivery {
    pub(super) fn new(
        config: TelemetryConfig,
        post: Post,
        resource: &Resource,
        counters: &'static Counters,
    ) -> Self {
        Self {
            config,
            post,
            resource: resource.into(),
            counters,
            warned: None,
            lost: 0,
            dropped: 0,
        }
    }

    /// Sends spans until `stop` comes, then those that wait.
    pub(super) async fn run(
        mut self,
        mut spans: mpsc::Receiver<SpanData>,
        stop: oneshot::Receiver<()>,
    ) {
        let most = self.config.queue.batch;
        let (mut batch, mut is_stopping) = (Vec::new(), false);
        let mut stop = pin!(stop);
        let mut due = tokio::time::Instant::now();
        loop {
            let (was_empty, room) = (batch.is_empty(), most.saturating_sub(batch.len()));
            let (mut is_due, mut is_over) = (false, false);
            tokio::select! {
                biased;
                _ = &mut stop, if !is_stopping => {
                    is_stopping = true;
                    spans.close();
                }
                count = spans.recv_many(&mut batch, room) => is_over = count == 0,
                () = tokio::time::sleep_until(due), if !was_empty => is_due = true,
            }
            if was_empty {
                due = tokio::time::Instant::now() + self.config.queue.delay;
            }
            if !batch.is_empty() && (is_due || is_over || batch.len() >= most) {
                self.export(std::mem::take(&mut batch)).await;
            }
            if is_over {
                return;
            }
        }
    }

    async fn export(&mut self, batch: Vec<SpanData>) {
        let count = batch.len();
        let body = encode(batch, &self.resource);
        let limit = self.config.timeout;
        let sent = tokio::time::timeout(limit, self.send(body)).await;
        let sent = sent.unwrap_or_else(|_| Err(format!("no answer within {limit:?}")));
        let (lost, cause) = match sent {
            Ok(None) => (0, String::new()),
            Ok(Some((refused, why))) => {
                // A server's words: no more of them than a line holds.
                let why: String = why.chars().take(200).collect();
                (refused.min(count), format!("refused: {why:?}"))
            }
            Err(cause) => (count, cause),
        };
        Counters::add(&self.counters.exported, count - lost);
        Counters::add(&self.counters.failed, lost);
        self.lost += u64::try_from(lost).unwrap_or(u64::MAX);
        self.warn(&cause);
    }

    /// Says that spans were lost, if some were and that was not said a moment ago.
    fn warn(&mut self, cause: &str) {
        let dropped = self
            .counters
            .dropped
            .load(std::sync::atomic::Ordering::Relaxed);
        let new = dropped.saturating_sub(self.dropped);
        let is_said = self.warned.is_some_and(|at| at.elapsed() < WARN_EVERY);
        if is_said || (self.lost == 0 && new == 0) {
            return;
        }
        let cause = match cause {
            "" => "the queue is full (OTEL_BSP_MAX_QUEUE_SIZE)",
            cause => cause,
        };
        tracing::warn!(
            collector = self.config.endpoint.origin().ascii_serialization(),
            unsent = self.lost,
            dropped = new,
            cause,
            "spans were lost; requests are served all the same"
        );
        (self.lost, self.dropped) = (0, dropped);
        self.warned = Some(Instant::now());
    }

    /// Sends a body, again where the specification says so (OTLP/HTTP, "Failures"); the spans that
    /// were refused.
    async fn send(&self, body: Bytes) -> Result<Option<(usize, String)>, String> {
        let mut headers = self.headers().await?;
        let compressed = self.config.compress.then(|| gzip(&body)).flatten();
        let body = match compressed {
            Some(compressed) => {
                headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
                compressed
            }
            None => body,
        };
        let mut wait = FIRST_WAIT;
        loop {
            let after = match (self.post)(headers.clone(), body.clone()).await {
                Ok(reply) if reply.status.is_success() => return Ok(refused(reply.body)),
                Ok(reply) if matches!(reply.status.as_u16(), 429 | 502..=504) => {
                    tracing::debug!(status = %reply.status, "spans are sent again");
                    reply.retry_after
                }
                Ok(reply) => return Err(format!("the answer is {}", reply.status)),
                Err(unposted) if !unposted.is_transient => return Err(unposted.cause),
                Err(unposted) => {
                    tracing::debug!(cause = unposted.cause, "spans are sent again");
                    // Where nobody listens, nobody will soon: what came meanwhile counts more.
                    if wait > FIRST_WAIT {
                        return Err(unposted.cause);
                    }
                    None
                }
            };
            let spread = wait.mul_f64(rand::random_range(0.75..=1.25));
            tokio::time::sleep(pause(after, spread)).await;
            wait = wait.saturating_mul(2);
        }
    }

    async fn headers(&self) -> Result<HeaderMap, String> {
        let mut headers = self.config.headers.clone();
        if let Some(path) = self.config.headers_file.clone() {
            let read = tokio::task::spawn_blocking(move || read_headers(&path)).await;
            let more = read.map_err(|panic| panic.to_string())??;
            headers.extend(more);
        }
        let protobuf = HeaderValue::from_static("application/x-protobuf");
        headers.insert(CONTENT_TYPE, protobuf);
        Ok(headers)
    }
}

/// How long it is until the next attempt: not shorter than without the collector's word, which may
/// name the past.
fn pause(after: Option<Duration>, spread: Duration) -> Duration {
    after.map_or(spread, |after| after.max(spread))
}

fn read_headers(path: &Path) -> Result<HeaderMap, String> {
    let unusable = |cause: String| format!("--otlp-headers-file: {}: {cause}", path.display());
    let mut text = String::new();
    let opened = fs::File::open(path);
    opened
        .and_then(|file| file.take(MAX_HEADERS).read_to_string(&mut text))
        .map_err(|error| unusable(error.to_string()))?;
    header_lines(&text).map_err(|error| unusable(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collector_may_ask_for_a_longer_pause_and_not_for_none() {
        let spread = Duration::from_secs(2);
        for (after, wanted) in [(None, 2), (Some(0), 2), (Some(1), 2), (Some(30), 30)] {
            let after = after.map(Duration::from_secs);
            assert_eq!(pause(after, spread), Duration::from_secs(wanted));
        }
    }
}
