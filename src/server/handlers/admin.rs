//! For operators: is it alive, is it ready, what does it do.

use std::net::SocketAddr;
use std::sync::Arc;

use http::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode, Uri};
use hyper::body::Incoming;
use serde_json::json;
use tokio::time::{Instant, timeout};
use tracing::Instrument as _;

use crate::convert::SourceCache;
use crate::server::cache::open_files::off_thread;
use crate::server::error::ApiError;
use crate::server::handlers::page::{ACTIONS, Page};
use crate::server::handlers::readiness::READY_TIMEOUT;
use crate::server::handlers::{api, readiness};
use crate::server::http::accept::Handler;
use crate::server::http::activity::Activity;
use crate::server::http::body::ResponseBody;
use crate::server::http::client_address::Shown;
use crate::server::http::header_names::REQUEST_ID;
use crate::server::http::host;
use crate::server::observe::access_log::request_id;
use crate::server::observe::client;
use crate::server::observe::levels::Snapshot;
use crate::server::observe::process::ProcessStat;
use crate::server::observe::request_span;
use crate::server::state::AppState;
use crate::store::Objects;
use crate::telemetry;

/// What answers operators.
#[derive(Clone)]
pub(in crate::server) struct AdminHandler {
    state: Arc<AppState>,
    page: Arc<Page>,
}

impl AdminHandler {
    pub fn new(state: &Arc<AppState>) -> Self {
        Self {
            state: Arc::clone(state),
            page: Arc::new(Page::new()),
        }
    }
}

impl Handler for AdminHandler {
    fn answer(
        &self,
        client: SocketAddr,
        activity: &Arc<Activity>,
        request: Request<Incoming>,
    ) -> impl Future<Output = Response<ResponseBody>> + Send + 'static {
        let (state, page) = (Arc::clone(&self.state), Arc::clone(&self.page));
        let busy = activity.begin();
        let id = request_id(request.headers());
        let span = tracing::info_span!("request", id = id.to_str().unwrap_or_default());
        let change = Change::of(client, &request);
        let path = request.uri().path();
        let route = (path == ACTIONS).then_some(ACTIONS);
        let route = route.or_else(|| api::template(path));
        let traced = request_span::begin_admin(client, &request, route);
        async move {
            let answering = async {
                match host::check(&request) {
                    Ok(()) if Page::has(request.uri().path()) => {
                        Box::pin(page.answer(&state, request, busy)).await
                    }
                    Ok(()) if request.uri().path().starts_with("/api/") => {
                        let answer = Box::pin(api::answer(&state, request)).await;
                        drop(busy);
                        answer
                    }
                    Ok(()) => answer(&state, &request).await,
                    Err(bad) => {
                        ApiError::host(bad).into_response(*request.method() == Method::HEAD)
                    }
                }
            };
            let mut answer = traced.around(answering).await;
            request_span::end_admin(&traced, answer.status());
            answer.headers_mut().insert(REQUEST_ID, id);
            if let Some(change) = change {
                change.log(answer.status());
            }
            answer
        }
        .instrument(span)
    }
}

/// A request that may change something, for the log. The others are health checks and scrapes, mostly.
struct Change {
    client: SocketAddr,
    method: Method,
    uri: Uri,
    agent: Option<HeaderValue>,
    began: Instant,
}

impl Change {
    fn of(client: SocketAddr, request: &Request<Incoming>) -> Option<Self> {
        let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
        (!is_read).then(|| Self {
            client,
            method: request.method().clone(),
            uri: request.uri().clone(),
            agent: client::agent_of(request.headers()),
            began: Instant::now(),
        })
    }

    fn log(&self, status: StatusCode) {
        // Without the query: that of a notification may have the secret.
        tracing::info!(
            target: "overlaybd_proxy::access",
            client = %Shown(self.client),
            method = %self.method,
            path = self.uri.path(),
            status = status.as_u16(),
            ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX),
            agent = self.agent.as_ref().map(client::agent),
            "a request on the admin address was answered"
        );
    }
}

/// An answer to operators.
struct Answer {
    status: StatusCode,
    media_type: &'static str,
    text: String,
}

impl Answer {
    fn text(status: StatusCode, text: impl Into<String>) -> Self {
        Self {
            status,
            media_type: "text/plain; charset=utf-8",
            text: text.into(),
        }
    }

    fn json(text: String) -> Self {
        Self {
            status: StatusCode::OK,
            media_type: "application/json",
            text,
        }
    }
}

async fn answer(state: &Arc<AppState>, request: &Request<Incoming>) -> Response<ResponseBody> {
    let (method, uri) = (request.method(), request.uri());
    let is_head = *method == Method::HEAD;
    let is_read = is_head || *method == Method::GET;
    let answer = match uri.path() {
        _ if !is_read => Answer::text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n"),
        "/livez" => Answer::text(StatusCode::OK, "ok\n"),
        "/readyz" => {
            let (status, text) = readiness::readyz(state).await;
            Answer::text(status, text)
        }
        "/metrics" => match metrics(state).await {
            Ok(text) => Answer {
                media_type: "application/openmetrics-text; version=1.0.0; charset=utf-8",
                ..Answer::json(text)
            },
            Err(error) => {
                tracing::error!(%error, "the metrics cannot be written");
                Answer::text(StatusCode::INTERNAL_SERVER_ERROR, "see the log\n")
            }
        },
        "/jobs" => Answer::json(jobs(state)),
        _ => Answer::text(
            StatusCode::NOT_FOUND,
            "there are /, /livez, /readyz, /metrics, /jobs and /api/v1/openapi.json\n",
        ),
    };
    let mut response = Response::new(ResponseBody::empty());
    *response.status_mut() = answer.status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(answer.media_type));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(answer.text.len()));
    if !is_read {
        // RFC 9110 § 15.5.6
        headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    if !is_head {
        *response.body_mut() = ResponseBody::bytes(answer.text);
    }
    response
}

async fn metrics(state: &AppState) -> Result<String, std::fmt::Error> {
    // Its files are listed, which may be many.
    let process = timeout(READY_TIMEOUT, off_thread(|| Ok(ProcessStat::read())));
    let (now, process) = tokio::join!(snapshot(state), process);
    let process = process.ok().and_then(Result::ok);
    state.metrics.encode(&now, process.unwrap_or_default())
}

async fn snapshot(state: &AppState) -> Snapshot {
    let store = state.converted.store();
    let ping = timeout(READY_TIMEOUT, store.index().ping());
    let (used, free) = (store.blobs().clone(), store.blobs().clone());
    let (ping, used, free) = tokio::join!(
        ping,
        timeout(
            READY_TIMEOUT,
            off_thread(move || Ok((used.bytes_used()?, used.pinned_use()?)))
        ),
        timeout(READY_TIMEOUT, off_thread(move || free.bytes_free())),
    );
    let (used, pinned) = used.ok().and_then(Result::ok).unzip();
    Snapshot {
        conversions: state.converted.converter.status(),
        failures: state.converted.converter.failures().len(),
        sources: state.converted.converter.sources().map(SourceCache::counts),
        spans: telemetry::counts(),
        blobs: store.blobs().counters(),
        blob_bytes: used,
        pinned,
        free_bytes: free.ok().and_then(Result::ok),
        evicted: store.blobs().evicted(),
        objects: store.objects().map(Objects::counters),
        waiting: state.limits.waiting_by_cause(),
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
