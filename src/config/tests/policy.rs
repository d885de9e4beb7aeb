//! `[[policy]]` of the file.

use super::*;

/// The settings of a file, shown, or its mistakes.
fn of_file(text: &str, arguments: &[&str]) -> Result<String, String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.toml");
    std::fs::write(&path, text).unwrap();
    settings_with(Some(&path), arguments).map_err(|errors| errors.to_string())
}

#[test]
fn each_key_of_a_rule_reaches_the_setting_that_it_names() {
    let default = of_file("[[policy]]", &[]).unwrap();
    for (key, seen) in [
        (
            "upstream = 'Docker.io'",
            r#"upstreams: [Pattern("docker.io")]"#,
        ),
        ("repository = 'a/*'", r#"repositories: [Pattern("a/*")]"#),
        (
            "tag = ['1', '2*']",
            r#"tags: [Pattern("1"), Pattern("2*")]"#,
        ),
        ("tag = 7", r#"tags: [Pattern("7")]"#),
        ("min-size = '1MiB'", "sizes: 1048576..=18446744073709551615"),
        ("max-size = 5", "sizes: 0..=5"),
        (
            "platform = 'linux/riscv64'",
            r#"Platform { os: "linux", architecture: "riscv64""#,
        ),
        ("platform = 'all'", "platforms: Some(All)"),
        ("algorithm = 'zstd'", "algorithm: Some(Zstd)"),
        ("bs = 64", "block_size: Some(BlockSize(65536))"),
        ("format = 'native'", "form: Native"),
        ("format = 'turbo'", "form: Turbo"),
        ("format = 'original'", "form: Original"),
        ("when = 'plain-tag'", "when: PlainTag"),
        ("when = 'never'", "when: Never"),
    ] {
        assert!(!default.contains(seen), "{key}: {seen} is the default");
        let text = of_file(&format!("[[policy]]\n{key}\n"), &[]).unwrap();
        assert!(text.contains(seen), "{key}: {seen} in {text}");
    }
    let two = "[[policy]]\ntag = 'a'\n[[policy]]\ntag = 'b'\nwhen = 'never'\n";
    let text = of_file(two, &[]).unwrap();
    let place = |pattern: &str| text.find(&format!("Pattern({pattern:?})")).unwrap();
    assert!(place("a") < place("b"), "in their order: {text}");
}

#[test]
fn a_rule_s_list_is_read_with_the_file() {
    let list = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(list.path(), "/bin/sh\n").unwrap();
    let rule = format!("[[policy]]\nprefetch-list = '{}'\n", list.path().display());
    let text = of_file(&rule, &[]).unwrap();
    let seen = r#"prefetch: Some(PrefetchList { entries: ["/bin/sh"]"#;
    assert!(text.contains(seen), "{text}");
    std::fs::write(list.path(), "bin/sh\n").unwrap();
    let errors = of_file(&rule, &[]).unwrap_err();
    assert!(errors.contains("entry 1: `prefetch-list`: "), "{errors}");
    assert!(errors.contains("line 1"), "{errors}");
}

#[test]
fn all_mistakes_of_all_rules_are_reported_with_their_numbers() {
    let text = "
        [[policy]]
        repositry = 'x'
        when = 'sometimes'
        colourfulness = 1
        [[policy]]
        repository = 'UPPER/*'
        tag = ['a b']
        upstream = ''
        format = 'zip'
        [[policy]]
        repository = 'a'
        min-size = '2MiB'
        max-size = '1MiB'
        platform = ['linux', 'all']
        [[policy]]
        repository = 'b'
        when = 'never'
        format = 'native'
        [[policy]]
        repository = 'c'
        when = 'plain-tag'
        format = 'original'
        max-size = 'lots'
        [[policy]]
        when = true
        [[policy]]
        repository = 'd'
        when = 'never'
        platform = 'linux/amd64'
        bs = 64
        [[policy]]
        repository = 'e'
        format = 'turbo'
        algorithm = 'gzip'
        bs = 5
        prefetch-list = '/nonexistent/list'
    ";
    let errors = of_file(text, &["--turbo-suffix="]).unwrap_err();
    for part in [
        "`repositry` in entry 1: there is no such key; did you mean `repository`?",
        "`colourfulness` in entry 1: there is no such key; there are algorithm, bs, format, max-size,",
        "entry 1: `when`: \"sometimes\" is not pull, plain-tag or never",
        "entry 2: `repository`: \"UPPER/*\" matches nothing",
        "entry 2: `tag`: \"a b\" matches nothing",
        "entry 2: `upstream`: nothing can match what is empty",
        "entry 2: `format`: \"zip\" is not auto, native, turbo or original",
        "entry 3: `min-size`: is more than `max-size`",
        "entry 3: `platform`: all says it all",
        "entry 4: `format`: means nothing where `when` is never",
        "entry 5: `format`: plain tags are the original",
        "entry 5: `max-size`: \"lots\" is not a size",
        "entry 6: `when`: a string is expected",
        "entry 7: `platform`: means nothing where `when` is never",
        "entry 7: `bs`: means nothing where `when` is never",
        "entry 8: `format`: --turbo-suffix is empty",
        "entry 8: `algorithm`: ",
        "entry 8: `bs`: ",
        "entry 8: `prefetch-list`: /nonexistent/list cannot be read",
    ] {
        assert!(errors.contains(part), "{part} in {errors}");
    }
    assert!(errors.contains("`policy` in "), "{errors}");
    let unreached = "[[policy]]\ntag = '*'\n[[policy]]\n[[policy]]\ntag = 'a'\n";
    let errors = of_file(unreached, &[]).unwrap_err();
    assert!(
        errors.contains("entry 3: is never reached: entry 2"),
        "{errors}"
    );
    for wrong in ["policy = 1", "policy = ['x']", "[policy]\ntags = 'x'"] {
        let errors = of_file(wrong, &[]).unwrap_err();
        assert!(errors.contains("policy"), "{wrong}: {errors}");
    }
}
