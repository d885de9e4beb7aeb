//! Pages of other hosts: no answer allows a browser to show them what is here.

use crate::balancers::bench::{Answer, Upstream, request, send_from};
use crate::support::proxy::Proxy;

const OPEN: &str = "Access-Control-Allow-Origin: *\r\nAccess-Control-Allow-Credentials: true\r\n\
                    Access-Control-Expose-Headers: Location\r\n";

#[track_caller]
fn assert_closed(answer: &Answer) {
    let head = answer.head.to_lowercase();
    assert!(!head.contains("access-control-"), "{answer:?}");
}

#[test]
fn no_answer_allows_other_origins_whatever_the_upstream_says() {
    let upstream = Upstream::start(OPEN);
    for options in [&[][..], &["--own-credentials"]] {
        let data = tempfile::tempdir().unwrap();
        let proxy = Proxy::start(&upstream.url(), data.path(), options);
        let origin = [
            ("Origin", "https://evil.example"),
            ("Access-Control-Request-Method", "GET"),
            ("Access-Control-Request-Headers", "authorization"),
        ];
        let admin = proxy.admin().trim_start_matches("http://").to_owned();
        for path in [
            "/v2/",
            "/v2/app/tags/list",
            "/v2/app/manifests/1",
            "/v2/app/blobs/uploads/",
        ] {
            for method in ["GET", "HEAD", "OPTIONS", "POST"] {
                let answer = send_from("127.0.0.1", proxy.host(), &request(method, path, &origin));
                assert_ne!(answer.status, 0, "{method} {path}: {answer:?}");
                assert_closed(&answer);
                if method == "OPTIONS" && !options.is_empty() {
                    assert_eq!(answer.status, 405, "{path}: {answer:?}");
                    let allowed = answer.header("allow").unwrap();
                    assert!(
                        allowed.contains("GET") || allowed.contains("POST"),
                        "{answer:?}"
                    );
                }
            }
        }
        for path in ["/", "/metrics", "/api/v1/cache", "/livez"] {
            for method in ["GET", "OPTIONS"] {
                let answer = send_from("127.0.0.1", &admin, &request(method, path, &origin));
                assert_ne!(answer.status, 0, "{method} {path}: {answer:?}");
                assert_closed(&answer);
                if method == "OPTIONS" {
                    assert_eq!(answer.status, 405, "{path}: {answer:?}");
                    assert!(answer.header("allow").is_some(), "{answer:?}");
                }
            }
        }
    }
}
