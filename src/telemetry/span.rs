//! Spans under way, below the one of the context.
//!
//! The context is OpenTelemetry's: of the thread while a future is polled, so that an exchange with a
//! registry knows what it is for, however deep it is.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use futures_util::future::Either;
use http::HeaderMap;
use opentelemetry::context::WithContext;
use opentelemetry::trace::{
    FutureExt as _, Link, SpanBuilder, SpanContext, SpanKind, Status, TraceContextExt as _,
    Tracer as _,
};
use opentelemetry::{Context, KeyValue, Value};

use super::{tracer, w3c};

/// Most spans below a request or a conversion: of an image with hundreds of layers, and of blobs that
/// are fetched in thousands of ranges, the first are enough.
pub const MAX_SPANS: u32 = 256;
/// Longest text of an attribute, in bytes.
const MAX_TEXT: usize = 512;

/// How many spans there may still be below a request or a conversion.
#[derive(Debug)]
struct Budget {
    left: AtomicU32,
    /// The request or the conversion.
    root: Context,
    is_told: AtomicBool,
}

impl Budget {
    fn take(&self) -> bool {
        let less = |left: u32| left.checked_sub(1);
        let taken = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        // The SDK would keep each of several values.
        if taken.is_err() && !self.is_told.swap(true, Ordering::Relaxed) {
            let bounded = KeyValue::new("overlaybd.spans.bounded", true);
            self.root.span().set_attribute(bounded);
        }
        taken.is_ok()
    }
}

/// How often what is sent was sent before.
#[derive(Debug, Clone, Copy)]
pub(super) struct Resends(pub(super) u32);

/// Whose address a request goes to: whether it is shown in spans, and is sent `traceparent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// A registry's own: it is shown, and is sent `traceparent`.
    Registry,
    /// That of a service that an operator or a registry named: it is sent `traceparent`; its path may
    /// be a secret, and is not shown.
    Service,
    /// A registry redirected there: it is not sent `traceparent`, and the address may be signed, so
    /// that its path is not shown.
    Foreign,
}

/// A span under way, or none; it ends when this is dropped.
#[derive(Debug, Default)]
#[must_use]
pub struct ActiveSpan(pub(super) Option<Context>);

/// A text of bounded length.
fn short(text: &str) -> &str {
    text.get(..text.floor_char_boundary(MAX_TEXT))
        .unwrap_or_default()
}

impl ActiveSpan {
    /// No span.
    pub fn none() -> Self {
        Self(None)
    }

    /// Whether what is set here is recorded.
    #[must_use]
    pub fn is_recording(&self) -> bool {
        let context = self.0.as_ref();
        context.is_some_and(|context| context.span().is_recording())
    }

    /// The id of its trace, in hexadecimal digits, whether it is recorded or not.
    #[must_use]
    pub fn trace_id(&self) -> Option<String> {
        let context = self.0.as_ref()?;
        Some(context.span().span_context().trace_id().to_string())
    }

    fn context(&self) -> Option<SpanContext> {
        let context = self.0.as_ref()?;
        Some(context.span().span_context().clone())
    }

    /// Sets an attribute.
    pub fn set(&self, key: &'static str, value: impl Into<Value>) {
        if let Some(context) = &self.0 {
            context.span().set_attribute(KeyValue::new(key, value));
        }
    }

    /// Sets an attribute to the beginning of a text.
    pub fn set_text(&self, key: &'static str, text: &str) {
        if self.is_recording() {
            self.set(key, short(text).to_owned());
        }
    }

    /// Gives it another name.
    pub fn rename(&self, name: impl Into<Cow<'static, str>>) {
        if let Some(context) = &self.0 {
            context.span().update_name(name);
        }
    }

    /// Notes that it failed: in a word, and as people read it.
    pub fn fail(&self, kind: impl Into<Value>, description: &str) {
        if let Some(context) = &self.0 {
            let span = context.span();
            span.set_attribute(KeyValue::new("error.type", kind));
            span.set_status(Status::error(short(description).to_owned()));
        }
    }

    /// The future with this span as the parent of those that begin in it.
    pub fn around<F: Future>(&self, future: F) -> Either<WithContext<F>, F> {
        match &self.0 {
            Some(context) => Either::Left(future.with_context(context.clone())),
            None => Either::Right(future),
        }
    }
}

impl Drop for ActiveSpan {
    fn drop(&mut self) {
        if let Some(context) = &self.0 {
            context.span().end();
        }
    }
}

/// The span of a request that came with these headers; none without a tracer.
pub fn server(
    name: &'static str,
    headers: &HeaderMap,
    attributes: impl FnOnce() -> Vec<KeyValue>,
) -> ActiveSpan {
    let Some(tracer) = tracer() else {
        return ActiveSpan::none();
    };
    let mut builder = SpanBuilder::from_name(name).with_kind(SpanKind::Server);
    builder.attributes = Some(attributes());
    begin_root(tracer, builder, &remote(headers))
}

/// The span of a command, below the one that these headers name; none without a tracer.
pub fn command(name: &'static str, headers: &HeaderMap) -> ActiveSpan {
    let Some(tracer) = tracer() else {
        return ActiveSpan::none();
    };
    let builder = SpanBuilder::from_name(name).with_kind(SpanKind::Internal);
    begin_root(tracer, builder, &remote(headers))
}

