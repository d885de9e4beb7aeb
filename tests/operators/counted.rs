//! What is counted of what comes from registries and goes to them, and how many notifications are
//! worked on at one time.

use crate::support;
use std::fs;
use std::path::PathBuf;

use ::http::StatusCode;
use serde_json::{Value, json};
use support::gate::{Gate, Hold};
use support::image::{Image, Sealed};
use support::proxy::Proxy;
use support::registry::Registry;
use support::tar::Tar;
use support::until::until;
use support::{http, noise};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";
/// How many notifications are worked on at one time.
const NOTIFICATIONS: usize = 64;

fn image(seed: u64) -> Sealed {
    let tar = Tar::new().file("file", noise(seed, 20_000)).finish();
    Image::gzip(&[tar]).seal()
}

/// A proxy behind a gate, with a secret for operators and for notifications.
struct Started {
    proxy: Proxy,
    _scratch: tempfile::TempDir,
}

impl Started {
    #[track_caller]
    fn before(upstream: &str, more: &[&str]) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let secret: PathBuf = scratch.path().join("secret");
        fs::write(&secret, TOKEN).unwrap();
        let secret = secret.to_str().unwrap();
        let options = [
            "--platform",
            "linux/amd64",
            "--admin-token-file",
            secret,
            "--notification-secret-file",
            secret,
        ];
        let options = [&options, more].concat();
        let proxy = Proxy::start(upstream, &scratch.path().join("data"), &options);
        Self {
            proxy,
            _scratch: scratch,
        }
    }

    fn post(&self, path: &str, token: &str, body: &Value) -> http::Answer {
        let url = format!("{}/api/v1/{path}", self.proxy.admin());
        let bearer = format!("Bearer {token}");
        let headers = [
            ("authorization", bearer.as_str()),
            ("content-type", "application/json"),
        ];
        http::send("POST", &url, &headers, body.to_string().as_bytes())
    }

    /// A notification that `app:TAG` was pushed.
    fn notify(&self, tag: &str) -> http::Answer {
        let pushed = json!({ "push_data": { "tag": tag }, "repository": { "repo_name": "app" } });
        self.post("notifications", TOKEN, &pushed)
    }

    fn notified(&self, outcome: &str) -> u64 {
        let series = format!("notifications_total{{outcome=\"{outcome}\"}}");
        self.proxy.series(&series)
    }

    fn start(&self, tag: &str) -> http::Answer {
        let wanted = json!({ "repository": "app", "tag": tag });
        self.post("conversions", TOKEN, &wanted)
    }
}

#[test]
fn tags_that_are_waited_for_take_no_place_of_notifications_and_operators() {
    let Some(registry) = Registry::start() else {
        return;
    };
    registry.push("app", "1", &image(1));
    let started = Started::before(&registry.url(), &[]);
    for number in 0..3 * NOTIFICATIONS {
        // One after the other: what is looked for once is not worked on.
        until("the notification has a place", || {
            let answer = started.notify(&format!("later-{number}"));
            (answer.status == 202).then_some(())
        });
    }
    let answer = started.start("1");
    assert_eq!(answer.status, 202, "{answer:?}");
    // The tag comes after its notification.
    let answer = started.notify("late");
    assert_eq!(answer.status, 202, "{answer:?}");
    registry.push("app", "late", &image(2));
    until("the tag is converted once it is there", || {
        let url = format!(
            "{}/api/v1/conversions?state=converted",
            started.proxy.admin()
        );
        let all = http::get(&url).json();
        let all = all["conversions"].as_array()?.clone();
        all.iter().find(|one| one["tag"] == "late").map(|_| ())
    });
}

#[test]
fn notifications_that_are_worked_on_keep_no_operator_and_no_empty_one_out() {
    let Some(registry) = Registry::start() else {
        return;
    };
    registry.push("app", "1", &image(1));
    let gate = Gate::before(registry.address());
    let started = Started::before(&gate.url(), &[]);
    let holds = (0..NOTIFICATIONS).map(|number| {
        let hold = gate.hold("HEAD", &format!("/app/manifests/slow-{number}-"));
        let answer = started.notify(&format!("slow-{number}-"));
        assert_eq!(answer.status, 202, "{answer:?}");
        hold.wait();
        hold
    });
    let holds: Vec<Hold> = holds.collect();
    let answer = started.notify("1");
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(answer.header("retry-after").is_some(), "{answer:?}");
    assert!(answer.text().contains("notifications"), "{answer:?}");
    // Registries tell of each pull, too.
    let answer = started.post("notifications", TOKEN, &json!({ "events": [] }));
    assert_eq!(answer.status, 202, "{answer:?}");
    let answer = started.start("1");
    assert_eq!(answer.status, 202, "{answer:?}");
    holds.iter().for_each(Hold::release);

    let answer = started.post("notifications", "wrong", &json!({ "events": [] }));
    assert_eq!(answer.status, 401, "{answer:?}");
    let answer = started.post("notifications", TOKEN, &json!({ "a": 1 }));
    assert_eq!(answer.status, 400, "{answer:?}");
    let counted = ["accepted", "failed", "empty", "refused", "invalid"];
    let counted = counted.map(|outcome| started.notified(outcome));
    assert_eq!(counted, [NOTIFICATIONS as u64, 1, 1, 1, 1]);
}

