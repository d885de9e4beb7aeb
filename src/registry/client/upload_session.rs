//! Upload sessions that are given up half-way: a DELETE is sent to the registry, so that it need not
//! keep what it has of the blob (distribution-spec, "Cancelling an upload").

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Method};
use url::Url;

use super::dialer::Outgoing;
use super::endpoint::{Call, Endpoint};
use super::payload::Payload;
use super::scope::Scopes;
use crate::oci::RepoName;
use crate::registry::Authorization;

/// How long a registry may take to delete a session whose upload was dropped.
const DELETE_TIMEOUT: Duration = Duration::from_secs(10);

/// The session of an upload that is under way. Dropped before [`ended`](Self::ended), as it is when
/// whoever waits for the upload is cancelled, it is deleted in the background.
pub(super) struct OpenSession {
    at: Option<Url>,
    endpoint: Arc<Endpoint>,
    repo: RepoName,
    authorization: Authorization,
}

impl OpenSession {
    /// There is none yet.
    pub(super) fn none(
        endpoint: &Arc<Endpoint>,
        repo: &RepoName,
        authorization: &Authorization,
    ) -> Self {
        Self {
            at: None,
            endpoint: Arc::clone(endpoint),
            repo: repo.clone(),
            authorization: authorization.clone(),
        }
    }

    /// It is there, at an address that may change with each answer.
    pub(super) fn is_at(&mut self, location: &Url) {
        self.at = Some(location.clone());
    }

    /// The blob is complete, or the session was deleted.
    pub(super) fn ended(&mut self) {
        self.at = None;
    }
}

impl Drop for OpenSession {
    fn drop(&mut self) {
        let Some(location) = self.at.take() else {
            return;
        };
        // Without a runtime the program ends.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let endpoint = Arc::clone(&self.endpoint);
        let (repo, authorization) = (self.repo.clone(), self.authorization.clone());
        runtime.spawn(async move {
            let deleted = delete(&endpoint, &repo, &authorization, location);
            if tokio::time::timeout(DELETE_TIMEOUT, deleted).await.is_err() {
                tracing::debug!(%repo, "an upload is left behind: its deletion is not answered");
            }
        });
    }
}

/// Deletes a session; errors are ignored.
pub(super) async fn delete(
    endpoint: &Endpoint,
    repo: &RepoName,
    authorization: &Authorization,
    location: Url,
) {
    let call = Call {
        outgoing: Outgoing {
            method: Method::DELETE,
            url: location,
            headers: HeaderMap::new(),
            payload: Payload::Empty,
        },
        scopes: Scopes::push(repo),
        authorization,
    };
    match endpoint.call(&call).await {
        Ok(answer) => answer.drain().await,
        Err(failure) => tracing::debug!(error = %failure.error, "an upload is left behind"),
    }
}
