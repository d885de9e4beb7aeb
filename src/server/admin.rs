//! For operators: is it alive, is it ready, what does it do.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::json;
use tokio::time::timeout;

use super::accept::Handler;
use super::activity::Activity;
use super::body::Served;
use super::front::Front;
use super::host;
use super::metrics::Snapshot;
use super::places::Places;
use super::respond::Failure;
use super::shelf::off_thread;

/// How long a part may take to say that it is ready.
const PATIENCE: Duration = Duration::from_secs(3);
/// Bytes that must be free for the proxy to be ready: less is of no use to any image.
const LEAST_FREE: u64 = 64 << 20;

/// What answers operators.
#[derive(Clone)]
pub(super) struct AdminDoor(pub Arc<Front>);

impl Handler for AdminDoor {
    fn answer(
        &self,
        _client: SocketAddr,
        activity: &Arc<Activity>,
        request: Request<Incoming>,
    ) -> impl Future<Output = Response<Served>> + Send + 'static {
        let front = Arc::clone(&self.0);
        let busy = activity.begin();
        async move {
            let answer = match host::check(&request) {
                Ok(()) => answer(&front, request.method(), request.uri().path()).await,
                Err(bad) => Failure::host(bad).into_response(*request.method() == Method::HEAD),
            };
            drop(busy);
            answer
        }
    }
}

async fn answer(front: &Front, method: &Method, path: &str) -> Response<Served> {
    const TEXT: &str = "text/plain; charset=utf-8";
    const METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let is_head = *method == Method::HEAD;
    let (status, media_type, text) = if !is_head && *method != Method::GET {
        (
            StatusCode::METHOD_NOT_ALLOWED,
            TEXT,
            "only GET and HEAD\n".to_owned(),
        )
    } else {
        match path {
            "/livez" => (StatusCode::OK, TEXT, "ok\n".to_owned()),
            "/readyz" => {
                let problems = problems(front).await;
                if problems.is_empty() {
                    let mut text = "ok\n".to_owned();
                    text.extend(notes(front).into_iter().map(|note| note + "\n"));
                    (StatusCode::OK, TEXT, text)
                } else {
                    let text = problems.join("\n") + "\n";
                    (StatusCode::SERVICE_UNAVAILABLE, TEXT, text)
                }
            }
            "/metrics" => match front.metrics.encode(snapshot(front).await) {
                Ok(text) => (StatusCode::OK, METRICS, text),
                Err(error) => {
                    tracing::error!(%error, "the metrics cannot be written");
                    (
                        StatusCode::INTERNAL_SERVER_ERROR,
                        TEXT,
                        "see the log\n".to_owned(),
                    )
                }
            },
            "/jobs" => (StatusCode::OK, "application/json", jobs(front)),
            _ => {
                let text = "there are /livez, /readyz, /metrics and /jobs\n".to_owned();
                (StatusCode::NOT_FOUND, TEXT, text)
            }
        }
    };
    let mut response = Response::new(Served::empty());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(text.len()));
    if !is_head {
        *response.body_mut() = Served::bytes(text);
    }
    response
}

/// What is not ready, a line each.
async fn problems(front: &Front) -> Vec<String> {
    let mut problems = Vec::new();
    if front.is_draining.load(Ordering::Relaxed) {
        problems.push("draining: the server is being stopped".to_owned());
    }
    problems.extend(full("requests", &front.waits.requests));
    problems.extend(full("connections", &front.connections));
    let store = front.converted.store();
    match timeout(PATIENCE, store.index().ping()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => problems.push(format!("index: {error}")),
        Err(_) => problems.push(format!("index: no answer within {PATIENCE:?}")),
    }
    if let Ok(Ok(Some(cause))) = timeout(PATIENCE, store.index().read_only()).await {
        problems.push(format!(
            "read-only: the index cannot be written ({cause}): what was converted is served, \
             nothing is converted until the disk has room and can be written"
        ));
    }
    let blobs = store.blobs().clone();
    let disk = off_thread(move || {
        // A file is made and removed again: the directory can be written.
        drop(blobs.begin()?);
        blobs.bytes_free()
    });
    match timeout(PATIENCE, disk).await {
        Ok(Ok(free)) if free < LEAST_FREE => {
            problems.push(format!("blobs: only {free} bytes are free on the disk"));
        }
        Ok(Ok(_)) => {}
        Ok(Err(error)) => problems.push(format!("blobs: {error}")),
        Err(_) => problems.push(format!(
            "blobs: the disk does not answer within {PATIENCE:?}"
        )),
    }
    problems
}

/// That all of these places are taken, if they are.
fn full(what: &str, places: &Places) -> Option<String> {
    let (taken, most) = (places.taken(), places.most());
    (taken >= most).then(|| format!("{what}: {taken} of at most {most}"))
}

/// What keeps some requests from being answered, but not those for what is there.
fn notes(front: &Front) -> Vec<String> {
    let waits = &front.waits;
    let mut notes = Vec::new();
    notes.extend(full("waiting for conversions", &waits.conversions));
    for (place, places) in waits.upstreams.iter().enumerate() {
        let host = front.config.upstreams.get(place);
        let host = host.map_or("an upstream", |entry| entry.upstream.host());
        notes.extend(full(&format!("waiting for {host}"), places));
    }
    notes
}

async fn snapshot(front: &Front) -> Snapshot {
    let store = front.converted.store();
    let ping = timeout(PATIENCE, store.index().ping());
    let (used, free) = (store.blobs().clone(), store.blobs().clone());
    let (ping, used, free) = tokio::join!(
        ping,
        timeout(PATIENCE, off_thread(move || used.bytes_used())),
        timeout(PATIENCE, off_thread(move || free.bytes_free())),
    );
    Snapshot {
        conversions: front.converted.converter.status(),
        blobs: store.blobs().counters(),
        blob_bytes: used.ok().and_then(Result::ok),
        free_bytes: free.ok().and_then(Result::ok),
        is_index_up: matches!(ping, Ok(Ok(()))),
    }
}

fn jobs(front: &Front) -> String {
    let status = front.converted.converter.status();
    let document = json!({
        "images": { "running": status.images_running },
        "layers": {
            "queued": status.layers_queued,
            "running": status.layers_running,
            "converted": status.layers_converted,
            "found": status.layers_found,
            "failed": status.layers_failed,
        },
        "bytes": { "read": status.source_bytes, "written": status.blob_bytes },
        "requests": {
            "open": front.metrics.requests_open.get(),
            "waiting": front.waits.waiting(),
        },
    });
    document.to_string() + "\n"
}
