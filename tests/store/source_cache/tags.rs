//! What tags name, and what is not there.

use std::time::Instant;

use http::StatusCode;

use crate::source_cache::{Setting, assert_outcome, image, layer_of};
use crate::support::http::send;
use crate::support::until::until;

#[test]
fn a_tag_that_moves_is_seen_with_the_next_pull() {
    let Some(setting) = Setting::new(&[]) else {
        return;
    };
    for n in [1, 2, 1] {
        let image = image(n, 50_000);
        setting.registry.push("app", "1", &image);
        let answer = setting.proxy.get("app/manifests/1");
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(answer.body == image.manifest, "{n}: {answer:?}");
    }
    assert_eq!(setting.outcomes("hit"), 1);
    setting.proxy.stop();
}

#[test]
fn a_tag_is_asked_for_again_after_its_ttl() {
    let Some(setting) = Setting::new(&["--tag-ttl", "2s"]) else {
        return;
    };
    let (old, new) = (image(1, 50_000), image(2, 50_000));
    setting.registry.push("app", "1", &old);
    let ask = || setting.proxy.get("app/manifests/1");
    assert!(ask().body == old.manifest);
    let asked = setting.gate.count("", "manifests/1");
    setting.registry.push("app", "1", &new);
    // However slow this machine is: what is old is answered only without asking.
    until("the tag is asked for again", || {
        let answer = ask();
        let is_asked = setting.gate.count("", "manifests/1") > asked;
        if answer.body == old.manifest {
            return None;
        }
        assert!(answer.body == new.manifest && is_asked, "{answer:?}");
        Some(())
    });
    setting.proxy.stop();
}

#[test]
fn a_tag_within_its_ttl_is_not_asked_for() {
    let Some(setting) = Setting::new(&["--tag-ttl", "1h", "--auth-cache-ttl", "1h"]) else {
        return;
    };
    let (old, new) = (image(1, 50_000), image(2, 50_000));
    setting.registry.push("app", "1", &old);
    assert!(setting.proxy.get("app/manifests/1").body == old.manifest);
    let asked = setting.gate.seen().len();
    setting.registry.push("app", "1", &new);
    assert!(setting.proxy.get("app/manifests/1").body == old.manifest);
    assert_eq!(setting.gate.seen().len(), asked);
    // What is pushed through the proxy is seen at once.
    let url = format!("{}/v2/app/manifests/1", setting.proxy.url());
    let media_type = [("content-type", new.media_type.as_str())];
    let put = send("PUT", &url, &media_type, &new.manifest);
    assert_eq!(put.status, 201, "{put:?}");
    assert!(setting.proxy.get("app/manifests/1").body == new.manifest);
    setting.proxy.stop();
}

#[test]
fn a_tag_is_stale_while_the_upstream_fails_and_gone_when_it_says_so() {
    let options = [
        "--stale-if-error",
        "1h",
        "--auth-cache-ttl",
        "0",
        "--attempts",
        "1",
    ];
    let Some(setting) = Setting::new(&options) else {
        return;
    };
    let image = image(1, 50_000);
    setting.registry.push("app", "1", &image);
    let path = format!("app/blobs/{}", layer_of(&image));
    let paths = ["app/manifests/1", path.as_str()];
    for path in paths {
        setting.fill(path);
    }
    for status in [429, 500, 503] {
        setting.gate.fail(StatusCode::from_u16(status).ok());
        for path in paths {
            let answer = setting.proxy.get(path);
            assert_outcome(&answer, 200, Some("hit"));
            assert!(answer.header("warning").is_some(), "{answer:?}");
        }
    }
    for status in [401, 403, 404] {
        setting.gate.fail(StatusCode::from_u16(status).ok());
        for path in paths {
            assert_outcome(&setting.proxy.get(path), status, None);
        }
    }
    setting.proxy.stop();
}

#[test]
fn what_is_not_there_is_asked_for_once_in_a_while() {
    let Some(setting) = Setting::new(&[]) else {
        return;
    };
    setting.registry.push("app", "1", &image(1, 50_000));
    let missing = image(2, 50_000);
    let paths = [
        "app/manifests/2".to_owned(),
        format!(
            "app/manifests/{}",
            crate::support::sha256(&missing.manifest)
        ),
        format!("app/blobs/{}", layer_of(&missing)),
    ];
    for path in &paths {
        let begun = Instant::now();
        for _ in 0..30 {
            let answer = setting.proxy.get(path);
            assert_eq!(answer.status, 404, "{answer:?}");
        }
        // A question is a HEAD and, of a manifest, a GET.
        let questions = begun.elapsed().as_secs() / 5 + 1;
        let asked = setting.gate.count("", path) as u64;
        assert!(asked <= 2 * questions, "{path} was asked for {asked} times");
    }
    setting.proxy.stop();
}

#[test]
fn what_is_pushed_through_the_proxy_is_there_at_once() {
    let Some(setting) = Setting::new(&[]) else {
        return;
    };
    let image = image(1, 50_000);
    setting.registry.push("app", "1", &image);
    assert_eq!(setting.proxy.get("app/manifests/2").status, 404);
    let url = format!("{}/v2/app/manifests/2", setting.proxy.url());
    let media_type = [("content-type", image.media_type.as_str())];
    let put = send("PUT", &url, &media_type, &image.manifest);
    assert_eq!(put.status, 201, "{put:?}");
    let answer = setting.proxy.get("app/manifests/2");
    assert_eq!(answer.status, 200, "{answer:?}");
    setting.proxy.stop();
}
