//! Options as they were written, where they have more than one name.

use std::collections::BTreeMap;
use std::ffi::OsString;

use clap::Command;

/// The options of the command line that were written under another of their names: the name that
/// settings have, and the one that was written.
pub(super) fn written(command: &Command, arguments: &[OsString]) -> BTreeMap<String, String> {
    let options = arguments.iter().take_while(|argument| *argument != "--");
    let names = options.filter_map(|argument| argument.to_str()?.strip_prefix("--"));
    let mut found = BTreeMap::new();
    for name in names {
        let name = name.split('=').next().unwrap_or_default();
        if let Some(long) = long_of(command, name) {
            found.insert(long, format!("--{name}"));
        }
    }
    found
}

/// The option that has this alias.
fn long_of(command: &Command, alias: &str) -> Option<String> {
    let own = command.get_arguments().find(|arg| {
        arg.get_all_aliases()
            .is_some_and(|aliases| aliases.contains(&alias))
    });
    let long = own.and_then(|arg| arg.get_long()).map(str::to_owned);
    let below = || {
        let mut commands = command.get_subcommands();
        commands.find_map(|command| long_of(command, alias))
    };
    long.or_else(below)
}
