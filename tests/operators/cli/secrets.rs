//! Nothing of a password is printed, however it was mistyped.

use std::process::Command;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::{Ran, finish, program};

/// What no name has in it, so that wherever it is seen it is a password's part; and nothing that
/// divides a connection text, so that it stays whole.
const SECRET: &str = "hunter!2";

#[track_caller]
fn tells_nothing(what: &str, ran: &Ran) {
    for (stream, text) in [("output", &ran.out), ("error", &ran.err)] {
        assert!(!text.contains(SECRET), "{what}: {stream}: {text}");
    }
}

/// The ways in which a setting comes to a command.
fn ways(key: &str, value: &str, command: &[&str]) -> Vec<(tempfile::TempDir, Command)> {
    let file = |text: String| {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.toml");
        std::fs::write(&path, text).unwrap();
        let mut made = program(&["--config", &path.display().to_string()]);
        made.args(command);
        (directory, made)
    };
    let quoted = toml::Value::from(value).to_string();
    let variable = format!("OVERLAYBD_PROXY_{}", key.to_uppercase().replace('-', "_"));
    let mut flag = file(String::new());
    flag.1.arg(format!("--{key}={value}"));
    let mut parted = file(String::new());
    parted.1.arg(format!("--{key}"));
    // As a shell divides what has no quotes; elsewhere the pieces are names of images.
    match command {
        ["serve" | "config", ..] => parted.1.args(value.split(' ')),
        _ => parted.1.arg(value),
    };
    let mut variables = file(String::new());
    variables.1.env(variable, value);
    let mut ways = vec![
        flag,
        parted,
        variables,
        file(format!("{key} = {quoted}\n")),
        // Forgotten quotes, a forgotten key, and a forgotten equals sign.
        file(format!("{key} = {value}\n")),
        file(format!("{quoted} = 1\n")),
        file(format!("{key} {quoted}\n")),
    ];
    for (directory, command) in &mut ways {
        command.env("OVERLAYBD_PROXY_DATA_DIR", directory.path().join("data"));
        command.env("OVERLAYBD_PROXY_LISTEN", "127.0.0.1:0");
    }
    ways
}

/// Every command that reads the setting, whichever way it comes.
fn commands() -> [Vec<&'static str>; 4] {
    [
        vec!["config", "check"],
        vec!["serve", "--log-level=trace"],
        vec!["warm", "--log-level=trace", "layout:1"],
        vec!["convert", "--log-level=trace", "oci:nowhere", "oci:out"],
    ]
}

#[track_caller]
fn try_all(key: &str, value: &str) {
    for mut command in commands() {
        if key != "dbstr" {
            // Without a mistake it would begin to serve.
            command.push("--bs=5");
        }
        for (_directory, made) in ways(key, value, &command) {
            let what = format!("{made:?}");
            tells_nothing(&what, &finish(made));
        }
    }
}

/// A connection text whose pieces were dropped, doubled, exchanged, or have something between
/// them.
fn mistyped() -> impl Strategy<Value = String> {
    let around = "[a-z:@()/?&=% .#]{0,6}";
    let pieces = (around, around).prop_map(|(before, after)| {
        let password = format!("{before}{SECRET}{after}");
        let pieces = [
            "obd",
            ":",
            &password,
            "@",
            "tcp",
            "(",
            "127.0.0.1:1",
            ")",
            "/",
            "obd",
        ];
        pieces.map(str::to_owned).to_vec()
    });
    let slips = prop::collection::vec(
        (0..4_usize, any::<prop::sample::Index>(), "[:@()/?& ]"),
        0..4,
    );
    (pieces, slips).prop_map(|(mut pieces, slips)| {
        for (slip, at, between) in slips {
            let at = at.index(pieces.len().max(1));
            match slip {
                0 if pieces.get(at).is_some_and(|piece| !piece.contains(SECRET)) => {
                    pieces.remove(at);
                }
                1 => pieces.insert(at, pieces.get(at).cloned().unwrap_or_default()),
                2 if at > 0 => pieces.swap(at - 1, at),
                _ => pieces.insert(at, between),
            }
        }
        pieces.concat()
    })
}

