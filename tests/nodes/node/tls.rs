//! `node check` before a real proxy with TLS.

use std::path::Path;

use super::made_up::{Checked, Node};
use super::support;
use super::support::layout::Layout;
use super::support::proxy::Proxy;

const HOSTS: &str = "etc/containerd/certs.d/docker.io/hosts.toml";

/// A proxy with the node's certificates, before an empty layout.
pub fn proxy(node: &Node, upstream: &str, more: &[&str]) -> Proxy {
    let certificates = node.path("certs");
    let file = |name: &str| certificates.join(name).display().to_string();
    let (certificate, key) = (file("server.crt"), file("server.key"));
    let tls = ["--tls-cert", &certificate, "--tls-key", &key];
    Proxy::start(upstream, &node.path("data"), &[&tls, more].concat())
}

fn empty(node: &Node) -> String {
    let layout = Layout::create(&node.path("layout"));
    format!("oci:{}", layout.path().display())
}

/// The check, with the proxy in the place of the example's.
fn check(node: &Node, url: &str) -> Checked {
    let text = std::fs::read_to_string(node.path(HOSTS)).unwrap();
    node.write(HOSTS, text.replace("https://proxy.example.com:8480", url));
    let directory = "etc/containerd/certs.d/";
    // Docker Hub's name cannot be resolved here.
    let from = node.path(&format!("{directory}docker.io"));
    if from.exists() {
        std::fs::rename(from, node.path(&format!("{directory}localhost_5000_"))).unwrap();
    }
    node.check(&["--proxy", url])
}

#[test]
fn a_proxy_that_the_bundle_trusts_is_right() {
    let Some(node) = Node::right() else { return };
    let proxy = proxy(&node, &empty(&node), &[]);
    let checked = check(&node, proxy.url());
    assert_eq!(checked.code, 0, "{checked:#?}");
    assert_eq!(checked.of("warning"), [""; 0], "{checked:#?}");
    checked.has_one(
        "ok",
        &["certificate is trusted by /etc/ssl/certs/ca-certificates.crt"],
    );
    checked.has_one("ok", &["/v2/ answers 200"]);
}

#[test]
fn an_authority_that_the_bundle_lacks_is_wrong_for_overlaybd_and_one_that_ca_lacks_for_containerd()
{
    let Some(node) = Node::right() else { return };
    let proxy = proxy(&node, &empty(&node), &[]);
    let other = Node::right().unwrap();
    let authority = std::fs::read(other.path("certs/ca.crt")).unwrap();
    node.write("etc/ssl/certs/ca-certificates.crt", &authority);
    let checked = check(&node, proxy.url());
    assert_eq!(checked.of("wrong").len(), 1, "{checked:#?}");
    checked.has_one(
        "wrong",
        &["overlaybd, which trusts", "update-ca-certificates"],
    );
    // As a mirror alone it need not be trusted by overlaybd.
    let mirror = node.check(&[]);
    assert_eq!(mirror.code, 0, "{mirror:#?}");
    mirror.has_one("warning", &["overlaybd, which trusts"]);
    node.write("etc/containerd/certs.d/proxy-ca.crt", &authority);
    node.check(&[])
        .has_one("wrong", &["containerd does not trust"]);
}

#[test]
fn a_certificate_for_other_names_or_past_its_time_is_wrong() {
    let Some(node) = Node::right() else { return };
    for (begin, end, names, level, part) in [
        (
            "20200101000000Z",
            "20210101000000Z",
            "IP:127.0.0.1",
            "wrong",
            "has expired",
        ),
        (
            "20200101000000Z",
            "20990101000000Z",
            "DNS:other.example",
            "wrong",
            "is for other names",
        ),
        (
            "20980101000000Z",
            "20990101000000Z",
            "IP:127.0.0.1",
            "wrong",
            "is not valid yet",
        ),
        (
            "20200101000000Z",
            "SOON",
            "IP:127.0.0.1",
            "warning",
            "ends within 14 days",
        ),
    ] {
        sign(&node.path("certs"), begin, end, names);
        let proxy = proxy(&node, &empty_once(&node), &[]);
        let url = proxy.url().to_owned();
        let fresh = std::fs::read_to_string(super::made_up::example(
            "containerd/certs.d/docker.io/hosts.toml",
        ))
        .unwrap();
        let old = node.path("etc/containerd/certs.d/localhost_5000_");
        let _ = std::fs::remove_dir_all(old);
        node.write(HOSTS, fresh);
        let checked = check(&node, &url);
        checked.has_one(level, &[part, "https://127.0.0.1"]);
        assert_eq!(checked.code, i32::from(level == "wrong"), "{checked:#?}");
    }
}

fn empty_once(node: &Node) -> String {
    if node.path("layout").exists() {
        return format!("oci:{}", node.path("layout").display());
    }
    empty(node)
}

/// Makes another server's certificate, by the directory's authority.
fn sign(directory: &Path, begin: &str, end: &str, names: &str) {
    let end = match end {
        "SOON" => {
            let soon = support::run(support::command("date").args([
                "-u",
                "-d",
                "7 days",
                "+%Y%m%d%H%M%SZ",
            ]));
            String::from_utf8(soon.stdout).unwrap().trim().to_owned()
        }
        end => end.to_owned(),
    };
    let script = format!(
        "set -e; rm -rf db; mkdir db; : >db/index.txt; echo 01 >db/serial
         cat >db/conf <<'CONF'
[ca]
default_ca = one
[one]
database = db/index.txt
serial = db/serial
new_certs_dir = db
default_md = sha256
policy = any
x509_extensions = server
[any]
commonName = supplied
[server]
subjectAltName = {names}
extendedKeyUsage = serverAuth
basicConstraints = CA:FALSE
CONF
         openssl req -new -key server.key -subj /CN=server -out db/csr
         openssl ca -batch -config db/conf -cert ca.crt -keyfile ca.key -in db/csr -out server.crt \
            -startdate {begin} -enddate {end} -notext"
    );
    support::run(
        support::command("sh")
            .args(["-c", &script])
            .current_dir(directory),
    );
}

#[test]
fn a_proxy_that_is_away_or_is_none_is_wrong() {
    let Some(node) = Node::right() else { return };
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let url = format!("https://{address}");
    check(&node, &url).has_one("wrong", &["gives no answer", "start the proxy"]);
    node.check(&["--proxy", "https://no-such-name.invalid"])
        .has_one("wrong", &["no-such-name.invalid"]);
}

#[test]
fn a_proxy_that_wants_client_certificates_is_right_with_overlaybds_own() {
    let Some(node) = Node::right() else { return };
    let authority = node.path("certs/ca.crt").display().to_string();
    let proxy = proxy(&node, &empty(&node), &["--tls-client-ca", &authority]);
    let refused = check(&node, proxy.url());
    refused.has_one("wrong", &["set certConfig"]);
    node.replace(
        "etc/overlaybd/overlaybd.json",
        "\"ioEngine\": 0",
        "\"certConfig\": {\"certFile\": \"/certs/client.crt\", \"keyFile\": \"/certs/client.key\"}",
    );
    let checked = node.check(&["--proxy", proxy.url()]);
    assert_eq!(checked.code, 0, "{checked:#?}");
    checked.has_one("ok", &["/v2/ answers 200"]);
}
