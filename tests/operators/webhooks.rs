//! Webhooks: what other services are told of conversions.

use crate::support;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use serde_json::{Value, json};
use support::image::Image;
use support::layout::Layout;
use support::proxy::{Proxy, program};
use support::tar::Tar;
use support::until::until;
use support::{find, noise, skip};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// A request as it came.
struct Request {
    head: String,
    body: Vec<u8>,
}

impl Request {
    fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines();
        lines.find_map(|line| {
            let (found, value) = line.split_once(": ")?;
            found.eq_ignore_ascii_case(name).then_some(value)
        })
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

fn read(stream: &mut TcpStream) -> Request {
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
        if let Some(end) = end {
            let request = Request {
                head: String::from_utf8_lossy(&bytes[..end]).into_owned(),
                body: bytes[end + 4..].to_vec(),
            };
            let length: usize = request.header("content-length").unwrap().parse().unwrap();
            if request.body.len() >= length {
                return request;
            }
        }
        let count = stream.read(&mut buffer).unwrap();
        assert!(count > 0, "the connection ends early");
        bytes.extend_from_slice(&buffer[..count]);
    }
}

/// A service that answers with these statuses, and then with 204; its address.
fn service(statuses: &'static [u16]) -> (String, Receiver<Request>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/hook?key=hunter2", listener.local_addr().unwrap());
    let (sender, receiver) = channel();
    let mut statuses = statuses.iter().copied();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let request = read(&mut stream);
            let status = statuses.next().unwrap_or(204);
            let answer =
                format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            stream.write_all(answer.as_bytes()).unwrap();
            if sender.send(request).is_err() {
                return;
            }
        }
    });
    (address, receiver)
}

#[track_caller]
fn next(receiver: &Receiver<Request>) -> Request {
    receiver.recv_timeout(Duration::from_mins(1)).unwrap()
}

fn layout(directory: &std::path::Path) -> Layout {
    let layout = Layout::create(&directory.join("layout"));
    let tar = Tar::new().file("f", noise(1, 9000)).finish();
    layout.add("good", &Image::gzip(std::slice::from_ref(&tar)).seal());
    let mut broken = Image::gzip(&[tar]);
    broken.config["rootfs"]["diff_ids"] = json!([format!("sha256:{}", "0".repeat(64))]);
    layout.add("broken", &broken.seal());
    layout
}