#[test]
fn no_part_of_a_mistyped_dbstr_is_printed_by_any_command() {
    let config = ProptestConfig {
        cases: 12,
        failure_persistence: None,
        // Each try is a process.
        max_shrink_iters: 40,
        ..ProptestConfig::default()
    };
    TestRunner::new(config)
        .run(&mistyped(), |text| {
            try_all("dbstr", &text);
            Ok(())
        })
        .unwrap();
}

#[test]
fn common_mistakes_in_a_dbstr_print_no_password() {
    for text in [
        // The slash of a password with nothing behind it.
        format!("obd:{SECRET}/x"),
        format!("obd:x/{SECRET}"),
        format!("obd:x/{SECRET}@db:3306"),
        // No address, no network, no parenthesis, a scheme.
        format!("obd:{SECRET}@/"),
        format!("obd:{SECRET}@db:3306/obd"),
        format!("obd:{SECRET}@tcp(127.0.0.1:1/obd"),
        format!("mysql://obd:{SECRET}@127.0.0.1:1/obd"),
        // Another sign where the colon or the at sign should be.
        format!("obd/{SECRET}@tcp(127.0.0.1:1)/obd"),
        format!("obd@{SECRET}@tcp(127.0.0.1:1)/obd"),
        format!("obd:{SECRET}:tcp(127.0.0.1:1)/obd"),
        // In the wrong place.
        format!("tcp(127.0.0.1:1)/obd:{SECRET}"),
        format!("obd@tcp({SECRET}@127.0.0.1:1)/obd"),
        format!("obd@tcp(127.0.0.1:1)/obd?password={SECRET}"),
        format!("obd@tcp(127.0.0.1:1)/obd?tls={SECRET}"),
        format!("obd@tcp(127.0.0.1:1)/obd?{SECRET}"),
        // A blank.
        format!("obd:x {SECRET}@tcp(127.0.0.1:1)/obd"),
        // None: it is right.
        format!("obd:{SECRET}@tcp(127.0.0.1:1)/obd"),
    ] {
        try_all("dbstr", &text);
    }
}

#[test]
fn a_valid_dbstr_is_printed_as_user_address_and_database() {
    let text = format!("obd:{SECRET}@tcp(127.0.0.1:1)/layers?timeout=1s");
    let ran = finish(program(&["config", "check", "--dbstr", &text]));
    assert_eq!(ran.code, 0, "{ran:?}");
    let shown = "dbstr = \"obd@tcp(127.0.0.1:1)/layers\"  # flag";
    assert!(ran.out.lines().any(|line| line == shown), "{}", ran.out);
    let data = tempfile::tempdir().unwrap();
    let data = data.path().display().to_string();
    let ran = finish(program(&["serve", "--data-dir", &data, "--dbstr", &text]));
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains("obd@tcp(127.0.0.1:1)/layers"), "{ran:?}");
}

