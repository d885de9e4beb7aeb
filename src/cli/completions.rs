//! `completions`: for shells.

use std::io::Write as _;

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
    clap_complete::generate(
        args.shell,
        &mut super::command(),
        "overlaybd-proxy",
        &mut text,
    );
    std::io::stdout().write_all(&text)?;
    Ok(ExitStatus::Ok)
}
