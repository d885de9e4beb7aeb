//! The container image: built from the Dockerfile as far as that goes without a network, and run.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::repository;
use super::support::image::Image;
use super::support::layout::Layout;
use super::support::process::Process;
use super::support::registry::Registry;
use super::support::tar::Tar;
use super::support::{command, have, http, is_root, run};

/// The image, in a store of its own.
struct Built {
    directory: tempfile::TempDir,
    container: String,
    root: PathBuf,
}

impl Built {
    /// From the tests' own binary. The stage that compiles needs the image of a Rust toolchain.
    fn new() -> Option<Self> {
        if !have(&["buildah", "bwrap", "ldd"]) || !is_root("buildah's chroot") {
            return None;
        }
        eprintln!("SKIPPED: the stages of the Dockerfile that begin with images of a registry");
        let mut built = Self {
            directory: tempfile::tempdir().unwrap(),
            container: String::new(),
            root: PathBuf::new(),
        };
        let context = built.directory.path().join("context");
        run(command("sh")
            .arg(repository("examples/container/rootfs.sh"))
            .arg(env!("CARGO_BIN_EXE_overlaybd-proxy"))
            .arg(context.join("rootfs")));
        run(built
            .buildah(&["build", "--isolation", "chroot", "--target", "prebuilt"])
            .args(["--tag", "localhost/it", "--file"])
            .arg(repository("Dockerfile"))
            .arg(context));
        let line = |command: &mut Command| {
            let output = run(command);
            String::from_utf8(output.stdout).unwrap().trim().to_owned()
        };
        built.container = line(&mut built.buildah(&["from", "localhost/it"]));
        built.root = line(&mut built.buildah(&["mount", &built.container])).into();
        Some(built)
    }

    fn buildah(&self, arguments: &[&str]) -> Command {
        let mut command = command("buildah");
        let directory = self.directory.path();
        command
            .args(["--storage-driver", "vfs", "--root"])
            .arg(directory.join("store"))
            .arg("--runroot")
            .arg(directory.join("run"))
            .args(arguments);
        command
    }

    /// The program as the chart runs it: not root, nothing writable but /tmp and its data.
    fn program(&self, data: &Path) -> Command {
        let mut command = command("bwrap");
        command
            .args(["--unshare-user", "--uid", "65532", "--gid", "65532"])
            .args([
                "--unshare-pid",
                "--die-with-parent",
                "--new-session",
                "--clearenv",
            ])
            .args(["--setenv", "XDG_DATA_HOME", "/var/lib", "--ro-bind"])
            .arg(&self.root)
            .args([
                "/", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--bind",
            ])
            .arg(data)
            .args(["/var/lib/overlaybd-proxy", "/usr/bin/overlaybd-proxy"]);
        command
    }
}

impl Drop for Built {
    fn drop(&mut self) {
        let _ = self.buildah(&["rm", "--all"]).output();
    }
}

fn image() -> super::support::image::Sealed {
    let layer = Tar::new().file("a", "some text".as_bytes()).finish();
    Image::gzip(&[layer]).seal()
}

#[test]
fn the_image_has_the_program_and_what_it_needs_and_no_more() {
    let Some(built) = Built::new() else { return };
    let output = run(&mut built.buildah(&["inspect", "--type", "image", "localhost/it"]));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let config = &found["OCIv1"]["config"];
    assert_eq!(config["User"], "65532:65532");
    assert_eq!(
        config["Entrypoint"],
        serde_json::json!(["/usr/bin/overlaybd-proxy"])
    );
    assert_eq!(config["Cmd"], serde_json::json!(["serve"]));
    let ports = config["ExposedPorts"].as_object().unwrap();
    assert_eq!(ports.keys().collect::<Vec<_>>(), ["8480/tcp", "8481/tcp"]);

    let mut files = BTreeSet::new();
    let mut open = vec![built.root.clone()];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            let path = entry.path();
            if entry.file_type().unwrap().is_dir() {
                open.push(path);
            } else {
                let path = path.strip_prefix(&built.root).unwrap();
                files.insert(path.display().to_string());
            }
        }
    }
    files.retain(|path| !path.contains(".so"));
    let wanted = [
        "etc/group",
        "etc/nsswitch.conf",
        "etc/overlaybd-proxy/config.toml",
        "etc/passwd",
        "etc/ssl/certs/ca-certificates.crt",
        "usr/bin/overlaybd-proxy",
    ];
    assert_eq!(files, wanted.map(ToOwned::to_owned).into());
}

#[test]
fn the_image_serves_without_root_and_with_a_root_that_is_read_only() {
    let Some(built) = Built::new() else { return };
    let data = built.directory.path().join("data");
    std::fs::create_dir(&data).unwrap();
    // Without a setting it listens beyond its own loopback, and keeps what it has in the volume.
    let output = run(built.program(&data).args(["config", "check"]));
    let shown = String::from_utf8(output.stdout).unwrap();
    for (key, value) in [("listen", "0.0.0.0:8480"), ("admin", "0.0.0.0:8481")] {
        let line = format!("{key} = {value:?}  # /etc/overlaybd-proxy/config.toml");
        assert!(shown.contains(&line), "{shown}");
    }
    assert!(
        shown.contains("data-dir = \"/var/lib/overlaybd-proxy\"  # default"),
        "{shown}"
    );

    let images = data.join("images");
    Layout::create(&images).add("1", &image());
    let mut program = built.program(&data);
    program
        .args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
        .args(["--upstream", "oci:/var/lib/overlaybd-proxy/images"]);
    let mut server = Process::start(program, &built.directory.path().join("log"));
    let url = server.wait_for("listening on ");
    let admin = server.wait_for("admin on ");
    for path in ["/livez", "/readyz"] {
        let answer = http::get(&format!("{admin}{path}"));
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
    }
    let answer = http::get(&format!("{url}/v2/team/app/manifests/1_obd"));
    assert_eq!(answer.status, 200, "{answer:?}\n{}", server.output());
    assert!(
        answer.text().contains("overlaybd/blob-digest"),
        "{answer:?}"
    );
}

#[test]
fn names_are_found_in_the_image() {
    let Some(built) = Built::new() else { return };
    let Some(registry) = Registry::start() else {
        return;
    };
    registry.push("team/app", "1", &image());
    let port = registry.address().rsplit_once(':').unwrap().1.to_owned();
    // By a name, which the libraries of the image have to find in its /etc/hosts.
    let source = format!("http://localhost:{port}/team/app:1");
    let output = built
        .buildah(&["run", "--isolation", "chroot", &built.container, "--"])
        .args([
            "/usr/bin/overlaybd-proxy",
            "convert",
            &source,
            "oci:/tmp/out:1",
        ])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let converted = Layout::open(&built.root.join("tmp/out"));
    assert_eq!(converted.entries().len(), 1);
}
