//! What the index, the store and the upstream know for one request, and the wait for conversions.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::convert::{ConvertError, Converter, Overrides, PinnedImage, Source, StoredManifest};
use crate::oci::{Digest, ManifestKind, RepoName, Selector};
use crate::registry::{self, Authorization, Upstream};
use crate::server::access::decisions::{Allowed, Remembered};
use crate::server::cache::open_files::{OpenBlob, off_thread};
use crate::server::config::OnTimeout;
use crate::server::context::RequestContext;
use crate::server::decision::Kind;
use crate::server::document::Document;
use crate::server::error::ApiError;
use crate::server::learn::Repository;
use crate::server::limits::redirects;
use crate::server::observe::metrics::{CacheName, Called};
use crate::server::policy::with_lists;
use crate::store::IndexError;

/// Sources that are tried for one converted blob.
const MAX_SOURCES: usize = 16;
/// The longest converted manifest, in bytes: as long as a source may be, and then some.
const MAX_MANIFEST: u64 = 32 << 20;

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
    /// Waits for what tells whether and how something is answered; the request does not count as
    /// being worked on meanwhile.
    ///
    /// # Errors
    /// None in practice: these places have no bound.
    pub async fn aside<T>(&self, work: impl Future<Output = T>) -> Result<T, ApiError> {
        let slots = &self.state.limits.permissions;
        let waited = self.slot.wait(slots, work).await;
        waited.map_err(|full| ApiError::full(full, "waiting requests"))
    }

    /// Waits for an upstream as long as the request is held, and aside.
    pub(super) async fn upstream<T>(
        &self,
        repo: &RepoName,
        work: impl Future<Output = Result<T, registry::Error>>,
    ) -> Result<T, registry::Error> {
        let host = self.chosen.upstream.host();
        let place = || format!("{repo} at {host}");
        let held = self.hold.upstream(place, work);
        // Its places are without bound.
        self.aside(held).await.unwrap_or_else(|_| {
            Err(registry::Error::TimedOut {
                place: place(),
                what: "place to wait",
                after: Duration::ZERO,
            })
        })
    }

    /// The source of a conversion for this request.
    pub fn source(&self, repo: &RepoName) -> Source {
        Source {
            upstream: self.chosen.upstream.clone(),
            repo: repo.clone(),
            authorization: self.authorization.clone(),
        }
    }

    /// The head of a manifest at the upstream, which is the permission to have what it became.
    ///
    /// # Errors
    /// The upstream's no, or that there is no answer.
    pub async fn ask(
        &self,
        repo: &RepoName,
        selector: &Selector,
    ) -> Result<(registry::ManifestHead, Instant), registry::Error> {
        let started = Instant::now();
        let state = self.state;
        let asked = state
            .permissions
            .head(&self.chosen, repo, selector, &self.authorization);
        let answer = self.upstream(repo, Box::pin(asked)).await;
        let (head, until) = self.decided("head", started, answer)?;
        // The first yes is what an answer hangs on.
        let _ = self
            .allowed
            .set((repo.clone(), selector.clone(), head.clone()));
        Ok((head, until))
    }

    /// Until when this client may read the repository, whatever is left in it; while the upstream
    /// does not answer, what it said earlier counts.
    async fn may_read(&self, repo: &RepoName, does_answer: bool) -> Option<Instant> {
        let started = Instant::now();
        let permissions = &self.state.permissions;
        let (chosen, authorization) = (&self.chosen, &self.authorization);
        let answer = if does_answer {
            let asked = permissions.repository(chosen, repo, authorization);
            self.upstream(repo, Box::pin(asked)).await
        } else {
            let earlier = permissions.earlier_repository(chosen.place, repo, authorization);
            Ok((earlier.await?, Remembered::Yes))
        };
        match self.decided("tags", started, answer) {
            Ok(((), until)) => Some(until),
            Err(error) => {
                tracing::debug!(%error, "not by its repository");
                None
            }
        }
    }

    /// Counts a decision, and says until when it holds.
    pub(super) fn decided<T>(
        &self,
        call: &'static str,
        started: Instant,
        answer: Result<(Allowed<T>, Remembered), registry::Error>,
    ) -> Result<(T, Instant), registry::Error> {
        let metrics = &self.state.metrics;
        let is_remembered = matches!(answer, Ok((_, Remembered::Yes)));
        metrics.lookup(CacheName::Permission, is_remembered);
        if !is_remembered {
            let host = self.chosen.upstream.host();
            metrics.call(host, call, Called::of(&answer), started.elapsed());
        }
        let (allowed, _) = answer?;
        if allowed.is_stale {
            metrics.stale_permission();
            // The first of several questions that a request asks tells enough.
            let _ = self.stale_since.set(allowed.since);
        }
        Ok((allowed.answer, allowed.until))
    }

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

    /// Waits for a conversion as long as requests may; its blobs stay until the answer is
    /// dropped.
    ///
    /// # Errors
    /// [`Waited::TooLong`], or why there is no such image.
    pub async fn wait(
        &self,
        converter: &Converter,
        repo: &RepoName,
        source: &Digest,
    ) -> Result<PinnedImage, Waited> {
        let state = self.state;
        let started = Instant::now();
        let from = self.source(repo);
        let conversion = Box::pin(converter.convert_pinned(&from, source, None));
        let held = self.hold.conversion(conversion);
        let waited = self.slot.wait(&state.limits.conversions, held).await;
        let result = waited.map_err(|full| {
            Waited::Failed(ApiError::full(full, "requests that wait for a conversion"))
        })?;
        let outcome = match &result {
            Ok(Ok(_)) => "done",
            Ok(Err(_)) => "failed",
            Err(_) => "timeout",
        };
        state.metrics.waited(outcome, started.elapsed());
        match result {
            Ok(Ok(held)) => Ok(held),
            Ok(Err(error)) if error.no_turbo().is_some() => {
                Err(Waited::NotTurbo(error.no_turbo().unwrap_or_default()))
            }
            Ok(Err(error)) => {
                let failure = Box::pin(self.unconverted(repo, source, error.cause())).await;
                let failure = match error.remembered() {
                    Some((age, again)) => failure.remembered(age, again),
                    None => failure,
                };
                Err(match error.cause() {
                    ConvertError::NoPlatform { .. } => Waited::NoImage(failure),
                    error if error.is_no_image() => Waited::NoImage(failure),
                    _ => Waited::Failed(failure),
                })
            }
            Err(_) => Err(Waited::TooLong),
        }
    }

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

    /// What a request for converted content gets when its hold is over.
    pub async fn later(&self) -> ApiError {
        if let Some((repo, selector, head)) = self.allowed.get() {
            let (place, authorization) = (self.chosen.place, &self.authorization);
            let permissions = &self.state.permissions;
            let goes_on = permissions.wait_goes_on(place, repo, selector, authorization, head);
            goes_on.await;
        }
        match self.again() {
            Some(address) => ApiError::wait(&address),
            None => ApiError::converting(),
        }
    }

    /// Where the client is sent to wait on, if it is.
    pub fn again(&self) -> Option<String> {
        match self.state.config.on_timeout {
            OnTimeout::Wait | OnTimeout::WaitThenOriginal => redirects::again(self.address()),
            OnTimeout::Busy | OnTimeout::Original => None,
        }
    }

    /// A converted manifest by its digest.
    ///
    /// # Errors
    /// When it cannot be had, or is none.
    pub async fn document(
        &self,
        repo: &RepoName,
        digest: &Digest,
        source: &Digest,
    ) -> Result<Arc<Document>, ApiError> {
        let documents = &self.state.converted.documents;
        if let Some(document) = documents.get(digest).await {
            return Ok(document);
        }
        let found = match self.find(repo, digest, source).await? {
            Found::File(blob) => Ok(blob),
            Found::Pushed(upstream, repo) => Err((upstream, repo, Authorization::Own)),
            Found::Upstream => Err((
                self.chosen.upstream.clone(),
                repo.clone(),
                self.authorization.clone(),
            )),
        };
        let blob = match found {
            Ok(blob) => blob,
            Err((upstream, repo, authorization)) => {
                let selector = Selector::Digest(digest.clone());
                let is_own = matches!(authorization, Authorization::Own);
                let fetched = upstream.manifest(&repo, &selector, &authorization);
                let raw = self
                    .upstream(&repo, Box::pin(fetched))
                    .await
                    .map_err(|e| ApiError::upstream(&e, is_own))?;
                return Ok(Arc::new(Document::new(&StoredManifest {
                    digest: raw.digest,
                    media_type: raw.media_type,
                    bytes: raw.bytes,
                })));
            }
        };
        if blob.file.size() > MAX_MANIFEST {
            return Err(ApiError::unknown_manifest(digest));
        }
        let read = off_thread(move || blob.file.read_all()).await;
        let Some(bytes) = read.map_err(|error| ApiError::from(&error))? else {
            // It was damaged, and is made again when the client asks again.
            return Err(self.later().await);
        };
        // Configs and layers are linked to repositories too, and are no manifests.
        let media_type = media_type(&bytes).ok_or_else(|| ApiError::unknown_manifest(digest))?;
        let document = Arc::new(Document::new(&StoredManifest {
            digest: digest.clone(),
            media_type,
            bytes: bytes.into(),
        }));
        documents
            .insert(digest.clone(), Arc::clone(&document))
            .await;
        Ok(document)
    }
}

