//! The chart, as Helm and Kubernetes' own schemas see it.

use super::helm::{SETS, VERSIONS, document, documents, helm, kubeconform, render, tools};
use super::support::{command, run};
use super::{repository, text};

#[test]
fn helm_finds_nothing_wrong_with_the_chart() {
    if tools().is_none() {
        return;
    }
    for set in SETS {
        run(&mut helm(&["lint", "--strict"], set));
    }
}

#[test]
fn kubernetes_takes_what_the_chart_makes() {
    if tools().is_none() {
        return;
    }
    for set in SETS {
        let manifests = render(set, &[]);
        let wanted = documents(&manifests);
        let skipped = wanted.iter().filter(|it| it["kind"] == "ServiceMonitor");
        let skipped = skipped.count();
        for version in VERSIONS {
            let output = kubeconform(&manifests, version);
            let said = String::from_utf8(output.stdout).unwrap();
            assert!(output.status.success(), "{set:?} for {version}: {said}");
            let said = document(&said);
            let resources = said["resources"].as_array().unwrap();
            let with = |status: &str| {
                let status = format!("status{status}");
                resources
                    .iter()
                    .filter(|it| it["status"] == status.as_str())
                    .count()
            };
            assert_eq!(with("Skipped"), skipped, "{said}");
            assert_eq!(with("Valid"), wanted.len() - skipped, "{said}");
        }
    }
    eprintln!(
        "SKIPPED: a ServiceMonitor is the Prometheus operator's: its schema is not to be had"
    );
}

#[test]
fn a_misspelt_key_is_found_in_what_the_chart_makes() {
    if tools().is_none() {
        return;
    }
    let manifests = render(None, &[]);
    for (right, wrong) in [
        ("readOnlyRootFilesystem", "readOnlyRootFileSystem"),
        ("serviceName", "servicename"),
    ] {
        let changed = manifests.replacen(right, wrong, 1);
        assert_ne!(changed, manifests, "there is no {right}");
        let output = kubeconform(&changed, VERSIONS[0]);
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(!output.status.success() && said.contains(wrong), "{said}");
    }
}

#[test]
fn what_cannot_work_is_said_before_anything_is_installed() {
    if tools().is_none() {
        return;
    }
    for (set, more, part) in [
        (None, "replicas=2", "set database.existingSecret"),
        (None, "replica=2", "'replica' not allowed"),
        (None, "config.listen=x", "'listen'"),
        (None, "upstreams=null", "upstreams"),
        (None, "image.tag=1", "got number, want string"),
        (None, "node.enabled=true", "node.proxy: http://HOST:PORT"),
        (
            Some("node"),
            "node.proxy=proxy",
            "node.proxy: http://HOST:PORT",
        ),
        (
            Some("everything"),
            "config.push=false,blobStore.url=",
            "set config.push, config.push-repo or blobStore.url",
        ),
        (
            Some("everything"),
            "urlKeys.existingSecret=",
            "set urlKeys.existingSecret",
        ),
        (
            Some("everything"),
            "persistence.existingClaim=x",
            "leave persistence.existingClaim out",
        ),
    ] {
        let output = helm(&["template", "--set", more], set).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{more} is taken");
        assert!(said.contains(part), "{more}: {said}");
    }
}

#[test]
fn the_manifests_are_what_the_chart_makes() {
    let Some(tools) = tools() else { return };
    let made = tempfile::tempdir().unwrap();
    let path = std::env::var("PATH").unwrap_or_default();
    run(command("sh")
        .arg(repository("examples/kubernetes/manifests/make.sh"))
        .arg(made.path())
        .env("PATH", format!("{}:{path}", tools.display())));
    for name in ["overlaybd-proxy.yaml", "node.yaml"] {
        let there = text(&format!("examples/kubernetes/manifests/{name}"));
        let wanted = std::fs::read_to_string(made.path().join(name)).unwrap();
        assert!(
            there == wanted,
            "{name}: run examples/kubernetes/manifests/make.sh"
        );
    }
}

#[test]
fn the_manifests_are_good_yaml_with_everything_in_its_namespace() {
    for (name, kinds) in [("overlaybd-proxy.yaml", 7), ("node.yaml", 3)] {
        let manifests = documents(&text(&format!("examples/kubernetes/manifests/{name}")));
        assert_eq!(manifests.len(), kinds, "{name}");
        for manifest in manifests {
            assert_eq!(manifest["metadata"]["namespace"], "overlaybd-proxy");
        }
    }
}

#[test]
fn the_chart_and_the_program_have_one_version() {
    let chart = document(&text("examples/kubernetes/chart/Chart.yaml"));
    assert_eq!(chart["appVersion"], env!("CARGO_PKG_VERSION"));
}
