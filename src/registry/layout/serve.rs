//! `GET` and `HEAD` of the `/v2/` surface, answered from a layout.
//! Source: OCI distribution-spec; pagination also of the catalog as Docker's registry has it.

use std::fmt::Display;

use http::header::{
    ACCEPT_RANGES, ALLOW, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderName, HeaderValue,
    IF_RANGE, LINK, RANGE,
};
use http::request::Parts;
use http::{HeaderMap, Method, Response, StatusCode};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use super::Layout;
use crate::oci::media_type::OCI_INDEX;
use crate::oci::{Digest, RepoName, Selector};
use crate::registry::content_headers::ContentHeaders;
use crate::registry::header_names::{API_VERSION, OCI_FILTERS, REGISTRY_2};
use crate::registry::ranges::{self, Wanted};
use crate::registry::{Body, Error, body, error_body, link};

type Answer = Result<Response<Body>, Error>;

/// The endpoint of the API that a path names.
enum Route {
    Base,
    Catalog,
    Tags(RepoName),
    Manifest(RepoName, Selector),
    Blob(RepoName, Digest),
    Referrers(RepoName, Digest),
    /// Nothing that there could be: a code and why.
    Bad(StatusCode, &'static str, String),
}

impl Route {
    fn of(path: &str) -> Self {
        let path = percent_decode_str(path).decode_utf8_lossy();
        let unknown = || {
            Self::Bad(
                StatusCode::NOT_FOUND,
                "UNSUPPORTED",
                "a layout has nothing at this address".to_owned(),
            )
        };
        let rest = match path.strip_prefix("/v2") {
            Some("" | "/") => return Self::Base,
            Some("/_catalog") => return Self::Catalog,
            Some(rest) => rest.strip_prefix('/'),
            None => None,
        };
        let Some((front, last)) = rest.and_then(|rest| rest.rsplit_once('/')) else {
            return unknown();
        };
        let Some((name, kind)) = front.rsplit_once('/') else {
            return unknown();
        };
        if !matches!(
            (kind, last),
            ("manifests" | "blobs" | "referrers", _) | ("tags", "list")
        ) {
            return unknown();
        }
        let Ok(repo) = name.parse::<RepoName>() else {
            let text = format!("{name:?} is not a repository name");
            return Self::Bad(StatusCode::BAD_REQUEST, "NAME_INVALID", text);
        };
        let digest = |last: &str| {
            last.parse::<Digest>().map_err(|error| {
                Self::Bad(StatusCode::BAD_REQUEST, "DIGEST_INVALID", error.to_string())
            })
        };
        match kind {
            "tags" => Self::Tags(repo),
            "manifests" if last.contains(':') => match digest(last) {
                Ok(digest) => Self::Manifest(repo, Selector::Digest(digest)),
                Err(bad) => bad,
            },
            "manifests" => match last.parse() {
                Ok(tag) => Self::Manifest(repo, Selector::Tag(tag)),
                Err(error) => Self::Bad(
                    StatusCode::NOT_FOUND,
                    "MANIFEST_UNKNOWN",
                    format!("{error}"),
                ),
            },
            "blobs" => digest(last).map_or_else(|bad| bad, |digest| Self::Blob(repo, digest)),
            _ => digest(last).map_or_else(|bad| bad, |digest| Self::Referrers(repo, digest)),
        }
    }
}

/// Answers a request; only its method, path, query and headers count.
///
/// # Errors
/// Where the layout cannot be read or is damaged: what is not there is an answer.
pub(super) async fn answer(layout: &Layout, request: &Parts) -> Answer {
    if !matches!(request.method, Method::GET | Method::HEAD) {
        let mut response = refusal(
            StatusCode::METHOD_NOT_ALLOWED,
            "UNSUPPORTED",
            "an OCI layout is served for reading only",
        );
        let allowed = HeaderValue::from_static("GET, HEAD");
        response.headers_mut().insert(ALLOW, allowed);
        return Ok(response);
    }
    let query = Query::of(request.uri.query().unwrap_or_default());
    let (code, answer) = match Route::of(request.uri.path()) {
        Route::Base => ("", Ok(document("application/json", &json!({})))),
        Route::Catalog => ("", catalog(layout, &query).await),
        Route::Tags(repo) => ("NAME_UNKNOWN", tags(layout, &repo, &query).await),
        Route::Manifest(repo, selector) => (
            "MANIFEST_UNKNOWN",
            manifest(layout, &repo, &selector, &request.headers).await,
        ),
        Route::Blob(repo, digest) => (
            "BLOB_UNKNOWN",
            blob(layout, &repo, &digest, &request.headers).await,
        ),
        Route::Referrers(repo, subject) => ("", referrers(layout, &repo, &subject, &query).await),
        Route::Bad(status, code, text) => ("", Ok(refusal(status, code, text))),
    };
    let mut response = match answer {
        // Without the place, which names a local path.
        Err(Error::NotFound { detail, .. }) => refusal(StatusCode::NOT_FOUND, code, detail),
        other => other?,
    };
    if request.method == Method::HEAD {
        *response.body_mut() = body::empty();
    }
    Ok(response)
}

async fn manifest(
    layout: &Layout,
    repo: &RepoName,
    selector: &Selector,
    asked: &HeaderMap,
) -> Answer {
    let manifest = layout.manifest(repo, selector).await?;
    let named = ContentHeaders::new(&manifest.digest);
    if named.is_known(asked) {
        return Ok(not_modified(&named));
    }
    let mut response = bytes(&manifest.media_type, manifest.bytes);
    named.put(response.headers_mut());
    Ok(response)
}

async fn blob(layout: &Layout, repo: &RepoName, digest: &Digest, asked: &HeaderMap) -> Answer {
    let section = layout.section(repo, digest).await?;
    let named = ContentHeaders::new(digest);
    if named.is_known(asked) {
        return Ok(not_modified(&named));
    }
    let len = section.len();
    // Content never changes under its digest: only what is meant for another is not given.
    let is_meant = named.is_current(asked.get(IF_RANGE));
    let range = asked.get(RANGE).filter(|_| is_meant);
    let part = match range.and_then(|range| range.to_str().ok()) {
        Some(range) => ranges::parse_single(range, len),
        None => Wanted::Whole,
    };
    let (status, range) = match part {
        Wanted::Whole | Wanted::Several(_) => (StatusCode::OK, 0..len),
        Wanted::One(range) => (StatusCode::PARTIAL_CONTENT, range),
        Wanted::Nothing => {
            let mut response = refusal(
                StatusCode::RANGE_NOT_SATISFIABLE,
                "RANGE_INVALID",
                format!("the blob has {len} bytes"),
            );
            put(&mut response, CONTENT_RANGE, ranges::unsatisfied(len));
            return Ok(response);
        }
    };
    let count = range.end - range.start;
    let content_range = ranges::content_range(&range, len);
    let mut response = Response::new(body::stream(section.stream(range)));
    *response.status_mut() = status;
    if status == StatusCode::PARTIAL_CONTENT {
        put(&mut response, CONTENT_RANGE, content_range);
    }
    put(&mut response, CONTENT_LENGTH, count);
    put(&mut response, CONTENT_TYPE, "application/octet-stream");
    put(&mut response, ACCEPT_RANGES, "bytes");
    named.put(response.headers_mut());
    Ok(response)
}

async fn tags(layout: &Layout, repo: &RepoName, query: &Query) -> Answer {
    let tags = layout.tags(repo).await?;
    let tags: Vec<String> = tags.iter().map(ToString::to_string).collect();
    Ok(page(
        &format!("/v2/{repo}/tags/list"),
        tags,
        query,
        |tags| json!({"name": repo, "tags": tags}),
    ))
}

async fn catalog(layout: &Layout, query: &Query) -> Answer {
    let repos = layout.repos().await?;
    let repos: Vec<String> = repos.iter().map(ToString::to_string).collect();
    Ok(page(
        "/v2/_catalog",
        repos,
        query,
        |repos| json!({"repositories": repos}),
    ))
}

async fn referrers(layout: &Layout, repo: &RepoName, subject: &Digest, query: &Query) -> Answer {
    let wanted = query.get("artifactType");
    let found = layout.referrers(repo, subject, wanted).await?;
    let manifests: Vec<Value> = found
        .iter()
        .map(|descriptor| {
            let mut value = json!({
                "mediaType": descriptor.media_type,
                "digest": descriptor.digest,
                "size": descriptor.size,
            });
            if let Some(artifact_type) = &descriptor.artifact_type {
                value["artifactType"] = json!(artifact_type);
            }
            if !descriptor.annotations.is_empty() {
                value["annotations"] = json!(descriptor.annotations);
            }
            value
        })
        .collect();
    let text = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests});
    let mut response = document(OCI_INDEX, &text);
    if wanted.is_some() {
        put(&mut response, OCI_FILTERS, "artifactType");
    }
    Ok(response)
}

