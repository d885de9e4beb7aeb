//! Where the bytes of a converted blob are.

use std::sync::Arc;

use super::waiting::Waited;
use crate::convert::{Converter, Overrides};
use crate::oci::{Digest, RepoName};
use crate::registry::{Authorization, Upstream};
use crate::server::cache::open_files::OpenBlob;
use crate::server::context::RequestContext;
use crate::server::decision::Kind;
use crate::server::error::ApiError;
use crate::server::learn::Repository;
use crate::server::observe::metrics::CacheName;
use crate::server::policy::with_lists;

/// Where the bytes of a converted blob are.
pub(in crate::server) enum Found {
    /// In the store.
    File(Arc<OpenBlob>),
    /// In this repository, as the proxy's own credentials may have it.
    Pushed(Upstream, RepoName),
    /// In the repository that the client asked for, as it may have it.
    Upstream,
}

impl RequestContext<'_> {
    /// Where the bytes of a converted blob are; what was evicted is fetched from the object storage,
    /// or made again.
    ///
    /// # Errors
    /// When they cannot be had, or not yet.
    pub async fn find(
        &self,
        repo: &RepoName,
        digest: &Digest,
        source: &Digest,
    ) -> Result<Found, ApiError> {
        let open_files = &self.state.open_files;
        // The first to ask for it after a start waits until all of it was verified.
        let found = self.aside(Box::pin(open_files.open(digest))).await?;
        let found = found.map_err(|e| ApiError::from(&e))?;
        self.state.metrics.lookup(CacheName::Blob, found.is_some());
        if let Some(file) = found {
            return Ok(Found::File(file));
        }
        if self.state.converted.store().objects().is_some()
            && let Some(file) = self.fetched(digest).await?
        {
            return Ok(Found::File(file));
        }
        let converter = &self.state.converted.converter;
        let pushed_to = converter.pushed_to(&self.source(repo));
        // Where that is not known, it is made again.
        if let Some((upstream, repo)) = self.pushed(repo, digest).await {
            return Ok(Found::Pushed(upstream, repo));
        }
        if pushed_to.is_none() && self.is_upstream(repo, digest).await {
            return Ok(Found::Upstream);
        }
        tracing::info!(%digest, %source, "a converted blob was evicted and is made again");
        let (mut made, mut no_image) = (None, None);
        for converter in self.makers(repo, source).await {
            let converter = converter.asked_by(self.asked_by(None));
            let held = match self.wait(&converter, repo, source).await {
                Ok(held) => held,
                Err(Waited::NotTurbo(_)) => continue,
                // Others may be for other platforms.
                Err(Waited::NoImage(failure)) => {
                    no_image = Some(failure);
                    continue;
                }
                Err(Waited::Failed(failure)) => return Err(failure),
                Err(Waited::TooLong) => return Err(self.later().await),
            };
            made = open_files
                .open(digest)
                .await
                .map_err(|e| ApiError::from(&e))?;
            drop(held);
            if made.is_some() {
                break;
            }
        }
        match (made, pushed_to) {
            (Some(file), _) => Ok(Found::File(file)),
            (None, Some((upstream, repo))) => Ok(Found::Pushed(upstream, repo)),
            (None, None) if let Some(failure) = no_image => Err(failure),
            (None, None) => {
                tracing::warn!(
                    %digest, %source,
                    "the source becomes other blobs now: an earlier version made this one"
                );
                Err(ApiError::unknown_blob(digest))
            }
        }
    }

    /// A blob that is not in the blob directory, fetched from the object storage as long as the
    /// request is held; it is fetched to its end in any case.
    ///
    /// # Errors
    /// That it takes longer, or the disk refuses.
    pub async fn fetched(&self, digest: &Digest) -> Result<Option<Arc<OpenBlob>>, ApiError> {
        let state = self.state;
        let fetching = Box::pin(state.converted.store().fetch(digest));
        let Ok(is_there) = self.aside(self.hold.conversion(fetching)).await? else {
            return Err(self.later().await);
        };
        if !is_there {
            return Ok(None);
        }
        let opened = Box::pin(state.open_files.open(digest));
        let opened = self.aside(opened).await?;
        opened.map_err(|error| ApiError::from(&error))
    }

    /// Where a converted blob was pushed to and is now, as the proxy's own credentials may have it.
    pub async fn pushed(&self, repo: &RepoName, digest: &Digest) -> Option<(Upstream, RepoName)> {
        let converted = &self.state.converted;
        let (upstream, repo) = converted.converter.pushed_to(&self.source(repo))?;
        let key = (self.chosen.place, repo.clone(), digest.clone());
        if !converted.pushed.contains_key(&key) {
            let asked = Box::pin(upstream.blob_size(&repo, digest, &Authorization::Own));
            let size = self.upstream(&repo, asked).await;
            if let Err(error) = size {
                if !error.is_not_found() {
                    tracing::warn!(%error, "a pushed blob cannot be found");
                }
                return None;
            }
            converted.pushed.insert(key, ()).await;
        }
        Some((upstream, repo))
    }

    /// Whether a blob is a layer that another tool made and that is used as it is: it is then
    /// where its source is.
    async fn is_upstream(&self, repo: &RepoName, digest: &Digest) -> bool {
        let converted = &self.state.converted;
        if !converted.converter.trusts_foreign_layers() {
            return false;
        }
        let key = (self.chosen.place, repo.clone(), digest.clone());
        if converted.pushed.contains_key(&key) {
            return true;
        }
        let upstream = self.chosen.upstream;
        let asked = Box::pin(upstream.blob_size(repo, digest, &self.authorization));
        let size = self.upstream(repo, asked).await;
        if size.is_ok() {
            converted.pushed.insert(key, ()).await;
        }
        size.is_ok()
    }

    /// The ways in which rules and learned lists may have images of a repository converted, besides
    /// that without either.
    pub async fn overrides(&self, repo: &RepoName) -> Vec<Overrides> {
        let place = self.chosen.place;
        let upstreams = self.state.upstreams.names(place);
        let rules = self.policy.policy.overrides(upstreams, repo.as_str());
        let mut all: Vec<Overrides> = rules.into_iter().cloned().collect();
        let repository = Repository {
            upstream: self.chosen.upstream.clone(),
            repo: repo.clone(),
        };
        let lists = self.state.learner.lists(&repository).await;
        let learned = with_lists(&all, &lists);
        all.extend(learned);
        all
    }

    /// The converters that may have made something of a source, the one first that is known to have
    /// made an image of it.
    async fn makers(&self, repo: &RepoName, source: &Digest) -> Vec<Converter> {
        let converted = &self.state.converted;
        let mut makers = vec![converted.converter.clone()];
        if let Some(turbo) = &converted.turbo {
            let has_made = turbo.has_made(source).await.unwrap_or(false);
            makers.insert(usize::from(!has_made), turbo.clone());
        }
        for overrides in &self.overrides(repo).await {
            for kind in [Kind::Turbo, Kind::Native] {
                if let Some(maker) = converted.converter_of(kind, overrides) {
                    // The index forgets what it had of blobs that are gone.
                    let has_made = maker.has_made(source).await.unwrap_or(false);
                    let place = if has_made { 0 } else { makers.len() };
                    makers.insert(place, maker);
                }
            }
        }
        makers
    }
}
