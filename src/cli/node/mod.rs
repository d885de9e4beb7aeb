//! `node check`: whether this machine is set up to run converted images, and what to mend.

mod containerd;
mod hosts;
mod image;
mod kernel;
mod logins;
mod network;
mod overlaybd;
mod report;
mod root;
mod snapshotter;
mod staged;
mod tls;
mod wire;

use std::path::PathBuf;

use anyhow::Context as _;
use url::Url;

use super::context::Context;
use super::exit::ExitStatus;
use super::progress::Terminal;
use super::standalone::usage;
use report::Report;
use root::Root;

const EXAMPLES: &str = "\
Examples:
  On a node, as root:
    overlaybd-proxy node check

  With the proxy's address, by whose name images are pulled, and a read of one of them:
    overlaybd-proxy node check --proxy https://proxy.example.com:8480 \\
        --image proxy.example.com:8480/library/redis:7_obd

  In a pod of Kubernetes that has the node's root at /host:
    overlaybd-proxy node check --root /host --json

Each point is ok, a warning or wrong, with the file and the line to add. Nothing is changed. The
exit code is 1 if something is wrong.";

/// Look at a node that runs converted images
#[derive(clap::Args)]
pub struct NodeArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Say what is set up on this machine, and what to mend
    #[command(after_help = EXAMPLES)]
    Check(CheckArgs),
}

#[derive(clap::Args)]
struct CheckArgs {
    /// Read a blob of this image as overlaybd does
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    /// The proxy; without it, whatever hosts.toml files lead to
    #[arg(
        long,
        value_name = "URL",
        env = "OVERLAYBD_PROXY_PROXY",
        hide_env_values = true
    )]
    proxy: Option<String>,
    /// The node's root directory; links stay within it
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    /// containerd's configuration, as the node sees it
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/etc/containerd/config.toml"
    )]
    containerd_config: String,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Ask nothing over the network
    #[arg(long, conflicts_with = "image")]
    offline: bool,
}

pub async fn run(args: NodeArgs, context: Context) -> anyhow::Result<ExitStatus> {
    let Action::Check(args) = args.action;
    let (mut sources, mut errors) = context.personal();
    context.start_log(&mut sources, &mut errors, &Terminal::plain(), &[]);
    errors.none_or(Some(()))?;
    let proxy = args.proxy.as_deref().filter(|text| !text.is_empty());
    let proxy = proxy.map(address).transpose()?;
    let shown = args.root.display().to_string();
    let root = Root::open(&args.root).with_context(|| format!("--root {shown}"))?;
    let mut report = Report::default();
    let containerd = containerd::check(&root, &args.containerd_config, &mut report);
    let registries = hosts::check(&root, &containerd, proxy.as_ref(), &mut report);
    let snapshotter = snapshotter::check(&root, &containerd, proxy.as_ref(), &mut report);
    let overlaybd = overlaybd::check(&root, &mut report);
    kernel::check(&root, &mut report);
    kernel::services(&root, &snapshotter, &mut report).await;
    if args.offline {
        report.skipped("proxy", "nothing is asked over the network");
    } else {
        overlaybd
            .ask_for_credentials(&root, proxy.as_ref(), &mut report)
            .await;
        network::check(&root, &registries, proxy.as_ref(), &overlaybd, &mut report).await;
    }
    if let Some(name) = &args.image {
        let node = image::Node {
            root: &root,
            registries: &registries,
            snapshotter: &snapshotter,
            overlaybd: &overlaybd,
        };
        image::check(&node, name, &mut report).await?;
    }
    report.print(args.json)?;
    Ok(if report.wrongs() == 0 {
        ExitStatus::Ok
    } else {
        ExitStatus::Failed
    })
}

/// The address of the proxy's API.
fn address(text: &str) -> anyhow::Result<Url> {
    let wrong = || usage("--proxy: http://HOST:PORT or https://HOST:PORT is expected");
    let whole = if text.contains("://") {
        text.to_owned()
    } else {
        format!("https://{text}")
    };
    let mut url: Url = whole.parse().map_err(|_| wrong())?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() || !url.username().is_empty() {
        return Err(wrong().into());
    }
    url.set_path("/v2");
    url.set_query(None);
    url.set_fragment(None);
    Ok(url)
}
