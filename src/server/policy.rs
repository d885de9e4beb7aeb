//! Which images are converted, to what and for whom. Pure.

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;

use crate::convert::{Overrides, Platforms};
use crate::format::prefetch::PrefetchList;
use crate::server::pattern::Pattern;

/// A form in which an image is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Form {
    /// Whichever of the converted ones starts at the node: TurboOCI, or native where the converted
    /// image is pushed.
    #[default]
    Auto,
    /// Converted, with the files' data.
    Native,
    /// Converted, with the files' data in the source's layers.
    Turbo,
    /// As it is.
    Original,
}

/// For whom an image is converted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum When {
    /// Whoever asks for it: by a tag with a suffix, or as a node that says that it reads overlaybd.
    #[default]
    Pull,
    /// Everyone who pulls its plain tag.
    PlainTag,
    /// Nobody.
    Never,
}

impl Form {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Auto, Self::Native, Self::Turbo, Self::Original];

    /// Its name in headers and settings.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Native => "native",
            Self::Turbo => "turbo",
            Self::Original => "original",
        }
    }

    /// The form of this name.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|form| form.name() == name)
    }
}

impl When {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Pull, Self::PlainTag, Self::Never];

    /// Its name in settings.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::PlainTag => "plain-tag",
            Self::Never => "never",
        }
    }

    /// The one of this name.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|when| when.name() == name)
    }
}

/// A `[[policy]]` of the configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Names of upstreams: their hosts, and what requests choose them by. Empty: any.
    pub upstreams: Vec<Pattern>,
    /// Repositories, as their upstream names them. Empty: any.
    pub repositories: Vec<Pattern>,
    /// Tags, without a suffix. Empty: any.
    pub tags: Vec<Pattern>,
    /// Bytes of the image's layers, compressed.
    pub sizes: RangeInclusive<u64>,
    /// What is made of them, where that is not as the converter has it.
    pub conversion: Overrides,
    /// The file with their prefetch list, as it is written.
    pub prefetch_file: Option<String>,
    /// What plain tags become.
    pub form: Form,
    /// For whom.
    pub when: When,
}

/// An image by the names that rules match.
#[derive(Debug, Clone, Copy)]
pub struct ImageName<'a> {
    /// The names of its upstream.
    pub upstreams: &'a [String],
    /// The repository, as the upstream names it.
    pub repository: &'a str,
    /// The tag, without a suffix.
    pub tag: &'a str,
}

impl Rule {
    /// Whether the size of an image decides whether the rule is for it.
    #[must_use]
    pub fn asks_for_size(&self) -> bool {
        self.sizes != (0..=u64::MAX)
    }

    /// Whether it is for every image.
    #[must_use]
    pub fn is_for_all(&self) -> bool {
        self.upstreams.is_empty()
            && self.repositories.is_empty()
            && self.tags.is_empty()
            && !self.asks_for_size()
    }

    /// Whether it is for images of this name, size aside.
    fn names(&self, image: &ImageName<'_>) -> bool {
        self.is_of(image.upstreams, image.repository) && matches(&self.tags, image.tag)
    }

    /// Whether it is for images of this repository, tags and sizes aside.
    fn is_of(&self, upstreams: &[String], repository: &str) -> bool {
        let mut names = upstreams.iter();
        let is_of_upstream =
            self.upstreams.is_empty() || names.any(|name| matches(&self.upstreams, name));
        is_of_upstream && matches(&self.repositories, repository)
    }

    /// Whether a plain tag is converted by it.
    fn converts_plain_tags(&self, is_asked_for: bool) -> bool {
        let is_for_whoever_asks = match self.when {
            When::Pull => is_asked_for,
            When::PlainTag => true,
            When::Never => false,
        };
        is_for_whoever_asks && self.form != Form::Original
    }
}

/// The ways in which images are converted with one of these lists, where the rules that convert in
/// the `ruled` ways name no other.
pub(in crate::server) fn with_lists(
    ruled: &[Overrides],
    lists: &[Arc<PrefetchList>],
) -> Vec<Overrides> {
    let none = Overrides::default();
    let without = || {
        let all = std::iter::once(&none).chain(ruled);
        all.filter(|overrides| overrides.prefetch.is_none())
    };
    let with = |list: &Arc<PrefetchList>| {
        let list = Arc::clone(list);
        without().map(move |overrides| Overrides {
            prefetch: Some(Arc::clone(&list)),
            ..overrides.clone()
        })
    };
    lists.iter().flat_map(with).collect()
}

