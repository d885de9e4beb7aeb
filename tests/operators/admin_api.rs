//! The API of operators and the commands that ask it: conversions and what is kept.

use crate::support;
use std::collections::BTreeSet;
use std::fs;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};
use support::gate::Gate;
use support::image::{Image, Sealed};
use support::layout::Layout;
use support::proxy::{Proxy, program};
use support::registry::Registry;
use support::tar::Tar;
use support::until::until;
use support::{find, http, noise, skip};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

fn image(seed: u64, layers: u64) -> Sealed {
    let layer = |number| {
        let content = noise(100 * seed + number, 200_000);
        Tar::new().file(&format!("file-{number}"), content).finish()
    };
    let tars: Vec<_> = (0..layers).map(layer).collect();
    Image::gzip(&tars).seal()
}

/// A proxy with a token for operators.
struct Started {
    proxy: Proxy,
    token: PathBuf,
    data: PathBuf,
    _scratch: tempfile::TempDir,
}

impl Started {
    #[track_caller]
    fn before(upstream: &str) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let (token, data) = (scratch.path().join("token"), scratch.path().join("data"));
        fs::write(&token, format!("{TOKEN}\n")).unwrap();
        let file = token.to_str().unwrap();
        let options = [
            "--platform",
            "linux/amd64",
            "--failure-ttl",
            "5m",
            "--admin-token-file",
            file,
        ];
        let proxy = Proxy::start(upstream, &data, &options);
        Self {
            proxy,
            token,
            data,
            _scratch: scratch,
        }
    }

    fn send(&self, method: &str, path: &str, body: &Value) -> http::Answer {
        let bearer = format!("Bearer {TOKEN}");
        let mut headers = vec![("authorization", bearer.as_str())];
        let body = match body {
            Value::Null => String::new(),
            body => {
                headers.push(("content-type", "application/json"));
                body.to_string()
            }
        };
        let url = format!("{}/api/v1{path}", self.proxy.admin());
        http::send(method, &url, &headers, body.as_bytes())
    }

    #[track_caller]
    fn get(&self, path: &str) -> Value {
        let answer = http::get(&format!("{}/api/v1{path}", self.proxy.admin()));
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.header("content-type"), Some("application/json"));
        answer.json()
    }

    /// The conversions, the latest first.
    #[track_caller]
    fn conversions(&self) -> Vec<Value> {
        self.get("/conversions")["conversions"]
            .as_array()
            .unwrap()
            .clone()
    }

    /// The latest conversion, once it is in this state.
    #[track_caller]
    fn latest(&self, state: &str) -> Value {
        until(&format!("a conversion is {state}"), || {
            let latest = self.conversions().into_iter().next()?;
            (latest["state"] == state).then_some(latest)
        })
    }

    /// Runs a command that asks this proxy.
    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = program();
        command.args(arguments);
        command.args(["--admin", self.proxy.admin(), "--admin-token-file"]);
        command.arg(&self.token).output().unwrap()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[track_caller]
fn good(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    text(&output.stdout)
}

#[test]
fn a_conversion_is_listed_with_its_progress_cancelled_and_begun_again() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let sealed = image(1, 2);
    registry.push("app", "1", &sealed);
    let gate = Gate::before(registry.address());
    let started = Started::before(&gate.url());
    assert!(started.conversions().is_empty());

    let top = sealed.blobs[2].digest();
    let hold = gate.halt(&top, 1000);
    let url = format!("{}/v2/app/manifests/1_obd", started.proxy.url());
    let pull = std::thread::spawn(move || http::get(&url));
    hold.wait();
    let found = until("the lower layer is converted", || {
        let found = started.latest("running");
        (found["layers"]["converted"] == 1).then_some(found)
    });
    assert_eq!(found["repository"], "app");
    assert_eq!(found["tag"], "1");
    assert_eq!(found["source"], sealed.digest());
    assert_eq!(found["format"], "native");
    assert_eq!(found["asked_by"], "client");
    assert_eq!(found["client"], "127.0.0.1");
    assert_eq!(found["platforms"], json!(["linux/amd64"]));
    assert_eq!(found["layers"]["total"], 2);
    let bytes = |of: &str| found["bytes"][of].as_u64().unwrap();
    assert!(
        bytes("read") > 0 && bytes("read") < bytes("source"),
        "{found}"
    );
    let id = found["id"].as_u64().unwrap();
    assert_eq!(started.get(&format!("/conversions/{id}"))["id"], id);
    let each = found["each_layer"].as_array().unwrap();
    let each: Vec<_> = each
        .iter()
        .map(|one| (&one["layer"], &one["state"]))
        .collect();
    let digests = [1, 2].map(|layer| json!(sealed.blobs[layer].digest()));
    let states = [json!("converted"), json!("running")];
    assert_eq!(each, [(&digests[0], &states[0]), (&digests[1], &states[1])]);
    let read = |layer: usize| found["each_layer"][layer]["bytes"].clone();
    assert_eq!(read(0)["read"], read(0)["source"]);
    assert!(
        read(1)["read"].as_u64() < read(1)["source"].as_u64(),
        "{found}"
    );

    let listed = good(&started.run(&["jobs", "ls", "--state", "running"]));
    assert!(
        listed.contains("running") && listed.contains("app:1  1 of 2 layers"),
        "{listed}"
    );
    let status = good(&started.run(&["status"]));
    assert!(status.contains("1 running, 0 queued"), "{status}");

    let cancelled = good(&started.run(&["jobs", "cancel", &id.to_string()]));
    assert_eq!(cancelled, format!("{id} is cancelled\n"));
    let answer = pull.join().unwrap();
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(
        answer
            .text()
            .contains("an operator cancelled the conversion"),
        "{answer:?}"
    );
    assert!(answer.header("retry-after").is_some());
    let found = started.latest("cancelled");
    assert_eq!(found["id"], id);
    assert_eq!(found["each_layer"], json!([]));
    let again = started.send("DELETE", &format!("/conversions/{id}"), &Value::Null);
    assert_eq!(again.status, 409, "{again:?}");

    // The clients that waited ask again, and do not begin it again.
    assert_eq!(started.proxy.get("app/manifests/1_obd").status, 503);
    assert_eq!(started.conversions().len(), 1);

    // An operator does.
    let begun = good(&started.run(&["jobs", "start", "app:1"]));
    assert_eq!(begun, format!("begun: {}\n", sealed.digest()));
    let found = started.latest("converted");
    assert_eq!(found["asked_by"], "operator");
    assert_eq!(
        found["layers"],
        json!({ "total": 2, "found": 1, "converted": 1 })
    );
    let manifest = started.proxy.get("app/manifests/1_obd");
    assert_eq!(manifest.status, 200, "{manifest:?}");
    assert_eq!(
        found["digest"].as_str(),
        manifest.header("docker-content-digest")
    );
    let known = good(&started.run(&["jobs", "start", "app:1"]));
    assert_eq!(
        known,
        format!("converted before: {}\n", found["digest"].as_str().unwrap())
    );
}

