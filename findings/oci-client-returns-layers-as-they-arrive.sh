#!/usr/bin/env bash
# The crate oci-client: `Client::pull` returns layers in the order in which their downloads end.
#
# Guessed: `ImageData::layers` is in the order of the manifest, which is the order that layers are applied
# in; `push` takes them so. Seen: blobs are fetched at one time (16 unless configured), and the one that
# is complete first comes first. An ImageLayer has no digest, so nothing tells that they changed places.
# On a quick registry with layers of one size all looks right; a large base layer comes last, and what is
# made of the layers is another file system, without an error. `max_concurrent_download = 1` keeps the
# order.
#
# Version: oci-client 0.18.0 (crates.io), with a server of Python that answers for the first layer when
# the second has been read. Exits 0 if it still behaves so.
set -euo pipefail
work=$(mktemp -d)
pid=
finish() {
    [ -z "$pid" ] || kill "$pid" 2>/dev/null || true
    rm -rf "$work"
}
trap finish EXIT
cd "$work"

mkdir -p puller/src
cat >puller/Cargo.toml <<'TOML'
[package]
name = "puller"
version = "0.0.0"
edition = "2021"
[dependencies]
oci-client = { version = "=0.18.0", default-features = false, features = ["rustls-tls-no-provider"] }
rustls = { version = "0.23", default-features = false, features = ["ring", "std"] }
tokio = { version = "1", features = ["macros", "rt"] }
TOML
cat >puller/src/main.rs <<'RUST'
use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::secrets::RegistryAuth;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    rustls::crypto::ring::default_provider().install_default().unwrap();
    let image = std::env::args().nth(1).unwrap().parse().unwrap();
    for at_one_time in [None, Some(1)] {
        let mut config = ClientConfig { protocol: ClientProtocol::Http, ..Default::default() };
        if let Some(number) = at_one_time {
            config.max_concurrent_download = number;
        }
        let media_type = "application/vnd.oci.image.layer.v1.tar";
        let pulled = oci_client::Client::new(config)
            .pull(&image, &RegistryAuth::Anonymous, vec![media_type])
            .await
            .unwrap();
        let layers: Vec<_> = pulled.layers.iter().map(|layer| String::from_utf8_lossy(&layer.data)).collect();
        println!("{}: {}", if at_one_time.is_some() { "one at a time" } else { "as configured" }, layers.join(", "));
    }
}
RUST
CARGO_TARGET_DIR=$work/target cargo build -q --manifest-path puller/Cargo.toml

cat >server.py <<'PYTHON'
"""A registry of one image of two layers. Prints its port."""
import hashlib, http.server, json, threading

def digest(content):
    return "sha256:" + hashlib.sha256(content).hexdigest()

layers = [b"first layer", b"second layer"]
config = json.dumps({"architecture": "amd64", "os": "linux", "rootfs": {
    "type": "layers", "diff_ids": [digest(layer) for layer in layers]}}).encode()
kind = "application/vnd.oci.image."
def descriptor(media_type, content):
    return {"mediaType": kind + media_type, "digest": digest(content), "size": len(content)}
manifest = json.dumps({"schemaVersion": 2, "mediaType": kind + "manifest.v1+json",
                       "config": descriptor("config.v1+json", config),
                       "layers": [descriptor("layer.v1.tar", layer) for layer in layers]}).encode()
blobs = {digest(content): content for content in [*layers, config]}
second_was_read = threading.Event()

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        media_type, content = "application/octet-stream", b""
        if "/manifests/" in self.path:
            media_type, content = kind + "manifest.v1+json", manifest
        elif "/blobs/" in self.path:
            content = blobs[self.path.rsplit("/", 1)[1]]
        if content == layers[0]:
            second_was_read.wait(10)  # the client that asks for one at a time gets it nevertheless
        self.send_response(200)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        if content == layers[1]:
            second_was_read.set()
    def log_message(self, *_):
        pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
PYTHON
python3 server.py >port &
pid=$!
for _ in $(seq 100); do
    [ ! -s port ] || break
    sleep 0.1
done
target/debug/puller "127.0.0.1:$(cat port)/image:tag" | tee seen
diff - seen <<'EXPECTED'
as configured: second layer, first layer
one at a time: first layer, second layer
EXPECTED
