//! Which images are converted, to what and for whom: `[[policy]]` of the file.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, LazyLock};

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use super::conversion::prefetch_list;
use crate::config::file::unknown;
use crate::config::keys::Shape;
use crate::config::{ConfigErrors, bytes};
use crate::convert::layer::{Algorithm, BlockSize};
use crate::convert::{Overrides, Platforms};
use crate::oci::{RepoName, Tag};
use crate::server::{Form, Pattern, Rule, When};

/// Rules for images. A command line has no good form for them.
#[derive(Debug, Clone, Default, clap::Args, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct PolicyOptions {
    #[arg(skip)]
    #[allow(missing_docs)]
    pub policy: Vec<Entry>,
}

/// A rule as it was written.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Entry(Value);

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Entry(***)")
    }
}

fn policy_keys() -> &'static BTreeMap<String, Shape> {
    static KEYS: LazyLock<BTreeMap<String, Shape>> = LazyLock::new(|| {
        [
            ("upstream", Shape::List),
            ("repository", Shape::List),
            ("tag", Shape::List),
            ("platform", Shape::List),
            ("algorithm", Shape::Scalar),
            ("bs", Shape::Scalar),
            ("prefetch-list", Shape::Scalar),
            ("min-size", Shape::Scalar),
            ("max-size", Shape::Scalar),
            ("format", Shape::Scalar),
            ("when", Shape::Scalar),
        ]
        .map(|(key, shape)| (key.to_owned(), shape))
        .into()
    });
    &KEYS
}

/// The mistakes of one entry.
struct Reading<'a> {
    table: &'a Table,
    number: usize,
    errors: &'a mut ConfigErrors,
}

