//! From a request's path to what it is about. Pure.
//!
//! Grammar: OCI distribution-spec § Endpoints. What is not understood is still passed through
//! with a client's own credentials: the upstream may know more than we do.

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
    /// `/v2/<name>/referrers/<digest>`.
    Referrers {
        /// The repository.
        repo: RepoName,
        /// The manifest that the referrers are attached to.
        subject: Digest,
    },
    /// Another endpoint of the distribution API, with names as they have to be.
    Endpoint(Endpoint),
    /// Anything else below `/v2/`.
    Other(Kind),
    /// Nothing of a registry's.
    Outside,
}

/// Endpoints that are only passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// `/v2/<name>/manifests/<digest>`, the digest of an algorithm that is not known here.
    Manifest,
    /// `/v2/<name>/blobs/<digest>`, the digest of an algorithm that is not known here.
    Blob,
    /// `/v2/<name>/blobs/uploads/`: where uploads begin.
    Uploads,
    /// An upload that was begun: mostly `/v2/<name>/blobs/uploads/<reference>`, and
    /// `/v2/<name>/blobs/upload/<reference>` at ghcr.io.
    Upload,
    /// `/v2/<name>/tags/list`.
    Tags,
    /// `/v2/<name>/referrers/<digest>`, the digest of an algorithm that is not known here.
    Referrers,
    /// `/v2/_catalog`, which is Docker's.
    Catalog,
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
    /// A token for upstreams that paths choose, which clients ask for at `/v2/_token`.
    Token,
    /// Anything else below `/v2/`.
    Other,
    /// Outside of `/v2/`.
    Outside,
}

impl Kind {
    /// All of them, in their order.
    pub const ALL: [Self; 10] = [
        Self::Ping,
        Self::Manifest,
        Self::Blob,
        Self::Upload,
        Self::Tags,
        Self::Catalog,
        Self::Referrers,
        Self::Token,
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
            Self::Token => "token",
            Self::Other => "other",
            Self::Outside => "outside",
        }
    }
}

impl Endpoint {
    fn kind(self) -> Kind {
        match self {
            Self::Manifest => Kind::Manifest,
            Self::Blob => Kind::Blob,
            Self::Uploads | Self::Upload => Kind::Upload,
            Self::Tags => Kind::Tags,
            Self::Referrers => Kind::Referrers,
            Self::Catalog => Kind::Catalog,
        }
    }
}

impl Route {
    /// What `path` (without the query; encoded or not) is about.
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
        let repo = |name: &[&str]| name.join("/").parse::<RepoName>();
        let endpoint = |name: &[&str], is_good: bool, endpoint: Endpoint| {
            if is_good && repo(name).is_ok() {
                Self::Endpoint(endpoint)
            } else {
                Self::Other(endpoint.kind())
            }
        };
        match words.as_slice() {
            [""] => Self::Ping,
            ["_catalog"] => Self::Endpoint(Endpoint::Catalog),
            [name @ .., "tags", "list"] => endpoint(name, true, Endpoint::Tags),
            [name @ .., "referrers", digest] => match (repo(name), digest.parse()) {
                (Ok(repo), Ok(subject)) => Self::Referrers { repo, subject },
                _ => endpoint(name, is_digest(digest), Endpoint::Referrers),
            },
            [name @ .., "manifests", reference] => match (repo(name), reference.parse()) {
                (Ok(repo), Ok(selector)) => Self::Manifest { repo, selector },
                _ => endpoint(name, is_digest(reference), Endpoint::Manifest),
            },
            [name @ .., "blobs", "uploads"] | [name @ .., "blobs", "uploads", ""] => {
                endpoint(name, true, Endpoint::Uploads)
            }
            [name @ .., "blobs", "uploads" | "upload", reference] => {
                endpoint(name, !reference.is_empty(), Endpoint::Upload)
            }
            [name @ .., "blobs", digest] => match (repo(name), digest.parse()) {
                (Ok(repo), Ok(digest)) => Self::Blob { repo, digest },
                _ => endpoint(name, is_digest(digest), Endpoint::Blob),
            },
            _ => Self::Other(Kind::Other),
        }
    }

    /// The path as everyone reads it, where all of it is understood.
    #[must_use]
    pub fn path(&self) -> Option<String> {
        match self {
            Self::Manifest { repo, selector } => {
                let reference = match selector {
                    Selector::Tag(tag) => tag.as_str(),
                    Selector::Digest(digest) => digest.as_str(),
                };
                Some(format!("/v2/{repo}/manifests/{reference}"))
            }
            Self::Blob { repo, digest } => Some(format!("/v2/{repo}/blobs/{digest}")),
            Self::Referrers { repo, subject } => Some(format!("/v2/{repo}/referrers/{subject}")),
            Self::Ping | Self::Endpoint(_) | Self::Other(_) | Self::Outside => None,
        }
    }

    /// The methods that the distribution API has for it; none where it is nothing of the API.
    #[must_use]
    pub fn methods(&self) -> &'static [&'static str] {
        match self {
            Self::Manifest { .. } | Self::Endpoint(Endpoint::Manifest) => {
                &["GET", "HEAD", "PUT", "DELETE"]
            }
            Self::Blob { .. } | Self::Endpoint(Endpoint::Blob) => &["GET", "HEAD", "DELETE"],
            Self::Endpoint(Endpoint::Uploads) => &["POST"],
            Self::Endpoint(Endpoint::Upload) => &["GET", "HEAD", "PATCH", "PUT", "DELETE"],
            Self::Ping | Self::Referrers { .. } | Self::Endpoint(_) => &["GET", "HEAD"],
            Self::Other(_) | Self::Outside => &[],
        }
    }

    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Ping => Kind::Ping,
            Self::Manifest { .. } => Kind::Manifest,
            Self::Blob { .. } => Kind::Blob,
            Self::Referrers { .. } => Kind::Referrers,
            Self::Endpoint(endpoint) => endpoint.kind(),
            Self::Other(kind) => *kind,
            Self::Outside => Kind::Outside,
        }
    }
}

