//! What a tag is answered with: the one place where that is decided. Pure.
//!
//! A native image is read from the host in the image's name, mirrors or not: what containerd pulls
//! through a mirror (it says so with `ns`) starts only if the converted blobs are where the name
//! leads. A TurboOCI image needs nothing there but its source.

use std::fmt;

use http::HeaderMap;

use crate::convert::{Overrides, PushTarget, Source};
use crate::oci::Tag;
use crate::oci::reference::index_host;
use crate::server::config::{ServerConfig, TurboFallback};
use crate::server::http::header_names::FORMAT;
use crate::server::policy::{Form, Rule, When};

/// A converted form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::server) enum Kind {
    Native,
    Turbo,
}

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::server) enum Asked {
    /// A tag that ends in the suffix of this form.
    Suffix(Kind),
    /// A plain tag, in the form that the node says it wants, if it says anything.
    Plain(Option<Form>),
}

/// Where nodes find the blobs of a native image, by the name that they know it by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::server) enum NativeBlobs {
    /// Where the name leads, because they are pushed.
    Pushed,
    /// Here: the name leads to this proxy.
    Served,
    /// Nowhere: the name leads to a registry that does not have them.
    Missing,
}

/// What can be had.
#[derive(Debug, Clone, Copy)]
pub(in crate::server) struct Means {
    pub native: NativeBlobs,
    /// What is served in place of a TurboOCI image; `None` where none are made.
    pub turbo: Option<TurboFallback>,
}

impl Means {
    /// What can be had of `source`, by the name that nodes know it by: at the registry `namespace`
    /// if they are mirrored, and else at this proxy.
    pub fn of(
        config: &ServerConfig,
        push: Option<&PushTarget>,
        source: &Source,
        namespace: Option<&str>,
    ) -> Self {
        Self {
            native: native_blobs(push, source, namespace),
            turbo: config.turbo.as_ref().map(|turbo| turbo.fallback),
        }
    }
}

/// Why a plain tag is answered with the original.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::server) enum Why {
    /// The rule says that it is never converted.
    Never,
    /// The rule says that plain tags stay as they are.
    Rule,
    /// The client asks for it.
    Wanted,
    /// The client does not say that it reads overlaybd.
    Unasked,
    /// This proxy makes no TurboOCI images.
    NoTurbo,
    /// A native image would not start.
    Missing,
}

impl Why {
    /// Whether something else was asked for, and cannot be had.
    pub fn is_lack(self) -> bool {
        matches!(self, Self::NoTurbo | Self::Missing)
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Never => "the rule says never",
            Self::Rule => "the rule says that plain tags stay as they are",
            Self::Wanted => "the client asks for it",
            Self::Unasked => "the client does not say that it reads overlaybd",
            Self::NoTurbo => "this proxy makes no TurboOCI images (--turbo-suffix)",
            Self::Missing => {
                "a native image is read from the registry in its name, which does not have its \
                 blobs (--push)"
            }
        })
    }
}

/// What a tag is answered with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::server) enum Plan {
    /// What the upstream has.
    Original(Why),
    /// The converted image.
    Converted {
        kind: Kind,
        /// What is served where TurboOCI cannot carry the image.
        fallback: TurboFallback,
        /// What is made of it, where that is not as the converter has it.
        overrides: Overrides,
    },
    /// That there is no such tag.
    Absent,
}

/// What a request says of itself in its header: the first form that is known.
pub(in crate::server) fn stated(headers: &HeaderMap) -> Option<Form> {
    let values = headers.get_all(FORMAT).iter();
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .find_map(|word| Form::of_name(word.trim().to_ascii_lowercase().as_str()))
}

/// The tag of the source where a tag asks for the converted image.
pub(in crate::server) fn without(tag: &Tag, suffix: &str) -> Option<Tag> {
    if suffix.is_empty() {
        return None;
    }
    tag.as_str().strip_suffix(suffix)?.parse().ok()
}

