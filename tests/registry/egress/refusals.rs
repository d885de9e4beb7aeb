//! What is said when an egress proxy does not do what it should.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::squid::Settings;
use super::{NAME, OTHER, Place, Secure, finish, program};

/// Converts from `image` through `proxy`, and gives what it printed.
fn converted(image: &str, proxy: &str, more: &[&str]) -> (bool, String) {
    let out = tempfile::tempdir().unwrap();
    let mut command = program();
    command.args([
        "convert",
        "--platform=linux/amd64",
        "--attempts=1",
        "--log-level=trace",
    ]);
    command.args(["--egress-proxy", proxy]).args(more);
    command.args([
        image,
        &format!("oci:{}:x", out.path().join("out").display()),
    ]);
    finish(command)
}

/// The last line is the error.
#[track_caller]
fn says(text: &str, parts: &[&str]) {
    let error = text.lines().last().unwrap_or_default();
    for part in parts {
        assert!(error.contains(part), "{part} in {error}");
    }
}

#[test]
fn credentials_are_shown_to_the_egress_proxy_and_are_never_printed() {
    let user = Some(("me", "s3cr@t"));
    let Some(secure) = Secure::with(
        &Settings {
            user,
            ..Settings::default()
        },
        false,
    ) else {
        return;
    };
    let squid = &secure.place.squid;
    let tls = format!("https://{NAME}:{}/app:1", secure.port());
    let plain = format!("http://{}/app:1", secure.place.host());
    let ca = ["--upstream-ca", &secure.ca];
    for (image, method) in [(&tls, "CONNECT"), (&plain, "GET")] {
        let (went_well, text) = converted(image, &squid.url_as("me", "s3cr%40t"), &ca);
        assert!(went_well, "{text}");
        for secret in ["s3cr", &BASE64_STANDARD.encode("me:s3cr@t")] {
            assert!(!text.contains(secret), "{text}");
        }
        let log = squid.log();
        let is_mine = |line: &&String| line.starts_with(method) && line.ends_with(" 200 me");
        assert!(log.iter().any(|line| is_mine(&line)), "{log:?}");
        for (proxy, part) in [
            (squid.url_as("me", "wr0ng"), "does not take the credentials"),
            (squid.url(), "wants credentials"),
        ] {
            let (went_well, text) = converted(image, &proxy, &ca);
            assert!(!went_well, "{text}");
            says(
                &text,
                &[
                    part,
                    "407",
                    &squid.url(),
                    "the egress proxy",
                    "USER:PASSWORD@",
                ],
            );
            for secret in ["wr0ng", &BASE64_STANDARD.encode("me:wr0ng")] {
                assert!(!text.contains(secret), "{text}");
            }
        }
    }
}

#[test]
fn an_egress_proxy_that_speaks_tls_must_have_a_certificate_that_is_trusted() {
    let Some(secure) = Secure::with(&Settings::default(), true) else {
        return;
    };
    let squid = &secure.place.squid;
    let tls = format!("https://{NAME}:{}/app:1", secure.port());
    let plain = format!("http://{}/app:1", secure.place.host());
    for (image, is_tunnel) in [(&tls, true), (&plain, false)] {
        let before = squid.log().len();
        let (went_well, text) = converted(image, &squid.tls_url(), &["--upstream-ca", &secure.ca]);
        assert!(went_well, "{text}");
        let log = squid.log().split_off(before);
        let log = log.iter().filter(|line| line.contains(NAME));
        let ways: Vec<bool> = log.map(|line| line.starts_with("CONNECT")).collect();
        assert!(!ways.is_empty() && ways.iter().all(|way| *way == is_tunnel));
        // That a registry's certificate is not verified does not open this door.
        let before = squid.log().len();
        for more in [&[][..], &["--skip-verify=true"]] {
            let (went_well, text) = converted(image, &squid.tls_url(), more);
            assert!(!went_well, "{text}");
            says(
                &text,
                &["the egress proxy", &squid.tls_url(), "--upstream-ca"],
            );
        }
        // Of a handshake that is broken off the log has a line too, but no request.
        let log = squid.log().split_off(before);
        assert!(!log.iter().any(|line| line.contains(NAME)), "{log:?}");
    }
    let (went_well, text) = converted(&tls, &squid.url().replace("http:", "https:"), &[]);
    assert!(!went_well, "{text}");
    says(
        &text,
        &["the egress proxy", "does not speak TLS: write http://"],
    );
}

