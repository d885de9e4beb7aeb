use super::*;

fn resolved(
    trusted: &[&str],
    kind: ForwardedHeaders,
    peer: &str,
    lines: &[(&str, &str)],
) -> (String, Vec<String>) {
    let addresses = ClientAddresses::new(Balancers {
        proxy_protocol: Vec::new(),
        trusted: trusted.iter().map(|one| one.parse().unwrap()).collect(),
        headers: kind,
    });
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        let name: HeaderName = name.parse().unwrap();
        headers.append(name, HeaderValue::from_str(value).unwrap());
    }
    let client = addresses.resolve(SocketAddr::new(peer.parse().unwrap(), 0), &mut headers);
    let mut left: Vec<String> = headers
        .iter()
        .map(|(name, value)| format!("{name}={}", value.to_str().unwrap()))
        .collect();
    left.sort();
    (Shown(client).to_string(), left)
}

const BALANCERS: [&str; 3] = ["10.0.0.0/8", "127.0.0.1/32", "fd00::/8"];

#[test]
fn the_client_is_the_right_most_address_that_is_no_trusted_proxy() {
    let of = |peer: &str, lines: &[&str]| {
        let lines: Vec<_> = lines
            .iter()
            .map(|line| ("x-forwarded-for", *line))
            .collect();
        resolved(&BALANCERS, ForwardedHeaders::XForwarded, peer, &lines).0
    };
    for (peer, lines, wanted) in [
        ("10.0.0.1", &["203.0.113.7"][..], "203.0.113.7"),
        // Forged ones are left of what the proxies add.
        ("10.0.0.1", &["198.51.100.1, 203.0.113.7"], "203.0.113.7"),
        (
            "10.0.0.1",
            &["198.51.100.1,203.0.113.7 , 10.9.9.9"],
            "203.0.113.7",
        ),
        (
            "10.0.0.1",
            &["10.1.1.1, 203.0.113.7, 10.9.9.9"],
            "203.0.113.7",
        ),
        ("10.0.0.1", &["198.51.100.1", "203.0.113.7"], "203.0.113.7"),
        (
            "10.0.0.1",
            &["198.51.100.1, 203.0.113.7", "10.9.9.9"],
            "203.0.113.7",
        ),
        // Others are not believed at all.
        ("192.0.2.1", &["203.0.113.7"], "192.0.2.1"),
        ("192.0.2.1", &["10.0.0.1"], "192.0.2.1"),
        // Nothing, or nothing that can be read: the last that is known.
        ("10.0.0.1", &[], "10.0.0.1"),
        ("10.0.0.1", &[""], "10.0.0.1"),
        ("10.0.0.1", &["203.0.113.7, unknown"], "10.0.0.1"),
        ("10.0.0.1", &["203.0.113.7, unknown, 10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", &["203.0.113.7;"], "10.0.0.1"),
        ("10.0.0.1", &["10.0.0.2, 10.0.0.3"], "10.0.0.2"),
        // Ports, brackets, both families.
        ("10.0.0.1", &["203.0.113.7:4711"], "203.0.113.7:4711"),
        ("fd00::1", &["2001:db8::7"], "2001:db8::7"),
        ("fd00::1", &["[2001:db8::7]"], "2001:db8::7"),
        ("fd00::1", &["[2001:db8::7]:4711"], "[2001:db8::7]:4711"),
        ("::ffff:10.0.0.1", &["203.0.113.7"], "203.0.113.7"),
        ("10.0.0.1", &["203.0.113.7, ::ffff:10.0.0.2"], "203.0.113.7"),
    ] {
        assert_eq!(of(peer, lines), wanted, "{peer} {lines:?}");
    }
}

#[test]
fn the_standards_header_names_the_client_its_scheme_and_its_host() {
    let kind = ForwardedHeaders::Standard;
    for (lines, client, left) in [
        (
            &["for=203.0.113.7;proto=https;host=r.example"][..],
            "203.0.113.7",
            &["x-forwarded-host=r.example", "x-forwarded-proto=https"][..],
        ),
        (
            &["For=\"[2001:db8::7]:4711\" ; Proto=https, for=10.0.0.2;proto=http"],
            "[2001:db8::7]:4711",
            &["x-forwarded-proto=https"],
        ),
        // Forged: left of what the proxy adds, unreadable on a line of its own, or quoted oddly.
        (
            &["for=198.51.100.1;host=evil.example, for=203.0.113.7"],
            "203.0.113.7",
            &[],
        ),
        (
            &["for=\"198.51.100.1", "for=203.0.113.7"],
            "203.0.113.7",
            &[],
        ),
        (&["for=\"198.51.100.1, for=203.0.113.7"], "10.0.0.1", &[]),
        // It hides where its client is.
        (
            &["for=203.0.113.7, for=_gazonk;proto=https"],
            "10.0.0.1",
            &["x-forwarded-proto=https"],
        ),
        (&["for=unknown"], "10.0.0.1", &[]),
        (&["proto=https"], "10.0.0.1", &["x-forwarded-proto=https"]),
    ] {
        let mut all: Vec<_> = lines.iter().map(|line| ("forwarded", *line)).collect();
        // The other kind is not what these proxies write.
        all.extend([("x-forwarded-for", "1.1.1.1"), ("x-forwarded-host", "x")]);
        let found = resolved(&BALANCERS, kind, "10.0.0.1", &all);
        assert_eq!(found.0, client, "{lines:?}");
        assert_eq!(found.1, left, "{lines:?}");
    }
}

#[test]
fn headers_that_are_not_believed_are_gone() {
    let all = [
        ("x-forwarded-for", "203.0.113.7"),
        ("x-forwarded-host", "r.example"),
        ("x-forwarded-proto", "https"),
        ("forwarded", "for=203.0.113.7"),
        ("accept", "a"),
    ];
    let kind = ForwardedHeaders::XForwarded;
    let reached_by = ["x-forwarded-host=r.example", "x-forwarded-proto=https"];
    let from_other = resolved(&BALANCERS, kind, "192.0.2.1", &all);
    assert_eq!(
        from_other,
        ("192.0.2.1".to_owned(), vec!["accept=a".to_owned()])
    );
    let from_proxy = resolved(&BALANCERS, kind, "10.0.0.1", &all);
    assert_eq!(from_proxy.0, "203.0.113.7");
    assert_eq!(from_proxy.1[1..], reached_by);
    // Where nobody is configured the client stays where it is, but may say by which name it came.
    let from_anyone = resolved(&[], kind, "10.0.0.1", &all);
    assert_eq!(from_anyone.0, "10.0.0.1");
    assert_eq!(from_anyone.1[1..], reached_by);
}
