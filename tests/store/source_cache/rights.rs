//! Cached is not allowed.

use std::path::Path;

use crate::source_cache::{
    PLATFORM, Reading, Setting, assert_outcome, bytes_of, image, kept, layer_of,
};
use crate::support::gate::Gate;
use crate::support::http::{ACCEPT, Answer, send};
use crate::support::process::Process;
use crate::support::proxy::Proxy;
use crate::support::registry::Registry;
use crate::support::{command, have, run, skopeo};

/// A registry that only `ann`, whose password is `pw`, may read.
fn guarded(directory: &Path) -> (Process, String) {
    let users = directory.join("htpasswd");
    let made = run(command("htpasswd").args(["-nbB", "ann", "pw"]));
    std::fs::write(&users, made.stdout).unwrap();
    let config = directory.join("config.yml");
    let text = format!(
        "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\nauth:\n  htpasswd:\n    \
         realm: test\n    path: {}\nhttp:\n  addr: 127.0.0.1:0\n",
        directory.join("storage").display(),
        users.display()
    );
    std::fs::write(&config, text).unwrap();
    let mut serve = command("docker-registry");
    serve.arg("serve").arg(&config);
    let mut process = Process::start(serve, &directory.join("log"));
    let address = process.wait_for("listening on ");
    (process, address)
}

/// `Basic` for `ann:pw`, and for `bob:pw`.
const ANN: &str = "Basic YW5uOnB3";
const BOB: &str = "Basic Ym9iOnB3";

