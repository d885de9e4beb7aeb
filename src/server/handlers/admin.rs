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

use crate::convert::SourceCache;
use crate::server::cache::open_files::off_thread;
use crate::server::error::ApiError;
use crate::server::http::accept::Handler;
use crate::server::http::activity::Activity;
use crate::server::http::body::ResponseBody;
use crate::server::http::host;
use crate::server::limits::slots::Slots;
use crate::server::observe::metrics::Snapshot;
use crate::server::state::AppState;

/// How long a part may take to say that it is ready.
const READY_TIMEOUT: Duration = Duration::from_secs(3);
/// Bytes that must be free for the proxy to be ready: less is of no use to any image.
const MIN_FREE_BYTES: u64 = 64 << 20;

/// What answers operators.
#[derive(Clone)]
pub(in crate::server) struct AdminHandler(pub Arc<AppState>);

impl Handler for AdminHandler {
    fn answer(
        &self,
        _client: SocketAddr,
        activity: &Arc<Activity>,
        request: Request<Incoming>,
    ) -> impl Future<Output = Response<ResponseBody>> + Send + 'static {
        let state = Arc::clone(&self.0);
        let busy = activity.begin();
        async move {
            let answer = match host::check(&request) {
                Ok(()) => answer(&state, request.method(), request.uri().path()).await,
                Err(bad) => ApiError::host(bad).into_response(*request.method() == Method::HEAD),
            };
            drop(busy);
            answer
        }
    }
}

async fn answer(state: &AppState, method: &Method, path: &str) -> Response<ResponseBody> {
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
                let problems = problems(state).await;
                if problems.is_empty() {
                    let mut text = "ok\n".to_owned();
                    text.extend(notes(state).into_iter().map(|note| note + "\n"));
                    (StatusCode::OK, TEXT, text)
                } else {
                    let text = problems.join("\n") + "\n";
                    (StatusCode::SERVICE_UNAVAILABLE, TEXT, text)
                }
            }
            "/metrics" => match state.metrics.encode(snapshot(state).await) {
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
            "/jobs" => (StatusCode::OK, "application/json", jobs(state)),
            _ => {
                let text = "there are /livez, /readyz, /metrics and /jobs\n".to_owned();
                (StatusCode::NOT_FOUND, TEXT, text)
            }
        }
    };
    let mut response = Response::new(ResponseBody::empty());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(text.len()));
    if !is_head {
        *response.body_mut() = ResponseBody::bytes(text);
    }
    response
}

/// What is not ready, a line each.
async fn problems(state: &AppState) -> Vec<String> {
    let mut problems = Vec::new();
    if state.is_draining.load(Ordering::Relaxed) {
        problems.push("draining: the server is being stopped".to_owned());
    }
    problems.extend(full("requests", &state.limits.requests));
    problems.extend(full("connections", &state.connections));
    let store = state.converted.store();
    match timeout(READY_TIMEOUT, store.index().ping()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => problems.push(format!("index: {error}")),
        Err(_) => problems.push(format!("index: no answer within {READY_TIMEOUT:?}")),
    }
    if let Ok(Ok(Some(cause))) = timeout(READY_TIMEOUT, store.index().read_only()).await {
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
    match timeout(READY_TIMEOUT, disk).await {
        Ok(Ok(free)) if free < MIN_FREE_BYTES => {
            problems.push(format!("blobs: only {free} bytes are free on the disk"));
        }
        Ok(Ok(_)) => {}
        Ok(Err(error)) => problems.push(format!("blobs: {error}")),
        Err(_) => problems.push(format!(
            "blobs: the disk does not answer within {READY_TIMEOUT:?}"
        )),
    }
    problems
}

/// That all of these places are taken, if they are.
fn full(what: &str, slots: &Slots) -> Option<String> {
    let (taken, most) = (slots.taken(), slots.most());
    (taken >= most).then(|| format!("{what}: {taken} of at most {most}"))
}

/// What keeps some requests from being answered, but not those for what is there.
fn notes(state: &AppState) -> Vec<String> {
    let limits = &state.limits;
    let mut notes = Vec::new();
    notes.extend(full("waiting for conversions", &limits.conversions));
    for (place, slots) in limits.upstreams.iter().enumerate() {
        let host = state.config.upstreams.get(place);
        let host = host.map_or("an upstream", |entry| entry.upstream.host());
        notes.extend(full(&format!("waiting for {host}"), slots));
    }
    notes
}

async fn snapshot(state: &AppState) -> Snapshot {
    let store = state.converted.store();
    let ping = timeout(READY_TIMEOUT, store.index().ping());
    let (used, free) = (store.blobs().clone(), store.blobs().clone());
    let (ping, used, free) = tokio::join!(
        ping,
        timeout(READY_TIMEOUT, off_thread(move || used.bytes_used())),
        timeout(READY_TIMEOUT, off_thread(move || free.bytes_free())),
    );
    Snapshot {
        conversions: state.converted.converter.status(),
        sources: state.converted.converter.sources().map(SourceCache::counts),
        blobs: store.blobs().counters(),
        blob_bytes: used.ok().and_then(Result::ok),
        free_bytes: free.ok().and_then(Result::ok),
        is_index_up: matches!(ping, Ok(Ok(()))),
    }
}

fn jobs(state: &AppState) -> String {
    let status = state.converted.converter.status();
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
            "open": state.metrics.requests_open.get(),
            "waiting": state.limits.waiting(),
        },
    });
    document.to_string() + "\n"
}