/// A context with the span that headers name, if they name one.
fn remote(headers: &HeaderMap) -> Context {
    let context = Context::new();
    match w3c::parent(headers) {
        Some(remote) => context.with_remote_span_context(remote),
        None => context,
    }
}

/// A trace of its own, which the current span began: linked to it, and recorded if it is. Where
/// there is none, it is sampled as a request is that came without a parent.
pub fn linked(name: &'static str, attributes: impl FnOnce() -> Vec<KeyValue>) -> ActiveSpan {
    let Some(tracer) = tracer() else {
        return ActiveSpan::none();
    };
    let mut builder = SpanBuilder::from_name(name).with_kind(SpanKind::Internal);
    builder.attributes = Some(attributes());
    if let Some(current) = current() {
        let cause = current.span().span_context().clone();
        builder = builder.with_links(vec![Link::new(cause, Vec::new(), 0)]);
    }
    begin_root(tracer, builder, &Context::new())
}

fn begin_root(
    tracer: &opentelemetry_sdk::trace::SdkTracer,
    builder: SpanBuilder,
    parent: &Context,
) -> ActiveSpan {
    let span = tracer.build_with_context(builder, parent);
    let root = Context::new().with_span(span);
    let budget = Arc::new(Budget {
        left: AtomicU32::new(MAX_SPANS),
        root: root.clone(),
        is_told: AtomicBool::new(false),
    });
    ActiveSpan(Some(root.with_value(budget)))
}

/// The current context, if a span is under way in it.
pub(super) fn current() -> Option<Context> {
    tracer()?;
    Context::map_current(|context| context.has_active_span().then(|| context.clone()))
}

/// A span below the current one; none if there is none, if it is not recorded, or if there are
/// [`MAX_SPANS`] already.
pub fn child(name: &'static str, attributes: impl FnOnce() -> Vec<KeyValue>) -> ActiveSpan {
    match current() {
        Some(parent) => below(&parent, name, SpanKind::Internal, attributes),
        None => ActiveSpan::none(),
    }
}

fn below(
    parent: &Context,
    name: impl Into<Cow<'static, str>>,
    kind: SpanKind,
    attributes: impl FnOnce() -> Vec<KeyValue>,
) -> ActiveSpan {
    // It may have ended: what it had done later belongs to it all the same.
    let (Some(tracer), true) = (tracer(), parent.span().span_context().is_sampled()) else {
        return ActiveSpan::none();
    };
    if !parent
        .get::<Arc<Budget>>()
        .is_some_and(|budget| budget.take())
    {
        return ActiveSpan::none();
    }
    let mut builder = SpanBuilder::from_name(name).with_kind(kind);
    builder.attributes = Some(attributes());
    let span = tracer.build_with_context(builder, parent);
    ActiveSpan(Some(parent.with_span(span)))
}

/// The span of one exchange with another server, of which its headers tell; none, and no change of
/// the headers, without a tracer or a span that it belongs to.
pub fn client<B>(request: &mut http::Request<B>, place: Destination) -> ActiveSpan {
    let Some(parent) = current() else {
        return ActiveSpan::none();
    };
    let (method, uri) = (request.method(), request.uri());
    let name = method_name(method).unwrap_or("HTTP");
    let span = below(&parent, name, SpanKind::Client, || {
        exchange(method, uri, place, &parent)
    });
    let headers = request.headers_mut();
    if place == Destination::Foreign {
        w3c::remove(headers);
    } else {
        let context = span.context();
        let context = context.unwrap_or_else(|| parent.span().span_context().clone());
        w3c::set(headers, &context);
    }
    span
}

/// What is known of an exchange before it (Semantic Conventions for HTTP client spans).
fn exchange(
    method: &http::Method,
    uri: &http::Uri,
    place: Destination,
    parent: &Context,
) -> Vec<KeyValue> {
    let host = uri.host().unwrap_or_default();
    let scheme = uri.scheme_str().unwrap_or("http");
    let port = uri.port_u16();
    let port = port.unwrap_or(if scheme == "https" { 443 } else { 80 });
    let path = match place {
        // Never with the query: it may hold a signature.
        Destination::Registry => uri.path(),
        Destination::Service | Destination::Foreign => "/REDACTED",
    };
    let full = format!("{scheme}://{host}:{port}{path}");
    let mut known = method_attributes(method);
    known.extend([
        KeyValue::new("server.address", short(host).to_owned()),
        KeyValue::new("server.port", i64::from(port)),
        KeyValue::new("url.full", short(&full).to_owned()),
    ]);
    if let Some(Resends(count)) = parent.get() {
        known.push(KeyValue::new(
            "http.request.resend_count",
            i64::from(*count),
        ));
    }
    known
}

/// A method that a span may be named by; others are unbounded.
#[must_use]
pub fn method_name(method: &http::Method) -> Option<&'static str> {
    [
        "GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT",
    ]
    .into_iter()
    .find(|known| *known == method.as_str())
}

/// `http.request.method`, and as it was written where it is no known one.
#[must_use]
pub fn method_attributes(method: &http::Method) -> Vec<KeyValue> {
    match method_name(method) {
        Some(known) => vec![KeyValue::new("http.request.method", known)],
        None => vec![
            KeyValue::new("http.request.method", "_OTHER"),
            KeyValue::new(
                "http.request.method_original",
                short(method.as_str()).to_owned(),
            ),
        ],
    }
}
