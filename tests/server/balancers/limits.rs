//! How much one client may ask for: a rate, and requests at one time.

use std::io::{Read as _, Write as _};

use crate::balancers::bench::{Balancer, Scene, Upstream, connect_from, curl, get_from};
use crate::support::proxy::Proxy;
use crate::support::{command, have, run, until::until};

const MANIFEST: &str = "/v2/app/manifests/1";

#[test]
fn each_client_behind_nginx_has_a_rate_of_its_own() {
    if !have(&["nginx", "curl"]) {
        return;
    }
    let options = ["--trusted-proxy=127.0.0.1", "--client-rate=3/h,burst=3"];
    let scene = Scene::new(&options).converted("127.0.0.5");
    let nginx = Balancer::nginx(&[format!(
        "proxy_pass http://{};\nproxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;",
        scene.proxy.host()
    )]);
    let url = |path: &str| format!("http://{}{path}", nginx.hosts[0]);
    for place in 0..3 {
        let answer = curl("127.0.0.7", &url("/v2/app/tags/list"), &[]);
        assert_eq!(answer.status, 200, "{place}: {answer:?}");
    }
    // Whatever it says, it is the same client.
    let forged = ["-H", "X-Forwarded-For: 198.51.100.9"];
    for more in [&[][..], &forged] {
        let answer = curl("127.0.0.7", &url("/v2/app/tags/list"), more);
        assert_eq!(answer.status, 429, "{answer:?}");
        assert!(answer.body.contains("TOOMANYREQUESTS"), "{answer:?}");
        let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=1200).contains(&wait), "{answer:?}");
    }
    assert_eq!(
        curl("127.0.0.8", &url("/v2/app/tags/list"), &[]).status,
        200
    );
    // What containers read is not refused: ranges, and how overlaybd comes to them.
    let blob = format!("/v2/app/blobs/{}", scene.layers[0]);
    for _ in 0..20 {
        let answer = curl("127.0.0.7", &url(&blob), &["-r", "0-99"]);
        assert_eq!(answer.status, 206, "{answer:?}");
        let answer = curl("127.0.0.7", &url(&blob), &["-A", "overlaybd/1.0.16"]);
        assert_eq!(answer.status, 307, "{answer:?}");
        let signed = answer.header("location").unwrap();
        let signed = &signed[signed.find("/v2/").unwrap()..];
        let answer = curl("127.0.0.7", &url(signed), &["-r", "0-99"]);
        assert_eq!(answer.status, 206, "{answer:?}");
    }
    let answer = curl("127.0.0.7", &url("/v2/app/manifests/1_turbo"), &[]);
    assert_eq!(answer.status, 429, "{answer:?}");
    assert_eq!(
        scene.proxy.metric("overlaybd_proxy_requests_refused_total"),
        Some(3)
    );
    let log = scene.proxy.log();
    assert_eq!(
        log.matches("more than --client-rate allows").count(),
        1,
        "{log}"
    );
}

#[test]
fn ranges_that_are_passed_through_do_not_count_and_whole_blobs_do() {
    let upstream = Upstream::start("");
    let data = tempfile::tempdir().unwrap();
    let proxy = Proxy::start(&upstream.url(), data.path(), &["--client-rate=2/h"]);
    let blob = format!("/v2/app/blobs/sha256:{}", "0".repeat(64));
    let ask = |headers: &[(&str, &str)]| get_from("127.0.0.7", proxy.host(), &blob, headers).status;
    for _ in 0..5 {
        assert_eq!(ask(&[("Range", "bytes=0-1")]), 200);
    }
    // A range that is the whole blob is one, too, unless a container reads it.
    let whole = ("Range", "bytes=0-");
    assert_eq!([ask(&[]), ask(&[whole]), ask(&[whole])], [200, 200, 429]);
    assert_eq!(ask(&[]), 429);
    assert_eq!(ask(&[whole, ("User-Agent", "overlaybd/1.0.16")]), 200);
    assert_eq!(ask(&[("Range", "bytes=0-1")]), 200);
    // Nor does a signature that nobody made.
    let path = format!("{blob}?overlaybd-signed=x");
    assert_ne!(get_from("127.0.0.7", proxy.host(), &path, &[]).status, 200);
}

