//! `serve`: the proxy.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::context::Context;
use super::exit::ExitStatus;
use super::progress::Terminal;
use super::reload::{Running, Settings};
use super::start_line::StartLine;
use super::{data, log, output, service, signals, traces};
use crate::config::{ServeOptions, Sources, needs_url_keys};
use crate::convert::Converter;
use crate::server::{Server, ServerConfig, ServerError};
use crate::store::Objects;

const EXAMPLES: &str = "\
Examples:
  In front of Docker Hub, for clients on this machine:
    overlaybd-proxy serve

  For a cluster, with TLS, the results bounded and pushed to the registry behind:
    overlaybd-proxy serve --listen :443 --admin 127.0.0.1:9090 --upstream registry.example.com \\
        --tls-cert server.crt --tls-key server.key --cache-size 200GiB \\
        --push --user robot --password-file /run/secrets/registry

  A layout directory as the registry, nothing else needed:
    overlaybd-proxy serve --upstream oci:/srv/images

  A mirror of several registries, chosen by containerd's `ns`, replicas sharing a database:
    overlaybd-proxy serve --upstream docker.io --upstream ghcr.io --upstream quay.io \\
        --dbstr 'obd:secret@tcp(db:3306)/obd?tls=true'

The addresses that it listens on are printed to standard output, one a line:
`listening on http://127.0.0.1:8480`. SIGTERM and SIGINT have open requests finished within
--drain; a second signal ends the program at once. SIGHUP has certificates, users (--htpasswd),
keys of addresses (--url-key-file), authorities, the proxy's credentials, the settings of upstreams,
[[policy]], balancers (--proxy-protocol, --trusted-proxy), --client-rate and the log's level read
again; what cannot be used is logged, and stays as it was.";

/// The least time that uploads to the bucket are given to be aborted in.
const LEAST_ABORT: Duration = Duration::from_secs(2);

/// Run the proxy
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct ServeArgs {
    #[command(flatten)]
    options: ServeOptions,
    #[command(flatten)]
    password: super::context::PasswordFlag,
}

pub async fn run(args: ServeArgs, context: Context) -> anyhow::Result<ExitStatus> {
    let settings = Settings::new(args.options, context, &args.password)?;
    let (config, sources) = settings.read_with_files()?;
    let started = StartLine::of(&config);
    let level = log::start(config.log, Terminal::plain());
    let shutdown = signals::shutdown().context("signals cannot be received")?;
    signals::survive_file_size_limit().context("signals cannot be received")?;
    let mut hangups = signals::hangups().context("signals cannot be received")?;
    warn_of_open_doors(&config.server);
    if needs_url_keys(&config.store, &config.server) {
        tracing::info!(
            "overlaybd is sent to no signed addresses: with --dbstr there may be replicas, which \
             need one --url-key-file"
        );
    }
    for remark in &config.remarks {
        tracing::warn!("{remark}");
    }
    let upstreams = config.server.upstreams.iter().map(|entry| &entry.upstream);
    let tracing = traces::start(config.traces, upstreams)?;
    let limits = &config.server.limits;
    let last = limits.drain_delay.saturating_add(limits.drain);
    let store = data::open(config.store, sources.origin("data-dir")).await?;
    if let Some(objects) = store.objects() {
        check(objects).await?;
        objects.start();
    }
    let scrubber = config.scrub.map(|rate| store.blobs().scrub(rate));
    let _scrubber = scrubber.transpose()?;
    let converter = Converter::new(store.clone(), config.converter)?;
    let scheme = match config.server.tls {
        Some(_) => "https",
        None => "http",
    };
    let server = Server::bind(config.server, converter.clone()).await;
    let server = server.map_err(|error| named(error, &sources))?;
    tell(format_args!(
        "listening on {scheme}://{}",
        server.local_addr()
    ));
    if let Some(overlaybd) = server.overlaybd_addr() {
        tell(format_args!("overlaybd on {scheme}://{overlaybd}"));
    }
    if let Some(admin) = server.admin_addr() {
        tell(format_args!("admin on http://{admin}"));
    }
    started.log(&server);
    let running = Arc::new(Running {
        settings,
        sources,
        level,
        server: server.reloader(),
        converter,
    });
    let reloads = tokio::spawn(async move {
        while hangups.recv().await.is_some() {
            tracing::info!("SIGHUP: reading the settings again");
            service::reloading().await;
            let running = Arc::clone(&running);
            let reload = tokio::task::spawn_blocking(move || running.reload());
            if let Err(error) = reload.await {
                tracing::error!(%error, "the reload failed");
            }
            service::ready().await;
        }
    });
    let stopping = OnceLock::new();
    service::ready().await;
    let watchdog = service::watchdog();
    let finished = server
        .run(async {
            let signal = shutdown.await;
            let _ = stopping.set(Instant::now());
            tracing::info!(signal, "stopping: open requests are finished first");
            service::stopping().await;
        })
        .await;
    reloads.abort();
    if let Some(objects) = store.objects() {
        let passed = stopping.get().map_or(Duration::ZERO, Instant::elapsed);
        // Requests may have taken all of it.
        let left = last.saturating_sub(passed).max(LEAST_ABORT);
        objects.stop(left).await;
    }
    // A conversion that no request waits for may still run.
    store.abandon_unfinished().await;
    traces::stop(tracing, stopping.get().copied(), last).await;
    // Until here: a drain that hangs is to be noticed, too.
    if let Some(watchdog) = watchdog {
        watchdog.abort();
    }
    if finished {
        tracing::info!("stopped");
        Ok(ExitStatus::Ok)
    } else {
        tracing::warn!("stopped with requests cut off: --drain was too short for them");
        Ok(ExitStatus::CutOff)
    }
}

