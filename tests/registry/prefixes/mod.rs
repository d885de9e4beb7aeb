//! Upstreams that the path of a request chooses, each with its own kind of authentication, and
//! clients that bring their own credentials.

mod clients;
mod docker;
mod tokens;

use crate::{registry_support, support};
use std::path::Path;
use std::process::Command;

use registry_support::DockerRegistry;
use registry_support::scripted::Served;
use registry_support::tokens::Tokens;
use support::image::{Image, Sealed};
use support::layout::Layout;
use support::proxy::Proxy;
use support::tar::Tar;
use support::{command, have, run};
use tokio::runtime::Runtime;

/// Who may push and pull at `password/`, and at `token/`.
const ANN: &str = "ann:very-secret";
const BOB: &str = "bob:quite-secret";

/// Repositories that only their owner may read.
const PRIVATE: [(&str, &str); 2] = [("password/team/app", ANN), ("token/team/app", BOB)];

/// Three registries behind one proxy: with passwords, with a token server, open.
struct Place {
    proxy: Proxy,
    image: Sealed,
    layout: Layout,
    tokens: std::sync::Arc<Tokens>,
    registries: [DockerRegistry; 3],
    _realm: Served,
    _runtime: Runtime,
    // Last, so that the layers in it are looked at when the proxy goes.
    directory: tempfile::TempDir,
}

impl Place {
    /// The registries, empty.
    fn new() -> Option<Self> {
        if !have(&["openssl", "htpasswd", "skopeo"]) {
            return None;
        }
        let tokens = Tokens::new(vec![
            ("bob", "quite-secret", "team/", &["pull", "push"][..]),
            ("", "", "public/", &["pull"][..]),
        ]);
        let runtime = Runtime::new().unwrap();
        let realm = runtime.block_on(tokens.serve());
        let address = format!("http://{}/token", realm.host());
        let registries = [
            DockerRegistry::start_with_users(&[("ann", "very-secret")])?,
            DockerRegistry::start_with(|_| tokens.settings(&address))?,
            DockerRegistry::start()?,
        ];
        let directory = tempfile::tempdir().unwrap();
        let [password, token, open] = &registries;
        let upstream = |registry: &DockerRegistry, prefix| {
            format!("http://{},path-prefix={prefix}", registry.host)
        };
        let (token, open) = (upstream(token, "token"), upstream(open, "deep/open"));
        let options = ["--upstream", &token, "--upstream", &open];
        let proxy = Proxy::start(
            &upstream(password, "password"),
            &directory.path().join("data"),
            &[&options[..], &["--platform", "linux/amd64"]].concat(),
        );
        let layout = Layout::create(&directory.path().join("layout"));
        let tar = Tar::new().file("srv/app", "an application").finish();
        let image = Image::gzip(&[tar]).seal();
        layout.add("1", &image);
        Some(Self {
            proxy,
            image,
            layout,
            tokens,
            registries,
            _realm: realm,
            _runtime: runtime,
            directory,
        })
    }

    /// The same, with the image in the private repositories and in an open one.
    fn filled() -> Option<Self> {
        let place = Self::new()?;
        for (repo, login) in PRIVATE {
            run(&mut place.copy("1", &place.image(repo, "1"), &["--dest-creds", login]));
        }
        run(&mut place.copy("1", &place.image("deep/open/app", "1"), &[]));
        Some(place)
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    fn image(&self, repo: &str, tag: &str) -> String {
        self.proxy.image(repo, tag)
    }

    /// skopeo, from one place to another; a place without `:` is a tag of the layout.
    fn copy(&self, from: &str, to: &str, more: &[&str]) -> Command {
        let full = |place: &str| {
            if place.contains(':') {
                place.to_owned()
            } else {
                format!("oci:{}:{place}", self.layout.path().display())
            }
        };
        let mut skopeo = command("skopeo");
        skopeo.args(["--insecure-policy", "copy", "--preserve-digests"]);
        skopeo.args(["--src-tls-verify=false", "--dest-tls-verify=false"]);
        skopeo.args(more).args([full(from), full(to)]);
        skopeo
    }

    /// Nothing that only one side may know is in the log.
    #[track_caller]
    fn assert_nothing_told(&self) {
        let log = self.proxy.log();
        for secret in [
            "very-secret",
            "quite-secret",
            "obd1.",
            "eyJ",
            "dmVyeS1zZWNyZX",
        ] {
            assert!(!log.contains(secret), "{secret} in {log}");
        }
    }
}

/// A command that must fail; what it said.
#[track_caller]
fn fails(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(!output.status.success(), "{command:?} {output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Where podman and buildah keep their images.
fn storage(directory: &Path) -> [String; 6] {
    let path = |name: &str| directory.join(name).display().to_string();
    let (root, runroot) = (path("storage"), path("storage-run"));
    [
        "--root",
        &root,
        "--runroot",
        &runroot,
        "--storage-driver",
        "vfs",
    ]
    .map(ToOwned::to_owned)
}
