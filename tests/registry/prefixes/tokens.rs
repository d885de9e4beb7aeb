//! Upstreams and token servers that see who is sent what, and that answer badly.

use std::sync::Arc;

use http::Request;
use hyper::body::Incoming;
use serde_json::json;
use tokio::runtime::Runtime;

use crate::prefixes::docker::{ask, basic, bearer, get, parameter, ping};
use crate::registry_support::faults::with;
use crate::registry_support::scripted::{Answer, Log, Served, serve};
use crate::support::http::send;
use crate::support::layout::Layout;
use crate::support::proxy::Proxy;

/// What a scripted registry is.
#[derive(Clone, Default)]
struct Rules {
    /// What it takes, whole.
    takes: &'static str,
    /// The challenge; `SELF` stands for its own address.
    challenge: &'static str,
    /// Status and document of its token server.
    token: (u16, String),
    /// Whether `/v2/` lets everyone in.
    has_open_ping: bool,
}

struct Registry {
    served: Served,
    log: Log,
}

impl Registry {
    fn start(runtime: &Runtime, rules: Rules) -> Self {
        let log = Log::default();
        let (seen, rules) = (log.clone(), Arc::new(rules));
        let served = runtime.block_on(serve(move |request: Request<Incoming>| {
            seen.add(&request);
            let answer = answer(&request, &rules);
            async move { answer }
        }));
        Self { served, log }
    }

    fn upstream(&self, how: &str) -> String {
        format!("http://{},{how}", self.served.host())
    }

    /// The values of `Authorization` that it was sent, and the paths.
    fn sent(&self) -> Vec<(String, Option<String>)> {
        let seen = self.log.all();
        seen.iter()
            .map(|seen| {
                let value = seen.headers.get("authorization");
                let value = value.map(|value| value.to_str().unwrap().to_owned());
                (seen.uri.to_string(), value)
            })
            .collect()
    }
}

fn answer(request: &Request<Incoming>, rules: &Rules) -> Answer {
    let path = request.uri().path();
    if path == "/token" {
        return with(rules.token.0, &[], rules.token.1.clone());
    }
    let given = request.headers().get("authorization");
    let is_taken = given.is_some_and(|given| given == rules.takes) || rules.takes.is_empty();
    if is_taken || (rules.has_open_ping && path == "/v2/") {
        return with(200, &[], "{\"tags\":[]}");
    }
    let host = request.headers()["host"].to_str().unwrap();
    let challenge = rules.challenge.replace("SELF", &format!("http://{host}"));
    with(401, &[("www-authenticate", &challenge)], "{}")
}

fn with_tokens(token: &'static str, more: &serde_json::Value) -> Rules {
    let mut document = json!({ "token": token.strip_prefix("Bearer ").unwrap() });
    let object = document.as_object_mut().unwrap();
    object.extend(more.as_object().unwrap().clone());
    Rules {
        takes: token,
        challenge: "Bearer realm=\"SELF/token\",service=\"own\",scope=\"repository:app:pull\"",
        token: (200, document.to_string()),
        has_open_ping: false,
    }
}

fn with_passwords() -> Rules {
    Rules {
        takes: "Basic YW5uOnZlcnktc2VjcmV0",
        challenge: "Basic realm=\"own\"",
        ..Rules::default()
    }
}

/// A proxy before registries, each chosen as it says.
fn proxy(data: &tempfile::TempDir, upstreams: &[String], more: &[&str]) -> Proxy {
    let (first, others) = upstreams.split_first().unwrap();
    let mut options: Vec<&str> = Vec::new();
    for other in others {
        options.extend(["--upstream", other]);
    }
    options.extend(["--attempts", "1"]);
    options.extend(more);
    Proxy::start(first, data.path(), &options)
}

