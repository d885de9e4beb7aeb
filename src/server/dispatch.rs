//! From a request to its handler: limits, route, upstream, permission, answer.

use std::any::Any;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use futures_util::FutureExt;
use http::header::{AGE, AUTHORIZATION, HeaderValue, WARNING};
use http::{HeaderMap, Method, Request, Response};
use hyper::body::{Body as _, Incoming};
use tracing::Instrument;

use crate::oci::Selector;
use crate::registry::Authorization;
use crate::server::access::challenge::{self, Asking, TOKEN_PATH};
use crate::server::access::policy;
use crate::server::cache::responses::CachedContent;
use crate::server::context::RequestContext;
use crate::server::error::ApiError;
use crate::server::handlers::blob;
use crate::server::handlers::forward;
use crate::server::handlers::manifest;
use crate::server::handlers::ping;
use crate::server::handlers::push;
use crate::server::handlers::source;
use crate::server::handlers::token;
use crate::server::http::accept::Handler;
use crate::server::http::activity::{ActiveRequest, Activity};
use crate::server::http::body::ResponseBody;
use crate::server::http::header_names::{OCI_NAMESPACE, OUTCOME, REQUEST_ID};
use crate::server::http::host;
use crate::server::http::path;
use crate::server::limits::hold::Hold;
use crate::server::limits::request_slot::RequestSlot;
use crate::server::limits::slots::client_of;
use crate::server::observe::access_log::{AccessLogEntry, request_id};
use crate::server::observe::metrics::CacheName;
use crate::server::route::{Endpoint, Kind, Route};
use crate::server::state::AppState;

/// RFC 7234 § 5.5.2: the upstream could not be asked whether what is served still holds.
const STALE: HeaderValue = HeaderValue::from_static("111 overlaybd-proxy \"Revalidation Failed\"");

/// What ends every answer.
struct Ending {
    id: HeaderValue,
    is_head: bool,
    log_entry: AccessLogEntry,
}

impl Ending {
    fn end(mut self, mut response: Response<ResponseBody>) -> Response<ResponseBody> {
        response.headers_mut().insert(REQUEST_ID, self.id);
        let has_body = !self.is_head && !response.body().is_end_stream();
        self.log_entry.answered(response.status(), has_body);
        response.map(|body| body.logged(self.log_entry))
    }

    fn fail(self, failure: ApiError) -> Response<ResponseBody> {
        tracing::debug!(status = failure.status().as_u16(), "refused");
        let response = failure.into_response(self.is_head);
        self.end(response)
    }
}

fn of_panic(panic: &(dyn Any + Send)) -> ApiError {
    ApiError::internal(format!("a panic: {}", crate::panics::text(panic)))
}

/// An answer that is there, or comes.
// One that is there goes straight on: a box for it would be made and broken at once.
#[allow(clippy::large_enum_variant)]
pub(in crate::server) enum Answering {
    Now(Option<Response<ResponseBody>>),
    Later(Pin<Box<dyn Future<Output = Response<ResponseBody>> + Send>>),
}

impl Future for Answering {
    type Output = Response<ResponseBody>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Response<ResponseBody>> {
        match self.get_mut() {
            // A future is not polled after its end.
            Self::Now(response) => response.take().map_or(Poll::Pending, Poll::Ready),
            Self::Later(answer) => answer.as_mut().poll(context),
        }
    }
}

/// Answers the requests of registry clients.
#[derive(Clone)]
pub(in crate::server) struct Dispatcher(pub Arc<AppState>);

