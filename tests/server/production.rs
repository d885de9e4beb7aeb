//! What operators do: convert between guarded registries with a shared database, warm many
//! images and be interrupted, and let small images pass big ones.

use crate::{registry_support, store_support, support};
use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use registry_support::{DockerRegistry, Settings, certificates};
use store_support::Server;
use support::image::{Image, Sealed};
use support::layout::Layout;
use support::overlaybd;
use support::proxy::{Proxy, program, rows};
use support::registry::Registry;
use support::tar::Tar;
use support::{command, have, noise, run};

fn image(seed: u64, bytes: usize) -> Sealed {
    let layer = |seed, name| Tar::new().file(name, noise(seed, bytes / 2)).finish();
    Image::gzip(&[layer(3000 + seed, "lower"), layer(4000 + seed, "upper")]).seal()
}

/// A registry with a password, behind TLS that asks for a client certificate.
fn guarded(keys: &Path, user: &str, password: &str) -> Option<DockerRegistry> {
    let file = |name: &str| keys.join(name).display().to_string();
    DockerRegistry::start_with(|directory| {
        let users = run(command("htpasswd").args(["-nbB", user, password]));
        let path = directory.join("htpasswd");
        std::fs::write(&path, users.stdout).unwrap();
        Settings {
            auth: format!(
                "  htpasswd:\n    realm: test\n    path: {}\n",
                path.display()
            ),
            http: format!(
                "  tls:\n    certificate: {}\n    key: {}\n    clientcas:\n      - {}\n",
                file("server.crt"),
                file("server.key"),
                file("ca.crt")
            ),
        }
    })
}

fn last_event(output: &[u8]) -> serde_json::Value {
    let text = String::from_utf8_lossy(output);
    serde_json::from_str(text.lines().last().unwrap()).unwrap()
}

/// The image that an event says to have come out so.
fn warmed(event: &str, outcome: &str) -> Option<String> {
    let event: serde_json::Value = serde_json::from_str(event).unwrap();
    let is_it = event["event"] == "image" && event["outcome"] == outcome;
    is_it.then(|| event["image"].as_str().unwrap().to_owned())
}

