//! The systemd unit, and how secrets come into it.

use std::os::unix::fs::PermissionsExt as _;

use super::repository;
use super::settings::{Secrets, check};
use super::support::image::Image;
use super::support::layout::Layout;
use super::support::process::Process;
use super::support::tar::Tar;
use super::support::{command, have, is_root, run};
use super::text;

const UNIT: &str = "examples/systemd/overlaybd-proxy.service";
const SECRETS: &str = "examples/systemd/secrets.conf";

/// The values of a key of a unit.
fn values<'a>(text: &'a str, key: &str) -> Vec<&'a str> {
    let prefix = format!("{key}=");
    text.lines()
        .filter_map(|line| line.strip_prefix(prefix.as_str()))
        .collect()
}

#[test]
fn systemd_calls_the_unit_safe() {
    if !have(&["systemd-analyze"]) {
        return;
    }
    let output = run(command("systemd-analyze")
        .args(["security", "--offline=true", "--no-pager"])
        .arg(repository(UNIT))
        .env("SYSTEMD_COLORS", "0"));
    let said = String::from_utf8(output.stdout).unwrap();
    let level = said.rsplit_once("overlaybd-proxy.service: ").unwrap().1;
    let level: f64 = level.split_whitespace().next().unwrap().parse().unwrap();
    assert!(level < 3.0, "{said}");
}

#[test]
fn systemd_finds_nothing_wrong_with_the_unit_and_its_secrets() {
    if !have(&["systemd-analyze"]) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let name = "overlaybd-proxy.service";
    // The program need not be installed for this.
    let unit = text(UNIT).replace(
        "/usr/local/bin/overlaybd-proxy",
        env!("CARGO_BIN_EXE_overlaybd-proxy"),
    );
    let path = directory.path().join(name);
    std::fs::write(&path, unit).unwrap();
    let more = directory.path().join(format!("{name}.d"));
    std::fs::create_dir(&more).unwrap();
    std::fs::copy(repository(SECRETS), more.join("secrets.conf")).unwrap();
    let output = command("systemd-analyze")
        .args(["verify", "--man=no"])
        .arg(&path)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let about = said
        .lines()
        .filter(|line| line.contains("overlaybd-proxy") || line.contains("secrets.conf"))
        .collect::<Vec<_>>();
    assert_eq!(about, [""; 0], "{said}");
}

#[test]
fn the_program_takes_the_secrets_that_the_unit_gives_it() {
    let Some(secrets) = Secrets::new() else {
        return;
    };
    let text = text(SECRETS);
    let loaded: Vec<(&str, &str)> = values(&text, "LoadCredential")
        .into_iter()
        .map(|value| value.split_once(':').unwrap())
        .collect();
    assert!(loaded.len() >= 4);
    for (name, file) in &loaded {
        assert_eq!(*file, format!("/etc/overlaybd-proxy/{name}"));
        assert!(secrets.path().join(name).exists(), "{name}");
    }
    let mut variables = Vec::new();
    for value in values(&text, "Environment") {
        let (variable, value) = value.split_once('=').unwrap();
        // `%d` is the directory with what was loaded.
        if let Some(name) = value.strip_prefix("%d/") {
            assert!(loaded.iter().any(|(loaded, _)| *loaded == name), "{name}");
        }
        let there = secrets.path().display().to_string();
        let value = value
            .replace("%d", &there)
            .replace("/etc/overlaybd-proxy", &there);
        variables.push((variable.to_owned(), value));
    }
    // What the comment shows of the file of variables.
    let shown = text.split("OVERLAYBD_PROXY_DBSTR=").nth(1).unwrap();
    let shown = shown.lines().next().unwrap().to_owned();
    variables.push(("OVERLAYBD_PROXY_DBSTR".to_owned(), shown));
    let config = repository("examples/systemd/config.toml");
    let shown = check(Some(&config), &variables);
    let read = shown.matches("# environment").count();
    assert_eq!(read, variables.len(), "{shown}");
}

#[test]
fn the_unit_checks_the_settings_that_it_serves_with() {
    let text = text(UNIT);
    let command = |key: &str| values(&text, key)[0].to_owned();
    let [before, serve] = ["ExecStartPre", "ExecStart"].map(command);
    let settings = |line: &str| line.split_once("--config ").unwrap().1.to_owned();
    assert_eq!(settings(&before), settings(&serve));
    // One line a start in the journal, not all settings.
    assert!(before.contains("config check --quiet"));
    let variables: Vec<(String, String)> = values(&text, "Environment")
        .into_iter()
        .map(|value| value.split_once('=').unwrap())
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let shown = check(
        Some(&repository("examples/systemd/config.toml")),
        &variables,
    );
    assert_eq!(shown.matches("# environment").count(), variables.len());
    // The directory that systemd makes is the one that is used.
    let state = format!(
        "data-dir = \"/var/lib/{}\"",
        values(&text, "StateDirectory")[0]
    );
    assert!(shown.contains(&state), "{shown}");
    // Open requests have 30 s.
    let stop: u64 = values(&text, "TimeoutStopSec")[0].parse().unwrap();
    assert!(stop > 30);
}

