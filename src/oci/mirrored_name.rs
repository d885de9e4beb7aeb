//! Repositories as users of a proxy write them: with or without a registry before them.

use std::str::FromStr;

use super::name::{InvalidName, RepoName};
use super::reference::{DOCKER_HUB, Scheme, index_host, is_host, shown_host};

/// A repository, of the proxy's default upstream or of a registry that is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MirroredName {
    /// TLS or plain HTTP, if the name says so.
    pub scheme: Option<Scheme>,
    /// The registry's host and, where it is written, port.
    pub host: Option<String>,
    /// The repository; Docker Hub's short names are completed where it is named.
    pub repo: RepoName,
}

impl FromStr for MirroredName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (scheme, text) = match Scheme::split(text) {
            (None, text) => (None, text.strip_prefix("docker://").unwrap_or(text)),
            written => written,
        };
        let (first, rest) = text.split_once('/').unwrap_or((text, ""));
        let is_host_like =
            scheme.is_some() || first == "localhost" || first.contains(['.', ':', '[']);
        let (host, repo) = if is_host_like && (scheme.is_some() || !rest.is_empty()) {
            if !is_host(first) {
                return Err(format!("{:?} is no registry host", shown_host(first)));
            }
            (Some(index_host(first).to_owned()), rest)
        } else {
            (None, text)
        };
        let repo: RepoName = repo
            .parse()
            .map_err(|error: InvalidName| error.to_string())?;
        let repo = match host.as_deref() {
            Some(DOCKER_HUB) => official(&repo),
            _ => repo,
        };
        Ok(Self { scheme, host, repo })
    }
}

/// Docker Hub's short names, completed.
#[must_use]
pub fn official(repo: &RepoName) -> RepoName {
    let completed = (!repo.as_str().contains('/')).then(|| format!("library/{repo}").parse());
    completed
        .and_then(Result::ok)
        .unwrap_or_else(|| repo.clone())
}