/// What a tag asks for, and the tag of its source. `stated` is what the node says of itself.
pub(in crate::server) fn read(
    config: &ServerConfig,
    tag: &Tag,
    stated: Option<Form>,
) -> (Tag, Asked) {
    let turbo = config.turbo.as_ref();
    let turbo = turbo.and_then(|turbo| without(tag, &turbo.suffix));
    if let Some(plain) = turbo {
        return (plain, Asked::Suffix(Kind::Turbo));
    }
    match without(tag, &config.suffix) {
        Some(plain) => (plain, Asked::Suffix(Kind::Native)),
        None => (tag.clone(), Asked::Plain(stated)),
    }
}

/// Where nodes find the blobs of native images of `source`.
fn native_blobs(
    push: Option<&PushTarget>,
    source: &Source,
    namespace: Option<&str>,
) -> NativeBlobs {
    let Some(namespace) = namespace else {
        return match push {
            Some(_) => NativeBlobs::Pushed,
            None => NativeBlobs::Served,
        };
    };
    let host = source.upstream.host();
    let is_at_its_source = push.is_some_and(|push| {
        let (to, repo) = push.place(source);
        to.host() == host && *repo == source.repo
    });
    if is_at_its_source && index_host(namespace).eq_ignore_ascii_case(host) {
        NativeBlobs::Pushed
    } else {
        NativeBlobs::Missing
    }
}

