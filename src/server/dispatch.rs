//! From a request to its handler: limits, route, upstream, permission, answer.

use std::any::Any;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use futures_util::FutureExt;
use http::header::{AGE, AUTHORIZATION, HeaderValue, WARNING};
use http::request::Parts;
use http::{HeaderMap, Method, Request, Response};
use hyper::body::{Body as _, Incoming};
use tracing::Instrument;

use crate::oci::Selector;
use crate::registry::Authorization;
use crate::server::access::challenge::{self, Asking, TOKEN_PATH};
use crate::server::access::policy;
use crate::server::cache::responses::{CachedContent, Terms};
use crate::server::context::RequestContext;
use crate::server::decision;
use crate::server::error::ApiError;
use crate::server::handlers::blob;
use crate::server::handlers::blob_file;
use crate::server::handlers::forward;
use crate::server::handlers::manifest;
use crate::server::handlers::p2p;
use crate::server::handlers::ping;
use crate::server::handlers::probe;
use crate::server::handlers::push;
use crate::server::handlers::referrers;
use crate::server::handlers::signed::{self, Standing};
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
use crate::server::observe::access_log::{AccessLogEntry, ClientInfo, request_id};
use crate::server::observe::client;
use crate::server::observe::metrics::CacheName;
use crate::server::observe::outcome::{self, Stale};
use crate::server::observe::request_span;
use crate::server::policy::Form;
use crate::server::route::{Endpoint, Kind, Route};
use crate::server::state::{AppState, InForce};
use crate::server::upstreams::Chosen;
use crate::telemetry::CapturedContext;

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
        let outcome = outcome::of(&response, response.body().outcome);
        self.log_entry
            .answered(response.status(), outcome, has_body);
        response.map(|body| body.logged(self.log_entry))
    }

    fn fail(self, failure: ApiError) -> Response<ResponseBody> {
        tracing::debug!(status = failure.status().as_u16(), "refused");
        if let Some(by) = failure.refused_by() {
            self.log_entry.refused(by);
        }
        let response = failure.into_response(self.is_head);
        self.end(response)
    }
}

/// What is found out about a request, for the log.
struct Noted<'a> {
    kind: &'a mut Kind,
    upstream: &'a mut Option<Arc<str>>,
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
pub(in crate::server) struct Dispatcher {
    pub state: Arc<AppState>,
    /// Whether it answers nodes that read overlaybd, and nobody else.
    pub is_overlaybd: bool,
}

