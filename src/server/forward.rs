//! Everything that is not converted, passed through.

use std::sync::atomic::Ordering;
use std::time::Instant;

use http::header::AUTHORIZATION;
use http::{Extensions, Method, Request, Response, StatusCode, Version};
use http_body_util::BodyExt;

use super::body::{Served, Stalling};
use super::front::Call;
use super::respond::Failure;
use super::rewrite;
use crate::registry::{Body, Error, ForwardOptions, body};

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
    let request = outgoing(parts, incoming.boxed_unsync(), target, front.is_own())?;
    let options = ForwardOptions {
        own_credentials: front.is_own(),
        follow_redirects: front.config.follow_redirects,
    };
    let started = Instant::now();
    let answer = chosen.upstream.forward(request, options).await;
    front
        .metrics
        .call("forward", answer.is_ok(), started.elapsed());
    let answer = match answer {
        Ok(answer) => answer,
        Err(_) if has_stalled.load(Ordering::Relaxed) => {
            return Err(Failure::new(
                StatusCode::REQUEST_TIMEOUT,
                "BLOB_UPLOAD_INVALID",
                format!("nothing of the request's body came for {stall:?}"),
            ));
        }
        Err(error) => return Err(Failure::upstream(&error, front.is_own())),
    };
    if front.is_own() && answer.status() == StatusCode::UNAUTHORIZED {
        // The challenge is for the proxy, and the client's password is none of the upstream's.
        let error = Error::Unauthorized {
            place: "the upstream".to_owned(),
            challenges: Vec::new(),
            detail: String::new(),
        };
        return Err(Failure::upstream(&error, true));
    }
    let (mut parts, body) = answer.into_parts();
    rewrite::response(&mut parts.headers, chosen.upstream, &chosen.mount);
    parts.version = Version::HTTP_11;
    parts.extensions = Extensions::new();
    Ok(Response::from_parts(parts, Served::stream(body, stall)))
}

fn outgoing(
    mut parts: http::request::Parts,
    incoming: Body,
    target: &str,
    is_own: bool,
) -> Result<Request<Body>, Failure> {
    rewrite::request(&mut parts.headers);
    if is_own {
        parts.headers.remove(AUTHORIZATION);
    }
    parts.uri = target.parse().map_err(Failure::internal)?;
    parts.version = Version::HTTP_11;
    parts.extensions = Extensions::new();
    // Nothing is sent along with these, whatever the client says.
    let body = match parts.method {
        Method::GET | Method::HEAD => {
            parts.headers.remove(http::header::CONTENT_LENGTH);
            body::empty()
        }
        _ => incoming,
    };
    Ok(Request::from_parts(parts, body))
}
