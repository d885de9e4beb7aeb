//! Clients that read a converted blob are sent to the object storage, where they read it without
//! credentials: the presigned address is the permission, for a time.
//!
//! It is given to whoever would be given the bytes, and to nobody else. overlaybd remembers where its
//! GET without a range leads, and reads there. What it asks for in ranges is answered with bytes, and
//! so is what goes by way of `/p2p/`, whose readers follow no redirects.

use http::header::{CACHE_CONTROL, CONTENT_LENGTH, HeaderValue, LOCATION, RANGE, USER_AGENT};
use http::{Method, Response, StatusCode};

use crate::oci::Digest;
use crate::server::context::RequestContext;
use crate::server::error::ApiError;
use crate::server::handlers::p2p;
use crate::server::http::body::ResponseBody;
use crate::server::http::header_names::OVERLAYBD_AGENT;
use crate::server::observe::outcome::Outcome;

/// The longest that S3 lets an address be good, in seconds.
const MAX_PRESIGN_SECONDS: u64 = 7 * 24 * 3600;

/// Whether a request is one whose answer may be somewhere else.
pub(in crate::server) fn may_redirect(context: &RequestContext<'_>) -> bool {
    let parts = &context.parts;
    let agent = parts.headers.get(USER_AGENT);
    let is_overlaybd = agent.is_some_and(|agent| agent.as_bytes().starts_with(OVERLAYBD_AGENT));
    context.state.config.blob_redirect.is_some()
        && parts.method == Method::GET
        && !(is_overlaybd && parts.headers.contains_key(RANGE))
        && !p2p::is_below(parts.uri.path())
}

/// The redirect for a blob that the client may have, if its object is known to be sound.
///
/// # Errors
/// As [`RequestContext::aside`].
pub(in crate::server) async fn redirect(
    context: &RequestContext<'_>,
    digest: &Digest,
) -> Result<Option<Response<ResponseBody>>, ApiError> {
    let state = context.state;
    let (Some(lifetime), Some(objects)) = (
        state.config.blob_redirect,
        state.converted.store().objects(),
    ) else {
        return Ok(None);
    };
    let lifetime = lifetime.min(std::time::Duration::from_secs(MAX_PRESIGN_SECONDS));
    let presigned = Box::pin(objects.presigned_url(digest, lifetime));
    let address = context.aside(presigned).await?;
    Ok(address.and_then(|address| to(address.as_str())))
}

fn to(address: &str) -> Option<Response<ResponseBody>> {
    let mut address = HeaderValue::from_str(address).ok()?;
    address.set_sensitive(true);
    let mut redirect = Response::new(ResponseBody::empty().noted(Outcome::Redirected));
    *redirect.status_mut() = StatusCode::TEMPORARY_REDIRECT;
    let headers = redirect.headers_mut();
    headers.insert(LOCATION, address);
    headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    let uncached = HeaderValue::from_static("private, no-store");
    headers.insert(CACHE_CONTROL, uncached);
    Some(redirect)
}
