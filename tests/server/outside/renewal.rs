//! Tokens that end while an image is converted.

use std::collections::HashSet;
use std::sync::Arc;

use ::http::{Request, header};
use hyper::body::Incoming;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::outside::{PLATFORM, image};
use crate::registry_support::faults::with;
use crate::registry_support::scripted::{Answer, Served, serve};
use crate::support::http;
use crate::support::image::Sealed;
use crate::support::proxy::Proxy;
use crate::support::until::until;

/// Which tokens a registry takes, and what is held up.
#[derive(Clone)]
struct Rules {
    /// For everything.
    tokens: Arc<Mutex<HashSet<&'static str>>>,
    /// For manifests only.
    manifests_only: Arc<Mutex<HashSet<&'static str>>>,
    /// For blobs only.
    blobs_only: Arc<Mutex<HashSet<&'static str>>>,
    /// Requests for blobs that have come, and whether they go on.
    blobs: Arc<watch::Sender<(usize, bool)>>,
}

impl Rules {
    fn new(tokens: &[&'static str]) -> Self {
        Self {
            tokens: Arc::new(Mutex::new(tokens.iter().copied().collect())),
            manifests_only: Arc::default(),
            blobs_only: Arc::default(),
            blobs: Arc::new(watch::Sender::new((0, false))),
        }
    }

    fn takes(&self, token: &str, is_blob: bool) -> bool {
        let is_in = |tokens: &Mutex<HashSet<&'static str>>| tokens.lock().contains(token);
        let here = if is_blob {
            &self.blobs_only
        } else {
            &self.manifests_only
        };
        is_in(&self.tokens) || is_in(here)
    }

    fn wait_for_blob(&self) {
        until("a blob is asked for", || {
            (self.blobs.borrow().0 > 0).then_some(())
        });
    }

    fn release(&self) {
        self.blobs.send_modify(|(_, goes_on)| *goes_on = true);
    }
}

/// A registry with one image, in any repository under any tag.
async fn registry(image: Sealed, rules: Rules) -> Served {
    serve(move |request: Request<Incoming>| {
        let (image, rules) = (image.clone(), rules.clone());
        async move {
            let path = request.uri().path().to_owned();
            let is_blob = path.contains("/blobs/");
            if is_blob {
                rules.blobs.send_modify(|(count, _)| *count += 1);
                let mut state = rules.blobs.subscribe();
                let _ = state.wait_for(|(_, goes_on)| *goes_on).await;
            }
            let given = request.headers().get(header::AUTHORIZATION);
            let token = given.and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
            if !rules.takes(token.unwrap_or_default(), is_blob) {
                let challenge = ("www-authenticate", "Bearer realm=\"http://t/\"");
                return with(401, &[challenge], "");
            }
            answer(&image, &path)
        }
    })
    .await
}

fn answer(image: &Sealed, path: &str) -> Answer {
    let digest = path.rsplit('/').next().unwrap_or_default();
    if let Some(blob) = image.blobs.iter().find(|blob| blob.digest() == digest) {
        return with(200, &[], blob.bytes.clone());
    }
    if path.contains("/manifests/") {
        let digest = image.digest();
        let headers = [
            ("content-type", image.media_type.as_str()),
            ("docker-content-digest", &digest),
        ];
        return with(200, &headers, image.manifest.clone());
    }
    with(404, &[], "")
}

fn start(served: &Served, data: &tempfile::TempDir) -> Arc<Proxy> {
    let few = ["--max-waiting", "2", "--address-share", "100%"];
    let options = [&PLATFORM[..], &["--hold", "1h", "--attempts", "1"], &few].concat();
    let url = format!("http://{}", served.host());
    Arc::new(Proxy::start(&url, data.path(), &options))
}

fn pull(proxy: &Arc<Proxy>, token: &str) -> std::thread::JoinHandle<http::Answer> {
    let url = format!("{}/v2/app/manifests/1_obd", proxy.url());
    let token = format!("Bearer {token}");
    std::thread::spawn(move || http::send("GET", &url, &[("authorization", &token)], b""))
}

/// Waits until both requests wait for the conversion.
fn both_wait(proxy: &Proxy) {
    let url = format!("{}/readyz", proxy.admin());
    let all = "waiting for conversions: 2 of at most 2";
    until("both wait", || {
        http::get(&url).text().contains(all).then_some(())
    });
}

#[test]
fn a_conversion_whose_token_expires_continues_with_that_of_a_waiting_client() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let rules = Rules::new(&["first", "second"]);
    let served = runtime.block_on(registry(image(1), rules.clone()));
    let data = tempfile::tempdir().unwrap();
    let proxy = start(&served, &data);
    let first = pull(&proxy, "first");
    rules.wait_for_blob();
    let second = pull(&proxy, "second");
    both_wait(&proxy);
    rules.tokens.lock().remove("first");
    rules.release();
    let (first, second) = (first.join().unwrap(), second.join().unwrap());
    assert_eq!(second.status, 200, "{second:?}\n{}", proxy.log());
    // It was let in, and has the image.
    assert_eq!(first.status, 200, "{first:?}\n{}", proxy.log());
    assert_eq!(first.body, second.body);
    assert!(
        !proxy.log().contains("was not converted"),
        "{}",
        proxy.log()
    );
    // But nothing more.
    assert_eq!(pull(&proxy, "neither").join().unwrap().status, 401);
}

