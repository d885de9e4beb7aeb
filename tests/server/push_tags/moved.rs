//! The source's tag moves while its image is converted.

use serde_json::Value;

use super::store_support::Server;
use super::support::gate::Gate;
use super::support::proxy::{Proxy, program};
use super::support::registry::Registry;
use super::support::until::until;
use super::support::{http, run, sha256};
use super::{PUSH, image, names, own_layer, pull, pull_and_see_the_tag};

#[test]
fn an_older_image_does_not_take_the_tag_from_a_newer_one() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let (older, newer) = (image(1), image(2));
    registry.push("app", "1", &older);
    let gate = Gate::before(registry.address());
    let slow = gate.hold("GET", &own_layer(&older));
    let data = tempfile::tempdir().unwrap();
    let proxy = Proxy::start(&gate.url(), data.path(), &PUSH);
    std::thread::scope(|scope| {
        let late = scope.spawn(|| pull(&proxy, "app/manifests/1_obd"));
        slow.wait();
        registry.push("app", "1", &newer);
        let converted = pull_and_see_the_tag(&proxy, &registry);
        slow.release();
        let late = late.join().unwrap();
        assert_ne!(late, converted);
        until("the older image's tag is decided upon", || {
            let pushed = registry.count("PUT", "/manifests/1_obd");
            (pushed > 1 || proxy.log().contains("the converted image gets no tag")).then_some(())
        });
        assert_eq!(names(&registry, "app", "1_obd"), Some(converted));
    });
    proxy.stop();
}

#[test]
fn an_image_whose_tag_is_gone_gets_none() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let image = image(1);
    let digest = registry.push("app", "1", &image);
    let gate = Gate::before(registry.address());
    let slow = gate.hold("GET", &own_layer(&image));
    let data = tempfile::tempdir().unwrap();
    let proxy = Proxy::start(&gate.url(), data.path(), &PUSH);
    std::thread::scope(|scope| {
        let late = scope.spawn(|| pull(&proxy, "app/manifests/1_obd"));
        slow.wait();
        let url = format!("{}/v2/app/manifests/{digest}", registry.url());
        assert_eq!(http::send("DELETE", &url, &[], b"").status, 202);
        slow.release();
        late.join().unwrap();
        until("the tag is decided upon", || {
            let pushed = registry.count("PUT", "/manifests/1_obd");
            (pushed > 0 || proxy.log().contains("names=nothing")).then_some(())
        });
        assert_eq!(names(&registry, "app", "1_obd"), None);
    });
    proxy.stop();
}

#[test]
fn a_warm_up_goes_on_with_the_newer_image_where_the_tag_moved() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let (older, newer) = (image(1), image(2));
    registry.push("app", "1", &older);
    let gate = Gate::before(registry.address());
    let slow = gate.hold("GET", &own_layer(&older));
    let data = tempfile::tempdir().unwrap();
    let mut warm = program();
    warm.args(["warm", "--json", "--push", "--platform", "linux/amd64"]);
    warm.args(["--upstream", &gate.url(), "--data-dir"]);
    warm.arg(data.path()).arg("app:1");
    let warm = std::thread::spawn(move || run(&mut warm));
    slow.wait();
    registry.push("app", "1", &newer);
    slow.release();
    let output = warm.join().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let events = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let reported: Vec<Value> = events.filter(|event| event["event"] == "image").collect();
    assert_eq!(reported.len(), 1, "{reported:?}");
    let other = tempfile::tempdir().unwrap();
    let proxy = Proxy::start(&gate.url(), other.path(), &PUSH);
    let converted = pull(&proxy, "app/manifests/1_obd");
    assert_eq!(reported[0]["digest"], converted.as_str());
    assert_eq!(names(&registry, "app", "1_obd"), Some(converted));
    proxy.stop();
}

#[test]
fn a_client_s_token_that_runs_out_during_the_conversion_does_not_cost_the_tag() {
    const TOKEN: &str = "Bearer for-a-minute";
    let Some(registry) = Registry::start() else {
        return;
    };
    let image = image(1);
    registry.push("app", "1", &image);
    let gate = Gate::before(registry.address());
    let last = gate.hold("PUT", "/manifests/sha256:");
    let data = tempfile::tempdir().unwrap();
    let proxy = Proxy::start(&gate.url(), data.path(), &PUSH);
    std::thread::scope(|scope| {
        let pulled = scope.spawn(|| {
            let url = format!("{}/v2/app/manifests/1_obd", proxy.url());
            http::send("GET", &url, &[("authorization", TOKEN)], b"")
        });
        // All that is read of the source has been read.
        last.wait();
        gate.refuse(TOKEN);
        last.release();
        let pulled = pulled.join().unwrap();
        assert_eq!(pulled.status, 200, "{pulled:?}");
        until("the tag is decided upon", || {
            let is_failed = proxy.log().contains("has no tag in the registry yet");
            (is_failed || names(&registry, "app", "1_obd").is_some()).then_some(())
        });
        assert_eq!(names(&registry, "app", "1_obd"), Some(sha256(&pulled.body)));
    });
    proxy.stop();
}

#[test]
fn of_two_replicas_the_one_with_the_newer_image_sets_the_tag() {
    let (Some(registry), Some(server)) = (Registry::start(), Server::shared()) else {
        return;
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let dsn = server.dsn(&runtime.block_on(server.database()));
    let options = [&PUSH[..], &["--db-create", "--dbstr", &dsn]].concat();
    let (older, newer) = (image(1), image(2));
    registry.push("app", "1", &older);
    let gate = Gate::before(registry.address());
    let directories = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let [first, second] = directories
        .each_ref()
        .map(|data| Proxy::start(&gate.url(), data.path(), &options));
    // It has looked at the source's tag, and is about to push.
    let late = gate.hold("PUT", "/manifests/1_obd");
    pull(&first, "app/manifests/1_obd");
    late.wait();
    registry.push("app", "1", &newer);
    let converted = pull(&second, "app/manifests/1_obd");
    until("the second replica waits, or passes the first", || {
        let waits = second
            .log()
            .contains("waiting for another that pushes this tag");
        (waits || registry.count("PUT", "/manifests/1_obd") > 0).then_some(())
    });
    late.release();
    until("both have pushed", || {
        (registry.count("PUT", "/manifests/1_obd") > 1).then_some(())
    });
    assert_eq!(names(&registry, "app", "1_obd"), Some(converted));
    first.stop();
    second.stop();
}