#[test]
fn the_second_conversion_between_two_guarded_registries_converts_nothing() {
    if !have(&["htpasswd", "skopeo", "openssl"]) {
        return;
    }
    let (Some(keys), Some(server)) = (certificates(), Server::shared()) else {
        return;
    };
    let from = guarded(keys.path(), "reader", "first secret");
    let to = guarded(keys.path(), "writer", "second secret");
    let (Some(from), Some(to)) = (from, to) else {
        return;
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let dsn = server.dsn(&runtime.block_on(server.database()));

    let scratch = tempfile::tempdir().unwrap();
    let layout = Layout::create(&scratch.path().join("layout"));
    layout.add("1", &image(1, 400_000));
    let trusted = scratch.path().join("certificates");
    std::fs::create_dir(&trusted).unwrap();
    for (file, name) in [
        ("ca.crt", "ca.crt"),
        ("client.crt", "client.cert"),
        ("client.key", "client.key"),
    ] {
        std::fs::copy(keys.path().join(file), trusted.join(name)).unwrap();
    }
    let source = format!("{}/app:1", from.host);
    let mut push = command("skopeo");
    push.args([
        "--insecure-policy",
        "copy",
        "--dest-creds",
        "reader:first secret",
    ]);
    push.arg("--dest-cert-dir").arg(&trusted);
    push.arg(format!("oci:{}:1", layout.path().display()));
    push.arg(format!("docker://{source}"));
    run(&mut push);

    let convert = |more: &[&str]| -> Command {
        let mut convert = program();
        let key = |name: &str| keys.path().join(name);
        convert.args(["convert", "--json", "--db-create", "--dbstr", &dsn]);
        convert.arg("--tlscacert").arg(key("ca.crt"));
        convert.arg("--tlscert").arg(key("client.crt"));
        convert.arg("--tlskey").arg(key("client.key"));
        convert.args([
            "--src-user",
            "reader:first secret",
            "--platform",
            "linux/amd64",
        ]);
        convert
            .args(more)
            .arg(&source)
            .arg(format!("{}/team/app:1_obd", to.host));
        convert
    };
    let writer = ["--dst-user", "writer:second secret"];
    // Each guard is one: without the password, and without the certificate, nothing happens.
    let refused = convert(&["--dst-user", "writer:wrong"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(4), "{refused:?}");
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!said.contains("wrong\""), "{said}");
    let first = last_event(&run(&mut convert(&writer)).stdout);
    assert_eq!(
        (&first["converted"], &first["found"]),
        (&2.into(), &0.into())
    );
    // Another machine, with nothing but the database and the registry in common.
    let second = last_event(&run(&mut convert(&writer)).stdout);
    assert_eq!(
        (&second["converted"], &second["found"]),
        (&0.into(), &2.into())
    );
    assert_eq!(second["uploaded"], 0);
    assert_eq!(second["digest"], first["digest"]);
    let log = to.log();
    assert!(log.contains("/v2/team/app/manifests/1_obd"), "{log}");
}

#[test]
fn a_killed_warm_up_resumes() {
    const IMAGES: usize = 50;
    let Some(registry) = Registry::start() else {
        return;
    };
    let scratch = tempfile::tempdir().unwrap();
    let mut names = Vec::new();
    for number in 0..IMAGES {
        let repo = format!("app-{number}");
        registry.push(&repo, "1", &image(100 + number as u64, 600_000));
        names.push(format!("{repo}:1"));
    }
    let file = scratch.path().join("images");
    std::fs::write(&file, names.join("\n")).unwrap();
    let data = scratch.path().join("data");
    let warm = || {
        let mut warm = program();
        warm.args(["warm", "--json", "--upstream", &registry.url()]);
        warm.args(["--platform", "linux/amd64", "-c", "2", "--file"])
            .arg(&file);
        warm.arg("--data-dir").arg(&data);
        warm
    };
    let mut killed = warm().stdout(Stdio::piped()).spawn().unwrap();
    let mut events = BufReader::new(killed.stdout.take().unwrap()).lines();
    let mut reported = BTreeSet::new();
    while reported.len() < IMAGES / 2 {
        let line = events.next().expect("it ended too early for this test");
        reported.extend(warmed(&line.unwrap(), "converted"));
    }
    killed.kill().unwrap();
    killed.wait().unwrap();
    let layers = rows(&data, "overlaybd_proxy_chains");
    let manifests = rows(&data, "overlaybd_proxy_manifests");
    assert!(reported.len() <= manifests, "reported what is not recorded");
    assert!(layers < 2 * IMAGES, "{layers}");
    let output = run(&mut warm()).stdout;
    let summary = last_event(&output);
    assert_eq!(summary["event"], "summary", "{summary}");
    let text = String::from_utf8_lossy(&output);
    let found: BTreeSet<String> = text
        .lines()
        .filter_map(|line| warmed(line, "found"))
        .collect();
    assert!(found.is_superset(&reported), "{reported:?} {found:?}");
    // Of an image in the works all layers may have been recorded, only its manifest not.
    let in_the_works = found.len() - manifests;
    assert!(in_the_works <= 2, "{found:?} for {manifests} manifests");
    let count = |name: &str| usize::try_from(summary[name].as_u64().unwrap()).unwrap();
    assert_eq!(count("found"), found.len());
    assert_eq!(count("found") + count("converted"), IMAGES);
    assert_eq!(rows(&data, "overlaybd_proxy_chains"), 2 * IMAGES);
    // A layer that was recorded was not fetched again.
    let fetched = registry.count("GET", "/blobs/sha256:");
    let twice = fetched.saturating_sub(150);
    assert!(
        twice <= 12,
        "{fetched} blobs were fetched for 100 layers and 50 configs"
    );
    let again = last_event(&run(&mut warm()).stdout);
    assert_eq!(
        (&again["converted"], &again["found"]),
        (&0.into(), &50.into())
    );
    assert_eq!(overlaybd::assert_directory(&data), 2 * IMAGES);
}

#[test]
fn a_small_image_does_not_wait_for_big_ones() {
    const BIG: u64 = 3;
    let Some(registry) = Registry::start() else {
        return;
    };
    for number in 0..BIG {
        let layer = Tar::new()
            .file("big", noise(7000 + number, 80 << 20))
            .finish();
        registry.push(&format!("big-{number}"), "1", &Image::gzip(&[layer]).seal());
    }
    registry.push("small", "1", &image(9, 100_000));
    let data = tempfile::tempdir().unwrap();
    let options = ["--conversions", "2", "--platform", "linux/amd64"];
    let proxy = Proxy::start(&registry.url(), data.path(), &options);
    let done = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for number in 0..BIG {
            let (proxy, done) = (&proxy, &done);
            scope.spawn(move || {
                let answer = proxy.get(&format!("big-{number}/manifests/1_obd"));
                assert_eq!(answer.status, 200, "{answer:?}");
                done.fetch_add(1, Ordering::SeqCst);
            });
        }
        while proxy.metric("overlaybd_proxy_layers_queued") < Some(1) {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(proxy.get("small/manifests/1_obd").status, 200);
        let before = done.load(Ordering::SeqCst);
        assert!(before < 2, "{before} big ones were first");
    });
    proxy.stop();
}
