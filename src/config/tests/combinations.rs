//! Options that depend on each other, and the reference's names.

use super::*;

#[test]
fn a_switch_has_no_value_or_a_boolean() {
    for (flag, expected) in [
        ("--read-only", true),
        ("--read-only=true", true),
        ("--read-only=false", false),
    ] {
        let text = settings(&[flag]).unwrap();
        assert_eq!(text.contains("read_only: true"), expected, "{flag}");
    }
}

#[test]
fn the_reference_s_option_names_are_accepted() {
    let files = Files::new();
    for (theirs, ours) in [
        ("--db-str=u:p@tcp(h:1)/d", "--dbstr=u:p@tcp(h:1)/d"),
        ("--concurrency-limit=3", "--conversions=3"),
        ("--referrer", "--referrers"),
        ("--insecure", "--skip-verify"),
        ("-k", "--skip-verify"),
        ("--plain", "--plain-http"),
        ("--username=me:pw", "--user=me:pw"),
        ("-ume:pw", "--user=me:pw"),
        ("--bs=0", "--bs=16"),
        ("--algorithm=", "--algorithm=zstd"),
        ("--dbstr=", "--hold=25s"),
        ("--vsize=64", "--vsize=64GiB"),
    ] {
        let (theirs_read, ours_read) = (settings(&[theirs]).unwrap(), settings(&[ours]).unwrap());
        assert_eq!(theirs_read, ours_read, "{theirs}");
    }
    let ca = files.path("pki/ca.crt");
    for name in ["tlscacert", "root-ca"] {
        let text = settings(&[&format!("--{name}={ca}")]).unwrap();
        assert!(text.contains("extra_roots: [\""), "{name}");
    }
}

#[test]
fn lists_are_not_learned_where_replicas_share_an_index() {
    let text = settings(&["--dbstr=u:p@tcp(h:1)/d"]).unwrap();
    assert!(text.contains("learn_window: None"), "{text}");
    let errors = settings(&["--dbstr=u:p@tcp(h:1)/d", "--learn-prefetch=true"]).unwrap_err();
    assert!(errors.to_string().contains("--learn-prefetch"), "{errors}");
    assert!(settings(&["--learn-window=0"]).is_err());
}

#[test]
fn with_a_shared_index_addresses_are_signed_only_with_a_shared_key() {
    let files = Files::new();
    let key = format!("--url-key-file={}", files.path("password"));
    let shared = "--dbstr=u:p@tcp(h:1)/d";
    for (arguments, lifetime) in [
        (&[][..], "url_ttl: 600s"),
        (&[&*key], "url_ttl: 600s"),
        (&[shared], "url_ttl: 0ns"),
        (&[shared, "--url-ttl=5m"], "url_ttl: 0ns"),
        (&[shared, &key], "url_ttl: 600s"),
    ] {
        let text = settings(arguments).unwrap();
        assert!(text.contains(lifetime), "{arguments:?}");
    }
}

#[test]
fn a_bucket_has_all_of_its_settings_or_none() {
    let bucket = "--blob-store=s3://images";
    for (arguments, part) in [
        (&[bucket][..], "is_virtual_hosted: true"),
        (&["--blob-store=s3://my.images"], "is_virtual_hosted: false"),
        (
            &[bucket, "--blob-store-endpoint=https://s.io"],
            "is_virtual_hosted: false",
        ),
        (
            &[bucket, "--blob-store-redirect", "--dbstr=u:p@tcp(h:1)/d"],
            "blob_redirect: Some(600s)",
        ),
        (&[bucket], "blob_redirect: None"),
    ] {
        let text = settings(arguments).unwrap();
        assert!(text.contains(part), "{arguments:?}");
    }
    for wrong in [
        &["--blob-store=images"][..],
        &["--blob-store-endpoint=https://s.io"],
        &["--blob-store-region=eu-1"],
        &["--blob-store-redirect"],
        &[bucket, "--blob-store-region=EU 1"],
        &[bucket, "--blob-store-endpoint=s.io"],
        &[bucket, "--blob-store-endpoint=https://s.io/images"],
        &[bucket, "--blob-store-credentials-file=/not/there"],
        &[bucket, "--blob-store-redirect", "--url-ttl=0"],
        &[bucket, "--blob-store-redirect", "--learn-prefetch=true"],
    ] {
        assert!(settings(wrong).is_err(), "{wrong:?}");
    }
}

