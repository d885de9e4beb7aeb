//! `node check` on files: what is right, and each thing that can be wrong.

use super::made_up::Node;
use super::support;

const PROXY: [&str; 3] = ["--offline", "--proxy", "https://proxy.example.com:8480"];
const CONTAINERD: &str = "etc/containerd/config.toml";
const HOSTS: &str = "etc/containerd/certs.d/docker.io/hosts.toml";
const SNAPSHOTTER: &str = "etc/overlaybd-snapshotter/config.json";
const OVERLAYBD: &str = "etc/overlaybd/overlaybd.json";
const CRED: &str = "opt/overlaybd/cred.json";

#[test]
fn a_node_that_is_set_up_right_has_nothing_wrong_and_no_warning() {
    let Some(node) = Node::right() else { return };
    let checked = node.check(&PROXY);
    assert_eq!(
        (checked.code, checked.err.as_str()),
        (0, ""),
        "{checked:#?}"
    );
    assert_eq!(checked.of("warning"), [""; 0], "{checked:#?}");
    for part in [
        "proxy plugin \"overlaybd\"",
        "leads to https://proxy.example.com:8480/v2",
        "images of proxy.example.com:8480 are read by https",
        "credentials for 3 places",
        "target_core_user is there",
        "configfs is mounted",
        "overlaybd-tcmu runs",
        "the snapshotter answers",
    ] {
        checked.has_one("ok", &[part]);
    }
}

