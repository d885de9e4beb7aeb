//! The API of operators, below `/api/v1/` on the admin address: what is under way and what is kept.
//!
//! What it answers is JSON, errors in the form of the distribution specification. Whoever reaches
//! the address may read; a change needs the token of `--admin-token-file`, which no page of
//! another origin has.

mod cache;
pub(in crate::server) mod conversions;
mod failures;
mod images;
mod notifications;
mod pins;
mod pushed;
mod verification;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::Value;
use tokio::time::timeout;

use crate::registry::body;
use crate::server::access::token_file::NotAllowed;
use crate::server::error::ApiError;
use crate::server::http::body::ResponseBody;
use crate::server::state::AppState;

/// The most bytes of a request's body.
pub(in crate::server) const MAX_BODY_BYTES: usize = 64 << 10;
/// How long a body may take.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// The description of the API, in the terms of `OpenAPI` 3.0.
const OPENAPI: &str = include_str!("openapi.json");

/// What a resource answers.
enum Answer {
    /// 200.
    Found(Value),
    /// 202: it was begun.
    Accepted(Value),
    /// 200, written already.
    Document(&'static str),
}

/// A path below `/api/v1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Resource<'a> {
    OpenApi,
    Conversions,
    Conversion(&'a str),
    Cache,
    Blobs,
    Blob(&'a str),
    Evictions,
    Pins,
    Pin(&'a str),
    Verification,
    Failures,
    Images,
    Image,
    Notifications,
}

impl<'a> Resource<'a> {
    fn at(path: &'a str) -> Option<Self> {
        let parts: Vec<&str> = path.strip_prefix("/api/v1/")?.split('/').take(4).collect();
        match parts.as_slice() {
            ["openapi.json"] => Some(Self::OpenApi),
            ["conversions"] => Some(Self::Conversions),
            ["conversions", id] => Some(Self::Conversion(id)),
            ["cache"] => Some(Self::Cache),
            ["cache", "blobs"] => Some(Self::Blobs),
            ["cache", "blobs", digest] => Some(Self::Blob(digest)),
            ["cache", "evictions"] => Some(Self::Evictions),
            ["cache", "pins"] => Some(Self::Pins),
            ["cache", "pins", digest] => Some(Self::Pin(digest)),
            ["cache", "verification"] => Some(Self::Verification),
            ["failures"] => Some(Self::Failures),
            ["images"] => Some(Self::Images),
            ["image"] => Some(Self::Image),
            ["notifications"] => Some(Self::Notifications),
            _ => None,
        }
    }

    /// Its path, with names in place of what differs.
    fn template(self) -> &'static str {
        match self {
            Self::OpenApi => "/api/v1/openapi.json",
            Self::Conversions => "/api/v1/conversions",
            Self::Conversion(_) => "/api/v1/conversions/{id}",
            Self::Cache => "/api/v1/cache",
            Self::Blobs => "/api/v1/cache/blobs",
            Self::Blob(_) => "/api/v1/cache/blobs/{digest}",
            Self::Evictions => "/api/v1/cache/evictions",
            Self::Pins => "/api/v1/cache/pins",
            Self::Pin(_) => "/api/v1/cache/pins/{digest}",
            Self::Verification => "/api/v1/cache/verification",
            Self::Failures => "/api/v1/failures",
            Self::Images => "/api/v1/images",
            Self::Image => "/api/v1/image",
            Self::Notifications => "/api/v1/notifications",
        }
    }

    fn methods(self) -> &'static str {
        match self {
            Self::OpenApi | Self::Cache | Self::Blobs | Self::Images => "GET, HEAD",
            Self::Conversions | Self::Pins => "GET, HEAD, POST",
            Self::Verification => "GET, HEAD, POST, DELETE",
            Self::Conversion(_) | Self::Failures | Self::Image => "GET, HEAD, DELETE",
            Self::Blob(_) | Self::Pin(_) => "DELETE",
            Self::Evictions | Self::Notifications => "POST",
        }
    }
}

/// What a path of the API looks like, with names in place of what differs.
pub(in crate::server) fn template(path: &str) -> Option<&'static str> {
    Resource::at(path).map(Resource::template)
}

