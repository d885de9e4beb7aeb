//! RFC 9112 § 3.2: one `Host`, and a good one.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use crate::outside::PLATFORM;
use crate::outside::image;
use crate::support::layout::Layout;
use crate::support::proxy::Proxy;

fn status(address: &str, head: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(head.as_bytes()).unwrap();
    let mut line = [0; 12];
    stream.read_exact(&mut line).unwrap();
    String::from_utf8(line.to_vec()).unwrap()
}

#[test]
fn a_missing_repeated_or_invalid_host_header_is_400() {
    let scratch = tempfile::tempdir().unwrap();
    let layout = Layout::create(&scratch.path().join("layout"));
    layout.add("app", &image(1));
    let upstream = format!("oci:{}", layout.path().display());
    let proxy = Proxy::start(&upstream, &scratch.path().join("data"), &PLATFORM);
    let admin = proxy.admin().split_once("//").unwrap().1.to_owned();
    for (address, path) in [(proxy.host(), "/v2/"), (&*admin, "/livez")] {
        for (version, hosts, wanted) in [
            ("1.1", "", "400"),
            ("1.1", "Host: a\r\nHost: a\r\n", "400"),
            ("1.1", "Host: a\r\nHost: b\r\n", "400"),
            ("1.0", "Host: a\r\nHost: b\r\n", "400"),
            ("1.1", "Host:\r\n", "400"),
            ("1.1", "Host: a b\r\n", "400"),
            ("1.1", "Host: a/b\r\n", "400"),
            ("1.1", "Host: user@a\r\n", "400"),
            ("1.1", "Host: a:port\r\n", "400"),
            ("1.1", "Host: [::1\r\n", "400"),
            ("1.1", "Host: a\r\n", "200"),
            ("1.1", "Host: [::1]:80\r\n", "200"),
            ("1.0", "", "200"),
        ] {
            let head = format!("GET {path} HTTP/{version}\r\n{hosts}\r\n");
            let line = status(address, &head);
            assert!(line.ends_with(wanted), "{path} {version} {hosts:?}: {line}");
        }
        // The address of the request itself does not stand in for it.
        let head = format!("GET http://a{path} HTTP/1.1\r\n\r\n");
        assert!(status(address, &head).ends_with("400"));
    }
}
