//! One request: who asks, which upstream, what about, and what answers.

use std::any::Any;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::task::{Context, Poll};
use std::time::Instant;

use futures_util::FutureExt;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request, Response, request};
use hyper::body::{Body as _, Incoming};
use tracing::Instrument;

use super::accept::Handler;
use super::access::Users;
use super::activity::{Activity, Busy};
use super::body::Served;
use super::challenge::{self, Asking, TOKEN_PATH};
use super::config::{Access, ServerConfig};
use super::converted::Converted;
use super::hold::Hold;
use super::metrics::{CacheName, Metrics};
use super::permission::Permissions;
use super::places::{Places, client_of};
use super::prepare::Prepare;
use super::record::{REQUEST_ID, Record, request_id};
use super::respond::{API_VERSION, Failure, REGISTRY_2};
use super::route::{Endpoint, Kind, Route};
use super::shelf::Shelf;
use super::tags::Tags;
use super::turn::{Turn, Waits};
use super::upstreams::{Chosen, Upstreams};
use super::warm::{Answers, Content, Warm};
use super::{ServerError, blob, forward, gate, host, manifest, path, token};
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
    pub warm: Answers,
    pub metrics: Arc<Metrics>,
    pub is_draining: AtomicBool,
    pub connections: Places,
    pub waits: Waits,
}

/// A request that was let in.
pub(super) struct Call<'a> {
    pub front: &'a Arc<Front>,
    pub chosen: Chosen<'a>,
    pub parts: request::Parts,
    pub body: Incoming,
    /// With whose credentials the upstream is asked.
    pub authorization: Authorization,
    /// Its place among the others.
    pub turn: &'a Turn,
    /// How long it may wait, for what.
    pub hold: Hold,
    /// What it is about.
    kind: Kind,
    /// For which registry the answer stands.
    namespace: Option<HeaderValue>,
    /// The client's `Authorization`, as it was before the upstream's was put in its place.
    given: Option<HeaderValue>,
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

    /// Keeps the answer for those that ask the same until then.
    pub fn keep(&self, content: Content, until: Instant) {
        let warm = &self.front.warm;
        let key = warm.key(&self.parts.uri, &self.parts.headers, self.given.as_ref());
        let warm = Warm {
            content,
            kind: self.kind,
            namespace: self.namespace.clone(),
            until,
        };
        self.front.warm.keep(key, warm);
    }
}

/// What ends every answer.
struct Ending {
    id: HeaderValue,
    is_head: bool,
    record: Record,
}

impl Ending {
    fn end(mut self, mut response: Response<Served>) -> Response<Served> {
        response.headers_mut().insert(REQUEST_ID, self.id);
        let has_body = !self.is_head && !response.body().is_end_stream();
        self.record.answered(response.status(), has_body);
        response.map(|body| body.recorded(self.record))
    }

    fn fail(self, failure: Failure) -> Response<Served> {
        tracing::debug!(status = failure.status().as_u16(), "refused");
        let response = failure.into_response(self.is_head);
        self.end(response)
    }
}

fn of_panic(panic: &(dyn Any + Send)) -> Failure {
    Failure::internal(format!("a panic: {}", crate::panics::text(panic)))
}

/// An answer that is there, or comes.
// One that is there goes straight on: a box for it would be made and broken at once.
#[allow(clippy::large_enum_variant)]
pub(super) enum Answering {
    Now(Option<Response<Served>>),
    Later(Pin<Box<dyn Future<Output = Response<Served>> + Send>>),
}

impl Future for Answering {
    type Output = Response<Served>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Response<Served>> {
        match self.get_mut() {
            // A future is not polled after its end.
            Self::Now(response) => response.take().map_or(Poll::Pending, Poll::Ready),
            Self::Later(answer) => answer.as_mut().poll(context),
        }
    }
}

