//! Help, completions and man pages.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use super::{bad, golden, good, program};

const COMMANDS: [&str; 23] = [
    "serve",
    "convert",
    "warm",
    "inspect",
    "export",
    "ls",
    "cat",
    "cp",
    "find",
    "nbd",
    "mount",
    "cold-start",
    "check",
    "status",
    "jobs",
    "images",
    "cache",
    "store",
    "config",
    "credentials",
    "node",
    "completions",
    "man",
];

#[test]
fn the_help_of_each_command_has_examples() {
    let help = good(&["--help"]);
    assert!(help.contains("Exit codes:") && help.contains("Examples:"));
    for command in COMMANDS {
        assert!(help.contains(command), "{command}");
        let own = match command {
            "config" => good(&["config", "check", "--help"]),
            "node" => good(&["node", "check", "--help"]),
            "jobs" => good(&["jobs", "ls", "--help"]),
            "images" => good(&["images", "ls", "--help"]),
            "cache" => good(&["cache", "ls", "--help"]),
            "store" => good(&["store", "verify", "--help"]),
            command => good(&[command, "--help"]),
        };
        assert!(own.contains("Examples:"), "{command}: {own}");
        assert!(own.contains(&format!("overlaybd-proxy {command}")) || command == "config");
    }
}

#[test]
fn help_shows_defaults_and_environment_variables_and_no_value_of_them() {
    let mut command = program(&["serve", "--help"]);
    command.env("OVERLAYBD_PROXY_USER", "me:hunter2");
    let ran = super::finish(command);
    // Lines are broken anywhere.
    let help = words(&ran.out);
    for part in [
        "[default: 127.0.0.1:8480]",
        "OVERLAYBD_PROXY_LISTEN",
        "[default: _obd]",
        "--tlscacert",
    ] {
        assert!(help.contains(part), "{part} in {help}");
    }
    assert!(!help.contains("hunter2"));
}

#[test]
fn convert_has_every_option_of_the_reference() {
    let help = good(&["convert", "--help"]);
    for option in [
        "skip-verify",
        "plain-http",
        "user",
        "refresh",
        "hosts-dir",
        "tlscacert",
        "tlscert",
        "tlskey",
        "http-dump",
        "http-trace",
        "fstype",
        "dbstr",
        "algorithm",
        "bs",
        "vsize",
        "oci",
        "platform",
        "no-upload",
        "dump-manifest",
        "cert-dir",
        "client-cert",
        "repository",
        "input-tag",
        "input-digest",
        "output-tag",
        "dir",
    ] {
        assert!(help.contains(&format!("--{option}")), "{option}");
    }
    // Names that stand for another are taken, if not shown.
    for option in [
        "--referrer",
        "--concurrency-limit=2",
        "--root-ca=/x",
        "--insecure",
        "-k",
    ] {
        let error = bad(2, &["convert", option, "--no-upload", "/not/an/image"]);
        assert!(!error.contains("unexpected argument"), "{option}: {error}");
    }
}

#[test]
fn a_mistyped_option_is_reported_with_the_right_one() {
    let error = bad(2, &["serve", "--lisen", "127.0.0.1:0"]);
    assert!(error.contains("--listen"), "{error}");
    let error = bad(2, &["serve", "--push", "true"]);
    assert!(error.contains("--push=true"), "{error}");
    let error = bad(2, &["config", "check", "--read-only", "no"]);
    assert!(error.contains("--read-only=no"), "{error}");
    let error = bad(2, &["serve", "--suffix", "_x", "true"]);
    assert!(!error.contains("--suffix=true"), "{error}");
    bad(2, &["convert"]);
    bad(2, &["warm"]);
    bad(2, &[]);
}

#[test]
fn every_shell_completes_every_command() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let text = good(&["completions", shell]);
        for command in COMMANDS {
            assert!(text.contains(command), "{shell}: {command}");
        }
        assert!(text.contains("cache-size"), "{shell}");
    }
}

/// What bash offers for the last of these words.
fn completed(words: &[&str]) -> Vec<String> {
    let script = format!(
        "{}\nCOMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); COMPREPLY=()\n\
         registered=$(complete -p overlaybd-proxy) || exit 1\n\
         function=${{registered##* -F }}\n\
         \"${{function%% *}}\" \"$1\" \"${{@: -1}}\" \"${{@: -2:1}}\"\n\
         printf '%s\\n' \"${{COMPREPLY[@]}}\"\n",
        good(&["completions", "bash"])
    );
    // As one argument it would be too long.
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), script).unwrap();
    let output = super::support::command("bash")
        .arg(file.path())
        .args(words)
        .output()
        .unwrap();
    let offered = String::from_utf8(output.stdout).unwrap();
    offered.lines().map(str::to_owned).collect()
}

