//! What one replica has made, others serve and build on.

use crate::blob_store::{PLATFORM, empty, image, metric, parts, pull, tar};
use crate::store_support::{Database, Server};
use crate::support::gate::Gate;
use crate::support::image::{Image, layer_digests};
use crate::support::registry::Registry;
use crate::support::s3::Bucket;
use crate::support::until::until;
use crate::support::{noise, sha256};

#[test]
fn a_replica_serves_what_another_made_and_reads_no_source() {
    let (Some(registry), Some(server), Some(bucket)) =
        (Registry::start(), Server::shared(), Bucket::start())
    else {
        return;
    };
    let database = Database::new(server);
    registry.push("app", "1", &image(1, 1));
    let gate = Gate::before(registry.address());
    let dsn = database.dsn();
    let options = [&PLATFORM[..], &["--db-create", "--dbstr", &dsn]].concat();
    let data = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let first = bucket.replica(&gate.url(), data[0].path(), &options);
    let made = first.converted("app", "1");
    // Durable before named: nobody waited for this.
    for digest in parts(&made) {
        let object = bucket.bytes(&digest).unwrap_or_default();
        assert_eq!(sha256(&object), digest);
    }
    pull(&first, "app", &made);
    assert_eq!(metric(&first, "blob_store_uploads_total"), 4);
    first.stop();

    let before = gate.count("GET", "/blobs/");
    let second = bucket.replica(&gate.url(), data[1].path(), &options);
    assert_eq!(second.converted("app", "1"), made);
    pull(&second, "app", &made);
    assert_eq!(gate.count("GET", "/blobs/"), before, "{:?}", gate.seen());
    assert_eq!(metric(&second, "layers_converted_total"), 0);
    assert_eq!(metric(&second, "blob_store_uploads_total"), 0);
    assert_eq!(metric(&second, "blob_store_downloads_total"), 4);

    // Another image on the same lower layer: that one is not made again.
    registry.push("other", "1", &image(1, 2));
    let other = second.converted("other", "1");
    assert_eq!(layer_digests(&other)[0], layer_digests(&made)[0]);
    assert_eq!(metric(&second, "layers_converted_total"), 1);
    pull(&second, "other", &other);
    second.stop();
}

#[test]
fn a_replica_lists_what_another_made() {
    let (Some(registry), Some(server), Some(bucket)) =
        (Registry::start(), Server::shared(), Bucket::start())
    else {
        return;
    };
    let database = Database::new(server);
    let source = registry.push("app", "1", &image(4, 1));
    let dsn = database.dsn();
    let options = [&PLATFORM[..], &["--db-create", "--dbstr", &dsn]].concat();
    let data = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let first = bucket.replica(&registry.url(), data[0].path(), &options);
    first.converted("app", "1");
    let of = |proxy: &crate::blob_store::Proxy| {
        let answer = proxy.get(&format!("app/referrers/{source}"));
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()["manifests"].as_array().unwrap().clone()
    };
    let wanted = of(&first);
    assert_eq!(wanted.len(), 1);
    first.stop();
    // Only what is there is listed; none of it is on this disk.
    let second = bucket.replica(&registry.url(), data[1].path(), &options);
    assert_eq!(of(&second), wanted);
    second.stop();
}

#[test]
fn what_was_evicted_comes_back_from_the_bucket() {
    let (Some(registry), Some(bucket)) = (Registry::start(), Bucket::start()) else {
        return;
    };
    registry.push("app", "1", &image(2, 1));
    let data = tempfile::tempdir().unwrap();
    let proxy = bucket.replica(&registry.url(), data.path(), &PLATFORM);
    let made = proxy.converted("app", "1");
    proxy.stop();
    empty(data.path());
    // The index is swept of what is gone, but not of what the bucket has.
    let proxy = bucket.replica(&registry.url(), data.path(), &PLATFORM);
    let before = registry.count("GET", "/blobs/");
    pull(&proxy, "app", &made);
    assert_eq!(proxy.converted("app", "1"), made);
    assert_eq!(registry.count("GET", "/blobs/"), before);
    assert_eq!(metric(&proxy, "layers_converted_total"), 0);

    // An image whose lower layer is in the bucket alone.
    empty(data.path());
    registry.push("other", "1", &image(2, 2));
    proxy.converted("other", "1");
    assert_eq!(metric(&proxy, "layers_converted_total"), 1);
    proxy.stop();
}

#[test]
fn a_directory_that_was_there_before_the_bucket_is_uploaded() {
    let (Some(registry), Some(bucket)) = (Registry::start(), Bucket::start()) else {
        return;
    };
    registry.push("app", "1", &image(3, 1));
    let data = tempfile::tempdir().unwrap();
    let proxy = crate::blob_store::Proxy::start(&registry.url(), data.path(), &PLATFORM);
    let made = proxy.converted("app", "1");
    proxy.stop();
    let proxy = bucket.replica(&registry.url(), data.path(), &PLATFORM);
    for digest in parts(&made) {
        let object = until("the blob is in the bucket", || bucket.bytes(&digest));
        assert_eq!(sha256(&object), digest);
    }
    proxy.stop();
}

#[test]
fn replicas_that_make_the_same_at_one_time_agree() {
    let (Some(registry), Some(bucket)) = (Registry::start(), Bucket::start()) else {
        return;
    };
    // Of several parts, and of one.
    let large = Image::gzip(&[tar("large", &noise(41, 20 << 20)), tar("small", b"x")]);
    registry.push("app", "1", &large.seal());
    let data = [(); 2].map(|()| tempfile::tempdir().unwrap());
    // Their indexes are their own, so that both make it.
    let replicas = data
        .each_ref()
        .map(|data| bucket.replica(&registry.url(), data.path(), &PLATFORM));
    let made: Vec<_> = std::thread::scope(|scope| {
        let asked = replicas
            .each_ref()
            .map(|replica| scope.spawn(|| replica.converted("app", "1")));
        asked.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert_eq!(made[0], made[1]);
    for digest in parts(&made[0]) {
        assert_eq!(sha256(&bucket.bytes(&digest).unwrap()), digest);
    }
    let converted = replicas
        .each_ref()
        .map(|one| metric(one, "layers_converted_total"));
    assert_eq!(converted, [2, 2]);
    let failed = replicas
        .each_ref()
        .map(|one| metric(one, "blob_store_uploads_failed_total"));
    assert_eq!(failed, [0, 0], "{}", replicas[0].log());
    assert!(bucket.gate.count("PUT", "partNumber") + bucket.gate.count("PUT", "obd/blobs") >= 3);
    // Both serve all of it from the bucket.
    for (replica, data) in replicas.iter().zip(&data) {
        empty(data.path());
        pull(replica, "app", &made[0]);
    }
    replicas
        .into_iter()
        .for_each(crate::blob_store::Proxy::stop);
}