impl Reading<'_> {
    fn add(&mut self, key: &str, what: impl fmt::Display) {
        let number = self.number;
        self.errors
            .add("policy", format!("entry {number}: `{key}`: {what}"));
    }

    fn texts(&mut self, key: &str) -> Vec<String> {
        let values = match self.table.get(key) {
            None => return Vec::new(),
            Some(Value::Array(values)) => values.iter().collect(),
            Some(value) => vec![value],
        };
        let texts = values.iter().map(|value| match value {
            Value::String(text) => Some(text.clone()),
            // `tag = 7` reads well.
            Value::Integer(number) => Some(number.to_string()),
            _ => None,
        });
        let Some(texts) = texts.collect::<Option<Vec<String>>>() else {
            self.add(key, "a string or a list of strings is expected");
            return Vec::new();
        };
        if texts.is_empty() || texts.iter().any(String::is_empty) {
            self.add(key, "nothing can match what is empty: leave the key out");
        }
        texts
    }

    fn patterns(&mut self, key: &str, is_good: fn(&str) -> bool, example: &str) -> Vec<Pattern> {
        let texts = self.texts(key);
        for text in texts.iter().filter(|text| !text.is_empty()) {
            // A pattern that no name can match is a mistake that nobody would find.
            if !is_good(&text.replace(['*', '?'], "x")) {
                self.add(
                    key,
                    format!("{text:?} matches nothing: use for example {example}"),
                );
            }
        }
        texts.into_iter().map(Pattern).collect()
    }

    fn scalar<T>(&mut self, key: &str, read: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let text = match self.table.get(key)? {
            Value::String(text) => text.clone(),
            Value::Integer(number) => number.to_string(),
            _ => {
                self.add(key, "a string is expected");
                return None;
            }
        };
        read(&text).map_err(|what| self.add(key, what)).ok()
    }

    fn platforms(&mut self) -> Option<Platforms> {
        let texts = self.texts("platform");
        if texts.iter().any(|text| text == "all") {
            if texts.len() > 1 {
                self.add("platform", "all says it all: leave the others out");
            }
            return Some(Platforms::All);
        }
        let mut platforms = Vec::new();
        for text in texts.iter().filter(|text| !text.is_empty()) {
            match text.parse() {
                Ok(platform) => platforms.push(platform),
                Err(error) => self.add("platform", error),
            }
        }
        (!platforms.is_empty()).then_some(Platforms::Some(platforms))
    }

    fn rule(&mut self, has_turbo: bool) -> Rule {
        for key in self.table.keys() {
            if !policy_keys().contains_key(key) {
                let place = format!("entry {}", self.number);
                let known: Vec<&str> = policy_keys().keys().map(String::as_str).collect();
                let listed = format!("there are {}", known.join(", "));
                let what = unknown(key, &place, policy_keys().keys(), &listed);
                self.errors.add("policy", what);
            }
        }
        let form = self.scalar("format", |text| {
            let known = "auto, native, turbo or original";
            Form::of_name(text).ok_or_else(|| format!("{text:?} is not {known}"))
        });
        let when = self.scalar("when", |text| {
            let known = "pull, plain-tag or never";
            When::of_name(text).ok_or_else(|| format!("{text:?} is not {known}"))
        });
        let (least, most) = (
            self.scalar("min-size", bytes).unwrap_or_default(),
            self.scalar("max-size", bytes).unwrap_or(u64::MAX),
        );
        if least > most {
            self.add("min-size", "is more than `max-size`: no image is of both");
        }
        let is_name = |text: &str| !text.contains(char::is_whitespace);
        let rule = Rule {
            upstreams: self
                .patterns("upstream", is_name, "\"docker.io\"")
                .into_iter()
                // As hosts are compared.
                .map(|pattern| Pattern(pattern.0.to_ascii_lowercase()))
                .collect(),
            repositories: self.patterns(
                "repository",
                |text| text.parse::<RepoName>().is_ok(),
                "\"library/*\"",
            ),
            tags: self.patterns("tag", |text| text.parse::<Tag>().is_ok(), "\"v1.*\""),
            sizes: least..=most,
            conversion: Overrides {
                platforms: self.platforms(),
                algorithm: self.scalar("algorithm", |text| {
                    text.parse::<Algorithm>().map_err(|error| error.to_string())
                }),
                block_size: self.scalar("bs", |text| {
                    text.parse::<BlockSize>().map_err(|error| error.to_string())
                }),
                prefetch: self.scalar("prefetch-list", prefetch_list).map(Arc::new),
            },
            prefetch_file: match self.table.get("prefetch-list") {
                Some(Value::String(file)) => Some(file.clone()),
                _ => None,
            },
            form: form.unwrap_or_default(),
            when: when.unwrap_or_default(),
        };
        match (rule.when, form) {
            (When::Never, Some(_)) => {
                self.add(
                    "format",
                    "means nothing where `when` is never: leave one out",
                );
            }
            (When::PlainTag, Some(Form::Original)) => {
                self.add(
                    "format",
                    "plain tags are the original without `when = \"plain-tag\"`",
                );
            }
            (_, Some(Form::Turbo)) if !has_turbo => {
                self.add(
                    "format",
                    "--turbo-suffix is empty, so no TurboOCI images are made",
                );
            }
            _ => {}
        }
        if rule.when == When::Never {
            for key in ["platform", "algorithm", "bs", "prefetch-list"] {
                let is_for_size = key == "platform" && rule.sizes != (0..=u64::MAX);
                if self.table.contains_key(key) && !is_for_size {
                    self.add(key, "means nothing where `when` is never: leave one out");
                }
            }
        }
        rule
    }
}

impl PolicyOptions {
    /// The rules in their order. `has_turbo`: whether TurboOCI images are made.
    pub fn config(&self, has_turbo: bool, errors: &mut ConfigErrors) -> Vec<Rule> {
        let mut rules = Vec::new();
        let mut for_all = None;
        for (number, entry) in (1..).zip(&self.policy) {
            let Value::Table(table) = &entry.0 else {
                errors.add("policy", format!("entry {number}: a table is expected"));
                continue;
            };
            let known = errors.lines().len();
            let mut reading = Reading {
                table,
                number,
                errors,
            };
            let rule = reading.rule(has_turbo);
            if let Some(earlier) = for_all {
                let what = format!("entry {number}: is never reached: entry {earlier} is for all");
                errors.add("policy", what);
            } else if rule.is_for_all() && errors.lines().len() == known {
                for_all = Some(number);
            }
            rules.push(rule);
        }
        rules
    }
}
