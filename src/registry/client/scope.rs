//! Token scopes: `repository:NAME:ACTIONS` (distribution's `docs/spec/auth/scope.md`).

use std::collections::{BTreeMap, BTreeSet};

use http::Method;

use crate::oci::RepoName;

/// A set of scopes: resources, and the actions on each.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Scopes(BTreeMap<String, BTreeSet<String>>);

impl Scopes {
    pub(super) fn pull(repo: &RepoName) -> Self {
        Self::default().with(&format!("repository:{repo}"), &["pull"])
    }

    pub(super) fn push(repo: &RepoName) -> Self {
        Self::default().with(&format!("repository:{repo}"), &["pull", "push"])
    }

    pub(super) fn union(mut self, other: Self) -> Self {
        for (resource, actions) in other.0 {
            self.0.entry(resource).or_default().extend(actions);
        }
        self
    }

    fn with(mut self, resource: &str, actions: &[&str]) -> Self {
        self.0
            .entry(resource.to_owned())
            .or_default()
            .extend(actions.iter().map(|&action| action.to_owned()));
        self
    }

    /// The first repository: of several, one with the action `push`.
    pub(super) fn repo(&self) -> Option<&str> {
        let is_written = |actions: &BTreeSet<String>| actions.contains("push");
        let mut repos = self.0.iter().filter_map(|(resource, actions)| {
            let repo = resource.strip_prefix("repository:")?;
            Some((repo, is_written(actions)))
        });
        let first = repos.next()?;
        let written = std::iter::once(first)
            .chain(repos)
            .find(|(_, written)| *written);
        written.or(Some(first)).map(|(repo, _)| repo)
    }

    /// Parses the `scope` of a challenge: scopes separated by spaces.
    pub(super) fn parse(text: &str) -> Self {
        let mut scopes = Self::default();
        for scope in text.split_ascii_whitespace() {
            // The name may hold colons (a port), the actions do not.
            if let Some((resource, actions)) = scope.rsplit_once(':') {
                let actions: Vec<&str> = actions.split(',').filter(|a| !a.is_empty()).collect();
                scopes = scopes.with(resource, &actions);
            }
        }
        scopes
    }

    /// Each scope as a string, sorted.
    pub(super) fn to_strings(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(|(resource, actions)| {
            let actions: Vec<&str> = actions.iter().map(String::as_str).collect();
            format!("{resource}:{}", actions.join(","))
        })
    }

    /// The scopes of a request of the distribution API, by its path behind `/v2/`.
    pub(super) fn of_request(method: &Method, path: &str, query: &str) -> Self {
        let scopes = Self::default();
        if path == "_catalog" {
            return scopes.with("registry:catalog", &["*"]);
        }
        let Some((repo, kind)) = split(path) else {
            return scopes;
        };
        let repo = format!("repository:{repo}");
        let is_upload = kind.starts_with("blobs/uploads");
        let actions: &[&str] = match *method {
            Method::GET | Method::HEAD if !is_upload => &["pull"],
            Method::DELETE if !is_upload => &["delete"],
            _ => &["pull", "push"],
        };
        let mut scopes = scopes.with(&repo, actions);
        for (name, from) in url::form_urlencoded::parse(query.as_bytes()) {
            if is_upload && name == "from" && from.parse::<RepoName>().is_ok() {
                scopes = scopes.with(&format!("repository:{from}"), &["pull"]);
            }
        }
        scopes
    }
}

/// The scopes that a request of the distribution API requires, by its path behind `/v2/` and its
/// query: `repository:NAME:ACTIONS`. None for a path of another API.
#[must_use]
pub fn needed_scopes(method: &Method, path: &str, query: &str) -> Vec<String> {
    Scopes::of_request(method, path, query)
        .to_strings()
        .collect()
}

/// The repository and the rest of a path. A repository may have a component `blobs`, so the
/// rest is searched for from the end.
fn split(path: &str) -> Option<(&str, &str)> {
    let ends = [
        "/blobs/uploads",
        "/tags/list",
        "/manifests/",
        "/blobs/",
        "/referrers/",
    ];
    ends.iter()
        .filter_map(|end| path.rfind(end))
        .max()
        .map(|at| {
            // `NAME/blobs/uploads/ID` also has no other ending behind it.
            let (repo, kind) = path.split_at(at);
            (repo, kind.trim_start_matches('/'))
        })
        .filter(|(repo, _)| repo.parse::<RepoName>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(method: &Method, path: &str, query: &str) -> Vec<String> {
        Scopes::of_request(method, path, query)
            .to_strings()
            .collect()
    }

    #[test]
    fn the_scopes_of_a_request_follow_from_method_and_path() {
        let digest = "sha256:00";
        let blob = format!("a/b/blobs/{digest}");
        assert_eq!(of(&Method::GET, &blob, ""), ["repository:a/b:pull"]);
        assert_eq!(of(&Method::DELETE, &blob, ""), ["repository:a/b:delete"]);
        assert_eq!(
            of(&Method::GET, "a/tags/list", "n=1"),
            ["repository:a:pull"]
        );
        assert_eq!(
            of(&Method::PATCH, "a/blobs/uploads/some-id", "_state=x"),
            ["repository:a:pull,push"]
        );
        assert_eq!(
            of(&Method::POST, "a/blobs/uploads/", "mount=x&from=c%2Fd"),
            ["repository:a:pull,push", "repository:c/d:pull"]
        );
        assert_eq!(
            of(&Method::GET, "blobs/manifests/latest", ""),
            ["repository:blobs:pull"]
        );
        assert_eq!(of(&Method::GET, "_catalog", ""), ["registry:catalog:*"]);
        assert!(of(&Method::GET, "", "").is_empty());
        assert!(of(&Method::GET, "A/manifests/x", "").is_empty());
    }

    #[test]
    fn the_scopes_of_a_challenge_are_parsed_and_merged() {
        let parsed = Scopes::parse("repository:host:5000/a:pull repository:b:push,pull bad");
        let union = parsed.union(Scopes::push(&"b".parse().unwrap()));
        let texts: Vec<_> = union.to_strings().collect();
        assert_eq!(
            texts,
            ["repository:b:pull,push", "repository:host:5000/a:pull"]
        );
    }
}
