//! Programs that people run, out of a mount through the proxy.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cold_start::images::{can_run, report, start, support_text};
use crate::support;
use crate::support::gate::Gate;
use crate::support::image::{Flavour, Image, Packing};
use crate::support::proxy::Proxy;
use crate::support::registry::Registry;

/// The tars of the layers, made once and kept in the target directory.
fn layers() -> Option<Vec<PathBuf>> {
    if !can_run() || !support::have(&["debootstrap", "tar"]) {
        return None;
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs.sh");
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("programs");
    let output = Command::new(script).arg(&directory).output().unwrap();
    if !output.status.success() {
        support::skip(&format!("no Debian to be had: {}", support_text(&output)));
        return None;
    }
    Some((0..3).map(|n| directory.join(format!("{n}.tar"))).collect())
}

/// What programs say of the files of the image that are part of them.
fn loaded(output: &str) -> Vec<&str> {
    let names = output
        .lines()
        .filter_map(|line| line.strip_prefix("loaded "));
    names.filter(|name| name.starts_with("/usr/")).collect()
}

const PYTHON: &str = "import ssl, asyncio, sys
for line in open('/proc/self/maps'):
    if '/' in line: print('loaded', line[line.index('/'):].strip())
";

#[test]
fn python_redis_and_node_start_out_of_a_mount_through_the_proxy() {
    let Some(tars) = layers() else { return };
    let Some(registry) = Registry::start() else {
        return;
    };
    let tars: Vec<_> = tars.iter().map(|tar| fs::read(tar).unwrap()).collect();
    let layers: Vec<_> = tars.iter().map(|tar| (&tar[..], Packing::Gzip)).collect();
    registry.push("programs", "1", &Image::new(Flavour::Oci, &layers).seal());
    let scratch = tempfile::tempdir().unwrap();
    let proxy = Proxy::start(&registry.url(), &scratch.path().join("data"), &[]);
    proxy.converted("programs", "1");
    let gate = Gate::before(proxy.host());
    let image = format!(
        "{}/programs:1_obd",
        gate.url().trim_start_matches("http://")
    );
    let list = scratch.path().join("list");

    let redis = [
        "redis-server",
        "--save",
        "",
        "--port",
        "6379",
        "--dir",
        "/tmp",
    ];
    // Debian's redis-server is a link to another program.
    let starts: [(&str, &str, &[&str], &[&str]); 3] = [
        (
            "python3",
            "python3.",
            &["--record", list.to_str().unwrap()],
            &["python3", "-c", PYTHON],
        ),
        (
            "redis-server",
            "redis-check-",
            &["--until", "Ready to accept connections"],
            &redis,
        ),
        (
            "node",
            "node",
            &[],
            &["node", "-e", "console.log(process.version)"],
        ),
    ];
    for (name, program, more, command) in starts {
        let seen = gate.count("GET", "/blobs/");
        let options: Vec<_> = ["--refill", "256KiB"].iter().chain(more).copied().collect();
        let report = report(&image, &options, command);
        let (requests, bytes) = (&report["requests"], &report["bytes"]);
        eprintln!(
            "{name}: {requests} requests, {bytes} bytes of {}",
            report["image_bytes"]
        );
        let whole = report["image_bytes"].as_u64().unwrap();
        assert!(bytes.as_u64().unwrap() < whole / 2, "{name}: {report}");
        // One more is for the config.
        let asked = (gate.count("GET", "/blobs/") - seen) as u64;
        assert_eq!(Some(asked), requests.as_u64().map(|it| it + 1), "{name}");
        let files = report["account"]["files"].as_array().unwrap();
        let paths = files.iter().map(|file| file["path"].as_str().unwrap());
        let is_program = |path: &str| path.starts_with(&format!("/usr/bin/{program}"));
        assert!(paths.into_iter().any(is_program), "{name}: {report}");
    }

    // Python knows best what it has loaded.
    let output = start(&image, &[], &["python3", "-c", PYTHON]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let list = fs::read_to_string(&list).unwrap();
    let names = loaded(&said);
    assert!(
        names.iter().any(|name| name.contains("libcrypto")),
        "{said}"
    );
    for name in names {
        assert!(
            list.lines().any(|line| line == name),
            "{name} is not in\n{list}"
        );
    }
    assert!(
        list.lines().any(|line| line.contains("/asyncio/")),
        "{list}"
    );
}
