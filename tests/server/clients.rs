//! Stock clients, over TLS with the development authority: what they push and pull through the
//! proxy is what they would have got without it.

use crate::{registry_support, support};
use std::path::Path;

use registry_support::DockerRegistry;
use registry_support::tokens::Tokens;
use support::image::Image;
use support::layout::Layout;
use support::process::Process;
use support::proxy::Proxy;
use support::registry::Registry;
use support::tar::Tar;
use support::{command, have, run};

struct Place {
    registry: Registry,
    proxy: Proxy,
    /// `localhost:PORT`.
    host: String,
    // Last, so that the layers in it are looked at when the proxy goes.
    directory: tempfile::TempDir,
}

impl Place {
    /// A registry with `app:1`, and the proxy before it with a certificate of the authority.
    fn new() -> Option<Self> {
        if !have(&["openssl", "docker-registry"]) {
            return None;
        }
        let registry = Registry::start()?;
        let directory = tempfile::tempdir().unwrap();
        let ca = directory.path().join("ca");
        run(std::process::Command::new("certs/make.sh").arg(&ca));
        let tar = Tar::new()
            .dir("srv")
            .file("srv/app", "an application")
            .finish();
        registry.push("app", "1", &Image::gzip(&[tar]).seal());
        let (certificate, key) = (ca.join("server.crt"), ca.join("server.key"));
        let options = [
            "--tls-cert",
            certificate.to_str().unwrap(),
            "--tls-key",
            key.to_str().unwrap(),
            "--platform",
            "linux/amd64",
        ];
        let proxy = Proxy::start(&registry.url(), &directory.path().join("data"), &options);
        // Clients look for the authority in a directory of their own.
        let certificates = directory.path().join("certificates");
        std::fs::create_dir(&certificates).unwrap();
        std::fs::copy(ca.join("ca.crt"), certificates.join("ca.crt")).unwrap();
        let host = format!("localhost:{}", proxy.host().rsplit_once(':').unwrap().1);
        Some(Self {
            registry,
            proxy,
            host,
            directory,
        })
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    /// What the registry has under a name.
    #[track_caller]
    fn in_registry(&self, repo: &str, tag: &str) -> serde_json::Value {
        let url = format!("{}/v2/{repo}/manifests/{tag}", self.registry.url());
        let answer = support::http::get(&url);
        assert_eq!(answer.status, 200, "{repo}:{tag}: {answer:?}");
        answer.json()
    }

    /// The layers of a manifest, which are the same image's whatever wrapped it again.
    fn layers(manifest: &serde_json::Value) -> Vec<&str> {
        let layers = manifest["layers"].as_array().unwrap();
        layers
            .iter()
            .map(|layer| layer["digest"].as_str().unwrap())
            .collect()
    }
}

#[test]
fn skopeo_pulls_and_pushes_and_reports_an_untrusted_certificate() {
    if !have(&["skopeo"]) {
        return;
    }
    let Some(place) = Place::new() else { return };
    let certificates = place.path("certificates");
    let copy = |from: &str, to: &str, trust: &[&str]| {
        let mut skopeo = command("skopeo");
        skopeo.args(["--insecure-policy", "copy", "--preserve-digests"]);
        skopeo.args(trust).args([from, to]);
        skopeo
    };
    let source = format!("docker://{}/app:1", place.host);
    let converted = format!("docker://{}/app:1_obd", place.host);
    let trust = [
        "--src-cert-dir",
        &certificates,
        "--dest-cert-dir",
        &certificates,
    ];
    run(&mut copy(
        &source,
        &format!("oci:{}:plain", place.path("layout")),
        &trust,
    ));
    run(&mut copy(
        &converted,
        &format!("oci:{}:obd", place.path("layout")),
        &trust,
    ));
    let pushed = format!("docker://{}/pushed:1", place.host);
    run(&mut copy(
        &format!("oci:{}:plain", place.path("layout")),
        &pushed,
        &trust,
    ));
    assert_eq!(
        place.in_registry("pushed", "1"),
        place.in_registry("app", "1")
    );
    let refused = copy(&source, &format!("oci:{}:none", place.path("layout")), &[])
        .output()
        .unwrap();
    assert!(!refused.status.success());
}

/// Gives a converted image that only the proxy has another tag, in the same repository and in
/// another one; its blobs are at the registry afterwards.
#[test]
fn a_converted_image_is_tagged_and_copied_through_the_proxy() {
    if !have(&["skopeo"]) {
        return;
    }
    let Some(place) = Place::new() else { return };
    let certificates = place.path("certificates");
    let converted = format!("docker://{}/app:1_obd", place.host);
    for (repo, tag) in [("app", "tagged"), ("copied", "1")] {
        let to = format!("docker://{}/{repo}:{tag}", place.host);
        run(command("skopeo")
            .args(["--insecure-policy", "copy", "--preserve-digests"])
            .args(["--src-cert-dir", &certificates])
            .args(["--dest-cert-dir", &certificates])
            .args([&converted, &to]));
        let manifest = place.in_registry(repo, tag);
        let layer = &manifest["layers"][0];
        let mark = "containerd.io/snapshot/overlaybd/blob-digest";
        assert_eq!(layer["annotations"][mark], layer["digest"], "{manifest}");
        for part in [layer, &manifest["config"]] {
            let digest = part["digest"].as_str().unwrap();
            let url = format!("{}/v2/{repo}/blobs/{digest}", place.registry.url());
            let answer = support::http::get(&url);
            assert_eq!(answer.status, 200, "{repo}: {digest}");
            assert_eq!(Some(answer.body.len() as u64), part["size"].as_u64());
        }
    }
}

/// An index that the proxy alone has: each converted image in it is given to the registry first.
#[test]
fn a_converted_index_is_tagged_through_the_proxy() {
    let Some(place) = Place::new() else { return };
    let data = place.directory.path().join("plain-http");
    let proxy = Proxy::start(&place.registry.url(), &data, &["--platform", "linux/amd64"]);
    let plain = place.in_registry("app", "1");
    let media_type = plain["mediaType"].as_str().unwrap();
    let bytes = support::http::get(&format!("{}/v2/app/manifests/1", place.registry.url())).body;
    let index = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{
            "mediaType": media_type,
            "digest": support::sha256(&bytes),
            "size": bytes.len(),
            "platform": { "os": "linux", "architecture": "amd64" },
        }],
    });
    let put = |tag: &str, base: &str, bytes: &[u8]| {
        let kind = [("content-type", "application/vnd.oci.image.index.v1+json")];
        let url = format!("{base}/v2/app/manifests/{tag}");
        support::http::send("PUT", &url, &kind, bytes)
    };
    let pushed = put("all", &place.registry.url(), index.to_string().as_bytes());
    assert_eq!(pushed.status, 201, "{pushed:?}");
    let converted = proxy.get("app/manifests/all_obd");
    assert_eq!(converted.status, 200, "{converted:?}");
    let tagged = put("all-tagged", proxy.url(), &converted.body);
    assert_eq!(tagged.status, 201, "{tagged:?}");
    let index = place.in_registry("app", "all-tagged");
    let child = index["manifests"][0]["digest"].as_str().unwrap();
    let child = place.in_registry("app", child);
    let layer = child["layers"][0]["digest"].as_str().unwrap();
    let url = format!("{}/v2/app/blobs/{layer}", place.registry.url());
    assert_eq!(support::http::get(&url).status, 200);
}

