//! Everything that is not converted, passed through.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{
    ACCEPT_ENCODING, CONTENT_LENGTH, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE,
    IF_UNMODIFIED_SINCE, RANGE, RETRY_AFTER,
};
use http::request::Parts;
use http::{Extensions, HeaderMap, Method, Request, Response, StatusCode, Version};
use http_body::Body as _;
use http_body_util::BodyExt;
use tokio::time::timeout;

use crate::registry::error_body::detail_of;
use crate::registry::stall::Stalling;
use crate::registry::{Body, Error, ForwardOptions, Redirects, Upstream, body};
use crate::server::context::RequestContext;
use crate::server::error::ApiError;
use crate::server::http::body::ResponseBody;
use crate::server::http::headers;
use crate::server::http::rewrite;
use crate::server::limits::request_slot::RequestSlot;
use crate::server::limits::slots::Slots;
use crate::server::observe::metrics::Called;
use crate::server::observe::outcome::Outcome;
use crate::server::state::AppState;
use crate::server::upstreams::Mount;

/// As much of an error's body is read.
const ERROR_LIMIT: usize = 64 << 10;

/// Passes a request on and its answer back.
///
/// # Errors
/// When there is no answer.
pub(in crate::server) async fn pass(
    context: RequestContext<'_>,
) -> Result<Response<ResponseBody>, ApiError> {
    let target = context.chosen.target();
    pass_to(context, &target).await
}

/// As [`pass`], to another path of the same upstream.
///
/// # Errors
/// As [`pass`].
pub(in crate::server) async fn pass_to(
    context: RequestContext<'_>,
    target: &str,
) -> Result<Response<ResponseBody>, ApiError> {
    let RequestContext {
        state,
        chosen,
        parts,
        body,
        slot,
        ..
    } = context;
    let stall = state.config.limits.stall;
    let incoming = body.map(|body| Stalling::new(body, stall));
    let has_stalled = incoming.as_ref().map(Stalling::has_stalled);
    let body = match incoming {
        // Nothing is sent along with these, whatever the client says.
        Some(incoming) if !matches!(parts.method, Method::GET | Method::HEAD) => {
            incoming.boxed_unsync()
        }
        _ => body::empty(),
    };
    let is_own = state.is_own();
    let request = outgoing(parts, body, target, is_own)?;
    let to = To {
        upstream: chosen.upstream,
        mount: &chosen.mount,
        is_own,
        slot,
        slots: state.limits.upstreams.get(chosen.place),
    };
    let answer = send(state, to, request).await;
    if answer.is_err() && has_stalled.is_some_and(|it| it.load(Ordering::Relaxed)) {
        return Err(ApiError::stalled(stall));
    }
    answer
}

/// As [`pass`], with a body that was read.
///
/// # Errors
/// When there is no answer.
pub(in crate::server) async fn pass_bytes(
    context: RequestContext<'_>,
    bytes: Bytes,
) -> Result<Response<ResponseBody>, ApiError> {
    let target = context.chosen.target();
    let is_own = context.state.is_own();
    let request = outgoing(context.parts, body::full(bytes), &target, is_own)?;
    let to = To {
        upstream: context.chosen.upstream,
        mount: &context.chosen.mount,
        is_own,
        slot: context.slot,
        slots: context.state.limits.upstreams.get(context.chosen.place),
    };
    send(context.state, to, request).await
}

/// As [`pass_to`] for a read that is the proxy's own: to an upstream that the client did not
/// name, with the proxy's credentials.
///
/// # Errors
/// As [`pass`], and that there is no such content: without where it was looked for.
pub(in crate::server) async fn fetch(
    context: &RequestContext<'_>,
    upstream: &Upstream,
    target: &str,
) -> Result<Response<ResponseBody>, ApiError> {
    let request = outgoing(context.parts.clone(), body::empty(), target, true)?;
    let to = To {
        upstream,
        mount: &Mount::default(),
        is_own: true,
        slot: context.slot,
        // It is a read of what is there.
        slots: Some(&context.state.limits.permissions),
    };
    let response = send(context.state, to, request).await?;
    if response.status() == StatusCode::NOT_FOUND {
        return Err(ApiError::gone());
    }
    Ok(response)
}

