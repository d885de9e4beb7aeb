//! Accounts of the database whose authentication plugin is not the usual one.

use crate::{store_support, support};
use futures_util::future::join_all;
use overlaybd_proxy::store::{Index, MysqlConfig};
use store_support::{Database, Server};
use support::image::Image;
use support::proxy::{Proxy, program};
use support::registry::Registry;
use support::tar::Tar;
use support::{http, noise};

/// Names the account in a DSN of the administrator.
fn dsn_of(database: &Database, account: &str) -> String {
    database.dsn().replacen("root", account, 1)
}

/// What a command says that cannot use its database, and its exit code.
fn refusal(dsn: &str) -> (i32, String) {
    let data = tempfile::tempdir().unwrap();
    let mut command = program();
    command.args(["serve", "--upstream", "http://127.0.0.1:9", "--listen"]);
    command.args(["127.0.0.1:0", "--db-create", "--dbstr", dsn, "--data-dir"]);
    let output = command.arg(data.path()).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    (output.status.code().unwrap_or(-1), text)
}

#[test]
fn an_ed25519_account_keeps_the_index() {
    let (Some(registry), Some(server)) = (Registry::start(), Server::shared()) else {
        return;
    };
    let database = Database::new(server);
    database.execute("INSTALL SONAME 'auth_ed25519'");
    database.execute(
        "CREATE USER modern@'127.0.0.1' IDENTIFIED VIA ed25519 USING PASSWORD('s3cret word')",
    );
    database.execute("GRANT ALL ON *.* TO modern@'127.0.0.1'");
    let tar = Tar::new().file("a", noise(1, 5_000)).finish();
    registry.push("app", "1", &Image::gzip(&[tar]).seal());
    let data = tempfile::tempdir().unwrap();
    let dsn = dsn_of(&database, "modern:s3cret word");
    let options = ["--db-create", "--dbstr", &dsn];
    let proxy = Proxy::start(&registry.url(), data.path(), &options);
    let answer = http::get(&format!("{}/v2/app/manifests/1_obd", proxy.url()));
    assert_eq!(answer.status, 200, "{answer:?}\n{}", proxy.log());
    assert_eq!(
        database
            .rows("SELECT * FROM overlaybd_proxy_manifests")
            .len(),
        1
    );
    proxy.stop();
    for wrong in ["modern:wrong", "modern"] {
        let (code, text) = refusal(&dsn_of(&database, wrong));
        assert_eq!(code, 1, "{wrong}: {text}");
        assert!(
            text.contains("Access denied for user 'modern'"),
            "{wrong}: {text}"
        );
    }
}

/// The client library signs a shortened text once in 256 logins, and the server refuses it.
#[tokio::test(flavor = "multi_thread")]
async fn every_login_of_an_ed25519_account_with_the_right_password_succeeds() {
    let prepared = tokio::task::spawn_blocking(|| {
        let database = Database::new(Server::shared()?);
        database.execute("INSTALL SONAME 'auth_ed25519'");
        database
            .execute("CREATE USER often@'127.0.0.1' IDENTIFIED VIA ed25519 USING PASSWORD('word')");
        database.execute("GRANT ALL ON *.* TO often@'127.0.0.1'");
        Some(database)
    });
    let Some(database) = prepared.await.unwrap() else {
        return;
    };
    let dsn = dsn_of(&database, "often:word");
    let log_in = |create_tables| {
        let config = MysqlConfig {
            dsn: dsn.parse().unwrap(),
            create_tables,
            tls_roots: Vec::new(),
        };
        async move { Index::mysql(config).await.unwrap().close().await }
    };
    log_in(true).await;
    for _ in 0..80 {
        join_all((0..10).map(|_| log_in(false))).await;
    }
    // Its server is stopped in a way that blocks.
    tokio::task::spawn_blocking(move || drop(database))
        .await
        .unwrap();
}

#[test]
fn a_plugin_that_the_client_lacks_is_named_with_the_remedy() {
    let Some(server) = Server::shared() else {
        return;
    };
    let database = Database::new(server);
    database.execute("INSTALL SONAME 'auth_pam'");
    database.execute("CREATE USER system@'127.0.0.1' IDENTIFIED VIA pam USING 'mariadb'");
    let (code, text) = refusal(&dsn_of(&database, "system:word"));
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("plugin \"dialog\""), "{text}");
    assert!(text.contains("use an account with parsec"), "{text}");
}