#[test]
fn bash_completes_commands_their_options_and_values() {
    if !super::support::have(&["bash"]) {
        return;
    }
    for (words, expected) in [
        (&["overlaybd-proxy", "ser"][..], "serve"),
        (&["overlaybd-proxy", "serve", "--hol"], "--hold"),
        (&["overlaybd-proxy", "config", "ch"], "check"),
        (&["overlaybd-proxy", "config", "check", "--lis"], "--listen"),
        (&["overlaybd-proxy", "store", ""], "verify"),
        (&["overlaybd-proxy", "serve", "--on-timeout", "b"], "busy"),
        (&["overlaybd-proxy", "convert", "--algorithm", "z"], "zstd"),
        (&["overlaybd-proxy", "convert", "--bs", "6"], "64"),
        (&["overlaybd-proxy", "convert", "--fstype", ""], "ext4"),
        (
            &["overlaybd-proxy", "warm", "--turbo-fallback", "o"],
            "original",
        ),
        (
            &["overlaybd-proxy", "serve", "--tls-client-auth", ""],
            "required",
        ),
        (
            &[
                "overlaybd-proxy",
                "config",
                "explain",
                "--platform",
                "linux/a",
            ],
            "linux/arm64",
        ),
        (&["overlaybd-proxy", "completions", "f"], "fish"),
    ] {
        let offered = completed(words);
        assert!(
            offered.iter().any(|word| word == expected),
            "{words:?}: {offered:?}"
        );
    }
}

#[test]
fn man_pages_have_all_environment_variables_and_no_hyphenated_words() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("man1");
    good(&["man", "--dir", path.to_str().unwrap()]);
    let page = std::fs::read_to_string(path.join("overlaybd-proxy-serve.1")).unwrap();
    let title = page.lines().find(|line| line.starts_with(".TH")).unwrap();
    let version = env!("CARGO_PKG_VERSION");
    assert!(
        title.contains(&format!("overlaybd-proxy {version}")),
        "{title}"
    );
    for part in ["\n.nh\n", "OVERLAYBD_PROXY_LISTEN"] {
        assert!(page.contains(part), "{part} is not in {page}");
    }
    assert!(path.join("overlaybd-proxy-config-check.1").exists());
}

/// The text of a page as `man` shows it, where lines are short, without what breaks it into lines.
fn shown(page: &std::path::Path) -> String {
    let output = super::support::command("man")
        .args(["--local-file", "--encoding=UTF-8"])
        .arg(page)
        .envs([("MANWIDTH", "60"), ("LC_ALL", "C.UTF-8"), ("TERM", "dumb")])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    words(&String::from_utf8(output.stdout).unwrap())
}

/// A text with one blank between words.
fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn what_man_shows_can_be_copied_to_a_shell() {
    if !super::support::have(&["man", "groff"]) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("man1");
    good(&["man", "--dir", path.to_str().unwrap()]);
    let mut examples = 0;
    for command in COMMANDS {
        let help = good(&[command, "--help"]);
        let page = shown(&path.join(format!("overlaybd-proxy-{command}.1")));
        // Each line for a shell has the same hyphens, quotes and backslashes, and no word of it is
        // divided.
        let lines = help.lines().map(str::trim);
        for line in lines.filter(|line| line.starts_with("overlaybd-proxy ")) {
            let line = words(line);
            assert!(page.contains(&line), "{command}: {line} is not in {page}");
            examples += 1;
        }
    }
    assert!(examples > 30, "{examples}");
    let serve = shown(&path.join("overlaybd-proxy-serve.1"));
    assert!(serve.contains("OVERLAYBD_PROXY_LISTEN"), "{serve}");
}

#[test]
fn there_is_a_man_page_for_each_command() {
    assert!(good(&["man"]).contains(".TH overlaybd-proxy 1"));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("man1");
    good(&["man", "--dir", path.to_str().unwrap()]);
    for command in COMMANDS {
        let page = std::fs::read_to_string(path.join(format!("overlaybd-proxy-{command}.1")));
        assert!(page.unwrap().contains(".SH"), "{command}");
    }
}

#[test]
fn a_closed_pipe_is_not_an_error() {
    let blobs = golden("lz4-4");
    let mut command = program(&["inspect", "--mappings"]);
    // More than a pipe holds.
    for n in 0..2000 {
        command.arg(&blobs[n % 3]);
    }
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    reader.read_line(&mut line).unwrap();
    drop(reader);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
}
