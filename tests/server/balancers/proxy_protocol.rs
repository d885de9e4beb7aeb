//! The PROXY protocol: haproxy, curl, and what no balancer sends.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use crate::balancers::bench::{
    Balancer, Scene, certificates, connect_from, curl, get_from, request, send_from,
};
use crate::support::{have, until::until};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const V1: &[u8] = b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 80\r\n";
const FROM_HAPROXY: [&str; 2] = ["--proxy-protocol", "127.0.0.1"];

/// A header of version 2 with the client 203.0.113.7.
fn v2(command: u8, family: u8, more: &[u8]) -> Vec<u8> {
    let addresses = [203, 0, 113, 7, 192, 0, 2, 1, 0x12, 0x67, 0, 80];
    let length = u16::try_from(addresses.len() + more.len()).unwrap();
    let fields = [&[command, family][..], &length.to_be_bytes()].concat();
    [SIGNATURE, &fields, &addresses, more].concat()
}

#[test]
fn behind_haproxy_the_client_is_who_connected_to_it() {
    if !have(&["haproxy", "curl", "openssl"]) {
        return;
    }
    let pki = tempfile::tempdir().unwrap();
    certificates(&pki.path().join("pki"));
    let path = |name: &str| pki.path().join("pki").join(name).display().to_string();
    let tls = format!(
        "--tls-cert={} --tls-key={}",
        path("server.crt"),
        path("server.key")
    );
    let with_tls: Vec<&str> = tls.split(' ').chain(FROM_HAPROXY).collect();
    for (scheme, options) in [("http", &FROM_HAPROXY[..]), ("https", &with_tls)] {
        let scene = Scene::new(options);
        let ways = [
            "send-proxy",
            "send-proxy-v2",
            "send-proxy-v2-ssl-cn check inter 50",
        ];
        let haproxy = Balancer::haproxy(scene.proxy.host(), &ways);
        for (place, host) in haproxy.hosts.iter().enumerate() {
            let client = format!("127.0.0.{}", 10 + place);
            let path = format!("/v2/app/tags/list?way={place}");
            let answer = curl(&client, &format!("{scheme}://{host}{path}"), &[]);
            assert_eq!(answer.status, 200, "{scheme} {}: {answer:?}", ways[place]);
            assert_eq!(
                scene.client_of("/v2/app/tags/list"),
                client,
                "{scheme} {}",
                ways[place]
            );
        }
        // Who comes past it is who it is, and brings no header.
        let url = format!("{scheme}://{}/v2/app/manifests/1", scene.proxy.host());
        assert_eq!(curl("127.0.0.20", &url, &[]).status, 200);
        assert_eq!(scene.client_of("/v2/app/manifests/1"), "127.0.0.20");
        // The balancer's own address is nobody's without the header.
        assert_eq!(curl("127.0.0.1", &url, &[]).status, 0);
        let log = scene.proxy.log();
        assert!(
            log.contains("among --proxy-protocol, and the header"),
            "{log}"
        );
        // curl says where itself comes from.
        let url = format!("{scheme}://{}/v2/app/manifests/2", scene.proxy.host());
        let answer = curl("127.0.0.1", &url, &["--haproxy-protocol"]);
        assert_eq!(answer.status, 404, "{answer:?}");
        assert_eq!(scene.client_of("/v2/app/manifests/2"), "127.0.0.1");
    }
}

