//! Which images are to be warmed, as people write them.

use std::collections::BTreeSet;
use std::fmt;
use std::io::Read as _;

use anyhow::Context as _;
use wildmatch::WildMatch;

use crate::cli::output;
use crate::convert::Suffixes;
use crate::oci::mirrored_name::MirroredName;
use crate::oci::reference::{Scheme, shown_host};
use crate::oci::{Digest, RepoName, Tag};

/// The longest list of images that is read, in bytes.
const MAX_LIST_BYTES: u64 = 64 << 20;

/// A registry that was named.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Host {
    /// TLS or plain HTTP, if the name says so.
    pub scheme: Option<Scheme>,
    /// Host and, where it is written, port.
    pub name: String,
}

/// A repository, of the default upstream or of a host that was named.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place {
    /// The registry, where one is named.
    pub host: Option<Host>,
    /// The repository as it is written.
    pub repo: RepoName,
}

/// What is wanted of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// One image.
    Tag(Tag),
    /// One image, and the tag that it has or had.
    Digest(Digest, Option<Tag>),
    /// Every tag that matches.
    Matching(String),
}

/// An image, or several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    /// Where.
    pub place: Place,
    /// Which.
    pub which: Which,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(host) = &self.host {
            write!(f, "{}/", host.name)?;
        }
        self.repo.fmt(f)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.which {
            Which::Tag(tag) => write!(f, "{}:{tag}", self.place),
            // The same image, whatever its tag is or was.
            Which::Digest(digest, _) => write!(f, "{}@{digest}", self.place),
            Which::Matching(pattern) => write!(f, "{}:{pattern}", self.place),
        }
    }
}

impl std::str::FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let MirroredName { scheme, host, repo } = text.parse()?;
        let host = host.map(|name| Host { scheme, name });
        Ok(Self { host, repo })
    }
}

impl std::str::FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some((repo, digest)) = text.split_once('@') {
            let digest = digest
                .parse()
                .map_err(|error: crate::oci::digest::InvalidDigest| error.to_string())?;
            let end = repo.rfind('/').map_or(0, |slash| slash + 1);
            let (repo, tag) = match repo[end..].split_once(':') {
                Some((name, tag)) => (&repo[..end + name.len()], tag.parse().ok()),
                None => (repo, None),
            };
            return Ok(Self {
                place: repo.parse()?,
                which: Which::Digest(digest, tag),
            });
        }
        let end = text.rfind('/').map_or(0, |slash| slash + 1);
        let (repo, tag) = match text[end..].split_once(':') {
            Some((name, tag)) => (&text[..end + name.len()], tag),
            None => (text, "latest"),
        };
        let which = if tag.contains(['*', '?']) {
            let plain: Result<Tag, _> = tag.replace(['*', '?'], "x").parse();
            plain.map_err(|_| format!("{tag:?} matches no tag"))?;
            Which::Matching(tag.to_owned())
        } else {
            let tag: Result<Tag, _> = tag.parse();
            Which::Tag(tag.map_err(|error| error.to_string())?)
        };
        Ok(Self {
            place: repo.parse()?,
            which,
        })
    }
}

/// The tags that a pattern means, in which `*` stands for any text and `?` for one character:
/// those that match, and are neither converted ones nor the
/// lists of referrers that registries without an API for them keep under a tag
/// (OCI distribution-spec § Referrers Tag Schema).
pub fn chosen(pattern: &str, suffixes: &Suffixes, tags: Vec<Tag>) -> Vec<Tag> {
    let is_referrers = |tag: &str| {
        let digest = tag
            .split_once('-')
            .map(|(name, hex)| format!("{name}:{hex}"));
        digest.is_some_and(|digest| digest.parse::<Digest>().is_ok())
    };
    let matcher = WildMatch::new(pattern);
    let is_wanted = |tag: &Tag| {
        let tag = tag.as_str();
        let is_ours = |suffix: &str| {
            !suffix.is_empty() && tag.ends_with(suffix) && !pattern.ends_with(suffix)
        };
        let is_ours = is_ours(&suffixes.native) || suffixes.turbo.as_deref().is_some_and(is_ours);
        matcher.matches(tag) && !is_ours && !is_referrers(tag)
    };
    tags.into_iter().filter(is_wanted).collect()
}

/// What the command line and the lists name.
#[derive(Debug, Default)]
pub struct Gathered {
    /// The names, each once, in their order.
    pub names: Vec<Name>,
    /// What is wrong on the command line.
    pub wrong: Vec<String>,
    /// Lines of lists that name no image: where each is, and what is wrong with it.
    pub bad_lines: Vec<(String, String)>,
}

/// The names of the command line and the lists.
///
/// # Errors
/// When a list cannot be read.
pub fn gather(images: &[String], repos: &[String], lists: &[String]) -> anyhow::Result<Gathered> {
    let mut texts: Vec<(String, String)> = Vec::new();
    texts.extend(images.iter().map(|text| (shown(text), text.clone())));
    texts.extend(repos.iter().map(|repo| (shown(repo), format!("{repo}:*"))));
    let of_command_line = texts.len();
    for list in lists {
        let text = read_list(list).with_context(|| format!("--file {list}"))?;
        for (number, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if !line.is_empty() {
                texts.push((format!("{list}, line {}", number + 1), line.to_owned()));
            }
        }
    }
    let mut seen = BTreeSet::new();
    let mut gathered = Gathered::default();
    for (number, (place, text)) in texts.into_iter().enumerate() {
        match text.parse::<Name>() {
            Ok(name) if seen.insert(name.to_string()) => gathered.names.push(name),
            Ok(_) => {}
            Err(error) if number < of_command_line => {
                gathered.wrong.push(format!("{place}: {error}"));
            }
            Err(error) => gathered.bad_lines.push((place, error)),
        }
    }
    Ok(gathered)
}

