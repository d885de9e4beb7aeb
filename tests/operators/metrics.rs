//! Metrics, the table of them, the dashboard and the alert rules: each names what the others have.

use crate::support;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use support::http;
use support::image::Image;
use support::layout::Layout;
use support::proxy::Proxy;
use support::tar::Tar;
use support::{find, noise, skip};

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/grafana")
}

fn read(name: &str) -> String {
    fs::read_to_string(directory().join(name)).unwrap()
}

/// What a proxy tells after a first pull, a second one and one of what is not there.
fn exposed() -> String {
    let scratch = tempfile::tempdir().unwrap();
    let layout = Layout::create(&scratch.path().join("layout"));
    let tar = Tar::new().file("file", noise(1, 20_000)).finish();
    layout.add("t", &Image::gzip(&[tar]).seal());
    let upstream = format!("oci:{}", layout.path().display());
    // Some metrics are there only with what they are about.
    let collector = "--otlp-endpoint=http://127.0.0.1:1";
    let options = ["--platform", "linux/amd64", "--cache-source", collector];
    let proxy = Proxy::start(&upstream, &scratch.path().join("data"), &options);
    for _ in 0..2 {
        proxy.converted("demo", "t");
    }
    assert_eq!(proxy.get("demo/manifests/none").status, 404);
    let answer = http::get(&format!("{}/metrics", proxy.admin()));
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.text()
}

/// The names that a text has of our metrics and those of the process.
fn names_in(text: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.split(|c| !is_part(c))
        .filter(|word| word.starts_with("overlaybd_proxy_") || word.starts_with("process_"))
        .map(str::to_owned)
        .collect()
}

/// The name of a metric without what a histogram's series add to it.
fn family(name: &str, known: &BTreeSet<String>) -> String {
    let cut = ["_bucket", "_sum", "_count"]
        .into_iter()
        .find_map(|end| name.strip_suffix(end).filter(|base| known.contains(*base)));
    cut.unwrap_or(name).to_owned()
}

/// The metrics by the `# TYPE` lines, named as their series are.
fn types(exposed: &str) -> BTreeSet<(String, String)> {
    let lines = exposed.lines();
    let lines = lines.filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let typed = lines.map(|(name, kind)| match kind {
        "counter" => (format!("{name}_total"), kind.to_owned()),
        "info" => (format!("{name}_info"), kind.to_owned()),
        _ => (name.to_owned(), kind.to_owned()),
    });
    typed.collect()
}

#[test]
fn the_table_has_each_metric_with_its_type_and_no_other() {
    let exposed = types(&exposed());
    let table: BTreeSet<_> = read("README.md")
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| `")?.split('|');
            let name = cells.next()?.trim().trim_end_matches('`').to_owned();
            Some((name, cells.next()?.trim().to_owned()))
        })
        .collect();
    assert!(table.len() > 30, "{table:?}");
    assert_eq!(table, exposed);
}

/// All queries of the dashboard, those of variables and annotations too.
fn queries() -> Vec<String> {
    fn collect(value: &Value, found: &mut Vec<String>) {
        let children: Vec<&Value> = match value {
            Value::Object(object) => {
                found.extend(
                    object
                        .get("expr")
                        .and_then(Value::as_str)
                        .map(str::to_owned),
                );
                object.values().collect()
            }
            Value::Array(array) => array.iter().collect(),
            _ => Vec::new(),
        };
        for child in children {
            collect(child, found);
        }
    }
    let dashboard: Value = serde_json::from_str(&read("dashboard.json")).unwrap();
    let mut found = Vec::new();
    collect(&dashboard, &mut found);
    assert!(found.len() > 25, "{found:?}");
    found
}