#[test]
fn a_conversion_that_fails_is_listed_with_its_error() {
    let scratch = tempfile::tempdir().unwrap();
    let layout = Layout::create(&scratch.path().join("layout"));
    let mut broken = Image::gzip(&[Tar::new().file("f", noise(1, 9000)).finish()]);
    broken.config["rootfs"]["diff_ids"] = json!([format!("sha256:{}", "0".repeat(64))]);
    layout.add("broken", &broken.seal());
    let started = Started::before(&format!("oci:{}", layout.path().display()));
    let answer = started.proxy.get("app/manifests/broken_obd");
    assert_eq!(answer.status, 400, "{answer:?}");
    let found = started.latest("failed");
    let error = found["error"].as_str().unwrap();
    assert!(error.contains("diff id"), "{error}");
    let remedy = found["remedy"].as_str().unwrap();
    assert!(remedy.contains("push it again"), "{remedy}");
    let remembered = started.get("/failures");
    assert_eq!(remembered["failures"][0]["remedy"], remedy);
    let listed = good(&started.run(&["jobs", "ls", "--state", "failed"]));
    assert!(listed.contains(error), "{listed}");
    assert!(listed.contains("0 of 1 layer,"), "{listed}");
    assert_eq!(
        good(&started.run(&["jobs", "ls", "--state", "running"])),
        ""
    );

    // It is not begun again, until it is forgotten.
    let pull = || started.proxy.get("app/manifests/broken_obd").status;
    assert_eq!((pull(), started.conversions().len()), (400, 1));
    let forget = |repository: &str| started.run(&["jobs", "forget", "--repository", repository]);
    assert_eq!(good(&forget("other")), "0 failures forgotten\n");
    assert_eq!((pull(), started.conversions().len()), (400, 1));
    assert_eq!(good(&forget("app")), "1 failure forgotten\n");
    assert_eq!((pull(), started.conversions().len()), (400, 2));
}

#[test]
fn changes_need_the_token_and_reading_does_not() {
    let scratch = tempfile::tempdir().unwrap();
    let layout = Layout::create(&scratch.path().join("layout"));
    layout.add("t", &image(3, 1));
    let upstream = format!("oci:{}", layout.path().display());
    let started = Started::before(&upstream);
    let changes = [
        ("POST", "/api/v1/conversions"),
        ("DELETE", "/api/v1/conversions/1"),
        ("POST", "/api/v1/cache/evictions"),
        ("POST", "/api/v1/cache/pins"),
        ("DELETE", "/api/v1/cache/pins/sha256:1"),
        ("POST", "/api/v1/cache/verification"),
        ("DELETE", "/api/v1/cache/verification"),
        ("DELETE", "/api/v1/failures"),
    ];
    for (method, path) in changes {
        let url = format!("{}{path}", started.proxy.admin());
        for headers in [&[][..], &[("authorization", "Bearer fedcba9876543210")]] {
            let answer = http::send(method, &url, headers, b"{}");
            assert_eq!(answer.status, 401, "{method} {path}: {answer:?}");
            assert!(
                answer
                    .header("www-authenticate")
                    .unwrap()
                    .starts_with("Bearer")
            );
        }
    }
    // A page of another origin can send this without asking first, but not the token.
    let url = format!("{}/api/v1/conversions", started.proxy.admin());
    let body = json!({ "repository": "app", "tag": "t" }).to_string();
    let bearer = format!("Bearer {TOKEN}");
    let headers = [("content-type", "text/plain"), ("authorization", &bearer)];
    assert_eq!(
        http::send("POST", &url, &headers, body.as_bytes()).status,
        400
    );
    assert!(started.conversions().is_empty());

    let data = scratch.path().join("data");
    let open = Proxy::start(&upstream, &data, &["--platform", "linux/amd64"]);
    for (method, path) in changes {
        let url = format!("{}{path}", open.admin());
        let answer = http::send(method, &url, &[("authorization", &bearer)], b"{}");
        assert_eq!(answer.status, 403, "{method} {path}: {answer:?}");
        assert!(answer.text().contains("--admin-token-file"), "{answer:?}");
    }
    let wrong = scratch.path().join("short");
    fs::write(&wrong, "secret").unwrap();
    let mut command = program();
    command.args([
        "serve",
        "--upstream",
        &upstream,
        "--listen",
        "127.0.0.1:0",
        "--data-dir",
    ]);
    command.arg(&data).arg("--admin-token-file").arg(&wrong);
    let output = command.output().unwrap();
    assert!(!output.status.success());
    assert!(
        text(&output.stderr).contains("at least 16 bytes"),
        "{output:?}"
    );
}

