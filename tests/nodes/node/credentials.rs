//! `credentials`, asked by curl as overlaybd's libcurl asks it.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::support::process::Process;
use super::support::until::until;
use super::support::{command, have, is_root, proxy};

/// A running `credentials`.
pub struct Server {
    process: Process,
    at: String,
    _logs: tempfile::TempDir,
}

impl Server {
    pub fn start(listen: &str, config: &str, more: &[&str]) -> Self {
        Self::start_with(listen, config, more, Path::new("/nonexistent"))
    }

    /// With helpers from a directory.
    fn start_with(listen: &str, config: &str, more: &[&str], helpers: &Path) -> Self {
        let logs = tempfile::tempdir().unwrap();
        let mut command = proxy::program();
        let path = std::env::var("PATH").unwrap_or_default();
        command
            .env("PATH", format!("{}:{path}", helpers.display()))
            .args(["credentials", "--listen", listen, "--docker-config", config])
            .args(more);
        let mut process = Process::start(command, &logs.path().join("log"));
        let at = process.wait_for("listening on ");
        Self {
            process,
            at,
            _logs: logs,
        }
    }

    fn curl(&self) -> Command {
        let mut curl = command("curl");
        curl.args(["-sS", "--max-time", "10", "-w", "\n%{http_code}"]);
        if let Some(path) = self.at.strip_prefix("unix:") {
            curl.args(["--unix-socket", path]);
        }
        curl
    }

    /// The address that overlaybd asks, by its mode.
    fn address(&self, blob: &str) -> String {
        match self.at.strip_prefix("unix:") {
            Some(_) => format!("http://localhost/auth?remote_url={blob}"),
            None => format!("{}/auth?remote_url={blob}", self.at),
        }
    }

    fn ask(&self, blob: &str) -> (String, Value) {
        answer(self.curl().arg(self.address(blob)))
    }

    /// The user and the password of an answer, as overlaybd finds them.
    fn login(&self, blob: &str) -> Option<(String, String)> {
        let (code, body) = self.ask(blob);
        assert_eq!(code, "200", "{body}");
        assert!(
            body["traceId"].is_string() && body["data"]["auths"].is_object(),
            "{body}"
        );
        let host = blob.split('/').nth(2).unwrap();
        let entry = &body["data"]["auths"][host];
        assert_eq!(body["success"] == true, entry.is_object(), "{body}");
        let text = |key: &str| Some(entry[key].as_str()?.to_owned());
        Some((text("username")?, text("password")?))
    }
}

fn answer(curl: &mut Command) -> (String, Value) {
    let output = curl.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (body, code) = text.rsplit_once('\n').unwrap_or_default();
    let body = serde_json::from_str(body).unwrap_or(Value::Null);
    (code.to_owned(), body)
}

fn blob(place: &str) -> String {
    let (host, repo) = place.split_once('/').unwrap();
    format!("https://{host}/v2/{repo}/blobs/sha256:{}", "0".repeat(64))
}

struct Scene {
    directory: tempfile::TempDir,
}

