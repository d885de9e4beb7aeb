//! The admin endpoints: health, readiness, metrics.

use crate::{registry_support, server_support};
use std::net::SocketAddr;

use bytes::Bytes;
use http::{Method, Response, StatusCode};
use http_body_util::Full;
use overlaybd_proxy::registry::Upstream;
use registry_support::quick;
use registry_support::scripted::{self, Answer as Scripted};
use server_support::{Answer, Proxy, ask, config, plain};

async fn get(address: SocketAddr, path: &str) -> Answer {
    ask(address, Method::GET, path, &[], Bytes::new()).await
}

fn text(answer: &Answer) -> String {
    String::from_utf8(answer.body.to_vec()).unwrap()
}

async fn proxy() -> (Proxy, scripted::Served) {
    let served = scripted::serve(|_| {
        let response = Response::new(Full::from("hello"));
        std::future::ready(Scripted::Http(response))
    })
    .await;
    let upstream = Upstream::registry(&served.host(), &quick()).unwrap();
    (Proxy::before(&upstream).await, served)
}

#[tokio::test]
async fn readyz_names_what_is_degraded() {
    let (proxy, _served) = proxy().await;
    assert_eq!(get(proxy.admin, "/livez").await.status, StatusCode::OK);
    let answer = get(proxy.admin, "/readyz").await;
    assert_eq!(answer.status, StatusCode::OK, "{}", text(&answer));
    // The directory for new blobs goes.
    let tmp = proxy.directory.path().join("tmp");
    std::fs::remove_dir_all(&tmp).unwrap();
    let answer = get(proxy.admin, "/readyz").await;
    // What is not converted goes on.
    assert_eq!(answer.status, StatusCode::OK);
    let said = text(&answer);
    assert!(said.starts_with("degraded\nblobs: "), "{said}");
    assert_eq!(get(proxy.admin, "/livez").await.status, StatusCode::OK);
    std::fs::create_dir(&tmp).unwrap();
    assert_eq!(text(&get(proxy.admin, "/readyz").await), "ok\n");
}

#[tokio::test]
async fn requests_are_counted_by_route_and_status() {
    let (proxy, served) = proxy().await;
    for _ in 0..3 {
        assert_eq!(proxy.get("/v2/a/tags/list").await.status, StatusCode::OK);
    }
    proxy.get("/elsewhere").await;
    let metrics = text(&get(proxy.admin, "/metrics").await);
    let host = served.host();
    for line in [
        r#"overlaybd_proxy_requests_total{route="tags",method="GET",status="200"} 3"#,
        r#"overlaybd_proxy_requests_total{route="outside",method="GET",status="404"} 1"#,
        r#"overlaybd_proxy_response_body_bytes_total{route="tags"} 15"#,
        &format!(
            r#"overlaybd_proxy_upstream_calls_total{{upstream="{host}",call="forward",result="ok"}} 3"#
        ),
        &format!(r#"overlaybd_proxy_upstream_up{{upstream="{host}"}} 1"#),
        "overlaybd_proxy_index_up 1",
        "overlaybd_proxy_requests_open 0",
        "overlaybd_proxy_layers_converted_total 0",
        "# EOF",
    ] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
    let jobs = get(proxy.admin, "/jobs").await;
    let document: serde_json::Value = serde_json::from_slice(&jobs.body).unwrap();
    assert_eq!(document["layers"]["running"], 0);
}

#[tokio::test]
async fn admin_endpoints_are_on_the_admin_address_only() {
    let (proxy, _served) = proxy().await;
    assert_eq!(
        get(proxy.address, "/metrics").await.status,
        StatusCode::NOT_FOUND
    );
    assert_eq!(get(proxy.admin, "/v2/").await.status, StatusCode::NOT_FOUND);
    let answer = ask(proxy.admin, Method::POST, "/livez", &[], Bytes::new()).await;
    assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn an_address_that_is_taken_is_named() {
    let (proxy, served) = proxy().await;
    let upstream = Upstream::registry(&served.host(), &quick()).unwrap();
    let mut config = config(vec![plain(&upstream)]);
    config.listen = proxy.address;
    let directory = tempfile::tempdir().unwrap();
    let converter = server_support::converter(server_support::store(directory.path()).await);
    let error = overlaybd_proxy::server::Server::bind(config, converter).await;
    let error = error.err().unwrap().to_string();
    assert!(error.contains(&proxy.address.to_string()), "{error}");
}
