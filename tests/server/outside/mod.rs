//! What comes from outside ends, fills and stalls nothing: requests that wait, upstreams and
//! databases that are silent, wrong passwords, signals, a log that cannot be written to.

mod access;
mod database;
mod deleted;
mod drain;
mod early;
mod failures;
mod hold;
mod host;
mod log;
mod log_events;
mod logins;
mod missing;
mod referrers;
mod reload;
mod renewal;
mod stale;
mod suffix;
mod unpushed;
mod waiting;

use crate::support;
use std::net::{IpAddr, SocketAddr};

use serde_json::Value;
use support::http::Answer;
use support::image::{Image, Sealed};
use support::noise;
use support::proxy::Proxy;
use support::tar::Tar;
use support::until::until;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

const PLATFORM: [&str; 2] = ["--platform", "linux/amd64"];

fn image(number: u64) -> Sealed {
    let tar = Tar::new().file("file", noise(number, 20_000)).finish();
    Image::gzip(&[tar]).seal()
}

/// Pulls the converted image; the path of its layer, below `/v2/`.
#[track_caller]
fn converted_layer(proxy: &Proxy, repo: &str, tag: &str) -> String {
    let manifest = proxy.get(&format!("{repo}/manifests/{tag}_obd"));
    assert_eq!(manifest.status, 200, "{manifest:?}\n{}", proxy.log());
    let manifest = manifest.json();
    let digest = manifest["layers"][0]["digest"].as_str().unwrap();
    format!("{repo}/blobs/{digest}")
}

/// The options of a log that programs read.
const JSON: [&str; 2] = ["--log-format", "json"];

/// The lines with this message of a log in JSON, in order.
#[track_caller]
fn events(proxy: &Proxy, message: &str) -> Vec<Value> {
    let log = proxy.log();
    let lines = log.lines().filter(|line| line.starts_with('{'));
    lines
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .filter(|event: &Value| event["message"] == message)
        .collect()
}

/// The same, once there are so many. A line is written after what it tells.
#[track_caller]
fn wait_for_events(proxy: &Proxy, message: &str, count: usize) -> Vec<Value> {
    until(message, || {
        let events = events(proxy, message);
        (events.len() >= count).then_some(events)
    })
}

/// How many requests wait, by the admin address's `/jobs`.
fn waiting(proxy: &Proxy) -> u64 {
    let jobs = support::http::get(&format!("{}/jobs", proxy.admin())).json();
    jobs["requests"]["waiting"].as_u64().unwrap_or_default()
}

/// A connection from an address of this machine's many.
async fn connect_from(from: [u8; 4], to: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(IpAddr::from(from), 0)).unwrap();
    socket.connect(to.parse().unwrap()).await.unwrap()
}

/// Sends a `GET` from such an address, and gives the head of the answer; nothing if there is
/// none.
async fn head_from(from: [u8; 4], to: &str, path: &str, headers: &str) -> String {
    let mut stream = connect_from(from, to).await;
    let text = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n");
    if stream.write_all(text.as_bytes()).await.is_err() {
        return String::new();
    }
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes).await;
    let text = String::from_utf8_lossy(&bytes);
    text.split("\r\n\r\n").next().unwrap_or_default().to_owned()
}

/// One answer that must say after which time it is worth asking again.
#[track_caller]
fn refused(answer: &Answer, status: u16) {
    assert_eq!(answer.status, status, "{answer:?}");
    assert!(answer.header("retry-after").is_some(), "{answer:?}");
}
