//! What the program is set to by the chart, as the program itself reads it.

use std::path::Path;

use serde_json::Value;

use super::helm::{SETS, documents, render, tools};
use super::repository;
use super::support::proxy::program;
use super::support::{command, find, run, skip};

/// The program's directory for settings, in pods and on machines.
pub const ETC: &str = "/etc/overlaybd-proxy";

/// Files that settings name, with something good in them. Not there, and said, without openssl and
/// htpasswd.
pub struct Secrets {
    directory: tempfile::TempDir,
}

impl Secrets {
    pub fn new() -> Option<Self> {
        if find("openssl").is_none() || find("htpasswd").is_none() {
            skip("openssl and htpasswd are not installed (tests/setup.sh does)");
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        run(command("sh").arg(repository("certs/make.sh")).arg(path));
        let users = run(command("htpasswd").args(["-nbB", "me", "secret"]));
        std::fs::write(path.join("htpasswd"), users.stdout).unwrap();
        let key = run(command("openssl").args(["rand", "-hex", "32"]));
        for name in [
            "admin-token",
            "notification-secret",
            "webhook-secret",
            "url-keys",
        ] {
            std::fs::write(path.join(name), &key.stdout).unwrap();
        }
        std::fs::write(path.join("otlp-headers"), "X-Api-Key: secret\n").unwrap();
        let keys = "[default]\naws_access_key_id = id\naws_secret_access_key = secret\n";
        std::fs::write(path.join("aws"), keys).unwrap();
        std::fs::write(path.join("docker.json"), "{\"auths\": {}}").unwrap();
        Some(Self { directory })
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Puts a copy of the one called `name` at `to`.
    #[track_caller]
    fn copy(&self, name: &str, to: &Path) {
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(self.path().join(name), to).unwrap();
    }
}

/// The keys that a file of settings has outside of tables.
fn keys(text: &str) -> Vec<String> {
    let table: toml::Table = text.parse().unwrap();
    let keys = table
        .into_iter()
        .filter(|(key, _)| !["upstream", "policy"].contains(&key.as_str()));
    keys.map(|(key, _)| key).collect()
}

/// Runs `config check`, which must find everything good, and gives what it prints.
#[track_caller]
pub fn check(config: Option<&Path>, variables: &[(String, String)]) -> String {
    let mut program = program();
    if let Some(config) = config {
        program.arg("--config").arg(config);
    }
    let output = program
        .args(["config", "check"])
        .envs(variables.iter().cloned())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    // Variables that nothing reads are warned of.
    assert!(!said.contains("OVERLAYBD_PROXY_"), "{said}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_program_takes_the_settings_that_the_chart_writes() {
    if tools().is_none() {
        return;
    }
    let Some(secrets) = Secrets::new() else {
        return;
    };
    let etc = tempfile::tempdir().unwrap();
    for (from, to) in [
        ("server.crt", "tls/tls.crt"),
        ("server.key", "tls/tls.key"),
        ("ca.crt", "upstream-ca/ca.crt"),
        ("htpasswd", "users/htpasswd"),
        ("url-keys", "url-keys/keys"),
        ("otlp-headers", "otlp/headers"),
        ("aws", "blob-store/aws"),
        ("docker.json", "docker/config.json"),
        ("admin-token", "admin-token/token"),
        ("notification-secret", "notifications/secret"),
        ("webhook-secret", "webhooks/secret"),
    ] {
        secrets.copy(from, &etc.path().join(to));
    }
    let mut seen = 0;
    for set in SETS {
        let manifests = documents(&render(set, &[]));
        let texts = manifests
            .iter()
            .filter_map(|it| it["data"]["config.toml"].as_str());
        for text in texts {
            seen += 1;
            // Every file that is named is mounted: its directory is a mount of the pod.
            let text = text.replace(ETC, &etc.path().display().to_string());
            let config = etc.path().join("config.toml");
            std::fs::write(&config, &text).unwrap();
            let shown = check(Some(&config), &variables(&manifests));
            let from_file = format!("# {}", config.display());
            for key in keys(&text) {
                let line = shown
                    .lines()
                    .find(|line| line.starts_with(&format!("{key} = ")));
                assert!(line.unwrap().ends_with(&from_file), "{key}: {shown}");
            }
        }
    }
    assert_eq!(seen, SETS.len() - 1);
}

/// The program's variables that pods have, with something good where they come from a secret.
fn variables(manifests: &[Value]) -> Vec<(String, String)> {
    let mut variables = Vec::new();
    for manifest in manifests {
        let pod = &manifest["spec"]["template"]["spec"];
        for entry in pod["containers"][0]["env"].as_array().into_iter().flatten() {
            let name = entry["name"].as_str().unwrap();
            if !name.starts_with("OVERLAYBD_PROXY_") {
                continue;
            }
            assert!(
                entry["valueFrom"]["secretKeyRef"]["key"].is_string(),
                "{name}"
            );
            assert_eq!(name, "OVERLAYBD_PROXY_DBSTR");
            variables.push((name.to_owned(), "obd:secret@tcp(db:3306)/obd".to_owned()));
        }
    }
    variables
}

#[test]
fn files_that_settings_name_are_mounted() {
    if tools().is_none() {
        return;
    }
    let manifests = documents(&render(Some("everything"), &[]));
    let config = manifests
        .iter()
        .find_map(|it| it["data"]["config.toml"].as_str());
    let pods = manifests
        .iter()
        .map(|it| &it["spec"]["template"]["spec"]["containers"][0]);
    let proxy = pods.into_iter().find(|it| it["name"] == "proxy").unwrap();
    let mounts = proxy["volumeMounts"].as_array().unwrap();
    let table: toml::Table = config.unwrap().parse().unwrap();
    let paths = table.values().filter_map(toml::Value::as_str);
    let paths: Vec<&str> = paths.filter(|text| text.starts_with('/')).collect();
    assert!(paths.len() >= 7, "{paths:?}");
    for path in paths {
        let is_below = |mount: &Value| {
            let place = mount["mountPath"].as_str().unwrap();
            path == place || path.starts_with(&format!("{place}/"))
        };
        assert!(mounts.iter().any(is_below), "{path}");
    }
    let config = proxy["args"].as_array().unwrap().last().unwrap();
    assert_eq!(config, "/etc/overlaybd-proxy/config/config.toml");
}