/// podman and buildah share their libraries and their options.
fn storage(place: &Place, program: &str) -> std::process::Command {
    let mut client = command(program);
    let (root, runroot) = (place.path(program), place.path(&format!("{program}-run")));
    client.args([
        "--root",
        &root,
        "--runroot",
        &runroot,
        "--storage-driver",
        "vfs",
    ]);
    client
}

#[track_caller]
fn pulls_and_pushes(program: &str) {
    if !have(&[program]) || !support::is_root(program) {
        return;
    }
    let Some(place) = Place::new() else { return };
    let certificates = place.path("certificates");
    let image = format!("{}/app:1", place.host);
    let untrusted = storage(&place, program)
        .args(["pull", &image])
        .output()
        .unwrap();
    assert!(!untrusted.status.success());
    run(storage(&place, program).args(["pull", "--cert-dir", &certificates, &image]));
    let pushed = format!("{}/pushed-by-{program}:1", place.host);
    let to = format!("docker://{pushed}");
    run(storage(&place, program).args(["push", "--cert-dir", &certificates, &image, &to]));
    let config = |manifest: serde_json::Value| manifest["config"]["digest"].clone();
    let there = place.in_registry(&format!("pushed-by-{program}"), "1");
    assert_eq!(config(there), config(place.in_registry("app", "1")));
}

#[test]
fn podman_pulls_and_pushes() {
    pulls_and_pushes("podman");
}

#[test]
fn buildah_pulls_and_pushes() {
    pulls_and_pushes("buildah");
}

/// A containerd of the test's own.
fn containerd(place: &Place) -> (Process, String) {
    let (root, state, socket) = (place.path("root"), place.path("state"), place.path("sock"));
    let config = format!(
        "version = 2\nroot = {root:?}\nstate = {state:?}\n\
         disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.internal.v1.tracing\"]\n\
         [grpc]\n  address = {socket:?}\n[ttrpc]\n  address = \"{socket}.ttrpc\"\n"
    );
    let path = place.path("containerd.toml");
    std::fs::write(&path, config).unwrap();
    let mut program = command("containerd");
    program.args(["-c", &path]);
    let mut process = Process::start(program, Path::new(&place.path("containerd.log")));
    process.wait_for("containerd successfully ");
    (process, socket)
}

