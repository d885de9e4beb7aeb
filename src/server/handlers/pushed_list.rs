//! Lists of referrers that clients write under the fallback tag.
//!
//! A client that adds an entry writes back all that it was shown, and nobody means to push an image
//! by that: what only the proxy has is taken out of the list before the upstream gets it.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HeaderValue};
use http::{Response, StatusCode};
use serde_json::Value;

use crate::convert::StoredManifest;
use crate::oci::media_type::OCI_INDEX;
use crate::oci::{Digest, RepoName, Tag};
use crate::registry;
use crate::registry::header_names::CONTENT_DIGEST;
use crate::server::context::RequestContext;
use crate::server::context::forms::Form;
use crate::server::error::ApiError;
use crate::server::handlers::forward;
use crate::server::handlers::referrers::{forms, not_at_upstream, parse_list};
use crate::server::http::body::ResponseBody;

/// After which time a list may be pushed again that could not be read.
const LATER: Duration = Duration::from_secs(5);

/// A list that a client writes under a fallback tag.
pub(in crate::server) struct PushedList {
    subject: Digest,
    /// As the client knows it.
    list: StoredManifest,
    /// What the upstream gets of it.
    bytes: Bytes,
}

/// A list that is pushed under a tag with converted forms in it that the upstream does not have;
/// `None` if it is no such list.
///
/// # Errors
/// When it is not known now which entries are such.
pub(in crate::server) async fn find(
    context: &RequestContext<'_>,
    repo: &RepoName,
    tag: &Tag,
    bytes: &Bytes,
) -> Result<Option<PushedList>, ApiError> {
    let list = registry::subject_of(tag).zip(parse_list(bytes));
    let Some((subject, mut list)) = list else {
        return Ok(None);
    };
    if context.state.config.list_referrers && context.ready(repo, &subject).await.is_partial {
        return Err(ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "UNAVAILABLE",
            "which entries of this list are the proxy's own is not known now: push it again",
        )
        .retry_after(LATER));
    }
    let forms = forms(context, repo, &subject).await;
    let entries = list.get_mut("manifests").and_then(Value::as_array_mut);
    let Some(entries) = entries else {
        return Ok(None);
    };
    let is_of = |entry: &Value, form: &Form| {
        entry.get("digest").and_then(Value::as_str) == Some(form.referrer.digest.as_str())
    };
    let listed = |form: &Form| entries.iter().any(|entry| is_of(entry, form));
    let listed = forms.into_iter().filter(listed).collect();
    let ours = not_at_upstream(context, repo, listed).await;
    if ours.is_empty() {
        return Ok(None);
    }
    entries.retain(|entry| !ours.iter().any(|form| is_of(entry, form)));
    let left = serde_json::to_vec(&list).map_err(ApiError::internal)?;
    Ok(Some(PushedList {
        subject,
        list: StoredManifest {
            digest: Digest::of(bytes),
            media_type: OCI_INDEX.to_owned(),
            bytes: bytes.clone(),
        },
        bytes: left.into(),
    }))
}

/// Pushes such a list. The client finds what it wrote by its digest.
///
/// # Errors
/// When there is no answer.
pub(in crate::server) async fn push(
    mut context: RequestContext<'_>,
    repo: &RepoName,
    pushed: PushedList,
) -> Result<Response<ResponseBody>, ApiError> {
    let PushedList {
        subject,
        list,
        bytes,
    } = pushed;
    let (converter, from) = (&context.state.converted.converter, context.source(repo));
    let length = HeaderValue::from(bytes.len());
    context.parts.headers.insert(CONTENT_LENGTH, length);
    let mut response = forward::pass_bytes(context, bytes).await?;
    if response.status().is_success() {
        if let Err(error) = converter.keep_document(&from, &subject, &list).await {
            tracing::warn!(%error, "a list of referrers is found by its tag only");
        }
        if let Ok(digest) = HeaderValue::from_str(list.digest.as_str()) {
            response.headers_mut().insert(CONTENT_DIGEST, digest);
        }
    }
    Ok(response)
}
