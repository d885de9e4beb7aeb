//! The verification of all blobs that an operator asked for last.

use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::cache::of_disk;
use super::{Answer, bad};
use crate::server::error::ApiError;
use crate::server::state::AppState;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    /// Whether damaged files stay where they are.
    #[serde(default)]
    dry_run: bool,
}

/// `GET /cache/verification`: how far it is, or how it ended.
pub(super) fn show(state: &AppState) -> Result<Answer, ApiError> {
    let shown = state.verification.to_json().map(Answer::Found);
    shown.ok_or_else(|| {
        let text = "nothing was verified on request since the start";
        ApiError::new(StatusCode::NOT_FOUND, "NAME_UNKNOWN", text)
    })
}

/// `POST /cache/verification`: begins it, unless one is under way.
pub(super) async fn start(state: &AppState, wanted: Value) -> Result<Answer, ApiError> {
    let wanted: Wanted = serde_json::from_value(wanted).map_err(|error| bad(error.to_string()))?;
    let blobs = state.converted.store().blobs().clone();
    let begun = state.verification.start(blobs, !wanted.dry_run).await;
    if !begun.map_err(of_disk)? {
        let text = "a verification is under way: wait for it, or cancel it";
        return Err(ApiError::new(StatusCode::CONFLICT, "UNSUPPORTED", text));
    }
    tracing::info!(wanted.dry_run, "an operator has all blobs verified");
    let shown = state.verification.to_json();
    Ok(Answer::Accepted(shown.unwrap_or_else(|| json!({}))))
}

/// `DELETE /cache/verification`: ends it; what was found so far stays.
pub(super) fn cancel(state: &AppState) -> Result<Answer, ApiError> {
    if !state.verification.cancel() {
        let text = "no verification is under way";
        return Err(ApiError::new(StatusCode::CONFLICT, "UNSUPPORTED", text));
    }
    tracing::info!("an operator cancelled the verification of blobs");
    Ok(Answer::Accepted(json!({ "state": "cancelled" })))
}
