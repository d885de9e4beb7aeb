//! Stock clients that look for a ready image, and stock clients that do not.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::derived::{NATIVE, Place, TURBO, entries, image, text, types};
use crate::support::layout::Layout;
use crate::support::process::Process;
use crate::support::proxy::Proxy;
use crate::support::skopeo;
use crate::support::{command, find, have, is_root, run};

/// Whether a client that no distribution has as a package is there.
fn have_go(program: &str, package: &str) -> bool {
    let is_there = find(program).is_some();
    if !is_there {
        eprintln!("{program} is not installed: go install {package}@latest");
    }
    is_there
}

#[track_caller]
fn json_of(command: &mut Command) -> Value {
    let output = run(command);
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stdout)))
}

/// What `AgentENV` does (`try_referrers_overlaybd_prefixes`): lists all referrers with `regctl`, takes
/// the native one, and looks whether its layers are overlaybd blobs.
#[test]
fn regctl_finds_a_native_image_of_the_source() {
    if !have_go("regctl", "github.com/regclient/regclient/cmd/regctl") {
        return;
    }
    let Some(place) = Place::new() else { return };
    place.convert("_obd");
    place.convert("_turbo");
    let host = format!("reg={},tls=disabled", place.proxy.host());
    let image = format!("{}/app", place.proxy.host());
    let regctl = |arguments: &[&str]| {
        let mut regctl = command("regctl");
        regctl.args(["--host", &host]).args(arguments);
        regctl.env("REGCTL_CONFIG", place.data().join("regctl.json"));
        regctl
    };
    let source = format!("{image}:1");
    let listed = json_of(&mut regctl(&[
        "artifact",
        "list",
        &source,
        "--format",
        "{{json .}}",
    ]));
    let found = listed["descriptors"].as_array().unwrap();
    assert_eq!(types(found), [NATIVE, TURBO]);
    let filter = [
        "artifact",
        "list",
        &source,
        "--filter-artifact-type",
        NATIVE,
    ];
    let native = json_of(&mut regctl(
        &[&filter[..], &["--format", "{{json .}}"]].concat(),
    ));
    assert_eq!(native["descriptors"], json!([found[0]]));
    let native = format!("{image}@{}", text(&found[0]["digest"]));
    let manifest = json_of(&mut regctl(&[
        "manifest", "get", &native, "--format", "raw-body",
    ]));
    for layer in manifest["layers"].as_array().unwrap() {
        let mark = "containerd.io/snapshot/overlaybd/blob-digest";
        assert_eq!(layer["annotations"][mark], layer["digest"]);
        let digest = text(&layer["digest"]);
        run(&mut regctl(&["blob", "head", &image, digest]));
    }
}

#[test]
fn oras_discovers_converted_images_by_the_api_and_by_the_fallback_tag() {
    if !have_go("oras", "oras.land/oras/cmd/oras") {
        return;
    }
    let Some(place) = Place::new() else { return };
    place.convert("_obd");
    place.convert("_turbo");
    let image = format!("{}/app:1", place.proxy.host());
    for by in ["v1.1-referrers-api", "v1.1-referrers-tag"] {
        let mut oras = command("oras");
        oras.args(["discover", "--plain-http", "--format", "json"]);
        oras.args(["--distribution-spec", by, &image]);
        let found = json_of(&mut oras);
        let found = found["manifests"]
            .as_array()
            .or(found["referrers"].as_array());
        assert_eq!(types(found.unwrap()), [NATIVE, TURBO], "{by}");
    }
    // Attaching through the proxy pushes what is attached, and no image.
    let note = place.data().join("note");
    std::fs::write(&note, "a note").unwrap();
    let mut oras = command("oras");
    oras.current_dir(place.data());
    oras.args([
        "attach",
        "--plain-http",
        "--artifact-type",
        "application/vnd.test",
        &image,
        "note",
    ]);
    run(&mut oras);
    let subject = place.source.digest();
    let all = entries(&place.referrers(&subject, ""));
    assert_eq!(types(&all), ["application/vnd.test", NATIVE, TURBO]);
    assert_eq!(
        place.registry.count("PUT", "/blobs/uploads/"),
        3 + 2,
        "{:?}",
        place.registry.requests()
    );
}