/// Where the bytes of a converted blob are.
pub(in crate::server) enum Found {
    /// In the store.
    File(Arc<OpenBlob>),
    /// In this repository, as the proxy's own credentials may have it.
    Pushed(Upstream, RepoName),
    /// In the repository that the client asked for, as it may have it.
    Upstream,
}

/// Why a wait brought no image.
pub(in crate::server) enum Waited {
    /// It takes longer than requests wait; it goes on.
    TooLong,
    /// There will be none: the source is no image for a platform that is converted.
    NoImage(ApiError),
    /// There will be none.
    Failed(ApiError),
    /// There will be no TurboOCI image, for this reason; there may be a native one.
    NotTurbo(String),
}

/// What a document calls itself, if it is a manifest.
fn media_type(bytes: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Document {
        #[serde(rename = "mediaType")]
        media_type: String,
    }
    let document: Document = serde_json::from_slice(bytes).ok()?;
    ManifestKind::from_media_type(&document.media_type)?;
    Some(document.media_type)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_manifests_have_a_manifests_media_type() {
        let manifest = br#"{"mediaType":"application/vnd.oci.image.index.v1+json"}"#;
        assert_eq!(
            media_type(manifest).as_deref(),
            Some("application/vnd.oci.image.index.v1+json")
        );
        for other in [
            &br#"{"mediaType":"text/html"}"#[..],
            b"{}",
            b"\x1f\x8b",
            b"[]",
        ] {
            assert_eq!(media_type(other), None);
        }
    }
}
