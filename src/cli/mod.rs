//! The command line: one file a command.

mod admin;
mod aliases;
mod bucket;
mod cache;
mod cat;
mod check;
mod cold_start;
mod completions;
mod config;
mod context;
mod convert;
mod cp;
mod credentials;
mod data;
mod environment;
mod exit;
mod explain;
mod export;
mod find;
mod image;
mod inspect;
mod layer;
mod lazy;
mod listing;
mod log;
mod ls;
mod man;
mod mistyped;
mod mount;
mod nbd;
mod node;
mod output;
mod platforms;
mod progress;
mod push;
mod quoting;
mod reload;
mod serve;
mod service;
mod signals;
mod standalone;
mod start_line;
mod store;
mod temporary;
mod traces;
mod warm;

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;

use clap::builder::TypedValueParser as _;
use clap::{ArgMatches, CommandFactory as _, FromArgMatches as _};
use futures_util::FutureExt as _;

pub use exit::{ExitStatus, end};
pub use output::note;

use crate::config::decorate;
use crate::config::options::LogOptions;
use context::Context;

const EXAMPLES: &str = "\
Examples:
  The proxy in front of Docker Hub, with no configuration; then pull the converted image:
    overlaybd-proxy serve
    nerdctl pull --snapshotter overlaybd 127.0.0.1:8480/library/redis:7_obd

  Convert one image now, into a layout directory:
    overlaybd-proxy convert redis:7 oci:out:7_obd

  Have images converted before anyone pulls them:
    overlaybd-proxy warm --proxy http://127.0.0.1:8480 redis:7 'postgres:16*'

Every option is also an environment variable (--data-dir is OVERLAYBD_PROXY_DATA_DIR) and a key
of the configuration file (data-dir). A flag goes before the environment, that before the file.
";

/// A registry proxy that converts OCI images to overlaybd format as they are pulled
#[derive(clap::Parser)]
#[command(
    name = "overlaybd-proxy",
    version,
    propagate_version = true,
    disable_help_subcommand = true,
    subcommand_required = true,
    arg_required_else_help = true,
    max_term_width = 100,
    after_help = format!("{EXAMPLES}\n{}", exit::EXIT_CODES),
)]
struct Cli {
    /// The configuration file, TOML [default: /etc/overlaybd-proxy/config.toml if it is there]
    #[arg(
        long,
        value_name = "FILE",
        global = true,
        env = "OVERLAYBD_PROXY_CONFIG",
        hide_env_values = true,
        value_parser = clap::builder::OsStringValueParser::new().map(PathBuf::from)
    )]
    config: Option<PathBuf>,
    #[command(flatten)]
    log: LogOptions,
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    Serve(Box<serve::ServeArgs>),
    Convert(Box<convert::ConvertArgs>),
    Warm(Box<warm::WarmArgs>),
    Inspect(Box<inspect::InspectArgs>),
    Export(Box<export::ExportArgs>),
    Ls(Box<ls::LsArgs>),
    Cat(Box<cat::CatArgs>),
    Cp(Box<cp::CpArgs>),
    Find(Box<find::FindArgs>),
    Nbd(Box<nbd::NbdArgs>),
    ColdStart(Box<cold_start::ColdStartArgs>),
    Mount(Box<mount::MountArgs>),
    /// Verify a converted image against its source
    Check(Box<check::CheckArgs>),
    Status(Box<admin::status::StatusArgs>),
    Jobs(Box<admin::jobs::JobsArgs>),
    Images(Box<admin::images::ImagesArgs>),
    Cache(Box<cache::CacheArgs>),
    Store(Box<store::StoreArgs>),
    Config(config::ConfigArgs),
    Credentials(credentials::CredentialsArgs),
    Node(node::NodeArgs),
    Completions(completions::CompletionsArgs),
    Man(man::ManArgs),
}

/// A command line that was understood.
pub struct Invocation {
    cli: Cli,
    matches: ArgMatches,
    /// Options that were written under another of their names.
    aliases: BTreeMap<String, String>,
}

/// The whole command line, as help, completions and man pages need it.
fn command() -> clap::Command {
    decorate(Cli::command())
}

/// Understands the command line, or ends the process with what is wrong with it.
#[must_use]
pub fn parse() -> Invocation {
    let arguments: Vec<_> = std::env::args_os().collect();
    let matches = match command().try_get_matches_from(&arguments) {
        Ok(matches) => matches,
        Err(error) => {
            let error = mistyped::with_switch_hint(error, &command(), &arguments);
            mistyped::without_secrets(error, &arguments).exit()
        }
    };
    match Cli::from_arg_matches(&matches) {
        Ok(cli) => Invocation {
            cli,
            matches,
            aliases: aliases::written(&command(), &arguments),
        },
        Err(error) => mistyped::without_secrets(error.format(&mut command()), &arguments).exit(),
    }
}

/// Runs a command; errors are printed on standard error.
pub async fn run(invocation: Invocation) -> ExitStatus {
    let caught = AssertUnwindSafe(dispatch(invocation)).catch_unwind().await;
    let outcome = caught.unwrap_or_else(|panic| {
        Err(anyhow::anyhow!(
            "a defect in this program or in a library ended the command: {}; nothing half-done \
             was kept; please report it with the lines above",
            crate::panics::text(panic.as_ref())
        ))
    });
    outcome.unwrap_or_else(|error| {
        if output::is_closed(&error) {
            // Whoever read our output has enough of it.
            return ExitStatus::Ok;
        }
        output::note(exit::describe(&error));
        ExitStatus::of(&error)
    })
}

async fn dispatch(invocation: Invocation) -> anyhow::Result<ExitStatus> {
    let Invocation {
        cli,
        matches,
        aliases,
    } = invocation;
    environment::warn_of_unknown(&command());
    let context = Context::new(cli.config, cli.log, &matches, aliases);
    match cli.command {
        Command::Serve(args) => Box::pin(serve::run(*args, context)).await,
        Command::Convert(args) => Box::pin(convert::run(*args, context)).await,
        Command::Warm(args) => Box::pin(warm::run(*args, context)).await,
        Command::Inspect(args) => Box::pin(inspect::run(*args, context)).await,
        Command::Export(args) => Box::pin(export::run(*args, context)).await,
        Command::Ls(args) => Box::pin(ls::run(*args, context)).await,
        Command::Cat(args) => Box::pin(cat::run(*args, context)).await,
        Command::Cp(args) => Box::pin(cp::run(*args, context)).await,
        Command::Find(args) => Box::pin(find::run(*args, context)).await,
        Command::Nbd(args) => Box::pin(nbd::run(*args, context)).await,
        Command::ColdStart(args) => Box::pin(cold_start::run(*args, context)).await,
        Command::Mount(args) => Box::pin(mount::run(*args, context)).await,
        Command::Check(args) => Box::pin(check::run(*args, context)).await,
        Command::Status(args) => Box::pin(admin::status::run(*args, context)).await,
        Command::Jobs(args) => Box::pin(admin::jobs::run(*args, context)).await,
        Command::Images(args) => Box::pin(admin::images::run(*args, context)).await,
        Command::Cache(args) => Box::pin(cache::run(*args, context)).await,
        Command::Store(args) => Box::pin(store::run(*args, context)).await,
        Command::Credentials(args) => Box::pin(credentials::run(args, context)).await,
        Command::Node(args) => Box::pin(node::run(args, context)).await,
        Command::Config(args) => Box::pin(config::run(args, &context)).await,
        Command::Completions(args) => completions::run(&args),
        Command::Man(args) => man::run(&args),
    }
}
