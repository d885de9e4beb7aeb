//! The answer to a client whose image was not converted for a reason that lies with the
//! upstream: what is missing there, and whose credentials are refused.
//!
//! To clients, 404 says that there is no such image: a mirror's sends containerd to the next
//! host, which has the image unconverted. So it is said of the source's manifest only. That a
//! part of an image is missing is 502, with the code that the specification has for it.

use std::time::Duration;

use http::StatusCode;

use crate::convert::ConvertError;
use crate::oci::{Digest, RepoName, Selector};
use crate::registry::Error;
use crate::server::context::RequestContext;
use crate::server::error::ApiError;
use crate::server::error::text as error_text;

/// After which time an image is asked for again of which a part is missing or refused.
const LATER: Duration = Duration::from_secs(30);

/// The upstream has no part of an image whose manifest it has.
fn missing(error: &Error, part: Option<&Digest>) -> ApiError {
    tracing::warn!(%error, "a part of an image is not at the upstream");
    let text = match part {
        Some(part) => format!("the upstream has the image's manifest, but not its part {part}"),
        None => "the upstream has the image's manifest, but not all of its parts".to_owned(),
    };
    ApiError::new(StatusCode::BAD_GATEWAY, "MANIFEST_BLOB_UNKNOWN", text).retry_after(LATER)
}

/// The upstream refuses a part of an image to credentials that may have its manifest.
fn withheld(error: &Error, part: Option<&Digest>) -> ApiError {
    tracing::warn!(%error, "a part of an image is refused to credentials that may have the image");
    let part = part.map_or_else(
        || "a part of it".to_owned(),
        |part| format!("its part {part}"),
    );
    let text = format!(
        "the upstream gives these credentials the image's manifest, but not {part}: ask again, \
         with a new token if they are one"
    );
    ApiError::new(StatusCode::BAD_GATEWAY, "UNAVAILABLE", text).retry_after(LATER)
}

/// What the proxy cannot do where it pushes converted images: nothing that a client asked for.
fn unsupported(error: &Error) -> ApiError {
    tracing::error!(%error, "the registry that converted images are pushed to cannot take them");
    let text = "the registry that converted images are pushed to cannot take them";
    ApiError::new(StatusCode::BAD_GATEWAY, "UNAVAILABLE", text)
}

impl RequestContext<'_> {
    /// What it means for this client that the conversion of `source` failed.
    pub async fn unconverted(
        &self,
        repo: &RepoName,
        source: &Digest,
        error: &ConvertError,
    ) -> ApiError {
        let is_own = self.state.is_own();
        let ConvertError::Upstream(cause) = error else {
            return ApiError::conversion(error, is_own);
        };
        let part = error_text::content(cause);
        let is_part = part.as_ref() != Some(source);
        match cause {
            Error::NotFound { .. } if is_part => missing(cause, part.as_ref()),
            Error::Unsupported { .. } => unsupported(cause),
            // Whose credentials these were is not known: the conversion is everyone's who waits.
            Error::Unauthorized { is_own: false, .. } | Error::Forbidden { is_own: false, .. }
                if !is_own =>
            {
                let selector = Selector::Digest(source.clone());
                let permissions = &self.state.permissions;
                let place = self.chosen.place;
                let forgotten = permissions.forget(place, repo, &selector, &self.authorization);
                forgotten.await;
                match self.ask(repo, &selector).await {
                    Ok(_) => withheld(cause, part.as_ref()),
                    Err(error) => ApiError::upstream(&error, is_own),
                }
            }
            _ => ApiError::conversion(error, is_own),
        }
    }
}