/// The part of a list that `n` and `last` ask for, with a link to the next.
fn page(
    path: &str,
    mut items: Vec<String>,
    query: &Query,
    write: impl Fn(&[String]) -> Value,
) -> Response<Body> {
    if let Some(last) = query.get("last") {
        items.retain(|item| item.as_str() > last);
    }
    let count = match query.get("n").map(str::parse::<usize>) {
        None => items.len(),
        Some(Ok(count)) => count,
        Some(Err(_)) => {
            return refusal(
                StatusCode::BAD_REQUEST,
                "PAGINATION_NUMBER_INVALID",
                "n is the largest number of results",
            );
        }
    };
    let shown = items.get(..count).unwrap_or(&items);
    let mut response = document("application/json", &write(shown));
    // Names and tags need no escaping; a page of nothing leads nowhere.
    if let Some(last) = shown.last().filter(|_| shown.len() < items.len()) {
        let next = link::to_next(&format!("{path}?n={count}&last={last}"));
        put(&mut response, LINK, next);
    }
    response
}

/// A query's parameters.
struct Query(Vec<(String, String)>);

impl Query {
    fn of(text: &str) -> Self {
        let pairs = url::form_urlencoded::parse(text.as_bytes());
        Self(pairs.into_owned().collect())
    }

    fn get(&self, name: &str) -> Option<&str> {
        let found = self
            .0
            .iter()
            .find(|(key, value)| key == name && !value.is_empty());
        found.map(|(_, value)| value.as_str())
    }
}

fn not_modified(named: &ContentHeaders) -> Response<Body> {
    let mut response = Response::new(body::empty());
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    named.put(response.headers_mut());
    response
}

fn bytes(media_type: &str, bytes: impl Into<bytes::Bytes>) -> Response<Body> {
    let bytes = bytes.into();
    let len = bytes.len();
    let mut response = Response::new(body::full(bytes));
    put(&mut response, CONTENT_LENGTH, len);
    put(&mut response, CONTENT_TYPE, media_type);
    response.headers_mut().insert(API_VERSION, REGISTRY_2);
    response
}

fn document(media_type: &str, document: &Value) -> Response<Body> {
    bytes(media_type, document.to_string())
}

fn refusal(status: StatusCode, code: &str, message: impl Display) -> Response<Body> {
    let text = error_body::document(code, &message.to_string());
    let mut response = bytes("application/json", text);
    *response.status_mut() = status;
    response
}

/// Adds a header, unless its value cannot be one: a layout's media types are foreign text.
fn put(response: &mut Response<Body>, name: HeaderName, value: impl Display) {
    if let Ok(value) = HeaderValue::from_str(&value.to_string()) {
        response.headers_mut().insert(name, value);
    }
}
