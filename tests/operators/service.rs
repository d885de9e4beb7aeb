//! What a service manager is told while `serve` starts, reads its settings again, and ends.

use crate::support;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use nix::sys::signal::Signal;
use support::http;
use support::layout::Layout;
use support::proxy::{Proxy, program};

/// Messages on a socket as `NOTIFY_SOCKET` names one.
struct Manager {
    socket: UnixDatagram,
}

impl Manager {
    /// The next message that is none of the watchdog's, and whether one of these came before it.
    #[track_caller]
    fn next(&self) -> (String, bool) {
        let mut is_alive = false;
        loop {
            let mut buffer = [0; 4096];
            let length = self.socket.recv(&mut buffer).unwrap();
            let text = String::from_utf8(buffer[..length].to_vec()).unwrap();
            if text != "WATCHDOG=1\n" {
                return (text, is_alive);
            }
            is_alive = true;
        }
    }
}

#[test]
fn a_service_manager_is_told_when_it_serves_reloads_and_ends() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_mins(2)))
        .unwrap();
    let manager = Manager { socket };
    let layout = Layout::create(&place.path().join("images"));
    let upstream = format!("oci:{}", layout.path().display());
    let mut command = program();
    command.env("NOTIFY_SOCKET", &path);
    command.env("WATCHDOG_USEC", "20000");
    let proxy = Proxy::start_as(command, &upstream, &place.path().join("data"), &[]);
    assert_eq!(manager.next().0, "READY=1\n");
    assert_eq!(proxy.get("").status, 200);
    // Sockets keep the order: those of the time in between come before the next message.
    let mut beats = 0;
    while beats < 3 {
        let mut buffer = [0; 100];
        let length = manager.socket.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"WATCHDOG=1\n");
        beats += 1;
    }
    proxy.signal(Signal::SIGHUP);
    let (reloading, _) = manager.next();
    let time = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=");
    let time = time.and_then(|time| time.strip_suffix('\n')?.parse::<u64>().ok());
    assert!(time.is_some_and(|time| time > 0), "{reloading:?}");
    assert_eq!(manager.next().0, "READY=1\n");
    assert_eq!(http::get(&format!("{}/readyz", proxy.admin())).status, 200);
    // Another signal would end it at once; and a manager that does not read in time delays nothing.
    std::thread::scope(|scope| {
        let ending = scope.spawn(|| proxy.stop());
        assert_eq!(manager.next().0, "STOPPING=1\n");
        ending.join().unwrap();
    });
}

#[test]
fn a_manager_that_is_away_keeps_nobody_from_serving() {
    let place = tempfile::tempdir().unwrap();
    let layout = Layout::create(&place.path().join("images"));
    let upstream = format!("oci:{}", layout.path().display());
    let mut command = program();
    command.env("NOTIFY_SOCKET", place.path().join("nobody"));
    let proxy = Proxy::start_as(command, &upstream, &place.path().join("data"), &[]);
    support::until::until("it is logged", || {
        proxy
            .log()
            .contains("(NOTIFY_SOCKET) cannot be told")
            .then_some(())
    });
    assert_eq!(proxy.get("").status, 200);
    proxy.stop();
}
