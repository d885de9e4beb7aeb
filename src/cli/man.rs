//! `man`: the manual's pages.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Command;

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
            .and_then(|()| write_all(&command, directory))
            .with_context(|| format!("--dir {} cannot be written to", directory.display()))?;
    } else {
        std::io::stdout().write_all(&page(&command)?)?;
    }
    Ok(ExitStatus::Ok)
}

fn write_all(command: &Command, directory: &Path) -> io::Result<()> {
    let name = command.get_display_name().unwrap_or(command.get_name());
    std::fs::write(directory.join(format!("{name}.1")), page(command)?)?;
    let commands = command
        .get_subcommands()
        .filter(|command| !command.is_hide_set());
    for command in commands {
        write_all(command, directory)?;
    }
    Ok(())
}

/// One page, of this program's version.
fn page(command: &Command) -> io::Result<Vec<u8>> {
    let mut page = Vec::new();
    let man = clap_mangen::Man::new(command.clone());
    let version = concat!(env!("CARGO_PKG_NAME"), " ", env!("CARGO_PKG_VERSION"));
    man.source(version).render(&mut page)?;
    // Examples are to be copied: no word is divided at a line's end, no blanks are put in.
    let title = page.windows(4).position(|part| part == b"\n.TH");
    let end =
        title.and_then(|at| Some(at + 2 + page.get(at + 1..)?.iter().position(|b| *b == b'\n')?));
    if let Some(end) = end {
        page.splice(end..end, b".nh\n.ad l\n".iter().copied());
    }
    Ok(page)
}
