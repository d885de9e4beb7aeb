//! Compose's file.

use serde_json::Value;

use super::helm::document;
use super::support::http;
use super::text;

fn compose() -> Value {
    document(&text("examples/compose/compose.yaml"))
}

/// What is added to it for traces.
fn traces() -> Value {
    document(&text("examples/compose/traces.yaml"))
}

#[test]
fn each_service_says_whether_it_is_well_and_waits_for_what_it_needs() {
    let (compose, traces) = (compose(), traces());
    let services = compose["services"].as_object().unwrap();
    assert!(services.len() >= 5);
    let added = traces["services"].as_object().unwrap();
    let added = added
        .iter()
        .filter(|(name, _)| !services.contains_key(*name));
    for (name, service) in services.iter().chain(added) {
        let runs_once = service.get("profiles").is_some();
        let test = service["healthcheck"]["test"].as_array();
        assert_eq!(test.is_none(), runs_once, "{name}");
        if let Some(test) = test {
            assert!(test[0] == "CMD" && test.len() > 1, "{name}");
        }
        let needed = service["depends_on"].as_object().into_iter().flatten();
        for (other, how) in needed {
            assert_eq!(how["condition"], "service_healthy", "{name}: {other}");
            assert!(
                services[other].get("healthcheck").is_some(),
                "{name}: {other}"
            );
        }
        for volume in service["volumes"].as_array().into_iter().flatten() {
            let (from, _) = volume
                .as_str()
                .unwrap()
                .split_once(':')
                .unwrap_or(("/", ""));
            let is_named = compose["volumes"].get(from).is_some();
            assert!(is_named || from.starts_with(['/', '.']), "{name}: {volume}");
        }
    }
}

#[test]
fn the_proxy_is_asked_what_it_answers() {
    let compose = compose();
    let proxy = &compose["services"]["proxy"];
    let test = proxy["healthcheck"]["test"].as_array().unwrap();
    let url = test.last().unwrap().as_str().unwrap();
    let admin = proxy["environment"]["OVERLAYBD_PROXY_ADMIN"]
        .as_str()
        .unwrap();
    let path = url.strip_prefix(&format!("http://{admin}")).unwrap();
    let (running, _kept) = super::proxy();
    assert_eq!(http::get(&format!("{}{path}", running.admin())).status, 200);
    running.stop();
    // The image that is built has the program that asks.
    let target = proxy["build"]["target"].as_str().unwrap();
    let dockerfile = text("Dockerfile");
    assert!(dockerfile.contains(&format!("FROM base AS {target}\n")));
    let asks = test[1].as_str().unwrap();
    assert!(
        dockerfile.contains(&format!("/shell/usr/bin/{asks}")),
        "{asks}"
    );
}

#[test]
fn the_first_image_goes_where_the_proxy_looks() {
    let compose = compose();
    let services = &compose["services"];
    let upstream = services["proxy"]["environment"]["OVERLAYBD_PROXY_UPSTREAM"].as_str();
    let upstream = upstream.unwrap().strip_prefix("http://").unwrap();
    let copy = services["first-image"]["command"].as_array().unwrap();
    let to = copy.last().unwrap().as_str().unwrap();
    let image = to.strip_prefix(&format!("docker://{upstream}/")).unwrap();
    // What is said to be there converted is that image.
    let (start, _) = text("examples/compose/compose.yaml")
        .split_once("services:")
        .map(|(start, rest)| (start.to_owned(), rest.to_owned()))
        .unwrap();
    let port = services["balancer"]["ports"][0].as_str().unwrap();
    let (address, _) = port.rsplit_once(':').unwrap();
    assert!(
        start.contains(&format!("docker://{address}/{image}_obd")),
        "{start}"
    );
    assert!(start.contains("run --rm first-image"), "{start}");
}

#[test]
fn spans_are_sent_where_the_collector_takes_them() {
    let traces = traces();
    let services = traces["services"].as_object().unwrap();
    let proxy = &services["proxy"];
    // Nothing waits for it.
    assert!(proxy.get("depends_on").is_none());
    let endpoint = proxy["environment"]["OVERLAYBD_PROXY_OTLP_ENDPOINT"].as_str();
    let (name, port) = endpoint
        .and_then(|it| it.strip_prefix("http://"))
        .and_then(|it| it.split_once(':'))
        .unwrap();
    let collector = &services[name];
    let (_, version) = collector["image"]
        .as_str()
        .unwrap()
        .rsplit_once(':')
        .unwrap();
    assert!(
        version.starts_with(|c: char| c.is_ascii_digit()),
        "{version}"
    );
    let volume = collector["volumes"][0].as_str().unwrap();
    let (file, rest) = volume.split_once(':').unwrap();
    let place = rest.strip_suffix(":ro").unwrap();
    let command = collector["command"].as_str().unwrap();
    assert_eq!(command, format!("--config={place}"));
    let file = file.strip_prefix("./").unwrap();
    let config = document(&text(&format!("examples/compose/{file}")));
    let taken = &config["receivers"]["otlp"]["protocols"]["http"]["endpoint"];
    assert_eq!(taken.as_str().unwrap(), format!("0.0.0.0:{port}"));
    // What a pipeline names is there.
    let pipeline = &config["service"]["pipelines"]["traces"];
    for part in ["receivers", "processors", "exporters"] {
        for name in pipeline[part].as_array().unwrap() {
            assert!(config[part].get(name.as_str().unwrap()).is_some(), "{name}");
        }
    }
}
