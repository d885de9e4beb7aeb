//! `X-Forwarded-*` and `Forwarded`: nginx, chains of it, and who is not believed.

use nix::sys::signal::Signal;

use crate::balancers::bench::{Balancer, Scene, Upstream, client_of, curl, get_from};
use crate::support::proxy::Proxy;
use crate::support::{have, until::until};

const AGENT: (&str, &str) = ("User-Agent", "overlaybd/1.0.16");

/// What a server of nginx does to tell the next one about its client.
fn tells(to: &str) -> String {
    format!(
        "proxy_pass http://{to};\nproxy_set_header Host $http_host;\n\
         proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;"
    )
}

#[test]
fn behind_nginx_the_client_is_the_last_that_no_trusted_proxy_is() {
    if !have(&["nginx", "curl"]) {
        return;
    }
    let scene = Scene::new(&["--trusted-proxy", "127.0.0.1,127.0.0.3"]);
    let own = scene.proxy.host();
    let outer = format!("proxy_bind 127.0.0.3;\n{}", tells("{next}"));
    let nginx = Balancer::nginx(&[outer, tells(own)]);
    // Through one, and through both; with what a client invents.
    for (place, host) in nginx.hosts.iter().enumerate() {
        for (number, forged) in [None, Some("198.51.100.1"), Some("198.51.100.1, 127.0.0.3")]
            .into_iter()
            .enumerate()
        {
            let path = format!("/v2/app/manifests/chain-{place}-{number}");
            let header = forged.map(|it| format!("X-Forwarded-For: {it}"));
            let standard = "Forwarded: for=198.51.100.2";
            let mut more = vec!["-H", standard];
            more.extend(header.iter().flat_map(|header| ["-H", header.as_str()]));
            let answer = curl("127.0.0.7", &format!("http://{host}{path}"), &more);
            assert_eq!(answer.status, 404, "{answer:?}");
            assert_eq!(scene.client_of(&path), "127.0.0.7", "{place} {forged:?}");
        }
    }
    assert!(!scene.proxy.log().contains("This is said once"));
    // Past nginx nobody is believed.
    for number in 0..3 {
        let path = format!("/v2/app/manifests/past-{number}");
        let forged = [("X-Forwarded-For", "198.51.100.1, 127.0.0.1")];
        assert_eq!(get_from("127.0.0.8", own, &path, &forged).status, 404);
        assert_eq!(scene.client_of(&path), "127.0.0.8");
    }
    let log = scene.proxy.log();
    assert_eq!(log.matches("This is said once").count(), 1, "{log}");
    assert!(log.contains("not among --trusted-proxy"), "{log}");
}

#[test]
fn addresses_in_answers_are_those_that_a_trusted_proxy_says() {
    let kinds = [
        &["--trusted-proxy", "127.0.0.1"][..],
        &["--trusted-proxy=127.0.0.1", "--forwarded-headers=forwarded"],
        &[],
    ];
    for (options, standard) in kinds.into_iter().zip([false, true, false]) {
        let scene = Scene::new(options).converted("127.0.0.5");
        let path = format!("/v2/app/blobs/{}", scene.layers[0]);
        let address = |source: &str| {
            let headers = [
                AGENT,
                ("X-Forwarded-For", "192.0.2.7"),
                ("X-Forwarded-Proto", "https"),
                ("X-Forwarded-Host", "x.example"),
                (
                    "Forwarded",
                    "for=\"192.0.2.7:1\";host=\"s.example\";proto=https",
                ),
            ];
            let answer = get_from(source, scene.proxy.host(), &path, &headers);
            assert_eq!(answer.status, 307, "{answer:?}");
            let location = answer.header("location").unwrap();
            location.split_once("/v2/").unwrap().0.to_owned()
        };
        let name = if standard { "s" } else { "x" };
        assert_eq!(address("127.0.0.1"), format!("https://{name}.example"));
        // Without the option it is as it was, and it is said.
        let elsewhere = if options.is_empty() {
            "https://x.example"
        } else {
            "http://proxy.test"
        };
        assert_eq!(address("127.0.0.8"), elsewhere, "{options:?}");
        let log = scene.proxy.log();
        assert_eq!(log.matches("This is said once").count(), 1, "{log}");
        assert!(log.contains("--trusted-proxy"), "{log}");
    }
}

