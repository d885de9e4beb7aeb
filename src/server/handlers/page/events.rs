//! The live part as it changes, by server-sent events (WHATWG HTML § 9.2).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep};

use super::live::{Live, LivePart};
use crate::registry::BoxError;
use crate::registry::body;
use crate::server::http::activity::ActiveRequest;
use crate::server::http::body::ResponseBody;
use crate::server::state::AppState;

/// The most that look at one time: each takes one of the listener's connections.
const MOST: usize = 16;
/// How often it is looked whether something changed.
const PERIOD: Duration = Duration::from_secs(2);
/// How often it is looked whether the server stops.
const STEP: Duration = Duration::from_millis(250);
/// After which time something is sent although nothing changed.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// No answer stands still for so long: there is a heartbeat.
const STALL: Duration = Duration::from_mins(2);

/// The places of those that look.
#[derive(Debug, Clone)]
pub(super) struct Places(Arc<Semaphore>);

impl Places {
    pub fn new() -> Self {
        Self(Arc::new(Semaphore::new(MOST)))
    }
}

/// What one connection was sent.
struct Looking {
    state: Arc<AppState>,
    part: Arc<LivePart>,
    last: Option<Arc<Live>>,
    sent: Instant,
    /// Held until the connection ends.
    _held: (OwnedSemaphorePermit, ActiveRequest),
}

/// The events, until the server stops; `None` if too many look already.
pub(super) fn stream(
    places: &Places,
    state: &Arc<AppState>,
    part: &Arc<LivePart>,
    busy: ActiveRequest,
) -> Option<ResponseBody> {
    let place = Arc::clone(&places.0).try_acquire_owned().ok()?;
    let looking = Looking {
        state: Arc::clone(state),
        part: Arc::clone(part),
        last: None,
        sent: Instant::now(),
        _held: (place, busy),
    };
    let events = futures_util::stream::unfold(looking, |mut looking| async move {
        let next = looking.next().await?;
        Some((Ok::<_, BoxError>(next), looking))
    });
    Some(ResponseBody::stream(body::stream(events), STALL))
}

impl Looking {
    /// The next event, or a comment; `None` at the end.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if self.last.is_some() {
                self.pause().await;
            }
            // The database may keep it waiting; the end of the server does not wait for that.
            let live = tokio::select! {
                biased;
                () = stopping(&self.state) => return None,
                live = self.part.get(&self.state) => live,
            };
            let text = match &self.last {
                None => {
                    let both = [event("status", &live.status), event("live", &live.sections)];
                    Some(format!("retry: 2000\n\n{}", both.concat()))
                }
                Some(last) => changes(last, &live),
            };
            self.last = Some(live);
            let beat = || (self.sent.elapsed() >= HEARTBEAT).then(|| ":\n\n".to_owned());
            if let Some(text) = text.or_else(beat) {
                self.sent = Instant::now();
                return Some(Bytes::from(text));
            }
        }
    }

    async fn pause(&self) {
        tokio::select! {
            () = stopping(&self.state) => {}
            () = sleep(PERIOD) => {}
        }
    }
}

/// Returns when the server stops.
async fn stopping(state: &AppState) {
    while !state.is_draining.load(Ordering::Relaxed) {
        sleep(STEP).await;
    }
}

/// The events for what is not as it was.
fn changes(last: &Live, live: &Live) -> Option<String> {
    let mut text = String::new();
    if last.status != live.status {
        text.push_str(&event("status", &live.status));
    }
    if last.sections != live.sections {
        text.push_str(&event("live", &live.sections));
    }
    (!text.is_empty()).then_some(text)
}

/// One event. Lines of the data are lines of their own.
fn event(name: &str, data: &str) -> String {
    let mut text = format!("event: {name}\n");
    for line in data.split(['\r', '\n']) {
        text.push_str("data: ");
        text.push_str(line);
        text.push('\n');
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_changed_is_sent() {
        let live = |status: &str, sections: &str| Live {
            status: status.to_owned(),
            sections: sections.to_owned(),
        };
        assert_eq!(changes(&live("a", "b"), &live("a", "b")), None);
        let sent = changes(&live("a", "b"), &live("a", "c")).unwrap();
        assert_eq!(sent, "event: live\ndata: c\n\n");
        let sent = changes(&live("a", "b"), &live("d", "b")).unwrap();
        assert_eq!(sent, "event: status\ndata: d\n\n");
    }

    #[test]
    fn data_cannot_be_an_event_of_its_own() {
        let text = event("live", "a\r\nevent: status\rdata: x");
        let lines = text.lines().filter(|line| !line.is_empty());
        let (mut data, mut others) = (0, 0);
        for line in lines {
            if line.starts_with("data: ") {
                data += 1;
            } else {
                others += 1;
            }
        }
        assert_eq!((data, others), (4, 1));
    }
}