#[test]
fn one_client_behind_a_balancer_leaves_connections_to_the_others() {
    if !have(&["haproxy", "curl"]) {
        return;
    }
    let limits = ["--max-connections", "8", "--address-share", "50%"];
    let scene = Scene::new(&[&FROM_HAPROXY[..], &limits].concat());
    let haproxy = Balancer::haproxy(scene.proxy.host(), &["send-proxy-v2"]);
    let host = &haproxy.hosts[0];
    let open = |source: &str| {
        let mut stream = connect_from(source, host);
        stream
            .write_all(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n")
            .unwrap();
        let mut first = [0; 12];
        stream.read_exact(&mut first).map(|()| (first, stream))
    };
    let mut held: Vec<TcpStream> = Vec::new();
    for _ in 0..4 {
        let (first, stream) = open("127.0.0.11").unwrap();
        assert_eq!(&first, b"HTTP/1.1 200");
        held.push(stream);
    }
    assert!(open("127.0.0.11").is_err(), "it has its share");
    // All of these come from one balancer, whose share would be at its end.
    held.push(open("127.0.0.12").unwrap().1);
    let closed = scene
        .proxy
        .metric("overlaybd_proxy_connections_closed_total");
    assert_eq!(closed, Some(1));
    drop(held);
    until("its places come back", || open("127.0.0.11").ok());
}

#[test]
fn headers_are_read_to_the_byte_and_damaged_ones_close_the_connection() {
    let scene = Scene::new(&[&FROM_HAPROXY[..], &["--head-timeout", "2s"]].concat());
    let host = scene.proxy.host();
    let after = |header: &[u8], path: &str| {
        let bytes = [header, &request("GET", path, &[])].concat();
        send_from("127.0.0.1", host, &bytes)
    };
    let unix = [7; 216 - 12];
    for (number, (header, client)) in [
        (V1.to_vec(), "203.0.113.7"),
        (
            b"PROXY TCP6 2001:db8::7 2001:db8::1 1 2\r\n".to_vec(),
            "2001:db8::7",
        ),
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
        (b"PROXY UNKNOWN 203.0.113.7 x\r\n".to_vec(), "127.0.0.1"),
        (v2(0x21, 0x11, &[]), "203.0.113.7"),
        // Extensions, as many as are taken.
        (v2(0x21, 0x11, &[0; 4096 - 12]), "203.0.113.7"),
        // For itself, and of a kind that no address is.
        (v2(0x20, 0x11, &[]), "127.0.0.1"),
        (v2(0x21, 0x31, &unix), "127.0.0.1"),
    ]
    .into_iter()
    .enumerate()
    {
        let path = format!("/v2/app/manifests/good-{number}");
        let answer = after(&header, &path);
        assert_eq!(answer.status, 404, "{header:?}: {answer:?}");
        assert_eq!(scene.client_of(&path), client, "{header:?}");
    }
    let too_long = [b"PROXY UNKNOWN ", &[b'x'; 100][..], b"\r\n"].concat();
    for header in [
        b"".to_vec(),
        b"PROXY TCP4 203.0.113.7 192.0.2.1 4711\r\n".to_vec(),
        b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 80\n".to_vec(),
        b"PROXY TCP4 2001:db8::7 192.0.2.1 4711 80\r\n".to_vec(),
        too_long,
        v2(0x31, 0x11, &[]),
        v2(0x21, 0x77, &[]),
        v2(0x21, 0x21, &[]),
        v2(0x21, 0x11, &[0; 4097 - 12]),
        // Cut: it does not come to its end within --head-timeout.
        V1[..20].to_vec(),
    ] {
        let answer = after(&header, "/v2/app/manifests/bad");
        assert_eq!(answer.status, 0, "{header:?}: {answer:?}");
    }
    let slow = send_from("127.0.0.1", host, &V1[..30]);
    assert_eq!(slow.status, 0, "{slow:?}");
    assert!(!scene.proxy.log().contains("manifests/bad"));
    // From whoever is no balancer a header is no HTTP, and the address stays.
    let bytes = [V1, &request("GET", "/v2/", &[])].concat();
    let answer = send_from("127.0.0.9", host, &bytes);
    assert_eq!(answer.status, 400, "{answer:?}");
    let answer = get_from("127.0.0.9", host, "/v2/app/manifests/own", &[]);
    assert_eq!(answer.status, 404, "{answer:?}");
    assert_eq!(scene.client_of("/v2/app/manifests/own"), "127.0.0.9");
}
