//! Wrong passwords cost their senders time, and nobody else.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::sys::signal::Signal;

use crate::outside::{PLATFORM, head_from, image};
use crate::registry_support::{find, run};
use crate::support::layout::Layout;
use crate::support::proxy::Proxy;
use crate::support::until::until;
use crate::support::{http, skip};

const WRONG: usize = 300;

fn line(user: &str, password: &str) -> String {
    let mut command = std::process::Command::new("htpasswd");
    let output = run(command.args(["-nbB", "-C", "11", user, password]));
    format!("{}\n", output.trim())
}

fn authorization(user: &str, password: &str) -> String {
    use base64::Engine as _;
    let pair = base64::prelude::BASE64_STANDARD.encode(format!("{user}:{password}"));
    format!("Basic {pair}")
}

fn scene() -> Option<(Proxy, std::path::PathBuf, tempfile::TempDir)> {
    if find("htpasswd").is_none() {
        skip("htpasswd is not installed: apt-get install apache2-utils");
        return None;
    }
    let scratch = tempfile::tempdir().unwrap();
    let layout = Layout::create(&scratch.path().join("layout"));
    layout.add("1", &image(1));
    let users = scratch.path().join("users");
    std::fs::write(&users, line("ann", "right") + &line("bob", "right")).unwrap();
    let upstream = format!("oci:{}", layout.path().display());
    let options = [&PLATFORM[..], &["--htpasswd", users.to_str().unwrap()]].concat();
    let proxy = Proxy::start(&upstream, &scratch.path().join("data"), &options);
    Some((proxy, users, scratch))
}

fn login(proxy: &Proxy, user: &str, password: &str) -> u16 {
    let authorization = authorization(user, password);
    let url = format!("{}/v2/", proxy.url());
    http::send("GET", &url, &[("authorization", &authorization)], b"").status
}

#[test]
fn a_right_password_does_not_wait_for_hundreds_of_wrong_ones() {
    let Some((proxy, ..)) = scene() else { return };
    assert_eq!(login(&proxy, "ann", "right"), 200);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let host: Arc<str> = proxy.host().into();
    let (checked, turned_away) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let wrong: Vec<_> = (0..WRONG)
        .map(|number| {
            let host = Arc::clone(&host);
            let (checked, turned_away) = (Arc::clone(&checked), Arc::clone(&turned_away));
            runtime.spawn(async move {
                let pair = authorization("ann", &format!("wrong-{number}"));
                let headers = format!("Authorization: {pair}\r\n");
                let head = head_from([127, 0, 0, 2], &host, "/v2/", &headers).await;
                match head.split(' ').nth(1).unwrap_or_default() {
                    "401" => checked.fetch_add(1, Ordering::SeqCst),
                    "429" if head.contains("retry-after: ") => {
                        turned_away.fetch_add(1, Ordering::SeqCst)
                    }
                    _ => panic!("{head:?}"),
                }
            })
        })
        .collect();
    until("some are turned away", || {
        (turned_away.load(Ordering::SeqCst) > 0).then_some(())
    });
    // One that was checked before, and one that was not; neither from that address.
    assert_eq!(login(&proxy, "ann", "right"), 200);
    assert_eq!(login(&proxy, "bob", "right"), 200);
    let before = checked.load(Ordering::SeqCst);
    assert!(before < 10, "{before} wrong ones were checked before it");
    // Nor does who is known wait at the very address that the others come from.
    let pair = authorization("bob", "right");
    let headers = format!("Authorization: {pair}\r\n");
    let head = runtime.block_on(head_from([127, 0, 0, 2], &host, "/v2/", &headers));
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    for one in wrong {
        runtime.block_on(one).unwrap();
    }
}

#[test]
fn a_right_password_is_cached_until_the_file_changes() {
    let Some((proxy, users, _scratch)) = scene() else {
        return;
    };
    assert_eq!(login(&proxy, "ann", "right"), 200);
    assert_eq!(login(&proxy, "ann", "new"), 401);
    std::fs::write(&users, line("ann", "new")).unwrap();
    proxy.signal(Signal::SIGHUP);
    until("the new password is right", || {
        (login(&proxy, "ann", "new") == 200).then_some(())
    });
    assert_eq!(login(&proxy, "ann", "right"), 401);
    assert_eq!(login(&proxy, "bob", "right"), 401);
}