#[test]
fn wrong_requests_are_answered_with_what_is_wrong() {
    let scratch = tempfile::tempdir().unwrap();
    let layout = Layout::create(&scratch.path().join("layout"));
    layout.add("t", &image(4, 1));
    let started = Started::before(&format!("oci:{}", layout.path().display()));
    let absent = support::sha256(b"absent");
    let unpinned = format!("/cache/pins/{absent}");
    for (method, path, body, status) in [
        ("GET", "/none", Value::Null, 404),
        ("DELETE", &*unpinned, Value::Null, 404),
        ("GET", "/conversions/7", Value::Null, 404),
        ("GET", "/conversions/x", Value::Null, 404),
        ("GET", "/conversions?state=odd", Value::Null, 400),
        ("GET", "/conversions?limit=1", Value::Null, 400),
        ("PUT", "/conversions", Value::Null, 405),
        ("GET", "/cache/evictions", Value::Null, 405),
        ("POST", "/conversions", json!({ "repository": "app" }), 400),
        (
            "POST",
            "/conversions",
            json!({ "repository": "A", "tag": "t" }),
            400,
        ),
        (
            "POST",
            "/conversions",
            json!({ "repository": "app", "tag": "t", "x": 1 }),
            400,
        ),
        (
            "POST",
            "/conversions",
            json!({ "repository": "app", "tag": "none" }),
            404,
        ),
        (
            "POST",
            "/conversions",
            json!({ "repository": "app", "tag": "t", "registry": "no.example" }),
            400,
        ),
        ("POST", "/conversions", json!("x".repeat(70_000)), 400),
        ("DELETE", "/failures?repo=a", Value::Null, 400),
        ("GET", "/cache/blobs?limit=0", Value::Null, 400),
        ("GET", "/cache/blobs?after=x", Value::Null, 400),
        ("DELETE", "/cache/blobs/x", Value::Null, 400),
        ("POST", "/cache/evictions", json!({ "dry_run": true }), 400),
        ("POST", "/cache/evictions", json!({ "to": -1 }), 400),
        ("POST", "/cache/pins", json!({}), 400),
        ("POST", "/cache/pins", json!({ "digest": "x" }), 400),
        ("POST", "/cache/pins", json!({ "digest": absent }), 404),
        (
            "POST",
            "/cache/pins",
            json!({ "repository": "app", "tag": "t" }),
            409,
        ),
        ("DELETE", "/cache/pins/x", Value::Null, 400),
        ("GET", "/cache/verification", Value::Null, 404),
        ("POST", "/cache/verification", json!({ "x": 1 }), 400),
        ("DELETE", "/cache/verification", Value::Null, 409),
    ] {
        let answer = started.send(method, path, &body);
        assert_eq!(answer.status, status, "{method} {path}: {answer:?}");
        let errors = &answer.json()["errors"];
        assert!(
            errors[0]["message"]
                .as_str()
                .is_some_and(|text| !text.is_empty()),
            "{answer:?}"
        );
        if status == 405 {
            assert!(answer.header("allow").is_some(), "{answer:?}");
        }
    }
}

/// The images that are listed, of those that the query chooses.
#[track_caller]
fn listed(started: &Started, query: &str) -> Vec<Value> {
    let found = started.get(&format!("/images{query}"));
    found["images"].as_array().unwrap().clone()
}

#[test]
fn an_image_is_listed_with_what_it_was_made_of_and_over_a_restart() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let sealed = image(20, 2);
    let source = registry.push("team/app", "1", &sealed);
    registry.push("team/app", "2", &sealed);
    let started = Started::before(&registry.url());
    assert_eq!(listed(&started, ""), Vec::<Value>::new());
    let answer = started.proxy.get("team/app/manifests/1_obd");
    let digest = answer.header("docker-content-digest").unwrap();
    let manifest = answer.json();
    let sizes = |manifest: &Value| -> u64 {
        let layers = manifest["layers"].as_array().unwrap().iter();
        layers.map(|layer| layer["size"].as_u64().unwrap()).sum()
    };
    let original: Value = serde_json::from_slice(&sealed.manifest).unwrap();
    let mut image = listed(&started, "")[0].clone();
    let at = image["converted_at"].take().as_f64().unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    assert!((now.unwrap().as_secs_f64() - at).abs() < 600.0, "{at}");
    let settings = image["settings"].take();
    assert!(settings.as_str().unwrap().contains("zstd"), "{settings}");
    let expected = json!({
        "upstream": registry.address(), "repository": "team/app", "reference": "1", "tag": "1",
        "format": "native", "algorithm": "zstd", "settings": null, "source": source,
        "digest": digest, "media_type": manifest["mediaType"], "platforms": ["linux/amd64"],
        "layers": { "total": 2, "converted": 2 },
        "bytes": { "source": sizes(&original), "converted": sizes(&manifest) },
        "converted_at": null,
    });
    assert_eq!(image, expected);

    // Another tag of the same source is found, and gets its row once; pulls write nothing.
    started.proxy.converted("team/app", "2");
    let both = until("the other tag is listed", || {
        let both = listed(&started, "");
        (both.len() == 2).then_some(both)
    });
    assert_eq!(both[1]["layers"], json!({ "total": 2, "converted": 0 }));
    assert_eq!(both[1]["bytes"], expected["bytes"]);
    let Started {
        proxy,
        token,
        data,
        _scratch: scratch,
    } = started;
    proxy.stop();
    let options = [
        "--admin-token-file",
        token.to_str().unwrap(),
        "--auth-cache-ttl",
        "0s",
        "--platform",
        "linux/amd64",
    ];
    let proxy = Proxy::start(&registry.url(), &data, &options);
    let started = Started {
        proxy,
        token,
        data,
        _scratch: scratch,
    };
    assert_eq!(listed(&started, ""), both);
    started.proxy.converted("team/app", "2");
    started.proxy.converted("team/app", "1");
    assert_eq!(listed(&started, ""), both);

    // The tag moves, and its row with it.
    let moved = registry.push("team/app", "2", &self::image(21, 1));
    started.proxy.converted("team/app", "2");
    let after = listed(&started, "");
    assert_eq!(after[0], both[0]);
    assert_eq!((after.len(), &after[1]["source"]), (2, &json!(moved)));
    assert_eq!(after[1]["layers"], json!({ "total": 1, "converted": 1 }));
}

