//! Names of whole images, as users write them.
//!
//! `HOST/REPO:TAG@DIGEST` with Docker's short forms and `http://` or `https://` before the host,
//! `oci:DIR:TAG` and `oci-archive:FILE:TAG`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use super::digest::{Digest, InvalidDigest};
use super::name::{InvalidName, LAYOUT_REPO, RepoName, Selector, Tag};

/// The name of Docker Hub in references.
pub const DOCKER_HUB: &str = "docker.io";
/// The host that answers for Docker Hub.
pub const DOCKER_HUB_API: &str = "registry-1.docker.io";

/// TLS or plain HTTP, as written before a registry's host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// `http://`: in the clear.
    Http,
    /// `https://`: over TLS.
    Https,
}

impl Scheme {
    /// The scheme that a text begins with, if it does, and the rest.
    #[must_use]
    pub fn split(text: &str) -> (Option<Self>, &str) {
        match text.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => {
                (Some(Self::Https), rest)
            }
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (Some(Self::Http), rest),
            _ => (None, text),
        }
    }

    /// As addresses have it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// An image in a registry, a layout directory or an archive.
///
/// ```
/// use overlaybd_proxy::oci::ImageReference;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let ImageReference::Registry(image) = "redis:7".parse()? else {
///     return Err("no image in a registry".into());
/// };
/// assert_eq!(image.host, "docker.io");
/// assert_eq!(image.repo.to_string(), "library/redis");
/// assert_eq!(image.tag.map(|tag| tag.to_string()), Some("7".to_owned()));
///
/// assert!(matches!("oci:images:7".parse()?, ImageReference::Layout(_)));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageReference {
    /// In a registry.
    Registry(RegistryReference),
    /// In an OCI image layout.
    Layout(LayoutReference),
}

/// An image in a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryReference {
    /// TLS or plain HTTP, if the reference says so.
    pub scheme: Option<Scheme>,
    /// Host and, where it is written, port; `docker.io` for Docker Hub.
    pub host: String,
    /// The repository, `library/` added for Docker Hub's official images.
    pub repo: RepoName,
    /// The tag, where one is written.
    pub tag: Option<Tag>,
    /// The digest, where one is written.
    pub digest: Option<Digest>,
}

/// An image in an OCI image layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayoutReference {
    /// The directory, or the tar file.
    pub path: PathBuf,
    /// Whether `path` is a tar file.
    pub archive: bool,
    /// The repository; [`LAYOUT_REPO`] where only a tag is written.
    pub repo: RepoName,
    /// The tag or digest; `latest` where none is written.
    pub selector: Selector,
}

/// Why a text names no image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidReference {
    /// The part before the first slash is no host.
    #[error("{0:?} is not a registry host: HOST, HOST:PORT or [IPV6]:PORT is expected")]
    Host(String),
    /// The repository or the tag.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// The part behind `@`.
    #[error(transparent)]
    Digest(#[from] InvalidDigest),
    /// `oci:` without a path.
    #[error("{0:?} names no path: oci:DIR:TAG or oci-archive:FILE:TAG is expected")]
    NoPath(String),
}

impl ImageReference {
    /// The repository's name.
    #[must_use]
    pub fn repo(&self) -> &RepoName {
        match self {
            Self::Registry(reference) => &reference.repo,
            Self::Layout(reference) => &reference.repo,
        }
    }

    /// What to ask for in the repository: the digest before the tag, `latest` without either.
    #[must_use]
    pub fn selector(&self) -> Selector {
        match self {
            Self::Registry(reference) => reference.selector(),
            Self::Layout(reference) => reference.selector.clone(),
        }
    }
}

impl RegistryReference {
    /// What to ask for in the repository: the digest before the tag, `latest` without either.
    #[must_use]
    pub fn selector(&self) -> Selector {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => Selector::Digest(digest.clone()),
            (None, Some(tag)) => Selector::Tag(tag.clone()),
            (None, None) => Selector::Tag(latest()),
        }
    }
}

/// The host that answers for this name: Docker Hub's names lead to
/// `registry-1.docker.io`, others to themselves.
#[must_use]
pub fn api_host(host: &str) -> &str {
    if is_docker_hub(host) {
        DOCKER_HUB_API
    } else {
        host
    }
}

