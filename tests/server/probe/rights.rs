//! Who may read at a signed address, and for how long.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;

use crate::probe::reader::Reader;
use crate::probe::{KEY, PLATFORM, Scene, blob, image, keys, layer_digests};
use crate::registry_support::scripted::Served;
use crate::registry_support::tokens::Tokens;
use crate::registry_support::{DockerRegistry, certificates};
use crate::support::gate::Gate;
use crate::support::http::send;
use crate::support::layout::Layout;
use crate::support::proxy::{Proxy, blobs};
use crate::support::{command, have, run, skopeo};

const BOB: &str = "bob:quite-secret";

/// A registry that takes tokens, a gate before it, and what it takes to start proxies before that.
pub struct Private {
    pub gate: Gate,
    tokens: Arc<Tokens>,
    pub layer: String,
    _registry: DockerRegistry,
    _realm: Served,
    _runtime: Runtime,
    pub scratch: tempfile::TempDir,
}

impl Private {
    pub fn new() -> Option<Self> {
        if !have(&["openssl", "skopeo"]) {
            return None;
        }
        let rights = vec![("bob", "quite-secret", "team/", &["pull", "push"][..])];
        let tokens = Tokens::new(rights);
        let runtime = Runtime::new().unwrap();
        let realm = runtime.block_on(tokens.serve());
        let address = format!("http://{}/token", realm.host());
        let registry = DockerRegistry::start_with(|_| tokens.settings(&address))?;
        let scratch = tempfile::tempdir().unwrap();
        let layout = Layout::create(&scratch.path().join("layout"));
        let image = image(1, 1, 300_000);
        layout.add("1", &image);
        let to = format!("docker://{}/team/app:1", registry.host);
        skopeo::copied(
            &skopeo::layout(layout.path(), "1"),
            &to,
            &["--dest-creds", BOB],
        );
        Some(Self {
            gate: Gate::before(&registry.host),
            tokens,
            layer: image.blobs[1].digest(),
            _registry: registry,
            _realm: realm,
            _runtime: runtime,
            scratch,
        })
    }

    pub fn start(&self, data: &Path, options: &[&str]) -> Proxy {
        let options = [&PLATFORM[..], options].concat();
        Proxy::start(&self.gate.url(), data, &options)
    }

    /// The address of the converted image's only layer.
    pub fn converted(proxy: &Proxy) -> String {
        let manifest = format!("{}/v2/team/app/manifests/1_obd", proxy.url());
        let layers = layer_digests(&Reader::of(BOB).manifest(&manifest));
        blob(proxy.url(), "team/app", &layers[0])
    }
}

pub fn bob() -> Reader {
    Reader::of(BOB)
}

/// Has the registry refuse whatever a reader was given so far.
fn end_tokens(gate: &Gate, reader: &Reader) {
    for asked in &reader.asked {
        if let Some(token) = asked
            .authorization
            .as_ref()
            .filter(|it| it.starts_with("Bearer"))
        {
            gate.refuse(token);
        }
    }
}

#[test]
fn a_token_that_ends_in_the_middle_of_a_read_harms_nobody() {
    let Some(private) = Private::new() else {
        return;
    };
    let data = private.scratch.path().join("data");
    let proxy = private.start(&data, &["--auth-cache-ttl", "1s", "--url-ttl", "4s"]);
    let url = Private::converted(&proxy);
    let mut reader = bob();
    reader.open(&url).unwrap();
    end_tokens(&private.gate, &reader);
    std::thread::sleep(Duration::from_millis(1500));
    let before = private.gate.seen().len();
    let since = reader.asked.len();
    for place in 0..20 {
        reader.read(&url, place * 1000, 1000).unwrap();
    }
    assert_eq!(reader.answers(since), [("range", 206); 20]);
    assert_eq!(private.gate.seen().len(), before, "the upstream was asked");
    // The address ends; the old token is refused, and the next one is not.
    std::thread::sleep(Duration::from_secs(4));
    let since = reader.asked.len();
    reader.read(&url, 5000, 1000).unwrap();
    assert_eq!(
        reader.answers(since),
        [
            ("range", 403),
            ("head", 401),
            ("whole", 401),
            ("head", 401),
            ("whole", 307),
            ("range", 206)
        ]
    );
}

