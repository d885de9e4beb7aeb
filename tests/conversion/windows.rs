//! Layers of `zstd --long`: read up to the window that containerd takes, within `--memory`.

use crate::support;
use std::io::Write as _;

use support::image::{Flavour, Image, Packing, Sealed};
use support::layout::Layout;
use support::proxy::Proxy;
use support::tar::Tar;
use support::{noise, sha256};

const MIB: usize = 1 << 20;

/// An image of a layer with a window of 2^`log` bytes, whose data points back over `gap` bytes.
fn image(seed: u64, log: u32, gap: usize) -> Sealed {
    let data = noise(seed, MIB);
    let tar = Tar::new()
        .file("first", &data)
        .file("gap", vec![0; gap])
        .file("again", &data)
        .finish();
    // Of nobody knows how many bytes, as `zstd` reads a pipe.
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(log).unwrap();
    encoder.long_distance_matching(true).unwrap();
    encoder.write_all(&tar).unwrap();
    let packed = encoder.finish().unwrap();
    assert!(packed.len() < 3 * MIB / 2, "no match over the gap");
    let mut image = Image::new(Flavour::Oci, &[(&tar[..], Packing::Zstd)]);
    image.layers[0].bytes = packed;
    image.manifest["layers"][0] = image.layers[0].descriptor();
    image.seal()
}

struct Bench {
    layout: Layout,
    scratch: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let layout = Layout::create(&scratch.path().join("images"));
        Self { layout, scratch }
    }

    fn proxy(&self, memory: &str) -> Proxy {
        let upstream = format!("oci:{}", self.layout.path().display());
        let data = self.scratch.path().join(format!("data-{memory}"));
        let options = ["--memory", memory, "--hold", "60s", "--on-timeout", "busy"];
        Proxy::start(&upstream, &data, &options)
    }
}

#[test]
fn windows_of_512_mib_are_accepted_within_the_memory_budget() {
    let bench = Bench::new();
    // Farther back than the largest window that was taken before.
    bench.layout.add("far", &image(1, 29, 200 * MIB));
    let proxy = bench.proxy("1GiB");
    let answer = proxy.get("demo/manifests/far_obd");
    assert_eq!(answer.status, 200, "{answer:?}\n{}", proxy.log());
    // Where it does not fit beside the others, it is refused with a hint how it would fit.
    let small = bench.proxy("256MiB");
    bench.layout.add("near", &image(2, 27, MIB));
    for (tag, status) in [("far", 400), ("near", 200), ("far", 400)] {
        let answer = small.get(&format!("demo/manifests/{tag}_obd"));
        assert_eq!(answer.status, status, "{tag}: {answer:?}\n{}", small.log());
        if status == 400 {
            assert!(answer.text().contains("--memory"), "{answer:?}");
            assert!(answer.text().contains("512.00 MiB"), "{answer:?}");
        }
    }
    // What was asked for was never taken.
    assert!(small.peak_mib() < 400, "{} MiB", small.peak_mib());
}

#[test]
fn layers_whose_windows_exceed_the_budget_together_are_converted_in_turn() {
    let bench = Bench::new();
    let tags: Vec<String> = (0..6).map(|number| format!("i{number}")).collect();
    for (number, tag) in tags.iter().enumerate() {
        bench.layout.add(tag, &image(10 + number as u64, 28, MIB));
    }
    let proxy = bench.proxy("450MiB");
    let url = |tag: &String| format!("{}/v2/demo/manifests/{tag}_obd", proxy.url());
    let urls: Vec<_> = tags.iter().map(url).collect();
    for answer in support::http::get_all(&urls) {
        assert_eq!(answer.status, 200, "{answer:?}\n{}", proxy.log());
    }
}

#[test]
fn a_window_over_512_mib_is_refused() {
    let bench = Bench::new();
    let mut huge = image(3, 27, MIB);
    let layer = huge.blobs.last_mut().unwrap();
    // 2^30 bytes, in the frame's header.
    layer.bytes[5] = 20 << 3;
    let text = String::from_utf8(huge.manifest.clone()).unwrap();
    let mut manifest: serde_json::Value = serde_json::from_str(&text).unwrap();
    manifest["layers"][0]["digest"] = sha256(&layer.bytes).into();
    huge.manifest = serde_json::to_vec(&manifest).unwrap();
    bench.layout.add("huge", &huge);
    let proxy = bench.proxy("2GiB");
    let answer = proxy.get("demo/manifests/huge_obd");
    assert_eq!(answer.status, 400, "{answer:?}");
    assert!(answer.text().contains("window"), "{answer:?}");
}
