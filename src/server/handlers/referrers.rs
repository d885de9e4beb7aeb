//! Lists of referrers: the upstream's, and behind it the converted forms that are there.
//! Source: OCI distribution-spec § Listing Referrers, § Referrers Tag Schema.
//!
//! Where a source has no converted form that this client may have, the upstream's answer is passed
//! as it comes, that it has no such API included. Else the answer is made here: an upstream without
//! the API has its list under the fallback tag.

use std::collections::HashSet;

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, LINK};
use http::{HeaderMap, Response, StatusCode};
use serde_json::{Value, json};

use crate::convert::StoredManifest;
use crate::oci::media_type::OCI_INDEX;
use crate::oci::{Digest, Manifest, ManifestKind, RepoName, Selector, Tag};
use crate::registry::header_names::{API_VERSION, OCI_FILTERS, REGISTRY_2};
use crate::registry::{self, body, link};
use crate::server::context::RequestContext;
use crate::server::context::forms::Form;
use crate::server::document::Document;
use crate::server::error::ApiError;
use crate::server::handlers::forward;
use crate::server::http::body::ResponseBody;

/// Longest list of an upstream that is added to, in bytes; longer ones pass as they are. Registries
/// take manifests of up to 4 MiB.
const MAX_LIST: u32 = 4 << 20;

/// The filter of a list of referrers.
const ARTIFACT_TYPE: &str = "artifactType";

/// `GET` or `HEAD` of a list of referrers.
///
/// # Errors
/// The error response.
pub(in crate::server) async fn list(
    context: RequestContext<'_>,
    repo: &RepoName,
    subject: &Digest,
) -> Result<Response<ResponseBody>, ApiError> {
    let (filter, is_later_page) = asked(context.chosen.query.as_deref());
    let mut forms = forms(&context, repo, subject).await;
    forms.retain(|form| {
        filter
            .as_ref()
            .is_none_or(|kind| form.artifact_type == kind)
    });
    let permit = context.state.manifest_bytes.try_acquire_many(MAX_LIST);
    let (false, Ok(_permit)) = (forms.is_empty(), permit) else {
        return forward::pass(context).await;
    };
    let answer = forward::read(&context, &context.chosen.target()).await?;
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(OCI_INDEX));
    headers.insert(API_VERSION, REGISTRY_2);
    let (mut list, is_filtered) = match answer.status().as_u16() {
        200 if !answer.headers().contains_key(CONTENT_ENCODING) => {
            let (parts, body) = answer.into_parts();
            let Some(list) = read_list(&context, body).await? else {
                return forward::pass(context).await;
            };
            for value in parts.headers.get_all(LINK) {
                headers.append(LINK, value.clone());
            }
            let is_filtered = is_filtered(&parts.headers);
            // What is ours comes on the last page. Whether an earlier one has it is not known here.
            if link::next_page(&parts.headers).is_some() {
                forms.clear();
            } else if is_later_page {
                forms = not_at_upstream(&context, repo, forms).await;
            }
            (list, is_filtered)
        }
        404 | 400 | 405 | 406 | 501 => match tagged(&context, repo, subject).await? {
            Tagged::List(list) => (list, false),
            Tagged::Nothing | Tagged::Other => (empty_list(), false),
        },
        _ => return Ok(answer),
    };
    if let Some(kind) = &filter {
        if !is_filtered {
            let entries = list.get_mut("manifests").and_then(Value::as_array_mut);
            let is_wanted = |one: &Value| one.get(ARTIFACT_TYPE) == Some(&json!(kind));
            if let Some(entries) = entries {
                entries.retain(is_wanted);
            }
        }
        headers.insert(OCI_FILTERS, HeaderValue::from_static(ARTIFACT_TYPE));
    }
    add(&mut list, &forms);
    let bytes = serde_json::to_vec(&list).map_err(ApiError::internal)?;
    headers.insert(CONTENT_LENGTH, HeaderValue::from(bytes.len()));
    let mut response = Response::new(ResponseBody::empty());
    *response.headers_mut() = headers;
    if !context.is_head() {
        *response.body_mut() = ResponseBody::bytes(bytes);
    }
    Ok(response)
}