#[test]
fn pushes_are_counted_by_what_became_of_them() {
    let Some(registry) = Registry::start() else {
        return;
    };
    registry.push("app", "1", &image(1));
    registry.push("app", "2", &image(2));
    let gate = Gate::before(registry.address());
    let options = ["--push", "--auth-cache-ttl", "0"];
    let started = Started::before(&gate.url(), &options);
    let proxy = &started.proxy;
    let of = |part: &str, outcome: &str| {
        proxy.series(&format!(
            "pushes_total{{part=\"{part}\",outcome=\"{outcome}\"}}"
        ))
    };
    let bytes = || proxy.series("pushed_bytes_total");
    assert_eq!((of("layer", "pushed"), bytes()), (0, 0));
    let manifest = proxy.converted("app", "1");
    until("the tag is pushed", || {
        (of("tag", "pushed") == 1).then_some(())
    });
    let layers = manifest["layers"].as_array().unwrap();
    assert_eq!(of("layer", "pushed"), layers.len() as u64);
    assert_eq!(of("image", "pushed"), 1);
    let sizes = layers.iter().chain([&manifest["config"]]);
    let sizes: u64 = sizes.map(|part| part["size"].as_u64().unwrap()).sum();
    assert_eq!(bytes(), sizes);

    let failed = || of("layer", "failed") + of("image", "failed") + of("tag", "failed");
    assert_eq!(failed(), 0);
    gate.fail_where("/blobs/uploads/", Some(StatusCode::BAD_REQUEST));
    let answer = proxy.get("app/manifests/2_obd");
    assert_ne!(answer.status, 200, "{answer:?}");
    assert!(of("layer", "failed") > 0, "{}", proxy.log());
}

#[test]
fn answers_while_the_upstream_fails_and_parts_of_blobs_are_counted_apart() {
    let Some(registry) = Registry::start() else {
        return;
    };
    registry.push("app", "1", &image(1));
    let gate = Gate::before(registry.address());
    let options = ["--auth-cache-ttl", "0", "--stale-if-error", "1h"];
    let started = Started::before(&gate.url(), &options);
    let proxy = &started.proxy;
    let manifest = proxy.converted("app", "1");
    let stale = |route| proxy.series(&format!("stale_answers_total{{route=\"{route}\"}}"));
    assert_eq!(stale("manifest"), 0);
    gate.fail(Some(StatusCode::SERVICE_UNAVAILABLE));
    let answer = proxy.get("app/manifests/1_obd");
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.header("warning").is_some(), "{answer:?}");
    assert_eq!((stale("manifest"), stale("blob")), (1, 0));
    gate.fail(None);

    let digest = manifest["layers"][0]["digest"].as_str().unwrap();
    let url = format!("{}/v2/app/blobs/{digest}", proxy.url());
    let whole = http::get(&url);
    assert_eq!(whole.status, 200, "{whole:?}");
    let part = http::send("GET", &url, &[("range", "bytes=0-99")], b"");
    assert_eq!((part.status, part.body.len()), (206, 100));
    let series = |name: &str, route| proxy.series(&format!("{name}{{route=\"{route}\"}}"));
    until("both answers are over", || {
        let bytes = ["blob", "blob-range"].map(|route| series("response_body_bytes_total", route));
        let counts =
            ["blob", "blob-range"].map(|route| series("request_duration_seconds_count", route));
        let expected = [whole.body.len() as u64, 100];
        (bytes == expected && counts == [1, 1]).then_some(())
    });
}

