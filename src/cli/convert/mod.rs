//! `convert`: one image, now.

mod dump;
mod plan;
mod work;

use std::path::PathBuf;
use std::sync::OnceLock;

use anyhow::Context as _;

use super::context::{Context, PasswordFlag};
use super::exit::ExitStatus;
use super::output;
use super::progress::{ProgressOptions, Terminal};
use super::signals;
use super::standalone::StandaloneOptions;
use super::traces;
use crate::config::Text;
use crate::config::options::{ConversionOptions, RegistryOptions, StoreOptions, TraceOptions};
use plan::plan;
use work::convert_all;

const EXAMPLES: &str = "\
Examples:
  From Docker Hub into a layout directory:
    overlaybd-proxy convert redis:7 oci:out:7_obd

  Between two registries, layers that were converted before found in the database:
    overlaybd-proxy convert docker.io/library/redis:7 registry.example.com/redis:7_obd \\
        --user robot --password-file secret --dbstr 'obd:secret@tcp(db:3306)/obd'

  All platforms, LZ4 in blocks of 4 KiB as the reference's tools choose, without a registry:
    overlaybd-proxy convert --platform all --algorithm lz4 --bs 4 \\
        oci-archive:redis.tar:7 oci-archive:redis_obd.tar:7

  With the files that redis reads when it starts next to each other:
    overlaybd-proxy convert --prefetch-list redis.list redis:7 oci:out:7_obd

  In TurboOCI form: small layers that point into the original ones:
    overlaybd-proxy convert --turbo registry.example.com/redis:7 registry.example.com/redis:7_turbo

  As the reference's standalone converter is called:
    overlaybd-proxy convert -r registry.example.com/redis -i 7 -o 7_obd

Images are [HOST/]REPO[:TAG], oci:DIR[:TAG] or oci-archive:FILE[:TAG]; https:// or http:// before
HOST chooses TLS or plain HTTP. --user is for the registry of DST, and for that of SRC where both
are one or DST is none; --src-user and --dst-user say it for each. What was converted is kept in
--data-dir if that is given, and else only as long as the command runs. The configuration file is
read when --config names one.";

/// Convert one image and put it where it is wanted
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct ConvertArgs {
    /// The image to convert
    #[arg(value_name = "SRC", required_unless_present = "repository")]
    source: Option<String>,
    /// Where the converted image goes
    #[arg(value_name = "DST", required_unless_present_any = ["repository", "no_upload"])]
    destination: Option<String>,
    /// Convert, but put the result nowhere
    #[arg(long)]
    no_upload: bool,
    /// Write manifest.json, config.json and index.json into --dir
    #[arg(long)]
    dump_manifest: bool,
    /// Make a TurboOCI image: small layers that point into those of SRC, which is copied along
    /// where DST is in another repository
    #[arg(long)]
    turbo: bool,
    /// Directory for temporary data and dumped manifests [default: in an oci: DST or
    /// beside an oci-archive: one, else the system's; and here]
    #[arg(short, long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Credentials for the registry of SRC: NAME:PASSWORD
    #[arg(long, value_name = "NAME:PASSWORD", help_heading = "Registries")]
    #[arg(env = "OVERLAYBD_PROXY_SRC_USER", hide_env_values = true)]
    src_user: Option<Text>,
    /// Credentials for the registry of DST: NAME:PASSWORD
    #[arg(long, value_name = "NAME:PASSWORD", help_heading = "Registries")]
    #[arg(env = "OVERLAYBD_PROXY_DST_USER", hide_env_values = true)]
    dst_user: Option<Text>,
    /// Certificate and key that are shown to registries: CERT:KEY
    #[arg(long, value_name = "CERT:KEY", help_heading = "Registries")]
    #[arg(conflicts_with_all = ["upstream_cert", "upstream_key"])]
    client_cert: Option<String>,
    /// Log the heads of all requests and responses, without credentials
    #[arg(long, help_heading = "Log")]
    http_dump: bool,
    /// Log how connections are made and used
    #[arg(long, help_heading = "Log")]
    http_trace: bool,
    #[command(flatten)]
    standalone: StandaloneOptions,
    #[command(flatten)]
    progress: ProgressOptions,
    #[command(flatten)]
    conversion: ConversionOptions,
    #[command(flatten)]
    store: StoreOptions,
    #[command(flatten)]
    registry: RegistryOptions,
    #[command(flatten)]
    traces: TraceOptions,
    #[command(flatten)]
    password: PasswordFlag,
}

pub async fn run(args: ConvertArgs, context: Context) -> anyhow::Result<ExitStatus> {
    let terminal = Terminal::choose(args.progress);
    let shutdown = signals::shutdown().context("signals cannot be received")?;
    let store = OnceLock::new();
    let mut plan = plan(&args, &context, &terminal)?;
    let (config, warnings) = std::mem::take(&mut plan.traces);
    for warning in &warnings {
        tracing::warn!("{warning}");
    }
    let tracing = traces::start(config, std::iter::once(&plan.upstream))?;
    let span = traces::command("overlaybd-proxy convert");
    let work = span.around(convert_all(&args, plan, &store, &terminal));
    tokio::pin!(work);
    let done = tokio::select! {
        done = &mut work => done,
        signal = shutdown => {
            // Before the directory of temporary data goes, which nothing is to be put into then.
            if let Some(store) = store.get() {
                store.abandon_unfinished().await;
            }
            output::note(format_args!(
                "{signal}: given up; what was finished in --data-dir stays"
            ));
            Ok(ExitStatus::Interrupted)
        }
    };
    if !matches!(done, Ok(ExitStatus::Ok)) {
        // The text of an error may have a signed address.
        span.fail("failed", "");
    }
    drop(span);
    traces::end(tracing).await;
    done
}
