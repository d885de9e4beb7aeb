//! A database that hangs is no business of what is not converted.

use std::sync::Arc;

use crate::outside::{PLATFORM, converted_layer, image};
use crate::store_support::{Database, Server};
use crate::support::proxy::Proxy;
use crate::support::registry::Registry;
use crate::support::until::until;

#[test]
fn unconverted_images_pass_through_while_the_database_hangs() {
    let (Some(registry), Some(server)) = (Registry::start(), Server::start(&[])) else {
        return;
    };
    let database = Database::new(Arc::new(server));
    for number in 0..3 {
        registry.push(&format!("app-{number}"), "1", &image(number));
    }
    let data = tempfile::tempdir().unwrap();
    // Longer than the test's client waits: what waits for the database fails.
    let dsn = format!(
        "{}?timeout=1h&readTimeout=1h&writeTimeout=1h",
        database.dsn()
    );
    let options = [
        &PLATFORM[..],
        &["--db-create", "--dbstr", &dsn, "--hold", "2s"],
    ]
    .concat();
    let proxy = Proxy::start(&registry.url(), data.path(), &options);
    let layer = converted_layer(&proxy, "app-0", "1");
    assert_eq!(proxy.get(&layer).status, 200);
    database.server().freeze();
    for number in 0..3 {
        let (image, repo) = (image(number), format!("app-{number}"));
        let manifest = proxy.get(&format!("{repo}/manifests/{}", image.digest()));
        assert_eq!(manifest.status, 200, "{manifest:?}");
        assert_eq!(proxy.get(&format!("{repo}/manifests/1")).status, 200);
        for blob in &image.blobs {
            let blob = proxy.get(&format!("{repo}/blobs/{}", blob.digest()));
            assert_eq!(blob.status, 200, "{blob:?}");
        }
    }
    // What is known without the database goes on, and what is not is no miss.
    assert_eq!(proxy.get(&layer).status, 200);
    let elsewhere = layer.replace("app-0", "app-1");
    assert_eq!(proxy.get(&elsewhere).status, 503);
    let ready = crate::support::http::get(&format!("{}/readyz", proxy.admin()));
    // A balancer that asks must not take it out: all replicas lack the same database.
    assert_eq!(ready.status, 200, "{ready:?}");
    assert!(ready.text().starts_with("degraded\nindex: "), "{ready:?}");
    database.server().thaw();
    until("the database is asked again", || {
        (proxy.get(&elsewhere).status == 404).then_some(())
    });
    let layer = converted_layer(&proxy, "app-1", "1");
    assert_eq!(proxy.get(&layer).status, 200);
}
