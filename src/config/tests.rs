//! Every option reaches the setting that it names.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use clap::{Args as _, Command, FromArgMatches as _};

use super::keys::keys;
use super::options::LogOptions;
use super::{ConfigErrors, ServeOptions, Sources, decorate, origins};

/// The settings that a command line comes to, shown, or its mistakes.
fn settings(arguments: &[&str]) -> Result<String, ConfigErrors> {
    settings_with(None, arguments)
}

fn settings_with(file: Option<&Path>, arguments: &[&str]) -> Result<String, ConfigErrors> {
    let command = ServeOptions::augment_args(Command::new("serve"));
    let command = decorate(LogOptions::augment_args(command));
    let matches = command
        .try_get_matches_from(std::iter::once(&"serve").chain(arguments))
        .unwrap();
    let options = ServeOptions::from_arg_matches(&matches).unwrap();
    let log = LogOptions::from_arg_matches(&matches).unwrap();
    let (mut sources, mut errors) = Sources::read(file, origins(&matches));
    let options = options.effective(&mut sources, &mut errors);
    let log = sources.effective(&log, &mut errors);
    // An opened registry does not show its settings.
    let mut unheard = ConfigErrors::default();
    let (upstreams, _) = options.upstream.config(&options.registry, &mut unheard);
    let config = options.config(&log, errors)?;
    let mut text = String::new();
    let _ = write!(text, "{config:?} {upstreams:?}");
    Ok(text)
}

/// Files that options name.
struct Files {
    directory: tempfile::TempDir,
}

impl Files {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("certs/make.sh");
        let made = std::process::Command::new(script)
            .arg(directory.path().join("pki"))
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        let files = Self { directory };
        std::fs::create_dir(files.path("certs")).unwrap();
        for (from, to) in [
            ("ca.crt", "ca.crt"),
            ("client.crt", "c.cert"),
            ("client.key", "c.key"),
        ] {
            let pki = files.directory.path().join("pki");
            std::fs::copy(
                pki.join(from),
                files.directory.path().join("certs").join(to),
            )
            .unwrap();
        }
        std::fs::write(files.path("password"), "from-a-file\nrest\n").unwrap();
        std::fs::write(files.path("docker.json"), "{}").unwrap();
        std::fs::write(files.path("htpasswd"), "").unwrap();
        std::fs::write(files.path("wanted"), "/bin/sh\n").unwrap();
        files
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }
}

