//! Conversions in traces: each is a trace of its own, linked with the requests that wait for it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::super::error::ConvertError;
use super::super::layer::Format;
use super::super::plan::Step;
use super::super::types::{ConvertedImage, Requester};
use super::key::ImageKey;
use super::status::ConversionCounters;
use crate::telemetry::{self, ActiveSpan, CapturedContext, KeyValue};

/// The spans of running conversions: at most as many as there are jobs.
#[derive(Debug, Default)]
pub(super) struct ConversionSpans(Mutex<HashMap<ImageKey, CapturedContext>>);

impl ConversionSpans {
    /// The span of a request that waits for a conversion, linked with the one that runs.
    pub(super) fn wait(&self, key: &ImageKey) -> ActiveSpan {
        let waiting = telemetry::child("wait for conversion", Vec::new);
        if waiting.is_recording()
            && let Some(running) = self.0.lock().get(key)
        {
            link(&CapturedContext::of(&waiting), running);
            link(running, &CapturedContext::current());
        }
        waiting
    }

    /// Begins the span of a conversion, for which `waiting` waits. To be ended by
    /// [`forget`](Self::forget).
    pub(super) fn begin(
        &self,
        key: &ImageKey,
        asked_by: &Requester,
        format: Format,
        waiting: &CapturedContext,
    ) -> ActiveSpan {
        let span = telemetry::linked("convert image", || {
            let tag = asked_by.tag.as_ref().map(ToString::to_string);
            let tag = tag.map(|tag| KeyValue::new("overlaybd.tag", tag));
            let known = [
                KeyValue::new("overlaybd.upstream", key.host.clone()),
                KeyValue::new("overlaybd.repository", key.repo.to_string()),
                KeyValue::new("overlaybd.source", key.source.to_string()),
                KeyValue::new("overlaybd.format", format.name()),
            ];
            known.into_iter().chain(tag).collect()
        });
        let running = CapturedContext::of(&span);
        if running.is_some() {
            link(waiting, &running);
            self.0.lock().insert(key.clone(), running);
        }
        span
    }

    /// A conversion ended.
    pub(super) fn forget(&self, key: &ImageKey, span: &ActiveSpan) {
        if span.trace_id().is_some() {
            self.0.lock().remove(key);
        }
    }
}

fn link(from: &CapturedContext, to: &CapturedContext) {
    if let Some(to) = to.context() {
        from.link(to);
    }
}

/// Sets what came of a conversion.
pub(super) fn end(
    span: &ActiveSpan,
    result: Result<&ConvertedImage, &ConvertError>,
    counters: &ConversionCounters,
) {
    if !span.is_recording() {
        return;
    }
    let set = |key, counter: &AtomicU64| {
        let count = i64::try_from(counter.load(Ordering::Relaxed));
        span.set(key, count.unwrap_or(i64::MAX));
    };
    set("overlaybd.layers", &counters.layers);
    set("overlaybd.layers.found", &counters.layers_found);
    set("overlaybd.layers.made", &counters.layers_made);
    set("overlaybd.bytes.read", &counters.source_bytes);
    set("overlaybd.bytes.written", &counters.blob_bytes);
    span.set_text("overlaybd.platforms", &counters.platforms());
    match result {
        Ok(image) => span.set("overlaybd.digest", image.root.digest.to_string()),
        Err(error) => fail(span, error),
    }
}

/// Sets that a part of a conversion failed.
pub(super) fn fail(span: &ActiveSpan, error: &ConvertError) {
    if span.is_recording() {
        // The text of the others has the whole address, which may be a signed one.
        let text = match error {
            ConvertError::Upstream(_) => String::new(),
            error => error.to_string(),
        };
        span.fail(error.fault().name(), &text);
    }
}

/// The span of something that is done with one layer.
pub(super) fn of_layer(name: &'static str, step: &Step) -> ActiveSpan {
    telemetry::child(name, || {
        vec![
            KeyValue::new("overlaybd.layer.digest", step.layer.digest.to_string()),
            KeyValue::new(
                "overlaybd.layer.size",
                i64::try_from(step.layer.size).unwrap_or(i64::MAX),
            ),
        ]
    })
}
