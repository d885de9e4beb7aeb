//! Blobs while they come in.

use crate::source_cache::{Reading, Setting, assert_outcome, bytes_of, image, kept, layer_of};
use crate::support::until::until;

const BYTES: usize = 12 << 20;
/// Where the upstream halts: more than is taken for near is behind it.
const HALF: usize = 3 << 20;

/// An image of which half of the layer has come to a first client.
struct Half {
    setting: Setting,
    first: Reading,
    hold: crate::support::gate::Hold,
    path: String,
    bytes: Vec<u8>,
}

impl Half {
    fn new(options: &[&str], is_damaged: bool) -> Option<Self> {
        let setting = Setting::new(options)?;
        let image = image(1, BYTES);
        setting.registry.push("app", "1", &image);
        let layer = layer_of(&image);
        let hold = setting.gate.halt(&layer, HALF);
        if is_damaged {
            setting.gate.damage(&layer, 1);
        }
        let path = format!("app/blobs/{layer}");
        let mut first = Reading::begin(&setting.proxy, &path, "");
        assert!(first.read(HALF), "{}", setting.proxy.log());
        assert!(
            first.head.contains("overlaybd-outcome: filled"),
            "{}",
            first.head
        );
        hold.wait();
        Some(Self {
            setting,
            first,
            hold,
            path,
            bytes: bytes_of(&image, &layer).to_vec(),
        })
    }

    fn downloads(&self) -> usize {
        self.setting.gate.count("GET", &self.path)
    }
}

#[test]
fn a_follower_that_joins_late_gets_the_same_bytes() {
    let Some(half) = Half::new(&[], false) else {
        return;
    };
    let mut late = Reading::begin(&half.setting.proxy, &half.path, "");
    assert!(late.read(HALF));
    assert!(
        late.head.contains("overlaybd-outcome: joined"),
        "{}",
        late.head
    );
    assert_eq!(half.downloads(), 1);
    half.hold.release();
    for reading in [half.first, late] {
        let (head, body) = reading.rest();
        let length = format!("content-length: {}\r\n", half.bytes.len());
        assert!(head.contains(&length), "{head}");
        assert!(body == half.bytes, "{} bytes", body.len());
    }
    // It is there from then on.
    let answer = kept(|| half.setting.proxy.get(&half.path));
    assert!(answer.body == half.bytes);
    half.setting.proxy.stop();
}

#[test]
fn a_download_goes_on_when_its_first_client_leaves() {
    let Some(half) = Half::new(&[], false) else {
        return;
    };
    let mut second = Reading::begin(&half.setting.proxy, &half.path, "");
    assert!(second.read(HALF));
    drop(half.first);
    half.hold.release();
    let (head, body) = second.rest();
    assert!(head.contains("overlaybd-outcome: joined"), "{head}");
    assert!(body == half.bytes);
    assert_eq!(half.setting.gate.count("GET", &half.path), 1);
    half.setting.proxy.stop();
}

#[test]
fn a_download_without_any_client_fills_the_cache() {
    let Some(half) = Half::new(&[], false) else {
        return;
    };
    drop(half.first);
    half.hold.release();
    let file = half.setting.data.path().join("blobs/sha256");
    let hex = half.path.split_once("sha256:").unwrap().1;
    let file = file.join(&hex[..2]).join(hex);
    until("the blob is in the cache", || file.exists().then_some(()));
    let answer = half.setting.proxy.get(&half.path);
    assert_outcome(&answer, 200, Some("hit"));
    assert!(answer.body == half.bytes);
    assert_eq!(half.setting.gate.count("GET", &half.path), 1);
    half.setting.proxy.stop();
}

#[test]
fn a_range_of_a_blob_that_comes_in_is_answered_from_what_is_there() {
    let Some(half) = Half::new(&[], false) else {
        return;
    };
    let proxy = &half.setting.proxy;
    let (head, body) = Reading::begin(proxy, &half.path, "Range: bytes=1000-2999\r\n").rest();
    assert!(head.starts_with("http/1.1 206"), "{head}");
    assert!(head.contains("overlaybd-outcome: joined"), "{head}");
    let range = format!("content-range: bytes 1000-2999/{}\r\n", half.bytes.len());
    assert!(head.contains(&range), "{head}");
    assert!(body == half.bytes[1000..3000]);
    assert_eq!(half.setting.gate.count("GET", &half.path), 1);
    // What is far away is the upstream's to answer.
    let from = half.bytes.len() - 100;
    let far = format!("Range: bytes={from}-\r\n");
    let (head, body) = Reading::begin(proxy, &half.path, &far).rest();
    assert!(head.starts_with("http/1.1 206"), "{head}");
    assert!(!head.contains("overlaybd-outcome"), "{head}");
    assert!(body == half.bytes[from..]);
    // What is near is waited for.
    let near = format!("Range: bytes={}-{}\r\n", HALF, 5 << 20);
    let near = Reading::begin(proxy, &half.path, &near);
    assert_eq!(half.setting.gate.count("GET", &half.path), 2);
    half.hold.release();
    let (head, body) = near.rest();
    assert!(head.starts_with("http/1.1 206"), "{head}");
    assert!(body == half.bytes[HALF..=5 << 20]);
    assert!(half.first.rest().1 == half.bytes);
    half.setting.proxy.stop();
}

#[test]
fn a_damaged_blob_never_arrives_whole_and_is_not_kept() {
    let Some(half) = Half::new(&[], true) else {
        return;
    };
    let mut late = Reading::begin(&half.setting.proxy, &half.path, "");
    assert!(late.read(HALF));
    half.hold.release();
    for reading in [half.first, late] {
        let (head, body) = reading.rest();
        assert!(head.starts_with("http/1.1 200"), "{head}");
        assert!(body.len() < half.bytes.len(), "{} bytes", body.len());
    }
    // The next one gets it anew, and right.
    let answer = half.setting.proxy.get(&half.path);
    assert_outcome(&answer, 200, Some("filled"));
    assert!(answer.body == half.bytes);
    let log = half.setting.proxy.log();
    assert!(log.contains("blob's digest"), "{log}");
    half.setting.proxy.stop();
}

#[test]
fn a_download_that_stalls_breaks_off() {
    // Only the bodies of answers are bounded so shortly here, so that the download itself goes on.
    let Some(half) = Half::new(&["--stall-timeout", "1s"], false) else {
        return;
    };
    let (_, body) = half.first.rest();
    assert!(body.len() < half.bytes.len(), "{} bytes", body.len());
    half.hold.release();
    let answer = half.setting.proxy.get(&half.path);
    assert!(answer.body == half.bytes);
    half.setting.proxy.stop();
}
