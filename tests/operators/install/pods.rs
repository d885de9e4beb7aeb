//! The pods that the chart makes: what they may, and what they are asked.

use serde_json::Value;

use super::helm::{SETS, documents, render, tools};
use super::support::http;

/// The pods of manifests.
fn pods(manifests: &[Value]) -> Vec<&Value> {
    let templates = manifests.iter().map(|it| &it["spec"]["template"]["spec"]);
    templates.filter(|pod| pod.is_object()).collect()
}

#[track_caller]
fn container(pod: &Value) -> &Value {
    let containers = pod["containers"].as_array().unwrap();
    assert_eq!(containers.len(), 1);
    assert!(pod.get("initContainers").is_none());
    &containers[0]
}

fn mode(pod: &Value) -> Option<&str> {
    let of_pod = pod["securityContext"]["seccompProfile"]["type"].as_str();
    of_pod.or_else(|| container(pod)["securityContext"]["seccompProfile"]["type"].as_str())
}

#[test]
fn no_pod_may_more_than_it_needs() {
    if tools().is_none() {
        return;
    }
    for set in SETS {
        let manifests = documents(&render(set, &[]));
        let pods = pods(&manifests);
        assert!(!pods.is_empty(), "{set:?}");
        for pod in pods {
            let container = container(pod);
            let may = &container["securityContext"];
            assert_eq!(may["allowPrivilegeEscalation"], false);
            assert_eq!(may["readOnlyRootFilesystem"], true);
            assert_eq!(may["capabilities"]["drop"], serde_json::json!(["ALL"]));
            assert!(may["capabilities"].get("add").is_none());
            assert_eq!(mode(pod), Some("RuntimeDefault"));
            assert_eq!(pod["automountServiceAccountToken"], false);
            // A service's variables would be taken for settings.
            assert_eq!(pod["enableServiceLinks"], false);
            for right in ["hostNetwork", "hostPID", "hostIPC"] {
                assert!(pod.get(right).is_none(), "{right}");
            }
            assert!(container["resources"]["limits"]["memory"].is_string());
            let image = container["image"].as_str().unwrap();
            let tag = image.rsplit_once(':').unwrap().1;
            assert!(!tag.is_empty() && tag != "latest", "{image}");
            if container["name"] == "proxy" {
                assert_eq!(pod["securityContext"]["runAsNonRoot"], true, "{set:?}");
                let volumes = pod["volumes"].as_array().unwrap();
                assert!(volumes.iter().all(|it| it.get("hostPath").is_none()));
            }
        }
    }
}

#[test]
fn what_is_mounted_is_there() {
    if tools().is_none() {
        return;
    }
    for set in SETS {
        let manifests = documents(&render(set, &[]));
        for manifest in &manifests {
            let pod = &manifest["spec"]["template"]["spec"];
            if !pod.is_object() {
                continue;
            }
            let name = |it: &Value| it["name"].as_str().unwrap_or_default().to_owned();
            let claims = manifest["spec"]["volumeClaimTemplates"].as_array();
            let claims = claims.into_iter().flatten().map(|it| name(&it["metadata"]));
            let volumes = pod["volumes"].as_array().unwrap().iter().map(name);
            let mut there: Vec<String> = volumes.chain(claims).collect();
            let mounts = container(pod)["volumeMounts"].as_array().unwrap();
            let mut mounted: Vec<String> = mounts.iter().map(name).collect();
            there.sort();
            mounted.sort();
            assert_eq!(mounted, there, "{set:?}");
            let mut places: Vec<&Value> = mounts.iter().map(|it| &it["mountPath"]).collect();
            let count = places.len();
            places.sort_by_key(|place| (*place).to_string());
            places.dedup();
            assert_eq!(places.len(), count, "{set:?}: {places:?}");
        }
    }
}

