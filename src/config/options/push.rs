//! How converted images are called, and where they are pushed to.
// The comments of options are their help texts.
#![allow(clippy::doc_markdown)]

use serde::{Deserialize, Serialize};

use super::registries::Registries;
use super::{required, switch};
use crate::config::{ConfigErrors, Text};
use crate::convert::{PushTarget, Suffixes};
use crate::oci::reference::{Scheme, is_host, shown_host};
use crate::oci::{RepoName, Tag};
use crate::server::TurboFallback;

/// How converted images are called, and where they are pushed to.
#[derive(Debug, Clone, Default, clap::Args, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
#[command(next_help_heading = "Names and pushing")]
pub struct PushOptions {
    /// The end of a tag that asks for the converted image
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub suffix: Option<Text>,
    /// The end of a tag that asks for the image in TurboOCI form, of which nodes read file data in the
    /// original layers; empty for never
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub turbo_suffix: Option<Text>,
    /// What a TurboOCI tag is where that form cannot carry a layer: native (overlaybd's other
    /// form), original (the unconverted image) or error
    #[arg(long, value_name = "native|original|error")]
    pub turbo_fallback: Option<Text>,
    /// Push converted images to the upstream, with the proxy's own credentials
    #[arg(long, value_name = "BOOL")]
    pub push: Option<Text>,
    /// Push them elsewhere: REPO of the same upstream, HOST/REPO, or HOST/ for the same
    /// repository there, HOST also with https:// or http:// before it; implies --push
    #[arg(long, value_name = "[HOST/]REPO")]
    pub push_repo: Option<Text>,
    /// Credentials for the HOST of --push-repo: NAME:PASSWORD [default: Docker's config.json]
    #[arg(long, value_name = "NAME:PASSWORD")]
    pub push_user: Option<Text>,
    /// Replace a tag in the registry that converted images would have, also where it names an
    /// image that this program did not make
    ///
    /// Replace a tag in the registry that converted images would have, also where it names an
    /// image that this program did not make. Without this, such a tag is left alone, with a
    /// warning in the log. An image is this program's if the index records that it was converted
    /// here, or else (after the index was lost, or where another replica or an older version
    /// made it) if the blob of each of its layers carries this program's mark.
    #[arg(long, value_name = "BOOL")]
    pub push_overwrite_tags: Option<Text>,
}

/// A registry, with the scheme that it is written with.
type Host = (Option<Scheme>, String);

/// Host and repository of a `--push-repo`.
fn place(text: &str) -> Result<(Option<Host>, Option<RepoName>), String> {
    if text.contains('@') {
        return Err("credentials do not belong into an address: use --push-user".to_owned());
    }
    let wrong = |error: &dyn std::fmt::Display| {
        format!("{text:?} is no place to push to ({error}): use REPO, HOST/REPO or HOST/")
    };
    let (scheme, bare) = Scheme::split(text);
    let (first, rest) = bare.split_once('/').unwrap_or((bare, ""));
    // As in image names: what has a dot or a port is a host.
    let host_like = scheme.is_some() || first == "localhost" || first.contains(['.', ':']);
    if host_like && is_host(first) && (scheme.is_some() || bare.contains('/')) {
        let repo = match rest {
            "" => None,
            rest => Some(rest.parse().map_err(|error| wrong(&error))?),
        };
        return Ok((Some((scheme, first.to_owned())), repo));
    }
    if host_like && !is_host(first) {
        return Err(format!(
            "{:?} is no host to push to: HOST/REPO or HOST/ is expected",
            shown_host(first)
        ));
    }
    let repo = text.parse::<RepoName>().map_err(|error| wrong(&error))?;
    Ok((None, Some(repo)))
}

/// The end of a tag.
pub(super) fn tag_end(text: &str) -> Result<String, String> {
    match format!("x{text}").parse::<Tag>() {
        Ok(_) if text.len() <= 64 => Ok(text.to_owned()),
        _ => Err(format!(
            "{text:?} cannot end a tag: up to 64 letters, digits and . _ - are expected"
        )),
    }
}