#[test]
fn images_are_listed_page_by_page_and_chosen_by_what_they_are() {
    let scratch = tempfile::tempdir().unwrap();
    let layout = Layout::create(&scratch.path().join("layout"));
    let sealed = image(22, 1);
    for tag in ["1", "2", "3"] {
        layout.add(tag, &sealed);
    }
    let started = Started::before(&format!("oci:{}", layout.path().display()));
    for (repo, tag) in [("b", "2"), ("a", "1"), ("a", "3"), ("a", "2")] {
        started.proxy.converted(repo, tag);
        until("the image is listed", || {
            let found = listed(&started, &format!("?repository={repo}&reference={tag}"));
            (found.len() == 1).then_some(())
        });
    }
    let turbo = started.proxy.get("a/manifests/1_turbo");
    assert_eq!(turbo.status, 200, "{turbo:?}");
    let name = |one: &Value| {
        let text = |key: &str| one[key].as_str().unwrap().to_owned();
        format!(
            "{}:{} {}",
            text("repository"),
            text("reference"),
            text("format")
        )
    };
    let names = |query: &str| -> Vec<String> { listed(&started, query).iter().map(name).collect() };
    let by_name = [
        "a:1 turbo",
        "a:1 native",
        "a:2 native",
        "a:3 native",
        "b:2 native",
    ];
    assert_eq!(names(""), by_name);
    assert_eq!(names("?repository=a&format=native"), by_name[1..4]);
    assert_eq!(names("?reference=2"), [by_name[2], by_name[4]]);
    assert_eq!(names("?upstream=else.example"), Vec::<String>::new());
    let newest = names("?order=newest");
    assert_eq!(newest[0], "a:1 turbo");
    assert_eq!(newest[4], "b:2 native");
    for (order, expected) in [
        ("name", by_name.map(str::to_owned).to_vec()),
        ("newest", newest),
    ] {
        let (mut seen, mut after) = (Vec::new(), String::new());
        for _ in 0..5 {
            let page = started.get(&format!("/images?order={order}&limit=2{after}"));
            seen.extend(page["images"].as_array().unwrap().iter().map(name));
            let Some(next) = page["next"].as_str() else {
                break;
            };
            after = format!("&after={next}");
        }
        assert_eq!(seen, expected, "{order}");
    }
    // Turbo layers name no compression.
    assert!(listed(&started, "?format=turbo")[0]["algorithm"].is_null());

    let lines = good(&started.run(&["images", "ls", "--newest", "--limit", "3"]));
    let lines: Vec<&str> = lines.lines().collect();
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!(
        lines[0].contains("  a:1  turbo  linux/amd64  1 layer, 1 made, "),
        "{lines:?}"
    );
    let found = good(&started.run(&["images", "ls", "--repository", "b", "--json"]));
    let found: Value = serde_json::from_str(&found).unwrap();
    assert_eq!(
        found["images"]
            .as_array()
            .unwrap()
            .iter()
            .map(name)
            .collect::<Vec<_>>(),
        ["b:2 native"]
    );
}

