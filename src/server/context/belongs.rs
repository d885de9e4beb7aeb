//! Where a digest belongs, as far as the client of a request may know.

use std::time::Instant;

use crate::oci::{Digest, RepoName, Selector};
use crate::registry;
use crate::server::context::RequestContext;
use crate::server::error::ApiError;
use crate::store::IndexError;

/// Sources that are tried for one converted blob.
const MAX_SOURCES: usize = 16;

/// What content is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// To pull an image, or to copy it.
    Pull,
    /// To go on reading a layer, maybe: as nodes do while containers run.
    Read,
}

/// Where a digest belongs.
pub(in crate::server) enum Belongs {
    /// To what this source became, and the client may have it until then.
    Here { source: Digest, until: Instant },
    /// Not to anything converted: the upstream may know it.
    Upstream,
    /// Not known now: the upstream may know it, but that it does not is not the last
    /// word. This is.
    Undecided(ApiError),
}

/// Where a digest belongs that the index gives no answer for.
fn unknown(error: &IndexError, digest: &Digest) -> Belongs {
    tracing::warn!(%error, %digest, "the index does not tell where this belongs");
    Belongs::Undecided(ApiError::from(error))
}

impl RequestContext<'_> {
    /// Where a digest belongs, as far as this client may know: whoever may not have the source
    /// of something converted is answered by the upstream, as for any digest.
    ///
    /// # Errors
    /// That the upstream cannot be asked, whatever the digest.
    pub async fn belongs(&self, repo: &RepoName, digest: &Digest) -> Result<Belongs, ApiError> {
        self.belongs_to(repo, digest, Purpose::Pull).await
    }

    /// As [`RequestContext::belongs`], of a blob that running containers may read: neither an
    /// upstream that fails nor a source that was deleted there takes it from those who may have it.
    ///
    /// # Errors
    /// As [`RequestContext::belongs`].
    pub async fn belongs_to_read(
        &self,
        repo: &RepoName,
        digest: &Digest,
    ) -> Result<Belongs, ApiError> {
        self.belongs_to(repo, digest, Purpose::Read).await
    }

    async fn belongs_to(
        &self,
        repo: &RepoName,
        digest: &Digest,
        purpose: Purpose,
    ) -> Result<Belongs, ApiError> {
        let host = self.chosen.upstream.host();
        let converted = &self.state.converted;
        let sources = match converted
            .sources(self.chosen.place, host, repo, digest)
            .await
        {
            Ok(sources) => sources,
            Err(error) => return Ok(unknown(&error, digest)),
        };
        if sources.is_empty() {
            return Ok(Belongs::Upstream);
        }
        let is_own = self.state.is_own();
        // Everyone who is let in may have what the proxy's own credentials may, and these could
        // read the source when it was converted.
        if is_own
            && purpose == Purpose::Read
            && let Some(source) = sources.first()
            && self.is_there(digest).await?
        {
            return Ok(Belongs::Here {
                source: source.clone(),
                until: Instant::now() + self.state.permissions.lifetime(),
            });
        }
        let (mut undecided, mut silent, mut deleted) = (None, None, None);
        for source in sources.iter().take(MAX_SOURCES) {
            match self.ask(repo, &Selector::Digest(source.clone())).await {
                Ok((_, until)) => {
                    let source = source.clone();
                    return Ok(Belongs::Here { source, until });
                }
                // This source is gone, or not for this client; another may have become the same.
                Err(error @ registry::Error::NotFound { .. }) => {
                    tracing::debug!(%error, "not by this source");
                    deleted.get_or_insert(source);
                }
                Err(
                    error @ (registry::Error::Unauthorized { .. }
                    | registry::Error::Forbidden { .. }),
                ) => tracing::debug!(%error, "not by this source"),
                Err(
                    error
                    @ (registry::Error::Unreachable { .. } | registry::Error::TimedOut { .. }),
                ) => {
                    silent = Some(error);
                    break;
                }
                Err(error) => undecided = Some(error),
            }
        }
        let has_failed = silent.is_some() || undecided.is_some();
        if purpose == Purpose::Read
            && let Some(source) = deleted.or(sources.first().filter(|_| has_failed))
            && self.is_there(digest).await?
            && let Some(until) = self.may_read(repo, deleted.is_some()).await
        {
            let source = source.clone();
            return Ok(Belongs::Here { source, until });
        }
        if let Some(error) = silent {
            return Err(ApiError::upstream(&error, is_own));
        }
        if let Some(error) = undecided {
            return Ok(Belongs::Undecided(ApiError::undecided(&error, is_own)));
        }
        // What is remembered here must not tell a digest from others that the index is asked for.
        match converted.ask_for_sources(host, repo, digest).await {
            Ok(_) => Ok(Belongs::Upstream),
            Err(error) => Ok(unknown(&error, digest)),
        }
    }

    /// Whether a blob is in the blob directory or the object storage.
    async fn is_there(&self, digest: &Digest) -> Result<bool, ApiError> {
        let found = self.aside(Box::pin(self.state.open_files.open(digest)));
        if found.await?.map_err(|e| ApiError::from(&e))?.is_some() {
            return Ok(true);
        }
        let store = self.state.converted.store();
        let asked = Box::pin(self.hold.question(store.is_in_bucket(digest)));
        // No answer in time is not known to be there.
        Ok(self.aside(asked).await?.unwrap_or(false))
    }
}