#[test]
fn each_option_reaches_the_setting_that_it_names() {
    let files = Files::new();
    let path = |name: &str| files.path(name);
    let (ca, cert, key) = (
        path("pki/ca.crt"),
        path("pki/client.crt"),
        path("pki/client.key"),
    );
    let platform = "linux/riscv64".to_owned();
    let one = |value: &str| vec![value.to_owned()];
    // The key, its value, other flags that it needs, and what is to be seen of it.
    let table: Vec<(&str, String, Vec<String>, String)> = vec![
        (
            "admin",
            "127.0.0.1:9".into(),
            vec![],
            "admin: Some(127.0.0.1:9)".into(),
        ),
        (
            "allow-anonymous-push",
            "true".into(),
            one("--own-credentials=true"),
            "allow_anonymous_push: true".into(),
        ),
        (
            "address-share",
            "50%".into(),
            vec![],
            "address_share: 50".into(),
        ),
        (
            "client-rate",
            "5/m,burst=7".into(),
            vec![],
            "client_rate: Some(ClientRate { interval: 12s, burst: 7 })".into(),
        ),
        (
            "client-requests",
            "77".into(),
            vec![],
            "client_requests: Some(77)".into(),
        ),
        (
            "forwarded-headers",
            "forwarded".into(),
            one("--trusted-proxy=::1"),
            "headers: Standard".into(),
        ),
        (
            "proxy-protocol",
            "10.1.0.0/16".into(),
            vec![],
            "proxy_protocol: [10.1.0.0/16]".into(),
        ),
        (
            "trusted-proxy",
            "192.0.2.9".into(),
            vec![],
            "trusted: [192.0.2.9/32]".into(),
        ),
        ("algorithm", "lz4".into(), vec![], "algorithm: Lz4".into()),
        (
            "allow-downgrade",
            "true".into(),
            vec![],
            "allow_downgrade: true".into(),
        ),
        (
            "allow-host",
            "*.x.io".into(),
            vec![],
            r#"allow_hosts: ["*.x.io"]"#.into(),
        ),
        ("attempts", "7".into(), vec![], "attempts: 7".into()),
        (
            "auth-cache-ttl",
            "3s".into(),
            vec![],
            "auth_cache_ttl: 3s".into(),
        ),
        ("url-ttl", "7m".into(), vec![], "url_ttl: 420s".into()),
        (
            "learn-prefetch",
            "true".into(),
            vec![],
            "learn_window: Some(60s)".into(),
        ),
        (
            "learn-window",
            "9s".into(),
            vec!["--learn-prefetch=true".to_owned()],
            "learn_window: Some(9s)".into(),
        ),
        (
            "admin-token-file",
            path("htpasswd"),
            one("--admin=127.0.0.1:9"),
            "admin_token_file: Some(".into(),
        ),
        (
            "notification-secret-file",
            path("htpasswd"),
            one("--admin=127.0.0.1:9"),
            "notification_secret_file: Some(".into(),
        ),
        (
            "webhook",
            "https://hooks.example/a?key=hunter2".into(),
            vec![],
            "webhooks: [***]".into(),
        ),
        (
            "otlp-endpoint",
            "http://c.example:4318".into(),
            vec![],
            "path: \"/v1/traces\"".into(),
        ),
        (
            "otlp-headers",
            "api-key=hunter2".into(),
            one("--otlp-endpoint=http://c.example"),
            "headers: {\"api-key\": Sensitive}".into(),
        ),
        (
            "otlp-headers-file",
            path("htpasswd"),
            one("--otlp-endpoint=http://c.example"),
            "headers_file: Some(".into(),
        ),
        (
            "trace-sample",
            "0.25".into(),
            one("--otlp-endpoint=http://c.example"),
            "sampling: ParentBased(0.25)".into(),
        ),
        (
            "webhook-secret-file",
            path("htpasswd"),
            one("--webhook=https://hooks.example/"),
            "webhook_secret_file: Some(".into(),
        ),
        (
            "url-key-file",
            path("htpasswd"),
            vec![],
            "url_key_file: Some(".into(),
        ),
        (
            "cache-source",
            "true".into(),
            vec![],
            "source_cache: Some(".into(),
        ),
        (
            "tag-ttl",
            "4s".into(),
            one("--cache-source=true"),
            "tag_ttl: 4s".into(),
        ),
        (
            "stale-if-error",
            "5s".into(),
            vec![],
            "stale_if_error: 5s".into(),
        ),
        (
            "bs",
            "4".into(),
            vec![],
            "block_size: BlockSize(4096)".into(),
        ),
        (
            "cache-size",
            "5MiB".into(),
            vec![],
            "cache_size: Bytes(5242880)".into(),
        ),
        ("cert-dir", path("certs"), vec![], "certs/c.key".into()),
        ("connect-timeout", "3s".into(), vec![], "connect: 3s".into()),
        (
            "conversion-timeout",
            "7m".into(),
            vec![],
            "timeout: 420s".into(),
        ),
        (
            "conversions",
            "0".into(),
            vec![],
            "conversions: 4096".into(),
        ),
        ("max-queue", "77".into(), vec![], "max_queue: 77".into()),
        (
            "merged-suffix",
            "_both".into(),
            vec![],
            r#"merged_suffix: "_both""#.into(),
        ),
        (
            "list-referrers",
            "false".into(),
            vec![],
            "list_referrers: false".into(),
        ),
        (
            "p2p-host",
            "CDN.example:8443".into(),
            vec![],
            r#"p2p_hosts: ["cdn.example:8443"]"#.into(),
        ),
        (
            "turbo-suffix",
            "_lazy".into(),
            vec![],
            r#"suffix: "_lazy""#.into(),
        ),
        (
            "turbo-fallback",
            "error".into(),
            vec![],
            "fallback: Error".into(),
        ),
        (
            "turbo-inline",
            "8KiB".into(),
            vec![],
            "max_stored_file: 8192".into(),
        ),
        (
            "turbo-max-gap",
            "2MiB".into(),
            vec![],
            "max_gap: 2097152".into(),
        ),
        (
            "prefetch-list",
            path("wanted"),
            vec![],
            r#"prefetch: Some(PrefetchList { entries: ["/bin/sh"]"#.into(),
        ),
        (
            "acceleration-layer",
            "false".into(),
            vec![],
            "acceleration: false".into(),
        ),
        (
            "memory",
            "300MiB".into(),
            vec![],
            "memory: 314572800".into(),
        ),
        (
            "convert-on-pull",
            "a/*".into(),
            vec![],
            r#"Pattern("a/*:*")"#.into(),
        ),
        (
            "blob-store",
            "s3://images/obd".into(),
            vec![],
            r#"bucket: "images", prefix: "obd""#.into(),
        ),
        (
            "blob-store-credentials-file",
            path("password"),
            one("--blob-store=s3://images"),
            "credentials: Some(".into(),
        ),
        (
            "blob-store-endpoint",
            "http://minio:9000".into(),
            one("--blob-store=s3://images"),
            r#"host: Some(Domain("minio"))"#.into(),
        ),
        (
            "blob-store-redirect",
            "true".into(),
            one("--blob-store=s3://images"),
            "blob_redirect: Some(600s)".into(),
        ),
        (
            "blob-store-region",
            "eu-west-3".into(),
            one("--blob-store=s3://images"),
            r#"region: Some("eu-west-3")"#.into(),
        ),
        (
            "blob-store-virtual-host",
            "false".into(),
            one("--blob-store=s3://images"),
            "is_virtual_hosted: false".into(),
        ),
        ("data-dir", "/d".into(), vec![], r#"data_dir: "/d""#.into()),
        (
            "db-ca",
            ca.clone(),
            one("--dbstr=u:p@tcp(h:1)/d?tls=custom"),
            "pki/ca.crt".into(),
        ),
        (
            "db-create",
            "true".into(),
            one("--dbstr=u:p@tcp(h:1)/d"),
            "create_tables: true".into(),
        ),
        (
            "dbstr",
            "u:p@tcp(h:1)/d".into(),
            vec![],
            "MySQL u@tcp(h:1)/d".into(),
        ),
        (
            "docker-config",
            path("docker.json"),
            vec![],
            "docker.json".into(),
        ),
        ("drain", "3s".into(), vec![], " drain: 3s".into()),
        ("drain-delay", "7s".into(), vec![], "drain_delay: 7s".into()),
        ("failure-ttl", "7s".into(), vec![], "failure_ttl: 7s".into()),
        (
            "egress-proxy",
            "http://me:pw@proxy.io:3128".into(),
            vec![],
            r#"Proxy(EgressProxy(http://proxy.io:3128, Some("***")))"#.into(),
        ),
        (
            "follow-redirects",
            "true".into(),
            vec![],
            "follow_redirects: true".into(),
        ),
        (
            "fstype",
            "ext4;noload".into(),
            vec![],
            r#"fs_type: Some("ext4;noload")"#.into(),
        ),
        (
            "head-timeout",
            "3s".into(),
            vec![],
            "head_timeout: 3s".into(),
        ),
        ("hold", "3s".into(), vec![], "hold: 3s".into()),
        (
            "hosts-dir",
            "/".into(),
            vec![],
            r#"hosts_dirs: ["/"]"#.into(),
        ),
        (
            "htpasswd",
            path("htpasswd"),
            vec![],
            "access: Own { htpasswd: Some(".into(),
        ),
        ("idle-timeout", "3s".into(), vec![], "idle: 3s".into()),
        ("keep", "3s".into(), vec![], "keep: 3s".into()),
        ("lease-ttl", "5s".into(), vec![], "lease_ttl: 5s".into()),
        ("listen", ":81".into(), vec![], "listen: [::]:81".into()),
        (
            "listen-overlaybd",
            ":82".into(),
            vec![],
            "listen_overlaybd: Some([::]:82)".into(),
        ),
        ("log-format", "json".into(), vec![], "format: Json".into()),
        ("log-level", "debug".into(), vec![], "DEBUG".into()),
        (
            "max-connections",
            "7".into(),
            vec![],
            "connections: 7".into(),
        ),
        (
            "max-head-size",
            "16KiB".into(),
            vec![],
            "head_bytes: 16384".into(),
        ),
        (
            "keep-platforms",
            "true".into(),
            one("--push-repo=r.io/x"),
            "others: Copy".into(),
        ),
        (
            "max-layer-size",
            "1GiB".into(),
            vec![],
            "max_layer_size: 1073741824".into(),
        ),
        (
            "max-manifest-size",
            "1MiB".into(),
            vec![],
            "manifest_limit: 1048576".into(),
        ),
        ("max-logins", "7".into(), vec![], "logins: 7".into()),
        ("max-requests", "7".into(), vec![], "requests: 7".into()),
        ("max-waiting", "7".into(), vec![], "waiting: 7".into()),
        ("oci", "true".into(), vec![], "force_oci: true".into()),
        (
            "on-timeout",
            "busy".into(),
            vec![],
            "on_timeout: Busy".into(),
        ),
        (
            "own-credentials",
            "true".into(),
            vec![],
            "access: Own { htpasswd: None }".into(),
        ),
        (
            "password-file",
            path("password"),
            one("--user=me"),
            r#"username: "me""#.into(),
        ),
        (
            "plain-http",
            "true".into(),
            vec![],
            "scheme: Some(Http)".into(),
        ),
        (
            "platform",
            platform,
            vec![],
            r#"architecture: "riscv64""#.to_owned(),
        ),
        (
            "push",
            "true".into(),
            vec![],
            "push: Some(PushTarget { upstream: None, repo: None".into(),
        ),
        (
            "push-overwrite-tags",
            "true".into(),
            one("--push=true"),
            "overwrite_tags: true".into(),
        ),
        (
            "push-repo",
            "r.io/x".into(),
            vec![],
            r#"repo: Some(RepoName("x"))"#.into(),
        ),
        (
            "push-user",
            "me:pw".into(),
            one("--push-repo=r.io/x"),
            r#"Registry("r.io")"#.into(),
        ),
        ("http2", "false".into(), vec![], "http2: false".into()),
        ("h2c", "true".into(), vec![], "h2c: true".into()),
        ("read-only", "true".into(), vec![], "read_only: true".into()),
        (
            "prefer-upstream-tags",
            "true".into(),
            vec![],
            "prefer_upstream_tags: true".into(),
        ),
        ("referrers", "true".into(), vec![], "referrer: true".into()),
        (
            "refresh",
            "token".into(),
            vec![],
            "credentials: RefreshToken(***)".into(),
        ),
        (
            "response-timeout",
            "3s".into(),
            vec![],
            "response: 3s".into(),
        ),
        (
            "scrub",
            "5MiB".into(),
            vec![],
            "scrub: Some(5242880)".into(),
        ),
        (
            "skip-verify",
            "true".into(),
            vec![],
            "skip_verify: true".into(),
        ),
        (
            "stall-timeout",
            "3s".into(),
            vec![],
            "stall: 3s, drain_delay".into(),
        ),
        ("suffix", "-x".into(), vec![], r#"suffix: "-x""#.into()),
        (
            "system-roots",
            "false".into(),
            one(&format!("--upstream-ca={ca}")),
            "system_roots: false".into(),
        ),
        ("threads", "7".into(), vec![], "threads: 7".into()),
        (
            "tls-cert",
            cert.clone(),
            one(&format!("--tls-key={key}")),
            "tls: Some(TlsConfig".into(),
        ),
        (
            "tls-client-auth",
            "optional".into(),
            vec![
                format!("--tls-cert={cert}"),
                format!("--tls-key={key}"),
                format!("--tls-client-ca={ca}"),
            ],
            "clients: Optional(".into(),
        ),
        (
            "tls-client-ca",
            ca.clone(),
            vec![format!("--tls-cert={cert}"), format!("--tls-key={key}")],
            "clients: Required(".into(),
        ),
        (
            "tls-key",
            key.clone(),
            one(&format!("--tls-cert={cert}")),
            "tls: Some(TlsConfig".into(),
        ),
        (
            "trust-foreign-layers",
            "true".into(),
            vec![],
            "trust_foreign_layers: true".into(),
        ),
        (
            "upload-chunk",
            "1MiB".into(),
            vec![],
            "upload: Chunked(1048576)".into(),
        ),
        (
            "upstream",
            "r.io,ns=a,ns=b,hosts=h,path-prefix=p,attempts=3".into(),
            vec![],
            r#"namespaces: ["a", "b"], hosts: ["h"], path_prefix: Some("p")"#.into(),
        ),
        (
            "upstream-http2",
            "false".into(),
            vec![],
            "http2: false".into(),
        ),
        ("upstream-ca", ca.clone(), vec![], "pki/ca.crt".into()),
        (
            "upstream-cert",
            cert.clone(),
            one(&format!("--upstream-key={key}")),
            "pki/client.crt".into(),
        ),
        (
            "upstream-key",
            key.clone(),
            one(&format!("--upstream-cert={cert}")),
            "pki/client.key".into(),
        ),
        ("user", "me:pw".into(), vec![], r#"username: "me""#.into()),
        (
            "vsize",
            "2".into(),
            vec![],
            "virtual_size: 2147483648".into(),
        ),
    ];
    let listed: BTreeSet<&str> = table.iter().map(|(key, ..)| *key).collect();
    let known: BTreeSet<&str> = keys().keys().map(String::as_str).collect();
    assert_eq!(listed, known, "every key is in the table");
    let default = settings(&[]).unwrap();
    for (key, value, more, seen) in &table {
        let flag = format!("--{key}={value}");
        let mut arguments: Vec<&str> = vec![&flag];
        arguments.extend(more.iter().map(String::as_str));
        let text = settings(&arguments).unwrap_or_else(|error| panic!("{flag}: {error}"));
        assert!(
            !default.contains(seen.as_str()),
            "{key}: {seen} is the default"
        );
        assert!(text.contains(seen.as_str()), "{key}: {seen} in {text}");

        // The same from a file.
        let config = files.directory.path().join("config.toml");
        let mut lines = format!("{key} = {value:?}\n");
        for flag in more {
            let (key, value) = flag.trim_start_matches("--").split_once('=').unwrap();
            let _ = writeln!(lines, "{key} = {value:?}");
        }
        std::fs::write(&config, lines).unwrap();
        let from_file = settings_with(Some(&config), &[]).unwrap();
        assert!(from_file.contains(seen.as_str()), "{key} in a file");
    }
}

mod combinations;
mod policy;
