//! After the signal to stop: who is told, and who is still let in.

use nix::sys::signal::Signal;

use crate::outside::image;
use crate::support::http;
use crate::support::layout::Layout;
use crate::support::proxy::Proxy;
use crate::support::until::until;

#[test]
fn connections_are_accepted_while_readiness_says_that_it_stops() {
    let scratch = tempfile::tempdir().unwrap();
    let layout = Layout::create(&scratch.path().join("layout"));
    layout.add("1", &image(1));
    let upstream = format!("oci:{}", layout.path().display());
    let data = scratch.path().join("data");
    // Longer than any test runs.
    let proxy = Proxy::start(&upstream, &data, &["--drain-delay", "1h"]);
    let readyz = format!("{}/readyz", proxy.admin());
    assert_eq!(http::get(&readyz).text(), "ok\n");
    proxy.signal(Signal::SIGTERM);
    let ready = until("readiness says so", || {
        let ready = http::get(&readyz);
        (ready.status == 503).then_some(ready)
    });
    let text = ready.text();
    assert!(text.starts_with("not ready\ndraining: "), "{text}");
    // Each of these is a connection of its own.
    for _ in 0..3 {
        assert_eq!(proxy.get("demo/manifests/1").status, 200);
    }
    assert!(proxy.log().contains("--drain-delay"), "{}", proxy.log());
    // Who insists need not wait.
    proxy.signal(Signal::SIGTERM);
    until("it ends", || {
        http::try_send("GET", &readyz, &[], b"")
            .is_err()
            .then_some(())
    });
}