#[test]
fn a_token_goes_to_the_upstream_that_it_is_of_and_to_no_other() {
    let runtime = Runtime::new().unwrap();
    let first = Registry::start(&runtime, with_tokens("Bearer of-first", &json!({})));
    let second = Registry::start(&runtime, with_tokens("Bearer of-second", &json!({})));
    let third = Registry::start(&runtime, with_passwords());
    let fourth = Registry::start(&runtime, Rules::default());
    let data = tempfile::tempdir().unwrap();
    let upstreams = [
        first.upstream("path-prefix=first"),
        second.upstream("path-prefix=second"),
        third.upstream("path-prefix=third"),
        fourth.upstream("hosts=other.example,ns=other.example"),
    ];
    let proxy = proxy(&data, &upstreams, &[]);
    let (realm, service) = ping(&proxy);
    let token = |scopes: &[&str]| bearer(&ask(&realm, &service, scopes, Some("ann:very-secret")));
    let of_first = token(&["repository:first/app:pull"]);
    let of_third = token(&["repository:third/app:pull"]);
    let before = second.sent().len();
    let tags = "second/app/tags/list";
    for (given, error) in [
        (of_first.as_str(), "insufficient_scope"),
        (&of_third, "insufficient_scope"),
        // Whoever made it, it was not made for this one by way of the proxy.
        ("Bearer of-first", "invalid_token"),
        ("bearer of-second", "invalid_token"),
        ("Bearer", "invalid_token"),
    ] {
        for path in [tags, "second/app/manifests/1_obd"] {
            let answer = get(&proxy, path, given);
            assert_eq!(parameter(&answer, "error").unwrap(), error, "{given}");
            let scope = parameter(&answer, "scope").unwrap();
            assert_eq!(scope, "repository:second/app:pull");
        }
    }
    let url = format!("{}/v2/{tags}", proxy.url());
    let both = [
        ("authorization", "Basic YTpi"),
        ("authorization", of_first.as_str()),
    ];
    assert_eq!(send("GET", &url, &both, b"").status, 401);
    let upload = format!("{}/v2/second/app/blobs/uploads/", proxy.url());
    let first_only = [("authorization", of_first.as_str())];
    assert_eq!(send("POST", &upload, &first_only, b"").status, 401);
    assert_eq!(second.sent().len(), before, "{:?}", second.sent());
    // By another way than the path neither: it is as if there were no token.
    let url = format!("{}/v2/app/tags/list", proxy.url());
    for headers in [
        [
            ("authorization", of_first.as_str()),
            ("host", "other.example"),
        ],
        [("authorization", &of_third), ("host", "other.example")],
    ] {
        assert_eq!(send("GET", &url, &headers, b"").status, 200);
    }
    let url = format!("{url}?ns=other.example");
    assert_eq!(send("GET", &url, &first_only, b"").status, 200);
    assert!(fourth.sent().iter().all(|(_, given)| given.is_none()));
    // Each gets its own, and from one token for both.
    let token = token(&["repository:first/app:pull repository:second/app:pull"]);
    for (path, upstream, own) in [
        ("first/app/tags/list", &first, "Bearer of-first"),
        ("second/app/tags/list", &second, "Bearer of-second"),
    ] {
        assert_eq!(get(&proxy, path, &token).status, 200);
        let sent = upstream.sent().pop().unwrap();
        assert_eq!(sent, ("/v2/app/tags/list".to_owned(), Some(own.to_owned())));
    }
    let answer = get(&proxy, "third/app/tags/list", &of_third);
    assert_eq!(answer.status, 200, "{answer:?}");
    let all = [first, second, third].map(|registry| format!("{:?}", registry.sent()));
    assert!(all.iter().all(|sent| !sent.contains("obd1.")), "{all:?}");
}

#[test]
fn a_password_that_one_of_two_upstreams_refuses_is_a_token_for_the_other() {
    let runtime = Runtime::new().unwrap();
    let more = json!({"expires_in": 900, "issued_at": "2026-01-02T03:04:05Z"});
    let first = Registry::start(&runtime, with_tokens("Bearer of-first", &more));
    let more = json!({"expires_in": "1e9", "refresh_token": "kept-here"});
    let second = Registry::start(&runtime, with_tokens("Bearer of-second", &more));
    let mut refusing = with_tokens("Bearer x", &json!({}));
    refusing.token = (401, "{\"details\":\"no\"}".to_owned());
    let third = Registry::start(&runtime, refusing);
    let data = tempfile::tempdir().unwrap();
    let upstreams = [
        // The first is at the root.
        first.upstream("ns=x"),
        second.upstream("path-prefix=second"),
        third.upstream("path-prefix=third"),
    ];
    let proxy = proxy(&data, &upstreams, &[]);
    let (realm, service) = ping(&proxy);
    let asked = |scopes: &[&str]| ask(&realm, &service, scopes, Some("ann:very-secret"));
    let scopes = ["repository:third/a:pull", "repository:second/a:pull,push"];
    assert_eq!(asked(&scopes).json()["expires_in"], 86_400);
    let token = bearer(&asked(&scopes));
    let answer = get(&proxy, "second/a/tags/list", &token);
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(get(&proxy, "third/a/tags/list", &token).status, 401);
    assert_eq!(asked(&scopes[..1]).status, 401);
    // Without a prefix it is the first upstream's.
    let answer = asked(&["repository:a/b:pull"]);
    assert_eq!(answer.json()["expires_in"], 900);
    assert_eq!(answer.json()["issued_at"], "2026-01-02T03:04:05Z");
    assert_eq!(get(&proxy, "a/b/tags/list", &bearer(&answer)).status, 200);
    let (query, _) = first
        .sent()
        .into_iter()
        .find(|(uri, _)| uri.starts_with("/token"))
        .unwrap();
    assert!(query.contains("scope=repository%3Aa%2Fb%3Apull"), "{query}");
    // Of two, what ends first.
    let both = ["repository:a/b:pull", "repository:second/a:pull"];
    assert_eq!(asked(&both).json()["expires_in"], 900);
}

