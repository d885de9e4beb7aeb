//! `config explain` says what is served: each pull that it tells of is made.

use serde_json::Value;

use super::{MIRRORED, Place, form_of, manifest};
use crate::support;

/// What `config explain --json` says, with the file of a proxy.
#[track_caller]
fn explained(place: &Place, name: &str, image: &str, more: &[&str]) -> Value {
    let mut command = support::proxy::program();
    command
        .arg("--config")
        .arg(place.path(&format!("{name}.toml")));
    command.args([
        "config",
        "explain",
        image,
        "--json",
        "--platform",
        "linux/amd64",
    ]);
    command.args(["--upstream", &place.upstream()]).args(more);
    let output = support::run(&mut command);
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn each_pull_gets_what_is_explained() {
    let Some(place) = Place::new() else { return };
    let size = place.demo.blobs[1].bytes.len();
    for (name, rules, more) in [
        ("none", String::new(), &[][..]),
        ("pushing", String::new(), &["--push"]),
        ("no-turbo", String::new(), &["--turbo-suffix", ""]),
        ("never", "[[policy]]\nwhen = 'never'\n".to_owned(), &[]),
        (
            "everyone",
            "[[policy]]\ntag = '1'\nwhen = 'plain-tag'\nformat = 'native'\n".to_owned(),
            &["--turbo-fallback", "original"],
        ),
        (
            "sizes",
            format!(
                "[[policy]]\nrepository = 'team/*'\nmax-size = {}\nwhen = 'never'\n\
                 [[policy]]\nmin-size = {size}\nmax-size = {size}\nformat = 'original'\n",
                size - 1
            ),
            &[],
        ),
    ] {
        // What one proxy pushes is not there for the next.
        let place = Place::new().unwrap();
        place.registry.push("team/app", "1", &place.demo);
        let proxy = place.ruled(name, &rules, more);
        for repo in ["demo", "team/app"] {
            let image = format!("{repo}:1_obd");
            let explained = explained(&place, name, &image, &[&["--ask"], more].concat());
            assert_eq!(explained["repository"], repo);
            assert_eq!(explained["tag"], "1");
            assert_eq!(explained["digest"], place.demo.digest());
            let cases = explained["cases"].as_array().unwrap();
            assert_eq!(cases.len(), 1, "{explained}");
            let pulls = cases[0]["pulls"].as_array().unwrap();
            assert!(pulls.len() >= 10, "{explained}");
            for pull in pulls {
                let tag = pull["tag"].as_str().unwrap();
                let ns = pull["mirror_of"].as_str();
                let query = ns.map_or_else(String::new, |ns| format!("?ns={ns}"));
                let path = format!("/v2/{repo}/manifests/{tag}{query}");
                let answer = manifest(&proxy, &path, pull["header"].as_str());
                let gets = match answer.status {
                    404 => "upstream",
                    _ => form_of(&answer),
                };
                assert_eq!(pull["gets"], gets, "{name}: {pull}: {answer:?}");
            }
        }
    }
}

#[test]
fn an_image_is_explained_by_every_name_that_it_has() {
    let Some(place) = Place::new() else { return };
    std::fs::write(
        place.path("names.toml"),
        "[[upstream]]\nurl = 'docker.io'\n\
         [[upstream]]\nurl = 'quay.io'\nhosts = 'quay.proxy.test'\npath-prefix = 'quay'\n\
         [[policy]]\nupstream = 'docker.io'\nrepository = 'library/*'\nmax-size = '1MiB'\n\
         when = 'never'\n\
         [[policy]]\nupstream = 'quay.io'\nwhen = 'plain-tag'\n",
    )
    .unwrap();
    let explain = |image: &str, more: &[&str]| {
        let mut command = support::proxy::program();
        command.arg("--config").arg(place.path("names.toml"));
        command.args(["config", "explain", image]).args(more);
        support::run(&mut command).stdout
    };
    for (image, upstream, repository, ways) in [
        (
            "redis",
            "docker.io",
            "library/redis",
            &["", "docker.io"][..],
        ),
        ("team/redis", "docker.io", "team/redis", &["", "docker.io"]),
        (
            "docker.io/redis:7_turbo",
            "docker.io",
            "library/redis",
            &["docker.io"],
        ),
        ("quay/team/app", "quay.io", "team/app", &["", "quay.io"]),
        ("quay.io/team/app", "quay.io", "team/app", &["quay.io"]),
        ("quay.proxy.test/team/app", "quay.io", "team/app", &[""]),
        ("proxy.test/quay/team/app", "quay.io", "team/app", &[""]),
        ("proxy.test/team/app", "docker.io", "team/app", &[""]),
    ] {
        let said: Value = serde_json::from_slice(&explain(image, &["--json"])).unwrap();
        assert_eq!(said["upstream"], upstream, "{image}");
        assert_eq!(said["repository"], repository, "{image}");
        let pulls = said["cases"][0]["pulls"].as_array().unwrap();
        let mut found: Vec<&str> = pulls
            .iter()
            .map(|pull| pull["mirror_of"].as_str().unwrap_or_default())
            .collect();
        found.dedup();
        assert_eq!(found, ways, "{image}");
        let is_taken = image.starts_with("proxy.test");
        assert_eq!(said["note"].is_string(), is_taken, "{image}: {said}");
    }
    // Without a size each case is shown.
    let text = String::from_utf8(explain("redis:7", &[])).unwrap();
    for part in [
        "image      library/redis:7",
        "if its layers have 1.00 MiB or less:",
        "[[policy]] 1: upstream = \"docker.io\", repository = \"library/*\", max-size = \"1MiB\", \
         when = \"never\"",
        "otherwise:\nrule       none",
        "pulled through the proxy as a mirror of docker.io:",
        "7 (auto)",
        "turbo, or original where TurboOCI cannot carry it",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let text = String::from_utf8(explain("redis:7", &["--size", "2MiB"])).unwrap();
    assert!(!text.contains("otherwise"), "{text}");
    assert!(text.contains("rule       none"), "{text}");
    // A suffix has the image made all the same.
    let (own, mirrored) = text.split_once("as a mirror of docker.io:").unwrap();
    let starts = |part: &str| {
        let mut lines = part.lines();
        let line = lines.find(|line| line.trim_start().starts_with("7_obd "));
        line.map(|line| !line.contains("native: it cannot start: a native image is read from"))
    };
    assert_eq!(starts(mirrored), Some(false), "{text}");
    assert_ne!(starts(own), Some(false), "{text}");
}

#[test]
fn what_cannot_be_explained_is_an_error() {
    let Some(place) = Place::new() else { return };
    std::fs::write(place.path("bad.toml"), "").unwrap();
    let fail = |image: &str, more: &[&str]| {
        let mut command = support::proxy::program();
        command.arg("--config").arg(place.path("bad.toml"));
        command.args(["config", "explain", image, "--upstream", &place.upstream()]);
        let output = command.args(more).output().unwrap();
        let code = output.status.code().unwrap();
        (code, String::from_utf8(output.stderr).unwrap())
    };
    for (image, more, code, said) in [
        ("redis@sha256:0", &[][..], 2, "IMAGE: "),
        (
            "redis@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            &[],
            2,
            "the digest decides",
        ),
        ("redis:*", &[], 2, "not a pattern"),
        ("redis:7", &["--hold", "soon"], 2, "--hold"),
        ("nothing:7", &["--ask"], 4, "not found"),
    ] {
        let (found, text) = fail(image, more);
        assert_eq!(found, code, "{image}: {text}");
        assert!(text.contains(said), "{image}: {said} in {text}");
    }
    let mirrored = format!("{MIRRORED}/demo:1");
    assert_eq!(fail(&mirrored, &["--ask"]).0, 0);
}