impl PushOptions {
    /// The ends of converted images' tags.
    pub fn suffixes(&self, errors: &mut ConfigErrors) -> Option<Suffixes> {
        let native = required(errors, "suffix", self.suffix.as_ref(), tag_end);
        let turbo = required(errors, "turbo-suffix", self.turbo_suffix.as_ref(), tag_end);
        if native.is_some() && native == turbo && native.as_deref() != Some("") {
            errors.add(
                "turbo-suffix",
                "is that of --suffix: each form needs its own",
            );
        }
        Some(Suffixes {
            native: native?,
            turbo: turbo.filter(|turbo| !turbo.is_empty()),
        })
    }

    /// What is made of an image that TurboOCI cannot carry.
    pub fn turbo_fallback(&self, errors: &mut ConfigErrors) -> Option<TurboFallback> {
        let fallback = self.turbo_fallback.as_ref();
        required(errors, "turbo-fallback", fallback, |text| match text {
            "native" => Ok(TurboFallback::Native),
            "original" => Ok(TurboFallback::Original),
            "error" => Ok(TurboFallback::Error),
            _ => Err(format!("{text:?} is not native, original or error")),
        })
    }

    /// Where finished images are pushed to, if anywhere.
    pub fn target(&self, registries: &Registries, errors: &mut ConfigErrors) -> Option<PushTarget> {
        let suffixes = self.suffixes(errors);
        let push = super::optional(errors, "push", self.push.as_ref(), crate::config::boolean);
        let place = super::optional(errors, "push-repo", self.push_repo.as_ref(), place);
        if push == Some(false) && self.push_repo.is_some() {
            errors.add("push", "is off, but --push-repo says where to: drop one");
        }
        let name = "push-overwrite-tags";
        let overwrite_tags = switch(errors, name, self.push_overwrite_tags.as_ref());
        if push != Some(true) && self.push_repo.is_none() {
            if self.push_user.is_some() {
                errors.add("push-user", "means nothing without --push-repo HOST/REPO");
            }
            if overwrite_tags {
                errors.add(name, "means nothing without --push or --push-repo");
            }
            return None;
        }
        let (host, repo) = place.unwrap_or_default();
        if host.is_none() && self.push_user.is_some() {
            errors.add(
                "push-user",
                "is for the HOST of --push-repo; --user is for the upstream itself",
            );
        }
        let upstream = match &host {
            Some((scheme, host)) => Some(registries.dial(
                (*scheme, host),
                self.push_user.as_ref().map(|user| ("push-user", user)),
                errors,
            )?),
            None => None,
        };
        Some(PushTarget {
            upstream,
            repo,
            suffixes: suffixes?,
            overwrite_tags,
        })
    }
}

/// Whether pushing was asked for at all.
impl PushOptions {
    /// Whether converted images are pushed.
    pub fn is_on(&self, errors: &mut ConfigErrors) -> bool {
        self.push_repo.is_some() || switch(errors, "push", self.push.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_to_push_to_is_a_repository_a_host_or_both() {
        let parsed = |text| {
            let (host, repo) = place(text).unwrap();
            (host, repo.map(|repo| repo.to_string()))
        };
        let repo = |text: &str| Some(text.to_owned());
        let host = |scheme, text: &str| Some((scheme, text.to_owned()));
        let https = Some(Scheme::Https);
        for (written, meant) in [
            ("team/obd", (None, repo("team/obd"))),
            ("my.repo", (None, repo("my.repo"))),
            ("r.io/team", (host(None, "r.io"), repo("team"))),
            ("localhost:5000/", (host(None, "localhost:5000"), None)),
            ("https://registry/", (host(https, "registry"), None)),
            ("https://registry", (host(https, "registry"), None)),
            ("https://r.io/a/b", (host(https, "r.io"), repo("a/b"))),
            ("http://r.io/", (host(Some(Scheme::Http), "r.io"), None)),
        ] {
            assert_eq!(parsed(written), meant, "{written}");
        }
        for bad in [
            "",
            "/",
            "r.io:5000",
            "Team",
            "r.io/Team",
            "a//b",
            "ftp://r.io/",
            "https://",
            "https:///",
        ] {
            assert!(place(bad).is_err(), "{bad}");
        }
    }
}
