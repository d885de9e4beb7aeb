//! `config check`: layers, mistakes, secrets.

use super::{Ran, finish, program, repository};

struct Config {
    directory: tempfile::TempDir,
}

impl Config {
    fn new(text: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("config.toml"), text).unwrap();
        Self { directory }
    }

    fn path(&self) -> String {
        let path = self.directory.path().join("config.toml");
        path.display().to_string()
    }

    /// `config check` with these variables and flags.
    #[track_caller]
    fn check(&self, environment: &[(&str, &str)], flags: &[&str]) -> Ran {
        let path = self.path();
        let mut command = program(&["--config", &path, "config", "check"]);
        command.args(flags).envs(environment.iter().copied());
        finish(command)
    }
}

#[test]
fn a_flag_goes_before_the_environment_and_that_before_the_file() {
    let config = Config::new("hold = '1s'\nkeep = '1m'\ndrain = '1m'\nbs = 16\npush = true\n");
    let environment = [
        ("OVERLAYBD_PROXY_HOLD", "2s"),
        ("OVERLAYBD_PROXY_KEEP", "2m"),
    ];
    let ran = config.check(&environment, &["--hold", "3s"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let path = config.path();
    for line in [
        "hold = \"3s\"  # flag".to_owned(),
        "keep = \"2m\"  # environment".to_owned(),
        format!("drain = \"1m\"  # {path}"),
        format!("bs = 16  # {path}"),
        format!("push = true  # {path}"),
        "suffix = \"_obd\"  # default".to_owned(),
        "cache-size = \"80%\"  # default".to_owned(),
    ] {
        assert!(
            ran.out.lines().any(|shown| shown == line),
            "{line} in {}",
            ran.out
        );
    }
}

#[test]
fn the_shown_configuration_is_a_valid_file_with_the_same_settings() {
    let config = Config::new(
        "hold = '1s'\nplatform = ['all']\n[[upstream]]\nurl = 'r.io'\nhosts = 'x'\nattempts = 2\n",
    );
    let first = config.check(&[], &["--cache-size", "5GiB"]);
    assert_eq!(first.code, 0, "{first:?}");
    let again = Config::new(&first.out);
    let second = again.check(&[], &[]);
    assert_eq!(second.code, 0, "{second:?}");
    let meaning = |text: &str| text.parse::<toml::Table>().unwrap();
    assert_eq!(meaning(&first.out), meaning(&second.out));
    assert_eq!(
        meaning(&first.out)["upstream"][0]["hosts"].as_str(),
        Some("x")
    );
}

#[test]
fn all_errors_are_printed_at_once_with_place_and_remedy() {
    let config = Config::new(
        "hodl = '1s'\nbs = 5\ncache-size = 'lots'\nlisten = ['x']\n\
         [[upstream]]\nurl = 'ftp://x'\npath_prefix = 'y'\n",
    );
    let environment = [
        ("OVERLAYBD_PROXY_KEEP", "soon"),
        ("OVERLAYBD_PROXY_READ_ONLY", "maybe"),
    ];
    let ran = config.check(
        &environment,
        &[
            "--fstype",
            "xfs",
            "--dbstr",
            "u:hunter2@tcp(h)/db?bogus=1",
            "--tls-cert=/none",
        ],
    );
    assert_eq!(ran.code, 2, "{ran:?}");
    let path = config.path();
    for part in [
        format!("`hodl` in {path}: there is no such key; did you mean `hold`?"),
        format!("`bs` in {path}: \"5\" is not one of 4, 8, 16, 32, 64"),
        format!("`cache-size` in {path}: \"lots\" is not a size"),
        format!("`listen` in {path}: a string, a number or a boolean is expected"),
        format!(
            "`path_prefix` in [[upstream]] of {path}: there is no such key; did you mean `path-prefix`?"
        ),
        format!("`upstream` in {path}: \"ftp://x\" has no scheme of a registry"),
        "OVERLAYBD_PROXY_KEEP: \"soon\" is not a duration: use for example 25s".to_owned(),
        "OVERLAYBD_PROXY_READ_ONLY: \"maybe\" is neither true nor false".to_owned(),
        "--fstype: \"xfs\" is not supported: ext4 is".to_owned(),
        "--dbstr: ".to_owned(),
        "parameter 1 behind the '?' is none that is known".to_owned(),
        "--tls-cert: /none cannot be read".to_owned(),
        "--tls-key: the key of --tls-cert is needed".to_owned(),
    ] {
        assert!(ran.err.contains(&part), "{part} in {}", ran.err);
    }
    assert!(!ran.err.contains("hunter2") && !ran.out.contains("hunter2"));
}

#[test]
fn no_secret_is_printed_wherever_it_comes_from_and_whatever_else_is_wrong() {
    let config = Config::new(
        "dbstr = 'obd:hunter2@tcp(db:3306)/obd'\npush-user = 'a:hunter2'\npush-repo = 'r.io/x'\n\
         [[upstream]]\nurl = 'a.io'\nuser = 'me:hunter2'\n\
         [[upstream]]\nurl = 'b.io'\nrefresh = 'hunter2'\n",
    );
    for flags in [
        &[][..],
        &["--hold=wrong"],
        &["--upstream=c.io,user=me:hunter2"],
        &["--upstream=c.io,user=me:hunter2,colour=red"],
        &["--upstream=https://me:hunter2@c.io"],
        &["--user=me:hunter2"],
        &["--user=me:hunter2", "--refresh=hunter2"],
        &["--dbstr=obd:hunter2@tcp(db"],
    ] {
        let ran = config.check(&[("OVERLAYBD_PROXY_PUSH_USER", "b:hunter2")], flags);
        assert!(!ran.out.contains("hunter2"), "{flags:?}: {}", ran.out);
        assert!(!ran.err.contains("hunter2"), "{flags:?}: {}", ran.err);
        assert!(ran.out.contains("***"), "{flags:?}: {}", ran.out);
    }
}

#[test]
fn a_file_that_was_named_must_be_there_and_be_toml() {
    let ran = super::ran(&["--config", "/nowhere.toml", "config", "check"]);
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("/nowhere.toml cannot be read"), "{ran:?}");
    let ran = Config::new("hold = \n").check(&[], &[]);
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("is not TOML: line 1"), "{ran:?}");
    let config = Config::new("hold = '7s'\n");
    let mut command = program(&["config", "check"]);
    command.env("OVERLAYBD_PROXY_CONFIG", config.path());
    assert!(finish(command).out.contains("hold = \"7s\""));
}

