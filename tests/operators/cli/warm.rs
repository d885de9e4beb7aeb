//! `warm`, here and through a proxy.

use std::io::Write as _;
use std::process::Stdio;

use nix::sys::signal::Signal;
use serde_json::Value;

use super::support::gate::Gate;
use super::support::image::{Flavour, Image, Packing, index};
use super::support::layout::Layout;
use super::support::noise;
use super::support::process::Process;
use super::support::proxy::Proxy;
use super::support::registry::Registry;
use super::support::tar::Tar;
use super::support::until::until;
use super::{Demo, architecture, bad, good, program, ran};

/// The outcome of each image, and the summary.
fn outcomes(out: &str) -> (Vec<(String, String)>, Value) {
    let mut events: Vec<Value> = out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .filter(|event: &Value| matches!(event["event"].as_str(), Some("image" | "summary")))
        .collect();
    let summary = events.pop().unwrap();
    assert_eq!(summary["event"], "summary");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let mut images: Vec<_> = events
        .iter()
        .map(|event| (text(&event["image"]), text(&event["outcome"])))
        .collect();
    images.sort();
    (images, summary)
}

#[test]
fn a_local_warm_up_fills_the_data_directory_for_a_proxy() {
    let demo = Demo::new(&["1.0", "1.1", "2.0", "2.0_obd"]);
    let (upstream, data) = (format!("oci:{}", demo.path("source")), demo.path("data"));
    let base = [
        "warm",
        "--json",
        "--upstream",
        &upstream,
        "--data-dir",
        &data,
    ];
    let warm = |names: &[&str]| outcomes(&good(&[&base[..], names].concat()));
    let (images, summary) = warm(&["layout:1.*", "-c1"]);
    assert_eq!(images.len(), 2);
    assert_eq!(summary["converted"], 1, "the two are one image");
    assert_eq!(summary["found"], 1);
    let (images, summary) = warm(&["--all-tags", "layout"]);
    let found = |name: &str| (name.to_owned(), "found".to_owned());
    assert_eq!(
        images,
        ["layout:1.0", "layout:1.1", "layout:2.0"].map(found)
    );
    assert_eq!(summary["converted"], 0);
    let proxy = Proxy::start(&upstream, demo.directory.path().join("data").as_path(), &[]);
    let answer = proxy.get("layout/manifests/1.0_obd");
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("overlaybd-outcome"), Some("found"));
    proxy.stop();
}

#[test]
fn warm_repeats_requests_until_the_proxy_has_converted() {
    let demo = Demo::new(&["1", "2"]);
    let upstream = format!("oci:{}", demo.path("source"));
    let data = demo.directory.path().join("data");
    for answer in ["wait", "busy", "original"] {
        std::fs::remove_dir_all(&data).ok();
        let proxy = Proxy::start(&upstream, &data, &["--hold", "0", "--on-timeout", answer]);
        let warm = || {
            outcomes(&good(&[
                "warm",
                "--json",
                "--proxy",
                proxy.url(),
                "layout:1",
                "layout:2",
            ]))
        };
        let (first, _) = warm();
        assert!(
            first.iter().all(|(_, outcome)| outcome == "converted"),
            "{answer}: {first:?}"
        );
        let (second, summary) = warm();
        assert!(
            second.iter().all(|(_, outcome)| outcome == "found"),
            "{answer}: {second:?}"
        );
        assert_eq!(summary["failed"].as_array().unwrap().len(), 0);
        proxy.stop();
    }
}

