//! The converter, and what the index said lately.

use std::sync::Arc;
use std::time::Duration;

use moka::future::Cache;
use tokio::sync::Semaphore;

use crate::convert::layer::{Format, TurboSettings};
use crate::convert::{ConvertError, Converter, Overrides, Platforms, Source, source_size};
use crate::oci::{Digest, RepoName};
use crate::server::decision::Kind;
use crate::server::document::Document;
use crate::server::limits::index_timeout::IndexTimeout;
use crate::server::policy::{Found, ImageName, Policy, Rule};
use crate::store::{Index, IndexError, Store};

/// Most bytes of documents in memory.
const MAX_DOCUMENT_BYTES: u64 = 64 << 20;
/// How long a document is kept in memory after its last use.
const DOCUMENTS_FOR: Duration = Duration::from_mins(10);
/// How long a blob that was seen in a registry is taken to be there.
const PUSHED_BLOBS_FOR: Duration = Duration::from_mins(1);
/// How long an image is not tried again that cannot be a TurboOCI image. That does not change, but
/// an upstream may have sent something else just then.
const NOT_TURBO_FOR: Duration = Duration::from_hours(1);
/// How long a source's size is remembered: an image of an index may come after the index.
const SIZES_FOR: Duration = Duration::from_mins(10);
/// Most sources whose manifests are read for their size at one time.
const MAX_SIZE_QUESTIONS: usize = 8;
type RepoKey = (usize, RepoName, Digest);

/// The converter, and what the store said lately. Everything remembered here is of the kind that does
/// not change: none of it is a permission.
pub(in crate::server) struct Conversions {
    /// For native images.
    pub converter: Converter,
    /// For TurboOCI images, if these are served.
    pub turbo: Option<Converter>,
    /// Why images cannot be TurboOCI images.
    pub not_turbo: Cache<Digest, Arc<str>>,
    /// Why sources are no images to convert, by what would be made of them.
    pub no_image: Cache<(Digest, Arc<str>), Arc<str>>,
    /// Bytes of sources' layers, of the largest image for these platforms.
    sizes: Cache<(Digest, Platforms), Option<u64>>,
    size_questions: Semaphore,
    sources: Cache<RepoKey, Arc<[Digest]>>,
    pub documents: Cache<Digest, Arc<Document>>,
    /// Blobs that were seen in the registry that they are pushed to, or, of another tool's
    /// layers, in the source's.
    pub pushed: Cache<RepoKey, ()>,
    index_timeout: IndexTimeout,
}

impl Conversions {
    pub fn new(converter: Converter, turbo: Option<TurboSettings>) -> Self {
        let weight = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
        Self {
            turbo: turbo.map(|settings| converter.in_format(Format::Turbo(settings))),
            converter,
            not_turbo: Cache::builder()
                .max_capacity(100_000)
                .time_to_live(NOT_TURBO_FOR)
                .build(),
            no_image: Cache::builder()
                .max_capacity(100_000)
                .time_to_live(NOT_TURBO_FOR)
                .build(),
            sizes: Cache::builder()
                .max_capacity(100_000)
                .time_to_live(SIZES_FOR)
                .build(),
            size_questions: Semaphore::new(MAX_SIZE_QUESTIONS),
            sources: Cache::builder()
                .max_capacity(MAX_DOCUMENT_BYTES)
                .weigher(move |_, sources: &Arc<[Digest]>| weight(512 + 128 * sources.len()))
                .time_to_idle(DOCUMENTS_FOR)
                .build(),
            documents: Cache::builder()
                .max_capacity(MAX_DOCUMENT_BYTES)
                .weigher(move |_, document: &Arc<Document>| weight(512 + document.size()))
                .time_to_idle(DOCUMENTS_FOR)
                .build(),
            pushed: Cache::builder()
                .max_capacity(100_000)
                .time_to_live(PUSHED_BLOBS_FOR)
                .build(),
            index_timeout: IndexTimeout::default(),
        }
    }

    /// The converter to a form, with what a rule says of it; `None` where the form is not made.
    pub fn converter_of(&self, kind: Kind, overrides: &Overrides) -> Option<Converter> {
        let converter = match kind {
            Kind::Native => &self.converter,
            Kind::Turbo => self.turbo.as_ref()?,
        };
        if *overrides == Overrides::default() {
            return Some(converter.clone());
        }
        Some(converter.with_overrides(overrides))
    }

    /// Bytes of a source's layers, as [`source_size`]. Whoever asks may have the source.
    ///
    /// # Errors
    /// As there.
    async fn size(
        &self,
        source: &Source,
        digest: &Digest,
        platforms: Option<&Platforms>,
    ) -> Result<Option<u64>, ConvertError> {
        let platforms = platforms.unwrap_or_else(|| self.converter.platforms());
        let key = (digest.clone(), platforms.clone());
        let question = async {
            // It is never closed.
            let _permit = self.size_questions.acquire().await;
            source_size(source, digest, platforms).await
        };
        let size = self.sizes.try_get_with(key, Box::pin(question)).await;
        size.map_err(|error: Arc<ConvertError>| (*error).clone())
    }

    /// The rule for an image that whoever asks may have, and its number.
    ///
    /// # Errors
    /// When a rule asks for the image's size, and that cannot be had.
    pub async fn rule<'a>(
        &self,
        policy: &'a Policy,
        name: &'a ImageName<'a>,
        source: &Source,
        digest: &Digest,
    ) -> Result<Option<(usize, &'a Rule)>, ConvertError> {
        let mut sizes: Vec<(usize, Option<u64>)> = Vec::new();
        loop {
            let known = |number, _: &Rule| {
                let known = sizes.iter().find(|(of, _)| *of == number);
                known.map(|(_, size)| *size)
            };
            match policy.find(name, known) {
                Found::Rule(number, rule) => return Ok(Some((number, rule))),
                Found::Nothing => return Ok(None),
                Found::SizeNeeded(number, rule) => {
                    let platforms = rule.conversion.platforms.as_ref();
                    let size = self.size(source, digest, platforms).await?;
                    sizes.push((number, size));
                }
            }
        }
    }

    pub fn store(&self) -> &Store {
        self.converter.store()
    }

    pub async fn sources(
        &self,
        place: usize,
        host: &str,
        repo: &RepoName,
        digest: &Digest,
    ) -> Result<Arc<[Digest]>, IndexError> {
        let key = (place, repo.clone(), digest.clone());
        if let Some(sources) = self.sources.get(&key).await {
            return Ok(sources);
        }
        let sources: Arc<[Digest]> = self.ask_for_sources(host, repo, digest).await?.into();
        // That there are none may change at any time.
        if !sources.is_empty() {
            self.sources.insert(key, Arc::clone(&sources)).await;
        }
        Ok(sources)
    }

    pub async fn ask_for_sources(
        &self,
        host: &str,
        repo: &RepoName,
        digest: &Digest,
    ) -> Result<Vec<Digest>, IndexError> {
        let index = self.store().index();
        let question = index.sources(host, repo, digest);
        match index {
            // A file of this machine is slow at worst, and its answer is worth the wait.
            Index::Sqlite(_) => question.await,
            Index::Mysql(_) => self.index_timeout.ask(question).await,
        }
    }
}