impl Front {
    /// # Errors
    /// When a file that the configuration names cannot be used, or there is no upstream.
    pub fn new(
        config: ServerConfig,
        converter: Converter,
        files: u64,
    ) -> Result<Self, ServerError> {
        if config.upstreams.is_empty() {
            let text = "no upstream is configured: there is nothing to stand in front of";
            return Err(ServerError::Configuration(text.to_owned()));
        }
        let users = match &config.access {
            Access::Own {
                htpasswd: Some(path),
            } => {
                let users = Users::open(path, &config.limits);
                Some(users.map_err(ServerError::Configuration)?)
            }
            Access::Own { htpasswd: None } | Access::PassThrough => None,
        };
        Ok(Self {
            upstreams: Upstreams::new(config.upstreams.clone()),
            permissions: Permissions::new(config.auth_cache_ttl),
            shelf: Shelf::new(converter.store().blobs().clone(), files),
            converted: Converted::new(converter),
            users,
            prepare: Prepare::new(&config.convert_on_pull),
            tags: Tags::new(),
            warm: Answers::new(),
            metrics: Arc::new(Metrics::new()),
            is_draining: AtomicBool::new(false),
            connections: Places::new(config.limits.connections, config.limits.address_share),
            waits: Waits::new(&config.limits, config.upstreams.len()),
            config,
        })
    }

    /// Whether upstreams are asked with the proxy's own credentials.
    pub fn is_own(&self) -> bool {
        matches!(self.config.access, Access::Own { .. })
    }