impl Dispatcher {
    fn answer(
        &self,
        client: SocketAddr,
        busy: ActiveRequest,
        mut request: Request<Incoming>,
    ) -> Answering {
        let id = request_id(request.headers());
        let span = tracing::info_span!("request", id = id.to_str().unwrap_or_default());
        let (slot, full) = RequestSlot::begin(&self.0.limits.requests, client_of(client.ip()));
        let is_let_in = full.is_none();
        let mut ending = Ending {
            is_head: request.method() == Method::HEAD,
            log_entry: self.record(client, &request, &span, busy, slot),
            id,
        };
        if let Err(bad) = host::check(&request) {
            return Answering::Now(Some(ending.fail(ApiError::host(bad))));
        }
        if is_let_in {
            let caught = catch_unwind(AssertUnwindSafe(|| self.answer_from_cache(&request)));
            match caught {
                Ok(None) => {}
                Ok(Some((kind, response))) => {
                    ending.log_entry.route = kind;
                    return Answering::Now(Some(ending.end(response)));
                }
                Err(panic) => {
                    let failure = span.in_scope(|| of_panic(panic.as_ref()));
                    return Answering::Now(Some(ending.fail(failure)));
                }
            }
        }
        request.headers_mut().insert(REQUEST_ID, ending.id.clone());
        let dispatcher = self.clone();
        Answering::Later(Box::pin(
            async move {
                let answer = async {
                    if let Some(full) = full {
                        return Err(ApiError::full(full, "requests"));
                    }
                    let AccessLogEntry { route, slot, .. } = &mut ending.log_entry;
                    dispatcher.route_and_serve(request, route, slot).await
                };
                let caught = AssertUnwindSafe(answer).catch_unwind().await;
                match caught {
                    Ok(Ok(response)) => ending.end(response),
                    Ok(Err(failure)) => ending.fail(failure),
                    Err(panic) => ending.fail(of_panic(panic.as_ref())),
                }
            }
            .instrument(span),
        ))
    }

    /// The answer to a question that was answered a moment ago, if it was and that still holds.
    fn answer_from_cache(
        &self,
        request: &Request<Incoming>,
    ) -> Option<(Kind, Response<ResponseBody>)> {
        let is_head = *request.method() == Method::HEAD;
        // Users of our own are checked anew each time.
        if self.0.users.is_some() || !(is_head || *request.method() == Method::GET) {
            return None;
        }
        let asked = request.headers();
        let key = self
            .0
            .responses
            .key(request.uri(), asked, asked.get(AUTHORIZATION));
        let cached = self.0.responses.get(&key)?;
        let mut response = match &cached.content {
            CachedContent::Document(document) => {
                self.0.metrics.lookup(CacheName::Image, true);
                let mut response = document.answer(asked, is_head);
                let found = HeaderValue::from_static("found");
                response.headers_mut().insert(OUTCOME, found);
                response
            }
            CachedContent::Blob(digest) => {
                let blob = self.0.open_files.get(digest)?;
                self.0.metrics.lookup(CacheName::Blob, true);
                blob::answer(blob, &self.0.open_files.buffers, asked, is_head)
                    .unwrap_or_else(|failure| failure.into_response(is_head))
            }
            CachedContent::SourceBlob(digest) => {
                let blob = self.0.open_files.get(digest)?;
                source::again(&self.0, blob, asked, is_head)
            }
        };
        self.0.metrics.lookup(CacheName::Permission, true);
        if let Some(namespace) = &cached.namespace {
            response
                .headers_mut()
                .insert(OCI_NAMESPACE, namespace.clone());
        }
        Some((cached.kind, response))
    }

    fn record(
        &self,
        client: SocketAddr,
        request: &Request<Incoming>,
        span: &tracing::Span,
        busy: ActiveRequest,
        slot: RequestSlot,
    ) -> AccessLogEntry {
        let asked = (request.method().clone(), request.uri().clone());
        let metrics = Arc::clone(&self.0.metrics);
        AccessLogEntry::new(metrics, span.clone(), client, asked, busy, slot)
    }

