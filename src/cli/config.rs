//! `config`: what holds, what is wrong with it, and what it means for an image.

use super::context::Context;
use super::exit::ExitStatus;
use super::explain::{self, ExplainArgs};
use super::output;
use crate::config::{ServeOptions, show};

const EXAMPLES: &str = "\
Examples:
  overlaybd-proxy config check
  overlaybd-proxy --config ./config.toml config check --cache-size 10GiB

The settings that `serve` would run with go to standard output as TOML, each with where it came
from, without passwords; what is wrong with them goes to standard error, all of it. No registry,
no database and no bucket is asked: `serve` does that when it starts. The verdict goes to standard error.";

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
    /// Print what pulls of an image would get, and why
    #[command(after_help = explain::EXAMPLES)]
    Explain(Box<ExplainArgs>),
}

#[derive(clap::Args)]
struct CheckArgs {
    /// Print the verdict only, and what is wrong
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    options: ServeOptions,
}

pub async fn run(args: ConfigArgs, context: &Context) -> anyhow::Result<ExitStatus> {
    match args.action {
        Action::Check(args) => check(&args, context),
        Action::Explain(args) => Box::pin(explain::run(*args, context)).await,
    }
}

fn check(args: &CheckArgs, context: &Context) -> anyhow::Result<ExitStatus> {
    let (mut sources, mut errors) = context.service();
    let options = args.options.effective(&mut sources, &mut errors);
    let log = context.log_options(&mut sources, &mut errors);
    if !args.quiet {
        output::line(show(&sources).trim_end())?;
    }
    options.read_files(&mut errors);
    let config = options.config(&log, errors)?;
    config.remarks.iter().for_each(output::note);
    output::note("the configuration is good");
    Ok(ExitStatus::Ok)
}