/// Whether this is a digest of any algorithm (OCI image-spec `descriptor.md` § Digests).
fn is_digest(text: &str) -> bool {
    let Some((algorithm, encoded)) = text.split_once(':') else {
        return false;
    };
    let is_component = |component: &str| {
        let is_good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        !component.is_empty() && component.bytes().all(is_good)
    };
    let is_encoded = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'=' | b'_' | b'-');
    algorithm.split(['+', '.', '_', '-']).all(is_component)
        && !encoded.is_empty()
        && encoded.bytes().all(is_encoded)
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
    fn the_last_api_keyword_decides_the_route() {
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
            ("/v2/a/blobs/upload/1.5a-6f", Kind::Upload),
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
    fn the_api_has_methods_for_its_own_endpoints_only() {
        let digest = Digest::of(b"");
        for (path, methods) in [
            ("/v2/".to_owned(), "GET HEAD"),
            ("/v2/_catalog".to_owned(), "GET HEAD"),
            ("/v2/a/b/tags/list".to_owned(), "GET HEAD"),
            (format!("/v2/a/referrers/{digest}"), "GET HEAD"),
            ("/v2/a/manifests/v1".to_owned(), "GET HEAD PUT DELETE"),
            (format!("/v2/a/manifests/{digest}"), "GET HEAD PUT DELETE"),
            (
                "/v2/a/manifests/blake3+b32:a_b".to_owned(),
                "GET HEAD PUT DELETE",
            ),
            (format!("/v2/a/blobs/{digest}"), "GET HEAD DELETE"),
            ("/v2/a/blobs/sha384:00".to_owned(), "GET HEAD DELETE"),
            ("/v2/a/blobs/uploads/".to_owned(), "POST"),
            ("/v2/a/blobs/uploads".to_owned(), "POST"),
            (
                "/v2/a/blobs/uploads/5a".to_owned(),
                "GET HEAD PATCH PUT DELETE",
            ),
            (
                "/v2/a/blobs/upload/1.5a".to_owned(),
                "GET HEAD PATCH PUT DELETE",
            ),
            ("/v2/a/blobs/upload/".to_owned(), ""),
            ("/v2/A/tags/list".to_owned(), ""),
            ("/v2/tags/list".to_owned(), ""),
            ("/v2/a//tags/list".to_owned(), ""),
            ("/v2/a/tags/list/".to_owned(), ""),
            ("/v2/a/referrers/x".to_owned(), ""),
            ("/v2/a/referrers/+:00".to_owned(), ""),
            ("/v2/a/manifests/.bad".to_owned(), ""),
            ("/v2/a/manifests/sha256:".to_owned(), ""),
            ("/v2/a/blobs/x".to_owned(), ""),
            ("/v2/a/_oci/ext".to_owned(), ""),
            ("/v2/_oci/ext/discover".to_owned(), ""),
            ("/v2/token".to_owned(), ""),
            ("/metrics".to_owned(), ""),
        ] {
            let route = Route::parse(&path);
            assert_eq!(route.methods().join(" "), methods, "{path}");
        }
    }

    #[test]
    fn a_parsed_route_has_one_path() {
        let digest = Digest::of(b"");
        let encoded = digest.as_str().replace(':', "%3a");
        let path = |path: &str| Route::parse(path).path();
        assert_eq!(
            path(&format!("/v2/a/b/manifests/{encoded}")),
            Some(format!("/v2/a/b/manifests/{digest}"))
        );
        assert_eq!(
            path(&format!("/v2/%61/blobs/{encoded}")),
            Some(format!("/v2/a/blobs/{digest}"))
        );
        assert_eq!(path("/v2/a/tags/list"), None);
    }

    #[test]
    fn kinds_are_listed_in_their_order() {
        for (place, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, place);
        }
    }

    #[test]
    fn a_path_with_dot_dot_is_outside_of_the_api() {
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
        fn a_route_built_from_parts_parses_to_them(
            repo in "[a-z0-9]{1,8}(/(manifests|blobs|tags|uploads|[a-z0-9]{1,5})){0,4}",
            tag in "[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}",
        ) {
            let parsed = Route::parse(&format!("/v2/{repo}/manifests/{tag}"));
            prop_assert_eq!(parsed, manifest(&repo, &tag));
        }
    }
}
