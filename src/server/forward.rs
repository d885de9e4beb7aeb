//! Everything that is not converted, passed through.

use std::sync::atomic::Ordering;
use std::time::Instant;

use http::header::{AUTHORIZATION, CONTENT_LENGTH};
use http::request::Parts;
use http::{Extensions, Method, Request, Response, StatusCode, Version};
use http_body_util::BodyExt;

use super::body::{Served, Stalling};
use super::front::{Call, Front};
use super::respond::Failure;
use super::rewrite;
use super::upstreams::Mount;
use crate::registry::{Body, Error, ForwardOptions, Upstream, body};

/// Passes a request on and its answer back.
///
/// # Errors
/// When there is no answer.
pub(super) async fn pass(call: Call<'_>) -> Result<Response<Served>, Failure> {
    let target = call.chosen.target();
    pass_to(call, &target).await
}

/// As [`pass`], to another path of the same upstream.
///
/// # Errors
/// As [`pass`].
pub(super) async fn pass_to(call: Call<'_>, target: &str) -> Result<Response<Served>, Failure> {
    let Call {
        front,
        chosen,
        parts,
        body,
        ..
    } = call;
    let stall = front.config.limits.stall;
    let incoming = Stalling::new(body, stall);
    let has_stalled = incoming.has_stalled();
    let body = match parts.method {
        // Nothing is sent along with these, whatever the client says.
        Method::GET | Method::HEAD => body::empty(),
        _ => incoming.boxed_unsync(),
    };
    let request = outgoing(parts, body, target, front.is_own())?;
    let to = To {
        upstream: chosen.upstream,
        mount: &chosen.mount,
        is_own: front.is_own(),
    };
    let answer = send(front, to, request).await;
    if answer.is_err() && has_stalled.load(Ordering::Relaxed) {
        return Err(Failure::stalled(stall));
    }
    answer
}

/// As [`pass_to`] for a read that is the proxy's own: to an upstream that the client did not
/// name, with the proxy's credentials.
///
/// # Errors
/// As [`pass`].
pub(super) async fn fetch(
    call: &Call<'_>,
    upstream: &Upstream,
    target: &str,
) -> Result<Response<Served>, Failure> {
    let request = outgoing(call.parts.clone(), body::empty(), target, true)?;
    let to = To {
        upstream,
        mount: &Mount::default(),
        is_own: true,
    };
    send(call.front, to, request).await
}

struct To<'a> {
    upstream: &'a Upstream,
    mount: &'a Mount,
    is_own: bool,
}

async fn send(
    front: &Front,
    to: To<'_>,
    request: Request<Body>,
) -> Result<Response<Served>, Failure> {
    let options = ForwardOptions {
        own_credentials: to.is_own,
        follow_redirects: front.config.follow_redirects,
    };
    let started = Instant::now();
    // On the heap, because it is large, and what is converted never gets here.
    let answer = Box::pin(to.upstream.forward(request, options)).await;
    front
        .metrics
        .call("forward", answer.is_ok(), started.elapsed());
    let answer = answer.map_err(|error| Failure::upstream(&error, to.is_own))?;
    if to.is_own && answer.status() == StatusCode::UNAUTHORIZED {
        // The challenge is for the proxy, and the client's password is none of the upstream's.
        let error = Error::Unauthorized {
            place: "the upstream".to_owned(),
            is_own: true,
            challenges: Vec::new(),
            detail: String::new(),
        };
        return Err(Failure::upstream(&error, true));
    }
    let (mut parts, body) = answer.into_parts();
    rewrite::response(&mut parts.headers, to.upstream, to.mount);
    parts.version = Version::HTTP_11;
    parts.extensions = Extensions::new();
    let stall = front.config.limits.stall;
    Ok(Response::from_parts(parts, Served::stream(body, stall)))
}

fn outgoing(
    mut parts: Parts,
    body: Body,
    target: &str,
    is_own: bool,
) -> Result<Request<Body>, Failure> {
    rewrite::request(&mut parts.headers);
    if is_own {
        parts.headers.remove(AUTHORIZATION);
    }
    if matches!(parts.method, Method::GET | Method::HEAD) {
        parts.headers.remove(CONTENT_LENGTH);
    }
    parts.uri = target.parse().map_err(Failure::internal)?;
    parts.version = Version::HTTP_11;
    parts.extensions = Extensions::new();
    Ok(Request::from_parts(parts, body))
}
