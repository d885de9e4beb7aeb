//! Names of content: repository, tag, selector.
//! Grammar: OCI distribution-spec § Pulling manifests.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::digest::Digest;

/// The repository that a layout's plain tags are listed under.
pub const LAYOUT_REPO: &str = "layout";

/// A repository's name, such as `library/redis`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RepoName(Box<str>);

/// A tag, such as `7_obd`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Tag(Box<str>);

/// How one manifest of a repository is named: the distribution-spec's `<reference>`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Selector {
    /// By a name that may move.
    Tag(Tag),
    /// By content.
    Digest(Digest),
}

/// Why a text is not a valid name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// No repository name.
    #[error(
        "{0:?} is not a repository name: lower-case letters, digits and . _ - between slashes are expected"
    )]
    Repo(String),
    /// No tag.
    #[error(
        "{0:?} is not a tag: up to 128 letters, digits and . _ - are expected, the first no . or -"
    )]
    Tag(String),
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_path_component(text: &str) -> bool {
    let is_alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let mut rest = text;
    loop {
        let word = rest.find(|c| !is_alphanumeric(c)).unwrap_or(rest.len());
        if word == 0 {
            return false;
        }
        rest = &rest[word..];
        if rest.is_empty() {
            return true;
        }
        let separator = rest.find(is_alphanumeric).unwrap_or(rest.len());
        let known = matches!(&rest[..separator], "." | "_" | "__")
            || rest[..separator].bytes().all(|b| b == b'-');
        if !known {
            return false;
        }
        rest = &rest[separator..];
    }
}

impl RepoName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl RepoName {
    /// The repository that a layout's plain tags are listed under.
    #[must_use]
    pub fn layout() -> Self {
        Self(LAYOUT_REPO.into())
    }
}

impl FromStr for RepoName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        if text.len() <= 255 && text.split('/').all(is_path_component) {
            Ok(Self(text.into()))
        } else {
            Err(InvalidName::Repo(text.chars().take(300).collect()))
        }
    }
}

impl Tag {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Tag {
    /// `latest`, the default tag.
    #[must_use]
    pub fn default_tag() -> Self {
        Self("latest".into())
    }
}

impl FromStr for Tag {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let good = match text.as_bytes() {
            [first, rest @ ..] => {
                is_word(*first)
                    && rest.len() < 128
                    && rest.iter().all(|b| is_word(*b) || matches!(b, b'.' | b'-'))
            }
            [] => false,
        };
        if good {
            Ok(Self(text.into()))
        } else {
            Err(InvalidName::Tag(text.chars().take(160).collect()))
        }
    }
}

impl FromStr for Selector {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        match text.parse() {
            Ok(digest) => Ok(Self::Digest(digest)),
            Err(_) => text.parse().map(Self::Tag),
        }
    }
}

macro_rules! text_conversions {
    ($($name:ident)*) => {$(
        impl TryFrom<String> for $name {
            type Error = InvalidName;
            fn try_from(text: String) -> Result<Self, InvalidName> {
                text.parse()
            }
        }
        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.into()
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )*};
}
text_conversions!(RepoName Tag);

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => tag.fmt(f),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repository_names_follow_the_specification() {
        for good in ["a", "library/redis", "a__b/c.d/e--f", "0/1"] {
            assert!(good.parse::<RepoName>().is_ok(), "{good}");
        }
        let long = "a".repeat(256);
        for bad in [
            "", "/", "a/", "/a", "a//b", "A", "a..b", "a___b", "-a", "a_", "a/../b", &long,
        ] {
            assert!(bad.parse::<RepoName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn tags_follow_the_specification() {
        for good in ["a", "_", "7_obd", "v1.2-rc.1"] {
            assert!(good.parse::<Tag>().is_ok(), "{good}");
        }
        for bad in ["", ".a", "-a", "a/b", "a:b", &"a".repeat(129)] {
            assert!(bad.parse::<Tag>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_selector_that_is_a_digest_is_parsed_as_one() {
        let digest = Digest::of(b"");
        assert_eq!(
            digest.as_str().parse(),
            Ok(Selector::Digest(digest.clone()))
        );
        assert!("sha256:00".parse::<Selector>().is_err());
    }
}
