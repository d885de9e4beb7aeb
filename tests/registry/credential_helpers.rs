//! Docker's credential helpers of clouds: stand-ins that print what the real ones do, before
//! registries and token servers that take nothing else.

use crate::{registry_support, support};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use registry_support::scripted::Served;
use registry_support::tokens::Tokens;
use registry_support::{DockerRegistry, Settings, find};
use support::http;
use support::image::Image;
use support::proxy::Proxy;
use support::registry::Registry;
use support::tar::Tar;
use support::until::until;

const AZURE: &str = "00000000-0000-0000-0000-000000000000";

/// A helper, `docker-credential-cloud`, that is recorded and does as it is told.
struct Helper(tempfile::TempDir);

impl Helper {
    /// It is in a `PATH` of its own, and `config.json` names it for this host.
    fn new(host: &str) -> Self {
        let helper = Self(tempfile::tempdir().unwrap());
        let place = helper.path("");
        let text =
            format!("#!/bin/sh\nserver=$(cat)\necho \"$1 $server\" >>{place}runs\n. {place}act\n");
        std::fs::write(helper.path("script"), text).unwrap();
        // Written by another process: this one's children must not have it open.
        let mut install = Command::new("install");
        install.args(["-m", "755"]).arg(helper.path("script"));
        registry_support::run(install.arg(helper.path("docker-credential-cloud")));
        let config = format!(r#"{{"credHelpers":{{"{host}":"cloud"}}}}"#);
        std::fs::write(helper.path("config.json"), config).unwrap();
        helper
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    /// What it does from now on, in the shell's words.
    fn acts(&self, act: &str) {
        std::fs::write(self.path("next"), act).unwrap();
        std::fs::rename(self.path("next"), self.path("act")).unwrap();
    }

    /// It prints this as Docker's helpers do.
    fn prints(&self, user: &str, secret: &str) {
        let text = format!(r#"{{"ServerURL":"x","Username":"{user}","Secret":"{secret}"}}"#);
        self.acts(&format!("echo '{text}'"));
    }

    /// What it was asked, each time.
    fn runs(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.path("runs")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// The proxy before `host` with what this helper gives.
    fn proxy(&self, host: &str) -> Proxy {
        let mut command = support::proxy::program();
        let path = std::env::var("PATH").unwrap();
        command.env("PATH", format!("{}:{path}", self.path("")));
        command.env("DOCKER_CONFIG", self.path(""));
        let data = self.0.path().join("data");
        let options = ["--own-credentials=true", "--attempts=1"];
        Proxy::start_as(command, host, &data, &options)
    }
}

/// A registry with an image as `app:1` and `more:1`, and with these settings.
fn registry(settings: impl FnOnce(&Path) -> Settings) -> Option<DockerRegistry> {
    let open = Registry::start()?;
    let tar = Tar::new().dir("srv").file("srv/app", "an application");
    let image = Image::gzip(&[tar.finish()]).seal();
    for repo in ["app", "more"] {
        open.push(repo, "1", &image);
    }
    DockerRegistry::start_with(|directory| {
        let mut copy = Command::new("cp");
        registry_support::run(copy.arg("-a").arg(open.storage()).arg(directory));
        settings(directory)
    })
}

/// Lets in this user alone, from now on.
fn let_in(directory: &Path, user: &str, password: &str) {
    let made = registry_support::run(Command::new("htpasswd").args(["-nbB", user, password]));
    std::fs::write(directory.join("htpasswd"), made).unwrap();
}

fn with_password(user: &str, password: &str) -> Option<DockerRegistry> {
    if find("htpasswd").is_none() {
        registry_support::skip("htpasswd is not installed: apt-get install apache2-utils");
        return None;
    }
    registry(|directory| {
        let_in(directory, user, password);
        let path = directory.join("htpasswd");
        Settings {
            auth: format!(
                "  htpasswd:\n    realm: test\n    path: {}\n",
                path.display()
            ),
            ..Settings::default()
        }
    })
}

/// The time in so many seconds, in seconds since 1970.
fn in_seconds(seconds: u64) -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.unwrap().as_secs() + seconds
}

/// A password as Amazon's ECR has it.
fn ecr(payload: &str, expiration: u64) -> String {
    BASE64_STANDARD.encode(format!(
        r#"{{"payload":"{payload}","datakey":"AQEBAHh+","version":"2","type":"DATA_KEY","expiration":{expiration}}}"#
    ))
}

/// A refresh token as Azure's ACR has it.
fn acr(number: u32, exp: u64) -> String {
    let part = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
    let claims = format!(
        r#"{{"jti":"{number}","sub":"me","exp":{exp},"iss":"Azure Container Registry","aud":"x.azurecr.io","version":"1.0","grant_type":"refresh_token"}}"#
    );
    let header = r#"{"alg":"RS256","typ":"JWT","kid":"X"}"#;
    format!("{}.{}.{}", part(header), part(&claims), part("signature"))
}

const MANIFEST: &str = "app/manifests/1";

#[test]
fn amazons_helper_is_asked_again_before_what_it_gave_ends() {
    // The registry looks at the first 72 bytes of a password (bcrypt), which are the payload.
    let payload = "an encrypted payload of Amazon that is so long that nothing else counts";
    let Some(registry) = with_password("AWS", &ecr(payload, 0)) else {
        return;
    };
    let helper = Helper::new(&registry.host);
    helper.prints("AWS", &ecr(payload, in_seconds(3)));
    let proxy = helper.proxy(&registry.host);
    assert_eq!(proxy.get(MANIFEST).status, 200);
    helper.prints("AWS", &ecr(payload, in_seconds(43_200)));
    until("the helper is asked again", || {
        assert_eq!(proxy.get(MANIFEST).status, 200);
        (helper.runs().len() > 1).then_some(())
    });
    for _ in 0..20 {
        assert_eq!(proxy.get(MANIFEST).status, 200);
    }
    let asked = format!("get {}", registry.host);
    assert_eq!(helper.runs(), [asked.clone(), asked]);
}

#[test]
fn what_still_holds_is_used_while_the_helper_fails() {
    let payload = "another encrypted payload of Amazon that is so long that nothing else counts";
    let Some(registry) = with_password("AWS", &ecr(payload, 0)) else {
        return;
    };
    let helper = Helper::new(&registry.host);
    // It is asked again after four fifths.
    helper.prints("AWS", &ecr(payload, in_seconds(20)));
    let proxy = helper.proxy(&registry.host);
    assert_eq!(proxy.get(MANIFEST).status, 200);
    // Amazon's says so too when Amazon cannot be asked.
    helper.acts("echo 'credentials not found in native keychain'; exit 1");
    until("the helper fails", || {
        assert_eq!(proxy.get(MANIFEST).status, 200);
        (helper.runs().len() > 1).then_some(())
    });
    let log = proxy.log();
    assert!(
        log.contains("docker-credential-cloud") && log.contains("still hold"),
        "{log}"
    );
}

#[test]
fn googles_helper_is_asked_at_once_after_a_refusal_but_not_each_time() {
    let user = "oauth2accesstoken";
    let Some(registry) = with_password(user, "ya29.first") else {
        return;
    };
    let helper = Helper::new(&registry.host);
    helper.prints(user, "ya29.first");
    let proxy = helper.proxy(&registry.host);
    for _ in 0..5 {
        assert_eq!(proxy.get(MANIFEST).status, 200);
    }
    assert_eq!(helper.runs().len(), 1);

    let_in(registry.directory.path(), user, "ya29.second");
    helper.prints(user, "ya29.second");
    assert_eq!(proxy.get(MANIFEST).status, 200);
    assert_eq!(helper.runs().len(), 2);

    let_in(registry.directory.path(), user, "ya29.third");
    for _ in 0..30 {
        assert!(proxy.get(MANIFEST).status >= 400);
    }
    assert!(helper.runs().len() <= 4, "{:?}", helper.runs());
}

/// A registry behind a token server, which needs openssl.
async fn with_tokens(tokens: &Arc<Tokens>) -> Option<(DockerRegistry, Served)> {
    let served = tokens.serve().await;
    let settings = tokens.settings(&format!("http://{}/oauth2/token", served.host()));
    let started = tokio::task::spawn_blocking(move || registry(|_| settings));
    Some((started.await.unwrap()?, served))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn azures_refresh_tokens_become_access_tokens_until_they_are_refused() {
    if find("openssl").is_none() {
        return registry_support::skip("openssl is not installed: apt-get install openssl");
    }
    let tokens = Tokens::new(vec![("me", "pass", "", &["pull"][..])]);
    let accepts = |token: &str| {
        let known = [(token.to_owned(), "me:pass".to_owned())];
        *tokens.refresh.lock() = known.into();
    };
    let Some((registry, _served)) = with_tokens(&tokens).await else {
        return;
    };
    // The one helper says <token>, the other a user that stands for it.
    for (number, user) in [(1, AZURE), (2, "<token>")] {
        let (first, second) = (
            acr(number, in_seconds(10_800)),
            acr(number + 10, in_seconds(10_800)),
        );
        accepts(&first);
        let helper = Helper::new(&registry.host);
        helper.prints(user, &first);
        let host = registry.host.clone();
        let asked = tokens.asked.lock().len();
        let (helper, proxy) = tokio::task::spawn_blocking(move || {
            let proxy = helper.proxy(&host);
            assert_eq!(proxy.get(MANIFEST).status, 200);
            (helper, proxy)
        })
        .await
        .unwrap();
        let (method, form, has_login) = tokens.asked.lock()[asked].clone();
        assert_eq!(method, "POST", "{form}");
        assert!(
            form.contains("grant_type=refresh_token") && !has_login,
            "{form}"
        );
        assert!(form.contains(&format!("refresh_token={first}")), "{form}");

        accepts(&second);
        helper.prints(user, &second);
        let runs = tokio::task::spawn_blocking(move || {
            // It needs a token of its own, for which the first one is refused now.
            assert_eq!(proxy.get("more/manifests/1").status, 200);
            helper.runs()
        });
        assert_eq!(runs.await.unwrap().len(), 2);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_helper_that_has_nothing_means_no_credentials() {
    if find("openssl").is_none() {
        return registry_support::skip("openssl is not installed: apt-get install openssl");
    }
    // Everyone may pull.
    let tokens = Tokens::new(vec![("", "", "", &["pull"][..])]);
    let Some((registry, _served)) = with_tokens(&tokens).await else {
        return;
    };
    let pulled = tokio::task::spawn_blocking(move || {
        let helper = Helper::new(&registry.host);
        helper.acts("echo 'credentials not found in native keychain'; exit 1");
        let proxy = helper.proxy(&registry.host);
        assert_eq!(proxy.get(MANIFEST).status, 200);
        assert_eq!(helper.runs().len(), 1);
    });
    pulled.await.unwrap();
    let (method, query, has_login) = tokens.asked.lock()[0].clone();
    assert_eq!((method.as_str(), has_login), ("GET", false), "{query}");
}

#[test]
fn a_helper_that_gives_no_credentials_is_named_and_nothing_of_its_output_is() {
    let Some(registry) = with_password("me", "pass") else {
        return;
    };
    for (act, says) in [
        ("echo s3cret; exit 3", "fails (exit status: 3)"),
        ("echo s3cret", "does not print"),
        ("echo '{\"Username\":\"s3cret\"}'", "prints an empty Secret"),
        ("while echo s3cret; do :; done", "prints more than 64 KiB"),
    ] {
        let helper = Helper::new(&registry.host);
        helper.acts(act);
        let proxy = helper.proxy(&registry.host);
        let answer = proxy.get(MANIFEST);
        assert!(answer.status >= 500, "{act}: {answer:?}");
        let log = proxy.log();
        assert!(
            log.contains(&format!("docker-credential-cloud {says}")),
            "{act}: {log}"
        );
        assert!(
            !log.contains("s3cret") && !answer.text().contains("s3cret"),
            "{act}: {log}"
        );
        // Once it is mended, it is asked again.
        helper.prints("me", "pass");
        assert_eq!(proxy.get(MANIFEST).status, 200, "{act}");
    }
    let helper = Helper::new(&registry.host);
    std::fs::remove_file(helper.path("docker-credential-cloud")).unwrap();
    let proxy = helper.proxy(&registry.host);
    assert!(proxy.get(MANIFEST).status >= 500);
    assert!(
        proxy
            .log()
            .contains("docker-credential-cloud is not there: is it in PATH?")
    );
}

#[test]
fn a_helper_that_hangs_is_ended_with_all_that_it_started() {
    let Some(registry) = with_password("me", "pass") else {
        return;
    };
    let helper = Helper::new(&registry.host);
    let pids = helper.path("pids");
    helper.acts(&format!("sleep 600 & echo $$ $! >{pids}; wait"));
    let proxy = helper.proxy(&registry.host);
    assert!(proxy.get(MANIFEST).status >= 500);
    let log = proxy.log();
    let late = "docker-credential-cloud gives no answer within 15s";
    assert!(log.contains(late), "{log}");
    let started = std::fs::read_to_string(&pids).unwrap();
    assert_eq!(started.split_whitespace().count(), 2, "{started}");
    for pid in started.split_whitespace() {
        let status = Path::new("/proc").join(pid).join("status");
        until("it has ended", || {
            let status = std::fs::read_to_string(&status).unwrap_or_default();
            // One that nobody waits for is a zombie.
            (status.is_empty() || status.contains("State:\tZ")).then_some(())
        });
    }
}

#[test]
fn many_requests_at_one_time_ask_a_helper_once() {
    let Some(registry) = with_password("me", "pass") else {
        return;
    };
    let many = |proxy: &Proxy| {
        let url = format!("{}/v2/{MANIFEST}", proxy.url());
        http::get_all(&vec![url; 20])
    };
    // A pause in which the others come.
    let pause = Duration::from_secs(2).as_secs();
    let helper = Helper::new(&registry.host);
    helper.acts(&format!(
        r#"sleep {pause}; echo '{{"Username":"me","Secret":"pass"}}'"#
    ));
    let proxy = helper.proxy(&registry.host);
    assert!(many(&proxy).iter().all(|answer| answer.status == 200));
    assert_eq!(helper.runs().len(), 1);

    // Those who waited for a failure do not try once each.
    let helper = Helper::new(&registry.host);
    helper.acts(&format!("sleep {pause}; exit 1"));
    let proxy = helper.proxy(&registry.host);
    assert!(many(&proxy).iter().all(|answer| answer.status >= 500));
    assert!(helper.runs().len() <= 3, "{:?}", helper.runs());
}