#[test]
fn failures_are_printed_with_their_cause_and_set_the_exit_code() {
    let demo = Demo::new(&["1"]);
    let upstream = format!("oci:{}", demo.path("source"));
    let proxy = Proxy::start(&upstream, demo.directory.path().join("data").as_path(), &[]);
    let half = ran(&[
        "warm",
        "--proxy",
        proxy.url(),
        "layout:1",
        "layout:9",
        "layout:8*",
    ]);
    assert_eq!(half.code, 5, "{half:?}");
    assert!(
        half.out.contains("1 converted, 0 were there, 2 failed"),
        "{half:?}"
    );
    assert!(half.err.contains("layout:9: failed"), "{half:?}");
    assert!(
        half.err.contains("layout:8*: failed, no tag matches"),
        "{half:?}"
    );
    let none = ran(&["warm", "-q", "--proxy", proxy.url(), "layout:9"]);
    assert_eq!(none.code, 4, "{none:?}");
    assert!(none.err.contains("not found"), "{none:?}");
    let other = ran(&["warm", "-q", "--proxy", proxy.url(), "unknown.example/x:1"]);
    assert_eq!(other.code, 4, "{other:?}");
    proxy.stop();
}

#[test]
fn lists_come_from_files_and_standard_input() {
    let demo = Demo::new(&["1", "2"]);
    let upstream = format!("oci:{}", demo.path("source"));
    std::fs::write(
        demo.path("list"),
        "# ours\nlayout:1\n\nlayout:2 # two\nlayout:1\n",
    )
    .unwrap();
    let proxy = Proxy::start(&upstream, demo.directory.path().join("data").as_path(), &[]);
    let list = demo.path("list");
    let (images, _) = outcomes(&good(&[
        "warm",
        "--json",
        "--proxy",
        proxy.url(),
        "--file",
        &list,
    ]));
    assert_eq!(images.len(), 2);
    let mut command = program(&["warm", "--json", "--proxy", proxy.url(), "--file", "-"]);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(b"layout:2\n")
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let (images, _) = outcomes(&String::from_utf8(output.stdout).unwrap());
    assert_eq!(images, [("layout:2".to_owned(), "found".to_owned())]);
    // A bad line is reported, and fails nothing but itself.
    std::fs::write(&list, "Not An Image\nlayout:1\n").unwrap();
    let arguments = ["warm", "--json", "--proxy", proxy.url(), "--file", &list];
    let ran = super::ran(&arguments);
    assert_eq!(ran.code, 5, "{ran:?}");
    let (images, summary) = outcomes(&ran.out);
    assert_eq!(
        images,
        [
            (format!("{list}, line 1"), "failed".to_owned()),
            ("layout:1".to_owned(), "found".to_owned())
        ]
    );
    assert_eq!(summary["failed"].as_array().unwrap().len(), 1);
    // With nothing to do, and on the command line, it is a mistake.
    std::fs::write(&list, "Not An Image\n").unwrap();
    let error = bad(2, &["warm", "--proxy", proxy.url(), "--file", &list]);
    assert!(error.contains("line 1"), "{error}");
    bad(
        2,
        &["warm", "--proxy", proxy.url(), "layout:1", "Not An Image"],
    );
    proxy.stop();
}

#[test]
fn an_unreachable_proxy_and_a_server_that_is_none_have_different_errors() {
    let error = bad(4, &["warm", "-q", "--proxy", "http://127.0.0.1:1", "x"]);
    assert!(error.contains("cannot be reached"), "{error}");
    let error = bad(2, &["warm", "-q", "--proxy", "ftp://x", "x"]);
    assert!(error.contains("--proxy"), "{error}");
}

#[test]
fn what_a_proxy_decides_itself_is_refused_where_it_is_asked() {
    let to_proxy = ["warm", "-q", "--proxy", "http://127.0.0.1:1", "x"];
    for (flag, value) in [
        ("--platform", "linux/arm64"),
        ("--bs", "64"),
        ("--upstream", "quay.io"),
        ("--data-dir", "elsewhere"),
        ("--push", "true"),
    ] {
        let given = format!("{flag}={value}");
        let error = bad(2, &[&to_proxy[..], &[&given]].concat());
        assert!(
            error.contains(flag) && error.contains("start the proxy with it"),
            "{error}"
        );
    }
    // It says which tag is asked for.
    let error = bad(4, &[&to_proxy[..], &["--suffix=-lazy"]].concat());
    assert!(error.contains("cannot be reached"), "{error}");
}