#[test]
fn a_right_that_is_withdrawn_ends_with_the_address() {
    let Some(private) = Private::new() else {
        return;
    };
    let data = private.scratch.path().join("data");
    let proxy = private.start(&data, &["--auth-cache-ttl", "1s", "--url-ttl", "2s"]);
    let url = Private::converted(&proxy);
    let mut reader = bob();
    reader.open(&url).unwrap();
    let withdrawn = Instant::now();
    private.tokens.rights.lock().clear();
    end_tokens(&private.gate, &reader);
    reader.read(&url, 0, 1000).unwrap();
    let refused = loop {
        match reader.read(&url, 0, 1000) {
            Ok(_) => std::thread::sleep(Duration::from_millis(50)),
            Err(status) => break status,
        }
        assert!(withdrawn.elapsed() < Duration::from_secs(20));
    };
    let took = withdrawn.elapsed();
    eprintln!("withdrawn, and read for another {took:?}");
    assert_eq!(refused, 401);
    // The second that has begun counts, and a request takes its time.
    assert!(took < Duration::from_secs(2 + 1 + 2), "{took:?}");
    // Nobody without credentials, and with no address, is let in at any time.
    assert_eq!(
        send("GET", &url, &[("range", "bytes=0-9")], b"").status,
        401
    );
}

#[test]
fn a_blob_that_was_evicted_is_opened_anew_with_the_clients_credentials() {
    let Some(private) = Private::new() else {
        return;
    };
    let scratch = private.scratch.path();
    let options: [&str; 0] = [];
    let data = scratch.join("data");
    let proxy = private.start(&data, &options);
    let url = Private::converted(&proxy);
    let mut reader = bob();
    let bytes = reader.read_all(&url);
    let address = reader.address(&url).to_owned();
    let before = proxy.url().to_owned();
    proxy.stop();
    for blob in blobs(&data) {
        std::fs::remove_file(blob).unwrap();
    }
    let proxy = private.start(&data, &options);
    let moved = |address: &str| address.replace(&before, proxy.url());
    let url = moved(&url);
    let mut reader = bob();
    reader.remember(&url, &moved(&address));
    assert_eq!(
        reader.read(&url, 1000, 1000).unwrap().body,
        bytes[1000..2000]
    );
    let answers = reader.answers(0);
    assert_eq!(answers[..2], [("range", 403), ("head", 401)], "{answers:?}");
    assert_eq!(
        answers[answers.len() - 2..],
        [("whole", 307), ("range", 206)]
    );
}

#[test]
fn what_only_this_replica_has_is_not_sent_to_an_address_that_others_would_answer() {
    let Some(private) = Private::new() else {
        return;
    };
    let scratch = private.scratch.path();
    let (_, [option, path]) = keys(scratch, &[KEY]);
    let options = [option.as_str(), &path];
    let proxy = private.start(&scratch.join("data"), &options);
    let url = Private::converted(&proxy);
    let mut reader = bob();
    reader.read_all(&url);
    let answers = reader.answers(0);
    assert!(answers.contains(&("whole", 200)), "{answers:?}");
}

#[test]
fn what_another_replica_pushed_is_read_there_without_the_clients_credentials() {
    let Some(private) = Private::new() else {
        return;
    };
    let scratch = private.scratch.path();
    let (_, [option, path]) = keys(scratch, &[KEY]);
    let options = [&option, &path, "--push", "--user", BOB];
    let first = private.start(&scratch.join("first"), &options);
    let url = Private::converted(&first);
    let mut reader = bob();
    let bytes = reader.read_all(&url);
    let second = private.start(&scratch.join("second"), &options);
    let moved = |address: &str| address.replace(first.url(), second.url());
    let mut node = Reader::new();
    node.remember(&moved(&url), &moved(reader.address(&url)));
    assert_eq!(
        node.read(&moved(&url), 1000, 1000).unwrap().body,
        bytes[1000..2000]
    );
    assert_eq!(node.answers(0), [("range", 206)]);
}