/// As [`pass_to`] for a `GET` whose answer is read here: unconditional, whole and not compressed,
/// whatever the client asks for.
///
/// # Errors
/// As [`pass`].
pub(in crate::server) async fn read(
    context: &RequestContext<'_>,
    target: &str,
) -> Result<Response<ResponseBody>, ApiError> {
    let mut parts = context.parts.clone();
    parts.method = Method::GET;
    for name in [
        ACCEPT_ENCODING,
        IF_MATCH,
        IF_MODIFIED_SINCE,
        IF_NONE_MATCH,
        IF_RANGE,
        IF_UNMODIFIED_SINCE,
        RANGE,
    ] {
        parts.headers.remove(name);
    }
    let is_own = context.state.is_own();
    let request = outgoing(parts, body::empty(), target, is_own)?;
    let to = To {
        upstream: context.chosen.upstream,
        mount: &context.chosen.mount,
        is_own,
        slot: context.slot,
        slots: context.state.limits.upstreams.get(context.chosen.place),
    };
    send(context.state, to, request).await
}

struct To<'a> {
    upstream: &'a Upstream,
    mount: &'a Mount,
    is_own: bool,
    slot: &'a RequestSlot,
    /// Where it waits for the upstream.
    slots: Option<&'a Slots>,
}

async fn send(
    state: &AppState,
    to: To<'_>,
    request: Request<Body>,
) -> Result<Response<ResponseBody>, ApiError> {
    let options = ForwardOptions {
        own_credentials: to.is_own,
        redirects: match state.config.follow_redirects {
            true => Redirects::Followed,
            // A client could not go there with the proxy's credentials.
            false if to.is_own => Redirects::FollowedAtHome,
            false => Redirects::Returned,
        },
    };
    let started = Instant::now();
    // On the heap, because it is large, and what is converted never gets here.
    let is_upload = !request.body().is_end_stream();
    let forwarded = Box::pin(to.upstream.forward(request, options));
    let answer = match to.slots {
        // The sending of a body is work.
        Some(slots) if !is_upload => to
            .slot
            .wait(slots, forwarded)
            .await
            .map_err(|full| ApiError::full(full, "requests that wait for the upstream"))?,
        _ => forwarded.await,
    };
    let called = match &answer {
        Ok(answer) if answer.status().is_server_error() => Called::Failing,
        answer => Called::of(answer),
    };
    let (host, took) = (to.upstream.host(), started.elapsed());
    state.metrics.call(host, "forward", called, took);
    let answer = answer.map_err(|error| ApiError::upstream(&error, to.is_own))?;
    let stall = state.config.limits.stall;
    if to.is_own && is_about_us(answer.status()) {
        return Err(refused(answer, stall).await);
    }
    let (mut parts, body) = answer.into_parts();
    headers::of_answer(&mut parts.headers, to.is_own);
    rewrite::response(&mut parts.headers, to.upstream, to.mount);
    parts.version = Version::HTTP_11;
    parts.extensions = Extensions::new();
    Ok(Response::from_parts(
        parts,
        ResponseBody::stream(body, stall).noted(Outcome::Passed),
    ))
}

/// Whether an answer to the proxy's own credentials is about these, their account or the upstream
/// itself, and not about what the client asked for.
fn is_about_us(status: StatusCode) -> bool {
    status.is_server_error()
        || matches!(
            status,
            StatusCode::UNAUTHORIZED
                | StatusCode::FORBIDDEN
                | StatusCode::PROXY_AUTHENTICATION_REQUIRED
                | StatusCode::TOO_MANY_REQUESTS
        )
}

/// What such an answer means for the client; what it says is for the log.
async fn refused(answer: Response<Body>, stall: Duration) -> ApiError {
    let (parts, body) = answer.into_parts();
    let start = body::read_start(body, ERROR_LIMIT);
    // Whatever does not come soon is not needed.
    let start = timeout(stall, start).await.unwrap_or_default();
    let (place, detail) = ("the upstream".to_owned(), detail_of(&start));
    let error = match parts.status {
        StatusCode::UNAUTHORIZED => Error::Unauthorized {
            place,
            is_own: true,
            challenges: Vec::new(),
            detail,
        },
        StatusCode::FORBIDDEN | StatusCode::PROXY_AUTHENTICATION_REQUIRED => Error::Forbidden {
            place,
            is_own: true,
            detail,
        },
        StatusCode::TOO_MANY_REQUESTS => Error::RateLimited {
            place,
            retry_after: retry_after(&parts.headers),
            detail,
        },
        status => Error::Upstream {
            place,
            status: status.as_u16(),
            detail,
        },
    };
    ApiError::upstream(&error, true)
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

fn outgoing(
    mut parts: Parts,
    body: Body,
    target: &str,
    is_own: bool,
) -> Result<Request<Body>, ApiError> {
    headers::of_request(&mut parts.headers, is_own);
    if matches!(parts.method, Method::GET | Method::HEAD) {
        parts.headers.remove(CONTENT_LENGTH);
    }
    parts.uri = target.parse().map_err(ApiError::internal)?;
    parts.version = Version::HTTP_11;
    parts.extensions = Extensions::new();
    Ok(Request::from_parts(parts, body))
}
