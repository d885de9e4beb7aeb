//! The keys of the file and the environment variables, made from the options themselves.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use clap::{Arg, ArgAction, Args as _, Command};
use toml::Value;

use super::defaults::defaults;
use super::options::LogOptions;
use super::origin::environment_variable;
use super::serve::ServeOptions;

/// What a key takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Scalar,
    List,
    /// Tables, or the texts that stand for them.
    Upstreams,
    /// Tables, which only a file can have.
    Policies,
}

/// Every key that a file may have, from the options themselves.
pub(super) fn keys() -> &'static BTreeMap<String, Shape> {
    static KEYS: LazyLock<BTreeMap<String, Shape>> = LazyLock::new(|| {
        let command = ServeOptions::augment_args(Command::new("keys"));
        keys_of(&LogOptions::augment_args(command))
    });
    &KEYS
}

/// The same, and those that are no options.
pub(super) fn file_keys() -> &'static BTreeMap<String, Shape> {
    static KEYS: LazyLock<BTreeMap<String, Shape>> = LazyLock::new(|| {
        let mut keys = keys().clone();
        keys.insert("policy".to_owned(), Shape::Policies);
        keys
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
        // A command that looks into one image has choices of its own.
        let is_own = [ONE_PLATFORM, BLOCK_CACHE_SIZE].contains(&arg.get_id().as_str());
        if !keys().contains_key(&long) || is_own {
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

/// The id of `--cache-size` where it is that of a user's cache and not of the service's.
pub const BLOCK_CACHE_SIZE: &str = "block-cache-size";

/// A value as a person writes it on a command line.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(plain).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}