/// The `host` of the tables `overlaybd_layers` and `overlaybd_manifests`.
///
/// The reference converter (`accelerated-container-image`, `cmd/convertor/builder`) stores the
/// hostname of containerd's `reference.Parse`, which is what stands before the first slash,
/// port included; Docker Hub's images are written `docker.io/…` there. So every name of
/// Docker Hub becomes `docker.io`, and others stay as they are written.
#[must_use]
pub fn index_host(host: &str) -> &str {
    if is_docker_hub(host) {
        DOCKER_HUB
    } else {
        host
    }
}

/// An address as it may be shown: without what may be credentials, which do not belong there.
///
/// Of a text that is no address of a registry or a layout nothing is shown: it may be a password
/// with anything around it.
#[must_use]
pub fn shown_address(text: &str) -> String {
    const HIDDEN: &str = "***";
    if text.starts_with("oci:") || text.starts_with("oci-archive:") {
        return text.to_owned();
    }
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) => (Some(scheme), rest),
        None => (None, text),
    };
    let is_letter = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
    if scheme.is_some_and(|scheme| !scheme.chars().all(is_letter)) {
        return HIDDEN.to_owned();
    }
    let scheme = scheme.map_or_else(String::new, |scheme| format!("{scheme}://"));
    let (credentials, place) = match rest.rsplit_once('@') {
        Some((_, place)) => ("***@", place),
        None => ("", rest),
    };
    let host = place.split_once('/').map_or(place, |(host, _)| host);
    if is_host(host) {
        format!("{scheme}{credentials}{place}")
    } else {
        format!("{scheme}{HIDDEN}")
    }
}

/// An invalid host as it may be shown: it may contain a password where a port is expected.
#[must_use]
pub fn shown_host(text: &str) -> String {
    let shown = match text.split_once(':') {
        Some((name, port))
            if !text.starts_with('[') && !port.bytes().all(|byte| byte.is_ascii_digit()) =>
        {
            format!("{name}:***")
        }
        _ => text.to_owned(),
    };
    shown.chars().take(300).collect()
}

/// Whether this is one of Docker Hub's names.
#[must_use]
pub fn is_docker_hub(host: &str) -> bool {
    matches!(
        host,
        "docker.io" | "index.docker.io" | "registry-1.docker.io" | "registry.hub.docker.com"
    )
}

/// Whether this is `HOST`, `HOST:PORT`, `[IPV6]` or `[IPV6]:PORT`.
#[must_use]
pub fn is_host(text: &str) -> bool {
    let (name, port) = if let Some(rest) = text.strip_prefix('[') {
        let Some((address, behind)) = rest.split_once(']') else {
            return false;
        };
        if address.parse::<std::net::Ipv6Addr>().is_err() {
            return false;
        }
        match behind.strip_prefix(':') {
            Some(port) => (None, Some(port)),
            None if behind.is_empty() => (None, None),
            None => return false,
        }
    } else {
        match text.split_once(':') {
            Some((name, port)) => (Some(name), Some(port)),
            None => (Some(text), None),
        }
    };
    let good_name = name.is_none_or(|name| {
        name.len() <= 253
            && name.split('.').all(|label| {
                !label.is_empty()
                    && !label.starts_with('-')
                    && !label.ends_with('-')
                    && label
                        .bytes()
                        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
            })
    });
    let good_port = port.is_none_or(|port| {
        port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port != 0)
    });
    good_name && good_port
}

fn latest() -> Tag {
    Tag::default_tag()
}

impl FromStr for ImageReference {
    type Err = InvalidReference;

    fn from_str(text: &str) -> Result<Self, InvalidReference> {
        if let Some(rest) = text.strip_prefix("oci-archive:") {
            layout(text, rest, true).map(Self::Layout)
        } else if let Some(rest) = text.strip_prefix("oci:") {
            layout(text, rest, false).map(Self::Layout)
        } else {
            let (scheme, text) = Scheme::split(text);
            let text = match scheme {
                None => text.strip_prefix("docker://").unwrap_or(text),
                Some(_) => text,
            };
            registry(text, scheme).map(Self::Registry)
        }
    }
}

