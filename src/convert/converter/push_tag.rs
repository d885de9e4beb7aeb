//! The converted image's tag in the registry that it is pushed to.
//!
//! The distribution API has no conditional write that registries support, so that another push
//! of the same tag may come between reading the tag and writing it. Processes that share the
//! index push a tag one after the other, by a lease; for others the tag is read right before the
//! push.

use super::super::error::ConvertError;
use super::super::types::{ConvertedImage, PushTarget, Source};
use super::context::Context;
use super::destination::Destination;
use super::lease::poll_interval;
use super::provenance::is_own_manifest;
use super::status::add;
use crate::oci::{Digest, Selector, Tag};
use crate::registry::{Authorization, Error, RawManifest};
use crate::store::{Acquired, LeaseKeeper};

/// What became of a converted image's tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TagOutcome {
    /// It names the converted image.
    Done,
    /// It was not pushed: the source's tag is gone, or names another image by now, whose
    /// conversion pushes the tag; or the registry refused what was pushed there a moment ago.
    Moved,
    /// It names an image that this program did not make, and was left as it is.
    Foreign,
    /// There is no such tag: nothing is pushed, or the name is too long for one.
    Without,
}

/// See [`Converter::push_tag`](super::Converter::push_tag).
pub(super) async fn push_tag(
    context: &Context,
    source: &Source,
    image: &ConvertedImage,
    tag: &Tag,
) -> Result<TagOutcome, ConvertError> {
    let Some(target) = &context.config.push else {
        return Ok(TagOutcome::Without);
    };
    let Some(suffix) = target.suffixes.of(context.config.settings.format) else {
        return Ok(TagOutcome::Without);
    };
    let name = format!("{tag}{suffix}");
    let Ok(converted) = name.parse::<Tag>() else {
        tracing::warn!(
            name,
            "too long for a tag: the converted image is pushed by digest only"
        );
        return Ok(TagOutcome::Without);
    };
    let push = TagPush {
        context,
        target,
        source,
        destination: context.destination(source),
        image,
        tag,
        converted,
    };
    if !push.destination.is_pushed {
        // Not now: the registry refuses what is pushed there.
        return Ok(TagOutcome::Moved);
    }
    let outcome = push.alone().await;
    if outcome.is_err() {
        add(&context.counters.pushed_tags.failed, 1);
    }
    outcome
}

/// One tag being pushed.
struct TagPush<'a> {
    context: &'a Context,
    target: &'a PushTarget,
    source: &'a Source,
    destination: Destination,
    image: &'a ConvertedImage,
    /// The source's tag.
    tag: &'a Tag,
    /// The tag of the converted image.
    converted: Tag,
}

impl TagPush<'_> {
    /// Pushes the tag while no other process that shares the index does.
    async fn alone(&self) -> Result<TagOutcome, ConvertError> {
        let lease = self.acquire_lease().await?;
        let outcome = self.run(&lease).await;
        lease.release().await;
        outcome
    }

    /// Waits until no other process that shares the index pushes this tag.
    async fn acquire_lease(&self) -> Result<LeaseKeeper, ConvertError> {
        let context = self.context;
        let Destination { host, repo, .. } = &self.destination;
        // As a digest, since names of any length and a layout's path must fit the index.
        let target = format!("{host} {repo} {}", self.converted);
        let name = format!("tag {}", Digest::of(target.as_bytes()));
        let ttl = context.config.lease_ttl;
        let mut is_logged = false;
        loop {
            match context.store.acquire(&name, ttl).await? {
                Acquired::Mine(lease) => {
                    return Ok(lease.keep(context.store.index().clone(), ttl));
                }
                Acquired::Held { holder, remaining } => {
                    if !std::mem::replace(&mut is_logged, true) {
                        tracing::info!(host, %repo, tag = %self.converted, holder,
                            "waiting for another that pushes this tag");
                    }
                    tokio::time::sleep(poll_interval(remaining)).await;
                }
            }
        }
    }

    async fn run(&self, lease: &LeaseKeeper) -> Result<TagOutcome, ConvertError> {
        let root = &self.image.root;
        let mut ours = None;
        let target = loop {
            let target = self.current_target().await?;
            let Some(found) = &target else { break None };
            if found.digest == root.digest
                || self.target.overwrite_tags
                || ours.as_ref() == Some(&found.digest)
            {
                break target;
            }
            if !is_own_manifest(self.context, self.source, &self.destination, found).await? {
                let Destination { host, repo, .. } = &self.destination;
                tracing::warn!(host, %repo, tag = %self.converted, manifest = %found.digest,
                    "the tag names an image that this program did not make: it is left alone; \
                     --push-overwrite-tags replaces such tags");
                return Ok(TagOutcome::Foreign);
            }
            // That took a while: the tag may have changed.
            ours = Some(found.digest.clone());
        };
        let current = self.current_source().await?;
        if current.as_ref() != Some(&self.image.source) {
            let names = current.as_ref().map_or("nothing", Digest::as_str);
            tracing::info!(repo = %self.source.repo, tag = %self.tag, %names,
                converted = %self.image.source,
                "the tag has moved since the conversion began: the converted image gets no tag");
            return Ok(TagOutcome::Moved);
        }
        if target.is_some_and(|target| target.digest == root.digest) {
            add(&self.context.counters.pushed_tags.present, 1);
            return Ok(TagOutcome::Done);
        }
        if lease.is_lost() {
            return Err(ConvertError::Interrupted);
        }
        let selector = Selector::Tag(self.converted.clone());
        let (media_type, bytes) = (&root.media_type, root.bytes.clone());
        let Destination { upstream, repo, .. } = &self.destination;
        upstream
            .push_manifest(repo, &selector, media_type, bytes, &Authorization::Own)
            .await?;
        add(&self.context.counters.pushed_tags.pushed, 1);
        tracing::info!(
            registry = self.destination.host, %repo, tag = %self.converted, digest = %root.digest,
            source = %self.image.source, "a converted image got its tag"
        );
        Ok(TagOutcome::Done)
    }

    /// What the tag of the converted image names now.
    async fn current_target(&self) -> Result<Option<RawManifest>, ConvertError> {
        let Destination { upstream, repo, .. } = &self.destination;
        let selector = Selector::Tag(self.converted.clone());
        let target = upstream.written_manifest(repo, &selector, &Authorization::Own);
        match target.await {
            Ok(target) => Ok(Some(target)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// What the source's tag names now.
    async fn current_source(&self) -> Result<Option<Digest>, ConvertError> {
        let Source {
            upstream,
            repo,
            authorization,
        } = self.source;
        let selector = Selector::Tag(self.tag.clone());
        let mut head = upstream.head_manifest(repo, &selector, authorization).await;
        // A client's token may have expired during a long conversion. What is read with the
        // proxy's own credentials is not shown to the client.
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