impl Scene {
    fn new(config: &Value) -> Option<Self> {
        if !have(&["curl"]) {
            return None;
        }
        let scene = Self {
            directory: tempfile::tempdir().unwrap(),
        };
        scene.configure(config);
        Some(scene)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Replaces the file as Docker does: by another one.
    fn configure(&self, config: &Value) {
        std::fs::write(self.path("new"), config.to_string()).unwrap();
        std::fs::rename(self.path("new"), self.path("config.json")).unwrap();
    }

    fn serve(&self, more: &[&str]) -> Server {
        let listen = format!("unix:{}", self.text("socket"));
        let config = self.text("config.json");
        Server::start_with(&listen, &config, more, self.directory.path())
    }

    /// A helper that counts its runs, waits while there is a file `hold`, fails while there is
    /// `fail`, and answers what is in `answer`.
    fn helper(&self, name: &str, answer: &Value) {
        std::fs::write(self.path("answer"), answer.to_string()).unwrap();
        let directory = self.directory.path().display();
        let script = format!(
            "#!/bin/sh\ncd {directory}\nread -r server\necho \"$server\" >>runs\n\
             while [ -e hold ]; do sleep 0.05; done\n\
             if [ -e fail ]; then echo s3cret-of-helper; exit 1; fi\ncat answer\n"
        );
        let path = self.path(&format!("docker-credential-{name}"));
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn runs(&self) -> Vec<String> {
        let runs = std::fs::read_to_string(self.path("runs")).unwrap_or_default();
        runs.lines().map(str::to_owned).collect()
    }
}

// As `Server::login` gives it.
#[allow(clippy::unnecessary_wraps)]
fn named(user: &str, password: &str) -> Option<(String, String)> {
    Some((user.to_owned(), password.to_owned()))
}

#[test]
fn overlaybd_is_told_the_user_and_the_password_for_a_repository() {
    let config = json!({"auths": {
        "r.example:5000": {"username": "host", "password": "one"},
        "r.example:5000/team": {"auth": "dGVhbTp0d28="},
        "https://index.docker.io/v1/": {"auth": "aHViOnRocmVl"},
    }});
    let Some(scene) = Scene::new(&config) else {
        return;
    };
    for listen in [
        format!("unix:{}", scene.text("socket")),
        "127.0.0.1:0".to_owned(),
    ] {
        let server = Server::start(&listen, &scene.text("config.json"), &[]);
        for (place, login) in [
            ("r.example:5000/other/app", named("host", "one")),
            ("r.example:5000/team/app", named("team", "two")),
            ("registry-1.docker.io/library/redis", named("hub", "three")),
            ("none.example/x", None),
        ] {
            assert_eq!(server.login(&blob(place)), login, "{listen}: {place}");
        }
        let log = server.process.output();
        for secret in ["one", "two", "three", "dGVhbTp0d28"] {
            let quoted = [
                format!("\"{secret}\""),
                format!("={secret}"),
                format!(":{secret}"),
            ];
            assert!(quoted.iter().all(|text| !log.contains(text)), "{log}");
        }
    }
}

#[test]
fn only_root_and_the_same_user_may_ask() {
    let config = json!({"auths": {"r.example": {"username": "a", "password": "b"}}});
    let Some(scene) = Scene::new(&config) else {
        return;
    };
    if !is_root("another user") || !have(&["setpriv"]) {
        return;
    }
    let server = scene.serve(&[]);
    let mode = std::fs::metadata(scene.path("socket"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(server.login(&blob("r.example/x")), named("a", "b"));
    // Also where the file would let them in.
    for path in [scene.directory.path().to_owned(), scene.path("socket")] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).unwrap();
    }
    let mut other = command("setpriv");
    other.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    let curl = server.curl();
    other.arg(curl.get_program()).args(curl.get_args());
    let (code, body) = answer(other.arg(server.address(&blob("r.example/x"))));
    assert_eq!(
        (code.as_str(), &body["success"]),
        ("403", &json!(false)),
        "{body}"
    );
    assert!(!body.to_string().contains("\"b\""), "{body}");
}

#[test]
fn a_web_page_of_this_machine_and_odd_questions_are_told_nothing() {
    let config = json!({"auths": {"r.example": {"username": "a", "password": "b"}}});
    let Some(scene) = Scene::new(&config) else {
        return;
    };
    let server = Server::start("127.0.0.1:0", &scene.text("config.json"), &[]);
    let good = blob("r.example/x");
    let ask = |more: &[&str], address: &str| {
        let (code, body) = answer(server.curl().args(more).arg(address));
        assert!(!body.to_string().contains("password"), "{body}");
        code
    };
    let address = server.address(&good);
    assert_eq!(ask(&["-H", "Host: evil.example"], &address), "403");
    assert_eq!(ask(&["-X", "POST"], &address), "405");
    assert_eq!(ask(&[], &server.at), "400");
    assert_eq!(ask(&[], &server.address("")), "400");
    assert_eq!(
        ask(
            &[],
            &server.address("https://user:pass@r.example/v2/x/blobs/y")
        ),
        "400"
    );
    assert_eq!(
        ask(
            &[],
            &server.address(&format!("https://r.example/v2/{}", "x".repeat(5000)))
        ),
        "400"
    );
    // What is too long is not read to its end, so the refusal may not arrive.
    assert_ne!(ask(&[], &server.address(&"x".repeat(100_000))), "200");
    let log = server.process.output();
    assert!(
        !log.contains("user:pass") && log.contains("may ask for passwords here"),
        "{log}"
    );
    assert_eq!(server.login(&good), named("a", "b"));
}

#[test]
fn a_helper_runs_once_for_many_and_ahead_of_them() {
    let config = json!({"credHelpers": {"r.example": "made"}});
    let Some(scene) = Scene::new(&config) else {
        return;
    };
    scene.helper(
        "made",
        &json!({"ServerURL": "", "Username": "u", "Secret": "s3cret"}),
    );
    let server = scene.serve(&[]);
    until("the helper ran ahead", || {
        (scene.runs() == ["r.example"]).then_some(())
    });
    let curls: Vec<_> = (0..20)
        .map(|n| {
            let mut curl = server.curl();
            curl.arg(server.address(&blob(&format!("r.example/app{n}"))));
            curl.stdout(std::process::Stdio::piped()).spawn().unwrap()
        })
        .collect();
    for curl in curls {
        let out = String::from_utf8(curl.wait_with_output().unwrap().stdout).unwrap();
        assert!(out.contains("\"s3cret\"") && out.ends_with("200"), "{out}");
    }
    assert_eq!(scene.runs(), ["r.example"]);
    assert!(!server.process.output().contains("s3cret"));
}

#[test]
fn while_a_helper_is_slow_or_fails_its_last_answer_is_given() {
    let config = json!({"credHelpers": {"r.example": "made"}});
    let Some(scene) = Scene::new(&config) else {
        return;
    };
    scene.helper("made", &json!({"Username": "u", "Secret": "s3cret-first"}));
    std::fs::write(scene.path("hold"), "").unwrap();
    let server = scene.serve(&["--answer-within", "300ms"]);
    let asked = blob("r.example/app");
    // Nothing is known yet; the answer comes all the same, in time.
    let (code, body) = server.ask(&asked);
    assert_eq!(
        (code.as_str(), &body["success"]),
        ("200", &json!(false)),
        "{body}"
    );
    std::fs::remove_file(scene.path("hold")).unwrap();
    until("the answer is known", || server.login(&asked));
    assert_eq!(server.login(&asked), named("u", "s3cret-first"));
    let before = scene.runs().len();
    std::fs::write(scene.path("fail"), "").unwrap();
    let log = server.process.output();
    assert!(!log.contains("s3cret"), "{log}");
    // What is forgotten is not given again: the user may have logged out.
    server.process.signal(Signal::SIGHUP);
    until("the helper runs again", || {
        assert!(server.ask(&asked).1["success"] != true || scene.runs().len() == before);
        (scene.runs().len() > before).then_some(())
    });
    until("it fails", || server.login(&asked).is_none().then_some(()));
    assert!(
        !server.process.output().contains("s3cret-of-helper"),
        "{}",
        server.process.output()
    );
    std::fs::remove_file(scene.path("fail")).unwrap();
    until("it succeeds again", || server.login(&asked));
}

#[test]
fn a_change_of_the_file_counts_at_once() {
    let config = json!({"auths": {"r.example": {"username": "a", "password": "b"}}});
    let Some(scene) = Scene::new(&config) else {
        return;
    };
    let server = scene.serve(&[]);
    let asked = blob("r.example/x");
    assert_eq!(server.login(&asked), named("a", "b"));
    scene.configure(&json!({"auths": {"r.example": {"username": "new", "password": "c"}}}));
    assert_eq!(server.login(&asked), named("new", "c"));
    scene.configure(&json!({}));
    assert_eq!(server.login(&asked), None);
    std::fs::write(scene.path("config.json"), "{ \"auths\": s3cret").unwrap();
    assert_eq!(server.login(&asked), None);
    std::fs::remove_file(scene.path("config.json")).unwrap();
    assert_eq!(server.login(&asked), None);
    scene.configure(&config);
    assert_eq!(server.login(&asked), named("a", "b"));
    assert!(
        !server.process.output().contains("s3cret"),
        "{}",
        server.process.output()
    );
}

#[test]
fn tokens_that_overlaybd_cannot_use_are_said_in_the_log_and_not_given() {
    let config = json!({"auths": {
        "i.example": {"auth": "dTo=", "identitytoken": "s3cret-identity"},
        "t.example": {"registrytoken": "s3cret-registry"},
    }});
    let Some(scene) = Scene::new(&config) else {
        return;
    };
    let server = scene.serve(&[]);
    for (host, part) in [
        ("i.example", "identity token"),
        ("t.example", "registrytoken"),
    ] {
        let (code, body) = server.ask(&blob(&format!("{host}/x")));
        assert_eq!(
            (code.as_str(), &body["success"]),
            ("200", &json!(false)),
            "{body}"
        );
        let log = server.process.output();
        assert!(
            log.contains(part) && log.contains("overlaybd cannot use"),
            "{log}"
        );
        assert!(
            !log.contains("s3cret") && !body.to_string().contains("s3cret"),
            "{log}{body}"
        );
    }
}

#[test]
fn a_socket_that_was_left_is_replaced_and_one_in_use_is_not() {
    let config = json!({"auths": {"r.example": {"username": "a", "password": "b"}}});
    let Some(scene) = Scene::new(&config) else {
        return;
    };
    let mut first = scene.serve(&[]);
    let again = || {
        let mut command = proxy::program();
        command
            .args(["credentials", "--listen"])
            .arg(format!("unix:{}", scene.text("socket")));
        command.output().unwrap()
    };
    let refused = again();
    let said = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("another process listens there"), "{said}");
    first.process.kill();
    assert!(scene.path("socket").exists());
    let mut second = scene.serve(&[]);
    assert_eq!(second.login(&blob("r.example/x")), named("a", "b"));
    assert_eq!(second.process.stop().code(), Some(0));
    assert!(!scene.path("socket").exists());
    std::fs::write(scene.path("socket"), "a file").unwrap();
    let said = String::from_utf8(again().stderr).unwrap();
    assert!(said.contains("no socket"), "{said}");
    assert_eq!(std::fs::read(scene.path("socket")).unwrap(), b"a file");
}

#[test]
fn whether_there_are_credentials_is_said_without_the_password() {
    let config = json!({"auths": {
        "r.example": {"username": "robot", "password": "s3cret"},
        "t.example": {"registrytoken": "s3cret"},
    }});
    let Some(scene) = Scene::new(&config) else {
        return;
    };
    for (of, code, part) in [
        (
            "r.example/team/app:1",
            0,
            "r.example/team/app: user \"robot\" and a password",
        ),
        (&*blob("r.example/x"), 0, "r.example/x: user \"robot\""),
        ("none.example/x", 1, "no credentials"),
        ("t.example/x", 1, "registrytoken"),
        ("oci:x:y", 2, ""),
    ] {
        let output = proxy::program()
            .args(["credentials", "--for", of, "--docker-config"])
            .arg(scene.path("config.json"))
            .output()
            .unwrap();
        let out = String::from_utf8(output.stdout).unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{of}: {out}{err}");
        assert!(
            out.contains(part) && !out.contains("s3cret") && !err.contains("s3cret"),
            "{out}{err}"
        );
    }
}

#[test]
fn addresses_that_others_can_reach_are_refused() {
    for listen in ["0.0.0.0:0", "192.0.2.1:80", "[::]:0", "unix:"] {
        let output = proxy::program()
            .args(["credentials", "--listen", listen])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2), "{listen}");
    }
}
