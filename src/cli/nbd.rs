//! `nbd`: an image's disk as a network block device.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use tokio::net::{TcpListener, UnixListener};

use super::context::Context;
use super::credentials::remove_left;
use super::exit::ExitStatus;
use super::lazy::LazyOptions;
use super::output;
use super::progress::Terminal;
use super::signals;
use crate::lazy::Reading;
use crate::lazy::nbd::{Export, Listener, serve_until};

/// Serve the disk of an image as a network block device (NBD), read-only, fetched as it is read
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  overlaybd-proxy nbd 127.0.0.1:8480/library/redis:7_obd --socket redis.sock
  nbdinfo --map 'nbd+unix:///?socket=redis.sock'
  qemu-system-x86_64 … -drive 'file=nbd+unix:///?socket=redis.sock,format=raw,readonly=on'
  overlaybd-proxy nbd oci:out:7_obd --tcp 127.0.0.1:10809
  nbd-client -name '' 127.0.0.1 10809 /dev/nbd0 && mount -o ro /dev/nbd0 /mnt

The socket is for this user and root, and removed at the end (SIGINT, SIGTERM). Everybody on this
machine can read the disk through an address. Parts that no layer has written are told to clients
as holes.")]
#[command(group(clap::ArgGroup::new("place").required(true).args(["socket", "tcp"])))]
pub struct NbdArgs {
    /// The converted image, or blob files from the bottom up
    #[arg(required = true, value_name = "IMAGE|BLOB")]
    what: Vec<String>,
    /// The socket to listen on; one that another process left is replaced
    #[arg(short, long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// The loopback address to listen on, such as 127.0.0.1:10809
    #[arg(long, value_name = "ADDR", value_parser = loopback)]
    tcp: Option<SocketAddr>,
    #[command(flatten)]
    lazy: LazyOptions,
}

fn loopback(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text
        .parse()
        .map_err(|_| "127.0.0.1:PORT is expected".to_owned())?;
    if address.ip().to_canonical().is_loopback() {
        return Ok(address);
    }
    Err(format!(
        "{address} can be reached from elsewhere, and NBD asks nobody who they are: listen on \
         127.0.0.1 or on a socket, and have it forwarded by what does ask, such as ssh -L"
    ))
}

pub async fn run(args: NbdArgs, context: Context) -> anyhow::Result<ExitStatus> {
    let terminal = Terminal::plain();
    let reading = Reading::default();
    let disk = args
        .lazy
        .open(&args.what, &context, &terminal, reading)
        .await?;
    // Before there is something to remove.
    let signal = signals::shutdown()?;
    let (listener, uri) = match (&args.socket, args.tcp) {
        (Some(path), _) => (bind_socket(path).await?, uri(path)?),
        (None, Some(address)) => {
            let listener = TcpListener::bind(address)
                .await
                .with_context(|| format!("cannot listen on {address}"))?;
            let address = listener.local_addr().unwrap_or(address);
            (Listener::Tcp(listener), format!("nbd://{address}"))
        }
        (None, None) => anyhow::bail!("neither a socket nor an address is given"),
    };
    let export = Export {
        stack: disk.stack,
        description: args.what.join(" "),
    };
    let said = output::line(format_args!("listening on {uri}"));
    if said.is_ok() {
        let shutdown = async {
            let name = signal.await;
            tracing::info!("{name}: ending");
        };
        serve_until(listener, export, shutdown).await;
    }
    if let Some(path) = &args.socket {
        // It may be gone, or another's by now: nothing hangs on it.
        let _ = std::fs::remove_file(path);
    }
    said?;
    Ok(ExitStatus::Ok)
}

async fn bind_socket(path: &Path) -> anyhow::Result<Listener> {
    use std::os::unix::fs::PermissionsExt as _;
    let at = || format!("cannot listen on {}", path.display());
    remove_left(path).await.with_context(at)?;
    let listener = UnixListener::bind(path).with_context(at)?;
    // Who connects before that is refused all the same, by who they are.
    let mode = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(path, mode).with_context(at)?;
    Ok(Listener::Unix(listener))
}

/// What stands for itself in a path of a URI.
const PLAIN: &percent_encoding::AsciiSet = &percent_encoding::NON_ALPHANUMERIC
    .remove(b'/')
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// A socket's URI, by NBD's `doc/uri.md`.
fn uri(path: &Path) -> anyhow::Result<String> {
    use std::os::unix::ffi::OsStrExt as _;
    let path = std::path::absolute(path)?;
    let encoded = percent_encoding::percent_encode(path.as_os_str().as_bytes(), PLAIN);
    Ok(format!("nbd+unix:///?socket={encoded}"))
}