#[test]
fn users_have_a_rate_each_wherever_they_are() {
    if !have(&["htpasswd"]) {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let users = place.path().join("users");
    let lines = ["ann", "bob"].map(|user| {
        let made = run(command("htpasswd").args(["-nbB", "-C", "4", user, "pw"]));
        String::from_utf8(made.stdout).unwrap()
    });
    std::fs::write(&users, lines.concat()).unwrap();
    let users = format!("--htpasswd={}", users.display());
    let scene = Scene::new(&[&users, "--client-rate=2/h"]);
    let ask = |source: &str, user: &str| {
        use base64::Engine as _;
        let given = base64::prelude::BASE64_STANDARD.encode(format!("{user}:pw"));
        let given = format!("Basic {given}");
        let headers = [("Authorization", given.as_str())];
        get_from(source, scene.proxy.host(), MANIFEST, &headers).status
    };
    assert_eq!(
        [ask("127.0.0.7", "ann"), ask("127.0.0.8", "ann")],
        [200, 200]
    );
    assert_eq!(
        [ask("127.0.0.7", "ann"), ask("127.0.0.9", "ann")],
        [429, 429]
    );
    assert_eq!(ask("127.0.0.7", "bob"), 200);
}

#[test]
fn invented_users_do_not_help() {
    let upstream = Upstream::start("");
    let data = tempfile::tempdir().unwrap();
    let proxy = Proxy::start(&upstream.url(), data.path(), &["--client-rate=2/h"]);
    let ask = |user: &str| {
        let headers = [("Authorization", user)];
        get_from("127.0.0.7", proxy.host(), "/v2/app/tags/list", &headers).status
    };
    let asked = ["Basic YTpi", "Basic Yjpi", "Basic Yzpi"].map(ask);
    assert_eq!(asked, [200, 200, 429]);
}

#[test]
fn one_client_has_so_many_requests_at_one_time() {
    let upstream = Upstream::start("");
    let data = tempfile::tempdir().unwrap();
    let options = ["--client-requests=2", "--trusted-proxy=127.0.0.1"];
    let proxy = Proxy::start(&upstream.url(), data.path(), &options);
    let begin = |client: &str| {
        let mut stream = connect_from("127.0.0.1", proxy.host());
        let text = format!(
            "GET /v2/app/slow/{client} HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: {client}\r\n\
             Connection: close\r\n\r\n"
        );
        stream.write_all(text.as_bytes()).unwrap();
        stream
    };
    let ask = |client: &str| {
        let headers = [("X-Forwarded-For", client)];
        get_from("127.0.0.1", proxy.host(), "/v2/app/tags/list", &headers)
    };
    let mut held = vec![begin("192.0.2.1"), begin("192.0.2.1")];
    until("both wait", || {
        (upstream.asked("/slow/").len() == 2).then_some(())
    });
    let answer = ask("192.0.2.1");
    assert_eq!(answer.status, 429, "{answer:?}");
    assert!(answer.body.contains("TOOMANYREQUESTS"), "{answer:?}");
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert_eq!(ask("192.0.2.2").status, 200);
    upstream.open();
    for stream in &mut held {
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    }
    assert_eq!(ask("192.0.2.1").status, 200);
}

#[test]
fn a_trusted_proxy_has_as_many_connections_as_there_are() {
    let options = [
        "--trusted-proxy=127.0.0.1",
        "--max-connections=8",
        "--address-share=25%",
    ];
    let scene = Scene::new(&options);
    let open = |source: &str| {
        let mut stream = connect_from(source, scene.proxy.host());
        stream
            .write_all(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n")
            .unwrap();
        let mut first = [0; 12];
        stream.read_exact(&mut first).ok().map(|()| stream)
    };
    let from_proxy: Vec<_> = (0..4).map(|_| open("127.0.0.1").unwrap()).collect();
    let from_other: Vec<_> = (0..2).map(|_| open("127.0.0.9").unwrap()).collect();
    assert!(open("127.0.0.9").is_none(), "it has its share");
    drop((from_proxy, from_other));
}