type Change = (&'static str, &'static str, &'static str);

/// A change of a file, at which level that is, and what is said of it.
const CHANGES: &[(Change, &str, &[&str])] = &[
    (
        (CONTAINERD, "type = \"snapshot\"", "type = \"content\""),
        "wrong",
        &["has type", "type = \"snapshot\""],
    ),
    (
        (
            CONTAINERD,
            "[proxy_plugins.overlaybd]",
            "[proxy_plugins.other]",
        ),
        "warning",
        &["CRI", "\"other\""],
    ),
    (
        (CONTAINERD, "disable_snapshot_annotations = false", ""),
        "wrong",
        &[
            "downloaded whole",
            "disable_snapshot_annotations = false",
            "[plugins.\"io.containerd.grpc.v1.cri\".containerd]",
        ],
    ),
    (
        (CONTAINERD, "  snapshotter = \"overlaybd\"", ""),
        "warning",
        &["CRI", "snapshotter = \"overlaybd\""],
    ),
    (
        (CONTAINERD, "config_path = \"/etc/containerd/certs.d\"", ""),
        "warning",
        &[
            "config_path is not set",
            "config_path = \"/etc/containerd/certs.d\"",
        ],
    ),
    (
        (CONTAINERD, "version = 2", "version = 3"),
        "warning",
        &["\"io.containerd.grpc.v1.cri\" is not read in files of version 3"],
    ),
    (
        (
            CONTAINERD,
            "version = 2",
            "version = 2\ndisabled_plugins = [\"cri\"]",
        ),
        "warning",
        &["disabled"],
    ),
    (
        (CONTAINERD, "runtimes.runc]", "other]"),
        "warning",
        &["containerd 2", "version = 3"],
    ),
    (
        (CONTAINERD, "version = 2", "version = = 2"),
        "wrong",
        &["config.toml", "does not start"],
    ),
    (
        (HOSTS, "[\"pull\", \"resolve\"]", "[\"pull\"]"),
        "wrong",
        &[
            "what tags stand for",
            "capabilities = [\"pull\", \"resolve\"]",
        ],
    ),
    (
        (
            HOSTS,
            "Overlaybd-Format = \"auto\"",
            "Overlaybd-Format = \"atuo\"",
        ),
        "wrong",
        &["atuo", "auto, native, turbo, original"],
    ),
    (
        (HOSTS, "Overlaybd-Format = \"auto\"", ""),
        "warning",
        &["plain tags", "Overlaybd-Format = \"auto\""],
    ),
    (
        (HOSTS, "proxy-ca.crt", "none.crt"),
        "wrong",
        &["none.crt", "no such file"],
    ),
    (
        (HOSTS, "dial_timeout", "skip_verify = true\n  dial_timeout"),
        "warning",
        &["skip_verify"],
    ),
    (
        (HOSTS, "capabilities", "sever = 1\n  capabilities"),
        "wrong",
        &["sever"],
    ),
    (
        (
            HOSTS,
            "https://proxy.example.com:8480\"]",
            "https://proxy.example.com:8480/x\"]\n  override_path = true",
        ),
        "wrong",
        &["/overlaybd/v2"],
    ),
    (
        (
            HOSTS,
            "https://proxy.example.com:8480",
            "https://other.example.com",
        ),
        "warning",
        &[
            "no hosts.toml leads to the proxy",
            "https://proxy.example.com:8480",
        ],
    ),
    (
        (
            SNAPSHOTTER,
            "/run/overlaybd-snapshotter/overlaybd.sock",
            "/run/other.sock",
        ),
        "wrong",
        &["/run/other.sock", "containerd asks"],
    ),
    (
        (SNAPSHOTTER, "\"overlayfs\"", "\"overlay\""),
        "wrong",
        &["rwMode"],
    ),
    (
        (
            SNAPSHOTTER,
            "\"mirrorRegistry\": []",
            "\"mirrorRegistry\": [{\"host\": \"proxy.example.com:8480\", \"insecure\": true}]",
        ),
        "wrong",
        &["http://proxy.example.com:8480"],
    ),
    (
        (
            SNAPSHOTTER,
            "\"mirrorRegistry\": []",
            "\"mirrorRegistry\": [{\"host\": \"docker.io\"}]",
        ),
        "wrong",
        &["registry-1.docker.io"],
    ),
    (
        (SNAPSHOTTER, "\"rwMode\"", "\"rwMod\""),
        "warning",
        &["\"rwMod\" is no setting"],
    ),
    (
        (
            SNAPSHOTTER,
            "\"verbose\": \"info\",",
            "\"verbose\": \"info\"",
        ),
        "wrong",
        &["config.json", "line"],
    ),
    (
        (OVERLAYBD, "\"timeout\": 1", "\"timeout\": \"1\""),
        "wrong",
        &["credentialConfig.timeout", "a number"],
    ),
    (
        (
            OVERLAYBD,
            "\"file\",\n    \"path\"",
            "\"files\",\n    \"path\"",
        ),
        "wrong",
        &["\"files\"", "uds"],
    ),
    (
        (
            OVERLAYBD,
            "\"enable\": false,\n    \"address\": \"http://192.0.2.10",
            "\"enable\": true,\n    \"address\": \"http://proxy.example.com",
        ),
        "wrong",
        &["resolves none", "http://192.0.2.10:8480/p2p"],
    ),
    (
        (
            OVERLAYBD,
            "\"enable\": false,\n    \"address\": \"http://192.0.2.10:8480/p2p",
            "\"enable\": true,\n    \"address\": \"http://192.0.2.10:8480/p2p/",
        ),
        "warning",
        &["below /p2p"],
    ),
    (
        (
            OVERLAYBD,
            "\"registryFsVersion\": \"v2\"",
            "\"registryFsVersion\": \"v1\"",
        ),
        "warning",
        &["registryFsVersion"],
    ),
    (
        (
            OVERLAYBD,
            "\"cacheType\": \"file\"",
            "\"cacheType\": \"disk\"",
        ),
        "wrong",
        &["\"disk\""],
    ),
    (
        (
            OVERLAYBD,
            "\"ioEngine\": 0",
            "\"certConfig\": {\"certFile\": \"/certs/client.crt\", \"keyFile\": \"/certs/server.key\"}",
        ),
        "wrong",
        &["certConfig", "does not belong to its key"],
    ),
    (
        (
            CRED,
            "\"registry-1.docker.io\"",
            "\"https://index.docker.io/v1/\"",
        ),
        "wrong",
        &["letter by letter", "name it \"registry-1.docker.io\""],
    ),
    (
        (CRED, "\"registry-1.docker.io\"", "\"docker.io\""),
        "wrong",
        &["name it \"registry-1.docker.io\""],
    ),
    (
        (
            CRED,
            "\"auth\": \"bm9kZTphIHBhc3N3b3Jk\"",
            "\"identitytoken\": \"x\"",
        ),
        "wrong",
        &["a token", "overlaybd-proxy credentials"],
    ),
    (
        (CRED, "\"auths\"", "\"auth\""),
        "wrong",
        &["\"auths\" is missing"],
    ),
    (
        ("proc/modules", "target_core_user", "x"),
        "wrong",
        &[
            "target_core_user is not loaded",
            "modprobe target_core_user",
        ],
    ),
    (
        ("proc/modules", "tcm_loop", "x"),
        "warning",
        &["tcm_loop is not loaded"],
    ),
    (
        ("proc/mounts", "configfs", "x"),
        "wrong",
        &["configfs is not mounted", "mount -t configfs"],
    ),
    (
        ("proc/42/comm", "overlaybd-tcmu", "x"),
        "wrong",
        &["overlaybd-tcmu does not run"],
    ),
];

#[test]
fn each_mistake_is_said_with_what_to_do() {
    let Some(right) = Node::right() else { return };
    let before = right.check(&PROXY);
    for ((file, from, to), level, parts) in CHANGES {
        let text = std::fs::read_to_string(right.path(file)).unwrap();
        assert!(text.contains(from), "{file} has no {from:?}");
        right.write(file, text.replace(from, to));
        let checked = right.check(&PROXY);
        right.write(file, &text);
        checked.has_one(level, parts);
        assert_eq!(
            checked.code,
            i32::from(*level == "wrong"),
            "{file}: {to}: {checked:#?}"
        );
    }
    assert_eq!(right.check(&PROXY).points, before.points);
}

#[test]
fn files_that_are_missing_are_named() {
    let Some(node) = Node::right() else { return };
    node.remove(CRED);
    node.check(&PROXY)
        .has_one("warning", &["/opt/overlaybd/cred.json", "no such file"]);
    for file in [SNAPSHOTTER, OVERLAYBD, CONTAINERD] {
        node.remove(file);
        node.check(&PROXY).has_one("wrong", &[file, "no such file"]);
    }
    node.remove("etc/ssl/certs/ca-certificates.crt");
    node.check(&PROXY)
        .has_one("wrong", &["ca-bundle.crt", "install ca-certificates"]);
}

#[test]
fn a_socket_that_nobody_or_another_server_listens_on_is_wrong() {
    let Some(node) = Node::right() else { return };
    let socket = "run/overlaybd-snapshotter/overlaybd.sock";
    node.remove(socket);
    node.check(&PROXY)
        .has_one("wrong", &["overlaybd.sock", "cannot be reached"]);
    node.listen(socket, b"HTTP/1.1 400 Bad Request\r\n\r\n");
    node.check(&PROXY)
        .has_one("wrong", &["overlaybd.sock", "speaks no gRPC"]);
}

#[test]
fn files_of_others_are_bounded_and_links_stay_within_the_root() {
    let Some(node) = Node::right() else { return };
    let cred = std::fs::read(node.path(CRED)).unwrap();
    // A link to an absolute path means one within the root.
    node.write("elsewhere/cred.json", &cred);
    node.remove(CRED);
    std::os::unix::fs::symlink("/elsewhere/cred.json", node.path(CRED)).unwrap();
    let checked = node.check(&PROXY);
    checked.has_one("ok", &["credentials for 3 places"]);
    checked.has_one("warning", &["others than its owner"]);
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("cred.json"), &cred).unwrap();
    node.remove(CRED);
    let up = "../".repeat(40) + outside.path().join("cred.json").to_str().unwrap();
    std::os::unix::fs::symlink(up, node.path(CRED)).unwrap();
    node.check(&PROXY)
        .has_one("warning", &["cred.json", "no such file"]);
    node.write(HOSTS, vec![b'#'; (1 << 20) + 1]);
    node.check(&PROXY)
        .has_one("wrong", &["hosts.toml", "more than a MiB"]);
    node.remove(HOSTS);
    nix::unistd::mkfifo(&node.path(HOSTS), nix::sys::stat::Mode::S_IRWXU).unwrap();
    node.check(&PROXY)
        .has_one("wrong", &["hosts.toml", "no regular file"]);
    node.write(
        CONTAINERD,
        "imports = [\"/etc/containerd/config.toml\", \"other.toml\"]",
    );
    node.write("etc/containerd/other.toml", "imports = [\"config.toml\"]");
    node.check(&PROXY)
        .has_one("wrong", &["no proxy plugin is the overlaybd snapshotter"]);
    node.write(SNAPSHOTTER, "{\"address\": \"/run/\\u001b[31m\"}");
    let odd = node.check(&PROXY).of("wrong");
    assert!(odd.iter().any(|text| text.contains("/run/[31m")), "{odd:?}");
    assert!(odd.iter().all(|text| !text.contains('\u{1b}')), "{odd:?}");
}

