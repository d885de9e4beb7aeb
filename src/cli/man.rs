//! `man`: the manual's pages.

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;

use super::exit::ExitStatus;

/// Print the manual's page, or write the pages of all commands
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  overlaybd-proxy man | man -l -
  overlaybd-proxy man --dir /usr/local/share/man/man1")]
pub struct ManArgs {
    /// Write a page for each command into this directory
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub fn run(args: &ManArgs) -> anyhow::Result<ExitStatus> {
    let mut command = super::command();
    command.build();
    if let Some(directory) = &args.dir {
        std::fs::create_dir_all(directory)
            .and_then(|()| clap_mangen::generate_to(command, directory))
            .with_context(|| format!("{} cannot be written to", directory.display()))?;
    } else {
        let mut page = Vec::new();
        clap_mangen::Man::new(command).render(&mut page)?;
        std::io::stdout().write_all(&page)?;
    }
    Ok(ExitStatus::Ok)
}