impl Dispatcher {
    fn answer(
        &self,
        client: SocketAddr,
        busy: ActiveRequest,
        mut request: Request<Incoming>,
    ) -> Answering {
        let client = self.state.clients.resolve(client, request.headers_mut());
        let id = request_id(request.headers());
        let name = id.to_str().unwrap_or_default();
        let trace = request_span::begin(client, &request, name);
        let span = match trace.trace_id() {
            None => tracing::info_span!("request", id = name),
            Some(trace_id) => tracing::info_span!("request", id = name, trace_id),
        };
        let (slot, full) = RequestSlot::begin(&self.state.limits.requests, client_of(client.ip()));
        let is_let_in = full.is_none();
        let mut ending = Ending {
            is_head: request.method() == Method::HEAD,
            log_entry: self.record(client, &request, &span, busy, slot),
            id,
        };
        ending.log_entry.trace = trace;
        if let Err(bad) = host::check(&request) {
            return Answering::Now(Some(ending.fail(ApiError::host(bad))));
        }
        if is_let_in {
            let caught = catch_unwind(AssertUnwindSafe(|| {
                self.answer_from_cache(client, &request)
            }));
            match caught {
                Ok(None) => {}
                Ok(Some((kind, upstream, response))) => {
                    ending.log_entry.route = kind;
                    ending.log_entry.upstream = upstream;
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
        let in_trace = CapturedContext::of(&ending.log_entry.trace);
        let answering = async move {
            let answer = async {
                if let Some(full) = full {
                    return Err(ApiError::full(full, "requests"));
                }
                let AccessLogEntry {
                    route,
                    upstream,
                    slot,
                    ..
                } = &mut ending.log_entry;
                let noted = Noted {
                    kind: route,
                    upstream,
                };
                Box::pin(dispatcher.route_and_serve((client, request), noted, slot)).await
            };
            let caught = AssertUnwindSafe(answer).catch_unwind().await;
            match caught {
                Ok(Ok(response)) => ending.end(response),
                Ok(Err(failure)) => ending.fail(failure),
                Err(panic) => ending.fail(of_panic(panic.as_ref())),
            }
        }
        .instrument(span);
        Answering::Later(in_trace.boxed(answering))
    }

    /// The answer to a question that was answered a moment ago, if it was and that still holds.
    fn answer_from_cache(
        &self,
        client: SocketAddr,
        request: &Request<Incoming>,
    ) -> Option<(Kind, Option<Arc<str>>, Response<ResponseBody>)> {
        let is_head = *request.method() == Method::HEAD;
        // Users of our own are checked anew each time.
        if self.state.users.is_some() || !(is_head || *request.method() == Method::GET) {
            return None;
        }
        let asked = request.headers();
        // The head of a blob is not what answers it.
        if probe::is_probe(request.method(), request.uri(), asked) {
            return None;
        }
        let terms = self.terms(&self.state.policy());
        let key = self
            .state
            .responses
            .key(request.uri(), asked, asked.get(AUTHORIZATION), terms);
        let cached = self.state.responses.get(&key)?;
        let mut response = match &cached.content {
            content @ (CachedContent::Document(document) | CachedContent::PlainTag(document)) => {
                self.state.metrics.lookup(CacheName::Image, true);
                let mut response = document.answer(asked, is_head);
                let found = HeaderValue::from_static("found");
                response.headers_mut().insert(OUTCOME, found);
                if matches!(content, CachedContent::PlainTag(_)) {
                    manifest::vary(response.headers_mut());
                }
                response
            }
            CachedContent::Blob(digest, repository) => {
                let blob = self.state.open_files.get(digest)?;
                if let Some(repository) = repository.as_ref().filter(|_| !is_head) {
                    let (client, read) = (client_of(client.ip()), (digest, blob.file.size()));
                    self.state.learner.note(client, repository, read, asked);
                }
                self.state.metrics.lookup(CacheName::Blob, true);
                blob_file::answer(blob, &self.state.open_files.buffers, asked, is_head)
                    .unwrap_or_else(|failure| failure.into_response(is_head))
            }
            CachedContent::SourceBlob(digest) => {
                let blob = self.state.open_files.get(digest)?;
                source::again(&self.state, blob, asked, is_head)
            }
        };
        self.state.metrics.lookup(CacheName::Permission, true);
        if let Some(namespace) = &cached.namespace {
            response
                .headers_mut()
                .insert(OCI_NAMESPACE, namespace.clone());
        }
        Some((
            cached.kind,
            self.state.upstreams.label(cached.place),
            response,
        ))
    }

    fn terms(&self, policy: &InForce) -> Terms {
        Terms {
            is_overlaybd: self.is_overlaybd,
            policy: policy.number,
        }
    }

    fn record(
        &self,
        client: SocketAddr,
        request: &Request<Incoming>,
        span: &tracing::Span,
        busy: ActiveRequest,
        slot: RequestSlot,
    ) -> AccessLogEntry {
        let asked = (
            request.method().clone(),
            request.uri().clone(),
            request.version(),
        );
        let headers = request.headers();
        let said = ClientInfo {
            agent: client::agent_of(headers),
            authorization: headers.get(AUTHORIZATION).cloned(),
        };
        let metrics = Arc::clone(&self.state.metrics);
        AccessLogEntry::new(metrics, span.clone(), (client, said), asked, busy, slot)
    }

    async fn route_and_serve(
        &self,
        (client, request): (SocketAddr, Request<Incoming>),
        Noted { kind, upstream }: Noted<'_>,
        slot: &RequestSlot,
    ) -> Result<Response<ResponseBody>, ApiError> {
        let hold = Hold::begin(self.state.config.hold);
        let (mut parts, body) = request.into_parts();
        policy::method(&parts.method)?;
        let is_p2p = p2p::is_below(parts.uri.path());
        let mut chosen = match p2p::asked(&parts) {
            Some(asked) => match asked?.target(&self.state, &parts)? {
                p2p::Target::Upstream(chosen, credentials) => {
                    // Users of our own are ours to know.
                    if credentials == p2p::Credentials::Dropped && !self.state.is_own() {
                        parts.headers.remove(AUTHORIZATION);
                    }
                    chosen
                }
                p2p::Target::Host(address) => {
                    *kind = Kind::Blob;
                    // What nodes read is never counted.
                    self.admit(&parts.headers, slot).await?;
                    return Box::pin(p2p::read(&self.state, slot, parts, &address)).await;
                }
            },
            None => self.choose(&parts)?,
        };
        *upstream = self.state.upstreams.label(chosen.place);
        let route = Route::parse(&chosen.path);
        *kind = route.kind();
        if let Some(path) = route.path() {
            chosen.path = path;
        }
        if route == Route::Endpoint(Endpoint::Uploads) {
            self.state.upstreams.localize_mount(&mut chosen);
        }
        let standing = match &route {
            Route::Blob { repo, digest } => {
                let is_of_upstream = is_p2p && chosen.mount.namespace.is_some();
                let (state, method) = (&self.state, &parts.method);
                signed::standing(state, &mut chosen, method, (repo, digest), is_of_upstream)?
            }
            _ => Standing::Plain,
        };
        // A signed address is the permission, and there is nothing to ask for.
        let is_granted = matches!(standing, Standing::Granted(_));
        if is_granted {
            parts.headers.remove(AUTHORIZATION);
        }
        let asking = if is_granted {
            None
        } else {
            Asking::new(&self.state, &parts, &chosen)
        };
        if let Some(asking) = &asking {
            let is_read = matches!(parts.method, Method::GET | Method::HEAD);
            if chosen.path == TOKEN_PATH {
                *kind = Kind::Token;
                let counted = self.state.rates.count(None, slot.client);
                counted.map_err(ApiError::too_many_requests)?;
                return Box::pin(token::serve(&self.state, &chosen, &parts, slot, hold)).await;
            }
            if route == Route::Ping && is_read && chosen.mount.prefix.is_none() {
                asking.ping(&self.state, &parts.headers)?;
                return Ok(ping::welcome(parts.method == Method::HEAD));
            }
        }
        let given = parts.headers.get(AUTHORIZATION).cloned();
        if let (false, Some(seal)) = (self.state.is_own(), self.state.upstreams.seal(chosen.place))
        {
            challenge::admit(&mut parts.headers, seal, asking.as_ref())?;
        }
        let namespace = chosen.mount.namespace.as_deref();
        let namespace = namespace.and_then(|text| HeaderValue::from_str(text).ok());
        let authorization = match is_granted {
            true if self.state.is_own() => Authorization::Own,
            true => Authorization::Client(None),
            false => self.admit(&parts.headers, slot).await?,
        };
        let stale_since = OnceLock::new();
        let is_overlaybd = chosen.mount.root.is_some() || self.is_overlaybd;
        let stated = decision::stated(&parts.headers);
        let policy = self.state.policy();
        let context = RequestContext {
            stale_since: &stale_since,
            allowed: OnceLock::new(),
            state: &self.state,
            chosen,
            parts,
            body: Some(body),
            authorization,
            client,
            slot,
            hold,
            kind: *kind,
            namespace: namespace.clone(),
            stated: stated.or_else(|| is_overlaybd.then_some(Form::Auto)),
            terms: self.terms(&policy),
            policy,
            given,
        };
        let answer = match (standing, &route) {
            (Standing::Granted(grant), Route::Blob { repo, digest }) => {
                signed::read(context, repo, digest, grant).await
            }
            (Standing::Foreign, _) if !self.state.is_own() => {
                blob::count(&context)?;
                forward::pass(context).await
            }
            // Large, and what is read at signed addresses never gets there.
            _ => Box::pin(self.serve(context, route)).await,
        };
        let mut response = challenge::finish(answer, asking.as_ref())?;
        if let Some(namespace) = namespace {
            response.headers_mut().insert(OCI_NAMESPACE, namespace);
        }
        if let Some(since) = stale_since.get() {
            let headers = response.headers_mut();
            headers.insert(AGE, HeaderValue::from(since.elapsed().as_secs()));
            headers.insert(WARNING, STALE);
            response.extensions_mut().insert(Stale);
            self.state.metrics.events.stale(*kind);
        }
        Ok(response)
    }

    /// The upstream that a request is for.
    fn choose(&self, parts: &Parts) -> Result<Chosen<'_>, ApiError> {
        let path = path::normal(parts.uri.path()).map_err(ApiError::ambiguous)?;
        let (root, path) = match path::below_overlaybd(&path) {
            Some(below) => (Some(path::OVERLAYBD), below),
            None => (None, &*path),
        };
        // Before anything is chosen by it.
        if Route::parse(path) == Route::Outside {
            return Err(ApiError::outside());
        }
        let mut chosen = self.state.upstreams.choose(parts, path)?;
        chosen.mount.root = root;
        Ok(chosen)
    }

    /// Lets a client in, and says with whose credentials it goes on.
    async fn admit(
        &self,
        headers: &HeaderMap,
        slot: &RequestSlot,
    ) -> Result<Authorization, ApiError> {
        let given = headers.get(AUTHORIZATION);
        if let Some(users) = &self.state.users {
            let known = Box::pin(users.know(given, slot.client));
            // The passwords that wait to be checked have a bound of their own.
            let known = slot.wait(&self.state.limits.permissions, known).await;
            match known {
                Ok(Ok(true)) => {}
                Ok(Ok(false)) => return Err(ApiError::unauthorized()),
                Ok(Err(_)) | Err(_) => return Err(ApiError::too_many_logins()),
            }
        }
        Ok(if self.state.is_own() {
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
        policy::request(&self.state.config, &context.parts.method, &route)?;
        let is_read = matches!(context.parts.method, Method::GET | Method::HEAD);
        // Those for blobs count where the blob is not here.
        if !(is_read && matches!(route, Route::Blob { .. })) {
            context.count()?;
        }
        let answer = match route {
            Route::Outside => Err(ApiError::outside()),
            // Who is let in by us need not be let in by the upstream.
            Route::Ping if is_read && self.state.is_own() => Ok(ping::welcome(context.is_head())),
            Route::Ping if is_read => ping::serve(context).await,
            Route::Manifest { repo, selector } if is_read => match selector {
                Selector::Tag(tag) => manifest::by_tag(context, &repo, tag).await,
                Selector::Digest(digest) => manifest::by_digest(context, &repo, &digest).await,
            },
            Route::Blob { repo, digest } if is_read => blob::serve(context, &repo, &digest).await,
            Route::Referrers { repo, subject } if is_read => {
                referrers::list(context, &repo, &subject).await
            }
            Route::Manifest { repo, selector } if context.parts.method == Method::PUT => {
                push::manifest(context, &repo, &selector).await
            }
            _ => forward::pass(context).await,
        };
        if !is_read {
            self.state.missing.written();
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
