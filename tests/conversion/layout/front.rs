//! The `/v2/` surface of a layout: statuses, headers, ranges, pages, errors.

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use overlaybd_proxy::oci::Digest;
use overlaybd_proxy::oci::media_type::{OCI_INDEX, OCI_MANIFEST};
use overlaybd_proxy::registry::Upstream;
use serde_json::{Value, json};

use super::support::*;

async fn demo() -> (tempfile::TempDir, Upstream, Image) {
    let place = tempfile::tempdir().unwrap();
    let layout = Upstream::create_layout(place.path()).unwrap();
    let image = Image::of(&vec![9; 400_000]);
    image.push(&layout, "demo", "latest").await;
    (place, layout, image)
}

fn code(body: &Bytes) -> String {
    let document: Value = serde_json::from_slice(body).unwrap();
    assert!(document["errors"][0]["message"].is_string(), "{document}");
    document["errors"][0]["code"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn v2_answers_200() {
    let (_place, layout, _) = demo().await;
    for path in ["/v2/", "/v2"] {
        let (response, body) = get(&layout, path).await;
        assert_eq!((response.status(), &body[..]), (StatusCode::OK, &b"{}"[..]));
        assert_eq!(
            header(&response, "docker-distribution-api-version"),
            "registry/2.0"
        );
    }
}

#[tokio::test]
async fn a_manifest_is_answered_by_tag_and_by_digest() {
    let (_place, layout, image) = demo().await;
    let digest = image.digest();
    let encoded = digest.as_str().replace(':', "%3A");
    for reference in ["latest", digest.as_str(), &encoded] {
        let path = format!("/v2/demo/manifests/{reference}");
        for method in [Method::GET, Method::HEAD] {
            let request = Request::builder()
                .method(&method)
                .uri(&path)
                .body(())
                .unwrap();
            let (response, body) = ask(&layout, request).await;
            assert_eq!(response.status(), StatusCode::OK, "{path}");
            assert_eq!(header(&response, "content-type"), OCI_MANIFEST);
            assert_eq!(header(&response, "docker-content-digest"), digest.as_str());
            assert_eq!(
                header(&response, "content-length"),
                image.manifest.len().to_string()
            );
            let expected = if method == Method::GET {
                &image.manifest[..]
            } else {
                b""
            };
            assert_eq!(body, expected);
        }
    }
    let known = Request::get("/v2/demo/manifests/latest")
        .header("if-none-match", format!("\"{digest}\""))
        .body(())
        .unwrap();
    let (response, body) = ask(&layout, known).await;
    assert_eq!(
        (response.status(), body.len()),
        (StatusCode::NOT_MODIFIED, 0)
    );
}

#[tokio::test]
async fn a_blob_is_served_whole_and_by_ranges() {
    let (_place, layout, image) = demo().await;
    let (digest, len) = (Digest::of(&image.layer), image.layer.len());
    let path = format!("/v2/demo/blobs/{digest}");
    let ranged = async |method: Method, range: &str| {
        let request = Request::builder()
            .method(method)
            .uri(&path)
            .header("range", range);
        ask(&layout, request.body(()).unwrap()).await
    };
    let (response, body) = get(&layout, &path).await;
    assert_eq!((response.status(), &body), (StatusCode::OK, &image.layer));
    assert_eq!(header(&response, "accept-ranges"), "bytes");
    assert_eq!(header(&response, "etag"), format!("\"{digest}\""));
    assert_eq!(header(&response, "docker-content-digest"), digest.as_str());

    for (range, part) in [
        ("bytes=0-0".to_owned(), 0..1),
        ("bytes=100-299999".to_owned(), 100..300_000),
        (format!("bytes={}-", len - 5), len - 5..len),
        ("bytes=-7".to_owned(), len - 7..len),
    ] {
        let (response, body) = ranged(Method::GET, &range).await;
        assert_eq!(response.status(), StatusCode::PARTIAL_CONTENT, "{range}");
        let expected = format!("bytes {}-{}/{len}", part.start, part.end - 1);
        assert_eq!(header(&response, "content-range"), expected);
        assert_eq!(header(&response, "content-length"), part.len().to_string());
        assert_eq!(body, image.layer[part.clone()]);
        let (response, body) = ranged(Method::HEAD, &range).await;
        assert_eq!(
            (response.status(), body.len()),
            (StatusCode::PARTIAL_CONTENT, 0)
        );
    }
    let (response, body) = ranged(Method::GET, &format!("bytes={len}-")).await;
    assert_eq!(response.status(), StatusCode::RANGE_NOT_SATISFIABLE);
    assert_eq!(header(&response, "content-range"), format!("bytes */{len}"));
    assert_eq!(code(&body), "RANGE_INVALID");
    for ignored in ["bytes=0-1,5-6", "lines=1-2", "bytes=9-2"] {
        let (response, body) = ranged(Method::GET, ignored).await;
        assert_eq!(
            (response.status(), body.len()),
            (StatusCode::OK, len),
            "{ignored}"
        );
    }
    for (tag, status) in [
        (format!("\"{digest}\""), StatusCode::PARTIAL_CONTENT),
        ("\"other\"".to_owned(), StatusCode::OK),
    ] {
        let request = Request::get(&path)
            .header("range", "bytes=0-0")
            .header("if-range", tag);
        let (response, _) = ask(&layout, request.body(()).unwrap()).await;
        assert_eq!(response.status(), status);
    }
}

#[tokio::test]
async fn pages_of_tags_make_up_the_list_whatever_their_length() {
    let (_place, layout, image) = demo().await;
    let mut all = vec!["latest".to_owned()];
    for number in 0..7 {
        let tag = format!("v{number}");
        push_manifest(&layout, "demo", &tag, &image.manifest).await;
        all.push(tag);
    }
    all.sort();
    for count in 1..=9 {
        let mut path = format!("/v2/demo/tags/list?n={count}");
        let mut found = Vec::new();
        loop {
            let (response, body) = get(&layout, &path).await;
            let document: Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(document["name"], "demo");
            let page = document["tags"].as_array().unwrap();
            assert!(!page.is_empty() && page.len() <= count);
            found.extend(page.iter().map(|tag| tag.as_str().unwrap().to_owned()));
            let link = header(&response, "link");
            let Some(next) = link.strip_suffix(">; rel=\"next\"") else {
                assert_eq!(link, "");
                break;
            };
            next.strip_prefix('<').unwrap().clone_into(&mut path);
        }
        assert_eq!(found, all, "n={count}");
    }
    let (response, body) = get(&layout, "/v2/demo/tags/list?n=0").await;
    assert_eq!(
        serde_json::from_slice::<Value>(&body).unwrap()["tags"],
        json!([])
    );
    assert_eq!(header(&response, "link"), "");
    let (response, _) = get(&layout, "/v2/demo/tags/list?n=many").await;
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    let (_, body) = get(&layout, "/v2/_catalog").await;
    let catalog: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(catalog, json!({"repositories": ["demo"]}));
}

#[tokio::test]
async fn referrers_are_an_index_of_those_that_are_asked_for() {
    let (_place, layout, image) = demo().await;
    let attached: Bytes = format!(
        r#"{{"schemaVersion":2,"config":{},"layers":[],"subject":{}}}"#,
        descriptor("a/config", b"{}"),
        descriptor(OCI_MANIFEST, &image.manifest)
    )
    .into();
    push_manifest(&layout, "demo", Digest::of(&attached).as_str(), &attached).await;
    let path = format!("/v2/demo/referrers/{}", image.digest());
    for (query, count, filters) in [
        ("", 1, ""),
        ("?artifactType=a%2Fconfig", 1, "artifactType"),
        ("?artifactType=b", 0, "artifactType"),
    ] {
        let (response, body) = get(&layout, &format!("{path}{query}")).await;
        assert_eq!(header(&response, "content-type"), OCI_INDEX);
        assert_eq!(header(&response, "oci-filters-applied"), filters);
        let document: Value = serde_json::from_slice(&body).unwrap();
        let listed = document["manifests"].as_array().unwrap();
        assert_eq!(listed.len(), count, "{query}");
        for one in listed {
            assert_eq!(one["artifactType"], "a/config");
            assert_eq!(one["digest"], json!(Digest::of(&attached)));
        }
    }
}

#[tokio::test]
async fn missing_content_has_the_specifications_error_code() {
    let (_place, layout, image) = demo().await;
    let none = Digest::of(b"none");
    for (path, status, expected) in [
        (
            "/v2/demo/manifests/none".to_owned(),
            404,
            "MANIFEST_UNKNOWN",
        ),
        (
            format!("/v2/demo/manifests/{none}"),
            404,
            "MANIFEST_UNKNOWN",
        ),
        (
            format!("/v2/demo/manifests/{}", Digest::of(&image.layer)),
            404,
            "MANIFEST_UNKNOWN",
        ),
        (
            "/v2/demo/manifests/.bad".to_owned(),
            404,
            "MANIFEST_UNKNOWN",
        ),
        (
            "/v2/demo/manifests/sha256:00".to_owned(),
            400,
            "DIGEST_INVALID",
        ),
        (format!("/v2/demo/blobs/{none}"), 404, "BLOB_UNKNOWN"),
        ("/v2/demo/blobs/latest".to_owned(), 400, "DIGEST_INVALID"),
        (
            "/v2/demo/blobs/..%2F..%2Fetc".to_owned(),
            404,
            "UNSUPPORTED",
        ),
        ("/v2/none/tags/list".to_owned(), 404, "NAME_UNKNOWN"),
        ("/v2/Demo/tags/list".to_owned(), 400, "NAME_INVALID"),
        ("/v2/demo/referrers/x".to_owned(), 400, "DIGEST_INVALID"),
        ("/v2/demo".to_owned(), 404, "UNSUPPORTED"),
        ("/".to_owned(), 404, "UNSUPPORTED"),
        ("/v3/".to_owned(), 404, "UNSUPPORTED"),
    ] {
        let (response, body) = get(&layout, &path).await;
        assert_eq!(response.status().as_u16(), status, "{path}");
        assert_eq!(code(&body), expected, "{path}");
        let head = Request::head(&path).body(()).unwrap();
        let (response, body) = ask(&layout, head).await;
        assert_eq!(
            (response.status().as_u16(), body.len()),
            (status, 0),
            "{path}"
        );
    }
}

#[tokio::test]
async fn a_layout_is_served_for_reading_only() {
    let (_place, layout, image) = demo().await;
    for (method, path) in [
        (Method::POST, "/v2/demo/blobs/uploads/".to_owned()),
        (Method::PUT, "/v2/demo/manifests/latest".to_owned()),
        (
            Method::DELETE,
            format!("/v2/demo/manifests/{}", image.digest()),
        ),
        (Method::PATCH, "/v2/".to_owned()),
    ] {
        let request = Request::builder()
            .method(method)
            .uri(&path)
            .body(())
            .unwrap();
        let (response, body) = ask(&layout, request).await;
        assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(header(&response, "allow"), "GET, HEAD");
        assert_eq!(code(&body), "UNSUPPORTED");
    }
    assert_eq!(
        resolved(&layout, "demo", "latest").await,
        Some(image.digest())
    );
}
