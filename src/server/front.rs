//! One request: who asks, which upstream, what about, and what answers.

use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use futures_util::FutureExt;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request, Response, request};
use hyper::body::{Body as _, Incoming};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::Instrument;

use super::accept::Handler;
use super::access::Users;
use super::activity::{Activity, Busy};
use super::body::Served;
use super::config::{Access, ServerConfig};
use super::converted::Converted;
use super::metrics::Metrics;
use super::permission::Permissions;
use super::prepare::Prepare;
use super::record::{REQUEST_ID, Record, request_id};
use super::respond::{API_VERSION, Failure, REGISTRY_2};
use super::route::{Kind, Route};
use super::shelf::Shelf;
use super::tags::Tags;
use super::upstreams::{Chosen, Upstreams};
use super::{ServerError, blob, forward, manifest};
use crate::convert::Converter;
use crate::oci::Selector;
use crate::registry::Authorization;

/// `OCI-Namespace`: for which registry the answer stands.
const OCI_NAMESPACE: HeaderName = HeaderName::from_static("oci-namespace");

/// All that requests are answered from.
pub(super) struct Front {
    pub config: ServerConfig,
    pub upstreams: Upstreams,
    pub permissions: Permissions,
    pub converted: Converted,
    pub shelf: Shelf,
    pub users: Option<Users>,
    pub prepare: Prepare,
    pub tags: Tags,
    pub metrics: Arc<Metrics>,
    pub is_draining: AtomicBool,
    requests: Arc<Semaphore>,
}

/// A request that was let in.
pub(super) struct Call<'a> {
    pub front: &'a Arc<Front>,
    pub chosen: Chosen<'a>,
    pub parts: request::Parts,
    pub body: Incoming,
    /// With whose credentials the upstream is asked.
    pub authorization: Authorization,
}

impl Call<'_> {
    pub fn is_head(&self) -> bool {
        self.parts.method == Method::HEAD
    }

    /// Path and query as the client knows them.
    pub fn address(&self) -> &str {
        self.parts
            .uri
            .path_and_query()
            .map_or("/v2/", http::uri::PathAndQuery::as_str)
    }
}

impl Front {
    /// # Errors
    /// When a file that the configuration names cannot be used, or there is no upstream.
    pub fn new(config: ServerConfig, converter: Converter) -> Result<Self, ServerError> {
        if config.upstreams.is_empty() {
            let text = "no upstream is configured: there is nothing to stand in front of";
            return Err(ServerError::Configuration(text.to_owned()));
        }
        let users = match &config.access {
            Access::Own {
                htpasswd: Some(path),
            } => Some(Users::open(path).map_err(ServerError::Configuration)?),
            Access::Own { htpasswd: None } | Access::PassThrough => None,
        };
        Ok(Self {
            upstreams: Upstreams::new(config.upstreams.clone()),
            permissions: Permissions::new(config.auth_cache_ttl),
            shelf: Shelf::new(converter.store().blobs().clone()),
            converted: Converted::new(converter),
            users,
            prepare: Prepare::new(&config.convert_on_pull),
            tags: Tags::new(),
            metrics: Arc::new(Metrics::new()),
            is_draining: AtomicBool::new(false),
            requests: Arc::new(Semaphore::new(config.limits.requests.max(1))),
            config,
        })
    }

    /// Whether upstreams are asked with the proxy's own credentials.
    pub fn is_own(&self) -> bool {
        matches!(self.config.access, Access::Own { .. })
    }

    async fn answer(
        self: Arc<Self>,
        client: SocketAddr,
        busy: Busy,
        mut request: Request<Incoming>,
    ) -> Response<Served> {
        let id = request_id(request.headers());
        let span = tracing::info_span!("request", id = id.to_str().unwrap_or_default());
        request.headers_mut().insert(REQUEST_ID, id.clone());
        let is_head = request.method() == Method::HEAD;
        let permit = Arc::clone(&self.requests).try_acquire_owned();
        let is_let_in = permit.is_ok();
        let mut record = self.record(client, &request, &span, busy, permit.ok());
        let answer = async {
            if !is_let_in {
                return Err(Failure::too_many_requests());
            }
            self.plan_and_serve(request, &mut record.route).await
        };
        let caught = AssertUnwindSafe(answer.instrument(span.clone()))
            .catch_unwind()
            .await;
        let entered = span.enter();
        let mut response = match caught {
            Ok(Ok(response)) => response,
            Ok(Err(failure)) => {
                tracing::debug!(status = failure.status().as_u16(), "refused");
                failure.into_response(is_head)
            }
            Err(panic) => {
                let text = panic
                    .downcast_ref::<&str>()
                    .copied()
                    .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
                Failure::internal(format!("a panic: {}", text.unwrap_or("of an unknown kind")))
                    .into_response(is_head)
            }
        };
        drop(entered);
        response.headers_mut().insert(REQUEST_ID, id);
        let has_body = !is_head && !response.body().is_end_stream();
        record.answered(response.status(), has_body);
        response.map(|body| body.recorded(record))
    }

