//! `config check`: what holds, and what is wrong with it.

use super::context::Context;
use super::exit::ExitStatus;
use super::output;
use crate::config::{ServeOptions, show};

const EXAMPLES: &str = "\
Examples:
  overlaybd-proxy config check
  overlaybd-proxy --config ./config.toml config check --cache-size 10GiB

The settings that `serve` would run with go to standard output as TOML, each with where it came
from, without passwords; what is wrong with them goes to standard error, all of it. No registry
and no database is asked. The verdict goes to standard error.";

/// Examine the configuration
#[derive(clap::Args)]
pub struct ConfigArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Print the effective settings and everything that is wrong with them
    #[command(after_help = EXAMPLES)]
    Check(Box<CheckArgs>),
}

#[derive(clap::Args)]
struct CheckArgs {
    /// Print the verdict only, and what is wrong
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    options: ServeOptions,
}

pub fn run(args: ConfigArgs, context: &Context) -> anyhow::Result<ExitStatus> {
    let Action::Check(args) = args.action;
    let (mut layers, mut mistakes) = context.service();
    let options = args.options.effective(&mut layers, &mut mistakes);
    let log = context.log_options(&mut layers, &mut mistakes);
    if !args.quiet {
        output::line(show(&layers).trim_end())?;
    }
    options.config(&log, mistakes)?;
    output::note("the configuration is good");
    Ok(ExitStatus::Ok)
}
