//! The script of the `DaemonSet`: it writes `hosts.toml` files, and takes away what it wrote and nothing else.

use std::collections::BTreeMap;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::helm::{documents, render, tools};
use super::made_up::Node;
use super::repository;
use super::support::process::Process;
use super::support::until::until;
use super::support::{command, find, skip};

const DOCKER: &str = "server = \"https://registry-1.docker.io\"\n\n[host.\"https://proxy.example.com:8480\"]\n  capabilities = [\"pull\", \"resolve\"]";
const HEADER: &str =
    "[host.\"https://proxy.example.com:8480\".header]\n  Overlaybd-Format = \"auto\"\n";

/// A node's directory of `hosts.toml` files, and what a pod is given.
struct Place {
    directory: tempfile::TempDir,
    shell: Vec<PathBuf>,
}

/// What is below a directory: the content of files, nothing for directories.
type Tree = BTreeMap<PathBuf, Option<Vec<u8>>>;

impl Place {
    fn new(shell: Vec<PathBuf>) -> Self {
        let place = Self {
            directory: tempfile::tempdir().unwrap(),
            shell,
        };
        for directory in ["certs.d", "wanted"] {
            std::fs::create_dir(place.path(directory)).unwrap();
        }
        place
    }

    fn path(&self, path: &str) -> PathBuf {
        self.directory.path().join(path)
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.path(path)).unwrap()
    }

    /// What containerd has.
    fn tree(&self) -> Tree {
        tree(&self.path("certs.d"))
    }

    /// Starts it, and waits until it has looked once.
    #[track_caller]
    fn start(&self, owner: &str) -> Process {
        let certs = self.path("certs.d");
        let mut process = start(
            &self.shell,
            &self.path("wanted"),
            &certs,
            owner,
            &self.path("socket"),
        );
        // The last that it does in a look is to write here.
        until("a look", || {
            let done = certs.join("last/hosts.toml").exists();
            (done || process.output().contains("last/hosts.toml")).then_some(())
        });
        settle(&mut process);
        process
    }
}

/// Waits until it sleeps.
fn settle(process: &mut Process) {
    let children = format!("/proc/{0}/task/{0}/children", process.pid());
    until("it sleeps", || {
        let children = std::fs::read_to_string(&children).unwrap();
        let names = children.split_whitespace().map(|child| {
            let line = std::fs::read(format!("/proc/{child}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).into_owned()
        });
        names
            .into_iter()
            .any(|line| line.contains("sleep"))
            .then_some(())
    });
}

fn start(shell: &[PathBuf], wanted: &Path, certs: &Path, owner: &str, socket: &Path) -> Process {
    let mut command = Command::new(&shell[0]);
    command
        .args(&shell[1..])
        .arg(repository("examples/kubernetes/chart/files/hosts.sh"))
        .env("WANTED", wanted)
        .env("CERTS", certs)
        .env("OWNER", owner)
        .env("SOCKET", socket)
        .env("INTERVAL", "1");
    let log = wanted.with_extension(format!("log-{}", owner.replace('/', "-")));
    Process::start(command, &log)
}

fn tree(directory: &Path) -> Tree {
    let mut found = Tree::new();
    let mut open = vec![directory.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                found.insert(path.clone(), None);
                open.push(path);
            } else {
                let content = std::fs::read(&path).unwrap();
                found.insert(path, Some(content));
            }
        }
    }
    found
}

/// The shells that images have: busybox's and Debian's.
fn shells() -> Vec<Vec<PathBuf>> {
    let mut shells = vec![vec![find("sh").unwrap()]];
    match find("busybox") {
        Some(busybox) => shells.push(vec![busybox, "sh".into()]),
        None => skip("busybox is not installed (tests/setup.sh does)"),
    }
    shells
}

/// Three registries, of which the last is written last.
fn wanted(shell: Vec<PathBuf>) -> Place {
    let place = Place::new(shell);
    place.write("wanted/docker.io.toml", DOCKER);
    place.write("wanted/ghcr.io.toml", "server = \"https://ghcr.io\"\n");
    place.write("wanted/last.toml", "server = \"https://last\"\n");
    place.write("wanted/ca.crt", "an authority\n");
    place
}