/// Answers a request below `/api/`.
pub(in crate::server) async fn answer(
    state: &Arc<AppState>,
    request: Request<Incoming>,
) -> Response<ResponseBody> {
    let is_head = *request.method() == Method::HEAD;
    match handle(state, request).await {
        Ok(answer) => response(answer, is_head),
        Err(error) => error.into_response(is_head),
    }
}

fn response(answer: Answer, is_head: bool) -> Response<ResponseBody> {
    let (status, text) = match answer {
        Answer::Found(value) => (StatusCode::OK, value.to_string() + "\n"),
        Answer::Accepted(value) => (StatusCode::ACCEPTED, value.to_string() + "\n"),
        Answer::Document(text) => (StatusCode::OK, text.to_owned()),
    };
    let mut response = Response::new(ResponseBody::empty());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(http::header::CONTENT_LENGTH, HeaderValue::from(text.len()));
    // What is under way changes.
    headers.insert(
        http::header::CACHE_CONTROL,
        HeaderValue::from_static("no-store"),
    );
    if !is_head {
        *response.body_mut() = ResponseBody::bytes(text);
    }
    response
}

async fn handle(state: &Arc<AppState>, request: Request<Incoming>) -> Result<Answer, ApiError> {
    let (parts, content) = request.into_parts();
    let Some(resource) = Resource::at(parts.uri.path()) else {
        let text = "there is no such resource: /api/v1/openapi.json lists those that there are";
        return Err(ApiError::new(StatusCode::NOT_FOUND, "NAME_UNKNOWN", text));
    };
    let is_read = matches!(parts.method, Method::GET | Method::HEAD);
    let methods = resource.methods();
    if !methods.split(", ").any(|one| one == parts.method.as_str()) {
        let text = format!("the methods are {methods}");
        let error = ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED", text);
        return Err(error.with(ALLOW, HeaderValue::from_static(methods)));
    }
    // Notifications have a secret of their own.
    if !is_read && resource != Resource::Notifications {
        may_change(state, &parts.headers).await?;
    }
    let query = parts.uri.query().unwrap_or_default();
    match resource {
        Resource::OpenApi => Ok(Answer::Document(OPENAPI)),
        Resource::Conversions if is_read => conversions::list(state, query),
        Resource::Conversions => {
            let wanted = read_json(&parts.headers, content).await?;
            conversions::start(state, wanted).await
        }
        Resource::Conversion(id) if is_read => conversions::one(state, id),
        Resource::Conversion(id) => conversions::cancel(state, id),
        Resource::Failures if is_read => Ok(failures::list(state)),
        Resource::Failures => failures::forget(state, query),
        Resource::Images => images::list(state, query).await,
        Resource::Image if is_read => images::one(state, query).await,
        Resource::Image => images::forget(state, query).await,
        Resource::Cache => cache::summary(state).await,
        Resource::Blobs => cache::blobs(state, query).await,
        Resource::Blob(digest) => cache::remove(state, digest).await,
        Resource::Evictions => cache::evict(state, &parts.headers, content).await,
        Resource::Pins if is_read => pins::list(state).await,
        Resource::Pins => {
            let wanted = read_json(&parts.headers, content).await?;
            pins::add(state, wanted).await
        }
        Resource::Pin(digest) => pins::remove(state, digest).await,
        Resource::Verification if is_read => verification::show(state),
        Resource::Verification if parts.method == Method::DELETE => verification::cancel(state),
        Resource::Verification => {
            let wanted = read_json(&parts.headers, content).await?;
            verification::start(state, wanted).await
        }
        Resource::Notifications => notifications::take(state, &parts, content).await,
    }
}

/// Whether a request may change something.
///
/// # Errors
/// The answer to one that may not.
pub(in crate::server) async fn may_change(
    state: &Arc<AppState>,
    headers: &HeaderMap,
) -> Result<(), ApiError> {
    let (token, headers) = (state.admin_token.clone(), headers.clone());
    checked("admin-token-file", move || token.check(&headers)).await
}

