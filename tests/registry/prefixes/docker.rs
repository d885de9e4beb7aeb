//! Docker's way, step by step: the challenge of `/v2/` decides for all repositories, and a token
//! is asked for with the repository's name as the user wrote it.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use overlaybd_proxy::registry::challenges;
use serde_json::Value;

use crate::prefixes::{ANN, BOB, PRIVATE, Place};
use crate::support::http::{ACCEPT, Answer, send};
use crate::support::proxy::Proxy;

pub fn basic(login: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(login))
}

/// The parameter of an answer's challenge, which must be for a token and the only one.
#[track_caller]
pub fn parameter(answer: &Answer, name: &str) -> Option<String> {
    assert_eq!(answer.status, 401, "{answer:?}");
    let found = challenges(&answer.headers);
    assert_eq!(found.len(), 1, "{answer:?}");
    assert!(found[0].is("bearer"), "{answer:?}");
    found[0].parameter(name).map(ToOwned::to_owned)
}

/// Asks a realm for a token as Docker does.
pub fn ask(realm: &str, service: &str, scopes: &[&str], login: Option<&str>) -> Answer {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.append_pair("service", service);
    for scope in scopes {
        query.append_pair("scope", scope);
    }
    query.append_pair("offline_token", "true");
    query.append_pair("client_id", "docker");
    if let Some((user, _)) = login.and_then(|login| login.split_once(':')) {
        query.append_pair("account", user);
    }
    let login = login.map(basic);
    let headers: Vec<(&str, &str)> = login
        .iter()
        .map(|login| ("authorization", login.as_str()))
        .collect();
    send("GET", &format!("{realm}?{}", query.finish()), &headers, b"")
}

/// The token of an answer, as `Authorization` has it.
#[track_caller]
pub fn bearer(answer: &Answer) -> String {
    assert_eq!(answer.status, 200, "{answer:?}");
    let document: Value = answer.json();
    let token = document["token"].as_str().unwrap();
    // What it lives is stated, or is what clients take for the least.
    assert!(document["expires_in"].as_u64().unwrap() >= 60, "{document}");
    assert_eq!(document["access_token"], token);
    assert_eq!(document["refresh_token"], Value::Null);
    format!("Bearer {token}")
}

/// Realm and service of the challenge of `/v2/`.
#[track_caller]
pub fn ping(proxy: &Proxy) -> (String, String) {
    let answer = proxy.get("");
    assert_eq!(parameter(&answer, "scope"), None);
    let realm = parameter(&answer, "realm").unwrap();
    assert!(
        realm.starts_with(&format!("{}/v2/", proxy.url())),
        "{realm}"
    );
    (realm, parameter(&answer, "service").unwrap())
}

pub fn get(proxy: &Proxy, path: &str, authorization: &str) -> Answer {
    let url = format!("{}/v2/{path}", proxy.url());
    let headers = [("accept", ACCEPT), ("authorization", authorization)];
    send("GET", &url, &headers, b"")
}

#[test]
fn docker_pulls_from_every_upstream_with_the_challenge_of_v2() {
    let Some(place) = Place::filled() else { return };
    let proxy = &place.proxy;
    let (realm, service) = ping(proxy);
    let open = ("deep/open/app", ANN);
    for (repo, login) in PRIVATE.into_iter().chain([open]) {
        let scope = format!("repository:{repo}:pull");
        let token = bearer(&ask(&realm, &service, &[&scope], Some(login)));
        let plain = get(proxy, &format!("{repo}/manifests/1"), &token);
        assert_eq!(plain.status, 200, "{plain:?}");
        assert_eq!(plain.body, place.image.manifest);
        let converted = get(proxy, &format!("{repo}/manifests/1_obd"), &token);
        assert_eq!(converted.status, 200, "{converted:?}");
        for manifest in [plain, converted] {
            let layer = manifest.json()["layers"][0]["digest"].clone();
            let blob = format!("{repo}/blobs/{}", layer.as_str().unwrap());
            assert_eq!(get(proxy, &blob, &token).status, 200);
            assert_eq!(get(proxy, &blob, &token).status, 200);
        }
        // Logged in, and still with the same token.
        assert_eq!(get(proxy, "", &token).status, 200);
    }
    place.assert_nothing_told();
}

#[test]
fn a_wrong_password_is_refused_by_the_token_endpoint() {
    let Some(place) = Place::filled() else { return };
    let (realm, service) = ping(&place.proxy);
    for (repo, login) in PRIVATE {
        let scope = format!("repository:{repo}:pull");
        let other = if login == ANN { BOB } else { ANN };
        for wrong in ["ann:wrong", other] {
            let answer = ask(&realm, &service, &[&scope], Some(wrong));
            assert_eq!(answer.status, 401, "{answer:?}");
            assert_eq!(answer.json()["errors"][0]["code"], "UNAUTHORIZED");
            let offered = challenges(&answer.headers);
            assert!(offered.len() == 1 && offered[0].is("basic"), "{answer:?}");
            // As it is without a token.
            let url = format!("{repo}/manifests/1_obd");
            let answer = get(&place.proxy, &url, &basic(wrong));
            assert_eq!(parameter(&answer, "scope").unwrap(), scope);
        }
    }
}

