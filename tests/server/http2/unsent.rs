//! What the access log says of answers that never went out.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;

use crate::http2::OPTIONS;
use crate::support::layout::Layout;
use crate::support::proxy::Proxy;
use crate::support::until::until;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// `SETTINGS_INITIAL_WINDOW_SIZE` (RFC 9113 § 6.5.2): no byte of an answer, and 10.
const SETTINGS: [&[u8]; 2] = [
    &[0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0],
    &[0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 10],
];

/// `GET PATH` as the first request, in literals (RFC 7541 § 6.2.2).
fn request(path: &str) -> Vec<u8> {
    let mut block = vec![0x82, 0x86, 0x04, u8::try_from(path.len()).unwrap()];
    block.extend_from_slice(path.as_bytes());
    block.extend_from_slice(b"\x01\x01x");
    let length = u8::try_from(block.len()).unwrap();
    let mut frame = vec![0, 0, length, 1, 5, 0, 0, 0, 1];
    frame.extend(block);
    frame
}

/// Reads until the head of the first answer has come.
fn read_head(stream: &mut TcpStream) {
    let mut head = [0; 9];
    loop {
        stream.read_exact(&mut head).unwrap();
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        stream.read_exact(&mut payload).unwrap();
        if head[3] == 1 {
            return;
        }
    }
}

#[test]
fn an_answer_that_never_went_out_is_not_complete() {
    let place = tempfile::tempdir().unwrap();
    let layout = Layout::create(&place.path().join("images"));
    let upstream = format!("oci:{}", layout.path().display());
    let options = [&OPTIONS[..], &["--h2c"]].concat();
    let proxy = Proxy::start(&upstream, &place.path().join("data"), &options);
    // One ends with its connection, the other is taken back.
    for (settings, bytes) in SETTINGS.iter().zip([0, 10]) {
        let path = format!("/nothing/{bytes}");
        let mut stream = TcpStream::connect(proxy.host()).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_mins(1)))
            .unwrap();
        let begin = [PREFACE, settings, &request(&path)].concat();
        stream.write_all(&begin).unwrap();
        read_head(&mut stream);
        if bytes > 0 {
            let mut data = [0; 19];
            stream.read_exact(&mut data).unwrap();
            assert_eq!(data[..4], [0, 0, 10, 0]);
            stream
                .write_all(&[0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, 8])
                .unwrap();
        } else {
            drop(stream);
        }
        let event: Value = until("the line of the access log", || {
            let log = proxy.log();
            let mut events = log
                .lines()
                .filter_map(|line| serde_json::from_str(line).ok());
            events.find(|event: &Value| event["path"] == path.as_str())
        });
        assert_eq!(event["complete"], false, "{event}");
        assert_eq!(event["bytes"], bytes, "{event}");
        assert_eq!(event["protocol"], "HTTP/2.0", "{event}");
    }
    // One that is taken.
    let mut stream = TcpStream::connect(proxy.host()).unwrap();
    let settings = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
    let begin = [PREFACE, settings, &request("/nothing/taken")].concat();
    stream.write_all(&begin).unwrap();
    let event: Value = until("the line of the access log", || {
        let log = proxy.log();
        let mut events = log
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        events.find(|event: &Value| event["path"] == "/nothing/taken")
    });
    assert_eq!(event["complete"], true, "{event}");
}
