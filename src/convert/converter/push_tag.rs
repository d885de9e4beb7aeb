//! The converted image's tag in the registry that it is pushed to.
//!
//! The distribution API has no conditional write that registries support, so that two who push
//! the same tag could pass each other between a look and a push. Those that share the index do
//! it one after the other, by a lease; others have the look right before the push.

use std::time::Duration;

use super::types::{ConvertedImage, PushTarget, Source};
use super::{ConvertError, Converter, Home};
use crate::oci::{Digest, Selector, Tag};
use crate::registry::{Authorization, Error, RawManifest};
use crate::store::{Acquired, LeaseKeeper};

/// The longest wait between two looks whether another has pushed the tag.
const LOOK: Duration = Duration::from_millis(500);

/// What became of a converted image's tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TagOutcome {
    /// It names the converted image.
    Done,
    /// It was not pushed: the source's tag is gone, or names another image by now, whose
    /// conversion pushes the tag.
    Moved,
    /// It names an image that this program did not make, and was left as it is.
    Foreign,
    /// There is no such tag: nothing is pushed, or the name is too long for one.
    Without,
}

impl Converter {
    /// Gives the converted image its tag in the registry it is pushed to: the source's with
    /// the suffix. Does nothing where nothing is pushed.
    ///
    /// # Errors
    /// When a registry or the index gives no answer, or the tag is not taken.
    pub async fn push_tag(
        &self,
        source: &Source,
        image: &ConvertedImage,
        tag: &Tag,
    ) -> Result<TagOutcome, ConvertError> {
        let Some(target) = &self.inner.config.push else {
            return Ok(TagOutcome::Without);
        };
        let name = format!("{tag}{}", target.suffix);
        let Ok(converted) = name.parse::<Tag>() else {
            tracing::warn!(
                name,
                "too long for a tag: the converted image is pushed by digest only"
            );
            return Ok(TagOutcome::Without);
        };
        let push = TagPush {
            converter: self,
            target,
            source,
            home: self.home(source),
            image,
            tag,
            converted,
        };
        let turn = push.turn().await?;
        let outcome = push.run(&turn).await;
        turn.release().await;
        outcome
    }
}

/// One tag being pushed.
struct TagPush<'a> {
    converter: &'a Converter,
    target: &'a PushTarget,
    source: &'a Source,
    home: Home,
    image: &'a ConvertedImage,
    /// The source's.
    tag: &'a Tag,
    converted: Tag,
}

impl TagPush<'_> {
    /// Waits until nobody else who shares the index pushes this tag.
    async fn turn(&self) -> Result<LeaseKeeper, ConvertError> {
        let inner = &self.converter.inner;
        let Home { host, repo, .. } = &self.home;
        // As a digest, since names of any length and a layout's path must fit the index.
        let place = format!("{host} {repo} {}", self.converted);
        let name = format!("tag {}", Digest::of(place.as_bytes()));
        let ttl = inner.config.lease_ttl;
        let mut is_told = false;
        loop {
            match inner.store.acquire(&name, ttl).await? {
                Acquired::Mine(lease) => {
                    return Ok(lease.keep(inner.store.index().clone(), ttl));
                }
                Acquired::Held { holder, remaining } => {
                    if !std::mem::replace(&mut is_told, true) {
                        tracing::info!(host, %repo, tag = %self.converted, holder,
                            "waiting for another that pushes this tag");
                    }
                    let wait = remaining.clamp(Duration::from_millis(20), LOOK);
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }

    async fn run(&self, turn: &LeaseKeeper) -> Result<TagOutcome, ConvertError> {
        let root = &self.image.root;
        let mut ours = None;
        let there = loop {
            let there = self.there().await?;
            let Some(found) = &there else { break None };
            if found.digest == root.digest
                || self.target.overwrite_tags
                || ours.as_ref() == Some(&found.digest)
            {
                break there;
            }
            if !self
                .converter
                .has_made(self.source, &self.home, found)
                .await?
            {
                let Home { host, repo, .. } = &self.home;
                tracing::warn!(host, %repo, tag = %self.converted, manifest = %found.digest,
                    "the tag names an image that this program did not make: it is left alone; \
                     --push-overwrite-tags replaces such tags");
                return Ok(TagOutcome::Foreign);
            }
            // That took a while: it is looked at again.
            ours = Some(found.digest.clone());
        };
        let current = self.current().await?;
        if current.as_ref() != Some(&self.image.source) {
            let names = current.as_ref().map_or("nothing", Digest::as_str);
            tracing::info!(repo = %self.source.repo, tag = %self.tag, %names,
                converted = %self.image.source,
                "the tag has moved since the conversion began: the converted image gets no tag");
            return Ok(TagOutcome::Moved);
        }
        if there.is_some_and(|there| there.digest == root.digest) {
            return Ok(TagOutcome::Done);
        }
        if turn.is_lost() {
            return Err(ConvertError::Interrupted);
        }
        let selector = Selector::Tag(self.converted.clone());
        let (media_type, bytes) = (&root.media_type, root.bytes.clone());
        let Home { upstream, repo, .. } = &self.home;
        upstream
            .push_manifest(repo, &selector, media_type, bytes, &Authorization::Own)
            .await?;
        Ok(TagOutcome::Done)
    }

    /// What the tag of the converted image names now.
    async fn there(&self) -> Result<Option<RawManifest>, ConvertError> {
        let Home { upstream, repo, .. } = &self.home;
        let selector = Selector::Tag(self.converted.clone());
        let there = upstream.written_manifest(repo, &selector, &Authorization::Own);
        match there.await {
            Ok(there) => Ok(Some(there)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// What the source's tag names now.
    async fn current(&self) -> Result<Option<Digest>, ConvertError> {
        let Source {
            upstream,
            repo,
            authorization,
        } = self.source;
        let selector = Selector::Tag(self.tag.clone());
        let mut head = upstream.head_manifest(repo, &selector, authorization).await;
        // A client's token may have run out during a long conversion. Nobody is told anything
        // that is found out with ours.
        if let Err(Error::Unauthorized { .. } | Error::Forbidden { .. }) = &head
            && matches!(authorization, Authorization::Client(_))
        {
            let own = &Authorization::Own;
            head = upstream.head_manifest(repo, &selector, own).await;
        }
        match head {
            Ok(head) => Ok(Some(head.digest)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}
