//! `completions`: for shells.

use std::io::Write as _;

use clap::builder::PossibleValuesParser;
use clap::{Command, ValueHint};
use clap_complete::Shell;

use super::exit::ExitStatus;

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

/// Tells shells which values an option takes. A wrong one is still reported by the
/// part that reads it, with all that is wrong besides.
fn with_values(command: Command) -> Command {
    let command = command.mut_args(|arg| {
        let values: &[&str] = match arg.get_long() {
            Some("log-level") => &["error", "warn", "info", "debug", "trace", "off"],
            Some("log-format") => &["text", "json"],
            Some("on-timeout") => &["wait", "wait-then-original", "busy", "original"],
            Some("tls-client-auth") => &["optional", "required"],
            Some("algorithm") => &["lz4", "zstd"],
            _ => {
                let name = arg.get_value_names().and_then(<[_]>::first);
                let hint = match name.map(clap::builder::Str::as_str) {
                    Some("FILE" | "RAW") => ValueHint::FilePath,
                    Some("DIR") => ValueHint::DirPath,
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