#[test]
fn a_service_is_told_of_conversions_again_until_it_accepts_that() {
    let scratch = tempfile::tempdir().unwrap();
    let layout = layout(scratch.path());
    let secret = scratch.path().join("secret");
    fs::write(&secret, format!("{SECRET}\n")).unwrap();
    let (address, told) = service(&[503, 429]);
    let options = [
        "--platform",
        "linux/amd64",
        "--webhook",
        &address,
        "--webhook-secret-file",
        secret.to_str().unwrap(),
    ];
    let upstream = format!("oci:{}", layout.path().display());
    let proxy = Proxy::start(&upstream, &scratch.path().join("data"), &options);
    let manifest = proxy.get("app/manifests/good_obd");
    assert_eq!(manifest.status, 200, "{manifest:?}");
    let first = next(&told);
    for again in [next(&told), next(&told)] {
        assert_eq!(again.body, first.body);
    }
    assert!(
        first.head.starts_with("POST /hook?key=hunter2 HTTP/1.1"),
        "{}",
        first.head
    );
    assert_eq!(first.header("content-type"), Some("application/json"));
    assert_eq!(first.header("x-overlaybd-event"), Some("converted"));
    let event = first.json();
    assert_eq!(event["event"], "converted");
    let conversion = &event["conversion"];
    assert_eq!(conversion["repository"], "app");
    assert_eq!(conversion["tag"], "good");
    assert_eq!(
        conversion["digest"].as_str(),
        manifest.header("docker-content-digest")
    );

    assert_eq!(proxy.get("app/manifests/broken_obd").status, 400);
    let failed = next(&told);
    assert_eq!(failed.header("x-overlaybd-event"), Some("failed"));
    let error = failed.json()["conversion"]["error"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(error.contains("diff id"), "{error}");
    // The address may have a secret.
    assert!(!proxy.log().contains("hunter2"), "{}", proxy.log());
    assert!(!proxy.log().contains(SECRET));

    if find("openssl").is_none() {
        skip("openssl is not installed: apt-get install openssl");
        return;
    }
    let path = scratch.path().join("body");
    fs::write(&path, &failed.body).unwrap();
    let mut openssl = Command::new("openssl");
    openssl
        .args(["dgst", "-sha256", "-hmac", SECRET, "-r"])
        .arg(&path);
    let signed = openssl.output().unwrap().stdout;
    let signed = String::from_utf8(signed).unwrap();
    let expected = format!("sha256={}", signed.split(' ').next().unwrap());
    assert_eq!(
        failed.header("x-hub-signature-256"),
        Some(expected.as_str())
    );
}

#[test]
fn what_a_service_refuses_is_not_sent_again() {
    let scratch = tempfile::tempdir().unwrap();
    let layout = layout(scratch.path());
    let (address, told) = service(&[400]);
    let options = ["--platform", "linux/amd64", "--webhook", &address];
    let upstream = format!("oci:{}", layout.path().display());
    let proxy = Proxy::start(&upstream, &scratch.path().join("data"), &options);
    proxy.converted("app", "good");
    let first = next(&told);
    assert_eq!(first.json()["event"], "converted");
    assert_eq!(first.header("x-hub-signature-256"), None);
    assert_eq!(proxy.get("app/manifests/broken_obd").status, 400);
    assert_eq!(next(&told).json()["event"], "failed");
    let log = proxy.log();
    assert!(
        log.contains("a webhook was not sent") && log.contains("400"),
        "{log}"
    );
    until("both are counted", || {
        let of = |outcome| proxy.series(&format!("webhooks_total{{outcome=\"{outcome}\"}}"));
        assert!(of("failed") <= 1 && of("sent") <= 1);
        ((of("failed"), of("sent"), of("dropped")) == (1, 1, 0)).then_some(())
    });
}

#[test]
fn what_waits_to_be_sent_is_sent_before_the_program_stops() {
    let scratch = tempfile::tempdir().unwrap();
    let layout = layout(scratch.path());
    let (address, told) = service(&[503]);
    let options = ["--platform", "linux/amd64", "--webhook", &address];
    let upstream = format!("oci:{}", layout.path().display());
    let proxy = Proxy::start(&upstream, &scratch.path().join("data"), &options);
    proxy.converted("app", "good");
    // It is sent again after a second at the earliest.
    let first = next(&told);
    proxy.stop();
    assert_eq!(next(&told).body, first.body);
}

#[test]
fn a_service_that_is_not_there_is_named_by_its_host_alone() {
    let scratch = tempfile::tempdir().unwrap();
    let layout = layout(scratch.path());
    // The port of a protocol that nobody serves any more.
    let free = "127.0.0.1:9";
    let address = format!("http://{free}/hunter2?key=hunter2");
    let options = [
        "--platform",
        "linux/amd64",
        "--webhook",
        &address,
        "--log-level",
        "debug",
    ];
    let upstream = format!("oci:{}", layout.path().display());
    let proxy = Proxy::start(&upstream, &scratch.path().join("data"), &options);
    proxy.converted("app", "good");
    until("an attempt failed", || {
        let log = proxy.log();
        log.contains("a webhook is sent again").then_some(())
    });
    let log = proxy.log();
    assert!(log.contains(&format!("http://{free}")), "{log}");
    assert!(!log.contains("hunter2"), "{log}");
}

#[test]
fn an_address_that_is_none_is_a_mistake_of_the_configuration() {
    let scratch = tempfile::tempdir().unwrap();
    for wrong in ["hooks.example/a", "ftp://hooks.example/a", "http://"] {
        let mut command = program();
        command.args(["config", "check", "--webhook", wrong, "--data-dir"]);
        let output = command.arg(scratch.path()).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{wrong}: {output:?}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("webhook"), "{said}");
    }
}