#[test]
fn a_repositorys_challenge_leads_to_a_token_for_it() {
    let Some(place) = Place::filled() else { return };
    let proxy = &place.proxy;
    for (repo, login) in PRIVATE {
        let (prefix, _) = repo.split_once('/').unwrap();
        for (path, scope) in [
            ("manifests/1", "pull"),
            ("manifests/1_obd", "pull"),
            ("tags/list", "pull"),
        ] {
            let path = format!("{repo}/{path}");
            let answer = proxy.get(&path);
            let scope = format!("repository:{repo}:{scope}");
            assert_eq!(parameter(&answer, "scope").unwrap(), scope, "{path}");
            let realm = parameter(&answer, "realm").unwrap();
            assert_eq!(realm, format!("{}/v2/{prefix}/_token", proxy.url()));
            // containerd asks all along where the first challenge led to.
            let first = format!("{}/v2/deep/open/_token", proxy.url());
            for realm in [&realm, &first] {
                let token = bearer(&ask(realm, "x", &[&scope], Some(login)));
                let answer = get(proxy, &path, &token);
                assert_eq!(answer.status, 200, "{answer:?}");
            }
        }
        let url = format!("{}/v2/{repo}/blobs/uploads/", proxy.url());
        let answer = send("POST", &url, &[], b"");
        let scope = parameter(&answer, "scope").unwrap();
        assert!(scope.starts_with(&format!("repository:{repo}:")), "{scope}");
        assert!(scope.contains("push"), "{scope}");
    }
    // What is no repository is the upstream's that the path names.
    let answer = proxy.get("token/_catalog");
    assert_eq!(parameter(&answer, "scope").unwrap(), "registry:catalog:*");
    let realm = parameter(&answer, "realm").unwrap();
    bearer(&ask(&realm, "x", &["registry:catalog:*"], Some(BOB)));
    let asked = place.tokens.asked.lock().last().unwrap().clone();
    assert!(
        asked.1.contains("scope=registry%3Acatalog%3A*"),
        "{asked:?}"
    );
    let answer = proxy.get("password/_catalog");
    let realm = parameter(&answer, "realm").unwrap();
    let token = bearer(&ask(&realm, "x", &["registry:catalog:*"], Some(ANN)));
    let answer = get(proxy, "password/_catalog", &token);
    assert_eq!(answer.json()["repositories"][0], "team/app");
}

#[test]
fn a_token_server_gets_the_upstreams_repository_names() {
    let Some(place) = Place::new() else { return };
    let (realm, service) = ping(&place.proxy);
    let scope = ["repository:token/team/app:pull,push"];
    bearer(&ask(&realm, &service, &scope, Some(BOB)));
    let asked = place.tokens.asked.lock().clone();
    let [(method, query, has_login)] = asked.as_slice() else {
        panic!("{asked:?}");
    };
    assert_eq!((method.as_str(), *has_login), ("GET", true));
    assert_eq!(
        query,
        "service=test-registry&scope=repository%3Ateam%2Fapp%3Apull%2Cpush&account=bob"
    );
    // containerd tries this first, and takes 404 for the sign to go on with GET.
    let answer = send("POST", &realm, &[], b"grant_type=password");
    assert_eq!(answer.status, 404, "{answer:?}");
    assert_eq!(send("PUT", &realm, &[], b"").status, 405);
}

#[test]
fn a_login_is_verified_if_only_one_upstream_can_be_meant() {
    let Some(place) = Place::new() else { return };
    // Of three upstreams none is shown a password that may be another's.
    let (realm, service) = ping(&place.proxy);
    let token = bearer(&ask(&realm, &service, &[], Some("carl:whatever")));
    assert_eq!(get(&place.proxy, "", &token).status, 200);
    assert!(place.tokens.asked.lock().is_empty());
    let answer = get(&place.proxy, "token/team/app/manifests/1", &token);
    assert_eq!(
        parameter(&answer, "error").as_deref(),
        Some("insufficient_scope")
    );
    // A part of the registry is one upstream.
    let realm = parameter(&place.proxy.get("password/"), "realm").unwrap();
    for (login, status) in [(ANN, 200), (BOB, 401)] {
        let answer = ask(&realm, "x", &[], Some(login));
        assert_eq!(answer.status, status, "{answer:?}");
        if status == 200 {
            let answer = get(&place.proxy, "password/", &bearer(&answer));
            assert_eq!(answer.status, 200, "{answer:?}");
        }
    }
    for (registry, good, wrong) in [(0, ANN, BOB), (1, BOB, ANN)] {
        let data = tempfile::tempdir().unwrap();
        let host = &place.registries[registry].host;
        let upstream = format!("http://{host},path-prefix=only");
        let proxy = Proxy::start(&upstream, data.path(), &[]);
        let (realm, service) = ping(&proxy);
        let answer = ask(&realm, &service, &[], Some(wrong));
        assert_eq!(answer.status, 401, "{answer:?}");
        let token = bearer(&ask(&realm, &service, &[], Some(good)));
        assert_eq!(get(&proxy, "", &token).status, 200);
    }
}

#[test]
fn a_blob_is_mounted_from_a_repository_of_the_same_upstream_only() {
    let Some(place) = Place::filled() else { return };
    let (realm, service) = ping(&place.proxy);
    let digest = place.image.blobs[0].digest();
    for (repo, login) in PRIVATE {
        let (prefix, _) = repo.split_once('/').unwrap();
        let into = format!("{prefix}/team/other");
        for (from, status) in [(repo, 201), ("deep/open/app", 202)] {
            let scopes = [
                format!("repository:{into}:pull,push"),
                format!("repository:{from}:pull"),
            ];
            let scopes: Vec<&str> = scopes.iter().map(String::as_str).collect();
            let token = bearer(&ask(&realm, &service, &scopes, Some(login)));
            let url = format!(
                "{}/v2/{into}/blobs/uploads/?mount={digest}&from={}",
                place.proxy.url(),
                from.replace('/', "%2F")
            );
            let answer = send("POST", &url, &[("authorization", &token)], b"");
            assert_eq!(answer.status, status, "{into} from {from}: {answer:?}");
            let location = answer.header("location").unwrap();
            assert!(location.starts_with(&format!("/v2/{into}/")), "{location}");
        }
    }
}
