//! Every value of the chart is used, every value that is used is there, and the schema knows them.

use std::collections::BTreeSet;

use serde_json::Value;

use super::helm::{document, helm, tools};
use super::{repository, text};

/// The paths of all values of a file: what is no table, or an empty one.
fn leaves(values: &Value) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let mut open = vec![(Vec::new(), values)];
    while let Some((path, value)) = open.pop() {
        match value.as_object().filter(|table| !table.is_empty()) {
            Some(table) => open.extend(table.iter().map(|(name, value)| {
                let below: Vec<String> = path.iter().chain([name]).cloned().collect();
                (below, value)
            })),
            None => found.push(path),
        }
    }
    found
}

fn at<'a>(values: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(values, |value, name| value.get(name))
}

fn defaults() -> Value {
    document(&text("examples/kubernetes/chart/values.yaml"))
}

fn set(name: &str) -> Value {
    document(&text(&format!(
        "tests/operators/install/values/{name}.yaml"
    )))
}

/// Maps that are whatever the operator writes into them: one value each.
const WHOLE: [&str; 6] = [
    "config",
    "nodeSelector",
    "node.nodeSelector",
    "affinity",
    "podAnnotations",
    "podLabels",
];

#[test]
fn another_value_makes_other_manifests() {
    if tools().is_none() {
        return;
    }
    let (everything, other) = (set("everything"), set("other"));
    let rendered = |more: &[&str]| {
        let arguments: Vec<&str> = ["template"].iter().chain(more).copied().collect();
        let output = helm(&arguments, Some("everything")).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!said.contains("values don't meet"), "{more:?}: {said}");
        // What is refused by a template is used there.
        output.status.success().then_some(output.stdout)
    };
    let base = rendered(&[]);
    assert!(base.is_some());
    let mut paths = leaves(&defaults());
    paths.retain(|path| !WHOLE.iter().any(|whole| path.join(".").starts_with(whole)));
    paths.extend(WHOLE.map(|whole| whole.split('.').map(ToOwned::to_owned).collect()));
    assert!(paths.len() > 90, "{paths:?}");
    for path in &paths {
        let shown = path.join(".");
        let (Some(one), Some(another)) = (at(&everything, path), at(&other, path)) else {
            panic!("{shown} is to be in everything.yaml and in other.yaml");
        };
        assert_ne!(one, another, "{shown} is the same in both");
        let name = path
            .iter()
            .map(|part| part.replace('.', "\\."))
            .collect::<Vec<_>>()
            .join(".");
        let changed = rendered(&["--set-json", &format!("{name}={another}")]);
        assert_ne!(changed, base, "nothing uses {shown}");
    }
}

#[test]
fn what_templates_use_is_a_value() {
    let defaults = defaults();
    let templates = repository("examples/kubernetes/chart/templates");
    let mut used = BTreeSet::new();
    for file in std::fs::read_dir(templates).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        for (mark, below) in [(".Values.", ""), ("$node.", "node."), (" .node.", "node.")] {
            for (at, _) in text.match_indices(mark) {
                let rest = &text[at + mark.len()..];
                let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '.');
                let path = rest[..end.unwrap_or(rest.len())].trim_end_matches('.');
                used.insert(format!("{below}{path}"));
            }
        }
    }
    assert!(used.len() > 60, "{used:?}");
    for path in used {
        let parts: Vec<String> = path.split('.').map(ToOwned::to_owned).collect();
        assert!(at(&defaults, &parts).is_some(), "values.yaml has no {path}");
    }
}

#[test]
fn the_schema_knows_the_values_and_no_others() {
    let schema = text("examples/kubernetes/chart/values.schema.json");
    let schema: Value = serde_json::from_str(&schema).unwrap();
    let defaults = defaults();
    // Helm itself adds `global`.
    let mut open = vec![(String::new(), &schema, &defaults)];
    while let Some((path, schema, values)) = open.pop() {
        let Some(known) = schema["properties"].as_object() else {
            continue;
        };
        assert_eq!(schema["additionalProperties"], false, "{path}");
        let values = values.as_object().unwrap();
        let names = |map: &serde_json::Map<String, Value>| -> BTreeSet<String> {
            map.keys().filter(|it| *it != "global").cloned().collect()
        };
        assert_eq!(names(known), names(values), "{path}");
        open.extend(
            values
                .iter()
                .map(|(name, value)| (format!("{path}.{name}"), &known[name], value)),
        );
    }
}