#[test]
fn artifacts_that_are_no_images_are_skipped_without_an_error() {
    use super::support::image::Blob;
    use super::support::layout::Layout;
    let demo = Demo::new(&["1"]);
    let layout = Layout::open(&demo.directory.path().join("source"));
    let content = layout.put(b"{}");
    let artifact = |kind: &str| {
        let document = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": kind, "digest": content, "size": 2},
            "layers": [],
        });
        Blob {
            media_type: "application/vnd.oci.image.manifest.v1+json".to_owned(),
            bytes: serde_json::to_vec(&document).unwrap(),
        }
    };
    let kinds = [
        ("chart", "application/vnd.cncf.helm.config.v1+json"),
        ("cache", "application/vnd.buildkit.cacheconfig.v0"),
        (
            "signature",
            "application/vnd.dev.cosign.artifact.sig.v1+json",
        ),
    ];
    for (tag, kind) in kinds {
        layout.tag(tag, &artifact(kind));
    }
    let windows = super::support::image::Image::gzip(&[]).platform("windows", "amd64");
    layout.add("windows", &windows.seal());
    let upstream = format!("oci:{}", demo.path("source"));
    let data = demo.path("data");
    let direct = ["--upstream", &upstream, "--data-dir", &data];
    let proxy_data = demo.directory.path().join("proxy");
    let proxy = Proxy::start(&upstream, &proxy_data, &[]);
    for way in [&direct[..], &["--proxy", proxy.url()]] {
        let all = [&["warm", "--json"], way, &["--all-tags", "layout"]].concat();
        let out = good(&all);
        let (images, summary) = outcomes(&out);
        assert_eq!(images.len(), 5, "{out}");
        assert_eq!(summary["skipped"], 4, "{out}");
        assert_eq!(summary["failed"].as_array().unwrap().len(), 0, "{out}");
        for (_, kind) in kinds {
            assert!(out.contains(kind), "{kind}: {out}");
        }
        assert!(out.contains("no linux image"), "{out}");
    }
}

/// Each image with its format, outcome and reason.
fn formats(out: &str) -> Vec<(String, String, String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut images: Vec<_> = out
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter(|event| event["event"] == "image")
        .map(|event| {
            let fields = ["image", "format", "outcome", "reason"];
            let [image, format, outcome, reason] = fields.map(|field| text(&event[field]));
            (image, format, outcome, reason)
        })
        .collect();
    images.sort();
    images
}

