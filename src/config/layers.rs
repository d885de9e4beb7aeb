//! Default, file, environment, flag: the later wins.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use clap::{Arg, ArgAction, ArgMatches, Args as _, Command};
use serde::Serialize;
use serde::de::DeserializeOwned;
use toml::{Table, Value};

use super::defaults::{defaults, machine_defaults};
use super::file;
use super::mistakes::Mistakes;
use super::options::LogOptions;
use super::serve::ServeOptions;

/// Where a setting came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// The TOML file.
    File(PathBuf),
    /// An environment variable.
    Environment,
    /// The command line.
    Flag,
}

/// What a key takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Scalar,
    List,
    /// Tables, or the texts that stand for them.
    Upstreams,
}

/// Every key that a file may have, from the options themselves.
pub(super) fn keys() -> &'static BTreeMap<String, Shape> {
    static KEYS: LazyLock<BTreeMap<String, Shape>> = LazyLock::new(|| {
        let command = ServeOptions::augment_args(Command::new("keys"));
        keys_of(&LogOptions::augment_args(command))
    });
    &KEYS
}

/// The keys among a command's options: those that take a value.
pub(super) fn keys_of(command: &Command) -> BTreeMap<String, Shape> {
    let key = |arg: &Arg| {
        let long = arg.get_long()?.to_owned();
        let shape = match arg.get_action() {
            ArgAction::Append if long == "upstream" => Shape::Upstreams,
            ArgAction::Append => Shape::List,
            ArgAction::Set => Shape::Scalar,
            _ => return None,
        };
        Some((long, shape))
    };
    command.get_arguments().filter_map(key).collect()
}

/// The environment variable of a key.
#[must_use]
pub fn environment_variable(key: &str) -> String {
    let name = key.to_ascii_uppercase().replace('-', "_");
    format!("OVERLAYBD_PROXY_{name}")
}

/// Gives every option that is a key its environment variable and the default in its help,
/// and lets switches stand without a value.
#[must_use]
pub fn decorate(command: Command) -> Command {
    let command = command.mut_args(|arg| {
        let Some(long) = arg.get_long().map(ToOwned::to_owned) else {
            return arg;
        };
        let is_switch = arg
            .get_value_names()
            .is_some_and(|names| names.iter().any(|name| name.as_str() == "BOOL"));
        let mut arg = arg;
        if is_switch {
            arg = arg
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("true");
        }
        // A command that looks into one image has a choice of its own: the setting may be a list.
        if !keys().contains_key(&long) || arg.get_id() == ONE_PLATFORM {
            return arg;
        }
        if let Some(default) = defaults().get(&long) {
            let default = plain(default);
            if let Some(help) = arg.get_help().map(ToString::to_string) {
                arg = arg.help(format!("{help} [default: {default}]"));
            }
            if let Some(help) = arg.get_long_help().map(ToString::to_string) {
                arg = arg.long_help(format!("{help}\n\n[default: {default}]"));
            }
        }
        arg.env(environment_variable(&long)).hide_env_values(true)
    });
    command.mut_subcommands(decorate)
}

/// The id of `--platform` where it chooses one image and is no setting.
pub const ONE_PLATFORM: &str = "one-platform";

/// A value as a person writes it on a command line.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(plain).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

/// Which options were given on the command line or in the environment, with those of
/// the subcommands.
pub fn origins(matches: &ArgMatches) -> BTreeMap<String, Origin> {
    let mut found: BTreeMap<String, Origin> = matches
        .subcommand()
        .map(|(_, matches)| origins(matches))
        .unwrap_or_default();
    for id in matches.ids() {
        let origin = match matches.value_source(id.as_str()) {
            Some(clap::parser::ValueSource::CommandLine) => Origin::Flag,
            Some(clap::parser::ValueSource::EnvVariable) => Origin::Environment,
            _ => continue,
        };
        found.insert(id.as_str().replace('_', "-"), origin);
    }
    found
}

/// Defaults and file, to be overlaid by what environment and flags say.
#[derive(Debug)]
pub struct Layers {
    table: Table,
    origins: BTreeMap<String, Origin>,
}

impl Layers {
    /// Reads `file`, if there is to be one; what is wrong with it is among the mistakes.
    #[must_use]
    pub fn read(file: Option<&Path>, given: BTreeMap<String, Origin>) -> (Self, Mistakes) {
        let mut table = defaults().clone();
        table.extend(machine_defaults());
        let mut origins = BTreeMap::new();
        let mut mistakes = Mistakes::default();
        if let Some(path) = file {
            for (key, value) in file::read(path, &mut mistakes) {
                origins.insert(key.clone(), Origin::File(path.to_owned()));
                table.insert(key, value);
            }
        }
        origins.extend(given);
        let mut located = Mistakes::of(origins.clone());
        mistakes
            .lines()
            .iter()
            .for_each(|line| located.add_line(line.clone()));
        (Self { table, origins }, located)
    }

    /// What holds for a group of options that was parsed from environment and flags.
    ///
    /// An empty text stands for a setting that was not made.
    pub fn effective<G>(&mut self, group: &G, mistakes: &mut Mistakes) -> G
    where
        G: Serialize + DeserializeOwned + Default,
    {
        let given = match Table::try_from(group) {
            Ok(given) => given,
            Err(error) => {
                mistakes.add_line(format!("the options cannot be read: {error}"));
                return G::default();
            }
        };
        for (key, value) in given {
            if value.as_array().is_none_or(|values| !values.is_empty()) {
                self.table.insert(key, value);
            }
        }
        let is_empty = |value: &Value| {
            value.as_str() == Some("")
                || value.as_array().is_some_and(|values| {
                    values.is_empty() || values.iter().all(|value| value.as_str() == Some(""))
                })
        };
        let empty: Vec<String> = self
            .table
            .iter()
            .filter(|(_, value)| is_empty(value))
            .map(|(key, _)| key.clone())
            .collect();
        for key in empty {
            let machine = machine_defaults();
            match defaults().get(&key).or(machine.get(&key)) {
                Some(default) => self.table.insert(key.clone(), default.clone()),
                None => self.table.remove(&key),
            };
            self.origins.remove(&key);
        }
        match Value::Table(self.table.clone()).try_into() {
            Ok(group) => group,
            Err(error) => {
                mistakes.add_line(format!("the options cannot be read: {error}"));
                G::default()
            }
        }
    }

    /// The settings that hold, by key.
    pub(super) fn table(&self) -> &Table {
        &self.table
    }

    /// The keys whose values differ, by name.
    #[must_use]
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let keys: BTreeSet<&String> = self.table.keys().chain(other.table.keys()).collect();
        let differs = |key: &&&String| self.table.get(**key) != other.table.get(**key);
        keys.iter()
            .filter(differs)
            .map(ToString::to_string)
            .collect()
    }

    /// Where a key's value came from.
    pub fn origin(&self, key: &str) -> &Origin {
        self.origins.get(key).unwrap_or(&Origin::Default)
    }
}