#[test]
fn an_image_is_shown_with_its_parts_and_those_that_are_kept() {
    let scratch = tempfile::tempdir().unwrap();
    let layout = Layout::create(&scratch.path().join("layout"));
    layout.add("t", &image(23, 2));
    let started = Started::before(&format!("oci:{}", layout.path().display()));
    let answer = started.proxy.get("app/manifests/t_obd");
    let manifest = answer.json();
    let root = answer.header("docker-content-digest").unwrap();
    let show = || started.get("/image?repository=app&reference=t")["images"].clone();
    let images = show();
    assert_eq!(images.as_array().unwrap().len(), 1, "{images}");
    let image = &images[0];
    assert_eq!(image["is_cached"], true);
    let parts: Vec<(&Value, &str)> = image["parts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|part| (&part["digest"], part["kind"].as_str().unwrap()))
        .collect();
    let layer = |number: usize| &manifest["layers"][number]["digest"];
    let root = json!(root);
    let expected = [
        (&root, "manifest"),
        (&manifest["config"]["digest"], "config"),
        (layer(0), "layer"),
        (layer(1), "layer"),
    ];
    assert_eq!(parts, expected);
    let sizes: Vec<&Value> = image["parts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|part| &part["size"])
        .collect();
    assert_eq!(*sizes[0], json!(answer.body.len()));
    assert_eq!(sizes[2], &manifest["layers"][0]["size"]);

    let gone = layer(1).as_str().unwrap();
    let removed = started.send("DELETE", &format!("/cache/blobs/{gone}"), &Value::Null);
    assert_eq!(removed.status, 200, "{removed:?}");
    let image = show()[0].clone();
    assert_eq!(image["is_cached"], false);
    let kept: Vec<bool> = image["parts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|part| part["is_cached"].as_bool().unwrap())
        .collect();
    assert_eq!(kept, [true, true, true, false]);
    let lines = good(&started.run(&["images", "show", "app:t"]));
    assert!(lines.contains(&format!("  {gone}  ")), "{lines}");
    assert_eq!(lines.matches("  cached").count(), 3, "{lines}");
    assert!(lines.contains(image["source"].as_str().unwrap()), "{lines}");

    // Without the manifest the parts are those that the index knows.
    let removed = started.send(
        "DELETE",
        &format!("/cache/blobs/{}", root.as_str().unwrap()),
        &Value::Null,
    );
    assert_eq!(removed.status, 200, "{removed:?}");
    let images = started.get("/image?repository=app&reference=t");
    let parts = images["images"][0]["parts"].as_array().unwrap().clone();
    assert_eq!(parts.len(), 4, "{parts:?}");
    assert!(
        parts.iter().all(|part| part["kind"] == "unknown"),
        "{parts:?}"
    );

    for (query, status) in [
        ("repository=app&reference=other", 404),
        ("repository=app&reference=t&registry=else.example", 404),
        ("repository=app&reference=t&format=turbo", 404),
        ("repository=app", 400),
        ("repository=app&reference=t&tag=t", 400),
    ] {
        let url = format!("{}/api/v1/image?{query}", started.proxy.admin());
        assert_eq!(http::get(&url).status, status, "{query}");
    }
}

#[test]
fn a_forgotten_image_is_looked_up_again_and_whoever_reads_it_goes_on() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let sealed = image(24, 2);
    registry.push("app", "1", &sealed);
    registry.push("app", "2", &sealed);
    let started = Started::before(&registry.url());
    let manifest = started.proxy.converted("app", "1");
    started.proxy.converted("app", "2");
    until("both are listed", || {
        (listed(&started, "").len() == 2).then_some(())
    });
    assert_eq!(started.conversions().len(), 1);
    let layer = manifest["layers"][1]["digest"].as_str().unwrap();
    let blob = format!("app/blobs/{layer}");
    let content = started.proxy.get(&blob).body;

    let denied = http::send(
        "DELETE",
        &format!(
            "{}/api/v1/image?repository=app&reference=1",
            started.proxy.admin()
        ),
        &[],
        b"",
    );
    assert_eq!(denied.status, 401, "{denied:?}");
    let lines = good(&started.run(&["images", "rm", "app:1"]));
    assert!(
        lines.starts_with("forgotten: ") && lines.contains("/app:1  native"),
        "{lines}"
    );
    let left = listed(&started, "");
    assert_eq!((left.len(), &left[0]["tag"]), (1, &json!("2")));
    let again = started.run(&["images", "rm", "app:1"]);
    assert!(text(&again.stderr).contains("no such image"), "{again:?}");
    // Blobs stay, and so do the rights to them.
    assert_eq!(started.proxy.get(&blob).body, content);

    // The next pull is a conversion that finds all layers, and the same image.
    assert_eq!(started.proxy.converted("app", "1"), manifest);
    let latest = started.latest("converted");
    assert_eq!(
        latest["layers"],
        json!({ "total": 2, "found": 2, "converted": 0 })
    );
    assert_eq!(started.conversions().len(), 2);
    let both = listed(&started, "");
    assert_eq!(both.len(), 2);
    assert_eq!(both[0]["layers"], json!({ "total": 2, "converted": 0 }));

    let wrong = started.run(&["images", "rm", "app:*"]);
    assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
}

#[test]
fn blobs_are_listed_page_by_page_removed_and_made_again() {
    let scratch = tempfile::tempdir().unwrap();
    let layout = Layout::create(&scratch.path().join("layout"));
    layout.add("t", &image(5, 3));
    let started = Started::before(&format!("oci:{}", layout.path().display()));
    let manifest = started.proxy.converted("app", "t");
    let whole = started.get("/cache/blobs");
    assert!(whole["next"].is_null());
    let whole = whole["blobs"].as_array().unwrap().clone();
    let mut paged = Vec::new();
    let mut path = "/cache/blobs?limit=2".to_owned();
    for _ in 0..whole.len() {
        let page = started.get(&path);
        paged.extend(page["blobs"].as_array().unwrap().clone());
        let Some(next) = page["next"].as_str() else {
            break;
        };
        path = format!("/cache/blobs?limit=2&after={next}");
    }
    assert_eq!(paged, whole);
    let bytes: u64 = whole
        .iter()
        .map(|blob| blob["size"].as_u64().unwrap())
        .sum();
    let kept = &started.get("/cache")["converted"];
    assert_eq!(kept, &json!({ "blobs": whole.len(), "bytes": bytes }));

    let layer = manifest["layers"][1]["digest"].as_str().unwrap();
    let content = started.proxy.get(&format!("app/blobs/{layer}"));
    assert_eq!(content.status, 200);
    let removed = started.send("DELETE", &format!("/cache/blobs/{layer}"), &Value::Null);
    assert_eq!(removed.status, 200, "{removed:?}");
    let kept = started.get("/cache/blobs");
    let mut kept = kept["blobs"].as_array().unwrap().iter();
    assert!(!kept.any(|blob| blob["digest"] == layer));
    let gone = started.send("DELETE", &format!("/cache/blobs/{layer}"), &Value::Null);
    assert_eq!(gone.status, 404, "{gone:?}");
    let again = started.proxy.get(&format!("app/blobs/{layer}"));
    assert_eq!((again.status, again.body), (200, content.body));
    let evicted = started.send("POST", "/cache/evictions", &Value::Null);
    assert_eq!(evicted.json(), json!({ "bytes_freed": 0 }));
}

/// Runs `cache` on a data directory.
fn cache(data: &Path, arguments: &[&str]) -> Output {
    let mut command = program();
    command.arg("cache").args(arguments).arg("--data-dir");
    command.arg(data).output().unwrap()
}

#[test]
fn the_blobs_of_a_data_directory_are_listed_removed_and_evicted_without_a_proxy() {
    let scratch = tempfile::tempdir().unwrap();
    let layout = Layout::create(&scratch.path().join("layout"));
    layout.add("t", &image(6, 3));
    let started = Started::before(&format!("oci:{}", layout.path().display()));
    let manifest = started.proxy.converted("app", "t");
    let data = started.data.clone();
    let listed: Value = serde_json::from_str(&good(&cache(&data, &["ls", "--json"]))).unwrap();
    // What was just served is still being used.
    let without_use = |list: &Value| {
        let mut blobs = list["blobs"].as_array().unwrap().clone();
        for blob in &mut blobs {
            blob.as_object_mut().unwrap().remove("last_use").unwrap();
        }
        blobs
    };
    let asked = started.get("/cache/blobs");
    assert_eq!(without_use(&listed), without_use(&asked));
    drop(started.proxy);

    let layer = manifest["layers"][0]["digest"].as_str().unwrap();
    let removed = cache(&data, &["rm", layer]);
    assert_eq!(good(&removed), format!("removed {layer}\n"));
    let again = cache(&data, &["rm", layer]);
    assert_eq!(again.status.code(), Some(1), "{again:?}");
    assert!(
        text(&again.stderr).contains("there is no blob"),
        "{again:?}"
    );

    let sizes = good(&cache(&data, &["ls", "--sort", "size"]));
    assert_eq!(
        sizes.lines().count(),
        listed["blobs"].as_array().unwrap().len() - 1
    );
    let planned: Value = serde_json::from_str(&good(&cache(
        &data,
        &["gc", "--to", "0", "--dry-run", "--json"],
    )))
    .unwrap();
    assert_eq!(
        planned["evicted"].as_array().unwrap().len(),
        sizes.lines().count()
    );
    assert_eq!(
        good(&cache(&data, &["ls"])).lines().count(),
        sizes.lines().count()
    );
    let evicted: Value =
        serde_json::from_str(&good(&cache(&data, &["gc", "--to", "0", "--json"]))).unwrap();
    assert_eq!(
        evicted["evicted"].as_array().unwrap().len(),
        sizes.lines().count()
    );
    assert_eq!(evicted["bytes_freed"], planned["bytes_freed"]);
    assert_eq!(good(&cache(&data, &["ls"])), "");
    let nowhere = cache(scratch.path(), &["ls"]);
    assert_eq!(nowhere.status.code(), Some(2), "{nowhere:?}");
}

/// A Python that has `openapi-spec-validator` of `PyPI`; kept for the next time.
fn openapi_validator() -> Option<PathBuf> {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("openapi-spec-validator-0.7.1");
    let python = directory.join("bin/python");
    let is_there = || {
        let mut command = Command::new(&python);
        command.args(["-c", "import openapi_spec_validator"]);
        command.output().is_ok_and(|output| output.status.success())
    };
    if is_there() {
        return Some(python);
    }
    if find("python3").is_none() {
        skip("python3 is not installed: apt-get install python3-venv");
        return None;
    }
    let run = |program: &Path, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output().unwrap();
        (!output.status.success()).then(|| format!("{output:?}"))
    };
    let made = run(
        Path::new("python3"),
        &["-m", "venv", "--clear", directory.to_str().unwrap()],
    );
    let package = "openapi-spec-validator==0.7.1";
    let options = [
        "-m",
        "pip",
        "--quiet",
        "--disable-pip-version-check",
        "install",
        package,
    ];
    if let Some(wrong) = made.or_else(|| run(&python, &options)) {
        // A package of the network, and not of Debian: without it there is no such judge.
        eprintln!("SKIPPED: {package} cannot be had: {wrong}");
        return None;
    }
    Some(python)
}

#[test]
fn the_description_is_valid_openapi_and_has_each_member_of_a_conversion() {
    let scratch = tempfile::tempdir().unwrap();
    let layout = Layout::create(&scratch.path().join("layout"));
    layout.add("t", &image(7, 1));
    let started = Started::before(&format!("oci:{}", layout.path().display()));
    started.proxy.converted("app", "t");
    let described = started.get("/openapi.json");
    let members = |value: &Value| -> BTreeSet<String> {
        value.as_object().unwrap().keys().cloned().collect()
    };
    let schema = &described["components"]["schemas"]["Conversion"]["properties"];
    let found = started.latest("converted");
    assert_eq!(members(&found), members(schema));
    for group in ["layers", "bytes"] {
        assert_eq!(
            members(&found[group]),
            members(&schema[group]["properties"])
        );
    }
    let schemas = &described["components"]["schemas"];
    let own = &schemas["ImageWithParts"]["allOf"][1];
    let known = started.get("/image?repository=app&reference=t")["images"][0].clone();
    let mut expected = members(&schemas["Image"]["properties"]);
    for schema in [&schemas["Image"], own] {
        let properties = members(&schema["properties"]);
        let required = schema["required"].as_array().unwrap().iter();
        let required = required.map(|one| one.as_str().unwrap().to_owned());
        assert_eq!(required.collect::<BTreeSet<_>>(), properties);
        expected.extend(properties);
    }
    assert_eq!(members(&known), expected);
    let part = &schemas["ImagePart"]["properties"];
    assert_eq!(members(&known["parts"][0]), members(part));
    let Some(python) = openapi_validator() else {
        return;
    };
    let path = scratch.path().join("openapi.json");
    fs::write(&path, described.to_string()).unwrap();
    let validate = |path: &Path| {
        let mut python = Command::new(&python);
        python.args(["-m", "openapi_spec_validator"]).arg(path);
        python.output().unwrap()
    };
    let output = validate(&path);
    assert!(output.status.success(), "{output:?}");
    let mut wrong = described;
    wrong["paths"]["/conversions"]["get"]["responses"] = json!("none");
    fs::write(&path, wrong.to_string()).unwrap();
    assert!(!validate(&path).status.success());
}

#[test]
fn commands_say_what_is_missing() {
    let scratch = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let mut command = program();
        command.args(arguments).current_dir(scratch.path());
        command.output().unwrap()
    };
    let none = run(&["status"]);
    assert_eq!(none.status.code(), Some(2), "{none:?}");
    assert!(text(&none.stderr).contains("127.0.0.1:8481"), "{none:?}");
    let nobody = run(&["status", "--admin", "127.0.0.1:1"]);
    assert_eq!(nobody.status.code(), Some(4), "{nobody:?}");
    assert!(
        text(&nobody.stderr).contains("is this its --admin?"),
        "{nobody:?}"
    );
    let layout = Layout::create(&scratch.path().join("layout"));
    layout.add("t", &image(8, 1));
    let started = Started::before(&format!("oci:{}", layout.path().display()));
    let denied = run(&["jobs", "cancel", "1", "--admin", started.proxy.admin()]);
    assert_eq!(denied.status.code(), Some(2), "{denied:?}");
    assert!(
        text(&denied.stderr).contains("--admin-token-file names the file"),
        "{denied:?}"
    );
}