#[test]
fn both_forms_are_warmed_in_one_go() {
    let demo = Demo::new(&["1"]);
    let layout = Layout::open(&demo.directory.path().join("source"));
    let tar = Tar::new().file("file", "in zstd").finish();
    let zstd = Image::new(Flavour::Oci, &[(&tar[..], Packing::Zstd)]);
    layout.add("zstd", &zstd.seal());
    let (upstream, data) = (format!("oci:{}", demo.path("source")), demo.path("data"));
    let store = ["--upstream", &upstream, "--data-dir", &data];
    let warm = |forms: &[&str], way: &[&str]| {
        let names = ["warm", "--json", "-c1", "layout:1", "layout:zstd"];
        formats(&good(&[&names[..], forms, way].concat()))
    };
    let check = |images: &[(String, String, String, String)], forms: &[&str], outcome: &str| {
        let names = ["layout:1", "layout:zstd"];
        let expected = names
            .iter()
            .flat_map(|name| forms.iter().map(move |form| (name, form)));
        for (warmed, (name, form)) in images.iter().zip(expected.clone()) {
            assert_eq!((&warmed.0[..], &warmed.1[..]), (*name, *form));
            let is_native_instead = *name == "layout:zstd" && *form == "turbo";
            // The one form has made what the other one asks for.
            let is_second = *name == "layout:zstd" && *form == "native" && forms.len() == 2;
            let outcome = if is_second { "found" } else { outcome };
            assert_eq!(warmed.2, outcome, "{warmed:?}");
            assert_eq!(
                warmed.3.contains("as native"),
                is_native_instead,
                "{warmed:?}"
            );
            assert_eq!(warmed.3.contains("zstd"), is_native_instead, "{warmed:?}");
        }
        assert_eq!(images.len(), expected.count());
    };
    let both = ["--native", "--turbo"];
    check(&warm(&both, &store), &["native", "turbo"], "converted");
    check(&warm(&["--turbo"], &store), &["turbo"], "found");
    check(&warm(&["--native"], &store), &["native"], "found");

    let proxy = Proxy::start(&upstream, demo.directory.path().join("data").as_path(), &[]);
    let way = ["--proxy", proxy.url()];
    check(&warm(&both, &way), &["native", "turbo"], "found");
    proxy.stop();
    let proxy = Proxy::start(
        &upstream,
        demo.directory.path().join("data").as_path(),
        &["--turbo-fallback", "original"],
    );
    let way = ["--proxy", proxy.url()];
    let images = warm(&["--turbo"], &way);
    assert_eq!(images[1].2, "skipped", "{images:?}");
    assert!(images[1].3.contains("zstd"), "{images:?}");
    proxy.stop();

    let refused = bad(2, &["warm", "--turbo", "--turbo-suffix", "", "layout:1"]);
    assert!(refused.contains("--turbo-suffix is empty"), "{refused}");
}

#[test]
fn names_as_kubectl_prints_them_are_warmed() {
    let demo = Demo::new(&["1"]);
    let upstream = format!("oci:{}", demo.path("source"));
    let data = demo.path("data");
    let inspected = good(&["inspect", "--json", &demo.source("1")]);
    let inspected: Value = serde_json::from_str(&inspected).unwrap();
    let digest = inspected["digest"].as_str().unwrap();
    // Of a pod, and of a node: with tag and digest, and with one of the two.
    let list = demo.path("list");
    let names = [
        format!("layout:1@{digest}"),
        format!("layout@{digest}"),
        format!("layout:other@{digest}"),
        "layout:1".to_owned(),
    ];
    std::fs::write(&list, names.join("\n")).unwrap();
    let arguments = ["--upstream", &upstream, "--data-dir", &data, "-c1"];
    let out = good(&[&["warm", "--json", "--file", &list], &arguments[..]].concat());
    let (images, summary) = outcomes(&out);
    // Those with this digest are one image, whatever its tag was.
    let expected = [
        ("layout:1".to_owned(), "found".to_owned()),
        (format!("layout@{digest}"), "converted".to_owned()),
    ];
    assert_eq!(images, expected, "{out}");
    assert_eq!(summary["failed"].as_array().unwrap().len(), 0, "{out}");
}