/// A name as it was written, without what may be credentials, which do not belong there.
fn shown(text: &str) -> String {
    match text.rsplit_once('@') {
        Some((_, behind)) if !behind.starts_with("sha256:") && !behind.starts_with("sha512:") => {
            return format!("***@{behind}");
        }
        _ => {}
    }
    let (scheme, bare) = Scheme::split(text);
    let scheme = scheme.map_or_else(String::new, |scheme| format!("{}://", scheme.as_str()));
    match bare.split_once('/') {
        Some((first, rest)) => format!("{scheme}{}/{rest}", shown_host(first)),
        None => text.to_owned(),
    }
}

fn read_list(path: &str) -> anyhow::Result<String> {
    let mut text = String::new();
    let read = match path {
        "-" => std::io::stdin()
            .lock()
            .take(MAX_LIST_BYTES + 1)
            .read_to_string(&mut text)?,
        path => std::fs::File::open(path)?
            .take(MAX_LIST_BYTES + 1)
            .read_to_string(&mut text)?,
    };
    anyhow::ensure!(
        read as u64 <= MAX_LIST_BYTES,
        "it is longer than {}",
        output::size(MAX_LIST_BYTES)
    );
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> String {
        text.parse::<Name>()
            .unwrap_or_else(|e| panic!("{text}: {e}"))
            .to_string()
    }

    #[test]
    fn a_name_without_a_host_is_of_the_default_upstream() {
        for (written, meant) in [
            ("redis", "redis:latest"),
            ("library/redis:7", "library/redis:7"),
            ("docker.io/redis:7", "docker.io/library/redis:7"),
            ("index.docker.io/me/x", "docker.io/me/x:latest"),
            ("localhost:5000/x:1", "localhost:5000/x:1"),
            ("[::1]:5000/x", "[::1]:5000/x:latest"),
            ("r.io/x:3.*", "r.io/x:3.*"),
            ("https://localhost:5000/x:1", "localhost:5000/x:1"),
            ("http://registry/x", "registry/x:latest"),
        ] {
            assert_eq!(parsed(written), meant);
        }
        let digest = Digest::of(b"");
        assert_eq!(parsed(&format!("x:1@{digest}")), format!("x@{digest}"));
        for bad in [
            "",
            "X",
            "x:",
            "x:*/",
            "r.io/",
            "x@sha256:0",
            "-x.io/y",
            "https://x",
            "https://x:1",
        ] {
            assert!(bad.parse::<Name>().is_err(), "{bad}");
        }
    }

    #[test]
    fn patterns_match_as_in_a_shell() {
        for (pattern, text, is_match) in [
            ("*", "", true),
            ("7.*", "7.4", true),
            ("7.*", "7", false),
            ("7.?", "7.4", true),
            ("7.?", "7.40", false),
            ("*-alpine", "7-alpine", true),
            ("*-alpine", "7-alpine3", false),
            ("*a*b*", "xxaxxbxx", true),
            ("*a*b", "ab-ab-", false),
            ("v*.*.*", "v1.2.3", true),
        ] {
            let found = WildMatch::new(pattern).matches(text);
            assert_eq!(found, is_match, "{pattern} {text}");
        }
    }

    #[test]
    fn converted_tags_and_lists_of_referrers_are_no_images_to_convert() {
        let referrers = Digest::of(b"").as_str().replace(':', "-");
        let tags = ["1", "1_obd", "1_turbo", "2", referrers.as_str()]
            .iter()
            .map(|tag| tag.parse().unwrap())
            .collect();
        let suffixes = Suffixes {
            native: "_obd".to_owned(),
            turbo: Some("_turbo".to_owned()),
        };
        let names: Vec<String> = chosen("*", &suffixes, tags)
            .iter()
            .map(Tag::to_string)
            .collect();
        assert_eq!(names, ["1", "2"]);
    }

    #[test]
    fn each_image_is_warmed_once_and_invalid_lines_are_reported_with_their_number() {
        let directory = tempfile::tempdir().unwrap();
        let list = directory.path().join("list");
        std::fs::write(&list, "# images\nredis:7\n\nRedis\nmy/app  # ours\n").unwrap();
        let list = list.display().to_string();
        let gathered = gather(
            &["redis:7".to_owned(), "Upper".to_owned()],
            &["my/app".to_owned()],
            std::slice::from_ref(&list),
        )
        .unwrap();
        let names: Vec<String> = gathered.names.iter().map(Name::to_string).collect();
        assert_eq!(names, ["redis:7", "my/app:*", "my/app:latest"]);
        assert_eq!(gathered.bad_lines[0].0, format!("{list}, line 4"));
        assert!(gathered.wrong[0].starts_with("Upper: "), "{gathered:?}");
    }
}