#[test]
fn what_is_cached_is_not_given_to_other_credentials() {
    if !have(&["docker-registry", "htpasswd", "skopeo"]) {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let (_registry, address) = guarded(scratch.path());
    let layout = crate::support::layout::Layout::create(&scratch.path().join("layout"));
    let image = image(1, 4 << 20);
    layout.add("1", &image);
    let from = skopeo::layout(layout.path(), "1");
    let to = format!("docker://{address}/app:1");
    skopeo::copied(&from, &to, &["--dest-creds", "ann:pw"]);

    let gate = Gate::before(&address);
    let options = [&PLATFORM[..], &["--cache-source", "--stale-if-error", "1h"]].concat();
    let data = scratch.path().join("data");
    let proxy = Proxy::start(&gate.url(), &data, &options);
    let layer = layer_of(&image);
    let digest = crate::support::sha256(&image.manifest);
    let paths = [
        "app/manifests/1".to_owned(),
        format!("app/manifests/{digest}"),
        format!("app/blobs/{layer}"),
    ];
    let ask = |path: &str, authorization: Option<&str>| -> Answer {
        let mut headers = vec![("accept", ACCEPT)];
        headers.extend(authorization.map(|value| ("authorization", value)));
        send("GET", &format!("{}/v2/{path}", proxy.url()), &headers, b"")
    };
    // Also while it comes in.
    let hold = gate.halt(&layer, 1 << 20);
    let header = format!("Authorization: {ANN}\r\n");
    let mut first = Reading::begin(&proxy, &paths[2], &header);
    assert!(first.read(1 << 20));
    hold.wait();
    for other in [None, Some(BOB)] {
        let answer = ask(&paths[2], other);
        assert_outcome(&answer, 401, None);
    }
    hold.release();
    first.rest();
    for path in &paths {
        kept(|| ask(path, Some(ANN)));
        for other in [None, Some(BOB)] {
            let answer = ask(path, other);
            assert_outcome(&answer, 401, None);
            assert!(answer.header("www-authenticate").is_some(), "{answer:?}");
        }
        let answer = ask(path, Some(ANN));
        let outcome = answer.header("overlaybd-outcome");
        assert_eq!((answer.status, outcome), (200, Some("hit")), "{answer:?}");
    }
    proxy.stop();
}

#[test]
fn a_blob_of_one_repository_is_not_read_through_another() {
    let Some(setting) = Setting::new(&[]) else {
        return;
    };
    let (ours, theirs) = (image(1, 200_000), image(2, 200_000));
    setting.registry.push("ours", "1", &ours);
    setting.registry.push("theirs", "1", &theirs);
    let layer = layer_of(&theirs);
    let manifest = crate::support::sha256(&theirs.manifest);
    for path in [
        format!("theirs/blobs/{layer}"),
        format!("theirs/manifests/{manifest}"),
    ] {
        setting.fill(&path);
        // As of a digest that nobody has, to the letter.
        let hex = path.rsplit(':').next().unwrap();
        let unknown = path.replace(hex, &"0".repeat(64)).replace("theirs", "ours");
        let through_ours = setting.proxy.get(&path.replace("theirs", "ours"));
        assert_outcome(&through_ours, 404, None);
        for headers in [&[][..], &[("range", "bytes=0-9")]] {
            for method in ["GET", "HEAD"] {
                let url = format!(
                    "{}/v2/{}",
                    setting.proxy.url(),
                    path.replace("theirs", "ours")
                );
                let answer = send(method, &url, headers, b"");
                assert_eq!(answer.status, 404, "{method} {answer:?}");
                let url = format!("{}/v2/{unknown}", setting.proxy.url());
                let nobodys = send(method, &url, headers, b"");
                let zeros = |answer: &Answer| answer.text().replace(hex, &"0".repeat(64));
                assert_eq!(zeros(&answer), zeros(&nobodys));
                let names = |answer: &Answer| -> Vec<String> {
                    let names = answer.headers.keys().map(ToString::to_string);
                    names.collect()
                };
                assert_eq!(names(&answer), names(&nobodys));
            }
        }
    }
    setting.proxy.stop();
}

#[test]
fn a_conversion_reads_no_layer_from_the_cache_that_its_repository_lacks() {
    let Some(setting) = Setting::new(&["--attempts", "1"]) else {
        return;
    };
    let theirs = image(1, 200_000);
    setting.registry.push("theirs", "1", &theirs);
    let layer = layer_of(&theirs);
    setting.fill(&format!("theirs/blobs/{layer}"));
    setting.registry.push("ours", "1", &theirs);
    // As if the registry had taken the manifest without it.
    let link = setting
        .registry
        .storage()
        .join("docker/registry/v2/repositories/ours/_layers");
    std::fs::remove_dir_all(link.join("sha256").join(&layer[7..])).unwrap();
    let converted = setting.proxy.get("ours/manifests/1_obd");
    assert_ne!(converted.status, 200, "{converted:?}");
    setting.proxy.converted("theirs", "1");
    setting.proxy.stop();
}

#[test]
fn what_one_upstream_sends_is_not_given_to_clients_of_another_before_it_is_verified() {
    let (Some(bad), Some(good)) = (Registry::start(), Registry::start()) else {
        return;
    };
    let image = image(1, 4 << 20);
    let layer = layer_of(&image);
    for registry in [&bad, &good] {
        registry.push("app", "1", &image);
    }
    let gate = Gate::before(bad.address());
    gate.damage(&layer, 1);
    let hold = gate.halt(&layer, 3 << 20);
    let data = tempfile::tempdir().unwrap();
    let second = format!("{},path-prefix=good", good.url());
    let options = ["--cache-source", "--upstream", &second];
    let proxy = Proxy::start(&gate.url(), data.path(), &options);
    let mut first = Reading::begin(&proxy, &format!("app/blobs/{layer}"), "");
    assert!(first.read(3 << 20));
    hold.wait();
    // What is damaged is in the middle.
    let right = bytes_of(&image, &layer);
    let url = format!("{}/v2/good/app/blobs/{layer}", proxy.url());
    let part = send("GET", &url, &[("range", "bytes=0-2999999")], b"");
    assert_eq!(part.status, 206, "{part:?}");
    assert!(part.body == right[..3_000_000]);
    let whole = send("GET", &url, &[], b"");
    assert!(whole.body == right, "{whole:?}");
    hold.release();
    let (_, body) = first.rest();
    assert!(body.len() < right.len());
    proxy.stop();
}