#[test]
fn other_mistyped_or_misplaced_passwords_are_not_printed() {
    for (key, text) in [
        ("user", SECRET.to_owned()),
        ("user", format!(":{SECRET}")),
        ("user", format!("me {SECRET}")),
        ("user", format!("me;{SECRET}")),
        ("push-user", SECRET.to_owned()),
        ("refresh", SECRET.to_owned()),
        ("push-repo", format!("https://me:{SECRET}@r.io/x")),
        ("push-repo", format!("me:{SECRET}@r.io/x")),
        ("push-repo", format!("https://me:{SECRET}/x")),
        ("upstream", format!("https://me:{SECRET}@r.io")),
        ("upstream", format!("me:{SECRET}@r.io")),
        ("upstream", format!("me:{SECRET}@https://r.io")),
        ("upstream", format!("https://me:{SECRET}")),
        ("upstream", format!("r.io,user=me:{SECRET}")),
        ("upstream", format!("r.io,user={SECRET}")),
        ("upstream", format!("r.io,user=me:x,{SECRET}")),
        ("upstream", format!("r.io,me:{SECRET}")),
        ("upstream", format!("r.io,refresh=x,{SECRET}")),
        ("egress-proxy", SECRET.to_owned()),
        ("egress-proxy", format!("http://me:{SECRET}@127.0.0.1:1")),
        ("egress-proxy", format!("me:{SECRET}@127.0.0.1:1")),
        ("egress-proxy", format!("http://me:x {SECRET}@127.0.0.1:1")),
        ("egress-proxy", format!("http://me:{SECRET}")),
        ("egress-proxy", format!("http://me:x/{SECRET}@127.0.0.1:1")),
        ("egress-proxy", format!("http://me:1/{SECRET}@127.0.0.1:1")),
        ("egress-proxy", format!("socks5://me:{SECRET}@127.0.0.1:1")),
        (
            "upstream",
            format!("r.io,egress-proxy=http://me:{SECRET}@127.0.0.1:1"),
        ),
        (
            "upstream",
            format!("r.io,egress-proxy=http://me:1,{SECRET}@127.0.0.1:1"),
        ),
    ] {
        try_all(key, &text);
    }
    for arguments in [
        &["warm", "--proxy", "https://me:hunter!2@127.0.0.1:1", "x:1"][..],
        &["warm", "--proxy", "https://me:hunter!2", "x:1"],
        &["warm", "https://me:hunter!2@127.0.0.1:1/x"],
        &["warm", "me:hunter!2/x"],
        &["convert", "https://me:hunter!2@127.0.0.1:1/x", "oci:x"],
        &["convert", "docker://me:hunter!2/x", "oci:x"],
        &["convert", "--src-user", "me:", "hunter!2", "x", "oci:x"],
        &[
            "convert",
            "--src-user",
            "hunter!2",
            "127.0.0.1:1/x",
            "oci:x",
        ],
        &["inspect", "https://me:hunter!2@127.0.0.1:1/x"],
        &["--user=x", "hunter!2"],
        &[
            "config",
            "check",
            "--otlp-headers",
            "authorization=Bearer",
            "hunter!2",
        ],
        &["serve", "--otlp-headers=authorization=Bearer", "hunter!2"],
        &["serve", "--webhook", "http://127.0.0.1:1/", "hunter!2"],
    ] {
        tells_nothing(&format!("{arguments:?}"), &finish(program(arguments)));
    }
}

#[test]
fn credentials_in_hosts_toml_are_not_printed() {
    let directory = tempfile::tempdir().unwrap();
    let host = directory.path().join("r.io");
    std::fs::create_dir(&host).unwrap();
    let directory = directory.path().display().to_string();
    for text in [
        format!("[host.'https://me:{SECRET}@mirror.io']\n"),
        format!("[host.'https://me:{SECRET}@mirror.io']\nskip_verify = 1\n"),
        format!("[host]\n'me:{SECRET}@mirror.io' = 1\n"),
        format!("server = 'https://me:{SECRET}@r.io'\n"),
        format!("[header]\nauthorization = {{ a = '{SECRET}' }}\n"),
        format!("[header]\nauthorization = {SECRET}\n"),
    ] {
        std::fs::write(host.join("hosts.toml"), &text).unwrap();
        let arguments = [
            "config",
            "check",
            "--upstream=r.io",
            "--hosts-dir",
            &directory,
        ];
        let ran = finish(program(&arguments));
        assert_eq!(ran.code, 2, "{text}: {ran:?}");
        assert!(ran.err.contains("hosts.toml"), "{text}: {ran:?}");
        tells_nothing(&text, &ran);
    }
}

#[test]
fn help_does_not_show_what_the_environment_has() {
    for command in ["serve", "warm", "convert", "inspect", "check"] {
        for help in ["-h", "--help"] {
            let mut made = program(&[command, help]);
            for name in [
                "DBSTR",
                "USER",
                "REFRESH",
                "PUSH_USER",
                "SRC_USER",
                "DST_USER",
                "PROXY",
            ] {
                made.env(format!("OVERLAYBD_PROXY_{name}"), SECRET);
            }
            let ran = finish(made);
            assert_eq!(ran.code, 0, "{ran:?}");
            tells_nothing(command, &ran);
        }
    }
}