#[test]
fn settings_that_are_imported_count() {
    let Some(node) = Node::right() else { return };
    let all = std::fs::read_to_string(node.path(CONTAINERD)).unwrap();
    node.write("etc/containerd/conf.d/overlaybd.toml", all);
    node.write(
        CONTAINERD,
        "version = 2\nimports = [\"/etc/containerd/conf.d/*.toml\"]\n",
    );
    let checked = node.check(&PROXY);
    assert_eq!(checked.code, 0, "{checked:#?}");
    assert_eq!(checked.of("warning"), [""; 0], "{checked:#?}");
}

#[test]
fn people_are_told_the_lines_to_add() {
    let Some(node) = Node::right() else { return };
    node.replace(CONTAINERD, "disable_snapshot_annotations = false", "");
    let output = support::proxy::program()
        .args(["node", "check", "--root"])
        .arg(node.directory.path())
        .args(PROXY)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    for part in [
        "\n  WRONG    /etc/containerd/config.toml: ",
        "\n           >   disable_snapshot_annotations = false\n",
        "\n1 point wrong, 0 warnings\n",
    ] {
        assert!(text.contains(part), "{part:?} in {text}");
    }
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_line_that_cannot_be_read_is_named_and_not_shown() {
    let Some(node) = Node::right() else { return };
    let text = std::fs::read_to_string(node.path(CONTAINERD)).unwrap();
    let number = text.lines().count() + 1;
    node.write(CONTAINERD, format!("{text}password = s3cret\"\n"));
    let checked = node.check(&PROXY);
    checked.has_one("wrong", &[&format!("config.toml, line {number}: ")]);
    assert!(!format!("{checked:?}").contains("s3cret"), "{checked:#?}");
}

/// In a pod `/proc/mounts` is the pod's.
#[test]
fn what_is_mounted_is_read_of_the_first_process() {
    let Some(node) = Node::right() else { return };
    let mounts = std::fs::read_to_string(node.path("proc/mounts")).unwrap();
    node.write("proc/1/mounts", mounts);
    node.write(
        "proc/mounts",
        "configfs /host/sys/kernel/config configfs rw 0 0\n",
    );
    let checked = node.check(&PROXY);
    assert!(
        !format!("{checked:?}").contains("configfs is not mounted"),
        "{checked:#?}"
    );
}