/// An index with two manifests for one platform: each client takes the first.
#[test]
fn clients_take_the_original_of_a_merged_index() {
    let Some(place) = Place::new() else { return };
    let index = place.convert("_merged");
    let all: Vec<&str> = index["manifests"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| text(&one["digest"]))
        .collect();
    assert_eq!((all[0], all.len()), (&*place.source.digest(), 3));
    let (host, scratch) = (place.proxy.host(), tempfile::tempdir().unwrap());
    let image = format!("{host}/app:1_merged");
    let mut count = 0;

    if have(&["skopeo"]) {
        let layout = skopeo::layout(scratch.path(), "skopeo");
        skopeo::copied(&format!("docker://{image}"), &layout, &[]);
        let inspect = run(command("skopeo").args(["inspect", "--raw", &layout]));
        assert_eq!(
            crate::derived::sha256(&inspect.stdout),
            place.source.digest(),
            "skopeo"
        );
        count += 1;
    }
    if have(&["podman"]) && is_root("podman") {
        let at = |name: &str| scratch.path().join(name).display().to_string();
        let podman = |arguments: &[&str]| {
            let mut podman = command("podman");
            podman.args(["--root", &at("root"), "--runroot", &at("runroot")]);
            podman.args(["--storage-driver", "vfs"]).args(arguments);
            podman
        };
        run(&mut podman(&["pull", "--tls-verify=false", &image]));
        let inspect = json_of(&mut podman(&["image", "inspect", &image]));
        let diff_ids = &inspect[0]["RootFS"]["Layers"];
        let config: Value = serde_json::from_slice(&place.source.blobs[0].bytes).unwrap();
        assert_eq!(*diff_ids, config["rootfs"]["diff_ids"], "podman");
        count += 1;
    }
    if have_go("crane", "github.com/google/go-containerregistry/cmd/crane") {
        let mut crane = command("crane");
        crane.args(["manifest", "--platform", "linux/amd64", &image]);
        let manifest = run(&mut crane).stdout;
        assert_eq!(
            crate::derived::sha256(&manifest).trim(),
            place.source.digest(),
            "crane"
        );
        count += 1;
    }
    if have(&["containerd", "ctr"]) && is_root("containerd") {
        let at = |name: &str| scratch.path().join(name).display().to_string();
        let (root, state, socket) = (at("containerd"), at("state"), at("sock"));
        let config = format!(
            "version = 2\nroot = {root:?}\nstate = {state:?}\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.internal.v1.tracing\"]\n\
             [grpc]\n  address = {socket:?}\n[ttrpc]\n  address = \"{socket}.ttrpc\"\n"
        );
        std::fs::write(at("config.toml"), config).unwrap();
        let mut program = command("containerd");
        program.args(["-c", &at("config.toml")]);
        let mut process = Process::start(program, Path::new(&at("log")));
        process.wait_for("containerd successfully ");
        let ctr = |arguments: &[&str]| {
            let mut ctr = command("ctr");
            ctr.args(["-a", &socket]).args(arguments);
            ctr
        };
        let platform = ["--platform", "linux/amd64"];
        let pull = ["images", "pull", "--plain-http", "--snapshotter", "native"];
        run(&mut ctr(&[&pull[..], &platform, &[&image]].concat()));
        // It fetches all manifests of the platform, and unpacks the first.
        let list = ["snapshots", "--snapshotter", "native", "ls"];
        let snapshots = String::from_utf8(run(&mut ctr(&list)).stdout).unwrap();
        let config: Value = serde_json::from_slice(&place.source.blobs[0].bytes).unwrap();
        let bottom = text(&config["rootfs"]["diff_ids"][0]);
        assert!(snapshots.contains(bottom), "containerd: {snapshots}");
        let count_of = |text: &str| text.lines().filter(|line| line.contains("sha256:")).count();
        assert_eq!(count_of(&snapshots), 2, "containerd: {snapshots}");
        count += 1;
    }
    assert!(count > 0, "no client is installed");
}

/// An upstream that has the API, and an artifact that another program attached there.
#[test]
fn an_upstream_with_the_api_lists_its_own_first() {
    if !have_go("oras", "oras.land/oras/cmd/oras") {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let layout = Layout::create(&scratch.path().join("layout"));
    let source = image(1);
    layout.add("1", &source);
    std::fs::write(scratch.path().join("note"), "a note").unwrap();
    let mut attach = command("oras");
    attach.current_dir(scratch.path());
    let kind = "application/vnd.test";
    attach.args([
        "attach",
        "--oci-layout",
        "--artifact-type",
        kind,
        "layout:1",
        "note",
    ]);
    run(&mut attach);
    let upstream = format!("oci:{}", layout.path().display());
    let proxy = Proxy::start(&upstream, &scratch.path().join("data"), &[]);
    let list = format!("app/referrers/{}", source.digest());
    assert_eq!(types(&entries(&proxy.get(&list))), [kind]);
    assert_eq!(proxy.get("app/manifests/1_obd").status, 200);
    let found = entries(&proxy.get(&list));
    assert_eq!(types(&found), [kind, NATIVE]);
    let query = format!("{list}?artifactType={}", NATIVE.replace('+', "%2B"));
    assert_eq!(entries(&proxy.get(&query)), found[1..]);
    // What is listed under the tag is what the API lists.
    let tag = source.digest().replace(':', "-");
    let tagged = entries(&proxy.get(&format!("app/manifests/{tag}")));
    assert_eq!(types(&tagged), [NATIVE]);
}