#[test]
fn a_client_with_an_expired_token_is_challenged() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let rules = Rules::new(&["first"]);
    let served = runtime.block_on(registry(image(1), rules.clone()));
    let data = tempfile::tempdir().unwrap();
    let proxy = start(&served, &data);
    let first = pull(&proxy, "first");
    rules.wait_for_blob();
    rules.tokens.lock().remove("first");
    rules.release();
    let first = first.join().unwrap();
    assert_eq!(first.status, 401, "{first:?}");
    assert!(first.header("www-authenticate").is_some(), "{first:?}");
    let log = proxy.log();
    let line = log.lines().find(|line| line.contains("was not converted"));
    let line = line.unwrap_or_else(|| panic!("{log}"));
    assert!(
        line.contains("app") && line.contains(&image(1).digest()),
        "{line}"
    );
    assert!(line.contains("credentials"), "{line}");
}

#[test]
fn a_client_with_right_credentials_gets_no_401() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let rules = Rules::new(&[]);
    rules.manifests_only.lock().insert("reader");
    rules.release();
    let served = runtime.block_on(registry(image(1), rules));
    let data = tempfile::tempdir().unwrap();
    let proxy = start(&served, &data);
    let answer = pull(&proxy, "reader").join().unwrap();
    crate::outside::refused(&answer, 502);
    assert!(answer.text().contains("ask again"), "{answer:?}");
}

#[test]
fn a_wait_over_several_requests_ends_in_the_image_although_the_token_ended() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let rules = Rules::new(&["waits", "too-late"]);
    let served = runtime.block_on(registry(image(1), rules.clone()));
    let data = tempfile::tempdir().unwrap();
    let short = ["--hold", "1s", "--auth-cache-ttl", "0", "--attempts", "1"];
    let options = [&PLATFORM[..], &short].concat();
    let url = format!("http://{}", served.host());
    let proxy = Proxy::start(&url, data.path(), &options);
    let ask = |path: &str, token: &str| {
        let token = format!("Bearer {token}");
        let url = format!("{}{path}", proxy.url());
        http::send("GET", &url, &[("authorization", &token)], b"")
    };
    let mut path = "/v2/app/manifests/1_obd".to_owned();
    let mut follow = || {
        let answer = ask(&path, "waits");
        if answer.status == 307 {
            answer.header("location").unwrap().clone_into(&mut path);
        }
        answer
    };
    assert_eq!(follow().status, 307);
    // The token ends; what was begun with it goes on.
    rules.blobs_only.lock().insert("waits");
    rules.tokens.lock().clear();
    let answer = follow();
    assert_eq!(answer.status, 307, "{answer:?}\n{}", proxy.log());
    rules.release();
    let last = (0..5).map(|_| follow()).find(|answer| answer.status != 307);
    let last = last.expect("the wait has an end");
    assert_eq!(last.status, 200, "{last:?}\n{}", proxy.log());
    assert!(last.text().contains("overlaybd"), "{last:?}");
    // Whoever did not wait is not let in, and neither is the one that waited for something else.
    let first = "/v2/app/manifests/1_obd";
    assert_eq!(ask(first, "too-late").status, 401);
    assert_eq!(ask("/v2/other/manifests/1_obd", "waits").status, 401);
    assert_eq!(ask("/v2/app/manifests/2_obd", "waits").status, 401);
}

#[test]
fn ranges_go_on_for_the_time_of_the_decision_although_the_token_ended() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let rules = Rules::new(&["reads"]);
    rules.release();
    let served = runtime.block_on(registry(image(1), rules.clone()));
    let data = tempfile::tempdir().unwrap();
    let options = [&PLATFORM[..], &["--auth-cache-ttl", "1h"]].concat();
    let url = format!("http://{}", served.host());
    let proxy = Arc::new(Proxy::start(&url, data.path(), &options));
    let manifest = pull(&proxy, "reads").join().unwrap().json();
    let digest = manifest["layers"][0]["digest"].as_str().unwrap();
    let url = format!("{}/v2/app/blobs/{digest}", proxy.url());
    let range = |range: &str, token: &str| {
        let headers = [("authorization", token), ("range", range)];
        http::send("GET", &url, &headers, b"").status
    };
    assert_eq!(range("bytes=0-9", "Bearer reads"), 206);
    rules.tokens.lock().clear();
    assert_eq!(range("bytes=10-19", "Bearer reads"), 206);
    assert_eq!(range("bytes=10-19", "Bearer another"), 401);
}
