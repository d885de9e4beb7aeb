//! Which repositories and tags the names in a layout stand for.
//!
//! A layout has one name for a manifest, `org.opencontainers.image.ref.name` (OCI image-spec
//! `annotations.md`), and tools write three things into it: a tag, `repo:tag`, or a whole
//! reference with its host. containerd and Docker write the tag and keep the whole reference
//! in `io.containerd.image.name`. A registry's client asks by repository and tag, so:
//!
//! - `repo:tag` is found in that repository;
//! - `host/repo:tag` is found in `repo` and in `host/repo`; Docker Hub's
//!   `docker.io/library/demo:tag` also in `demo`;
//! - a plain tag has no repository, so it is found in every one, where no full
//!   name is; it is listed under [`LAYOUT_REPO`](crate::oci::name::LAYOUT_REPO);
//! - the one manifest without any name is the tag `latest`: what copying to `oci:DIR` makes.
//!
//! Adding a manifest never hides another, unless it has the same name.

use crate::oci::reference::DOCKER_HUB;
use crate::oci::{RegistryReference, RepoName, Tag};

/// What one text stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Name {
    /// A tag, of whichever repository.
    Plain(Tag),
    /// A tag of these repositories, as it is written first.
    Full { repos: Vec<RepoName>, tag: Tag },
}

/// How well a name matches the request; the smallest wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fit {
    /// Repository and tag, to the letter.
    Written,
    /// The repository without its host.
    WithoutHost,
    /// A tag without a repository.
    Plain,
}

impl Name {
    /// The meaning of a text; `None` where no registry's client could ask for it.
    pub(super) fn parse(text: &str) -> Option<Self> {
        if let Ok(tag) = text.parse() {
            return Some(Self::Plain(tag));
        }
        let (path, tag) = text.rsplit_once(':')?;
        let tag = tag.parse().ok()?;
        let mut repos: Vec<RepoName> = path.parse().ok().into_iter().collect();
        let has_host = path.split_once('/').is_some_and(|(first, _)| {
            first.contains(['.', ':']) || first == "localhost" || first.starts_with('[')
        });
        if has_host && let Ok(reference) = text.parse::<RegistryReference>() {
            let familiar = reference.repo.as_str().strip_prefix("library/");
            let familiar = familiar.filter(|_| reference.host == DOCKER_HUB);
            repos.extend(familiar.and_then(|name| name.parse().ok()));
            repos.push(reference.repo);
        }
        (!repos.is_empty()).then_some(Self::Full { repos, tag })
    }

    /// The name in a layout for this repository and tag.
    pub(super) fn text(repo: &RepoName, tag: &Tag) -> String {
        if *repo == RepoName::layout() {
            tag.to_string()
        } else {
            format!("{repo}:{tag}")
        }
    }

    /// How well this fits a repository; the tag is [`Name::tag`].
    pub(super) fn fit(&self, repo: &RepoName) -> Option<Fit> {
        match self {
            Self::Plain(_) => Some(Fit::Plain),
            Self::Full { repos, .. } => match repos.iter().position(|known| known == repo)? {
                0 => Some(Fit::Written),
                _ => Some(Fit::WithoutHost),
            },
        }
    }

    /// The tag.
    pub(super) fn tag(&self) -> &Tag {
        match self {
            Self::Plain(tag) | Self::Full { tag, .. } => tag,
        }
    }

    /// The repository that it is listed under: the shortest name of it, without a host.
    pub(super) fn listed(&self) -> RepoName {
        match self {
            Self::Plain(_) => RepoName::layout(),
            Self::Full { repos, .. } => repos.last().cloned().unwrap_or_else(RepoName::layout),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repos(text: &str) -> Vec<String> {
        match Name::parse(text) {
            Some(Name::Full { repos, .. }) => repos.iter().map(ToString::to_string).collect(),
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn a_name_is_found_with_and_without_its_host() {
        assert_eq!(repos("demo:latest"), ["demo"]);
        assert_eq!(repos("a/b:1"), ["a/b"]);
        assert_eq!(repos("ghcr.io/a/b:1"), ["ghcr.io/a/b", "a/b"]);
        assert_eq!(repos("localhost:5000/x:1"), ["x"]);
        assert_eq!(
            repos("docker.io/library/redis:7"),
            ["docker.io/library/redis", "redis", "library/redis"]
        );
        assert_eq!(
            Name::parse("latest"),
            Some(Name::Plain("latest".parse().unwrap()))
        );
    }

    #[test]
    fn a_text_that_is_no_reference_is_no_name() {
        for text in [
            "",
            "a/b",
            "A/B:1",
            "x:",
            ":x",
            "a+b",
            "x@sha256:00",
            "a:b:c d",
        ] {
            assert_eq!(Name::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_written_name_is_found() {
        for repo in ["layout", "demo", "a/b", "r.io/a"] {
            let (repo, tag): (RepoName, Tag) = (repo.parse().unwrap(), "1".parse().unwrap());
            let name = Name::parse(&Name::text(&repo, &tag)).unwrap();
            assert!(name.fit(&repo) <= Some(Fit::Plain) && name.fit(&repo).is_some());
            assert_eq!(*name.tag(), tag);
        }
    }
}