#[test]
fn contradictory_options_are_errors() {
    let files = Files::new();
    let ca = format!("--tls-client-ca={}", files.path("pki/ca.crt"));
    let cert = format!("--tls-cert={}", files.path("pki/client.crt"));
    let own_cert = format!("--upstream-cert={}", files.path("pki/client.crt"));
    let htpasswd = format!("--htpasswd={}", files.path("htpasswd"));
    let password = format!("--password-file={}", files.path("password"));
    let secret = |name: &str| format!("--{name}={}", files.path("password"));
    let [admin_token, notifications, webhook_secret, url_keys] = [
        "admin-token-file",
        "notification-secret-file",
        "webhook-secret-file",
        "url-key-file",
    ]
    .map(secret);
    for (arguments, named) in [
        (vec![ca.as_str()], "--tls-cert and --tls-key"),
        (vec![cert.as_str()], "--tls-key"),
        (vec![own_cert.as_str()], "--upstream-key"),
        (vec!["--tls-client-auth=required"], "--tls-client-ca"),
        (
            vec![htpasswd.as_str(), "--own-credentials=false"],
            "leave one out",
        ),
        (
            vec!["--allow-anonymous-push"],
            "it is for --own-credentials",
        ),
        (
            vec!["--allow-anonymous-push", htpasswd.as_str()],
            "nobody is anonymous",
        ),
        (
            vec!["--allow-anonymous-push", "--own-credentials", "--read-only"],
            "leave one out",
        ),
        (vec![password.as_str()], "--user"),
        (vec![password.as_str(), "--user=a:b"], "drop one"),
        (vec!["--user=me"], "password is missing"),
        (vec!["--user=me:"], "a name and a password"),
        (vec!["--user=a:b", "--refresh=t"], "leave one out"),
        (vec!["--push-user=a:b"], "--push-repo"),
        (
            vec!["--push-repo=x", "--push-user=a:b"],
            "HOST of --push-repo",
        ),
        (vec!["--push=false", "--push-repo=x"], "--push-repo"),
        (
            vec!["--push-overwrite-tags"],
            "means nothing without --push",
        ),
        (vec!["--platform=all,linux/arm64"], "leave the others out"),
        (vec!["--upstream=a.io;b.io", "--user=a:b"], "[[upstream]]"),
        (vec!["--upstream=a.io;a.io"], "two upstreams have ns"),
        (
            vec!["--upstream=a.io,path-prefix=x;b.io,path-prefix=x"],
            "path-prefix",
        ),
        (
            vec!["--upstream=ftp://a.io"],
            "\"ftp://a.io\" has no scheme",
        ),
        (
            vec!["--upstream=https://me:pw@a.io"],
            "do not belong into an address",
        ),
        (vec!["--upstream=https://a.io/path"], "is no upstream"),
        (vec!["--upstream=oci:"], "names no path"),
        (
            vec!["--upstream=a.io,attempts=2,colour=red"],
            "setting 2 behind the address is none of",
        ),
        (vec!["--allow-host=a.io:5000"], "without a port"),
        (vec!["--vsize=1GB"], "whole blocks"),
        (vec!["--vsize=0"], "1MiB to 16TiB"),
        (vec!["--vsize=99999999999999999999"], "vsize"),
        (vec!["--convert-on-pull=:::"], "matches no image"),
        (vec!["--suffix=/x"], "cannot end a tag"),
        (vec!["--lease-ttl=1s"], "dead one"),
        (vec!["--listen=8480"], "is not an address"),
        (vec!["--max-layer-size=0"], "max-layer-size"),
        (vec!["--log-level=[["], "is no level"),
        (
            vec![admin_token.as_str()],
            "--admin-token-file: does nothing without --admin",
        ),
        (
            vec![notifications.as_str()],
            "--notification-secret-file: does nothing without --admin",
        ),
        (
            vec![webhook_secret.as_str()],
            "--webhook-secret-file: does nothing without --webhook",
        ),
        (
            vec!["--tag-ttl=1m"],
            "--tag-ttl: does nothing without --cache-source",
        ),
        (
            vec!["--learn-window=2m"],
            "--learn-window: does nothing without --learn-prefetch",
        ),
        (
            vec![url_keys.as_str(), "--url-ttl=0"],
            "--url-key-file: with --url-ttl 0 no address is signed",
        ),
        (vec!["--cache-size=5"], "was 5GiB meant?"),
        (
            vec!["--listen=0.0.0.0:9", "--admin=127.0.0.1:9"],
            "--admin: 127.0.0.1:9 cannot be listened on beside 0.0.0.0:9 of --listen",
        ),
        (
            vec!["--listen=127.0.0.1:9", "--listen-overlaybd=:9"],
            "--listen-overlaybd: [::]:9 cannot be listened on beside 127.0.0.1:9 of --listen",
        ),
        (
            vec!["--tls-cert=/nowhere", "--tls-key=/nowhere"],
            "/nowhere cannot be read",
        ),
    ] {
        let error = settings(&arguments).unwrap_err().to_string();
        assert!(error.contains(named), "{arguments:?}: {named} in {error}");
    }
}

