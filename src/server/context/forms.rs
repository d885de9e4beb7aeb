//! What a source was converted to and is there now, as a client that may have the source may have
//! it: as referrers of the source.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use crate::convert::derived::{self, artifact_type};
use crate::convert::image::Subject;
use crate::convert::layer::Format;
use crate::convert::{ConvertedImage, Converter, Overrides, StoredManifest};
use crate::oci::media_type::essence;
use crate::oci::{Digest, ManifestKind, RepoName, Selector};
use crate::registry::ManifestHead;
use crate::server::context::RequestContext;
use crate::server::decision::Kind;
use crate::server::document::Document;
use crate::server::error::ApiError;

/// How long the index and the store may take to say what there is.
const PATIENCE: Duration = Duration::from_secs(2);

/// A converted form of a source.
#[derive(Debug)]
pub(in crate::server) struct Form {
    /// What it is, in a list of referrers.
    pub artifact_type: &'static str,
    /// The manifest that names the source as its `subject`.
    pub referrer: StoredManifest,
}

/// What a source became that is there now.
#[derive(Default)]
pub(in crate::server) struct Ready {
    pub images: Vec<(Converter, Arc<ConvertedImage>)>,
    /// Whether there may be more, because the index or the store did not say.
    pub is_partial: bool,
}

impl RequestContext<'_> {
    /// The converters for images of a repository, native ones first, those of rules and learned lists
    /// before the others.
    async fn converters(&self, repo: &RepoName) -> Vec<Converter> {
        let mut ways = self.overrides(repo).await;
        ways.push(Overrides::default());
        let mut all = Vec::new();
        for kind in [Kind::Native, Kind::Turbo] {
            let of_kind =
                |overrides: &Overrides| self.state.converted.converter_of(kind, overrides);
            all.extend(ways.iter().filter_map(of_kind));
        }
        all
    }

    /// The images that a source became and that are there now, one of a format, native ones first:
    /// those of the rules for this repository go before those without a rule. Nobody was asked
    /// whether this client may have them.
    pub async fn ready(&self, repo: &RepoName, source: &Digest) -> Ready {
        let from = self.source(repo);
        let mut ready = Ready::default();
        for converter in self.converters(repo).await {
            let is_known =
                |(known, _): &(Converter, _)| is_same_kind(known.format(), converter.format());
            if ready.images.iter().any(is_known) {
                continue;
            }
            let asked = timeout(PATIENCE, Box::pin(converter.ready(&from, source)));
            match self.aside(asked).await {
                Ok(Ok(Ok(Some(image)))) => ready.images.push((converter, image)),
                Ok(Ok(Ok(None))) => {}
                // Whoever looks for a converted image does without.
                Ok(Ok(Err(error))) => {
                    tracing::warn!(%error, %source, "what this became is not known now");
                    ready.is_partial = true;
                }
                Ok(Err(_)) | Err(_) => {
                    tracing::warn!(%source, "what this became was not found out in time");
                    ready.is_partial = true;
                }
            }
        }
        ready
    }

    /// The converted forms of a source that this client may have, each with its manifest as a
    /// referrer, which is served by its digest from now on. None if the upstream does not let the
    /// client have the source.
    pub async fn forms(&self, repo: &RepoName, source: &Digest) -> Vec<Form> {
        let ready = self.ready(repo, source).await.images;
        if ready.is_empty() {
            return Vec::new();
        }
        let head = match self.ask(repo, &Selector::Digest(source.clone())).await {
            Ok((head, _)) => head,
            Err(error) => {
                tracing::debug!(%error, %source, "what this became is not told");
                return Vec::new();
            }
        };
        let Some(subject) = subject(head) else {
            return Vec::new();
        };
        let mut forms = Vec::new();
        for (converter, image) in ready {
            let format = converter.format();
            let referrer = match derived::referrer(&image.root, &subject, format) {
                Ok(referrer) => referrer,
                Err(error) => {
                    tracing::warn!(%error, %source, "a converted image is not listed");
                    continue;
                }
            };
            // What cannot be served is not listed.
            let kept = Box::pin(self.keep_document(repo, source, &referrer));
            if matches!(timeout(PATIENCE, kept).await, Ok(Ok(()))) {
                let artifact_type = artifact_type(format);
                forms.push(Form {
                    artifact_type,
                    referrer,
                });
            }
        }
        forms
    }

    /// Makes a document that is made of what `source` became one that is served by its digest, to
    /// whoever may have the source.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn keep_document(
        &self,
        repo: &RepoName,
        source: &Digest,
        document: &StoredManifest,
    ) -> Result<(), ApiError> {
        let converted = &self.state.converted;
        let (place, host) = (self.chosen.place, self.chosen.upstream.host());
        let digest = &document.digest;
        let known = converted.sources(place, host, repo, digest);
        let is_linked = known.await.is_ok_and(|known| known.contains(source));
        if !is_linked || !converted.store().blobs().contains(digest).unwrap_or(false) {
            let from = self.source(repo);
            let kept = Box::pin(converted.converter.keep_document(&from, source, document));
            let Ok(kept) = self.aside(self.hold.question(kept)).await? else {
                return Err(self.later().await);
            };
            kept.map_err(|error| {
                tracing::warn!(%error, %digest, "a document about converted images is not kept");
                ApiError::conversion(&error, self.state.is_own())
            })?;
        }
        let document = Arc::new(Document::new(document));
        converted.documents.insert(digest.clone(), document).await;
        Ok(())
    }
}

fn is_same_kind(one: Format, other: Format) -> bool {
    matches!(one, Format::Turbo(_)) == matches!(other, Format::Turbo(_))
}

/// A source as the subject of its converted forms.
fn subject(head: ManifestHead) -> Option<Subject> {
    ManifestKind::from_media_type(&head.media_type)?;
    Some(Subject {
        media_type: essence(&head.media_type),
        digest: head.digest,
        size: head.size,
    })
}
