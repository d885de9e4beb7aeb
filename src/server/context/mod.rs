//! One request that was let in: what it is about, whose it is, and what can be asked for it.

mod asking;
pub(in crate::server) mod belongs;
mod conversion_error;
mod document;
pub(in crate::server) mod finding;
pub(in crate::server) mod forms;
pub(in crate::server) mod source;
pub(in crate::server) mod waiting;

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use http::header::HeaderValue;
use http::{Method, request};
use hyper::body::Incoming;

use crate::convert::{Asker, Requester};
use crate::oci::{RepoName, Selector, Tag};
use crate::registry::{Authorization, ManifestHead};
use crate::server::cache::open_files::OpenBlob;
use crate::server::cache::responses::{CachedContent, CachedResponse, Terms};
use crate::server::error::ApiError;
use crate::server::http::header_names::REQUEST_ID;
use crate::server::learn::Repository;
use crate::server::limits::hold::Hold;
use crate::server::limits::request_slot::RequestSlot;
use crate::server::observe::client;
use crate::server::policy::Form;
use crate::server::route::Kind;
use crate::server::state::{AppState, InForce};
use crate::server::upstreams::Chosen;

/// A request that was let in.
pub(in crate::server) struct RequestContext<'a> {
    pub state: &'a Arc<AppState>,
    pub chosen: Chosen<'a>,
    pub parts: request::Parts,
    /// Taken by whoever reads it.
    pub body: Option<Incoming>,
    /// With whose credentials the upstream is asked.
    pub authorization: Authorization,
    /// Where it came from.
    pub client: SocketAddr,
    /// Its place among the others.
    pub slot: &'a RequestSlot,
    /// How long it may wait, for what.
    pub hold: Hold,
    /// What it is about.
    pub kind: Kind,
    /// For which registry the answer stands.
    pub namespace: Option<HeaderValue>,
    /// Since when an upstream's yes holds that is used in place of an answer.
    pub stale_since: &'a OnceLock<Instant>,
    /// The first manifest that the upstream allowed this client to have.
    pub allowed: OnceLock<(RepoName, Selector, ManifestHead)>,
    /// The form in which the client wants images that it asks for by plain tags, if it says so.
    pub stated: Option<Form>,
    /// The policy that is in force.
    pub policy: Arc<InForce>,
    /// What decides the answer besides the request.
    pub terms: Terms,
    /// The client's `Authorization`, as it was before the upstream's was put in its place.
    pub given: Option<HeaderValue>,
}

impl RequestContext<'_> {
    pub fn is_head(&self) -> bool {
        self.parts.method == Method::HEAD
    }

    /// Counts the request as one that costs something.
    ///
    /// # Errors
    /// The answer to a client that made more of them than it may (`--client-rate`).
    pub fn count(&self) -> Result<(), ApiError> {
        // Names that nobody verified are not the client's own: another one a request would do.
        let known = self.state.users.as_ref().and(self.given.as_ref());
        let user = known.and_then(client::user);
        let counted = self.state.rates.count(user.as_deref(), self.slot.client);
        counted.map_err(ApiError::too_many_requests)
    }

    /// Notes what is read of a converted blob, where lists are learned; says whose it is then.
    pub fn note(&self, repo: &RepoName, blob: &OpenBlob) -> Option<Arc<Repository>> {
        let learner = &self.state.learner;
        if !learner.is_learning() {
            return None;
        }
        let repository = Arc::new(Repository {
            upstream: self.chosen.upstream.clone(),
            repo: repo.clone(),
        });
        if !self.is_head() {
            let read = (blob.file.digest(), blob.file.size());
            learner.note(self.slot.client, &repository, read, &self.parts.headers);
        }
        Some(repository)
    }

    /// Whose pull this is, of an image that was asked for by this tag.
    pub fn asked_by(&self, tag: Option<&Tag>) -> Requester {
        let request = self.parts.headers.get(REQUEST_ID);
        let request = request.and_then(|id| id.to_str().ok());
        Requester {
            tag: tag.cloned(),
            asker: Asker::Client(self.client),
            user: self.given.as_ref().and_then(client::user),
            request: request.map(ToOwned::to_owned),
        }
    }

    /// Path and query as the client knows them.
    pub fn address(&self) -> &str {
        self.parts
            .uri
            .path_and_query()
            .map_or("/v2/", http::uri::PathAndQuery::as_str)
    }

    /// Keeps the answer for those that ask the same until then.
    pub fn keep(&self, content: CachedContent, until: Instant) {
        // Each of these answers says so.
        if self.stale_since.get().is_some() {
            return;
        }
        let cached = &self.state.responses;
        let (asked, given) = (&self.parts, self.given.as_ref());
        let key = cached.key(&asked.uri, &asked.headers, given, self.terms);
        let cached = CachedResponse {
            content,
            kind: self.kind,
            place: self.chosen.place,
            namespace: self.namespace.clone(),
            until,
        };
        self.state.responses.keep(key, cached);
    }
}
