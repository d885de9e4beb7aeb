//! `credentials`: overlaybd is told what Docker's `config.json` and its helpers know.
//!
//! overlaybd reads blobs itself and cannot run credential helpers. With `credentialConfig` in its
//! configuration it asks such a server (modes `http` and `uds`, `src/image_service.cpp`).
// The comments of options are their help texts.
#![allow(clippy::doc_markdown)]

mod answer;
mod known;
mod listen;
mod question;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;

use super::context::Context;
use super::exit::ExitStatus;
use super::progress::Terminal;
use super::standalone::usage;
use super::{log, output, signals};
use crate::config::duration;
use crate::registry::{DockerLogin, DockerLogins};
use known::Known;
use listen::Listen;
pub use listen::remove_left;
use question::Question;

const EXAMPLES: &str = "\
Examples:
  For overlaybd-tcmu on this node, which asks through a socket; in /etc/overlaybd/overlaybd.json
  \"credentialConfig\": {\"mode\": \"uds\", \"path\": \"/run/overlaybd-proxy/credentials.sock\"}:
    overlaybd-proxy credentials --listen unix:/run/overlaybd-proxy/credentials.sock \\
        --docker-config /root/.docker/config.json

  For an older one, which asks over TCP;
  \"credentialConfig\": {\"mode\": \"http\", \"path\": \"http://127.0.0.1:19876/auth\"}:
    overlaybd-proxy credentials --listen 127.0.0.1:19876

  Are there credentials for this image? The password is not shown:
    overlaybd-proxy credentials --for registry.example.com/team/app

A socket may be asked by root and by the user that this runs as; a TCP port by every user of this
machine. Helpers run ahead, once for all who ask; while one is slow or fails, what it answered last
is given. Only users with passwords can be used: overlaybd knows no identity or registry tokens.
SIGHUP forgets all answers; so does a change of the file.";

/// Answer overlaybd's questions for credentials from Docker's configuration and helpers
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct CredentialsArgs {
    /// Where to listen: unix:PATH, or a loopback address with a port
    #[arg(long, value_name = "ADDRESS", required_unless_present = "of")]
    listen: Option<Listen>,
    /// Say whether there are credentials for an image or a blob's address, and end
    #[arg(
        long = "for",
        id = "of",
        value_name = "IMAGE|URL",
        conflicts_with = "listen"
    )]
    of: Option<String>,
    /// Docker's config.json [default: $DOCKER_CONFIG/config.json or ~/.docker/config.json]
    #[arg(long, value_name = "FILE")]
    docker_config: Option<PathBuf>,
    /// How long a question may wait for a helper; overlaybd waits for a second, unless
    /// credentialConfig.timeout says more
    #[arg(long, value_name = "TIME", default_value = "800ms", value_parser = duration)]
    answer_within: Duration,
    /// How long a helper may take
    #[arg(long, value_name = "TIME", default_value = "15s", value_parser = duration)]
    helper_timeout: Duration,
    /// How long the last answer of a helper may be given while it is slow or fails; 0s: never
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = duration)]
    stale: Duration,
}

pub async fn run(args: CredentialsArgs, context: Context) -> anyhow::Result<ExitStatus> {
    let (mut sources, mut errors) = context.personal();
    let log_options = context.log_options(&mut sources, &mut errors);
    let log_config = log_options.config(&mut errors);
    let file = args
        .docker_config
        .filter(|path| !path.as_os_str().is_empty());
    let logins = DockerLogins::new(file, args.helper_timeout);
    if let Some(of) = &args.of {
        errors.none_or(Some(()))?;
        return tell(of, &logins).await;
    }
    let log_config = errors.none_or(log_config)?;
    let Some(listen) = args.listen else {
        return Err(usage("--listen is needed, or --for").into());
    };
    let _level = log::start(log_config, Terminal::plain());
    let shutdown = signals::shutdown().context("signals cannot be received")?;
    let mut hangups = signals::hangups().context("signals cannot be received")?;
    let server = listen.bind().await?;
    if let Err(error) = output::line(format_args!("listening on {}", server.address())) {
        tracing::warn!(%error, "standard output cannot be written to");
    }
    match logins.path() {
        Some(path) if !path.exists() => {
            tracing::warn!(file = %path.display(), "there is no such file yet: it is read when \
                it comes");
        }
        Some(path) => tracing::info!(file = %path.display(), "credentials come from here"),
        None => tracing::warn!("neither DOCKER_CONFIG nor HOME is set: name --docker-config"),
    }
    let known = Arc::new(Known::new(logins, args.answer_within, args.stale));
    let ahead = tokio::spawn(known::run_ahead(Arc::clone(&known)));
    let forgetting = Arc::clone(&known);
    let forget = tokio::spawn(async move {
        while hangups.recv().await.is_some() {
            tracing::info!("SIGHUP: all answers are forgotten");
            forgetting.forget();
        }
    });
    server
        .answer_until(known, async {
            let signal = shutdown.await;
            tracing::info!(signal, "stopping");
        })
        .await;
    ahead.abort();
    forget.abort();
    Ok(ExitStatus::Ok)
}

/// Says whether there are credentials, and for whom.
async fn tell(of: &str, logins: &DockerLogins) -> anyhow::Result<ExitStatus> {
    let question = Question::of_image_or_address(of).map_err(|why| usage(&why))?;
    let found = logins
        .find(&question.host, question.repo.as_deref())
        .await?;
    let place = question.place();
    let from = logins.path().map(|path| path.display().to_string());
    let from = from.unwrap_or_else(|| "no config.json".to_owned());
    let status = match &found {
        DockerLogin::Password { .. } => ExitStatus::Ok,
        _ => ExitStatus::Failed,
    };
    match found {
        DockerLogin::Password { username, .. } => output::line(format_args!(
            "{place}: user {username:?} and a password, from {from}"
        ))?,
        DockerLogin::Nothing => {
            output::line(format_args!(
                "{place}: no credentials in {from} or its helpers"
            ))?;
        }
        DockerLogin::IdentityToken => {
            output::line(format_args!("{place}: {}", answer::IDENTITY_TOKEN))?;
        }
        DockerLogin::RegistryToken => {
            output::line(format_args!("{place}: {}", answer::REGISTRY_TOKEN))?;
        }
    }
    Ok(status)
}