#[test]
fn commands_end_with_the_code_of_what_failed_and_name_what_was_asked() {
    let scratch = tempfile::tempdir().unwrap();
    let layout = Layout::create(&scratch.path().join("layout"));
    layout.add("t", &image(8, 1));
    let started = Started::before(&format!("oci:{}", layout.path().display()));
    let bad = |code: i32, arguments: &[&str]| {
        let output = started.run(arguments);
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        text(&output.stderr)
    };
    // No such conversion, and one of two.
    let error = bad(4, &["jobs", "cancel", "999"]);
    assert!(error.contains("404"), "{error}");
    let nobody = program()
        .args(["jobs", "cancel", "1", "--admin", "127.0.0.1:1"])
        .output()
        .unwrap();
    assert_eq!(nobody.status.code(), Some(4), "{nobody:?}");
    // An image that is not there is named as it was asked for.
    let error = bad(4, &["jobs", "start", "team/app"]);
    let named = "image team/app:latest (no tag was named)";
    assert!(error.contains(named), "{error}");
    let error = bad(4, &["jobs", "start", "team/app:9"]);
    assert!(error.contains("image team/app:9\n"), "{error}");
    let error = bad(2, &["jobs", "start", "https://r.example/app:1"]);
    assert!(error.contains("named without http://"), "{error}");
    let secure = format!(
        "https://{}",
        started.proxy.admin().trim_start_matches("http://")
    );
    let output = program()
        .args(["status", "--admin", &secure])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(text(&output.stderr).contains("without TLS"), "{output:?}");
}

