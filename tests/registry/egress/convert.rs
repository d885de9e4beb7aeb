//! `convert` from and to registries behind an egress proxy.

use super::{Place, finish, program};

#[test]
fn a_registry_without_tls_is_pulled_from_and_pushed_to_with_whole_addresses() {
    let Some(place) = Place::new() else {
        return;
    };
    let image = format!("http://{}/app:1", place.host());
    let mut command = program();
    command.env("HTTP_PROXY", place.squid.url());
    command.args([
        "convert",
        "--platform=linux/amd64",
        &image,
        &format!("{image}_obd"),
    ]);
    let (went_well, text) = finish(command);
    assert!(went_well, "{text}");
    assert_eq!(place.registry.count("PUT", "manifests/1_obd"), 1);
    let log = place.squid.log();
    let root = format!("http://{}/v2/", place.host());
    let is_whole = |line: &String| line.split(' ').nth(1).unwrap().starts_with(&root);
    assert!(log.iter().all(is_whole), "{log:?}");
    for method in ["GET", "POST", "PUT"] {
        assert!(
            log.iter().any(|line| line.starts_with(method)),
            "{method} in {log:?}"
        );
    }
}

#[test]
fn what_no_proxy_names_and_this_machine_are_reached_directly() {
    let Some(place) = Place::new() else {
        return;
    };
    let squid = place.squid.url();
    let here = format!("http://{}/app:1", place.registry.address());
    let there = format!("http://{}/app:1", place.host());
    let seen = || place.squid.log().len();
    let convert = |image: &str, options: &[&str], variables: &[(&str, &str)]| {
        let out = tempfile::tempdir().unwrap();
        let out = format!("oci:{}:x", out.path().join("out").display());
        let mut command = program();
        command.args(["convert", "--platform=linux/amd64", "--attempts=1"]);
        command.args(options).args([image, &out]);
        finish_with(command, variables)
    };
    let through = format!("--egress-proxy={squid}");
    // A proxy that is named is for all addresses, except for those that NO_PROXY names.
    let (went_well, text) = convert(&here, &[&through], &[]);
    assert!(went_well, "{text}");
    let before = seen();
    assert!(before > 0);
    for list in ["127.0.0.0/8", "other.example,127.0.0.1", "*"] {
        let (went_well, text) = convert(&here, &[&through], &[("NO_PROXY", list)]);
        assert!(went_well, "{list}: {text}");
        assert_eq!(seen(), before, "{list}");
    }
    // The environment's is not for this machine.
    let (went_well, text) = convert(&here, &[], &[("HTTP_PROXY", &squid)]);
    assert!(went_well, "{text}");
    assert_eq!(seen(), before);
    // The name is known to squid only.
    for (options, variables) in [
        (
            &["--egress-proxy=none"][..],
            &[("HTTP_PROXY", squid.as_str())][..],
        ),
        (&[], &[("HTTP_PROXY", &squid), ("no_proxy", ".corp.test")]),
        (&[], &[("HTTP_PROXY", &squid), ("REQUEST_METHOD", "GET")]),
        (&[], &[("HTTPS_PROXY", &squid)]),
    ] {
        let (went_well, text) = convert(&there, options, variables);
        assert!(
            !went_well && text.contains("dns error"),
            "{variables:?}: {text}"
        );
        assert_eq!(seen(), before, "{variables:?}");
    }
    let (went_well, text) = convert(&there, &[], &[("http_proxy", &squid)]);
    assert!(went_well, "{text}");
    assert!(seen() > before);
}

fn finish_with(mut command: std::process::Command, variables: &[(&str, &str)]) -> (bool, String) {
    command.envs(variables.iter().copied());
    finish(command)
}
