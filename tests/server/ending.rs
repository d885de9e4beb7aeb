//! What a proxy that ends leaves behind, and what a conversion that is cancelled does.

use crate::support;
use std::path::Path;
use std::thread;

use nix::sys::signal::Signal;
use serde_json::Value;

use support::gate::Gate;
use support::image::{Image, Sealed};
use support::noise;
use support::process::Process;
use support::proxy::{program, rows};
use support::registry::Registry;
use support::tar::Tar;
use support::until::until;
use support::{http, proxy::Proxy};

fn image(seed: u64) -> Sealed {
    let layer = |seed| Tar::new().file("file", noise(seed, 200_000)).finish();
    Image::gzip(&[layer(seed), layer(seed + 1)]).seal()
}

fn temporary(data: &Path) -> usize {
    std::fs::read_dir(data.join("tmp")).unwrap().count()
}

/// A proxy that a test waits for the end of.
fn serve(upstream: &str, data: &Path, logs: &Path, more: &[&str]) -> (Process, String) {
    let mut command = program();
    command
        .args(["serve", "--upstream", upstream, "--listen", "127.0.0.1:0"])
        .args(["--platform", "linux/amd64", "--data-dir"])
        .arg(data)
        .args(more);
    let mut process = Process::start(command, &logs.join("log"));
    let url = process.wait_for("listening on ");
    (process, url)
}

#[test]
fn a_proxy_that_ends_in_the_middle_of_a_conversion_leaves_no_temporary_files() {
    let Some(registry) = Registry::start() else {
        return;
    };
    registry.push("app", "1", &image(1));
    for is_awaited in [true, false] {
        let gate = Gate::before(registry.address());
        let scratch = tempfile::tempdir().unwrap();
        let data = scratch.path().join("data");
        let more = if is_awaited {
            ["--drain", "1s", "--hold", "60s"]
        } else {
            ["--drain", "60s", "--hold", "1s"]
        };
        let (mut process, url) = serve(&gate.url(), &data, scratch.path(), &more);
        let hold = gate.halt(&image(1).blobs[2].digest(), 1000);
        let url = format!("{url}/v2/app/manifests/1_obd");
        let pull =
            thread::spawn(move || http::try_send("GET", &url, &[("accept", http::ACCEPT)], b""));
        hold.wait();
        until("a layer is being written", || {
            (temporary(&data) > 0).then_some(())
        });
        let pull = if is_awaited {
            Some(pull)
        } else {
            // It is sent away, and the conversion goes on without it.
            let _ = pull.join();
            None
        };
        process.signal(Signal::SIGTERM);
        let status = process.end();
        // Requests were cut off, or there were none.
        assert_eq!(status.success(), !is_awaited, "{}", process.output());
        assert_eq!(temporary(&data), 0, "{is_awaited} {}", process.output());
        assert_eq!(rows(&data, "overlaybd_proxy_leases"), 0);
        hold.release();
        drop(pull.map(thread::JoinHandle::join));

        // What was finished is used by the next one.
        let proxy = Proxy::start(&registry.url(), &data, &["--platform", "linux/amd64"]);
        proxy.converted("app", "1");
        proxy.stop();
    }
}

#[test]
fn a_cancelled_conversion_ends_its_uploads() {
    let Some(registry) = Registry::start() else {
        return;
    };
    registry.push("app", "1", &image(3));
    let uploads = registry
        .storage()
        .join("docker/registry/v2/repositories/app/_uploads");
    // This registry leaves the directories of sessions that are deleted, without this file.
    let sessions = || {
        let all = std::fs::read_dir(&uploads).into_iter().flatten().flatten();
        all.filter(|session| session.path().join("startedat").exists())
            .count()
    };
    let token = "0123456789abcdef";
    // The layers of an image are pushed while it is converted, its config at the end.
    for uploaded in 0..3 {
        let gate = Gate::before(registry.address());
        let data = tempfile::tempdir().unwrap();
        let file = data.path().join("token");
        std::fs::write(&file, token).unwrap();
        // Blobs of other settings are ones that the registry does not have.
        let proxy = Proxy::start(
            &gate.url(),
            &data.path().join("data"),
            &[
                "--platform",
                "linux/amd64",
                "--push",
                "--hold",
                "60s",
                "--bs",
                ["4", "8", "16"][uploaded],
                "--admin-token-file",
                file.to_str().unwrap(),
            ],
        );
        let mut holds: Vec<_> = (0..=uploaded)
            .map(|_| gate.hold("PUT", "/blobs/uploads/"))
            .collect();
        let url = format!("{}/v2/app/manifests/1_obd", proxy.url());
        let pull = thread::spawn(move || http::get(&url));
        let last = holds.pop().unwrap();
        for before in holds {
            before.wait();
            before.release();
        }
        last.wait();
        until("one upload is open", || (sessions() == 1).then_some(()));
        let deleted = gate.count("DELETE", "/blobs/uploads/");

        let api = format!("{}/api/v1/conversions", proxy.admin());
        let list: Value = http::get(&api).json();
        let id = list["conversions"][0]["id"].as_u64().unwrap();
        let bearer = format!("Bearer {token}");
        let headers = [("authorization", bearer.as_str())];
        let cancelled = http::send("DELETE", &format!("{api}/{id}"), &headers, b"");
        assert!(cancelled.status < 300, "{cancelled:?}");
        let answer = pull.join().unwrap();
        assert_eq!(answer.status, 503, "{answer:?}\n{}", proxy.log());
        let list: Value = http::get(&api).json();
        assert_eq!(list["conversions"][0]["state"], "cancelled", "{list}");
        until("the upload is deleted", || (sessions() == 0).then_some(()));
        assert!(gate.count("DELETE", "/blobs/uploads/") > deleted);
        last.release();
        until("the temporary files are gone", || {
            (temporary(&data.path().join("data")) == 0).then_some(())
        });

        // It is not remembered as a failure.
        proxy.converted("app", "1");
        proxy.stop();
    }
}