#[test]
fn serve_prints_the_same_errors() {
    let config = Config::new("hodl = 1\n");
    let path = config.path();
    let error = super::bad(2, &["--config", &path, "serve", "--bs", "5"]);
    assert!(error.contains("2 mistakes"), "{error}");
}

#[test]
fn an_address_that_is_taken_is_named_with_its_option() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let data = tempfile::tempdir().unwrap();
    let data = data.path().display().to_string();
    let error = super::bad(1, &["serve", "--listen", &address, "--data-dir", &data]);
    let text = format!("error: --listen: cannot listen on {address}: ");
    assert!(error.contains(&text), "{error}");
    let mut command = program(&["serve", "--listen", "127.0.0.1:0", "--data-dir", &data]);
    command.env("OVERLAYBD_PROXY_ADMIN", &address);
    let ran = finish(command);
    let text = format!("error: OVERLAYBD_PROXY_ADMIN: cannot listen on {address}: ");
    assert!(ran.code == 1 && ran.err.contains(&text), "{ran:?}");
}

#[test]
fn files_that_serve_cannot_use_are_refused_by_both_with_the_option() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    std::fs::write(path("short"), "short\n").unwrap();
    for pki in ["pki", "other"] {
        let made = super::support::command(&repository("certs/make.sh"))
            .arg(path(pki))
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
    }
    let (short, data) = (path("short"), path("data"));
    let (cert, key) = (path("pki/server.crt"), path("pki/server.key"));
    let other = path("other/server.key");
    let pair = ["--tls-cert", &cert, "--tls-key", &key];
    let admin = ["--admin", "127.0.0.1:0"];
    let hook = ["--webhook", "http://127.0.0.1:1/"];
    for (name, file, others) in [
        ("htpasswd", &short, &[][..]),
        ("admin-token-file", &short, &admin),
        ("notification-secret-file", &short, &admin),
        ("webhook-secret-file", &short, &hook),
        ("url-key-file", &short, &[]),
        ("tls-cert", &short, &pair[2..]),
        ("tls-key", &short, &pair[..2]),
        ("tls-key", &other, &pair[..2]),
        ("tls-client-ca", &short, &pair),
    ] {
        let flag = format!("--{name}");
        let variable = format!("OVERLAYBD_PROXY_{}", name.to_uppercase().replace('-', "_"));
        let checked = ["config", "check", "--quiet"];
        let served = ["serve", "--listen", "127.0.0.1:0", "--data-dir", &data];
        for command in [&checked[..], &served] {
            let error = super::bad(2, &[command, others, &[&flag, file]].concat());
            let (place, named) = (format!("error: {flag}: "), file.as_str());
            assert!(error.contains(&place), "{command:?} {name}: {error}");
            assert!(error.contains(named), "{command:?} {name}: {error}");
            let mut made = program(&[command, others].concat());
            made.env(&variable, file);
            let ran = finish(made);
            assert_eq!(ran.code, 2, "{command:?} {name}: {ran:?}");
            assert!(ran.err.contains(&format!("error: {variable}: ")), "{ran:?}");
        }
    }
    // What is wrong with them is told together with everything else.
    let flags = ["--htpasswd", &short, "--url-key-file", &short, "--bs=5"];
    let error = super::bad(2, &[&["config", "check", "-q"][..], &flags].concat());
    assert!(error.contains("3 mistakes"), "{error}");
    super::good(&[&["config", "check", "-q"][..], &pair].concat());
}

