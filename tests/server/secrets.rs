//! Passwords that are right, in no line of a log, however much is logged.

use crate::{registry_support, store_support, support};
use base64::Engine as _;
use registry_support::DockerRegistry;
use store_support::Server;
use support::image::Image;
use support::layout::Layout;
use support::proxy::{Proxy, program};
use support::tar::Tar;
use support::{noise, run};

const SECRET: &str = "hunter!2";

#[test]
fn no_log_contains_passwords_of_the_database_or_the_registry() {
    let registry = DockerRegistry::start_with_users(&[("me", SECRET)]);
    let (Some(registry), Some(server)) = (registry, Server::shared()) else {
        return;
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let database = runtime.block_on(server.database());
    let grant =
        format!("CREATE USER obd IDENTIFIED BY '{SECRET}'; GRANT ALL ON {database}.* TO obd");
    runtime.block_on(server.execute("mysql", &grant));
    let dsn = format!("obd:{SECRET}@tcp(127.0.0.1:{})/{database}", server.port());
    let login = format!("me:{SECRET}");
    let scratch = tempfile::tempdir().unwrap();
    let layout = Layout::create(&scratch.path().join("layout"));
    let layer = Tar::new().file("name", noise(1, 20_000)).finish();
    layout.add("1", &Image::gzip(&[layer]).seal());
    let mut convert = program();
    convert.args([
        "convert",
        "--log-level=trace",
        "--http-dump",
        "--http-trace",
    ]);
    convert.args(["--platform", "linux/amd64", "--dst-user", &login]);
    convert.args(["--dbstr", &dsn, "--db-create"]);
    convert.arg(format!("oci:{}:1", layout.path().display()));
    let output = run(convert.arg(format!("{}/app:1", registry.host)));
    let mut logs = vec![String::from_utf8(output.stderr).unwrap()];
    let data = scratch.path().join("data");
    let options = [
        "--log-level=trace",
        "--user",
        &login,
        "--own-credentials",
        "--push",
    ];
    let options = [&options[..], &["--dbstr", &dsn]].concat();
    let proxy = Proxy::start(&registry.host, &data, &options);
    let answer = proxy.get("app/manifests/1_obd");
    assert_eq!(answer.status, 200, "{answer:?}");
    logs.push(proxy.log());
    proxy.stop();
    let encoded = base64::prelude::BASE64_STANDARD.encode(&login);
    for log in &logs {
        assert!(log.contains("TRACE"), "{log}");
        for secret in [SECRET, &encoded] {
            let line = log.lines().find(|line| line.contains(secret));
            assert_eq!(line, None);
        }
    }
}