#[test]
fn answers_of_the_admin_address_have_an_id_and_changes_are_in_the_log_with_it() {
    let Some(registry) = Registry::start() else {
        return;
    };
    registry.push("app", "1", &image(1));
    let gate = Gate::before(registry.address());
    let started = Started::before(&gate.url(), &[]);
    let proxy = &started.proxy;
    for path in [
        "/",
        "/livez",
        "/metrics",
        "/api/v1/conversions",
        "/api/v1/none",
        "/none",
    ] {
        let answer = http::get(&format!("{}{path}", proxy.admin()));
        assert!(
            answer.header("x-request-id").is_some(),
            "{path}: {answer:?}"
        );
    }
    let lines = |id: &str| -> Vec<String> {
        let log = proxy.log();
        let lines = log.lines().filter(|line| line.contains(id));
        lines.map(str::to_owned).collect()
    };
    gate.fail(Some(StatusCode::INTERNAL_SERVER_ERROR));
    let failed = started.start("1");
    assert_eq!(failed.status, 502, "{failed:?}");
    gate.fail(None);
    let begun = started.start("1");
    assert_eq!(begun.status, 202, "{begun:?}");
    let denied = started.post("cache/evictions", "wrong", &json!({}));
    assert_eq!(denied.status, 401, "{denied:?}");
    for (answer, path) in [
        (&failed, "/api/v1/conversions"),
        (&begun, "/api/v1/conversions"),
        (&denied, "/api/v1/cache/evictions"),
    ] {
        let id = answer.header("x-request-id").unwrap();
        let status = format!("status={}", answer.status);
        until("the change is in the log", || {
            let lines = lines(id);
            let mut lines = lines.iter();
            lines.find(|line| {
                line.contains("POST") && line.contains(path) && line.contains(&status)
            })?;
            Some(())
        });
    }
    // What the answer says that the log says.
    let causes = lines(failed.header("x-request-id").unwrap());
    assert!(causes.iter().any(|line| line.contains("500")), "{causes:?}");
    // The secret of a notification may be in its query.
    let url = format!("{}/api/v1/notifications?secret={TOKEN}", proxy.admin());
    let answer = http::send("POST", &url, &[], b"{\"events\":[]}");
    assert_eq!(answer.status, 202, "{answer:?}");
    let id = answer.header("x-request-id").unwrap();
    until("it is in the log", || (!lines(id).is_empty()).then_some(()));
    assert!(!proxy.log().contains(TOKEN), "{}", proxy.log());
}

#[test]
fn what_ended_last_is_first_whenever_it_began() {
    let Some(registry) = Registry::start() else {
        return;
    };
    for tag in ["1", "2"] {
        registry.push("app", tag, &image(tag.parse().unwrap()));
    }
    let gate = Gate::before(registry.address());
    let started = Started::before(&gate.url(), &[]);
    let first = image(1).blobs[1].digest();
    let hold = gate.halt(&first, 1000);
    assert_eq!(started.start("1").status, 202);
    hold.wait();
    started.proxy.converted("app", "2");
    let tags = || -> Vec<Value> {
        let url = format!("{}/api/v1/conversions", started.proxy.admin());
        let all = http::get(&url).json();
        let all = all["conversions"].as_array().unwrap().clone();
        let all = all.iter();
        all.map(|one| json!([one["tag"], one["state"]])).collect()
    };
    assert_eq!(tags(), [json!(["1", "running"]), json!(["2", "converted"])]);
    hold.release();
    until("the first has ended", || {
        (tags()[0] == json!(["1", "converted"])).then_some(())
    });
    let page = http::get(&format!("{}/", started.proxy.admin())).text();
    let recent = page.split("id=\"recent\"").nth(1).unwrap();
    let place = |tag: &str| recent.find(&format!("<wbr>{tag}<small>"));
    assert!(place("1").unwrap() < place("2").unwrap(), "{recent}");
}

#[test]
fn an_image_for_another_system_is_no_failure() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let tar = Tar::new().file("file", noise(1, 20_000)).finish();
    let windows = Image::gzip(&[tar]).platform("windows", "amd64").seal();
    registry.push("app", "win", &windows);
    let started = Started::before(&registry.url(), &["--failure-ttl", "5m"]);
    let proxy = &started.proxy;
    for _ in 0..2 {
        let answer = proxy.get("app/manifests/win_obd");
        assert_eq!(answer.status, 400, "{answer:?}");
        assert!(answer.text().contains("no linux image"), "{answer:?}");
    }
    let get = |path: &str| http::get(&format!("{}/api/v1{path}", proxy.admin())).json();
    let all = get("/conversions?state=no-image");
    let all = all["conversions"].as_array().unwrap();
    assert_eq!(all.len(), 1, "{all:?}");
    let error = all[0]["error"].as_str().unwrap();
    assert!(error.contains("left as it is"), "{error}");
    assert_eq!(get("/failures")["failures"], json!([]));
    let of = |outcome: &str| {
        let labels = format!("{{format=\"native\",outcome=\"{outcome}\"}}");
        proxy.series(&format!("conversions_total{labels}"))
    };
    assert_eq!((of("no-image"), of("failed")), (1, 0));
    assert_eq!(proxy.series("failures_remembered"), 0);
    let page = http::get(&format!("{}/", proxy.admin())).text();
    assert!(page.contains("No failure is remembered."), "{page}");
}