#[test]
fn what_was_written_is_taken_away_and_nothing_else() {
    for shell in shells() {
        let place = wanted(shell);
        place.write(
            "certs.d/quay.io/hosts.toml",
            "server = \"https://quay.io\"\n",
        );
        place.write("certs.d/proxy-ca.crt", "another authority\n");
        std::fs::create_dir(place.path("certs.d/ghcr.io")).unwrap();
        let before = place.tree();
        let mut process = place.start("n/a");
        let text = place.read("certs.d/docker.io/hosts.toml");
        let (first, rest) = text.split_once('\n').unwrap();
        assert!(
            first.starts_with("# overlaybd-proxy n/a docker.io "),
            "{first}"
        );
        assert_eq!(rest.trim_end(), DOCKER);
        assert!(
            place
                .read("certs.d/overlaybd-proxy-ca.crt")
                .ends_with("\nan authority\n")
        );
        assert_eq!(place.tree().len(), before.len() + 6);
        assert!(process.stop().success());
        assert_eq!(place.tree(), before);
    }
}

#[test]
fn what_somebody_else_wrote_stays_as_it_is() {
    for shell in shells() {
        let place = wanted(shell);
        place.write(
            "certs.d/docker.io/hosts.toml",
            "server = \"https://mine\"\n",
        );
        // Certificates count for containerd only where no hosts.toml is.
        place.write("certs.d/ghcr.io/ca.crt", "a certificate\n");
        let before = place.tree();
        let mut process = place.start("n/a");
        let said = process.output();
        assert!(
            said.contains("docker.io/hosts.toml was not written here"),
            "{said}"
        );
        assert!(said.contains("ghcr.io has certificates"), "{said}");
        let mut meanwhile = place.tree();
        meanwhile.retain(|path, _| {
            let path = path.display().to_string();
            !path.contains("/last") && !path.ends_with("overlaybd-proxy-ca.crt")
        });
        assert_eq!(meanwhile, before);
        assert!(process.stop().success());
        assert_eq!(place.tree(), before);
        // It is said once, not at each look.
        assert_eq!(said.matches("was not written here").count(), 1);
    }
}

#[test]
fn what_was_changed_copied_or_added_since_stays() {
    for shell in shells() {
        let place = wanted(shell);
        let mut process = place.start("n/a");
        let written = place.read("certs.d/docker.io/hosts.toml");
        place.write(
            "certs.d/docker.io/hosts.toml",
            &format!("{written}# mine\n"),
        );
        place.write("certs.d/elsewhere/hosts.toml", &written);
        place.write("certs.d/last/notes.txt", "mine\n");
        assert!(process.stop().success());
        let tree = place.tree();
        let names: Vec<String> = tree
            .iter()
            .filter(|(_, content)| content.is_some())
            .map(|(path, _)| {
                path.strip_prefix(place.path("certs.d"))
                    .unwrap()
                    .display()
                    .to_string()
            })
            .collect();
        let wanted = [
            "docker.io/hosts.toml",
            "elsewhere/hosts.toml",
            "last/notes.txt",
        ];
        assert_eq!(names, wanted);
        assert!(
            place
                .read("certs.d/docker.io/hosts.toml")
                .ends_with("# mine\n")
        );
    }
}

#[test]
fn the_next_one_goes_on_where_one_was_killed() {
    for shell in shells() {
        let place = wanted(shell);
        place.start("n/a").kill();
        let left = place.tree();
        assert_eq!(left.len(), 7);
        // Another release's are not this one's.
        let mut other = place.start("n/b");
        assert!(other.stop().success());
        assert_eq!(place.tree(), left);
        // What is wanted no more goes, what is wanted otherwise is written anew.
        std::fs::remove_file(place.path("wanted/ghcr.io.toml")).unwrap();
        std::fs::remove_file(place.path("wanted/ca.crt")).unwrap();
        place.write("wanted/docker.io.toml", "server = \"https://other\"\n");
        let mut process = place.start("n/a");
        assert!(
            place
                .read("certs.d/docker.io/hosts.toml")
                .contains("https://other")
        );
        assert_eq!(place.tree().len(), 4);
        assert!(process.stop().success());
        assert_eq!(place.tree(), Tree::new());
    }
}