#[test]
fn what_two_settings_mean_together_is_remarked_on() {
    let ran = Config::new("").check(&[], &["--quiet", "--push", "--read-only"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.err.contains("is still pushed (--push)"), "{ran:?}");
}

#[test]
fn an_address_of_the_bucket_is_named_as_it_was_set() {
    let bucket = ["--blob-store", "s3://images"];
    let config = Config::new("");
    let wrong = config.check(&[("AWS_ENDPOINT_URL", "nonsense")], &bucket);
    assert_eq!(wrong.code, 2, "{wrong:?}");
    assert!(wrong.err.contains("error: AWS_ENDPOINT_URL: "), "{wrong:?}");
    let switch = [("OVERLAYBD_PROXY_BLOB_STORE_VIRTUAL_HOST", "yes")];
    let ran = config.check(&switch, &bucket);
    assert_eq!(ran.code, 0, "{ran:?}");
}

#[test]
fn the_example_configurations_are_valid() {
    let ran = finish(program(&[
        "--config",
        &repository("examples/systemd/config.toml"),
        "config",
        "check",
    ]));
    assert_eq!(ran.code, 0, "{ran:?}");

    // The variables of the Compose files, as `OVERLAYBD_PROXY_NAME: "value"`.
    let read = |name: &str| std::fs::read_to_string(format!("examples/compose/{name}")).unwrap();
    let compose = read("compose.yaml") + &read("traces.yaml");
    let variables: Vec<(&str, &str)> = compose
        .lines()
        .filter_map(|line| line.trim().split_once(": "))
        .filter(|(name, _)| name.starts_with("OVERLAYBD_PROXY_"))
        .map(|(name, value)| (name, value.trim_matches('"')))
        .collect();
    assert!(variables.len() >= 7, "{variables:?}");
    let ran = Config::new("").check(&variables, &[]);
    assert_eq!(ran.code, 0, "{ran:?}");
    // Each is a setting's, and not one that nothing reads; upstreams are a table of their own.
    let read = ran.out.matches("# environment").count();
    assert_eq!(read, variables.len() - 1, "{variables:?} in {}", ran.out);
    assert!(
        ran.out.contains("url = \"http://registry:5000\""),
        "{}",
        ran.out
    );
}

#[test]
fn the_result_is_printed_and_with_quiet_nothing_else() {
    let config = Config::new("");
    let ran = config.check(&[], &["--quiet"]);
    assert_eq!((ran.code, ran.out.as_str()), (0, ""));
    assert!(ran.err.contains("is good"), "{ran:?}");
    // No more than that goes into the journal of a service.
    assert_eq!(ran.err.lines().count(), 1, "{ran:?}");
    let ran = config.check(&[], &[]);
    assert!(ran.code == 0 && ran.err.ends_with("is good\n"), "{ran:?}");
    assert!(ran.out.lines().count() > 50, "{ran:?}");
    let ran = config.check(&[], &["--quiet", "--bs", "5"]);
    assert_eq!((ran.code, ran.out.as_str()), (2, ""));
    assert!(ran.err.contains("--bs"), "{ran:?}");
}

#[test]
fn easily_overlooked_errors_in_settings_are_reported() {
    let config = Config::new("");
    let directory = config.directory.path().display().to_string();
    for (flags, part) in [
        (&["--log-level", "wran"][..], "\"wran\" is no level"),
        (&["--log-level", "info,hyper"], "\"hyper\" is no level"),
        (
            &["--log-level", "overlaybd-proxy=debug"],
            "did you mean overlaybd_proxy?",
        ),
        (
            &["--log-level", "warn,overlaybd_proxy::acess=info"],
            "the parts of overlaybd_proxy are access, ",
        ),
        (
            &["--hosts-dir", "/nowhere/certs.d"],
            "/nowhere/certs.d is no directory",
        ),
        (&["--upstream", "r.io,ns"], "ns needs a value: ns=VALUE"),
        (
            &["--upstream", "r.io,path-prefix="],
            "path-prefix needs a value",
        ),
        (
            &["--listen", "127.0.0.1:8480", "--admin", "127.0.0.1:8480"],
            "--admin: is the address of --listen",
        ),
        (
            &["--listen", "0.0.0.0:8480", "--admin", "127.0.0.1:8480"],
            "--admin: 127.0.0.1:8480 cannot be listened on beside 0.0.0.0:8480 of --listen",
        ),
        (&["--tag-ttl", "1m"], "--tag-ttl: does nothing without"),
        (
            &["--learn-window", "2m"],
            "--learn-window: does nothing without",
        ),
        (&["--cache-size", "5"], "was 5GiB meant?"),
    ] {
        let ran = config.check(&[], flags);
        assert_eq!(ran.code, 2, "{flags:?}: {ran:?}");
        assert!(ran.err.contains(part), "{part} in {}", ran.err);
    }
    for flags in [
        &["--log-level", "off"][..],
        &["--log-level", "overlaybd_proxy=debug,warn"],
        &[
            "--log-level",
            "info,overlaybd_proxy::access=off,hyper=debug",
        ],
        &["--log-level", "WARN"],
        &["--hosts-dir", &directory],
        &["--upstream", "r.io,plain-http"],
        &["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"],
        &["--suffix", "-obd"],
        // The help's own example.
        &["--fstype", "ext4;;-b 4096"],
    ] {
        let ran = config.check(&[], flags);
        assert_eq!(ran.code, 0, "{flags:?}: {ran:?}");
    }
}

#[test]
fn an_option_is_called_as_it_was_written() {
    let config = Config::new("");
    for (flags, part) in [
        (&["--upstream-ca=/nowhere"][..], "--upstream-ca: /nowhere"),
        (&["--tlscacert", "/nowhere"], "--tlscacert: /nowhere"),
        (&["--root-ca=/nowhere"], "--root-ca: /nowhere"),
        (&["--concurrency-limit=-"], "--concurrency-limit: "),
        (&["--username=me"], "--username: the password is missing"),
        (&["-ume"], "--user: the password is missing"),
    ] {
        let ran = config.check(&[], flags);
        assert_eq!(ran.code, 2, "{flags:?}: {ran:?}");
        assert!(ran.err.contains(part), "{flags:?}: {}", ran.err);
        assert!(!ran.err.contains("mistakes"), "{flags:?}: {}", ran.err);
    }
    let own = ["--client-cert=/nowhere:/nowhere", "--no-upload", "r.io/x"];
    let error = super::bad(2, &[&["convert"], &own[..]].concat());
    assert!(error.contains("--client-cert: /nowhere"), "{error}");
    assert!(!error.contains("upstream-"), "{error}");
    let own = ["--src-user=:x", "--no-upload", "r.io/x"];
    let error = super::bad(2, &[&["convert"], &own[..]].concat());
    assert!(
        error.contains("--src-user: a name and a password"),
        "{error}"
    );
}

#[test]
fn an_empty_suffix_is_none_that_was_set() {
    let config = Config::new("suffix = ''\n");
    for (variables, flags) in [
        (&[][..], &[][..]),
        (&[("OVERLAYBD_PROXY_SUFFIX", "")], &[]),
        (&[], &["--suffix", ""]),
        (&[], &["--suffix="]),
    ] {
        let ran = config.check(variables, flags);
        assert_eq!(ran.code, 0, "{flags:?}: {ran:?}");
        let default = "suffix = \"_obd\"  # default\n";
        assert!(ran.out.contains(default), "{flags:?}: {}", ran.out);
    }
}

#[test]
fn an_error_in_one_of_several_upstreams_names_it_once() {
    let config = Config::new(
        "[[upstream]]\nurl = 'a.io'\n[[upstream]]\nurl = 'b.io'\nconnect-timeout = 'soon'\n\
         [[upstream]]\nurl = 'x y'\n",
    );
    let ran = config.check(&[], &[]);
    assert_eq!(ran.code, 2, "{ran:?}");
    for part in ["upstream 2, b.io: ", "upstream 3: "] {
        assert!(ran.err.contains(part), "{part} in {}", ran.err);
    }
    assert!(
        ran.err.contains("`connect-timeout` of upstream 2, b.io: "),
        "{}",
        ran.err
    );
    let config = Config::new(
        "[[upstream]]\nurl = 'a.io'\nfoo = 1\n[[upstream]]\nurl = 'https://me:x@b.io'\nbar = 1\n",
    );
    let ran = config.check(&[], &[]);
    for part in [
        "`foo` in [[upstream]] 1, a.io, of ",
        "`bar` in [[upstream]] 2 of ",
    ] {
        assert!(ran.err.contains(part), "{part} in {}", ran.err);
    }
    // Of one, too, by the name that it was written with.
    for (upstream, part) in [
        (
            "a.io,user=me",
            "`user` of upstream a.io: the password is missing",
        ),
        (
            "a.io,ca=/nowhere",
            "`ca` of upstream a.io: /nowhere cannot be read",
        ),
        (
            "a.io,attempts=many",
            "`attempts` of upstream a.io: \"many\"",
        ),
    ] {
        let ran = Config::new("").check(&[], &["--upstream", upstream]);
        assert_eq!(ran.code, 2, "{upstream}: {ran:?}");
        assert!(ran.err.contains(part), "{part} in {}", ran.err);
        assert!(!ran.err.contains("mistakes"), "{}", ran.err);
    }
    // So where images are pushed to, or read from.
    let flags = ["--upstream=a.io,ca=/nowhere", "--push-repo=a.io/x"];
    let ran = Config::new("").check(&[], &flags);
    assert!(!ran.err.contains("mistakes"), "{}", ran.err);
    let error = super::bad(2, &["inspect", "--tlscacert=/nowhere", "r.io/x"]);
    assert!(error.contains("--tlscacert: /nowhere"), "{error}");
    // What is wrong for all of them is reported once.
    let config = Config::new("[[upstream]]\nurl = 'a.io'\n[[upstream]]\nurl = 'b.io'\n");
    let ran = config.check(&[], &["--connect-timeout", "soon"]);
    assert_eq!(ran.code, 2, "{ran:?}");
    assert_eq!(ran.err.matches("\"soon\"").count(), 1, "{}", ran.err);
}

#[test]
fn an_empty_variable_is_ignored_and_a_mistyped_name_is_a_warning() {
    let ran = |name: &str, value: &str| {
        let mut command = program(&["config", "check", "--quiet"]);
        command.env(name, value);
        finish(command)
    };
    let empty = ran("OVERLAYBD_PROXY_CONFIG", "");
    assert_eq!(empty.code, 0, "{empty:?}");
    let near = ran("OVERLAYBD_PROXY_LISTEM", "127.0.0.1:1");
    assert_eq!(near.code, 0, "{near:?}");
    assert!(
        near.err
            .contains("OVERLAYBD_PROXY_LISTEM is no setting: was OVERLAYBD_PROXY_LISTEN meant?"),
        "{near:?}"
    );
    // Kubernetes sets these for a service of this name.
    let service = ran("OVERLAYBD_PROXY_SERVICE_HOST", "10.0.0.1");
    assert!(!service.err.contains("SERVICE_HOST"), "{service:?}");
}
