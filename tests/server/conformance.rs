//! The distribution specification's workflows (pull, push, content discovery, content
//! management), step by step against a registry directly and through the proxy: the same
//! answers.

use crate::support;
use std::collections::BTreeMap;

use serde_json::json;
use support::http::{self, Answer};
use support::proxy::Proxy;
use support::registry::Registry;
use support::{noise, sha256};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCTETS: (&str, &str) = ("content-type", "application/octet-stream");

/// What a client can tell of an answer: its status, its headers that mean something, its body.
#[derive(Debug, PartialEq, Eq)]
struct Recorded {
    status: u16,
    headers: BTreeMap<String, String>,
    body: String,
}

/// A client that records its responses.
struct Client {
    base: String,
    recorded: Vec<(String, Recorded)>,
}

impl Client {
    fn send(
        &mut self,
        step: &str,
        method: &str,
        url: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        // This registry breaks the answer to some bad ranges off; then that is the answer.
        let sent = http::try_send(method, &self.absolute(url), headers, body);
        let answer = sent.unwrap_or_else(|error| {
            assert!(error.contains("IncompleteBody"), "{step}: {error}");
            Answer {
                status: 0,
                headers: ::http::HeaderMap::new(),
                body: bytes::Bytes::from_static(b"broken off"),
            }
        });
        let mut kept = BTreeMap::new();
        for name in [
            "content-type",
            "content-length",
            "content-range",
            "accept-ranges",
            "docker-content-digest",
            "docker-distribution-api-version",
            "oci-subject",
            "range",
            "link",
            "etag",
        ] {
            if let Some(value) = answer.header(name) {
                kept.insert(name.to_owned(), value.to_owned());
            }
        }
        // Where uploads go differs; that it is said does not, and that it leads back here.
        if let Some(location) = answer.header("location") {
            let here = location.starts_with('/') || location.starts_with(&self.base);
            kept.insert("location leads here".to_owned(), here.to_string());
        }
        let recorded = Recorded {
            status: answer.status,
            headers: kept,
            body: answer.text(),
        };
        self.recorded.push((step.to_owned(), recorded));
        answer
    }

    fn absolute(&self, url: &str) -> String {
        if url.starts_with('/') {
            format!("{}{url}", self.base)
        } else {
            url.to_owned()
        }
    }

    fn get(&mut self, step: &str, url: &str) -> Answer {
        self.send(step, "GET", url, &[("accept", http::ACCEPT)], b"")
    }

    fn begin(&mut self, step: &str, repo: &str) -> String {
        let begun = self.send(
            step,
            "POST",
            &format!("/v2/{repo}/blobs/uploads/"),
            &[],
            b"",
        );
        begun.header("location").unwrap_or_default().to_owned()
    }
}

fn with_digest(location: &str, digest: &str) -> String {
    let mark = if location.contains('?') { '&' } else { '?' };
    format!("{location}{mark}digest={digest}")
}