/// Whether a request shows that it knows a secret, that of `option`.
///
/// # Errors
/// The answer to one that does not.
async fn checked(
    option: &str,
    check: impl FnOnce() -> Result<(), NotAllowed> + Send + 'static,
) -> Result<(), ApiError> {
    // It reads a file.
    let error = match tokio::task::spawn_blocking(check).await {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(error)) => error,
        Err(panic) => return Err(ApiError::internal(panic)),
    };
    Err(match error {
        NotAllowed::Off => ApiError::new(
            StatusCode::FORBIDDEN,
            "DENIED",
            format!(
                "this is off: start the proxy with --{option} FILE, and send what is in it as \
                 `Authorization: Bearer SECRET`"
            ),
        ),
        NotAllowed::Wrong => ApiError::new(
            StatusCode::UNAUTHORIZED,
            "UNAUTHORIZED",
            format!("this needs the secret of --{option}, as `Authorization: Bearer SECRET`"),
        )
        .with(
            http::header::WWW_AUTHENTICATE,
            HeaderValue::from_static("Bearer realm=\"overlaybd-proxy admin\""),
        ),
        NotAllowed::Unusable(cause) => {
            tracing::error!(cause, "a secret cannot be read");
            ApiError::internal(format!("the file of --{option} cannot be read"))
        }
    })
}

/// A request's body, which must say that it is JSON.
async fn read_json(headers: &HeaderMap, content: Incoming) -> Result<Value, ApiError> {
    is_json(headers)?;
    parse(&read_bytes(content, MAX_BODY_BYTES).await?)
}

/// Whether a request says that its body is JSON.
fn is_json(headers: &HeaderMap) -> Result<(), ApiError> {
    let media_type = headers.get(CONTENT_TYPE).and_then(|one| one.to_str().ok());
    let media_type = media_type
        .and_then(|one| one.split(';').next())
        .unwrap_or_default();
    if !media_type.trim().eq_ignore_ascii_case("application/json") {
        let text = "the body must be JSON, with Content-Type: application/json";
        return Err(bad(text));
    }
    Ok(())
}

fn bad(text: impl Into<String>) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, "UNSUPPORTED", text)
}

fn parse(bytes: &[u8]) -> Result<Value, ApiError> {
    serde_json::from_slice(bytes).map_err(|error| bad(format!("the body is no JSON: {error}")))
}

/// A request's body, which must come within a time and a number of bytes.
///
/// # Errors
/// When it does not, or the transfer fails.
pub(in crate::server) async fn read_bytes(
    content: Incoming,
    most: usize,
) -> Result<Bytes, ApiError> {
    let bytes = timeout(BODY_TIMEOUT, body::read(content, most)).await;
    bytes
        .map_err(|_| bad(format!("the body did not come within {BODY_TIMEOUT:?}")))?
        .map_err(|error| bad(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_to_resources() {
        assert_eq!(
            Resource::at("/api/v1/conversions"),
            Some(Resource::Conversions)
        );
        assert_eq!(
            Resource::at("/api/v1/cache/blobs/sha256:1"),
            Some(Resource::Blob("sha256:1"))
        );
        for none in [
            "/api/v1/",
            "/api/v1",
            "/api/v1/conversions/1/2",
            "/api/v2/conversions",
        ] {
            assert_eq!(Resource::at(none), None, "{none}");
        }
    }

    #[test]
    fn the_description_has_each_resource_with_its_methods() {
        let described: Value = serde_json::from_str(OPENAPI).unwrap();
        let paths = described["paths"].as_object().unwrap();
        assert_eq!(paths.len(), 14);
        for (template, methods) in paths {
            let path = format!("/api/v1{template}")
                .replace("{id}", "1")
                .replace("{digest}", "sha256:1");
            let resource = Resource::at(&path).unwrap();
            assert_eq!(resource.template(), format!("/api/v1{template}"));
            let mut allowed: Vec<String> = resource
                .methods()
                .split(", ")
                .filter(|one| *one != "HEAD")
                .map(str::to_lowercase)
                .collect();
            allowed.sort();
            let methods = methods.as_object().unwrap().keys();
            let mut methods: Vec<String> = methods
                .filter(|one| *one != "parameters")
                .cloned()
                .collect();
            methods.sort();
            assert_eq!(methods, allowed, "{path}");
        }
    }
}
