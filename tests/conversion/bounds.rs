//! What conversions may take: memory, threads, files, places in the queue, time.

use crate::support;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;
use support::gate::Gate;
use support::image::{Flavour, Image, Packing, index};
use support::layout::Layout;
use support::proxy::Proxy;
use support::registry::Registry;
use support::tar::Tar;
use support::until::until;
use support::{http, noise};

const PLATFORM: [&str; 2] = ["--platform", "linux/amd64"];

fn image(number: u64, layers: u64) -> Image {
    let tars: Vec<_> = (0..layers)
        .map(|layer| {
            let name = format!("file-{layer}");
            Tar::new()
                .file(&name, noise(1000 * number + layer, 50))
                .finish()
        })
        .collect();
    Image::gzip(&tars)
}

/// A number that the kernel tells of a process.
fn status(pid: u32, field: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find(|line| line.starts_with(field)).unwrap();
    let number = line.split_whitespace().nth(1).unwrap();
    number.parse().unwrap()
}

fn entries(directory: &Path) -> u64 {
    std::fs::read_dir(directory).unwrap().count() as u64
}

/// The most that was seen of a process.
#[derive(Debug, Default)]
struct Peak {
    mib: u64,
    threads: u64,
    files: u64,
    temporary: u64,
}

/// Pulls these images at once, all of which must come, and watches the process.
fn pull_all(proxy: &Proxy, data: &Path, images: Range<u64>) -> Peak {
    let done = AtomicBool::new(false);
    let mut peak = Peak::default();
    std::thread::scope(|scope| {
        let pulling = scope.spawn(|| {
            let url = |number| format!("{}/v2/demo/manifests/i{number}_obd", proxy.url());
            let urls: Vec<_> = images.map(url).collect();
            for answer in http::get_all(&urls) {
                assert_eq!(answer.status, 200, "{answer:?}");
            }
            done.store(true, Ordering::Relaxed);
        });
        while !done.load(Ordering::Relaxed) && !pulling.is_finished() {
            peak.threads = peak.threads.max(status(proxy.pid(), "Threads:"));
            let files = entries(Path::new(&format!("/proc/{}/fd", proxy.pid())));
            peak.files = peak.files.max(files);
            peak.temporary = peak.temporary.max(entries(&data.join("tmp")));
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    peak.mib = status(proxy.pid(), "VmHWM:") / 1024;
    peak
}

#[test]
fn queued_images_take_no_threads_no_files_and_little_memory() {
    const COUNT: u64 = 200;
    let scratch = tempfile::tempdir().unwrap();
    let layout = Layout::create(&scratch.path().join("layout"));
    for number in 0..COUNT {
        layout.add(&format!("i{number}"), &image(number, 3).seal());
    }
    let data = scratch.path().join("data");
    let upstream = format!("oci:{}", layout.path().display());
    let options = [&PLATFORM[..], &["--conversions", "2", "--memory", "128MiB"]].concat();
    let proxy = Proxy::start(&upstream, &data, &options);
    // What conversions take however many wait.
    let few = pull_all(&proxy, &data, 0..COUNT / 10);
    let peak = pull_all(&proxy, &data, COUNT / 10..COUNT);
    // Of the runtime, and to compress: one for each core; 32 for the disk, 14 of each conversion with
    // its three layers, 8 that sync files, those of the index, and some that run now and then.
    let cores = std::thread::available_parallelism().unwrap().get() as u64;
    assert!(peak.threads <= 80 + 2 * cores, "{peak:?}");
    // A connection each, and what two conversions take.
    assert!(peak.files <= COUNT + 100, "{peak:?}");
    assert!(peak.temporary <= 16, "{peak:?}");
    assert!(peak.mib <= few.mib + 64, "{few:?} {peak:?}");
}

#[test]
fn queued_images_keep_no_manifests_in_memory() {
    const COUNT: u64 = 24;
    let scratch = tempfile::tempdir().unwrap();
    let layout = Layout::create(&scratch.path().join("layout"));
    for number in 0..COUNT {
        let mut image = image(number, 1);
        // Numbers take many times their text once they are parsed.
        image.config["x-large"] = json!(vec![1; 2 << 20]);
        layout.add(&format!("i{number}"), &image.seal());
    }
    let data = scratch.path().join("data");
    let upstream = format!("oci:{}", layout.path().display());
    let options = [&PLATFORM[..], &["--memory", "128MiB"]].concat();
    let proxy = Proxy::start(&upstream, &data, &options);
    let peak = pull_all(&proxy, &data, 0..COUNT);
    assert!(peak.mib <= 800, "{peak:?}");
}

#[test]
fn images_over_the_queue_limit_are_429_and_cached_ones_are_served() {
    let Some(registry) = Registry::start() else {
        return;
    };
    for number in 0..4 {
        registry.push("demo", &format!("i{number}"), &image(number, 1).seal());
    }
    let gate = Gate::before(registry.address());
    let data = tempfile::tempdir().unwrap();
    let options = [&PLATFORM[..], &["--max-queue", "2", "--hold", "60s"]].concat();
    let proxy = Proxy::start(&gate.url(), data.path(), &options);
    let path = |number: u64| format!("{}/v2/demo/manifests/i{number}_obd", proxy.url());
    assert_eq!(http::get(&path(0)).status, 200);
    let layer = |number| image(number, 1).layers[0].digest();
    let holds = [1, 2].map(|number| gate.hold("GET", &layer(number)));
    std::thread::scope(|scope| {
        let held = [1, 2].map(|number| {
            let path = path(number);
            scope.spawn(move || http::get(&path).status)
        });
        holds.iter().for_each(support::gate::Hold::wait);
        let refused = http::get(&path(3));
        assert_eq!(refused.status, 429, "{refused:?}");
        assert!(refused.header("retry-after").is_some(), "{refused:?}");
        assert!(refused.text().contains("TOOMANYREQUESTS"), "{refused:?}");
        assert_eq!(http::get(&path(0)).status, 200);
        holds.iter().for_each(support::gate::Hold::release);
        for held in held {
            assert_eq!(held.join().unwrap(), 200);
        }
    });
    assert_eq!(http::get(&path(3)).status, 200);
}

#[test]
fn a_conversion_over_its_time_limit_is_aborted_and_leaves_no_file() {
    let Some(registry) = Registry::start() else {
        return;
    };
    registry.push("demo", "i1", &image(1, 2).seal());
    let gate = Gate::before(registry.address());
    let data = tempfile::tempdir().unwrap();
    let options = [
        &PLATFORM[..],
        &["--conversion-timeout", "1s", "--hold", "60s"],
    ]
    .concat();
    let proxy = Proxy::start(&gate.url(), data.path(), &options);
    let hold = gate.hold("GET", &image(1, 2).layers[1].digest());
    let url = format!("{}/v2/demo/manifests/i1_obd", proxy.url());
    let given_up = http::get(&url);
    hold.wait();
    assert_eq!(given_up.status, 504, "{given_up:?}");
    assert!(given_up.header("retry-after").is_some(), "{given_up:?}");
    assert!(
        proxy.log().contains("--conversion-timeout"),
        "{}",
        proxy.log()
    );
    until("the temporary files are gone", || {
        (entries(&data.path().join("tmp")) == 0).then_some(())
    });
    hold.release();
    assert_eq!(http::get(&url).status, 200);
    // The layer below was whole before, and was not made again.
    let converted = proxy.metric("overlaybd_proxy_layers_converted_total");
    assert_eq!(converted, Some(2), "{}", proxy.log());
}

#[test]
fn an_index_with_more_entries_than_any_image_has_is_refused() {
    let scratch = tempfile::tempdir().unwrap();
    let layout = Layout::create(&scratch.path().join("layout"));
    let sealed = image(1, 1).seal();
    layout.store(&sealed);
    let entry = sealed.entry("linux", "amd64");
    for (tag, count) in [("few", 3), ("many", 600)] {
        layout.tag(tag, &index(Flavour::Oci, &vec![entry.clone(); count]));
    }
    let upstream = format!("oci:{}", layout.path().display());
    let proxy = Proxy::start(&upstream, &scratch.path().join("data"), &PLATFORM);
    let answer = proxy.get("demo/manifests/many_obd");
    assert_eq!(answer.status, 400, "{answer:?}");
    assert!(answer.text().contains("600 entries"), "{answer:?}");
    assert_eq!(proxy.get("demo/manifests/few_obd").status, 200);
}

#[test]
fn a_layer_is_verified_while_its_image_has_used_up_the_memory() {
    let Some(registry) = Registry::start() else {
        return;
    };
    // Placing the lower layer takes nearly all of the memory; the upper one is known by its
    // chain, but not in this packing.
    let lower = Tar::new().file("lower", noise(1, 30 << 20)).finish();
    let upper = Tar::new().file("upper", noise(2, 3 << 20)).finish();
    let image = |packing| {
        let tars = [(&lower[..], Packing::Gzip), (&upper[..], packing)];
        Image::new(Flavour::Oci, &tars).seal()
    };
    registry.push("demo", "first", &image(Packing::Gzip));
    registry.push("demo", "second", &image(Packing::Plain));
    let data = tempfile::tempdir().unwrap();
    let options = [
        &PLATFORM[..],
        &[
            "--memory",
            "128MiB",
            "--hold",
            "60s",
            "--on-timeout",
            "busy",
        ],
    ]
    .concat();
    let proxy = Proxy::start(&registry.url(), data.path(), &options);
    let first = proxy.get("demo/manifests/first_obd").json();
    proxy.stop();
    let hex = &first["layers"][0]["digest"].as_str().unwrap()["sha256:".len()..];
    std::fs::remove_file(data.path().join("blobs/sha256").join(&hex[..2]).join(hex)).unwrap();

    let proxy = Proxy::start(&registry.url(), data.path(), &options);
    let second = proxy.get("demo/manifests/second_obd");
    assert_eq!(second.status, 200, "{second:?}\n{}", proxy.log());
    assert_eq!(second.json()["layers"], first["layers"]);
}

#[test]
fn stalled_pushes_of_manifests_take_little_memory() {
    use std::io::Write as _;
    const LENGTH: usize = 4 << 20;
    // An upstream that takes connections and reads nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let data = tempfile::tempdir().unwrap();
    let proxy = Proxy::start(&url, data.path(), &[]);
    let head = format!(
        "PUT /v2/app/manifests/1 HTTP/1.1\r\nHost: {}\r\nContent-Length: {LENGTH}\r\n\
         Content-Type: application/vnd.oci.image.manifest.v1+json\r\n\r\n",
        proxy.host()
    );
    let before = proxy.peak_mib();
    let open: Vec<_> = (0..100)
        .map(|_| {
            let mut stream = std::net::TcpStream::connect(proxy.host()).unwrap();
            let wait = Duration::from_millis(100);
            stream.set_write_timeout(Some(wait)).unwrap();
            stream.write_all(head.as_bytes()).unwrap();
            // Those that are passed on stop when nobody reads them.
            let _ = stream.write_all(&vec![b' '; LENGTH - 1]);
            stream
        })
        .collect();
    let taken = proxy.peak_mib() - before;
    assert!(taken < 250, "{taken} MiB for {} manifests", open.len());
}