#[test]
fn containerd_pulls_pushes_and_fetches_the_converted_image() {
    if !have(&["containerd", "ctr"]) || !support::is_root("containerd") {
        return;
    }
    let Some(place) = Place::new() else { return };
    let hosts = place.path(&format!("hosts/{}", place.host));
    std::fs::create_dir_all(&hosts).unwrap();
    let ca = place.path("ca/ca.crt");
    std::fs::write(
        format!("{hosts}/hosts.toml"),
        format!(
            "server = \"https://{0}\"\n[host.\"https://{0}\"]\n  \
             capabilities = [\"pull\", \"resolve\", \"push\"]\n  ca = {ca:?}\n",
            place.host
        ),
    )
    .unwrap();
    let (_process, socket) = containerd(&place);
    let ctr = |arguments: &[&str]| run(command("ctr").args(["-a", &socket]).args(arguments));
    let directory = place.path("hosts");
    let image = format!("{}/app:1", place.host);
    let of_hosts = ["--hosts-dir", &directory];
    ctr(&[
        &["images", "pull", "--snapshotter", "native"],
        &of_hosts[..],
        &[&image],
    ]
    .concat());
    let converted = format!("{image}_obd");
    ctr(&[&["content", "fetch"], &of_hosts[..], &[&converted]].concat());
    let content = ctr(&["content", "ls", "-q"]);
    let content = String::from_utf8(content.stdout).unwrap();
    let layers = place.in_registry("app", "1");
    for digest in Place::layers(&layers) {
        assert!(content.contains(digest), "{digest} in {content}");
    }
    // The converted layer is there as well, and it is not the source's.
    let access = place.proxy.log();
    assert!(access.contains("/v2/app/manifests/1_obd"), "{access}");
    let pushed = format!("{}/pushed-by-ctr:1", place.host);
    ctr(&["images", "tag", &image, &pushed]);
    ctr(&[&["images", "push"], &of_hosts[..], &[&pushed]].concat());
    assert_eq!(place.in_registry("pushed-by-ctr", "1"), layers);
}

/// Pushes and pulls with skopeo through a proxy before `registry`, with and without a login.
#[track_caller]
fn logs_in(registry: &DockerRegistry, login: &str) {
    let scratch = tempfile::tempdir().unwrap();
    let layout = Layout::create(&scratch.path().join("layout"));
    let tar = Tar::new().file("srv/app", "an application").finish();
    let image = Image::gzip(&[tar]).seal();
    layout.add("1", &image);
    let data = scratch.path().join("data");
    let upstream = format!("http://{}", registry.host);
    let proxy = Proxy::start(&upstream, &data, &["--platform", "linux/amd64"]);
    let copy = |from: &str, to: &str, more: &[&str]| {
        let mut skopeo = command("skopeo");
        skopeo.args(["--insecure-policy", "copy", "--preserve-digests"]);
        skopeo.args(["--src-tls-verify=false", "--dest-tls-verify=false"]);
        skopeo.args(more).args([from, to]);
        skopeo
    };
    let local = |tag: &str| format!("oci:{}:{tag}", layout.path().display());
    let (plain, converted) = (
        proxy.image("team/app", "1"),
        proxy.image("team/app", "1_obd"),
    );
    let refused = copy(&local("1"), &plain, &[]).output().unwrap();
    assert!(!refused.status.success());
    run(&mut copy(&local("1"), &plain, &["--dest-creds", login]));
    run(&mut copy(&plain, &local("back"), &["--src-creds", login]));
    assert_eq!(layout.manifest("back"), layout.manifest("1"));
    run(&mut copy(
        &converted,
        &local("obd"),
        &["--src-creds", login],
    ));
    // What is cached by now is no permission.
    for image in [&plain, &converted] {
        let refused = copy(image, &local("none"), &[]).output().unwrap();
        assert!(!refused.status.success(), "{image}");
    }
    let log = proxy.log();
    let password = login.split_once(':').unwrap().1;
    assert!(!log.contains(password), "{log}");
}

#[test]
fn a_client_logs_in_with_a_password_at_the_registry_behind() {
    if !have(&["skopeo", "htpasswd"]) {
        return;
    }
    let registry = DockerRegistry::start_with_users(&[("ann", "very-secret")]);
    let Some(registry) = registry else { return };
    logs_in(&registry, "ann:very-secret");
}

#[test]
fn a_client_logs_in_at_the_registrys_token_server() {
    if !have(&["skopeo", "openssl"]) {
        return;
    }
    let tokens = Tokens::new(vec![("ann", "very-secret", "team/", &["pull", "push"][..])]);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let realm = runtime.block_on(tokens.serve());
    let address = format!("http://{}/token", realm.host());
    let Some(registry) = DockerRegistry::start_with(|_| tokens.settings(&address)) else {
        return;
    };
    logs_in(&registry, "ann:very-secret");
}
