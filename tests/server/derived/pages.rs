//! Lists of registries that have the API: pages, filters, and what only such a registry says.

use bytes::Bytes;
use http::{Method, Response, StatusCode};
use http_body_util::Full;
use overlaybd_proxy::registry::Upstream;
use serde_json::{Value, json};

use crate::derived::{NATIVE, OCI_INDEX, image, sha256, text};
use crate::registry_support::quick;
use crate::registry_support::scripted::{self, Answer as Scripted, Log};
use crate::server_support::{Answer, Proxy};
use crate::support::image::Sealed;

/// A registry with one image, and with lists by their query.
struct Listing {
    proxy: Proxy,
    log: Log,
    source: Sealed,
    _served: scripted::Served,
}

fn other(name: &str) -> Value {
    json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "size": 7,
        "digest": sha256(name.as_bytes()), "artifactType": name})
}

fn found(media_type: &str, bytes: &[u8]) -> http::response::Builder {
    Response::builder()
        .header("content-type", media_type)
        .header("docker-content-digest", sha256(bytes))
        .header("content-length", bytes.len())
}

impl Listing {
    /// `page` answers for a list of referrers; `has` is what manifests there are besides the image.
    async fn new<F>(page: F) -> Self
    where
        F: Fn(&str, Option<String>) -> Option<Response<Full<Bytes>>> + Send + Sync + 'static,
    {
        let source = image(3);
        let (log, served) = (Log::default(), source.clone());
        let seen = log.clone();
        let served = scripted::serve(move |request| {
            seen.add(&request);
            let path = request.uri().path().to_owned();
            let query = request.uri().query().unwrap_or_default().to_owned();
            let name = path.rsplit('/').next().unwrap_or_default();
            let missing = || {
                Response::builder()
                    .status(404)
                    .body(Full::default())
                    .unwrap()
            };
            let answer = if path.contains("/referrers/") {
                page(&query, None).unwrap_or_else(missing)
            } else if path.contains("/manifests/") && [&*served.digest(), "1"].contains(&name) {
                let head = found(&served.media_type, &served.manifest);
                head.body(Full::from(served.manifest.clone())).unwrap()
            } else if path.contains("/manifests/") {
                page(&query, Some(name.to_owned())).unwrap_or_else(missing)
            } else {
                let blob = served.blobs.iter().find(|blob| blob.digest() == name);
                blob.map_or_else(missing, |blob| {
                    Response::new(Full::from(blob.bytes.clone()))
                })
            };
            std::future::ready(Scripted::Http(answer))
        })
        .await;
        let upstream = Upstream::registry(&served.host(), &quick()).unwrap();
        Self {
            proxy: Proxy::before(&upstream).await,
            log,
            source,
            _served: served,
        }
    }

    async fn convert(&self) {
        let answer = self.proxy.get("/v2/app/manifests/1_obd").await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    }

    async fn list(&self, query: &str) -> Answer {
        let path = format!("/v2/app/referrers/{}{query}", self.source.digest());
        self.proxy.get(&path).await
    }

    async fn types(&self, query: &str) -> Vec<String> {
        let answer = self.list(query).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        let list: Value = serde_json::from_slice(&answer.body).unwrap();
        let entries = list["manifests"].as_array().unwrap().clone();
        entries
            .iter()
            .map(|one| text(&one["artifactType"]).to_owned())
            .collect()
    }
}

fn list(entries: &[Value]) -> Full<Bytes> {
    let list = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries});
    Full::from(serde_json::to_vec(&list).unwrap())
}

fn listed() -> http::response::Builder {
    Response::builder().header("content-type", OCI_INDEX)
}

#[tokio::test]
async fn converted_images_come_behind_the_last_page() {
    let listing = Listing::new(|query, manifest| {
        if manifest.is_some() {
            return None;
        }
        let next = "</v2/app/referrers/x?last=a>; rel=\"next\"";
        Some(match query {
            "last=a" => listed().body(list(&[other("b")])).unwrap(),
            _ => listed()
                .header("link", next)
                .body(list(&[other("a")]))
                .unwrap(),
        })
    })
    .await;
    assert_eq!(listing.types("").await, ["a"]);
    listing.convert().await;
    let first = listing.list("").await;
    assert_eq!(
        first.header("link"),
        "</v2/app/referrers/x?last=a>; rel=\"next\""
    );
    assert_eq!(listing.types("").await, ["a"]);
    assert_eq!(listing.types("?last=a").await, ["b", NATIVE]);
    // What the client says about its copy is about another list.
    let path = format!("/v2/app/referrers/{}", listing.source.digest());
    let conditional = [("if-none-match", "*"), ("range", "bytes=0-1")];
    listing.proxy.ask(Method::GET, &path, &conditional).await;
    let last = listing.log.all().pop().unwrap();
    assert!(last.uri.path().contains("/referrers/"), "{last:?}");
    assert!(!last.headers.contains_key("if-none-match"), "{last:?}");
    assert!(!last.headers.contains_key("range"), "{last:?}");
}

#[tokio::test]
async fn a_converted_image_that_the_upstream_has_is_on_one_of_its_pages() {
    let listing = Listing::new(|_, manifest| match manifest {
        // It has whatever is asked for.
        Some(digest) => {
            let head = Response::builder().header("content-type", OCI_INDEX);
            let head = head.header("docker-content-digest", digest);
            Some(
                head.header("content-length", 2)
                    .body(Full::from("{}"))
                    .unwrap(),
            )
        }
        None => Some(listed().body(list(&[other("b")])).unwrap()),
    })
    .await;
    listing.convert().await;
    assert_eq!(listing.types("").await, ["b", NATIVE]);
    assert_eq!(listing.types("?last=a").await, ["b"]);
}

#[tokio::test]
async fn a_filter_is_applied_here_where_the_upstream_does_not() {
    let listing = Listing::new(|query, manifest| {
        if manifest.is_some() {
            return None;
        }
        let all = [other("a"), other(NATIVE)];
        Some(
            if query.contains("artifactType=") {
                listed().body(list(&all))
            } else {
                listed()
                    .header("oci-filters-applied", "artifactType")
                    .body(list(&all))
            }
            .unwrap(),
        )
    })
    .await;
    listing.convert().await;
    let query = format!("?artifactType={}", NATIVE.replace('+', "%2B"));
    let answer = listing.list(&query).await;
    assert_eq!(answer.header("oci-filters-applied"), "artifactType");
    assert_eq!(listing.types(&query).await, [NATIVE, NATIVE]);
    let all = listing.list("").await;
    assert_eq!(all.header("oci-filters-applied"), "", "{all:?}");
    assert_eq!(listing.types("").await, ["a", NATIVE, NATIVE]);
    let asked = listing.log.all();
    let asked = asked
        .iter()
        .filter(|seen| seen.uri.path().contains("/referrers/"));
    let queries: Vec<_> = asked
        .map(|seen| seen.uri.query().unwrap_or_default())
        .collect();
    assert!(queries.contains(&&query[1..]), "{queries:?}");
}

#[tokio::test]
async fn an_upstream_that_fails_gives_no_list_of_its_own() {
    let listing = Listing::new(|_, manifest| match manifest {
        Some(_) => None,
        None => Some(
            Response::builder()
                .status(503)
                .body(Full::from("away"))
                .unwrap(),
        ),
    })
    .await;
    listing.convert().await;
    let answer = listing.list("").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{answer:?}");
}
