//! From a request's path to what it is about. Pure.
//!
//! Grammar: OCI distribution-spec § Endpoints. What is not understood is still passed through:
//! the upstream may know more than we do.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use crate::oci::{Digest, RepoName, Selector};

/// What a request is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// `/v2/`: whether this is a registry, and lets the client in.
    Ping,
    /// `/v2/<name>/manifests/<reference>`.
    Manifest {
        /// The repository.
        repo: RepoName,
        /// The tag or digest.
        selector: Selector,
    },
    /// `/v2/<name>/blobs/<digest>`.
    Blob {
        /// The repository.
        repo: RepoName,
        /// The digest.
        digest: Digest,
    },
    /// Anything else below `/v2/`.
    Other(Kind),
    /// Nothing of a registry's.
    Outside,
}

/// The kinds of routes, as logs and metrics name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `/v2/`.
    Ping,
    /// A manifest.
    Manifest,
    /// A blob.
    Blob,
    /// An upload.
    Upload,
    /// The tags of a repository.
    Tags,
    /// The repositories.
    Catalog,
    /// The referrers of a manifest.
    Referrers,
    /// Anything else below `/v2/`.
    Other,
    /// Outside of `/v2/`.
    Outside,
}

impl Kind {
    /// All of them, in their order.
    pub const ALL: [Self; 9] = [
        Self::Ping,
        Self::Manifest,
        Self::Blob,
        Self::Upload,
        Self::Tags,
        Self::Catalog,
        Self::Referrers,
        Self::Other,
        Self::Outside,
    ];

    /// Its name in logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ping => "ping",
            Self::Manifest => "manifest",
            Self::Blob => "blob",
            Self::Upload => "upload",
            Self::Tags => "tags",
            Self::Catalog => "catalog",
            Self::Referrers => "referrers",
            Self::Other => "other",
            Self::Outside => "outside",
        }
    }
}

impl Route {
    /// What `path` (as it stands in the request, without the query) is about.
    #[must_use]
    pub fn parse(path: &str) -> Self {
        let Some(path) = decode(path) else {
            return Self::Outside;
        };
        let Some(below) = path.strip_prefix("/v2") else {
            return Self::Outside;
        };
        let below = match below.strip_prefix('/') {
            Some(below) => below,
            None if below.is_empty() => return Self::Ping,
            None => return Self::Outside,
        };
        // An upstream may resolve these, and so be led out of /v2/ with our credentials.
        if below.split('/').any(|word| matches!(word, "." | "..")) {
            return Self::Outside;
        }
        let words: Vec<&str> = below.split('/').collect();
        match words.as_slice() {
            [""] => Self::Ping,
            ["_catalog"] => Self::Other(Kind::Catalog),
            [.., "tags", "list"] => Self::Other(Kind::Tags),
            [.., "referrers", _] => Self::Other(Kind::Referrers),
            [name @ .., "manifests", reference] => {
                match (name.join("/").parse(), reference.parse()) {
                    (Ok(repo), Ok(selector)) => Self::Manifest { repo, selector },
                    _ => Self::Other(Kind::Manifest),
                }
            }
            [.., "blobs", "uploads"] | [.., "blobs", "uploads", _] => Self::Other(Kind::Upload),
            [name @ .., "blobs", digest] => match (name.join("/").parse(), digest.parse()) {
                (Ok(repo), Ok(digest)) => Self::Blob { repo, digest },
                _ => Self::Other(Kind::Blob),
            },
            _ => Self::Other(Kind::Other),
        }
    }

    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Ping => Kind::Ping,
            Self::Manifest { .. } => Kind::Manifest,
            Self::Blob { .. } => Kind::Blob,
            Self::Other(kind) => *kind,
            Self::Outside => Kind::Outside,
        }
    }
}

fn decode(path: &str) -> Option<Cow<'_, str>> {
    if path.contains('%') {
        percent_decode_str(path).decode_utf8().ok()
    } else {
        Some(Cow::Borrowed(path))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn manifest(repo: &str, reference: &str) -> Route {
        Route::Manifest {
            repo: repo.parse().unwrap(),
            selector: reference.parse().unwrap(),
        }
    }

    #[test]
    fn a_manifest_is_named_by_tag_or_digest() {
        let digest = Digest::of(b"");
        assert_eq!(
            Route::parse("/v2/library/redis/manifests/7_obd"),
            manifest("library/redis", "7_obd")
        );
        assert_eq!(
            Route::parse(&format!("/v2/a/manifests/{digest}")),
            manifest("a", digest.as_str())
        );
        let encoded = digest.as_str().replace(':', "%3A");
        assert_eq!(
            Route::parse(&format!("/v2/a/manifests/{encoded}")),
            manifest("a", digest.as_str())
        );
    }

    #[test]
    fn the_rightmost_words_decide() {
        assert_eq!(
            Route::parse("/v2/manifests/blobs/manifests/tags/manifests/x"),
            manifest("manifests/blobs/manifests/tags", "x")
        );
        let digest = Digest::of(b"");
        assert_eq!(
            Route::parse(&format!("/v2/a/manifests/b/blobs/{digest}")),
            Route::Blob {
                repo: "a/manifests/b".parse().unwrap(),
                digest
            }
        );
    }

    #[test]
    fn every_endpoint_has_its_kind() {
        for (path, kind) in [
            ("/v2", Kind::Ping),
            ("/v2/", Kind::Ping),
            ("/v2/_catalog", Kind::Catalog),
            ("/v2/a/b/tags/list", Kind::Tags),
            ("/v2/a/referrers/sha256:00", Kind::Referrers),
            ("/v2/a/blobs/uploads/", Kind::Upload),
            ("/v2/a/blobs/uploads", Kind::Upload),
            ("/v2/a/blobs/uploads/5a-6f", Kind::Upload),
            ("/v2/a/blobs/sha256:00", Kind::Blob),
            ("/v2/A/manifests/x", Kind::Manifest),
            ("/v2/a/manifests/sha384:00", Kind::Manifest),
            ("/v2/a/_oci/ext", Kind::Other),
            ("/v2x/", Kind::Outside),
            ("/", Kind::Outside),
            ("/v1/search", Kind::Outside),
            ("", Kind::Outside),
        ] {
            assert_eq!(Route::parse(path).kind(), kind, "{path}");
        }
    }

    #[test]
    fn kinds_are_listed_in_their_order() {
        for (place, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, place);
        }
    }

    #[test]
    fn a_path_that_climbs_is_outside() {
        for path in [
            "/v2/../admin",
            "/v2/a/%2e%2e/%2E%2E/admin",
            "/v2/./a/manifests/x",
            "/v2/a/manifests/..",
            "/v2/%ff",
        ] {
            assert_eq!(Route::parse(path), Route::Outside, "{path}");
        }
    }

    proptest! {
        #[test]
        fn any_path_has_a_route(path in "(/v2)?(/[a-z.%0-9A-F:]{0,6}|/manifests|/blobs|/uploads|/){0,6}") {
            let route = Route::parse(&path);
            prop_assert_eq!(route == Route::Outside, route.kind() == Kind::Outside);
        }

        #[test]
        fn what_was_built_from_parts_parses_to_them(
            repo in "[a-z0-9]{1,8}(/(manifests|blobs|tags|uploads|[a-z0-9]{1,5})){0,4}",
            tag in "[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}",
        ) {
            let parsed = Route::parse(&format!("/v2/{repo}/manifests/{tag}"));
            prop_assert_eq!(parsed, manifest(&repo, &tag));
        }
    }
}
