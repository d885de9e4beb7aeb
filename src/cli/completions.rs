//! `completions`: for shells.

use std::io::Write as _;

use clap::builder::PossibleValuesParser;
use clap::{Command, ValueHint};
use clap_complete::Shell;

use super::exit::ExitStatus;
use crate::config::ONE_PLATFORM;

/// Print a shell's completions
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  overlaybd-proxy completions bash >/etc/bash_completion.d/overlaybd-proxy
  overlaybd-proxy completions zsh >\"${fpath[1]}/_overlaybd-proxy\"")]
pub struct CompletionsArgs {
    /// Which shell
    shell: Shell,
}

pub fn run(args: &CompletionsArgs) -> anyhow::Result<ExitStatus> {
    let mut text = Vec::new();
    let mut command = with_values(super::command());
    clap_complete::generate(args.shell, &mut command, "overlaybd-proxy", &mut text);
    let mut text = String::from_utf8(text)?;
    if args.shell == Shell::Bash {
        // clap_complete takes the hyphen in the name for the space before a command in one of
        // the two places where it writes a command's label.
        text = text.replace("overlaybd__subcmd__proxy", "overlaybd__proxy");
    }
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(ExitStatus::Ok)
}

/// The values of options that take one of a few, besides those whose value is named after all
/// that it can be, as `optional|required`.
const VALUES: [(&str, &[&str]); 6] = [
    ("algorithm", &["lz4", "zstd"]),
    ("bs", &["4", "8", "16", "32", "64"]),
    ("fstype", &["ext4"]),
    ("log-format", &["text", "json"]),
    (
        "log-level",
        &["error", "warn", "info", "debug", "trace", "off"],
    ),
    ("platform", &["linux/amd64", "linux/arm64", "all"]),
];

/// Tells shells which values an option takes. A wrong one is still reported by the
/// part that reads it, with all that is wrong besides.
fn with_values(command: Command) -> Command {
    let command = command.mut_args(|arg| {
        let is_list = |name: &str| name.contains('|') && !name.contains(char::is_uppercase);
        let name = arg.get_value_names().and_then(<[_]>::first);
        let name = name.map(ToString::to_string).unwrap_or_default();
        let listed = VALUES
            .iter()
            .find(|(long, _)| arg.get_long() == Some(*long));
        let values: Vec<String> = match listed {
            // A command that reads one image reads no others.
            Some(_) if arg.get_id().as_str() == ONE_PLATFORM => {
                vec!["linux/amd64".to_owned(), "linux/arm64".to_owned()]
            }
            Some((_, values)) => values.iter().map(|value| (*value).to_owned()).collect(),
            None if is_list(&name) => name.split('|').map(str::to_owned).collect(),
            None => {
                let hint = match name.as_str() {
                    "FILE" | "RAW" => ValueHint::FilePath,
                    "DIR" => ValueHint::DirPath,
                    _ => return arg,
                };
                if !arg.get_action().takes_values() {
                    return arg;
                }
                return arg.value_hint(hint);
            }
        };
        arg.value_parser(PossibleValuesParser::new(values))
    });
    command.mut_subcommands(with_values)
}