    fn record(
        &self,
        client: SocketAddr,
        request: &Request<Incoming>,
        span: &tracing::Span,
        busy: Busy,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Record {
        let asked = (request.method().clone(), request.uri().clone());
        let metrics = Arc::clone(&self.metrics);
        Record::new(metrics, span.clone(), client, asked, busy, permit)
    }

    async fn plan_and_serve(
        self: &Arc<Self>,
        request: Request<Incoming>,
        kind: &mut Kind,
    ) -> Result<Response<Served>, Failure> {
        let (parts, body) = request.into_parts();
        // Before anything is chosen by it: a path that climbs is nobody's.
        if Route::parse(parts.uri.path()) == Route::Outside {
            return Err(Failure::outside());
        }
        let chosen = self.upstreams.choose(&parts)?;
        let route = Route::parse(&chosen.path);
        *kind = route.kind();
        let namespace = chosen.mount.namespace.clone();
        let authorization = self.admit(&parts.headers).await?;
        let call = Call {
            front: self,
            chosen,
            parts,
            body,
            authorization,
        };
        let mut response = self.serve(call, route).await?;
        if let Some(namespace) = namespace.and_then(|text| HeaderValue::from_str(&text).ok()) {
            response.headers_mut().insert(OCI_NAMESPACE, namespace);
        }
        Ok(response)
    }

    /// Lets a client in, and says with whose credentials it goes on.
    async fn admit(&self, headers: &HeaderMap) -> Result<Authorization, Failure> {
        let given = headers.get(AUTHORIZATION);
        match (&self.users, self.is_own()) {
            (Some(users), _) if !users.know(given).await => Err(Failure::who_are_you()),
            (_, true) => Ok(Authorization::Own),
            (_, false) => Ok(Authorization::Client(given.cloned())),
        }
    }

    async fn serve(&self, call: Call<'_>, route: Route) -> Result<Response<Served>, Failure> {
        let method = &call.parts.method;
        let is_read = matches!(*method, Method::GET | Method::HEAD);
        if self.config.read_only && !is_read && *method != Method::OPTIONS {
            return Err(Failure::read_only());
        }
        match route {
            Route::Outside => Err(Failure::outside()),
            Route::Ping if is_read && self.is_own() => Ok(ping(call.is_head())),
            Route::Manifest { repo, selector } if is_read => match selector {
                Selector::Tag(tag) => manifest::by_tag(call, &repo, tag).await,
                Selector::Digest(digest) => manifest::by_digest(call, &repo, &digest).await,
            },
            Route::Blob { repo, digest } if is_read => blob::serve(call, &repo, &digest).await,
            _ => forward::pass(call).await,
        }
    }
}

/// Who is let in by us need not be let in by the upstream.
fn ping(is_head: bool) -> Response<Served> {
    const TEXT: &str = "{}";
    let mut response = Response::new(Served::empty());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(TEXT.len()));
    headers.insert(API_VERSION, REGISTRY_2);
    if !is_head {
        *response.body_mut() = Served::bytes(TEXT);
    }
    response
}

/// The front as what answers at its door.
#[derive(Clone)]
pub(super) struct FrontDoor(pub Arc<Front>);

impl Handler for FrontDoor {
    fn answer(
        &self,
        client: SocketAddr,
        activity: &Arc<Activity>,
        request: Request<Incoming>,
    ) -> impl Future<Output = Response<Served>> + Send + 'static {
        Arc::clone(&self.0).answer(client, activity.begin(), request)
    }
}