/// What is asked of the unit on a machine that systemd has booted; each line that begins with `>` is read here.
const RUN: &str = r#"#!/bin/sh
systemctl start overlaybd-proxy || systemctl status --no-pager --full overlaybd-proxy
# It has started before it listens.
tries=300
until grep -q '^admin on' /run/log-of-it || [ $((tries -= 1)) -eq 0 ]; do sleep 0.1; done
ask() { curl --silent --show-error --max-time 60 --cacert /etc/overlaybd-proxy/ca.crt --user me:secret "$@"; }
echo "> ready $(ask http://127.0.0.1:8481/readyz | head -n 1)"
echo "> nobody $(ask --user me:wrong -o /dev/null -w '%{http_code}' https://127.0.0.1:8480/v2/)"
echo "> image $(ask -o /dev/null -w '%{http_code}' https://127.0.0.1:8480/v2/team/app/manifests/1_obd)"
pid=$(systemctl show --property MainPID --value overlaybd-proxy)
for key in Uid CapEff Seccomp NoNewPrivs; do
    echo "> $key $(awk -v key="$key:" '$1 == key { print $2 }' "/proc/$pid/status")"
done
echo "> owner $(stat -c '%u %a' /var/lib/private/overlaybd-proxy | sed "s/^$(awk '/^Uid/ { print $2 }' "/proc/$pid/status") /itself /")"
echo "> reload $(systemctl reload overlaybd-proxy && systemctl is-active overlaybd-proxy)"
systemctl stop overlaybd-proxy
echo "> result $(systemctl show --property Result --value overlaybd-proxy)"
echo "the log:"
cat /run/log-of-it
"#;

#[test]
fn systemd_runs_the_unit_with_all_that_it_forbids() {
    if !have(&["unshare", "systemctl", "curl"]) || !is_root("a boot in namespaces") {
        return;
    }
    let Some(secrets) = Secrets::new() else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str, mode: u32| {
        let path = directory.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let unit = "files/etc/systemd/system/overlaybd-proxy.service";
    write(unit, &text(UNIT), 0o644);
    write(&format!("{unit}.d/secrets.conf"), &text(SECRETS), 0o644);
    let log =
        "[Service]\nStandardOutput=append:/run/log-of-it\nStandardError=append:/run/log-of-it\n";
    write(&format!("{unit}.d/log.conf"), log, 0o644);
    let etc = "files/etc/overlaybd-proxy";
    let settings = text("examples/systemd/config.toml")
        .replace("0.0.0.0:8480", "127.0.0.1:8480")
        .replace("\"docker.io\"", "\"oci:/srv/images\"");
    write(&format!("{etc}/config.toml"), &settings, 0o644);
    for (name, mode) in [
        ("ca.crt", 0o644),
        ("server.crt", 0o644),
        ("server.key", 0o600),
        ("docker.json", 0o600),
        ("htpasswd", 0o600),
        ("url-keys", 0o600),
        ("otlp-headers", 0o600),
        ("admin-token", 0o600),
        ("notification-secret", 0o600),
        ("webhook-secret", 0o600),
    ] {
        let there = std::fs::read_to_string(secrets.path().join(name)).unwrap();
        write(&format!("{etc}/{name}"), &there, mode);
    }
    write(
        &format!("{etc}/secrets.env"),
        "OVERLAYBD_PROXY_EGRESS_PROXY=none\n",
        0o600,
    );
    let layer = Tar::new().file("a", "some text".as_bytes()).finish();
    Layout::create(&directory.path().join("files/srv/images"))
        .add("1", &Image::gzip(&[layer]).seal());
    write("run.sh", RUN, 0o755);
    let program = env!("CARGO_BIN_EXE_overlaybd-proxy");
    std::os::unix::fs::symlink(program, directory.path().join("program")).unwrap();

    let mut boot = command("unshare");
    boot.args([
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        "--cgroup",
        "--uts",
        "--ipc",
        "--net",
    ])
    .arg(repository("tests/operators/install/boot.sh"))
    .arg(directory.path());
    let mut booted = Process::start(boot, &directory.path().join("output"));
    let ended = booted.wait_for("the end ");
    let said = booted.output();
    booted.kill();
    assert_eq!(ended, "success", "{said}");
    let answers: Vec<&str> = said
        .lines()
        .filter_map(|line| line.strip_prefix("> "))
        .collect();
    let uid = answers.iter().find_map(|line| line.strip_prefix("Uid "));
    let uid: u32 = uid.unwrap_or_else(|| panic!("{said}")).parse().unwrap();
    assert!((61184..=65519).contains(&uid), "no dynamic user: {uid}");
    let uid = format!("Uid {uid}");
    let wanted = [
        "ready ok",
        "nobody 401",
        "image 200",
        &uid,
        "CapEff 0000000000000000",
        "Seccomp 2",
        "NoNewPrivs 1",
        "owner itself 700",
        "reload active",
        "result success",
    ];
    assert_eq!(answers, wanted, "{said}");
    // A verdict, not all settings.
    let (_, log) = said.split_once("the log:").unwrap();
    assert!(log.contains("the configuration is good"), "{log}");
    assert!(!log.contains("# default"), "{log}");
}