#[test]
fn settings_that_change_nothing_are_no_mistakes() {
    for arguments in [
        &["--tag-ttl=0s"][..],
        &["--learn-window=1m"],
        &["--tag-ttl=1m", "--cache-source"],
        &["--listen=0.0.0.0:9", "--admin=0.0.0.0:10"],
        &["--cache-size=0"],
    ] {
        let settings = settings(arguments);
        assert!(settings.is_ok(), "{arguments:?}: {:?}", settings.err());
    }
}

#[test]
fn pushing_beside_read_only_is_remarked_on() {
    let both = settings(&["--push", "--read-only"]).unwrap();
    assert!(both.contains("is still pushed (--push)"), "{both}");
    for one in ["--push", "--read-only"] {
        let text = settings(&[one]).unwrap();
        assert!(!text.contains("is still pushed"), "{one}");
    }
}

#[test]
fn each_upstream_has_its_own_credentials() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.toml");
    std::fs::write(
        &path,
        "[[upstream]]\nurl = 'https://a.io'\nuser = 'me:hunter2'\nattempts = 2\n\
         [[upstream]]\nurl = 'b.io'\n",
    )
    .unwrap();
    let text = settings_with(Some(&path), &[]).unwrap();
    assert_eq!(text.matches("Basic {").count(), 1, "{text}");
    let (a, b) = text.split_at(text.rfind("host: \"b.io\"").unwrap());
    assert!(a.contains("attempts: 2") && b.contains("attempts: 5"));
    assert!(b.contains("credentials: DockerConfig { path: None }"));
    assert!(!text.contains("hunter2"), "{text}");
    // `user` for one upstream alone is that one's.
    let text = settings(&["--upstream=b.io", "--user=me:hunter2"]).unwrap();
    assert!(text.contains("username: \"me\""));
}

#[test]
fn an_upstream_is_chosen_by_its_own_host() {
    let text = settings(&["--upstream=registry-1.docker.io;http://localhost:5000/"]).unwrap();
    assert!(text.contains(r#"namespaces: ["docker.io"]"#), "{text}");
    assert!(text.contains(r#"namespaces: ["localhost:5000"]"#), "{text}");
    assert_eq!(text.matches("scheme: Some(Http)").count(), 1);
}

#[test]
fn the_scheme_in_a_url_has_precedence() {
    for (written, more, expected) in [
        ("https://localhost:5000", "", "Some(Https)"),
        ("https://localhost:5000", "--plain-http", "Some(Https)"),
        ("https://localhost:5000,plain-http", "", "Some(Https)"),
        ("http://r.io,plain-http=false", "", "Some(Http)"),
        ("http://r.io", "--skip-verify", "Some(Http)"),
        ("docker://localhost:5000", "", "None"),
        ("localhost:5000", "", "None"),
        ("localhost:5000", "--plain-http", "Some(Http)"),
        ("r.io,plain-http", "", "Some(Http)"),
    ] {
        let upstream = format!("--upstream={written}");
        let arguments: Vec<&str> = [upstream.as_str(), more]
            .into_iter()
            .filter(|argument| !argument.is_empty())
            .collect();
        let text = settings(&arguments).unwrap();
        let found = text.split("scheme: ").nth(1).unwrap();
        assert!(found.starts_with(expected), "{arguments:?}: {found:.20}");
    }
    // Two names of one host, each as it is written.
    let text = settings(&["--upstream=https://r.io,ns=a;http://r.io,ns=b"]).unwrap();
    for expected in ["scheme: Some(Https)", "scheme: Some(Http)"] {
        assert_eq!(text.matches(expected).count(), 1, "{text}");
    }
}
