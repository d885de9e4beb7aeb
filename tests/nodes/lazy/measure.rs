//! How quickly a file is read, beside nbdkit's curl plugin. Says figures and judges nothing; run by
//! hand: `cargo test --test nodes -- --ignored --nocapture lazy::measure`.

use std::process::Command;
use std::time::{Duration, Instant};

use overlaybd_proxy::lazy::Reading;

use crate::lazy::served::{REPO, Served, open_large};
use crate::support::{find, noise};

const BYTES: usize = 256 << 20;

fn rate(time: Duration) -> String {
    #[allow(clippy::cast_precision_loss)]
    let mib = (BYTES >> 20) as f64 / time.as_secs_f64();
    format!("{mib:.0} MiB/s in {time:?}")
}

#[test]
#[ignore = "measures"]
fn measure_a_sequential_read_beside_nbdkit() {
    let content = noise(7, BYTES);
    let Some(served) = Served::start_with(1, false, &content) else {
        return;
    };
    for step in [128 << 10, 1 << 20] {
        let (disk, files) = served.files(Reading::default());
        let (file, mut buffer) = (open_large(&files), vec![0; step]);
        let (begun, mut at) = (Instant::now(), 0);
        while let Ok(count) = files.read(&file, at, &mut buffer)
            && count > 0
        {
            at += count as u64;
        }
        assert_eq!(at, BYTES as u64);
        let (took, requests) = (begun.elapsed(), disk.traffic.requests());
        eprintln!(
            "reads of {} KiB: {}, {requests} requests",
            step >> 10,
            rate(took)
        );
    }
    let (_disk, files) = served.files(Reading::default());
    let (file, mut buffer) = (open_large(&files), vec![0; 4096]);
    files.read(&file, 0, &mut vec![0; 32 << 20]).unwrap();
    let places = noise(8, 8 * 20_000);
    let begun = Instant::now();
    for place in places.chunks_exact(8) {
        let place = u64::from_le_bytes(place.try_into().unwrap()) % (32 << 20);
        files.read(&file, place & !4095, &mut buffer).unwrap();
    }
    eprintln!(
        "a random read of 4 KiB from memory: {:?}",
        begun.elapsed() / 20_000
    );
    if find("nbdkit").is_none() || find("nbdcopy").is_none() {
        return;
    }
    let digest = served.registry.push_blob(REPO, &content);
    let url = format!("url={}/v2/{REPO}/blobs/{digest}", served.gate.url());
    for flags in [
        "--connections=1 --requests=1 --request-size=131072",
        "--connections=1 --requests=1 --request-size=1048576",
        "",
    ] {
        let copy = format!("nbdcopy {flags} \"$uri\" null:");
        let begun = Instant::now();
        let status = Command::new("nbdkit")
            .args(["-U", "-", "-r", "curl", &url, "--run", &copy])
            .status()
            .unwrap();
        assert!(status.success());
        eprintln!("nbdkit curl, nbdcopy {flags}: {}", rate(begun.elapsed()));
    }
}
