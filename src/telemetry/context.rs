//! The context that futures and tasks carry.

use futures_util::future::{BoxFuture, Either};
use opentelemetry::Context;
use opentelemetry::context::WithContext;
use opentelemetry::trace::{FutureExt as _, SpanContext, TraceContextExt as _};
use tokio::task::JoinHandle;

use super::span::{ActiveSpan, Resends, current};

/// The current span, for what is done for it later.
#[derive(Debug, Clone, Default)]
pub struct CapturedContext(Option<Context>);

impl CapturedContext {
    /// The current span, if there is one.
    #[must_use]
    pub fn current() -> Self {
        Self(current())
    }

    /// A span under way, which may be another than the current one.
    #[must_use]
    pub fn of(span: &ActiveSpan) -> Self {
        Self(span.0.clone())
    }

    /// Notes that something happened in it.
    pub fn event(&self, name: &'static str) {
        if let Some(context) = &self.0 {
            context.span().add_event(name, Vec::new());
        }
    }

    /// Whether there is one.
    #[must_use]
    pub fn is_some(&self) -> bool {
        self.0.is_some()
    }

    /// Which span it is, for others to be linked to.
    #[must_use]
    pub fn context(&self) -> Option<SpanContext> {
        let context = self.0.as_ref()?;
        Some(context.span().span_context().clone())
    }

    /// Links another span to it.
    pub fn link(&self, other: SpanContext) {
        if let Some(context) = &self.0 {
            context.span().add_link(other, Vec::new());
        }
    }

    /// The future with this span as the current one.
    pub fn around<F: Future>(&self, future: F) -> Either<WithContext<F>, F> {
        match &self.0 {
            Some(context) => Either::Left(future.with_context(context.clone())),
            None => Either::Right(future),
        }
    }

    /// The same on the heap, where a future without a span is no larger than before.
    pub fn boxed<F>(&self, future: F) -> BoxFuture<'static, F::Output>
    where
        F: Future + Send + 'static,
    {
        match &self.0 {
            Some(context) => Box::pin(future.with_context(context.clone())),
            None => Box::pin(future),
        }
    }
}

/// The future as one that sends again what was sent `times` before.
pub fn resent<F: Future>(times: u32, future: F) -> Either<WithContext<F>, F> {
    let context = (times > 0).then(current).flatten();
    match context {
        Some(context) => {
            let before = context.get().map_or(0, |Resends(before)| *before);
            let resends = Resends(before.saturating_add(times));
            Either::Left(future.with_context(context.with_value(resends)))
        }
        None => Either::Right(future),
    }
}

/// The future with the current span, for where another task polls it.
pub fn carried<F: Future>(future: F) -> Either<WithContext<F>, F> {
    CapturedContext::current().around(future)
}

/// Starts a task that has the current span.
pub fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    match current() {
        Some(context) => tokio::spawn(future.with_context(context)),
        None => tokio::spawn(future),
    }
}