#[test]
fn a_registry_with_challenges_for_repositories_only_is_challenged_by_repository() {
    let runtime = Runtime::new().unwrap();
    let mut rules = with_tokens("Bearer of-first", &json!({}));
    rules.has_open_ping = true;
    let first = Registry::start(&runtime, rules);
    let mut rules = with_passwords();
    rules.has_open_ping = true;
    let second = Registry::start(&runtime, rules);
    let data = tempfile::tempdir().unwrap();
    let upstreams = [
        first.upstream("path-prefix=first"),
        second.upstream("path-prefix=second"),
    ];
    let proxy = proxy(&data, &upstreams, &[]);
    let (realm, service) = ping(&proxy);
    for prefix in ["first", "second"] {
        let scope = format!("repository:{prefix}/app:pull");
        let token = bearer(&ask(&realm, &service, &[&scope], Some("ann:very-secret")));
        let answer = get(&proxy, &format!("{prefix}/app/tags/list"), &token);
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    let scope = ["repository:second/app:pull"];
    assert_eq!(ask(&realm, &service, &scope, Some("ann:wrong")).status, 401);
}

#[test]
fn an_invalid_answer_of_a_token_server_is_an_error() {
    let runtime = Runtime::new().unwrap();
    let good = || with_tokens("Bearer x", &json!({}));
    let answering = |token: (u16, String)| Rules { token, ..good() };
    let led = |challenge| Rules {
        challenge,
        ..good()
    };
    let long = json!({ "token": "x".repeat(40 << 10) }).to_string();
    let huge = json!({ "token": "x", "more": "x".repeat(2 << 20) }).to_string();
    let bad = json!({ "token": "a\nb" }).to_string();
    let registries = [
        (answering((200, long)), 502),
        (answering((200, huge)), 502),
        (answering((200, bad)), 502),
        (answering((200, "no token".to_owned())), 502),
        (answering((404, String::new())), 502),
        (answering((429, String::new())), 429),
        (answering((403, String::new())), 403),
        (answering((503, String::new())), 503),
        (led("Bearer realm=\"http://169.254.169.254/token\""), 502),
        (led("Bearer realm=\"file:///etc/passwd\""), 502),
        (led("Bearer realm=\"http://ann:very@SELF/token\""), 502),
        (led("Negotiate"), 401),
    ];
    let statuses = registries.each_ref().map(|(_, status)| *status);
    let registries = registries.map(|(rules, _)| Registry::start(&runtime, rules));
    let data = tempfile::tempdir().unwrap();
    let upstreams: Vec<String> = (0..)
        .zip(&registries)
        .map(|(number, registry)| registry.upstream(&format!("path-prefix=r{number}")))
        .collect();
    let proxy = proxy(&data, &upstreams, &[]);
    let (realm, service) = ping(&proxy);
    for (number, status) in (0..).zip(statuses) {
        let scope = format!("repository:r{number}/app:pull");
        let answer = ask(&realm, &service, &[&scope], Some("ann:very-secret"));
        assert_eq!(answer.status, status, "{number}: {answer:?}");
        assert!(answer.header("www-authenticate").is_none() == (status != 401));
        assert!(!answer.text().contains("127.0.0.1"), "{answer:?}");
    }
    // A challenge that nobody here can answer stays.
    let answer = proxy.get("r11/app/tags/list");
    assert_eq!(answer.header("www-authenticate"), Some("Negotiate"));
    let scopes = vec!["repository:r0/app:pull"; 33];
    let answer = ask(&realm, &service, &scopes, None);
    assert_eq!(answer.status, 400, "{answer:?}");
    let scopes: Vec<String> = (0..9)
        .map(|r| format!("repository:r{r}/app:pull"))
        .collect();
    let scopes: Vec<&str> = scopes.iter().map(String::as_str).collect();
    assert_eq!(ask(&realm, &service, &scopes, None).status, 400);
    let bearer = send("GET", &realm, &[("authorization", "Bearer x")], b"");
    assert_eq!(bearer.status, 401, "{bearer:?}");
    let log = proxy.log();
    assert!(!log.contains("very-secret") && !log.contains(&basic("ann:very-secret")));
    assert!(!log.contains("panic"), "{log}");
}

#[test]
fn a_silent_token_server_is_waited_for_during_the_hold() {
    let runtime = Runtime::new().unwrap();
    let silent = runtime.block_on(serve(|request: Request<Incoming>| async move {
        if request.uri().path() == "/token" {
            std::future::pending::<()>().await;
        }
        let host = request.headers()["host"].to_str().unwrap();
        let challenge = format!("Bearer realm=\"http://{host}/token\"");
        with(401, &[("www-authenticate", &challenge)], "")
    }));
    let data = tempfile::tempdir().unwrap();
    let upstream = format!("http://{},path-prefix=silent", silent.host());
    let proxy = proxy(&data, &[upstream], &["--hold", "1s"]);
    let (realm, service) = ping(&proxy);
    let answer = ask(&realm, &service, &["repository:silent/a:pull"], None);
    assert_eq!(answer.status, 504, "{answer:?}");
}

#[test]
fn the_realm_has_the_address_that_the_client_used() {
    let runtime = Runtime::new().unwrap();
    let registry = Registry::start(&runtime, with_passwords());
    let data = tempfile::tempdir().unwrap();
    let proxy = proxy(&data, &[registry.upstream("path-prefix=p")], &[]);
    for (headers, root) in [
        (&[("host", "r.example:8480")][..], "http://r.example:8480"),
        (
            &[("host", "r.example"), ("x-forwarded-proto", "https")],
            "https://r.example",
        ),
        (
            &[
                ("host", "127.0.0.1:8480"),
                ("x-forwarded-proto", "https"),
                ("x-forwarded-host", "r.example"),
            ],
            "https://r.example",
        ),
    ] {
        for (path, realm) in [("", "/v2/_token"), ("p/a/tags/list", "/v2/p/_token")] {
            let url = format!("{}/v2/{path}", proxy.url());
            let answer = send("GET", &url, headers, b"");
            let found = parameter(&answer, "realm").unwrap();
            assert_eq!(found, format!("{root}{realm}"), "{headers:?}");
        }
    }
}

#[test]
fn upstreams_not_chosen_by_the_path_send_their_own_challenges() {
    let runtime = Runtime::new().unwrap();
    let first = Registry::start(&runtime, with_tokens("Bearer of-first", &json!({})));
    let second = Registry::start(&runtime, with_passwords());
    let realm = format!("http://{}/token", first.served.host());
    let own = format!("Bearer realm=\"{realm}\",service=\"own\",scope=\"repository:app:pull\"");
    let data = tempfile::tempdir().unwrap();
    let with_prefix = proxy(
        &data,
        &[
            second.upstream("path-prefix=second"),
            first.upstream("ns=first.example,hosts=first.example"),
        ],
        &[],
    );
    let other = tempfile::tempdir().unwrap();
    let alone = proxy(&other, &[first.upstream("ns=x")], &[]);
    let by_host = [("host", "first.example")];
    for (proxy, headers, query) in [
        (&with_prefix, &by_host[..], ""),
        (&with_prefix, &[], "?ns=first.example"),
        (&alone, &[], ""),
    ] {
        for path in ["", "_token", "app/tags/list", "app/manifests/1_obd"] {
            let url = format!("{}/v2/{path}{query}", proxy.url());
            let answer = send("GET", &url, headers, b"");
            assert_eq!(answer.status, 401, "{url}");
            assert_eq!(
                answer.header("www-authenticate"),
                Some(own.as_str()),
                "{url}"
            );
        }
        let url = format!("{}/v2/app/tags/list{query}", proxy.url());
        let headers = [headers, &[("authorization", "Bearer of-first")]].concat();
        assert_eq!(send("GET", &url, &headers, b"").status, 200, "{url}");
    }
}

#[test]
fn layouts_require_no_authentication() {
    let directory = tempfile::tempdir().unwrap();
    Layout::create(&directory.path().join("images"));
    let layout = directory.path().join("images").display().to_string();
    let data = tempfile::tempdir().unwrap();
    let open = proxy(&data, &[format!("oci:{layout},path-prefix=images")], &[]);
    assert_eq!(open.get("").status, 200);
    // Beside a registry they take what clients are made to ask for.
    let runtime = Runtime::new().unwrap();
    let registry = Registry::start(&runtime, with_passwords());
    let data = tempfile::tempdir().unwrap();
    let upstreams = [
        format!("oci:{layout},path-prefix=images"),
        registry.upstream("path-prefix=registry"),
    ];
    let mixed = proxy(&data, &upstreams, &[]);
    let (realm, service) = ping(&mixed);
    let token = bearer(&ask(&realm, &service, &["repository:images/a:pull"], None));
    // There is no such image, but whoever asks may know that.
    assert_eq!(get(&mixed, "images/layout/manifests/1", &token).status, 404);
    assert!(registry.sent().is_empty());
}