#[test]
fn a_proxy_is_asked_for_names_as_kubectl_prints_them_by_their_tags() {
    let demo = Demo::new(&["1"]);
    let other = Tar::new().file("etc/name", "two").finish();
    let other = Image::gzip(&[other]).platform("linux", architecture());
    Layout::open(&demo.directory.path().join("source")).add("2", &other.seal());
    let upstream = format!("oci:{}", demo.path("source"));
    let proxy = Proxy::start(&upstream, &demo.directory.path().join("proxy"), &[]);
    let digest_of = |tag: &str| {
        let inspected: Value =
            serde_json::from_str(&good(&["inspect", "--json", &demo.source(tag)])).unwrap();
        inspected["digest"].as_str().unwrap().to_owned()
    };
    let (one, two) = (digest_of("1"), digest_of("2"));
    let list = demo.path("list");
    let warm = |names: &[String]| {
        std::fs::write(&list, names.join("\n")).unwrap();
        ran(&[
            "warm",
            "--json",
            "-c1",
            "--proxy",
            proxy.url(),
            "--file",
            &list,
        ])
    };
    // Nodes list an image by its digest alone, too.
    let both = warm(&[format!("layout:1@{one}"), format!("layout@{one}")]);
    assert_eq!(both.code, 0, "{both:?}");
    let (images, _) = outcomes(&both.out);
    assert_eq!(images, [(format!("layout@{one}"), "converted".to_owned())]);
    let converted = proxy.get("layout/manifests/1_obd");
    assert_eq!(converted.header("overlaybd-outcome"), Some("found"));
    // The tag has moved on since; or there is none.
    let moved = warm(&[format!("layout:1@{two}")]);
    assert!(
        moved.code != 0 && moved.out.contains(&one) && moved.out.contains("by now"),
        "{moved:?}"
    );
    let bare = warm(&[format!("layout@{two}")]);
    assert!(
        bare.code != 0 && bare.out.contains("REPOSITORY:TAG@DIGEST"),
        "{bare:?}"
    );
    proxy.stop();
}

#[test]
fn platforms_that_are_not_there_or_not_converted_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let layout = Layout::create(&directory.path().join("source"));
    let entries = ["amd64", "s390x"].map(|architecture| {
        let tar = Tar::new().file("name", architecture).finish();
        let image = Image::gzip(&[tar]).platform("linux", architecture).seal();
        layout.store(&image);
        image.entry("linux", architecture)
    });
    layout.tag("1", &index(Flavour::Oci, &entries));
    let path = |name: &str| directory.path().join(name).display().to_string();
    let (upstream, data) = (format!("oci:{}", path("source")), path("data"));
    let warm = |more: &[&str]| {
        let way = ["warm", "--upstream", &upstream, "--data-dir", &data];
        ran(&[&way[..], more, &["layout:1"]].concat())
    };
    // What stays as it is is named once.
    let usual = warm(&[]);
    assert_eq!(usual.code, 0, "{usual:?}");
    let left = "not converted: the images for linux/s390x (--platform chooses)";
    assert_eq!(usual.err.matches(left).count(), 1, "{usual:?}");
    let all = warm(&["--platform", "all"]);
    assert!(
        all.code == 0 && !all.err.contains("not converted"),
        "{all:?}"
    );
    // So is what was asked for and is not there.
    let some = warm(&["--platform", "linux/s390x,linux/riscv64"]);
    assert_eq!(some.code, 0, "{some:?}");
    assert!(some.err.contains("not there for linux/riscv64"), "{some:?}");
    let none = warm(&["--platform", "linux/riscv64"]);
    assert_eq!(none.code, 3, "{none:?}");
    let part = "not there for linux/riscv64, which --platform asks for; it is for linux/amd64";
    assert!(none.err.contains(part), "{none:?}");
    // A proxy's index tells which those are.
    let options = ["--platform", "linux/amd64"];
    let proxy = Proxy::start(&upstream, &directory.path().join("proxy"), &options);
    let through = ran(&["warm", "--proxy", proxy.url(), "layout:1"]);
    assert_eq!(through.code, 0, "{through:?}");
    assert_eq!(through.err.matches(left).count(), 1, "{through:?}");
    // An image without an index is for the platform that its config names, converted or not.
    let tar = Tar::new().file("name", "arm64").finish();
    let image = Image::gzip(&[tar]).platform("linux", "arm64").seal();
    layout.add("arm", &image);
    let windows = Image::gzip(&[]).platform("windows", "amd64");
    layout.add("windows", &windows.seal());
    let one = |tag: &str, platform: &str| {
        let way = ["warm", "--upstream", &upstream, "--data-dir", &data];
        ran(&[&way[..], &["--platform", platform, tag]].concat())
    };
    for platform in ["linux/riscv64", "linux/arm64", "linux/riscv64"] {
        let code = if platform == "linux/arm64" { 0 } else { 3 };
        let warmed = one("layout:arm", platform);
        assert_eq!(warmed.code, code, "{warmed:?}");
        let part = "not there for linux/riscv64, which --platform asks for; it is for linux/arm64";
        assert_eq!(warmed.err.contains(part), code == 3, "{warmed:?}");
    }
    let skipped = one("layout:windows", "linux/amd64");
    assert!(
        skipped.code == 0 && skipped.out.contains("1 is no image"),
        "{skipped:?}"
    );
}