fn matches(patterns: &[Pattern], text: &str) -> bool {
    patterns.is_empty() || patterns.iter().any(|pattern| pattern.matches(text))
}

/// As the configuration file has it, on one line.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        for (key, patterns) in [
            ("upstream", &self.upstreams),
            ("repository", &self.repositories),
            ("tag", &self.tags),
        ] {
            match patterns.as_slice() {
                [] => {}
                [one] => parts.push(format!("{key} = {:?}", one.0)),
                many => {
                    let texts: Vec<&str> = many.iter().map(|pattern| pattern.0.as_str()).collect();
                    parts.push(format!("{key} = {texts:?}"));
                }
            }
        }
        match &self.conversion.platforms {
            None => {}
            Some(Platforms::All) => parts.push("platform = \"all\"".to_owned()),
            Some(Platforms::Some(platforms)) => {
                let texts: Vec<String> = platforms.iter().map(ToString::to_string).collect();
                parts.push(format!("platform = {texts:?}"));
            }
        }
        if let Some(algorithm) = self.conversion.algorithm {
            parts.push(format!("algorithm = \"{algorithm}\""));
        }
        if let Some(size) = self.conversion.block_size {
            parts.push(format!("bs = {}", size.bytes() >> 10));
        }
        if let Some(file) = &self.prefetch_file {
            parts.push(format!("prefetch-list = {file:?}"));
        }
        let bytes = |bytes: u64| match bytes {
            _ if bytes > 0 && bytes.is_multiple_of(1 << 30) => format!("\"{}GiB\"", bytes >> 30),
            _ if bytes > 0 && bytes.is_multiple_of(1 << 20) => format!("\"{}MiB\"", bytes >> 20),
            _ => bytes.to_string(),
        };
        if *self.sizes.start() > 0 {
            parts.push(format!("min-size = {}", bytes(*self.sizes.start())));
        }
        if *self.sizes.end() < u64::MAX {
            parts.push(format!("max-size = {}", bytes(*self.sizes.end())));
        }
        if self.form != Form::Auto {
            parts.push(format!("format = {:?}", self.form.name()));
        }
        parts.push(format!("when = {:?}", self.when.name()));
        f.write_str(&parts.join(", "))
    }
}

/// The rule of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found<'a> {
    /// This one, with its number from 1 on.
    Rule(usize, &'a Rule),
    /// None.
    Nothing,
    /// Its size must be known first: it decides whether it is this one.
    SizeNeeded(usize, &'a Rule),
}

/// The rules in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    rules: Vec<Rule>,
}

impl Policy {
    /// These, in this order.
    #[must_use]
    pub fn new(rules: Vec<Rule>) -> Self {
        Self { rules }
    }

