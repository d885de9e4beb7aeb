//! The part of the page that changes while one looks at it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::StatusCode;
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::cache::DiskUse;
use super::html::{Html, MOST_ROWS, count};
use super::{cache, conversions, failures, upstreams};
use crate::convert::{Conversion, ConversionState};
use crate::server::cache::open_files::off_thread;
use crate::server::handlers::readiness::{READY_TIMEOUT, readyz};
use crate::server::state::AppState;
use crate::store::{ImageFilter, ImageOrder};

/// How long what was written is shown to others, too.
const FRESH: Duration = Duration::from_millis(1500);

/// The live part, as it was at one moment.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Live {
    /// One line.
    pub status: String,
    /// The sections.
    pub sections: String,
}

/// The live part, written at most once in a while for all who look at it.
#[derive(Debug, Default)]
pub(super) struct LivePart(Mutex<Option<(Instant, Arc<Live>)>>);

impl LivePart {
    /// As it is, or was a moment ago.
    pub async fn get(&self, state: &AppState) -> Arc<Live> {
        let mut last = self.0.lock().await;
        if let Some((at, live)) = &*last
            && at.elapsed() < FRESH
        {
            return Arc::clone(live);
        }
        let live = Arc::new(write(state).await);
        *last = Some((Instant::now(), Arc::clone(&live)));
        live
    }

    /// Something was changed: what was written holds no longer.
    pub async fn forget(&self) {
        *self.0.lock().await = None;
    }
}

async fn write(state: &AppState) -> Live {
    let blobs = state.converted.store().blobs();
    let (used, free) = (blobs.clone(), blobs.clone());
    let index = state.converted.store().index();
    let (every, newest) = (ImageFilter::default(), ImageOrder::Newest);
    let images = index.images(&every, newest, None, MOST_ROWS);
    let (ready, images, used, free) = tokio::join!(
        readyz(state),
        timeout(READY_TIMEOUT, images),
        timeout(READY_TIMEOUT, off_thread(move || used.bytes_used())),
        timeout(READY_TIMEOUT, off_thread(move || free.bytes_free())),
    );
    let disk = DiskUse {
        used: used.ok().and_then(Result::ok),
        free: free.ok().and_then(Result::ok),
    };
    let converter = &state.converted.converter;
    let all = converter.conversions();
    let failed = converter.failures();
    let is_on = state.config.admin_token_file.is_some();
    let mut sections = reasons(&ready.1);
    sections.piece(&conversions::under_way(&all, is_on));
    let images = images.ok().and_then(Result::ok);
    sections.piece(&conversions::recent(&all, images.as_deref(), is_on));
    sections.piece(&failures::section(&failed, is_on));
    sections.piece(&upstreams::section(state));
    sections.piece(&cache::section(state, disk));
    let status = status(ready.0, &ready.1, &all, failed.len());
    Live {
        status: status.into_string(),
        sections: sections.into_string(),
    }
}

/// What is to be known at once.
fn status(code: StatusCode, ready: &str, all: &[Conversion], failed: usize) -> Html {
    let of = |state: &ConversionState| all.iter().filter(|one| one.state == *state).count();
    let (running, waiting) = (of(&ConversionState::Running), of(&ConversionState::Queued));
    let mut html = Html::new();
    html.raw(match ready.lines().next() {
        _ if !code.is_success() => "<strong class=\"bad\">Not ready</strong>",
        Some("ok") => "<strong class=\"good\">Ready</strong>",
        _ => "<strong class=\"warn\">Degraded</strong>",
    });
    let running = count(u64::try_from(running).unwrap_or(u64::MAX), "conversion");
    let failed = count(u64::try_from(failed).unwrap_or(u64::MAX), "failure");
    html.text(format_args!(
        ". {running} under way, {waiting} waiting. {failed} remembered."
    ));
    html
}

/// What `/readyz` says besides.
fn reasons(ready: &str) -> Html {
    let mut html = Html::new();
    let mut lines = ready.lines().skip(1).take(MOST_ROWS).peekable();
    if lines.peek().is_none() {
        return html;
    }
    html.raw("<section aria-labelledby=\"reasons\"><h2 id=\"reasons\">What is wrong</h2><ul>");
    for line in lines {
        html.raw("<li>").text(line).raw("</li>");
    }
    html.raw("</ul></section>");
    html
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_readyz_says_is_shown() {
        assert_eq!(reasons("ok\n"), Html::new());
        let shown = reasons("degraded\nindex: <gone>\n").into_string();
        assert!(shown.contains("<li>index: &lt;gone&gt;</li>"), "{shown}");
        for (code, ready, word) in [
            (StatusCode::OK, "ok\n", "Ready<"),
            (StatusCode::OK, "degraded\nx\n", "Degraded<"),
            (
                StatusCode::SERVICE_UNAVAILABLE,
                "not ready\nx\n",
                "Not ready<",
            ),
        ] {
            let line = status(code, ready, &[], 1).into_string();
            assert!(line.contains(word), "{line}");
            assert!(line.ends_with("0 conversions under way, 0 waiting. 1 failure remembered."));
        }
    }
}