    async fn route_and_serve(
        &self,
        request: Request<Incoming>,
        kind: &mut Kind,
        slot: &RequestSlot,
    ) -> Result<Response<ResponseBody>, ApiError> {
        let hold = Hold::begin(self.0.config.hold);
        let (mut parts, body) = request.into_parts();
        policy::method(&parts.method)?;
        let path = path::normal(parts.uri.path()).map_err(ApiError::ambiguous)?;
        // Before anything is chosen by it.
        if Route::parse(&path) == Route::Outside {
            return Err(ApiError::outside());
        }
        let mut chosen = self.0.upstreams.choose(&parts, &path)?;
        let route = Route::parse(&chosen.path);
        *kind = route.kind();
        if let Some(path) = route.path() {
            chosen.path = path;
        }
        if route == Route::Endpoint(Endpoint::Uploads) {
            self.0.upstreams.localize_mount(&mut chosen);
        }
        let asking = Asking::new(&self.0, &parts, &chosen);
        if let Some(asking) = &asking {
            let is_read = matches!(parts.method, Method::GET | Method::HEAD);
            if chosen.path == TOKEN_PATH {
                *kind = Kind::Token;
                return token::serve(&self.0, &chosen, &parts, slot, hold).await;
            }
            if route == Route::Ping && is_read && chosen.mount.prefix.is_none() {
                asking.ping(&self.0, &parts.headers)?;
                return Ok(ping::welcome(parts.method == Method::HEAD));
            }
        }
        let given = parts.headers.get(AUTHORIZATION).cloned();
        if let (false, Some(seal)) = (self.0.is_own(), self.0.upstreams.seal(chosen.place)) {
            challenge::admit(&mut parts.headers, seal, asking.as_ref())?;
        }
        let namespace = chosen.mount.namespace.as_deref();
        let namespace = namespace.and_then(|text| HeaderValue::from_str(text).ok());
        let authorization = self.admit(&parts.headers, slot).await?;
        let stale_since = OnceLock::new();
        let context = RequestContext {
            stale_since: &stale_since,
            allowed: OnceLock::new(),
            state: &self.0,
            chosen,
            parts,
            body: Some(body),
            authorization,
            slot,
            hold,
            kind: *kind,
            namespace: namespace.clone(),
            given,
        };
        let answer = self.serve(context, route).await;
        let mut response = challenge::finish(answer, asking.as_ref())?;
        if let Some(namespace) = namespace {
            response.headers_mut().insert(OCI_NAMESPACE, namespace);
        }
        if let Some(since) = stale_since.get() {
            let headers = response.headers_mut();
            headers.insert(AGE, HeaderValue::from(since.elapsed().as_secs()));
            headers.insert(WARNING, STALE);
        }
        Ok(response)
    }

    /// Lets a client in, and says with whose credentials it goes on.
    async fn admit(
        &self,
        headers: &HeaderMap,
        slot: &RequestSlot,
    ) -> Result<Authorization, ApiError> {
        let given = headers.get(AUTHORIZATION);
        if let Some(users) = &self.0.users {
            let known = Box::pin(users.know(given, slot.client));
            // The passwords that wait to be checked have a bound of their own.
            let known = slot.wait(&self.0.limits.permissions, known).await;
            match known {
                Ok(Ok(true)) => {}
                Ok(Ok(false)) => return Err(ApiError::unauthorized()),
                Ok(Err(_)) | Err(_) => return Err(ApiError::too_many_logins()),
            }
        }
        Ok(if self.0.is_own() {
            Authorization::Own
        } else {
            Authorization::Client(given.cloned())
        })
    }

    async fn serve(
        &self,
        context: RequestContext<'_>,
        route: Route,
    ) -> Result<Response<ResponseBody>, ApiError> {
        policy::request(&self.0.config, &context.parts.method, &route)?;
        let is_read = matches!(context.parts.method, Method::GET | Method::HEAD);
        let answer = match route {
            Route::Outside => Err(ApiError::outside()),
            // Who is let in by us need not be let in by the upstream.
            Route::Ping if is_read && self.0.is_own() => Ok(ping::welcome(context.is_head())),
            Route::Ping if is_read => ping::serve(context).await,
            Route::Manifest { repo, selector } if is_read => match selector {
                Selector::Tag(tag) => manifest::by_tag(context, &repo, tag).await,
                Selector::Digest(digest) => manifest::by_digest(context, &repo, &digest).await,
            },
            Route::Blob { repo, digest } if is_read => blob::serve(context, &repo, &digest).await,
            Route::Manifest { repo, .. } if context.parts.method == Method::PUT => {
                push::manifest(context, &repo).await
            }
            _ => forward::pass(context).await,
        };
        if !is_read {
            self.0.missing.written();
        }
        answer
    }
}

impl Handler for Dispatcher {
    fn answer(
        &self,
        client: SocketAddr,
        activity: &Arc<Activity>,
        request: Request<Incoming>,
    ) -> impl Future<Output = Response<ResponseBody>> + Send + 'static {
        Dispatcher::answer(self, client, activity.begin(), request)
    }
}