/// `GET` or `HEAD` of a tag, if it is one under which referrers are listed without the API and
/// there is something to add; `None` for any other.
///
/// # Errors
/// The error response.
pub(in crate::server) async fn by_tag(
    context: &RequestContext<'_>,
    repo: &RepoName,
    tag: &Tag,
) -> Result<Option<Response<ResponseBody>>, ApiError> {
    let Some(subject) = registry::subject_of(tag) else {
        return Ok(None);
    };
    let Some(list) = tagged_list(context, repo, &subject).await? else {
        return Ok(None);
    };
    let document = Document::new(&list);
    let response = document.answer(&context.parts.headers, context.is_head());
    Ok(Some(response))
}

/// The list under the fallback tag with the converted forms in it, which is served by its digest
/// from now on; `None` where nothing is added.
///
/// # Errors
/// When the upstream does not say what it has there, or the store cannot be written.
pub(in crate::server) async fn tagged_list(
    context: &RequestContext<'_>,
    repo: &RepoName,
    subject: &Digest,
) -> Result<Option<StoredManifest>, ApiError> {
    let forms = forms(context, repo, subject).await;
    let permit = context.state.manifest_bytes.try_acquire_many(MAX_LIST);
    let (false, Ok(_permit)) = (forms.is_empty(), permit) else {
        return Ok(None);
    };
    let mut list = match tagged(context, repo, subject).await? {
        Tagged::List(list) => list,
        Tagged::Nothing => empty_list(),
        Tagged::Other => return Ok(None),
    };
    if !add(&mut list, &forms) {
        return Ok(None);
    }
    let bytes = Bytes::from(serde_json::to_vec(&list).map_err(ApiError::internal)?);
    let list = StoredManifest {
        digest: Digest::of(&bytes),
        media_type: OCI_INDEX.to_owned(),
        bytes,
    };
    context.keep_document(repo, subject, &list).await?;
    Ok(Some(list))
}

/// The converted forms that are listed of a subject.
pub(in crate::server) async fn forms(
    context: &RequestContext<'_>,
    repo: &RepoName,
    subject: &Digest,
) -> Vec<Form> {
    if !context.state.config.list_referrers {
        return Vec::new();
    }
    context.forms(repo, subject).await
}

/// What a query asks for: the filter, and whether it is for another page than the first.
fn asked(query: Option<&str>) -> (Option<String>, bool) {
    let pairs = url::form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    let (mut filter, mut is_later_page) = (None, false);
    for (key, value) in pairs {
        if key == ARTIFACT_TYPE {
            filter.get_or_insert(value.into_owned());
        } else {
            is_later_page = true;
        }
    }
    (filter.filter(|kind| !kind.is_empty()), is_later_page)
}

/// Whether an upstream says that its list was filtered by artifact type.
fn is_filtered(headers: &HeaderMap) -> bool {
    let values = headers.get_all(OCI_FILTERS).iter();
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|filter| filter.trim() == ARTIFACT_TYPE)
}

fn empty_list() -> Value {
    json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [] })
}

/// The list in a body; `None` if it is none, or a longer one than is read.
async fn read_list(
    context: &RequestContext<'_>,
    body: ResponseBody,
) -> Result<Option<Value>, ApiError> {
    let limit = usize::try_from(MAX_LIST).unwrap_or(usize::MAX);
    match context.aside(Box::pin(body::read(body, limit))).await? {
        Ok(bytes) => Ok(parse_list(&bytes)),
        Err(body::ReadError::TooLong(_)) => Ok(None),
        Err(body::ReadError::Transfer(error)) => {
            tracing::warn!(%error, "a list of referrers broke off");
            Err(ApiError::new(
                StatusCode::BAD_GATEWAY,
                "UNAVAILABLE",
                "the upstream's list of referrers broke off: ask again",
            ))
        }
    }
}

/// An index as JSON, with all that is in it.
pub(in crate::server) fn parse_list(bytes: &[u8]) -> Option<Value> {
    let Ok(Manifest::Index(_)) = Manifest::parse(OCI_INDEX, bytes) else {
        return None;
    };
    let mut list: Value = serde_json::from_slice(bytes).ok()?;
    let entries = list
        .as_object_mut()?
        .entry("manifests")
        .or_insert(json!([]));
    // Go writes an empty list as `null`.
    if entries.is_null() {
        *entries = json!([]);
    }
    entries.is_array().then_some(list)
}

