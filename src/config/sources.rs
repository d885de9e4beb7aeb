//! Default, file, environment, flag: the later wins.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use toml::{Table, Value};

use super::defaults::{defaults, machine_defaults};
use super::errors::ConfigErrors;
use super::file;
use super::origin::Origin;

/// Defaults and file, to be overlaid by what environment and flags say.
#[derive(Debug)]
pub struct Sources {
    table: Table,
    origins: BTreeMap<String, Origin>,
}

/// The settings whose empty text is one.
const EMPTY_MEANS_NEVER: [&str; 2] = ["merged-suffix", "turbo-suffix"];

impl Sources {
    /// Reads `file`, if there is to be one; what is wrong with it is among the mistakes.
    #[must_use]
    pub fn read(file: Option<&Path>, given: BTreeMap<String, Origin>) -> (Self, ConfigErrors) {
        let mut table = defaults().clone();
        table.extend(machine_defaults());
        let mut origins = BTreeMap::new();
        let mut errors = ConfigErrors::default();
        if let Some(path) = file {
            for (key, value) in file::read(path, &mut errors) {
                origins.insert(key.clone(), Origin::File(path.to_owned()));
                table.insert(key, value);
            }
        }
        origins.extend(given);
        let mut located = ConfigErrors::of(origins.clone());
        errors
            .lines()
            .iter()
            .for_each(|line| located.add_line(line.clone()));
        (Self { table, origins }, located)
    }

    /// What holds for a group of options that was parsed from environment and flags.
    ///
    /// An empty text stands for a setting that was not made, but for [`EMPTY_MEANS_NEVER`].
    pub fn effective<G>(&mut self, group: &G, errors: &mut ConfigErrors) -> G
    where
        G: Serialize + DeserializeOwned + Default,
    {
        let given = match Table::try_from(group) {
            Ok(given) => given,
            Err(error) => {
                errors.add_line(format!("the options cannot be read: {error}"));
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
            .filter(|(key, value)| is_empty(value) && !EMPTY_MEANS_NEVER.contains(&key.as_str()))
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
                errors.add_line(format!("the options cannot be read: {error}"));
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
