//! Traces: spans of requests, of exchanges with registries and of conversions, sent to an
//! OpenTelemetry collector by OTLP over HTTP.
//!
//! | module | what it does |
//! |---|---|
//! | [`config`](TelemetryConfig) | where spans go, which, and how many wait |
//! | `environment` | the variables that OpenTelemetry's specification names |
//! | `w3c` | `traceparent` and `tracestate` in headers |
//! | `span` | spans under way |
//! | `context` | the current one, which futures and tasks carry |
//! | `sampler` | which traces are recorded |
//! | `queue` | the bounded queue of spans that have ended |
//! | `encode`, `deliver` | batches of them, to the collector |
//!
//! Without [`start`] there is no tracer: no span is made, nothing is allocated, no header is added.
//! Nothing of the log is exported: spans have the attributes that are set here and no others.

mod config;
mod context;
mod deliver;
mod encode;
mod environment;
mod queue;
mod resource;
mod sampler;
mod span;
mod w3c;

pub use config::{
    QueueConfig, Sampling, TelemetryConfig, UnusableHeader, header_lines, header_list,
};
pub use context::{CapturedContext, carried, resent, spawn};
pub use deliver::{Post, PostError, Reply};
pub use environment::{EnvironmentSettings, standard};
pub use span::{
    ActiveSpan, Destination, MAX_SPANS, child, client, command, linked, method_attributes,
    method_name, server,
};

pub use opentelemetry::KeyValue;
pub use opentelemetry::trace::SpanContext;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

static TRACER: OnceLock<SdkTracer> = OnceLock::new();
static COUNTERS: Counters = Counters {
    exported: AtomicU64::new(0),
    dropped: AtomicU64::new(0),
    failed: AtomicU64::new(0),
};

/// What became of spans that ended, since the start.
struct Counters {
    exported: AtomicU64,
    dropped: AtomicU64,
    failed: AtomicU64,
}

impl Counters {
    fn add(counter: &AtomicU64, amount: usize) {
        counter.fetch_add(u64::try_from(amount).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

/// What became of spans that ended, since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SpanCounts {
    /// The collector has them.
    pub exported: u64,
    /// The queue was full.
    pub dropped: u64,
    /// The collector did not take them.
    pub failed: u64,
}

/// The counts of this process, if there are traces.
#[must_use]
pub fn counts() -> Option<SpanCounts> {
    tracer()?;
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    Some(SpanCounts {
        exported: read(&COUNTERS.exported),
        dropped: read(&COUNTERS.dropped),
        failed: read(&COUNTERS.failed),
    })
}

fn tracer() -> Option<&'static SdkTracer> {
    TRACER.get()
}

/// Spans on their way to the collector.
pub struct Running {
    provider: SdkTracerProvider,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

/// Makes spans from now on, and sends them by `post`. To be called in a runtime, once; `None` if
/// there are spans already.
#[must_use]
pub fn start(config: TelemetryConfig, post: Post) -> Option<Running> {
    let (sender, receiver) = mpsc::channel(config.queue.spans);
    let resource = resource::resource();
    let provider = SdkTracerProvider::builder()
        .with_sampler(sampler::sampler(config.sampling))
        .with_resource(resource.clone())
        .with_span_processor(queue::Queue::new(sender, &COUNTERS))
        .build();
    TRACER.set(provider.tracer(env!("CARGO_PKG_NAME"))).ok()?;
    let (stop, stopped) = oneshot::channel();
    let delivery = deliver::Delivery::new(config, post, &resource, &COUNTERS);
    Some(Running {
        provider,
        stop,
        task: tokio::spawn(delivery.run(receiver, stopped)),
    })
}

impl Running {
    /// Sends what waits, for at most `limit`. There are no more spans afterwards.
    pub async fn stop(self, limit: Duration) {
        let Self {
            provider,
            stop,
            mut task,
        } = self;
        let _ = provider.shutdown_with_timeout(Duration::ZERO);
        // Its receiver is gone if the task has ended.
        let _ = stop.send(());
        if tokio::time::timeout(limit, &mut task).await.is_err() {
            task.abort();
            tracing::warn!(
                ?limit,
                "the last spans were not sent: the collector is too slow"
            );
        }
    }
}