    /// The rules for images of this name, sizes aside, with their numbers from 1 on.
    fn candidates<'a>(
        &'a self,
        image: &'a ImageName<'a>,
    ) -> impl Iterator<Item = (usize, &'a Rule)> {
        let numbered = (1..).zip(&self.rules);
        numbered.filter(|(_, rule)| rule.names(image))
    }

    /// The first rule that matches. `size` is the bytes of an image's layers for a rule's platforms,
    /// if that is known; an image without layers has `Some(None)`, and is of no size.
    pub fn find<'a>(
        &'a self,
        image: &'a ImageName<'a>,
        size: impl Fn(usize, &Rule) -> Option<Option<u64>>,
    ) -> Found<'a> {
        for (number, rule) in self.candidates(image) {
            if !rule.asks_for_size() {
                return Found::Rule(number, rule);
            }
            match size(number, rule) {
                None => return Found::SizeNeeded(number, rule),
                Some(Some(size)) if rule.sizes.contains(&size) => {
                    return Found::Rule(number, rule);
                }
                Some(_) => {}
            }
        }
        Found::Nothing
    }

    /// Whether a plain tag of this name may be answered with a converted image, as far as is known
    /// without its size. `is_asked_for`: by a node that says that it reads such images.
    #[must_use]
    pub fn may_convert_plain(&self, image: &ImageName<'_>, is_asked_for: bool) -> bool {
        for (_, rule) in self.candidates(image) {
            if rule.converts_plain_tags(is_asked_for) {
                return true;
            }
            if !rule.asks_for_size() {
                return false;
            }
        }
        is_asked_for
    }

    /// The different ways in which rules may convert images of a repository, besides that without
    /// a rule.
    pub fn overrides(&self, upstreams: &[String], repository: &str) -> Vec<&Overrides> {
        let (none, mut all) = (Overrides::default(), Vec::new());
        let rules = self.rules.iter();
        let rules = rules.filter(|rule| rule.is_of(upstreams, repository));
        for overrides in rules.map(|rule| &rule.conversion) {
            if *overrides != none && !all.contains(&overrides) {
                all.push(overrides);
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::convert::layer::{Algorithm, BlockSize};

    fn rule(repository: &str, when: When) -> Rule {
        Rule {
            upstreams: Vec::new(),
            repositories: vec![Pattern(repository.to_owned())],
            tags: Vec::new(),
            sizes: 0..=u64::MAX,
            conversion: Overrides::default(),
            prefetch_file: None,
            form: Form::Auto,
            when,
        }
    }

    fn name<'a>(upstreams: &'a [String], repository: &'a str, tag: &'a str) -> ImageName<'a> {
        ImageName {
            upstreams,
            repository,
            tag,
        }
    }

    #[test]
    fn a_rule_matches_where_all_of_its_patterns_do() {
        let hub = ["docker.io".to_owned(), "hub".to_owned()];
        let other = ["ghcr.io".to_owned()];
        let policy = Policy::new(vec![Rule {
            upstreams: vec![Pattern("docker.*".to_owned())],
            tags: vec![Pattern("7*".to_owned()), Pattern("8".to_owned())],
            ..rule("library/*", When::Never)
        }]);
        for (image, is_match) in [
            (name(&hub, "library/redis", "7"), true),
            (name(&hub, "library/redis", "8"), true),
            (name(&hub, "library/redis", "9"), false),
            (name(&hub, "team/redis", "7"), false),
            (name(&other, "library/redis", "7"), false),
        ] {
            let found = policy.candidates(&image).count();
            assert_eq!(found == 1, is_match, "{image:?}");
        }
    }

    #[test]
    fn a_plain_tag_may_be_converted_until_a_rule_without_sizes_forbids_it() {
        let big = Rule {
            sizes: 100..=u64::MAX,
            ..rule("a", When::PlainTag)
        };
        let original = Rule {
            form: Form::Original,
            ..rule("b", When::Pull)
        };
        let small = Rule {
            sizes: 0..=99,
            ..rule("c", When::Never)
        };
        let policy = Policy::new(vec![
            big,
            rule("a", When::Never),
            original,
            small,
            rule("d", When::PlainTag),
        ]);
        for (repository, everyone, nodes) in [
            ("a", true, true),
            ("b", false, false),
            ("c", false, true),
            ("d", true, true),
            ("e", false, true),
        ] {
            let image = name(&[], repository, "1");
            assert_eq!(
                policy.may_convert_plain(&image, false),
                everyone,
                "{repository}"
            );
            assert_eq!(
                policy.may_convert_plain(&image, true),
                nodes,
                "{repository}"
            );
        }
    }

    #[test]
    fn a_rule_is_shown_as_it_is_written() {
        let shown = Rule {
            sizes: 1..=5 << 20,
            form: Form::Native,
            conversion: Overrides {
                platforms: Some(Platforms::Some(vec!["linux/arm64".parse().unwrap()])),
                algorithm: Some(Algorithm::Zstd),
                block_size: Some(BlockSize::KIB_64),
                prefetch: None,
            },
            prefetch_file: Some("a.list".to_owned()),
            tags: vec![Pattern("1".to_owned()), Pattern("2".to_owned())],
            ..rule("a/*", When::PlainTag)
        };
        assert_eq!(
            shown.to_string(),
            "repository = \"a/*\", tag = [\"1\", \"2\"], platform = [\"linux/arm64\"], \
             algorithm = \"zstd\", bs = 64, prefetch-list = \"a.list\", min-size = 1, max-size = \"5MiB\", format = \"native\", when = \"plain-tag\""
        );
    }
}