#[test]
fn what_is_selected_is_there() {
    if tools().is_none() {
        return;
    }
    for set in SETS {
        let manifests = documents(&render(set, &[]));
        let of = |kind: &str| {
            let kind = kind.to_owned();
            let found = manifests
                .iter()
                .filter(move |it| it["kind"] == kind.as_str());
            found.collect::<Vec<_>>()
        };
        let templates = manifests.iter().map(|it| &it["spec"]["template"]);
        let pods: Vec<&Value> = templates.filter(|it| it.is_object()).collect();
        let matches = |labels: &Value, wanted: &Value| {
            let wanted = wanted.as_object().unwrap();
            assert!(!wanted.is_empty());
            wanted.iter().all(|(key, value)| labels[key] == *value)
        };
        for (kind, place) in [
            ("Service", "/spec/selector"),
            ("PodDisruptionBudget", "/spec/selector/matchLabels"),
            ("NetworkPolicy", "/spec/podSelector/matchLabels"),
            ("StatefulSet", "/spec/selector/matchLabels"),
            ("Deployment", "/spec/selector/matchLabels"),
            ("DaemonSet", "/spec/selector/matchLabels"),
        ] {
            for manifest in of(kind) {
                let wanted = manifest.pointer(place).unwrap();
                let found = pods
                    .iter()
                    .filter(|pod| matches(&pod["metadata"]["labels"], wanted));
                assert_eq!(found.count(), 1, "{set:?}: {kind} {wanted}");
            }
        }
        let services = of("Service");
        for monitor in of("ServiceMonitor") {
            let wanted = &monitor["spec"]["selector"]["matchLabels"];
            let mut found = services
                .iter()
                .filter(|it| matches(&it["metadata"]["labels"], wanted));
            let port = &found.next().unwrap()["spec"]["ports"][0]["name"];
            assert_eq!(monitor["spec"]["endpoints"][0]["port"], *port);
            assert!(found.next().is_none());
        }
        // A headless service that is there gives the pods of a StatefulSet their names.
        for owner in of("StatefulSet") {
            let name = &owner["spec"]["serviceName"];
            let mut services = services.iter();
            let service = services.find(|it| it["metadata"]["name"] == *name).unwrap();
            assert_eq!(service["spec"]["clusterIP"], "None");
        }
    }
}

#[test]
fn what_pods_are_asked_is_answered() {
    if tools().is_none() {
        return;
    }
    let (proxy, _kept) = super::proxy();
    let manifests = documents(&render(Some("everything"), &[]));
    let pod = pods(&manifests)
        .into_iter()
        .find(|pod| container(pod)["name"] == "proxy")
        .unwrap();
    let container = container(pod);
    let mut asked = Vec::new();
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        let get = &container[probe]["httpGet"];
        assert_eq!(get["port"], "admin", "{probe}");
        asked.push(get["path"].as_str().unwrap());
    }
    let monitor = manifests.iter().find(|it| it["kind"] == "ServiceMonitor");
    asked.push(
        monitor.unwrap()["spec"]["endpoints"][0]["path"]
            .as_str()
            .unwrap(),
    );
    for path in asked {
        let answer = http::get(&format!("{}{path}", proxy.admin()));
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
    }
    // Open requests have the drain's 30 s, behind the wait for balancers.
    let grace = pod["terminationGracePeriodSeconds"].as_u64().unwrap();
    let sleep = &container["lifecycle"]["preStop"]["sleep"]["seconds"];
    assert!(grace > 30 + sleep.as_u64().unwrap());
    proxy.stop();
}

/// The ports that a chart's network policy lets the proxy's pods reach besides names.
fn egress(set: Option<&str>, more: &[&str]) -> Vec<u64> {
    let manifests = documents(&render(set, more));
    let policy = manifests
        .iter()
        .find(|it| it["kind"] == "NetworkPolicy" && it["spec"]["egress"].is_array())
        .unwrap();
    let ports = policy["spec"]["egress"][1]["ports"].as_array().unwrap();
    ports
        .iter()
        .map(|port| port["port"].as_u64().unwrap())
        .collect()
}

#[test]
fn pods_reach_what_their_settings_name_and_the_service_of_their_role() {
    if tools().is_none() {
        return;
    }
    assert_eq!(egress(None, &[]), [443]);
    // The credentials of a role come over plain HTTP, those of a file do not.
    assert_eq!(egress(Some("bucket"), &[]), [443, 3306, 80]);
    assert_eq!(
        egress(Some("bucket"), &["--set", "blobStore.existingSecret=keys"]),
        [443, 3306]
    );
    let webhook = "webhooks.addresses={http://hooks.example.com:8008/obd}";
    assert_eq!(egress(None, &["--set", webhook]), [443, 8008]);
}