#[test]
fn converted_images_are_asked_for_only_where_the_snapshotter_is() {
    for shell in shells() {
        let place = wanted(shell);
        place.write("wanted/header.toml", HEADER);
        let mut process = place.start("n/a");
        let file = "certs.d/docker.io/hosts.toml";
        assert!(!place.read(file).contains("Overlaybd-Format"));
        assert!(process.output().contains("no snapshotter listens"));
        let socket = UnixListener::bind(place.path("socket")).unwrap();
        until("the header", || {
            place.read(file).contains("Overlaybd-Format").then_some(())
        });
        drop(socket);
        std::fs::remove_file(place.path("socket")).unwrap();
        until("no header", || {
            (!place.read(file).contains("Overlaybd-Format")).then_some(())
        });
        assert!(process.stop().success());
        assert_eq!(place.tree(), Tree::new());
    }
}

#[test]
fn a_node_is_right_with_what_is_written() {
    if tools().is_none() {
        return;
    }
    let Some(node) = Node::right() else { return };
    node.remove("etc/containerd/certs.d/docker.io/hosts.toml");
    std::fs::remove_dir(node.path("etc/containerd/certs.d/docker.io")).unwrap();
    let before = tree(&node.path("etc/containerd"));
    let url = "https://proxy.example.com:8480";
    let proxy = format!("node.proxy={url}");
    let more = [
        "--set",
        &proxy,
        "--set",
        "node.registries[1].host=registry.example.com:5000",
    ];
    let manifests = documents(&render(Some("everything"), &more));
    let is_it = |it: &&serde_json::Value| it["data"]["hosts.sh"].is_string();
    let data = manifests.iter().find(is_it).unwrap()["data"]
        .as_object()
        .unwrap();
    for (name, text) in data {
        node.write(&format!("wanted/{name}"), text.as_str().unwrap());
    }
    let authority = std::fs::read(node.path("certs/ca.crt")).unwrap();
    node.write("wanted/ca.crt", authority);
    // The script that a pod runs is the one that is tried here.
    let script = std::fs::read_to_string(node.path("wanted/hosts.sh")).unwrap();
    let file = super::text("examples/kubernetes/chart/files/hosts.sh");
    assert_eq!(script.trim_end(), file.trim_end());
    let certs = node.path("etc/containerd/certs.d");
    let socket = node.path("run/overlaybd-snapshotter/overlaybd.sock");
    let shell = [find("sh").unwrap()];
    let mut process = start(&shell, &node.path("wanted"), &certs, "n/a", &socket);
    until("all of them", || {
        certs
            .join("registry.example.com_5000_/hosts.toml")
            .exists()
            .then_some(())
    });
    settle(&mut process);
    let checked = node.check(&["--offline", "--proxy", url]);
    assert_eq!(
        (checked.code, checked.err.as_str()),
        (0, ""),
        "{checked:#?}"
    );
    for registry in ["docker.io", "registry.example.com_5000_"] {
        let file = format!("certs.d/{registry}/hosts.toml");
        checked.has_one("ok", &[&file, "leads to https://proxy.example.com:8480"]);
    }
    assert!(process.stop().success());
    assert_eq!(tree(&node.path("etc/containerd")), before);
}

#[test]
fn shellcheck_finds_nothing() {
    let Some(shellcheck) = find("shellcheck") else {
        eprintln!("SKIPPED: shellcheck is not installed");
        return;
    };
    for script in [
        "examples/kubernetes/chart/files/hosts.sh",
        "examples/kubernetes/manifests/make.sh",
        "examples/container/rootfs.sh",
        "tests/operators/install/boot.sh",
        "tests/operators/install/tools.sh",
    ] {
        let output = command(shellcheck.to_str().unwrap())
            .arg(repository(script))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{said}");
    }
}
