//! Which requests `node check --image` sends to the registry in an image's name: those of overlaybd.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::json;

use super::made_up::Node;
use super::support::{noise, sha256};

/// The heads of requests, in lower case.
type Heads = Arc<Mutex<Vec<String>>>;

/// A registry that wants a password and redirects to another address; and that one.
struct Origin {
    address: String,
    storage: String,
    heads: Heads,
}

fn serve(answer: impl Fn(&str) -> Vec<u8> + Send + 'static, heads: &Heads) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let heads = Arc::clone(heads);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream: TcpStream = stream.unwrap();
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && stream.read_exact(&mut byte).is_ok() {
                head.push(byte[0]);
            }
            let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
            heads.lock().push(head.clone());
            // Whoever reads only a part of it hangs up.
            let _ = stream.write_all(&answer(&head));
        }
    });
    address
}

fn response(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n{headers}\r\n"
    );
    [head.as_bytes(), body].concat()
}

/// Of an image with one converted layer.
fn manifest(digest: &str) -> String {
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": sha256(b"{}"), "size": 2,
        },
        "layers": [{
            "mediaType": "application/vnd.oci.image.layer.v1.tar",
            "digest": digest, "size": 100_000,
            "annotations": { "containerd.io/snapshot/overlaybd/blob-digest": digest },
        }],
    });
    manifest.to_string()
}

impl Origin {
    fn start(honours_ranges: bool) -> Self {
        let heads = Heads::default();
        let blob = noise(7, 100_000);
        let digest = sha256(&blob);
        let storage = serve(
            move |head| {
                if honours_ranges && head.contains("\r\nrange: bytes=0-4095\r\n") {
                    let range = "content-range: bytes 0-4095/100000\r\n";
                    response("206 Partial Content", range, &blob[..4096])
                } else {
                    response("200 OK", "", &blob)
                }
            },
            &heads,
        );
        let manifest = manifest(&digest);
        let location = format!("location: http://{storage}/data?signature=x\r\n");
        let address = serve(
            move |head| {
                if head.contains("/manifests/") {
                    let kind = "content-type: application/vnd.oci.image.manifest.v1+json\r\n";
                    response("200 OK", kind, manifest.as_bytes())
                } else if head.contains("\r\nauthorization: basic ") {
                    response("307 Temporary Redirect", &location, b"")
                } else {
                    let challenge = "www-authenticate: Basic realm=\"x\"\r\n";
                    response("401 Unauthorized", challenge, b"")
                }
            },
            &heads,
        );
        Self {
            address,
            storage,
            heads,
        }
    }

    /// A node that reads images of it, which are named so.
    fn image(&self, node: &Node) -> String {
        node.replace(
            "etc/overlaybd-snapshotter/config.json",
            "\"mirrorRegistry\": []",
            &format!(
                "\"mirrorRegistry\": [{{\"host\": \"{}\", \"insecure\": true}}]",
                self.address
            ),
        );
        node.replace(
            "opt/overlaybd/cred.json",
            "proxy.example.com:8480",
            &self.address,
        );
        std::fs::remove_dir_all(node.path("etc/containerd/certs.d/docker.io")).unwrap();
        format!("http://{}/team/app:1", self.address)
    }
}

#[test]
fn a_blob_is_probed_asked_for_whole_and_read_by_range_where_it_redirects_to() {
    let Some(node) = Node::right() else { return };
    let origin = Origin::start(true);
    let image = origin.image(&node);
    let checked = node.check(&["--image", &image]);
    assert_eq!(checked.code, 0, "{checked:#?}");
    checked.has_one(
        "ok",
        &["a read of the converted layer", "succeeds, from 127.0.0.1"],
    );
    let heads = origin.heads.lock();
    let reads: Vec<_> = heads
        .iter()
        .filter(|head| !head.contains("/manifests/"))
        .collect();
    // What must be there, and what must not.
    let expected: [(&str, &[&str], &[&str]); 3] = [
        (
            "get /v2/team/app/blobs/sha256:",
            &["\r\nrange: bytes=0-0\r\n"],
            &["\r\nauthorization:"],
        ),
        (
            "get /v2/team/app/blobs/sha256:",
            &["\r\nauthorization: basic "],
            &["\r\nrange:"],
        ),
        (
            "get /data?signature=x ",
            &["\r\nrange: bytes=0-4095\r\n"],
            &["\r\nauthorization:"],
        ),
    ];
    assert_eq!(reads.len(), expected.len(), "{reads:#?}");
    for (head, (begin, with, without)) in reads.iter().zip(expected) {
        assert!(head.starts_with(begin), "{head}");
        assert!(
            head.contains("\r\nuser-agent: overlaybd/node-check\r\n"),
            "{head}"
        );
        assert!(
            with.iter().all(|part| head.contains(part)),
            "{with:?}: {head}"
        );
        assert!(
            without.iter().all(|part| !head.contains(part)),
            "{without:?}: {head}"
        );
    }
    assert!(reads[2].contains(&format!("\r\nhost: {}\r\n", origin.storage)));
}

#[test]
fn a_storage_that_does_not_heed_ranges_is_wrong() {
    let Some(node) = Node::right() else { return };
    let origin = Origin::start(false);
    let image = origin.image(&node);
    let checked = node.check(&["--image", &image]);
    checked.has_one("wrong", &["the range is not heeded"]);
    assert_eq!(checked.code, 1, "{checked:#?}");
}

#[test]
fn a_token_is_had_with_overlaybds_credentials_and_a_challenge_needs_all_that_overlaybd_reads() {
    for (scope, is_right) in [(",scope=\"repository:team/app:pull\"", true), ("", false)] {
        let Some(node) = Node::right() else { return };
        let heads = Heads::default();
        let tokens = serve(
            |head| {
                // node:a password
                if head.contains("\r\nauthorization: basic bm9kztphihbhc3n3b3jk\r\n") {
                    response("200 OK", "", b"{\"token\": \"made-up\"}")
                } else {
                    response("401 Unauthorized", "", b"")
                }
            },
            &heads,
        );
        let blob = noise(7, 100_000);
        let manifest = manifest(&sha256(&blob));
        let challenge = format!(
            "www-authenticate: Bearer realm=\"http://{tokens}/token\",service=\"s\"{scope}\r\n"
        );
        let address = serve(
            move |head| {
                let is_allowed = head.contains("\r\nauthorization: bearer made-up\r\n");
                if head.contains("/manifests/") {
                    let kind = "content-type: application/vnd.oci.image.manifest.v1+json\r\n";
                    response("200 OK", kind, manifest.as_bytes())
                } else if !is_allowed {
                    response("401 Unauthorized", &challenge, b"")
                } else if head.contains("\r\nrange: ") {
                    response("206 Partial Content", "", &blob[..4096])
                } else {
                    response("200 OK", "", &blob)
                }
            },
            &heads,
        );
        let origin = Origin {
            address,
            storage: String::new(),
            heads,
        };
        let image = origin.image(&node);
        let checked = node.check(&["--image", &image]);
        assert_eq!(checked.code, i32::from(!is_right), "{checked:#?}");
        if is_right {
            checked.has_one("ok", &["a read of the converted layer", "succeeds"]);
            let heads = origin.heads.lock();
            let asked = "get /token?service=s&scope=repository:team/app:pull ";
            let count = heads.iter().filter(|head| head.starts_with(asked)).count();
            assert_eq!(count, 1, "{heads:#?}");
        } else {
            checked.has_one("wrong", &["lacks realm, service or scope"]);
        }
    }
}
