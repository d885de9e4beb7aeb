//! What is wrong with a command line: with the remedy, and without what may be a password.
//!
//! A blank in an unquoted password makes an argument of its rest, which the parser would repeat.

use std::ffi::OsString;

use clap::Command;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::config::boolean;

/// Options whose values are secret or may have something secret in them.
const SECRET: [&str; 12] = [
    "--user",
    "--username",
    "--push-user",
    "--src-user",
    "--dst-user",
    "--refresh",
    "--dbstr",
    "--db-str",
    "--upstream",
    "--otlp-headers",
    "--webhook",
    "--egress-proxy",
];

/// The error without arguments that may be a part of a password: those that are no option's
/// name, where an option with a password is given.
pub fn without_secrets(mut error: clap::Error, arguments: &[OsString]) -> clap::Error {
    let kind = match error.kind() {
        ErrorKind::UnknownArgument => ContextKind::InvalidArg,
        ErrorKind::InvalidSubcommand => ContextKind::InvalidSubcommand,
        _ => return error,
    };
    let is_told = match error.get(kind) {
        Some(ContextValue::String(argument)) => is_option(argument),
        _ => true,
    };
    if is_told || !arguments.iter().any(is_secret) {
        return error;
    }
    error.insert(kind, ContextValue::String("***".to_owned()));
    // They are made from what is hidden.
    for kind in [
        ContextKind::Suggested,
        ContextKind::SuggestedArg,
        ContextKind::SuggestedSubcommand,
    ] {
        error.remove(kind);
    }
    error
}

/// Says how a switch is written that was given a value of its own: `--push true`.
pub fn with_switch_hint(
    mut error: clap::Error,
    command: &Command,
    arguments: &[OsString],
) -> clap::Error {
    let value = match (error.kind(), error.get(ContextKind::InvalidArg)) {
        (ErrorKind::UnknownArgument, Some(ContextValue::String(value))) => value.clone(),
        _ => return error,
    };
    let mut before = arguments.iter().zip(arguments.iter().skip(1));
    let before = before.find(|(_, argument)| ***argument == *value);
    let name = before.and_then(|(name, _)| name.to_str()?.strip_prefix("--"));
    if let Some(name) = name
        && boolean(&value).is_ok()
        && is_switch(command, name)
    {
        let hint = format!("a switch takes its value with an equals sign: --{name}={value}");
        error.insert(
            ContextKind::Suggested,
            ContextValue::StyledStrs(vec![hint.into()]),
        );
    }
    error
}

/// Whether this is an option that stands without a value, or takes one with an equals sign.
fn is_switch(command: &Command, name: &str) -> bool {
    let mut options = command.get_arguments();
    options.any(|option| option.get_long() == Some(name) && option.is_require_equals_set())
        || command
            .get_subcommands()
            .any(|command| is_switch(command, name))
}

/// Whether this is an option's name, known or not.
fn is_option(argument: &str) -> bool {
    let is_letter = |c: char| c.is_ascii_alphanumeric() || c == '-';
    match argument.strip_prefix('-') {
        Some(name) => name.len() > 1 && name.starts_with('-') && name.chars().all(is_letter),
        None => false,
    }
}

fn is_secret(argument: &OsString) -> bool {
    let text = argument.to_string_lossy();
    let is_short = text.starts_with("-u");
    let name = text.split('=').next().unwrap_or_default();
    is_short || SECRET.contains(&name)
}