#[test]
fn commands_that_change_something_print_json() {
    let scratch = tempfile::tempdir().unwrap();
    let layout = Layout::create(&scratch.path().join("layout"));
    let sealed = image(8, 1);
    layout.add("t", &sealed);
    let started = Started::before(&format!("oci:{}", layout.path().display()));
    let json = |output: &Output| serde_json::from_slice::<Value>(&output.stdout).unwrap();
    let begun = started.run(&["jobs", "start", "app:t", "--json"]);
    good(&begun);
    assert_eq!(json(&begun)["source"], sealed.digest());
    started.latest("converted");
    let cancelled = started.run(&["jobs", "cancel", "998", "999", "--json"]);
    assert_eq!(cancelled.status.code(), Some(4), "{cancelled:?}");
    let cancelled = json(&cancelled);
    assert_eq!(cancelled["cancelled"], json!([]));
    assert_eq!(cancelled["failed"][1]["id"], 999, "{cancelled}");
    let forgotten = started.run(&["jobs", "forget", "--json"]);
    good(&forgotten);
    assert_eq!(json(&forgotten)["forgotten"], 0);
}

/// Passes connections on to a proxy, in the background.
fn relay(listener: TcpListener, to: &str) {
    let to = to.strip_prefix("http://").unwrap().to_owned();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let Ok(server) = TcpStream::connect(&to) else {
                return;
            };
            let pass = |from: &TcpStream, to: &TcpStream| {
                let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(Shutdown::Write);
                });
            };
            pass(&client, &server);
            pass(&server, &client);
        }
    });
}

