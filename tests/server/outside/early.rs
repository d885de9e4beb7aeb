//! An answer before a request's body has come is heard.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;

use crate::support;
use crate::support::proxy::Proxy;
use crate::support::registry::Registry;

const SIZE: usize = 4 << 20;

#[test]
fn a_large_push_to_a_read_only_proxy_gets_its_error_response() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let data = tempfile::tempdir().unwrap();
    let proxy = Proxy::start(&registry.url(), data.path(), &["--read-only"]);
    let body = vec![7; SIZE];
    for nth in 0..20 {
        let mut stream = TcpStream::connect(proxy.host()).unwrap();
        let head = format!(
            "PUT /v2/app/blobs/uploads/1?digest=x HTTP/1.1\r\nHost: x\r\nContent-Length: {SIZE}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        // As a client does that sends all of it before it listens.
        let sent = stream.write_all(&body);
        sent.unwrap_or_else(|error| panic!("{nth}: {error}"));
        let mut answer = String::new();
        let read = stream.read_to_string(&mut answer);
        read.unwrap_or_else(|error| panic!("{nth}: {error}"));
        assert!(answer.starts_with("HTTP/1.1 405 "), "{nth}: {answer}");
        assert!(answer.contains("read-only"), "{answer}");
    }
}

#[test]
fn curl_prints_why_its_upload_is_refused() {
    let Some(registry) = Registry::start() else {
        return;
    };
    if !support::have(&["curl"]) {
        return;
    }
    let data = tempfile::tempdir().unwrap();
    let proxy = Proxy::start(&registry.url(), &data.path().join("data"), &["--read-only"]);
    let file = data.path().join("blob");
    std::fs::write(&file, vec![7; SIZE]).unwrap();
    for nth in 0..10 {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "-H", "Expect:", "-T"]);
        curl.arg(&file)
            .arg(format!("{}/v2/app/blobs/uploads/1", proxy.url()));
        let output = curl.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("read-only"), "{nth}: {output:?}");
    }
}

#[test]
fn a_client_that_keeps_sending_does_not_delay_shutdown() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let data = tempfile::tempdir().unwrap();
    let options = ["--read-only", "--drain", "1h"];
    let proxy = Proxy::start(&registry.url(), data.path(), &options);
    let mut stream = TcpStream::connect(proxy.host()).unwrap();
    let head = b"PUT /v2/app/blobs/uploads/1 HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n";
    stream.write_all(head).unwrap();
    let mut first = [0; 12];
    stream.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 405");
    // It says no more and stays, and all else would wait for an hour.
    proxy.stop();
    drop(stream);
}