#[test]
fn a_host_that_the_egress_proxy_does_not_allow_or_cannot_reach_is_named() {
    let denied = &[NAME][..];
    let Some(place) = Place::with(&Settings {
        denied,
        ..Settings::default()
    }) else {
        return;
    };
    let (went_well, text) = converted(&format!("{NAME}:5000/app:1"), &place.squid.url(), &[]);
    assert!(!went_well, "{text}");
    let forbidden = format!("does not allow a connection to {NAME}:5000 (403 Forbidden)");
    says(
        &text,
        &[
            &forbidden,
            "the egress proxy",
            &place.squid.url(),
            "NO_PROXY",
        ],
    );
    let nowhere = format!("{OTHER}:1/app:1");
    let (went_well, text) = converted(&nowhere, &place.squid.url(), &[]);
    assert!(!went_well, "{text}");
    says(
        &text,
        &[
            &format!("makes no connection to {OTHER}:1 (503"),
            "the egress proxy",
        ],
    );
    let url = place.squid.url();
    place.squid.stop();
    let (went_well, text) = converted(&nowhere, &url, &[]);
    assert!(!went_well, "{text}");
    says(
        &text,
        &[
            "the egress proxy",
            &url,
            "cannot be reached",
            "Connection refused",
        ],
    );
}

/// A server that reads a head from each connection, and then does this.
fn server(then: impl Fn(&mut std::net::TcpStream) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut head = [0; 4096];
            let _ = stream.read(&mut head);
            then(&mut stream);
        }
    });
    url
}

#[test]
fn an_answer_to_connect_that_does_not_end_is_given_up() {
    let silent = server(|stream| {
        // Until the other side gives up.
        let _ = stream.read(&mut [0]);
    });
    let (went_well, text) = converted("r.corp.test/app:1", &silent, &["--connect-timeout=2s"]);
    assert!(!went_well, "{text}");
    says(
        &text,
        &[
            "the egress proxy",
            &silent,
            "no connection to r.corp.test:443 within 2s",
        ],
    );

    let written = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&written);
    let endless = server(move |stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nx-endless: ");
        let more = vec![b'x'; 64 << 10];
        while counter.load(Ordering::SeqCst) < 64 << 20 && stream.write_all(&more).is_ok() {
            counter.fetch_add(more.len(), Ordering::SeqCst);
        }
    });
    // By its length, long before the time is over.
    let (went_well, text) = converted("r.corp.test/app:1", &endless, &["--connect-timeout=1h"]);
    assert!(!went_well, "{text}");
    says(
        &text,
        &[
            "the egress proxy",
            &endless,
            "no right answer to CONNECT r.corp.test:443",
        ],
    );
    // What the system keeps of a connection is some megabytes.
    let written = written.load(Ordering::SeqCst);
    assert!(written < 32 << 20, "{written} bytes were taken");

    let other = server(|stream| {
        let _ = stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n");
    });
    let (went_well, text) = converted("r.corp.test/app:1", &other, &[]);
    assert!(!went_well, "{text}");
    says(
        &text,
        &["no right answer to CONNECT", "is it an HTTP proxy?"],
    );
}

#[test]
fn an_environment_that_names_no_usable_proxy_is_an_error() {
    let mut command = program();
    command.env("HTTPS_PROXY", "socks5://me:s3cret@proxy.example:1080");
    command.args(["convert", "r.corp.test/app:1", "oci:out"]);
    let (went_well, text) = finish(command);
    assert!(!went_well, "{text}");
    says(&text, &["HTTPS_PROXY", "SOCKS", "--egress-proxy"]);
    assert!(!text.contains("s3cret"), "{text}");
}