/// What is answered to `asked` of an image of this rule, if there is one.
pub(in crate::server) fn decide(asked: Asked, rule: Option<&Rule>, means: Means) -> Plan {
    let (when, ruled) = rule.map_or_else(Default::default, |rule| (rule.when, rule.form));
    let converted = |kind, fallback| Plan::Converted {
        kind,
        fallback,
        overrides: rule.map(|rule| rule.conversion.clone()).unwrap_or_default(),
    };
    let stated = match asked {
        Asked::Suffix(_) if when == When::Never => return Plan::Absent,
        Asked::Suffix(kind) => {
            return converted(kind, means.turbo.unwrap_or(TurboFallback::Native));
        }
        Asked::Plain(stated) => stated,
    };
    let form = match (when, ruled, stated) {
        (When::Never, ..) => return Plan::Original(Why::Never),
        (_, Form::Original, _) => return Plan::Original(Why::Rule),
        (_, _, Some(Form::Original)) => return Plan::Original(Why::Wanted),
        (When::Pull, _, None) => return Plan::Original(Why::Unasked),
        (_, ruled, None | Some(Form::Auto)) => ruled,
        (_, _, Some(stated)) => stated,
    };
    let starts = means.native != NativeBlobs::Missing;
    let native = || converted(Kind::Native, TurboFallback::Native);
    match (form, means.turbo) {
        (Form::Auto, _) if means.native == NativeBlobs::Pushed => native(),
        (Form::Auto | Form::Turbo, Some(TurboFallback::Native)) if !starts => {
            converted(Kind::Turbo, TurboFallback::Original)
        }
        (Form::Auto | Form::Turbo, Some(fallback)) => converted(Kind::Turbo, fallback),
        (Form::Turbo, None) => Plan::Original(Why::NoTurbo),
        (Form::Auto | Form::Native, _) if starts => native(),
        (Form::Auto | Form::Native, _) => Plan::Original(Why::Missing),
        (Form::Original, _) => Plan::Original(Why::Rule),
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn rule(form: Form, when: When) -> Rule {
        Rule {
            upstreams: Vec::new(),
            repositories: Vec::new(),
            tags: Vec::new(),
            sizes: 0..=u64::MAX,
            conversion: Overrides::default(),
            prefetch_file: None,
            form,
            when,
        }
    }

    fn means(native: NativeBlobs, turbo: Option<TurboFallback>) -> Means {
        Means { native, turbo }
    }

    fn short(plan: &Plan) -> String {
        match plan {
            Plan::Original(why) => format!("{why:?}"),
            Plan::Converted { kind, fallback, .. } => format!("{kind:?} else {fallback:?}"),
            Plan::Absent => "Absent".to_owned(),
        }
    }

    #[test]
    fn the_suffix_is_removed_from_a_tag_unless_nothing_is_left() {
        let plain_of = |tag: &str, suffix| {
            let tag: Tag = tag.parse().unwrap();
            without(&tag, suffix).map(|tag| tag.to_string())
        };
        assert_eq!(plain_of("7_obd", "_obd").as_deref(), Some("7"));
        assert_eq!(plain_of("7_obd_obd", "_obd").as_deref(), Some("7_obd"));
        for (tag, suffix) in [("_obd", "_obd"), ("7", "_obd"), ("7_obd", "")] {
            assert_eq!(plain_of(tag, suffix), None, "{tag}");
        }
    }

    #[test]
    fn the_first_known_word_of_the_header_is_the_form() {
        for (values, form) in [
            (&[][..], None),
            (&["auto"][..], Some(Form::Auto)),
            (&["Turbo"], Some(Form::Turbo)),
            (&["erofs, native"], Some(Form::Native)),
            (&["erofs", "original"], Some(Form::Original)),
            (&["", "yes"], None),
        ] {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(FORMAT, HeaderValue::from_static(value));
            }
            assert_eq!(stated(&headers), form, "{values:?}");
        }
    }

    #[test]
    fn a_plain_tag_becomes_what_starts_at_the_node() {
        use NativeBlobs::{Missing, Pushed, Served};
        use TurboFallback::{Error, Native, Original};
        for (stated, native, turbo, wanted) in [
            (None, Pushed, Some(Native), "Unasked"),
            (Some(Form::Original), Pushed, Some(Native), "Wanted"),
            (Some(Form::Auto), Pushed, Some(Native), "Native else Native"),
            (Some(Form::Auto), Served, Some(Native), "Turbo else Native"),
            (
                Some(Form::Auto),
                Missing,
                Some(Native),
                "Turbo else Original",
            ),
            (Some(Form::Auto), Missing, Some(Error), "Turbo else Error"),
            (Some(Form::Auto), Served, None, "Native else Native"),
            (Some(Form::Auto), Missing, None, "Missing"),
            (Some(Form::Turbo), Pushed, Some(Native), "Turbo else Native"),
            (
                Some(Form::Turbo),
                Served,
                Some(Original),
                "Turbo else Original",
            ),
            (Some(Form::Turbo), Served, None, "NoTurbo"),
            (
                Some(Form::Native),
                Served,
                Some(Native),
                "Native else Native",
            ),
            (Some(Form::Native), Missing, Some(Native), "Missing"),
        ] {
            let plan = decide(Asked::Plain(stated), None, means(native, turbo));
            assert_eq!(short(&plan), wanted, "{stated:?} {native:?} {turbo:?}");
        }
    }

    #[test]
    fn a_rule_decides_what_the_node_leaves_open() {
        let means = means(NativeBlobs::Served, Some(TurboFallback::Native));
        let (auto, turbo) = (Some(Form::Auto), Some(Form::Turbo));
        let suffix = Asked::Suffix(Kind::Native);
        for (asked, form, when, wanted) in [
            (Asked::Plain(None), Form::Native, When::Pull, "Unasked"),
            (
                Asked::Plain(auto),
                Form::Native,
                When::Pull,
                "Native else Native",
            ),
            (
                Asked::Plain(turbo),
                Form::Native,
                When::Pull,
                "Turbo else Native",
            ),
            (Asked::Plain(turbo), Form::Original, When::Pull, "Rule"),
            (
                Asked::Plain(None),
                Form::Auto,
                When::PlainTag,
                "Turbo else Native",
            ),
            (
                Asked::Plain(None),
                Form::Native,
                When::PlainTag,
                "Native else Native",
            ),
            (
                Asked::Plain(Some(Form::Original)),
                Form::Native,
                When::PlainTag,
                "Wanted",
            ),
            (Asked::Plain(turbo), Form::Auto, When::Never, "Never"),
            (suffix, Form::Auto, When::Never, "Absent"),
            (suffix, Form::Original, When::Pull, "Native else Native"),
            (
                Asked::Suffix(Kind::Turbo),
                Form::Native,
                When::Pull,
                "Turbo else Native",
            ),
        ] {
            let plan = decide(asked, Some(&rule(form, when)), means);
            assert_eq!(short(&plan), wanted, "{asked:?} {form:?} {when:?}");
        }
    }
}