#[test]
fn a_cause_is_printed_once_and_one_thing_is_no_several() {
    let demo = Demo::new(&["1"]);
    let layout = Layout::open(&demo.directory.path().join("source"));
    let mut broken = Image::gzip(&[Tar::new().file("f", noise(1, 9000)).finish()]);
    let claimed = format!("sha256:{}", "0".repeat(64));
    broken.config["rootfs"]["diff_ids"] = serde_json::json!([claimed]);
    layout.add("broken", &broken.platform("linux", architecture()).seal());
    let (upstream, data) = (format!("oci:{}", demo.path("source")), demo.path("data"));
    let way = ["warm", "--upstream", &upstream, "--data-dir", &data];
    let warm = |more: &[&str]| ran(&[&way[..], more].concat());
    for more in [&["layout:broken"][..], &["-q", "layout:broken"]] {
        let failed = warm(more);
        assert_eq!(failed.code, 3, "{failed:?}");
        assert_eq!(failed.err.matches(&claimed).count(), 1, "{failed:?}");
    }
    let out = warm(&["--json", "layout:broken"]).out;
    assert!(out.contains(&claimed), "{out}");
    for line in out.lines() {
        assert!(line.matches(&claimed).count() <= 1, "{line}");
    }
    warm(&["layout:1"]);
    let found = warm(&["layout:1"]);
    assert!(found.out.contains("0 converted, 1 was there"), "{found:?}");
}

/// The files of a directory; none where there is no directory.
fn count(directory: &str) -> usize {
    std::fs::read_dir(directory).map_or(0, Iterator::count)
}

#[test]
fn an_interrupted_command_leaves_no_temporary_files() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let tar = Tar::new().file("file", noise(7, 8 << 20)).finish();
    let image = Image::gzip(&[tar]).platform("linux", architecture());
    let image = image.seal();
    registry.push("app", "1", &image);
    let layer = format!("/blobs/{}", image.blobs[1].digest());
    let demo = Demo::new(&["1"]);
    let (data, out) = (demo.path("data"), demo.path("out"));
    let temporary = format!("{data}/tmp");
    for command in ["warm", "convert", "convert without a data directory"] {
        let gate = Gate::before(registry.address());
        let hold = gate.halt(&layer, 4 << 20);
        let url = gate.url();
        let image = format!("{url}/app:1");
        let destination = format!("oci:{out}:1");
        let program = match command {
            "warm" => program(&["warm", "--data-dir", &data, "--upstream", &url, "app:1"]),
            "convert" => program(&["convert", "--data-dir", &data, &image, &destination]),
            _ => program(&["convert", &image, &destination]),
        };
        let output = demo.directory.path().join("output");
        let mut process = Process::start(program, &output);
        hold.wait();
        // It is in the middle of a layer.
        let place = match command {
            "warm" | "convert" => temporary.clone(),
            _ => out.clone(),
        };
        let at_rest = match command {
            "warm" | "convert" => 0,
            // `blobs`, `index.json` and `oci-layout`.
            _ => 3,
        };
        until("there are temporary files", || {
            (count(&place) > at_rest).then_some(())
        });
        process.signal(Signal::SIGINT);
        let status = process.end();
        assert_eq!(status.code(), Some(130), "{command}: {}", process.output());
        assert_eq!(count(&place), at_rest, "{command}");
    }
}
