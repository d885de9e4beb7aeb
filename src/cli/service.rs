//! What a service manager is told: that the proxy serves, reads its settings again, and ends
//! (`sd_notify(3)`). Nothing, where none asked for it (`NOTIFY_SOCKET`).

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram as StdDatagram};
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::net::UnixDatagram;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// How long a manager may take to take a message.
const LIMIT: Duration = Duration::from_secs(1);

/// Tells that it serves.
pub(super) async fn ready() {
    tell(&[NotifyState::Ready]).await;
}

/// Tells that it reads its settings again; [`ready`] ends that.
pub(super) async fn reloading() {
    // `Type=notify-reload` needs the time; without it, the message is as for older versions.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]).await,
        Err(_) => tell(&[NotifyState::Reloading]).await,
    }
}

/// Tells that it ends.
pub(super) async fn stopping() {
    tell(&[NotifyState::Stopping]).await;
}

/// Tells twice in each `WatchdogSec=` that it still runs, if it is asked to.
pub(super) fn watchdog() -> Option<JoinHandle<()>> {
    let period = sd_notify::watchdog_enabled()? / 2;
    (!period.is_zero()).then(|| {
        tokio::spawn(async move {
            let mut beats = tokio::time::interval(period);
            loop {
                beats.tick().await;
                tell(&[NotifyState::Watchdog]).await;
            }
        })
    })
}

/// Sends a message. One that cannot be sent is logged: the manager's own time limits decide then.
async fn tell(states: &[NotifyState<'_>]) {
    let Some(address) = std::env::var_os("NOTIFY_SOCKET").filter(|it| !it.is_empty()) else {
        return;
    };
    let mut message = String::new();
    for state in states {
        message.push_str(&state.to_string());
        message.push('\n');
    }
    // Not by the library, which would wait for a manager that does not read.
    let told = async {
        let socket = connected(&address)?;
        match timeout(LIMIT, socket.send(message.as_bytes())).await {
            Ok(sent) => sent.map(|_| ()),
            Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut)),
        }
    };
    if let Err(error) = told.await {
        tracing::warn!(%error, "the service manager (NOTIFY_SOCKET) cannot be told");
    }
}

/// A socket for messages to `address`: a path, or an abstract name behind an `@`.
fn connected(address: &OsStr) -> io::Result<UnixDatagram> {
    let socket = StdDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    match address.as_bytes().strip_prefix(b"@") {
        Some(name) => socket.connect_addr(&SocketAddr::from_abstract_name(name)?)?,
        None => socket.connect(address)?,
    }
    UnixDatagram::from_std(socket)
}