#[test]
fn the_proxys_users_read_on_without_their_passwords_and_nobody_else_gets_in() {
    if !have(&["htpasswd"]) {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let users = scratch.path().join("users");
    let made = run(command("htpasswd").args(["-nbB", "ann", "pw"]));
    std::fs::write(&users, made.stdout).unwrap();
    let users = users.display().to_string();
    let (_, [option, path]) = keys(scratch.path(), &[KEY]);
    let options = ["--htpasswd", &users, &option, &path];
    let registry = crate::support::registry::Registry::start();
    let Some(registry) = registry else { return };
    registry.push("app", "1", &image(1, 1, 300_000));
    let data = scratch.path().join("data");
    let start = || Proxy::start(&registry.url(), &data, &[&PLATFORM[..], &options].concat());
    let proxy = start();
    let mut reader = Reader::of("ann:pw");
    let manifest = reader.manifest(&format!("{}/v2/app/manifests/1_obd", proxy.url()));
    let url = blob(proxy.url(), "app", &layer_digests(&manifest)[0]);
    let bytes = reader.read_all(&url);
    for asked in &reader.asked {
        let is_whole = asked.range.is_none();
        assert_eq!(asked.authorization.is_some(), is_whole, "{asked:?}");
    }
    assert_eq!(Reader::new().open(&url), Err(401));
    assert_eq!(Reader::of("ann:wrong").open(&url), Err(401));
    // What was evicted is made again, with the proxy's own credentials.
    let (address, before) = (reader.address(&url).to_owned(), proxy.url().to_owned());
    proxy.stop();
    for blob in blobs(&data) {
        std::fs::remove_file(blob).unwrap();
    }
    let proxy = start();
    let address = address.replace(&before, proxy.url());
    let part = send("GET", &address, &[("range", "bytes=1000-1999")], b"");
    assert_eq!(
        (part.status, &part.body[..]),
        (206, &bytes[1000..2000]),
        "{part:?}"
    );
}

#[test]
fn a_client_without_the_certificate_that_is_required_reads_nowhere() {
    let Some(pki) = certificates() else { return };
    if !have(&["curl"]) {
        return;
    }
    let file = |name: &str| pki.path().join(name).display().to_string();
    let (cert, key, ca) = (file("server.crt"), file("server.key"), file("ca.crt"));
    let scratch = tempfile::tempdir().unwrap();
    let (_, [option, path]) = keys(scratch.path(), &[KEY]);
    let Some(open) = Scene::new(&[&option, &path]) else {
        return;
    };
    let tls = [
        "--tls-cert",
        &cert,
        "--tls-key",
        &key,
        "--tls-client-ca",
        &ca,
    ];
    let options = [&tls[..], &[&option, &path], &PLATFORM].concat();
    let closed = Proxy::start(&open.registry.url(), &scratch.path().join("data"), &options);
    let address = open.signed().replace(open.proxy.url(), closed.url());
    let curl = |more: &[&str]| {
        let mut curl = command("curl");
        curl.args([
            "-sS",
            "--max-time",
            "20",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
        ]);
        let output = curl
            .args(["--cacert", &ca])
            .args(more)
            .arg(&address)
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(curl(&[]), "000");
    let identity = [file("client.crt"), file("client.key")];
    // That proxy has not converted it yet, and anyone may have it.
    assert_eq!(
        curl(&["--cert", &identity[0], "--key", &identity[1]]),
        "404"
    );
    assert_eq!(
        curl(&["--cert", &identity[0], "--key", &identity[1], "-r", "0-9"]),
        "404"
    );
}
