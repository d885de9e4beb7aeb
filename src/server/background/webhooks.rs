//! Webhooks: other services are told of each conversion that ended.

use std::fmt::Write as _;
use std::time::Duration;

use aws_lc_rs::hmac;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout_at};

use crate::convert::Conversion;
use crate::registry::Poster;
use crate::server::access::token_file::TokenFile;
use crate::server::observe::conversion;
use crate::server::observe::events::{Events, Told};
use crate::telemetry::{self, CapturedContext};

/// Most events that wait for one address; later ones are dropped, and that is logged.
const MAX_WAITING: usize = 1024;
/// How often an event is sent at most.
const ATTEMPTS: u32 = 6;
/// The wait before the second attempt; it doubles with each.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// Says which event it is.
const EVENT: HeaderName = HeaderName::from_static("x-overlaybd-event");
/// `sha256=`, and the HMAC-SHA256 of the body in hexadecimal digits, as GitHub signs its webhooks.
const SIGNATURE: HeaderName = HeaderName::from_static("x-hub-signature-256");

/// Where events go.
pub(in crate::server) struct Webhooks {
    addresses: Vec<mpsc::Sender<Event>>,
    /// How many are neither sent nor given up.
    waiting: watch::Sender<usize>,
    counted: Events,
}

#[derive(Clone)]
struct Event {
    name: &'static str,
    body: Bytes,
    /// What it is told of, in a trace.
    cause: CapturedContext,
}

impl Webhooks {
    /// Starts a task for each address, which ends with this.
    pub fn start(addresses: Vec<Poster>, secret: &TokenFile, counted: &Events) -> Self {
        let waiting = watch::Sender::new(0);
        let senders = addresses.into_iter().map(|address| {
            let (sender, events) = mpsc::channel(MAX_WAITING);
            let secret = secret.clone();
            let (waiting, counted) = (waiting.clone(), counted.clone());
            tokio::spawn(deliver(address, secret, events, (waiting, counted)));
            sender
        });
        Self {
            addresses: senders.collect(),
            waiting,
            counted: counted.clone(),
        }
    }

    /// Waits until all that is waiting is sent or given up, at most until `deadline`. What is left then is
    /// logged.
    pub async fn sent(&self, deadline: Instant) {
        let mut waiting = self.waiting.subscribe();
        let all = waiting.wait_for(|waiting| *waiting == 0);
        if timeout_at(deadline, all).await.is_err() {
            let unsent = *self.waiting.borrow();
            tracing::warn!(
                unsent,
                "webhooks are lost: they were not sent before the stop"
            );
        }
    }

    /// Tells of a conversion that ended. Does not wait.
    pub fn tell(&self, ended: &Conversion) {
        if self.addresses.is_empty() {
            return;
        }
        let name = ended.state.name();
        let body = json!({ "event": name, "conversion": conversion::shown(ended) });
        let event = Event {
            name,
            body: Bytes::from(body.to_string()),
            cause: CapturedContext::current(),
        };
        for sender in &self.addresses {
            self.waiting.send_modify(|waiting| *waiting += 1);
            if sender.try_send(event.clone()).is_err() {
                self.waiting.send_modify(|waiting| *waiting -= 1);
                self.counted.told(Told::Dropped);
                tracing::warn!(
                    id = ended.id,
                    event = name,
                    "a webhook is not sent: {MAX_WAITING} others wait for the same address"
                );
            }
        }
    }
}

/// Sends events to one address, one after the other.
async fn deliver(
    address: Poster,
    secret: TokenFile,
    mut events: mpsc::Receiver<Event>,
    (waiting, counted): (watch::Sender<usize>, Events),
) {
    while let Some(event) = events.recv().await {
        let place = address.place();
        let sent = event.cause.around(send(&address, &secret, &event)).await;
        counted.told(match &sent {
            Ok(()) => Told::Sent,
            Err(_) => Told::Failed,
        });
        match sent {
            Ok(()) => tracing::debug!(place, event = event.name, "a webhook was sent"),
            Err(cause) => tracing::warn!(
                place,
                event = event.name,
                cause,
                "a webhook was not sent: it is given up"
            ),
        }
        waiting.send_modify(|waiting| *waiting -= 1);
    }
}

async fn send(address: &Poster, secret: &TokenFile, event: &Event) -> Result<(), String> {
    let mut wait = FIRST_WAIT;
    let mut attempt = 1;
    loop {
        let attempted = telemetry::resent(attempt - 1, once(address, secret, event)).await;
        let cause = match attempted {
            Ok(()) => return Ok(()),
            Err((cause, may_pass)) if !may_pass || attempt >= ATTEMPTS => return Err(cause),
            Err((cause, _)) => cause,
        };
        tracing::debug!(cause, attempt, "a webhook is sent again");
        // So that several proxies that failed together do not repeat together.
        tokio::time::sleep(wait.mul_f64(rand::random_range(0.75..=1.25))).await;
        wait = wait.saturating_mul(2);
        attempt += 1;
    }
}

/// One attempt; the error with whether another one may succeed.
async fn once(address: &Poster, secret: &TokenFile, event: &Event) -> Result<(), (String, bool)> {
    let mut headers = HeaderMap::new();
    headers.insert(EVENT, HeaderValue::from_static(event.name));
    if let Some(signature) = sign(secret, &event.body).await? {
        headers.insert(SIGNATURE, signature);
    }
    match address.post(headers, event.body.clone()).await {
        Ok(status) if status.is_success() => Ok(()),
        Ok(status) => {
            let may_pass = status.is_server_error()
                || status == StatusCode::TOO_MANY_REQUESTS
                || status == StatusCode::REQUEST_TIMEOUT;
            Err((format!("the answer is {status}"), may_pass))
        }
        Err(unsent) => Err((unsent.cause, unsent.is_transient)),
    }
}

async fn sign(secret: &TokenFile, body: &Bytes) -> Result<Option<HeaderValue>, (String, bool)> {
    let (secret, body) = (secret.clone(), body.clone());
    // It reads a file.
    let signed = tokio::task::spawn_blocking(move || secret.sign(&body)).await;
    let signed = signed.map_err(|panic| (panic.to_string(), false))?;
    let signed: Option<hmac::Tag> = signed.map_err(|cause| (cause, true))?;
    let Some(signed) = signed else {
        return Ok(None);
    };
    let mut text = String::from("sha256=");
    for byte in signed.as_ref() {
        let _ = write!(text, "{byte:02x}");
    }
    let value = HeaderValue::from_str(&text).map_err(|error| (error.to_string(), false))?;
    Ok(Some(value))
}
