//! The proxy's upstreams behind an egress proxy.

use super::support::image::layer_digests;
use super::support::proxy::Proxy;
use super::{NAME, OTHER, Place, Secure, finish, program};

#[test]
fn a_registry_with_tls_is_pulled_from_through_tunnels_that_end_at_its_own_certificate() {
    let Some(secure) = Secure::new() else {
        return;
    };
    let place = &secure.place;
    let start = |name: &str| {
        let upstream = format!("https://{name}:{}", secure.port());
        let squid = place.squid.url();
        let options = [
            "--egress-proxy",
            &squid,
            "--upstream-ca",
            &secure.ca,
            "--platform=linux/amd64",
        ];
        let data = place.directory.path().join("data");
        Proxy::start_as(program(), &upstream, &data, &options)
    };
    let proxy = start(NAME);
    let plain = proxy.get("app/manifests/1");
    assert_eq!(plain.status, 200, "{plain:?}");
    assert_eq!(plain.body, place.image.manifest);
    for blob in &place.image.blobs {
        let answer = proxy.get(&format!("app/blobs/{}", blob.digest()));
        assert_eq!(answer.body, blob.bytes);
    }
    let converted = proxy.converted("app", "1");
    for digest in layer_digests(&converted) {
        assert_eq!(proxy.get(&format!("app/blobs/{digest}")).status, 200);
    }
    proxy.stop();
    let wanted = format!("CONNECT {NAME}:{} 200 -", secure.port());
    let log = place.squid.log();
    assert!(
        !log.is_empty() && log.iter().all(|line| *line == wanted),
        "{log:?}"
    );

    // The certificate is for the registry's name, not for whatever the proxy connects to.
    let proxy = start(OTHER);
    let answer = proxy.get("app/manifests/1");
    assert_eq!(answer.status, 502, "{answer:?}");
    assert!(
        proxy.log().contains("not valid for name"),
        "{}",
        proxy.log()
    );
}

#[test]
fn an_egress_proxy_of_one_upstream_is_not_the_others() {
    let Some(place) = Place::new() else {
        return;
    };
    let first = format!("{},egress-proxy={}", place.host(), place.squid.url());
    let second = format!("{},path-prefix=direct", place.registry.address());
    let options = ["--plain-http=true", "--upstream", &second];
    let data = place.directory.path().join("data");
    let proxy = Proxy::start_as(program(), &first, &data, &options);
    assert_eq!(proxy.get("direct/app/manifests/1").status, 200);
    assert_eq!(place.squid.log(), Vec::<String>::new());
    assert_eq!(proxy.get("app/manifests/1").status, 200);
    let wanted = format!("GET http://{}/v2/app/manifests/1 200 -", place.host());
    assert_eq!(place.squid.log(), [wanted]);
}

#[test]
fn mirrors_of_hosts_toml_are_reached_through_the_egress_proxy() {
    let Some(place) = Place::new() else {
        return;
    };
    let hosts = place.directory.path().join("hosts");
    std::fs::create_dir_all(hosts.join("registry.example")).unwrap();
    let text = format!(
        "server = 'https://registry.example'\n[host.'http://{}']\n",
        place.host()
    );
    std::fs::write(hosts.join("registry.example/hosts.toml"), text).unwrap();
    let options = [
        "--hosts-dir",
        hosts.to_str().unwrap(),
        "--own-credentials=true",
    ];
    let data = place.directory.path().join("data");
    let mut command = program();
    command.env("http_proxy", place.squid.url());
    let proxy = Proxy::start_as(command, "registry.example", &data, &options);
    assert_eq!(proxy.get("app/manifests/1").status, 200);
    let log = place.squid.log().join("\n");
    let wanted = format!(
        "http://{}/v2/app/manifests/1?ns=registry.example 200",
        place.host()
    );
    assert!(log.contains(&wanted), "{log}");
}

#[test]
fn the_configuration_is_shown_without_the_egress_proxys_password() {
    let mut command = program();
    let proxy = "--egress-proxy=http://me:s3cret@proxy.example:3128";
    command.args(["config", "check", proxy]);
    let (went_well, text) = finish(command);
    assert!(went_well, "{text}");
    assert!(
        text.contains("egress-proxy = \"http://***@proxy.example:3128\"  # flag"),
        "{text}"
    );
    assert!(!text.contains("s3cret"), "{text}");
}
