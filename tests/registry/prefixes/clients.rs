//! Stock clients: each pulls, is refused without its own password, and gets converted images.

use std::path::Path;

use crate::prefixes::{ANN, BOB, PRIVATE, Place, fails, storage};
use crate::support::process::Process;
use crate::support::{command, find, have, is_root, run};

#[test]
fn skopeo_pushes_to_and_pulls_from_every_upstream() {
    let Some(place) = Place::filled() else { return };
    let source = place.layout.manifest("1");
    for (repo, login) in PRIVATE {
        let (plain, converted) = (place.image(repo, "1"), place.image(repo, "1_obd"));
        run(&mut place.copy(&plain, "back", &["--src-creds", login]));
        assert_eq!(place.layout.manifest("back"), source, "{repo}");
        run(&mut place.copy(&converted, "obd", &["--src-creds", login]));
        assert_ne!(place.layout.manifest("obd"), source, "{repo}");
        // What is cached by now is no permission, and neither is the other one's password.
        let other = if login == ANN { BOB } else { ANN };
        for image in [&plain, &converted] {
            for creds in [&[][..], &["--src-creds", other]] {
                let printed = fails(&mut place.copy(image, "none", creds));
                let is_refusal = ["nauthorized", "authentication required", "denied"]
                    .iter()
                    .any(|word| printed.contains(word));
                assert!(is_refusal, "{image} {creds:?}: {printed}");
            }
        }
    }
    for creds in [&[][..], &["--src-creds", ANN]] {
        for tag in ["1", "1_obd"] {
            let image = place.image("deep/open/app", tag);
            run(&mut place.copy(&image, "open", creds));
        }
    }
    // From one upstream to the other, each with its own password.
    let (from, to) = (
        place.image(PRIVATE[0].0, "1"),
        place.image(PRIVATE[1].0, "2"),
    );
    let both = ["--src-creds", ANN, "--dest-creds", BOB];
    run(&mut place.copy(&from, &to, &both));
    let login = ["--src-creds", BOB];
    run(&mut place.copy(&to, "copied", &login));
    assert_eq!(place.layout.manifest("copied"), source);
    let tags = run(command("skopeo")
        .args(["list-tags", "--tls-verify=false", "--creds", BOB])
        .arg(format!("docker://{}/{}", place.proxy.host(), PRIVATE[1].0)));
    let tags: serde_json::Value = serde_json::from_slice(&tags.stdout).unwrap();
    let mut tags: Vec<&str> = tags["Tags"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|tag| tag.as_str())
        .collect();
    tags.sort_unstable();
    assert_eq!(tags, ["1", "2"]);
    place.assert_nothing_told();
}

#[test]
fn podman_logs_in_and_pulls_from_every_upstream() {
    if !have(&["podman"]) || !is_root("podman") {
        return;
    }
    let Some(place) = Place::filled() else { return };
    let auth = place.path("auth.json");
    let podman = |arguments: &[&str]| {
        let mut podman = command("podman");
        podman.args(storage(place.directory.path()));
        podman.args([arguments[0], "--tls-verify=false", "--authfile", &auth]);
        podman.args(&arguments[1..]);
        podman
    };
    let host = place.proxy.host();
    for (repo, login) in PRIVATE {
        let (user, password) = login.split_once(':').unwrap();
        let image = format!("{host}/{repo}:1");
        fails(&mut podman(&["pull", &image]));
        // Its own password for each part of the registry.
        let part = format!("{host}/{}", repo.split('/').next().unwrap());
        run(&mut podman(&["login", "-u", user, "-p", password, &part]));
        run(&mut podman(&["pull", &image]));
    }
    run(&mut podman(&["pull", &format!("{host}/deep/open/app:1")]));
    place.assert_nothing_told();
}

#[test]
fn containerd_pulls_from_every_upstream_and_fetches_converted_images() {
    if !have(&["containerd", "ctr"]) || !is_root("containerd") {
        return;
    }
    let Some(place) = Place::filled() else { return };
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
    let ctr = |arguments: &[&str]| {
        let mut ctr = command("ctr");
        ctr.args(["-a", &socket]).args(arguments);
        ctr
    };
    let pull = ["images", "pull", "--plain-http", "--snapshotter", "native"];
    let fetch = ["content", "fetch", "--plain-http"];
    for (repo, login) in PRIVATE {
        let image = format!("{}/{repo}:1", place.proxy.host());
        let other = if login == ANN { BOB } else { ANN };
        fails(&mut ctr(&[&pull[..], &[&image]].concat()));
        fails(&mut ctr(&[&pull[..], &["--user", other, &image]].concat()));
        run(&mut ctr(&[&pull[..], &["--user", login, &image]].concat()));
        let converted = format!("{image}_obd");
        run(&mut ctr(
            &[&fetch[..], &["--user", login, &converted]].concat()
        ));
    }
    let open = format!("{}/deep/open/app:1", place.proxy.host());
    for user in [&[][..], &["--user", ANN]] {
        run(&mut ctr(&[&pull[..], user, &[&open]].concat()));
    }
    let content = String::from_utf8(run(&mut ctr(&["content", "ls", "-q"])).stdout).unwrap();
    assert!(content.contains(&place.image.digest()), "{content}");
    place.assert_nothing_told();
}

#[test]
fn crane_pulls_from_every_upstream() {
    // No distribution has it as a package.
    if find("crane").is_none() {
        eprintln!(
            "crane is not installed: go install github.com/google/go-containerregistry/cmd/crane@latest"
        );
        return;
    }
    let Some(place) = Place::filled() else { return };
    // Of addresses of this machine, crane takes a realm by its name only.
    let (_, port) = place.proxy.host().split_once(':').unwrap();
    let host = format!("localhost:{port}");
    let config = place.path("docker");
    std::fs::create_dir(&config).unwrap();
    let crane = |arguments: &[&str]| {
        let mut crane = command("crane");
        crane.args(arguments).env("DOCKER_CONFIG", &config);
        crane
    };
    for (repo, login) in PRIVATE {
        let (user, password) = login.split_once(':').unwrap();
        let image = format!("{host}/{repo}:1");
        run(&mut crane(&[
            "auth", "login", "-u", user, "-p", password, &host,
        ]));
        let found = run(&mut crane(&["digest", &image]));
        let found = String::from_utf8(found.stdout).unwrap();
        assert_eq!(found.trim(), place.image.digest());
        run(&mut crane(&["pull", &image, &place.path("image.tar")]));
        run(&mut crane(&["manifest", &format!("{image}_obd")]));
        run(&mut crane(&[
            "copy",
            &image,
            &format!("{host}/{repo}:copied"),
        ]));
        // Not with the other one's.
        let other = PRIVATE.iter().find(|(other, _)| *other != repo).unwrap().0;
        fails(&mut crane(&["digest", &format!("{host}/{other}:1")]));
    }
    run(&mut crane(&["digest", &format!("{host}/deep/open/app:1")]));
    place.assert_nothing_told();
}