fn layout(whole: &str, rest: &str, archive: bool) -> Result<LayoutReference, InvalidReference> {
    let (path, name) = match rest.split_once(':') {
        Some((path, name)) => (path, Some(name)),
        None => match rest.split_once('@') {
            Some((path, _)) => (path, Some(&rest[path.len()..])),
            None => (rest, None),
        },
    };
    // `DIR@sha256:…`: the first colon is the digest's own.
    let (path, name) = match path.rsplit_once("@sha256").or(path.rsplit_once("@sha512")) {
        Some((path, "")) => (path, Some(&rest[path.len()..])),
        _ => (path, name),
    };
    if path.is_empty() {
        return Err(InvalidReference::NoPath(whole.to_owned()));
    }
    let (repo, selector) = match name.filter(|name| !name.is_empty()) {
        None => (RepoName::layout(), Selector::Tag(latest())),
        Some(name) => {
            if let Some((repo, digest)) = name.split_once('@') {
                let repo = match repo {
                    "" => RepoName::layout(),
                    repo => repo.parse()?,
                };
                (repo, Selector::Digest(digest.parse()?))
            } else if let Some((repo, tag)) = name.rsplit_once(':') {
                (repo.parse()?, Selector::Tag(tag.parse()?))
            } else {
                (RepoName::layout(), Selector::Tag(name.parse()?))
            }
        }
    };
    Ok(LayoutReference {
        path: PathBuf::from(path),
        archive,
        repo,
        selector,
    })
}

/// An image in a registry, of which the scheme was read.
fn registry(text: &str, scheme: Option<Scheme>) -> Result<RegistryReference, InvalidReference> {
    let (name, digest) = match text.split_once('@') {
        Some((name, digest)) => (name, Some(digest.parse::<Digest>()?)),
        None => (text, None),
    };
    // Docker's rule: a first word is a host if it could be no repository of Docker Hub.
    let (host, path) = match name.split_once('/') {
        Some((first, rest))
            if scheme.is_some() || first.contains(['.', ':']) || first == "localhost" =>
        {
            (first, rest)
        }
        None if scheme.is_some() => (name, ""),
        _ => (DOCKER_HUB, name),
    };
    if !is_host(host) {
        return Err(InvalidReference::Host(shown_host(host)));
    }
    let (path, tag) = match path.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => (path, Some(tag.parse::<Tag>()?)),
        _ => (path, None),
    };
    let host = index_host(&host.to_ascii_lowercase()).to_owned();
    let repo = if host == DOCKER_HUB && !path.contains('/') {
        format!("library/{path}").parse()?
    } else {
        path.parse()?
    };
    Ok(RegistryReference {
        scheme,
        host,
        repo,
        tag,
        digest,
    })
}

impl FromStr for RegistryReference {
    type Err = InvalidReference;

    fn from_str(text: &str) -> Result<Self, InvalidReference> {
        registry(text, None)
    }
}

impl fmt::Display for RegistryReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.repo)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl fmt::Display for LayoutReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.archive { "oci-archive" } else { "oci" };
        write!(f, "{scheme}:{}", self.path.display())?;
        match &self.selector {
            Selector::Tag(tag) if self.repo.as_str() == LAYOUT_REPO => write!(f, ":{tag}"),
            Selector::Tag(tag) => write!(f, ":{}:{tag}", self.repo),
            Selector::Digest(digest) if self.repo.as_str() == LAYOUT_REPO => {
                write!(f, "@{digest}")
            }
            Selector::Digest(digest) => write!(f, ":{}@{digest}", self.repo),
        }
    }
}