/// Tries the bucket. One that cannot be used is an error; one that does not answer now may later, and
/// what is on the disk is served meanwhile.
async fn check(objects: &Objects) -> anyhow::Result<()> {
    match objects.check().await {
        Ok(()) => tracing::info!(
            bucket = objects.place(),
            "converted blobs are kept in a bucket"
        ),
        Err(error) if error.is_unavailable() => tracing::warn!(
            %error,
            "the bucket does not answer: blobs stay on this machine until it does"
        ),
        Err(error) => return Err(error).context("the blob store cannot be used"),
    }
    Ok(())
}

/// The error with the setting that it is about, as whoever set it knows it.
fn named(error: ServerError, sources: &Sources) -> anyhow::Error {
    match error {
        ServerError::Listen { setting, .. } => {
            let name = sources.origin(setting).name(setting);
            let text = format!("{name}: {error}");
            anyhow::Error::new(error).context(text)
        }
        ServerError::Configuration(_) => error.into(),
    }
}

/// Says where it listens. That this cannot be written is no reason not to.
fn tell(line: std::fmt::Arguments<'_>) {
    if let Err(error) = output::line(line) {
        tracing::warn!(%error, "standard output cannot be written to; {line}");
    }
}

/// Says what whoever comes may do, where nobody has to say who they are.
fn warn_of_open_doors(config: &ServerConfig) {
    if !config.is_for_anyone() {
        return;
    }
    let what = if config.read_only {
        "whoever reaches this address reads with the proxy's own credentials: set --htpasswd, or \
         --tls-client-ca; pushes and deletes are refused (--read-only)"
    } else if config.allow_anonymous_push {
        "whoever reaches this address reads, pushes and deletes with the proxy's own credentials \
         (--allow-anonymous-push): set --htpasswd, or --tls-client-ca"
    } else {
        "whoever reaches this address reads with the proxy's own credentials: set --htpasswd, or \
         --tls-client-ca; pushes and deletes are refused (--allow-anonymous-push allows them)"
    };
    for listen in [Some(config.listen), config.listen_overlaybd] {
        let Some(listen) = listen else { continue };
        if listen.ip().to_canonical().is_loopback() {
            // That is this machine's users and its containers on the host's network.
            tracing::info!(%listen, "{what}");
        } else {
            tracing::warn!(%listen, "{what}");
        }
    }
}