#[test]
fn nginx_may_send_the_standards_header() {
    if !have(&["nginx", "curl"]) {
        return;
    }
    let trusted = ["--trusted-proxy=127.0.0.1", "--forwarded-headers=forwarded"];
    let scene = Scene::new(&trusted);
    let server = format!(
        "proxy_pass http://{};\nset $sep '';\nif ($http_forwarded) {{ set $sep ', '; }}\n\
         proxy_set_header Forwarded \"${{http_forwarded}}${{sep}}for=$remote_addr\";",
        scene.proxy.host()
    );
    let nginx = Balancer::nginx(&[server]);
    for (number, forged) in [
        "for=198.51.100.1",
        "for=\"[2001:db8::1]:1\";proto=https",
        "x=y",
    ]
    .into_iter()
    .enumerate()
    {
        let path = format!("/v2/app/manifests/standard-{number}");
        let (forged, other) = (
            format!("Forwarded: {forged}"),
            "X-Forwarded-For: 198.51.100.2",
        );
        let url = format!("http://{}{path}", nginx.hosts[0]);
        assert_eq!(
            curl("127.0.0.7", &url, &["-H", &forged, "-H", other]).status,
            404
        );
        assert_eq!(scene.client_of(&path), "127.0.0.7", "{forged}");
    }
}

#[test]
fn upstreams_are_not_told_where_clients_are() {
    let upstream = Upstream::start("");
    let data = tempfile::tempdir().unwrap();
    let options = ["--trusted-proxy", "127.0.0.1", "--log-format", "json"];
    let proxy = Proxy::start(&upstream.url(), data.path(), &options);
    for (source, client) in [("127.0.0.1", "192.0.2.77"), ("127.0.0.8", "127.0.0.8")] {
        let path = format!("/v2/app/tags/{}", client.replace('.', "-"));
        let headers = [
            ("X-Forwarded-For", "192.0.2.77"),
            ("X-Forwarded-Proto", "https"),
            ("X-Forwarded-Host", "x.example"),
            ("X-Forwarded-Port", "443"),
            ("X-Real-IP", "192.0.2.77"),
            ("True-Client-IP", "192.0.2.77"),
            ("CF-Connecting-IP", "192.0.2.77"),
            ("Forwarded", "for=192.0.2.77"),
            ("X-Kept", "kept"),
        ];
        assert_eq!(get_from(source, proxy.host(), &path, &headers).status, 200);
        assert_eq!(client_of(&proxy, &path), client);
        let [head] = &upstream.asked(&path)[..] else {
            panic!("{:?}", upstream.asked(""));
        };
        assert!(head.contains("x-kept: kept"), "{head}");
        assert!(
            !head.contains("192.0.2.77") && !head.contains("x-forwarded"),
            "{head}"
        );
        assert!(
            !head.contains("127.0.0.8") && !head.contains("x.example"),
            "{head}"
        );
    }
}

#[test]
fn other_addresses_are_trusted_after_a_reload() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("config.toml");
    let config = |trusted: &str| {
        std::fs::write(&file, format!("trusted-proxy = [\"{trusted}\"]\n")).unwrap();
    };
    config("192.0.2.0/24");
    let named = format!("--config={}", file.display());
    let scene = Scene::new(&[&named]);
    let client = |path: &str| {
        let headers = [("X-Forwarded-For", "198.51.100.7")];
        get_from("127.0.0.8", scene.proxy.host(), path, &headers);
        scene.client_of(path)
    };
    assert_eq!(client("/v2/app/manifests/before"), "127.0.0.8");
    config("127.0.0.0/8");
    scene.proxy.signal(Signal::SIGHUP);
    until("it is reloaded", || {
        scene.proxy.log().contains("\"reloaded\"").then_some(())
    });
    assert_eq!(client("/v2/app/manifests/after"), "198.51.100.7");
    let log = scene.proxy.log();
    assert!(!log.contains("not used before a restart"), "{log}");
}
