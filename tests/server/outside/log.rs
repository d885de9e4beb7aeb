//! A log that cannot be written to ends nothing.

use std::fs::File;
use std::net::TcpListener;
use std::process::{Child, Stdio};

use crate::outside::image;
use crate::support::http;
use crate::support::layout::Layout;
use crate::support::proxy::program;
use crate::support::until::until;

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_full_or_closed_output_does_not_end_the_server() {
    let scratch = tempfile::tempdir().unwrap();
    let layout = Layout::create(&scratch.path().join("layout"));
    layout.add("1", &image(1));
    let full = || Stdio::from(File::create("/dev/full").unwrap());
    let closed = || {
        let (_reader, writer) = std::io::pipe().unwrap();
        Stdio::from(writer)
    };
    for (place, output, error) in [(0, full(), full()), (1, closed(), closed())] {
        // It cannot say which port it took, so it gets one that is free a moment before.
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let mut command = program();
        command
            .args(["--log-level", "trace", "serve", "--upstream"])
            .arg(format!("oci:{}", layout.path().display()))
            .args(["--listen", &format!("127.0.0.1:{port}"), "--data-dir"])
            .arg(scratch.path().join(format!("data-{place}")))
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(error);
        let mut running = Running(command.spawn().unwrap());
        let url = format!("http://127.0.0.1:{port}/v2/");
        until("it answers", || {
            let ended = running.0.try_wait().unwrap();
            assert_eq!(ended, None, "it ended");
            http::try_send("GET", &url, &[], b"").ok()
        });
        for _ in 0..20 {
            assert_eq!(http::send("GET", &url, &[], b"").status, 200);
        }
        let pid = i32::try_from(running.0.id()).unwrap();
        let pid = nix::unistd::Pid::from_raw(pid);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        assert!(running.0.wait().unwrap().success());
    }
}