impl fmt::Display for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registry(reference) => reference.fmt(f),
            Self::Layout(reference) => reference.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> String {
        text.parse::<ImageReference>().unwrap().to_string()
    }

    #[test]
    fn docker_hubs_short_names_are_completed() {
        for (written, meant) in [
            ("redis", "docker.io/library/redis"),
            ("redis:7", "docker.io/library/redis:7"),
            ("docker.io/redis", "docker.io/library/redis"),
            (
                "index.docker.io/library/redis:7",
                "docker.io/library/redis:7",
            ),
            ("me/tool", "docker.io/me/tool"),
            ("docker://me/tool:1", "docker.io/me/tool:1"),
        ] {
            assert_eq!(parsed(written), meant);
        }
    }

    #[test]
    fn hosts_keep_their_port() {
        for text in [
            "localhost/x",
            "localhost:5000/x:1",
            "[::1]:5000/x/y:1",
            "127.0.0.1:5000/x",
            "ghcr.io/a/b",
        ] {
            assert_eq!(parsed(text), text);
        }
    }

    #[test]
    fn a_scheme_before_the_host_is_kept_and_is_no_part_of_the_name() {
        for (written, scheme) in [
            ("localhost:5000/x:1", None),
            ("docker://localhost:5000/x:1", None),
            ("http://localhost:5000/x:1", Some(Scheme::Http)),
            ("HTTPS://localhost:5000/x:1", Some(Scheme::Https)),
        ] {
            let ImageReference::Registry(reference) = written.parse().unwrap() else {
                panic!("{written}");
            };
            assert_eq!(reference.scheme, scheme, "{written}");
            assert_eq!(reference.to_string(), "localhost:5000/x:1");
        }
        let image: ImageReference = "https://registry/x".parse().unwrap();
        assert_eq!(image.to_string(), "registry/x");
        for bad in [
            "ftp://r.io/x",
            "https://",
            "https://redis",
            "https://docker.io/",
            "https://docker://r.io/x",
        ] {
            assert!(bad.parse::<ImageReference>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_address_is_shown_without_what_may_be_credentials() {
        for (text, shown) in [
            ("https://r.io:5000/", "https://r.io:5000/"),
            ("localhost:5000", "localhost:5000"),
            ("ftp://r.io", "ftp://r.io"),
            ("oci:/a@b:c", "oci:/a@b:c"),
            ("https://me:secret@r.io/v2", "https://***@r.io/v2"),
            ("me:secret@r.io", "***@r.io"),
            ("https://me:sec/ret@r.io", "https://***@r.io"),
            ("https://me:secret", "https://***"),
            ("me:secret@https://r.io", "***"),
            ("r.io@me:secret", "***"),
        ] {
            assert_eq!(shown_address(text), shown);
        }
        let named = |text: &str| text.parse::<ImageReference>().unwrap_err().to_string();
        for text in [
            "https://me:secret/x",
            "me:secret/x",
            "docker://me:secret/x:1",
        ] {
            assert!(!named(text).contains("secret"), "{}", named(text));
        }
        assert!(named("r.io:99999/x").contains("\"r.io:99999\""));
    }

    #[test]
    fn a_digest_wins_over_a_tag() {
        let digest = Digest::of(b"");
        let reference: ImageReference = format!("r.io/x:1@{digest}").parse().unwrap();
        assert_eq!(reference.selector(), Selector::Digest(digest));
        let reference: ImageReference = "r.io/x".parse().unwrap();
        assert_eq!(reference.selector().to_string(), "latest");
    }

    #[test]
    fn layouts_are_named_by_path_and_tag() {
        let digest = Digest::of(b"");
        let by_digest = format!("oci:dir@{digest}");
        let named = format!("oci:dir:demo@{digest}");
        for (written, meant) in [
            ("oci:dir", "oci:dir:latest"),
            ("oci:/a/b:1", "oci:/a/b:1"),
            ("oci:dir:demo:1", "oci:dir:demo:1"),
            ("oci-archive:x.tar:1", "oci-archive:x.tar:1"),
            (by_digest.as_str(), by_digest.as_str()),
            (named.as_str(), named.as_str()),
        ] {
            assert_eq!(parsed(written), meant);
        }
    }

    #[test]
    fn an_invalid_reference_is_an_error() {
        for bad in [
            "",
            "/x",
            "a b/c",
            "r.io/",
            "r.io/X",
            "r.io:0/x",
            "r.io:99999/x",
            "[::1/x",
            "[zz]/x",
            "r.io/x:",
            "r.io/x@sha256:00",
            "Foo/bar",
            "oci:",
            "oci::x",
            "r.io/../x",
            "x@",
        ] {
            let read = bad.parse::<ImageReference>();
            assert!(read.is_err(), "{bad}: {read:?}");
        }
    }

    #[test]
    fn all_names_of_docker_hub_are_one_host_in_the_index() {
        assert_eq!(index_host("registry-1.docker.io"), "docker.io");
        assert_eq!(index_host("localhost:5000"), "localhost:5000");
        assert_eq!(api_host("docker.io"), "registry-1.docker.io");
    }
}