#[test]
fn what_docker_registry_notifies_of_is_converted_before_anyone_pulls_it() {
    // The registry must know the proxy, and the proxy the registry: what is between them is there first.
    let between = TcpListener::bind("127.0.0.1:0").unwrap();
    let notifications = format!(
        "notifications:\n  endpoints:\n    - name: proxy\n      url: http://{}/api/v1/notifications\n      \
         headers:\n        Authorization: [Bearer {TOKEN}]\n      timeout: 5s\n      threshold: 3\n      \
         backoff: 1s\n",
        between.local_addr().unwrap()
    );
    let Some(registry) = Registry::start_with(&notifications) else {
        return;
    };
    let scratch = tempfile::tempdir().unwrap();
    let secret = scratch.path().join("secret");
    fs::write(&secret, TOKEN).unwrap();
    let options = ["--notification-secret-file", secret.to_str().unwrap()];
    let data = scratch.path().join("data");
    let proxy = Proxy::start(&registry.url(), &data, &options);
    relay(between, proxy.admin());
    let sealed = image(9, 2);
    registry.push("team/app", "1", &sealed);
    let found = until("the image that was pushed is converted", || {
        let answer = http::get(&format!(
            "{}/api/v1/conversions?state=converted",
            proxy.admin()
        ));
        answer.json()["conversions"]
            .as_array()
            .unwrap()
            .first()
            .cloned()
    });
    assert_eq!(found["repository"], "team/app");
    assert_eq!(found["asked_by"], "notification");
    assert_eq!(found["client"], Value::Null);
    // Whoever pulls it waits for nothing.
    let converted = proxy.converted("team/app", "1");
    assert!(converted["layers"].as_array().unwrap().len() >= 2);
    let answer = http::get(&format!("{}/api/v1/conversions", proxy.admin()));
    assert_eq!(answer.json()["conversions"].as_array().unwrap().len(), 1);
}

#[test]
fn notifications_show_that_they_know_the_secret() {
    let scratch = tempfile::tempdir().unwrap();
    let layout = Layout::create(&scratch.path().join("layout"));
    layout.add("1", &image(10, 1));
    let upstream = format!("oci:{}", layout.path().display());
    let secret = scratch.path().join("secret");
    fs::write(&secret, format!("{TOKEN}\n")).unwrap();
    let options = [
        "--platform",
        "linux/amd64",
        "--notification-secret-file",
        secret.to_str().unwrap(),
    ];
    let proxy = Proxy::start(&upstream, &scratch.path().join("data"), &options);
    let send = |query: &str, headers: &[(&str, &str)], body: &Value| {
        let url = format!("{}/api/v1/notifications{query}", proxy.admin());
        http::send("POST", &url, headers, body.to_string().as_bytes())
    };
    let event = |tag: &str| json!({ "push_data": { "tag": tag }, "repository": { "repo_name": "team/app" } });
    for (query, headers) in [
        ("", &[][..]),
        ("?secret=wrong", &[]),
        ("", &[("authorization", "Bearer wrong")]),
        ("", &[("x-hub-signature-256", "sha256=00")]),
        // A signature that is wrong is not mended by a secret in another place.
        (
            &format!("?secret={TOKEN}"),
            &[("x-hub-signature-256", "sha256=")],
        ),
    ] {
        let answer = send(query, headers, &event("1"));
        assert_eq!(answer.status, 401, "{query} {headers:?}: {answer:?}");
    }
    let by_query = format!("?secret={TOKEN}");
    for (body, status) in [
        (json!({ "a": 1 }), 400),
        (event("1_obd"), 202),
        (event("1"), 202),
        (event("1"), 202),
    ] {
        let answer = send(&by_query, &[], &body);
        assert_eq!(answer.status, status, "{answer:?}");
        if status == 202 {
            let count = u64::from(body["push_data"]["tag"] == "1");
            assert_eq!(answer.json(), json!({ "images": count }));
        }
    }
    until("the image is converted once", || {
        let answer = http::get(&format!("{}/api/v1/conversions", proxy.admin()));
        let all = answer.json()["conversions"].as_array().unwrap().clone();
        assert!(all.len() <= 1, "{all:?}");
        (all.first()?["state"] == "converted").then_some(())
    });

    // GitHub signs with the secret; openssl is the judge of that.
    let body = json!({ "action": "published", "package": { "package_type": "container",
        "name": "app", "namespace": "team", "package_version": { "package_url": "ghcr.io/team/app:1" } } });
    if find("openssl").is_none() {
        skip("openssl is not installed: apt-get install openssl");
        return;
    }
    let path = scratch.path().join("body");
    fs::write(&path, body.to_string()).unwrap();
    let mut openssl = Command::new("openssl");
    openssl
        .args(["dgst", "-sha256", "-hmac", TOKEN, "-r"])
        .arg(&path);
    let signed = text(&openssl.output().unwrap().stdout);
    let signature = format!("sha256={}", signed.split(' ').next().unwrap());
    let answer = send("", &[("x-hub-signature-256", &signature)], &body);
    assert_eq!(answer.status, 202, "{answer:?}");
    let other = json!({ "action": "published" });
    assert_eq!(
        send("", &[("x-hub-signature-256", &signature)], &other).status,
        401
    );
}