/// Every workflow, in a repository of its own.
fn workflows(base: &str) -> Vec<(String, Recorded)> {
    let mut client = Client {
        base: base.to_owned(),
        recorded: Vec::new(),
    };
    let repo = "conformance/app";
    let blob = noise(1, 70_000);
    let digest = sha256(&blob);
    let blob_url = format!("/v2/{repo}/blobs/{digest}");
    client.get("ping", "/v2/");
    client.get("a blob before its push", &blob_url);
    client.get(
        "a manifest before its push",
        &format!("/v2/{repo}/manifests/latest"),
    );

    // Push: whole, in chunks, in one request, and what must not go through.
    let location = client.begin("begin an upload", repo);
    client.send(
        "end it whole",
        "PUT",
        &with_digest(&location, &digest),
        &[OCTETS],
        &blob,
    );
    let chunked = noise(2, 50_000);
    let location = client.begin("begin a chunked upload", repo);
    let first = client.send(
        "the first chunk",
        "PATCH",
        &location,
        &[OCTETS, ("content-range", "0-29999")],
        &chunked[..30_000],
    );
    let location = first.header("location").unwrap_or_default().to_owned();
    client.get("how far it is", &location);
    let second = client.send(
        "the second chunk",
        "PATCH",
        &location,
        &[OCTETS, ("content-range", "30000-49999")],
        &chunked[30_000..],
    );
    let location = second.header("location").unwrap_or_default().to_owned();
    let end = with_digest(&location, &sha256(&chunked));
    client.send("end the chunks", "PUT", &end, &[], b"");
    let location = client.begin("begin one with a wrong digest", repo);
    let wrong = with_digest(&location, &sha256(b"other"));
    client.send("end it", "PUT", &wrong, &[OCTETS], b"these");
    let location = client.begin("begin one to be cancelled", repo);
    client.send("cancel it", "DELETE", &location, &[], b"");
    client.send(
        "mount from elsewhere",
        "POST",
        &format!("/v2/conformance/other/blobs/uploads/?mount={digest}&from={repo}"),
        &[],
        b"",
    );
    client.send(
        "mount what is nowhere",
        "POST",
        &format!(
            "/v2/conformance/other/blobs/uploads/?mount={}&from={repo}",
            sha256(b"none")
        ),
        &[],
        b"",
    );

    // Pull of blobs.
    client.get("a blob", &blob_url);
    client.send("its head", "HEAD", &blob_url, &[], b"");
    for range in [
        "bytes=0-0",
        "bytes=10-99",
        "bytes=-7",
        "bytes=69990-80000",
        "bytes=90000-",
        "bytes=5-2",
    ] {
        client.send(range, "GET", &blob_url, &[("range", range)], b"");
    }
    client.get(
        "a blob that is none",
        &format!("/v2/{repo}/blobs/{}", sha256(b"none")),
    );
    client.get(
        "a digest that is none",
        &format!("/v2/{repo}/blobs/sha256:abc"),
    );
    client.get("a name that is none", "/v2/Conformance/manifests/latest");

    // Manifests.
    let config = b"{}".to_vec();
    let location = client.begin("begin the config", repo);
    let end = with_digest(&location, &sha256(&config));
    client.send("end the config", "PUT", &end, &[OCTETS], &config);
    let layer = json!({"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest, "size": blob.len()});
    let document = |note: &str| {
        json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json",
                       "digest": sha256(b"{}"), "size": 2},
            "layers": [layer],
            "annotations": {"note": note},
        })
        .to_string()
    };
    let typed = [("content-type", MANIFEST)];
    for tag in ["latest", "a", "b", "c", "ends_obd"] {
        let url = format!("/v2/{repo}/manifests/{tag}");
        client.send(tag, "PUT", &url, &typed, document(tag).as_bytes());
    }
    let manifest = document("latest");
    let by_digest = format!("/v2/{repo}/manifests/{}", sha256(manifest.as_bytes()));
    client.get("a manifest by tag", &format!("/v2/{repo}/manifests/latest"));
    client.get("a manifest by digest", &by_digest);
    client.get(
        "a real tag that ends like ours",
        &format!("/v2/{repo}/manifests/ends_obd"),
    );
    let accept = [("accept", http::ACCEPT)];
    client.send("its head", "HEAD", &by_digest, &accept, b"");
    let known = format!("\"{}\"", sha256(manifest.as_bytes()));
    let condition = [("accept", http::ACCEPT), ("if-none-match", known.as_str())];
    client.send("only if it changed", "GET", &by_digest, &condition, b"");
    let url = format!("/v2/{repo}/manifests/broken");
    client.send("a manifest of no kind", "PUT", &url, &typed, b"{");
    let lacking = manifest.replace(&digest, &sha256(b"none"));
    client.send(
        "a manifest that lacks its blobs",
        "PUT",
        &url,
        &typed,
        lacking.as_bytes(),
    );

    // Content discovery.
    client.get("all tags", &format!("/v2/{repo}/tags/list"));
    client.get("two tags", &format!("/v2/{repo}/tags/list?n=2"));
    client.get("two more", &format!("/v2/{repo}/tags/list?n=2&last=b"));
    client.get("no tags", &format!("/v2/{repo}/tags/list?n=0"));
    client.get("tags of nothing", "/v2/conformance/nothing/tags/list");
    client.get("the catalog", "/v2/_catalog");
    client.get("the catalog, paged", "/v2/_catalog?n=1");
    let subject = sha256(manifest.as_bytes());
    client.get("referrers", &format!("/v2/{repo}/referrers/{subject}"));

    // Content management.
    client.send(
        "delete a tag",
        "DELETE",
        &format!("/v2/{repo}/manifests/a"),
        &[],
        b"",
    );
    client.send("delete a manifest", "DELETE", &by_digest, &[], b"");
    client.get("it is gone", &by_digest);
    client.send("delete a blob", "DELETE", &blob_url, &[], b"");
    client.get("that too", &blob_url);
    client.send("delete what is gone", "DELETE", &blob_url, &[], b"");
    client.send("a method that is none", "PATCH", &by_digest, &[], b"");
    client.recorded
}

#[test]
fn every_workflow_of_the_distribution_spec_is_answered_as_by_the_registry() {
    let (Some(direct), Some(behind)) = (Registry::start(), Registry::start()) else {
        return;
    };
    let data = tempfile::tempdir().unwrap();
    let proxy = Proxy::start(&behind.url(), data.path(), &["--auth-cache-ttl", "0"]);
    let expected = workflows(&direct.url());
    let found = workflows(proxy.url());
    assert!(expected.len() > 55, "{} steps", expected.len());
    let good = expected
        .iter()
        .filter(|(_, recorded)| recorded.status < 300)
        .count();
    assert!(good > 30, "{good} of {} steps went well", expected.len());
    for ((step, expected), (_, found)) in expected.iter().zip(&found) {
        assert_eq!(found, expected, "{step}");
    }
}
