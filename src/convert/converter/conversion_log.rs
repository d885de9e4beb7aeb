//! What the log tells of a conversion: that it began, and how it ended.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tracing::Span;

use super::super::error::ConvertError;
use super::super::layer::Format;
use super::super::types::{Asker, ConvertedImage, Requester};
use super::destination::Destination;
use super::key::ImageKey;
use super::refused_pushes::PAUSE;
use super::status::ConversionCounters;
use crate::registry::Error;

/// The target of what the log tells of conversions that failed: whoever prints the error themselves
/// leaves it out.
pub const FAILURE_TARGET: &str = "overlaybd_proxy::convert::failed";

/// One conversion, as the log names it.
pub(super) struct ConversionLog<'a> {
    key: &'a ImageKey,
    asked_by: &'a Requester,
    format: &'static str,
    begun: Instant,
    /// Of the conversion's span, if there are traces.
    trace_id: Option<String>,
}

/// An event with what each of them says of the image.
macro_rules! log_event {
    ($level:ident, $log:expr, $($rest:tt)*) => {
        log_event!(target: module_path!(), $level, $log, $($rest)*)
    };
    (target: $target:expr, $level:ident, $log:expr, $($rest:tt)*) => {{
        let log = $log;
        tracing::$level!(
            target: $target,
            upstream = log.key.host,
            repo = %log.key.repo,
            tag = log.asked_by.tag.as_ref().map(display),
            source = %log.key.source,
            format = log.format,
            asked_by = log.asked_by.asker.name(),
            client = client(log.asked_by.asker),
            user = log.asked_by.user.as_deref(),
            request = log.asked_by.request.as_deref(),
            trace_id = log.trace_id.as_deref(),
            $($rest)*
        );
    }};
}

/// The client's address, with its port where that is known: as the lines of requests have it.
fn client(asker: Asker) -> Option<String> {
    match asker {
        Asker::Client(address) if address.port() != 0 => Some(address.to_string()),
        other => other.client().map(|address| address.to_string()),
    }
}

impl<'a> ConversionLog<'a> {
    pub(super) fn new(
        key: &'a ImageKey,
        asked_by: &'a Requester,
        format: Format,
        trace_id: Option<String>,
    ) -> Self {
        Self {
            key,
            asked_by,
            format: format.name(),
            begun: Instant::now(),
            trace_id,
        }
    }

    /// What the lines of a conversion's parts stand under.
    pub(super) fn span(&self) -> Span {
        tracing::info_span!(
            parent: None,
            "conversion",
            repo = %self.key.repo,
            tag = self.asked_by.tag.as_ref().map(display),
            source = %self.key.source,
            trace_id = self.trace_id.as_deref(),
        )
    }

    pub(super) fn begin(&self) {
        log_event!(info, self, "a conversion begins");
    }

    pub(super) fn end(&self, image: &ConvertedImage, tally: &ConversionCounters) {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        log_event!(
            info,
            self,
            digest = %image.root.digest,
            platforms = tally.platforms(),
            layers_found = read(&tally.layers_found),
            layers_made = read(&tally.layers_made),
            bytes_in = read(&tally.source_bytes),
            bytes_out = read(&tally.blob_bytes),
            seconds = seconds(self.begun.elapsed()),
            "an image was converted"
        );
    }

    /// It is there, but not where it was to be pushed.
    pub(super) fn unpushed(&self, to: &Destination, error: &ConvertError) {
        log_event!(
            warn,
            self,
            registry = to.host,
            to = %to.repo,
            again_after = seconds(PAUSE),
            %error,
            "a converted image was not pushed: the registry refuses the proxy's own credentials \
             (--user, --push-user, --docker-config); it is served from here"
        );
    }

    /// It failed; `remembered` is how long it is not tried again.
    pub(super) fn fail(&self, error: &ConvertError, remembered: Option<Duration>) {
        let again = remembered.map(seconds);
        let (seconds, fault) = (seconds(self.begun.elapsed()), error.fault().name());
        if is_expected(error) {
            log_event!(info, self, seconds, fault, again_after = again, %error,
                "an image was not converted");
        } else {
            log_event!(target: FAILURE_TARGET, warn, self, seconds, fault, again_after = again, %error,
                "an image was not converted");
        }
    }
}

/// Whether nobody has to look into it: artifacts and images for other systems are asked for as well,
/// and clients without rights.
fn is_expected(error: &ConvertError) -> bool {
    let is_clients = matches!(
        error,
        ConvertError::NoPlatform { .. }
            | ConvertError::Upstream(
                Error::Unauthorized { is_own: false, .. } | Error::Forbidden { is_own: false, .. }
            )
    );
    is_clients || error.is_no_image() || error.no_turbo().is_some()
}

/// Thousandths are enough.
pub(super) fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1000.0).round() / 1000.0
}
