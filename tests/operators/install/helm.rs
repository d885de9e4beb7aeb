//! Helm and kubeconform, and what they say.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use serde::Deserialize as _;
use serde_json::Value;

use super::repository;
use super::support;

/// The oldest Kubernetes that the chart is for, and the newest whose schemas are there.
pub const VERSIONS: [&str; 2] = ["1.30.0", "1.37.0"];

/// What the chart is made with in the tests: nothing, or a file of `values`.
pub const SETS: [Option<&str>; 6] = [
    None,
    Some("everything"),
    Some("ephemeral"),
    Some("claim"),
    Some("bucket"),
    Some("node"),
];

/// The directory with the programs, made once and kept; `None`, and said, where that cannot be.
pub fn tools() -> Option<&'static Path> {
    static TOOLS: OnceLock<Option<PathBuf>> = OnceLock::new();
    TOOLS.get_or_init(make).as_deref()
}

fn make() -> Option<PathBuf> {
    // Debian's Go is too old for Helm, so tests/setup.sh does not bring it.
    if support::find("go").is_none() || support::find("python3").is_none() {
        eprintln!(
            "SKIPPED: the chart is not tried: Helm is built with go, and python3 gets schemas"
        );
        return None;
    }
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("install-tools");
    let output = Command::new(repository("tests/operators/install/tools.sh"))
        .arg(&directory)
        .output()
        .unwrap();
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        support::skip(&format!("no Helm to be had: {said}"));
        return None;
    }
    Some(directory)
}

/// The file of values of that name.
pub fn values(name: &str) -> PathBuf {
    repository(&format!("tests/operators/install/values/{name}.yaml"))
}

/// `helm COMMAND CHART`, as for a release and a namespace that YAML would take for booleans.
pub fn helm(arguments: &[&str], set: Option<&str>) -> Command {
    let mut command = Command::new(tools().unwrap().join("helm"));
    let (first, rest) = arguments.split_first().unwrap();
    command.arg(first);
    if *first == "template" {
        command.arg("y");
    }
    command
        .arg(repository("examples/kubernetes/chart"))
        .args(["--namespace", "n", "--kube-version", VERSIONS[0]])
        .args(rest);
    if let Some(set) = set {
        command.arg("--values").arg(values(set));
    }
    command
}

/// What the chart makes of values.
#[track_caller]
pub fn render(set: Option<&str>, more: &[&str]) -> String {
    let arguments: Vec<&str> = ["template"].iter().chain(more).copied().collect();
    let output = support::run(&mut helm(&arguments, set));
    String::from_utf8(output.stdout).unwrap()
}

/// The documents of a text.
#[track_caller]
pub fn documents(text: &str) -> Vec<Value> {
    let documents = serde_yaml_ng::Deserializer::from_str(text);
    let read = documents.map(|document| Value::deserialize(document).unwrap());
    read.filter(|document| !document.is_null()).collect()
}

/// The one document of a text.
#[track_caller]
pub fn document(text: &str) -> Value {
    let [document] = <[Value; 1]>::try_from(documents(text)).unwrap();
    document
}

/// What kubeconform says of manifests for a version of Kubernetes.
pub fn kubeconform(manifests: &str, version: &str) -> Output {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("manifests.yaml");
    std::fs::write(&file, manifests).unwrap();
    let tools = tools().unwrap();
    let schemas = tools.join(
        "schemas/{{.NormalizedKubernetesVersion}}-local{{.StrictSuffix}}/\
         {{.ResourceKind}}{{.KindSuffix}}.json",
    );
    Command::new(tools.join("kubeconform"))
        .args(["-strict", "-output", "json", "-verbose"])
        // The Prometheus operator's, whose schema is no package's.
        .args(["-skip", "ServiceMonitor", "-kubernetes-version", version])
        .arg("-schema-location")
        .arg(schemas)
        .arg(file)
        .output()
        .unwrap()
}