#[test]
fn dashboard_and_alerts_query_only_metrics_that_exist() {
    let known: BTreeSet<_> = types(&exposed())
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    let dashboard = read("dashboard.json");
    let alerts = read("alerts.yaml");
    let expressions = alerts
        .lines()
        .skip_while(|line| !line.contains("rules:"))
        .filter(|line| !line.contains("description:") && !line.contains("summary:"));
    let used = names_in(&dashboard)
        .into_iter()
        .chain(expressions.flat_map(names_in));
    let used: BTreeSet<_> = used.map(|name| family(&name, &known)).collect();
    assert!(used.len() > 25, "{used:?}");
    let unknown: Vec<_> = used.difference(&known).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

/// The alerts, each with the metrics that its rule queries.
fn alerts() -> BTreeMap<String, BTreeSet<String>> {
    let known: BTreeSet<_> = table().into_iter().map(|(name, _)| name).collect();
    let text = read("alerts.yaml");
    let rules = text.split("- alert: ").skip(1);
    let alerts = rules.map(|rule| {
        let name = rule.lines().next().unwrap().trim();
        let rule = rule.split("annotations:").next().unwrap();
        let metrics = names_in(rule).into_iter();
        let metrics = metrics.map(|metric| family(&metric, &known)).collect();
        (name.to_owned(), metrics)
    });
    alerts.collect()
}

/// The metrics of the table, each with what it says of alerts.
fn table() -> Vec<(String, String)> {
    let rows = read("README.md");
    let rows = rows.lines().filter_map(|line| {
        let (name, rest) = line.strip_prefix("| `")?.split_once('`')?;
        let alert = rest.trim_end().strip_suffix('|')?.rsplit_once('|')?.1;
        Some((name.to_owned(), alert.trim().to_owned()))
    });
    rows.collect()
}

#[test]
fn the_table_says_of_each_metric_which_alert_queries_it_or_that_none_does() {
    let alerts = alerts();
    assert!(alerts.len() > 10, "{alerts:?}");
    let (mut wrong, mut named) = (Vec::new(), BTreeSet::new());
    for (metric, cell) in table() {
        if cell.is_empty() {
            wrong.push(format!("{metric}: no word about alerts"));
        }
        for alert in cell.split('`').filter(|word| word.starts_with("Overlaybd")) {
            let queried = alerts.get(alert);
            if !queried.is_some_and(|queried| queried.contains(&metric)) {
                wrong.push(format!("{metric}: {alert} queries {queried:?}"));
            }
            named.insert(alert.to_owned());
        }
    }
    // That a target is down is no metric of ours.
    for alert in alerts.keys().filter(|name| *name != "OverlaybdProxyDown") {
        if !named.contains(alert) {
            wrong.push(format!("{alert}: no metric has it"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Runs promtool, which must be content.
fn promtool(arguments: &[&str], input: &str) -> Option<String> {
    let Some(program) = find("promtool") else {
        skip("promtool is not installed: apt-get install prometheus");
        return None;
    };
    let mut child = Command::new(program)
        .args(arguments)
        .current_dir(directory())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {text}");
    Some(text.into_owned())
}

#[test]
fn promtool_finds_the_alert_rules_right_and_each_fires_as_its_test_says() {
    promtool(&["check", "rules", "alerts.yaml"], "");
    promtool(&["test", "rules", "alerts-test.yaml"], "");
    let tests = read("alerts-test.yaml");
    for line in read("alerts.yaml").lines() {
        if let Some(name) = line.trim().strip_prefix("- alert: ") {
            let fires = format!("        alertname: {name}\n        exp_alerts:");
            assert!(tests.contains(&fires), "no test has {name} fire");
        }
    }
}

#[test]
fn promtool_understands_each_query_of_the_dashboard() {
    let scratch = tempfile::tempdir().unwrap();
    let rules: Vec<_> = queries()
        .into_iter()
        .map(|query| {
            // What Grafana puts in for its variables.
            let query = query
                .replace("$__rate_interval", "5m")
                .replace("$instance", ".*");
            assert!(!query.contains('$'), "{query}");
            serde_json::json!({ "record": "a:b", "expr": query })
        })
        .collect();
    let count = rules.len();
    let rules: Vec<_> = rules
        .into_iter()
        .enumerate()
        .map(|(number, mut rule)| {
            rule["record"] = format!("query:{number}").into();
            rule
        })
        .collect();
    let document = serde_json::json!({ "groups": [{ "name": "dashboard", "rules": rules }] });
    // JSON is YAML.
    let path = scratch.path().join("rules.yaml");
    fs::write(&path, document.to_string()).unwrap();
    if let Some(text) = promtool(&["check", "rules", path.to_str().unwrap()], "") {
        assert!(
            text.contains(&format!("SUCCESS: {count} rules found")),
            "{text}"
        );
    }
}

#[test]
fn promtool_has_nothing_against_the_names_of_the_metrics() {
    // It reads the older text format, in which the type is that of the series.
    let exposed = exposed();
    let lines = exposed.lines().filter_map(|line| {
        let Some((kind, rest)) = ["# TYPE ", "# HELP "]
            .into_iter()
            .find_map(|start| Some((start, line.strip_prefix(start)?)))
        else {
            return (!line.starts_with('#')).then(|| line.to_owned());
        };
        let (name, text) = rest.split_once(' ')?;
        let typed = types(&exposed);
        let of_series = typed.into_iter().find(|(of, kind)| {
            *of == format!("{name}_total") && kind == "counter"
                || *of == format!("{name}_info") && kind == "info"
        });
        let text = if text == "info" { "gauge" } else { text };
        let name = of_series.map_or(name.to_owned(), |(series, _)| series);
        Some(format!("{kind}{name} {text}"))
    });
    let text = lines.collect::<Vec<_>>().join("\n") + "\n";
    promtool(&["check", "metrics"], &text);
}