/// What an upstream has under a fallback tag.
enum Tagged {
    List(Value),
    Nothing,
    /// Something that is no list.
    Other,
}

async fn tagged(
    context: &RequestContext<'_>,
    repo: &RepoName,
    subject: &Digest,
) -> Result<Tagged, ApiError> {
    let tag = registry::fallback_tag(subject).map_err(ApiError::internal)?;
    let upstream = context.chosen.upstream;
    let asked = upstream.manifest(repo, &tag, &context.authorization);
    match context.aside(Box::pin(asked)).await? {
        Ok(raw) => {
            let kind = ManifestKind::from_media_type(&raw.media_type);
            let list = kind.is_some_and(ManifestKind::is_index);
            let list = list.then(|| parse_list(&raw.bytes)).flatten();
            Ok(list.map_or(Tagged::Other, Tagged::List))
        }
        Err(error) if error.is_not_found() => Ok(Tagged::Nothing),
        Err(error) => Err(ApiError::upstream(&error, context.state.is_own())),
    }
}

/// The forms whose manifest the upstream says that it does not have: what it has is in its own list,
/// and an upstream that fails must not take an entry out of a list that a client writes.
pub(in crate::server) async fn not_at_upstream(
    context: &RequestContext<'_>,
    repo: &RepoName,
    forms: Vec<Form>,
) -> Vec<Form> {
    let mut left = Vec::new();
    for form in forms {
        let selector = Selector::Digest(form.referrer.digest.clone());
        let upstream = context.chosen.upstream;
        let asked = upstream.head_manifest(repo, &selector, &context.authorization);
        let head = context.aside(Box::pin(asked)).await;
        if matches!(head, Ok(Err(error)) if error.is_not_found()) {
            left.push(form);
        }
    }
    left
}

/// Adds what a list does not have yet. Returns whether that is anything.
fn add(list: &mut Value, forms: &[Form]) -> bool {
    let Some(entries) = list.get_mut("manifests").and_then(Value::as_array_mut) else {
        return false;
    };
    let known: HashSet<String> = entries
        .iter()
        .filter_map(|one| Some(one.get("digest")?.as_str()?.to_owned()))
        .collect();
    let before = entries.len();
    let ours = forms.iter().map(|form| &form.referrer);
    let ours = ours.filter(|referrer| !known.contains(referrer.digest.as_str()));
    entries.extend(ours.filter_map(|referrer| {
        let (_, entry) = registry::referrer(&referrer.media_type, &referrer.bytes)?;
        Some(entry)
    }));
    entries.len() > before
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_read_from_the_query() {
        for (query, kind, is_later_page) in [
            (None, None, false),
            (Some(""), None, false),
            (Some("artifactType="), None, false),
            (Some("artifactType=a%2Fb%2Bjson"), Some("a/b+json"), false),
            (Some("artifactType=a&last=x"), Some("a"), true),
            (Some("n=1"), None, true),
        ] {
            let found = asked(query);
            assert_eq!(
                found,
                (kind.map(ToOwned::to_owned), is_later_page),
                "{query:?}"
            );
        }
    }

    #[test]
    fn lists_are_indexes() {
        let null = parse_list(br#"{"manifests":null,"x":1}"#).unwrap();
        assert_eq!(null, json!({"manifests": [], "x": 1}));
        assert_eq!(parse_list(b"{}"), Some(json!({"manifests": []})));
        for other in [&br#"{"config":{},"layers":[]}"#[..], b"[]", b"<html>", b""] {
            if let Some(list) = parse_list(other) {
                assert_eq!(list["manifests"], json!([]));
            }
        }
        assert_eq!(parse_list(b"[]"), None);
    }

    #[test]
    fn the_filters_that_were_applied_are_a_list() {
        let headers = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(OCI_FILTERS, HeaderValue::from_static(value));
            headers
        };
        assert!(is_filtered(&headers("annotations, artifactType")));
        assert!(!is_filtered(&headers("annotations")));
        assert!(!is_filtered(&HeaderMap::new()));
    }
}