    fn answer(
        self: &Arc<Self>,
        client: SocketAddr,
        busy: Busy,
        mut request: Request<Incoming>,
    ) -> Answering {
        let id = request_id(request.headers());
        let span = tracing::info_span!("request", id = id.to_str().unwrap_or_default());
        let (turn, full) = Turn::begin(&self.waits.requests, client_of(client.ip()));
        let is_let_in = full.is_none();
        let mut ending = Ending {
            is_head: request.method() == Method::HEAD,
            record: self.record(client, &request, &span, busy, turn),
            id,
        };
        if let Err(bad) = host::check(&request) {
            return Answering::Now(Some(ending.fail(Failure::host(bad))));
        }
        if is_let_in {
            let caught = catch_unwind(AssertUnwindSafe(|| self.answer_warm(&request)));
            match caught {
                Ok(None) => {}
                Ok(Some((kind, response))) => {
                    ending.record.route = kind;
                    return Answering::Now(Some(ending.end(response)));
                }
                Err(panic) => {
                    let failure = span.in_scope(|| of_panic(panic.as_ref()));
                    return Answering::Now(Some(ending.fail(failure)));
                }
            }
        }
        request.headers_mut().insert(REQUEST_ID, ending.id.clone());
        let front = Arc::clone(self);
        Answering::Later(Box::pin(
            async move {
                let answer = async {
                    if let Some(full) = full {
                        return Err(Failure::full(full, "requests"));
                    }
                    let Record { route, turn, .. } = &mut ending.record;
                    front.plan_and_serve(request, route, turn).await
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
    fn answer_warm(&self, request: &Request<Incoming>) -> Option<(Kind, Response<Served>)> {
        let is_head = *request.method() == Method::HEAD;
        // Users of our own are checked anew each time.
        if self.users.is_some() || !(is_head || *request.method() == Method::GET) {
            return None;
        }
        let asked = request.headers();
        let key = self
            .warm
            .key(request.uri(), asked, asked.get(AUTHORIZATION));
        let warm = self.warm.get(&key)?;
        let mut response = match &warm.content {
            Content::Document(document) => {
                self.metrics.lookup(CacheName::Image, true);
                let mut response = document.answer(asked, is_head);
                let found = HeaderValue::from_static("found");
                response.headers_mut().insert(manifest::OUTCOME, found);
                response
            }
            Content::Blob(digest) => {
                let blob = self.shelf.get(digest)?;
                self.metrics.lookup(CacheName::Blob, true);
                blob::answer(blob, &self.shelf.buffers, asked, is_head)
                    .unwrap_or_else(|failure| failure.into_response(is_head))
            }
        };
        self.metrics.lookup(CacheName::Permission, true);
        if let Some(namespace) = &warm.namespace {
            response
                .headers_mut()
                .insert(OCI_NAMESPACE, namespace.clone());
        }
        Some((warm.kind, response))
    }

    fn record(
        &self,
        client: SocketAddr,
        request: &Request<Incoming>,
        span: &tracing::Span,
        busy: Busy,
        turn: Turn,
    ) -> Record {
        let asked = (request.method().clone(), request.uri().clone());
        let metrics = Arc::clone(&self.metrics);
        Record::new(metrics, span.clone(), client, asked, busy, turn)
    }

    async fn plan_and_serve(
        self: &Arc<Self>,
        request: Request<Incoming>,
        kind: &mut Kind,
        turn: &Turn,
    ) -> Result<Response<Served>, Failure> {
        let hold = Hold::begin(self.config.hold);
        let (mut parts, body) = request.into_parts();
        gate::method(&parts.method)?;
        let path = path::normal(parts.uri.path()).map_err(Failure::ambiguous)?;
        // Before anything is chosen by it.
        if Route::parse(&path) == Route::Outside {
            return Err(Failure::outside());
        }
        let mut chosen = self.upstreams.choose(&parts, &path)?;
        let route = Route::parse(&chosen.path);
        *kind = route.kind();
        if let Some(path) = route.path() {
            chosen.path = path;
        }
        if route == Route::Endpoint(Endpoint::Uploads) {
            self.upstreams.localize_mount(&mut chosen);
        }
        let asking = Asking::new(self, &parts, &chosen);
        if let Some(asking) = &asking {
            let is_read = matches!(parts.method, Method::GET | Method::HEAD);
            if chosen.path == TOKEN_PATH {
                *kind = Kind::Token;
                return token::serve(self, &chosen, &parts, turn, hold).await;
            }
            if route == Route::Ping && is_read && chosen.mount.prefix.is_none() {
                asking.ping(self, &parts.headers)?;
                return Ok(ping(parts.method == Method::HEAD));
            }
        }
        let given = parts.headers.get(AUTHORIZATION).cloned();
        if let (false, Some(seal)) = (self.is_own(), self.upstreams.seal(chosen.place)) {
            challenge::admit(&mut parts.headers, seal, asking.as_ref())?;
        }
        let namespace = chosen.mount.namespace.as_deref();
        let namespace = namespace.and_then(|text| HeaderValue::from_str(text).ok());
        let authorization = self.admit(&parts.headers, turn).await?;
        let call = Call {
            front: self,
            chosen,
            parts,
            body,
            authorization,
            turn,
            hold,
            kind: *kind,
            namespace: namespace.clone(),
            given,
        };
        let answer = self.serve(call, route).await;
        let mut response = challenge::finish(answer, asking.as_ref())?;
        if let Some(namespace) = namespace {
            response.headers_mut().insert(OCI_NAMESPACE, namespace);
        }
        Ok(response)
    }

    /// Lets a client in, and says with whose credentials it goes on.
    async fn admit(&self, headers: &HeaderMap, turn: &Turn) -> Result<Authorization, Failure> {
        let given = headers.get(AUTHORIZATION);
        if let Some(users) = &self.users {
            let known = Box::pin(users.know(given, turn.client));
            // The passwords that wait to be checked have a bound of their own.
            let known = turn.wait(&self.waits.permissions, known).await;
            match known {
                Ok(Ok(true)) => {}
                Ok(Ok(false)) => return Err(Failure::who_are_you()),
                Ok(Err(_)) | Err(_) => return Err(Failure::too_many_logins()),
            }
        }
        Ok(if self.is_own() {
            Authorization::Own
        } else {
            Authorization::Client(given.cloned())
        })
    }

    async fn serve(&self, call: Call<'_>, route: Route) -> Result<Response<Served>, Failure> {
        gate::request(&self.config, &call.parts.method, &route)?;
        let is_read = matches!(call.parts.method, Method::GET | Method::HEAD);
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
        self.0.answer(client, activity.begin(), request)
    }
}
