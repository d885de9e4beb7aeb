//! What only a server can do to its clients: be without tables, go away, hang, refuse.

use crate::store_support;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use mysql_async::prelude::Queryable;
use overlaybd_proxy::oci::{ChainId, Digest, RepoName};
use overlaybd_proxy::store::{Acquired, Index, IndexError, MysqlConfig};
use store_support::{Recorded as _, Server, relay, skip};

const HOST: &str = "registry.example";

async fn shared() -> Option<Arc<Server>> {
    tokio::task::spawn_blocking(Server::shared).await.unwrap()
}

async fn open(dsn: &str, create_tables: bool) -> Result<Index, IndexError> {
    Index::mysql(MysqlConfig {
        dsn: dsn.parse()?,
        create_tables,
        tls_roots: Vec::new(),
    })
    .await
}

fn digest(text: &str) -> Digest {
    Digest::of(text.as_bytes())
}

fn chain(n: usize) -> ChainId {
    ChainId(digest(&n.to_string()))
}

fn repo() -> RepoName {
    "team/app".parse().unwrap()
}

#[tokio::test]
async fn missing_tables_are_an_error_with_the_statements_that_make_them() {
    let Some(server) = shared().await else { return };
    let database = server.database().await;
    let dsn = server.dsn(&database);
    let error = open(&dsn, false).await.unwrap_err();
    let IndexError::Schema { statement, .. } = &error else {
        panic!("{error}");
    };
    assert!(error.to_string().contains("overlaybd_layers"), "{error}");
    for statement in statement.split_inclusive(';') {
        if !statement.trim().is_empty() {
            server.execute(&database, statement).await;
        }
    }
    let index = open(&dsn, false).await.unwrap();
    index
        .put_layer(HOST, &repo(), &chain(1), &digest("1"), 1, "v1")
        .await
        .unwrap();
    // Asked to create what is there, it keeps what is in it.
    let index = open(&dsn, true).await.unwrap();
    assert!(
        index
            .find_layer(HOST, &repo(), &chain(1))
            .await
            .unwrap()
            .is_some()
    );
}

#[tokio::test]
async fn tables_without_a_version_get_one_and_those_of_a_later_version_are_refused() {
    let Some(server) = shared().await else { return };
    let database = server.database().await;
    let dsn = server.dsn(&database);
    open(&dsn, true).await.unwrap().close().await;
    server
        .execute(&database, "DROP TABLE overlaybd_proxy_schema")
        .await;
    open(&dsn, false).await.unwrap().close().await;
    open(&dsn, true).await.unwrap().close().await;
    // Adds a row only if version 2 has been recorded.
    server
        .execute(
            &database,
            "INSERT INTO overlaybd_proxy_schema SELECT 99 FROM overlaybd_proxy_schema \
             WHERE version = 2",
        )
        .await;
    let error = open(&dsn, true).await.unwrap_err().to_string();
    assert!(
        error.contains("version 99") && error.contains("later version"),
        "{error}"
    );
}

#[tokio::test]
async fn tables_of_an_earlier_program_get_the_table_of_images_and_their_version_stays() {
    let Some(server) = shared().await else { return };
    let database = server.database().await;
    let dsn = server.dsn(&database);
    open(&dsn, true).await.unwrap().close().await;
    server
        .execute(&database, "DROP TABLE overlaybd_proxy_images")
        .await;
    let error = open(&dsn, false).await.unwrap_err();
    let IndexError::Schema { statement, .. } = &error else {
        panic!("{error}");
    };
    assert!(statement.starts_with("CREATE TABLE `overlaybd_proxy_images`"));
    open(&dsn, true).await.unwrap().close().await;
    // Fails where there is a version that the earlier program refuses.
    server
        .execute(
            &database,
            "INSERT INTO overlaybd_proxy_schema \
             SELECT 2 FROM overlaybd_proxy_schema WHERE version > 2",
        )
        .await;
    open(&dsn, false).await.unwrap().close().await;
}

#[tokio::test]
async fn several_replicas_may_create_the_tables_at_once() {
    let Some(server) = shared().await else { return };
    let dsn = server.dsn(&server.database().await);
    let opened = futures_util::future::join_all((0..6).map(|_| open(&dsn, true))).await;
    for index in opened {
        index.unwrap().close().await;
    }
}

#[tokio::test]
async fn tables_with_an_operators_columns_and_indexes_are_used_as_they_are() {
    let Some(server) = shared().await else { return };
    let database = server.database().await;
    let dsn = server.dsn(&database);
    server
        .execute(
            &database,
            "CREATE TABLE overlaybd_layers (
               created datetime NOT NULL DEFAULT current_timestamp(),
               data_size bigint(20) NOT NULL,
               note varchar(20) CHARACTER SET utf8mb4 DEFAULT 'x',
               data_digest varchar(255) NOT NULL,
               chain_id varchar(255) NOT NULL,
               repo varchar(255) NOT NULL,
               host varchar(255) NOT NULL,
               PRIMARY KEY (host, repo, chain_id),
               KEY index_registry_chainId (host, chain_id),
               KEY by_digest (data_digest), KEY by_time (created)
             ) DEFAULT CHARSET=latin1",
        )
        .await;
    server
        .execute(
            &database,
            "CREATE TABLE overlaybd_manifests (
               id bigint NOT NULL AUTO_INCREMENT,
               host varchar(255) NOT NULL, repo varchar(255) NOT NULL,
               src_digest varchar(255) NOT NULL, out_digest varchar(255) NOT NULL,
               data_size bigint(20) NOT NULL, mediatype varchar(255) NOT NULL,
               PRIMARY KEY (host, repo, src_digest, mediatype), UNIQUE KEY (id)
             ) DEFAULT CHARSET=utf8 COLLATE=utf8_bin",
        )
        .await;
    let index = open(&dsn, true).await.unwrap();
    for _ in 0..2 {
        index
            .put_layer(HOST, &repo(), &chain(1), &digest("1"), 5, "v1")
            .await
            .unwrap();
    }
    let row = index
        .find_layer(HOST, &repo(), &chain(1))
        .await
        .unwrap()
        .unwrap();
    assert_eq!((row.digest.clone(), row.size), (digest("1"), 5));
    let rows = index
        .find_layer_elsewhere(HOST, &chain(1), "v1")
        .await
        .unwrap();
    assert_eq!(rows, [(repo(), row)]);
    let key = overlaybd_proxy::store::ManifestKey {
        host: HOST.to_owned(),
        repo: repo(),
        source: digest("source"),
        media_type: "m".to_owned(),
    };
    index
        .put_manifest(&key, &digest("out"), 5, "v1")
        .await
        .unwrap();
    assert!(index.find_manifest(&key).await.unwrap().is_some());
}

#[tokio::test]
async fn a_table_without_a_needed_column_is_an_error_that_names_it() {
    let Some(server) = shared().await else { return };
    let database = server.database().await;
    server
        .execute(
            &database,
            "CREATE TABLE overlaybd_layers (host varchar(255))",
        )
        .await;
    let error = open(&server.dsn(&database), true).await.unwrap_err();
    assert!(matches!(error, IndexError::Schema { .. }));
    assert!(
        error.to_string().contains("overlaybd_layers lacks"),
        "{error}"
    );
}

#[tokio::test]
async fn a_wrong_password_is_refused_and_not_repeated_anywhere() {
    let Some(server) = shared().await else { return };
    let database = server.database().await;
    let user = "IDENTIFIED BY 'right:p@ss/word'";
    server
        .execute(
            "mysql",
            &format!("CREATE USER IF NOT EXISTS checked@'127.0.0.1' {user}"),
        )
        .await;
    server
        .execute("mysql", "GRANT ALL ON *.* TO checked@'127.0.0.1'")
        .await;
    let place = format!("tcp(127.0.0.1:{})/{database}", server.port());
    let error = open(&format!("checked:wrong-one@{place}"), true)
        .await
        .unwrap_err();
    assert!(matches!(error, IndexError::Database { .. }), "{error}");
    assert!(!format!("{error} {error:?}").contains("wrong-one"));
    open(&format!("checked:right:p@ss/word@{place}"), true)
        .await
        .unwrap();
    // Through the socket, with parameters of every kind.
    let socket = server.socket();
    let dsn = format!(
        "root@unix({})/{database}?parseTime=true&loc=Local&charset=utf8mb4&wait_timeout=60&time_zone=%27Asia%2FTokyo%27",
        socket.display()
    );
    open(&dsn, false).await.unwrap().ping().await.unwrap();
}

#[tokio::test]
async fn a_server_without_tls_serves_preferred_and_refuses_true() {
    let Some(server) = shared().await else { return };
    let dsn = server.dsn(&server.database().await);
    open(&format!("{dsn}?tls=preferred"), true).await.unwrap();
    for tls in ["true", "skip-verify"] {
        assert!(
            open(&format!("{dsn}?tls={tls}"), true).await.is_err(),
            "{tls}"
        );
    }
    let error = open(&format!("{dsn}?tls=custom"), true).await.unwrap_err();
    assert!(error.to_string().contains("--db-ca"), "{error}");
}

#[tokio::test]
async fn a_servers_certificate_is_verified_with_its_root_only() {
    let keys = tempfile::tempdir().unwrap();
    let (cert, secret) = (keys.path().join("cert.pem"), keys.path().join("key.pem"));
    let made = Command::new("openssl")
        .args([
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
        ])
        .args(["-subj", "/CN=db", "-addext", "subjectAltName=IP:127.0.0.1"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .arg("-keyout")
        .arg(&secret)
        .arg("-out")
        .arg(&cert)
        .output();
    if !made.is_ok_and(|output| output.status.success()) {
        return skip("no openssl to make a certificate with: apt-get install openssl");
    }
    let arguments = [
        format!("--ssl-cert={}", cert.display()),
        format!("--ssl-key={}", secret.display()),
        "--require-secure-transport=ON".to_owned(),
    ];
    let started = tokio::task::spawn_blocking(move || {
        Server::start(&arguments.each_ref().map(String::as_str))
    });
    let Some(server) = started.await.unwrap() else {
        return;
    };
    // The plain connection that makes the database would be refused: by socket then.
    let plain = format!("root@unix({})/mysql", server.socket().display());
    open(&plain, true).await.unwrap();
    let dsn = server.dsn("mysql");
    for tls in ["skip-verify", "preferred"] {
        open(&format!("{dsn}?tls={tls}"), true)
            .await
            .unwrap()
            .ping()
            .await
            .unwrap();
    }
    let error = open(&format!("{dsn}?tls=true&timeout=5s"), true)
        .await
        .unwrap_err();
    assert!(matches!(error, IndexError::Database { .. }), "{error}");
    let custom = MysqlConfig {
        dsn: format!("{dsn}?tls=custom").parse().unwrap(),
        create_tables: true,
        tls_roots: vec![cert],
    };
    Index::mysql(custom).await.unwrap().ping().await.unwrap();
}

#[tokio::test]
async fn a_server_that_is_not_there_or_silent_is_unavailable() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let dsn = format!("u:hidden@tcp(127.0.0.1:{port})/db?timeout=200ms");
    let error = open(&dsn, false).await.unwrap_err();
    assert!(error.is_unavailable(), "{error}");
    assert!(!error.to_string().contains("hidden"));
    drop(silent);
    let error = open(&dsn, false).await.unwrap_err();
    assert!(error.is_unavailable(), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hangs_is_unavailable_until_it_answers_again() {
    let started = tokio::task::spawn_blocking(|| Server::start(&[]));
    let Some(server) = started.await.unwrap() else {
        return;
    };
    let dsn = server.dsn(&server.database().await);
    let index = open(&format!("{dsn}?readTimeout=300ms&timeout=300ms"), true)
        .await
        .unwrap();
    index
        .put_layer(HOST, &repo(), &chain(1), &digest("1"), 1, "v1")
        .await
        .unwrap();
    server.freeze();
    for _ in 0..3 {
        let error = index
            .find_layer(HOST, &repo(), &chain(1))
            .await
            .unwrap_err();
        assert!(error.is_unavailable(), "{error}");
    }
    server.thaw();
    let mut answer = index.find_layer(HOST, &repo(), &chain(1)).await;
    for _ in 0..50 {
        if answer.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        answer = index.find_layer(HOST, &repo(), &chain(1)).await;
    }
    // An answer to an earlier question must not be taken for this one's.
    assert_eq!(answer.unwrap().unwrap().digest, digest("1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_between_two_queries_causes_no_error() {
    let started = tokio::task::spawn_blocking(|| Server::start(&[]));
    let Some(server) = started.await.unwrap() else {
        return;
    };
    let index = open(&server.dsn(&server.database().await), true)
        .await
        .unwrap();
    let (app, first) = (repo(), chain(1));
    let blob = digest("1");
    index
        .put_layer(HOST, &app, &first, &blob, 1, "v1")
        .await
        .unwrap();
    // Many at once, so that the pool has many connections to lose.
    let finds = (0..32).map(|_| index.find_layer(HOST, &app, &first));
    for found in futures_util::future::join_all(finds).await {
        assert!(found.unwrap().is_some());
    }
    let server = tokio::task::spawn_blocking(move || {
        server.down();
        server.up();
        server
    });
    let _server = server.await.unwrap();
    for _ in 0..3 {
        let found = index.find_layer(HOST, &app, &first).await.unwrap();
        assert_eq!(found.unwrap().digest, blob);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_lost_during_a_query_causes_no_error() {
    let Some(server) = shared().await else {
        return;
    };
    let database = server.database().await;
    let index = open(&server.dsn(&database), true).await.unwrap();
    let (app, first, blob) = (repo(), chain(1), digest("1"));
    index
        .put_layer(HOST, &app, &first, &blob, 1, "v1")
        .await
        .unwrap();
    let url = format!(
        "mysql://root@127.0.0.1:{}/{database}?prefer_socket=false",
        server.port()
    );
    let mut operator = mysql_async::Conn::from_url(url).await.unwrap();
    operator
        .query_drop("LOCK TABLES overlaybd_layers WRITE")
        .await
        .unwrap();
    let question = tokio::spawn(async move { index.find_layer(HOST, &app, &first).await });
    let waiting = format!(
        "SELECT id FROM information_schema.processlist \
         WHERE db = '{database}' AND state LIKE 'Waiting for table%'"
    );
    let id: u64 = loop {
        if let Some(id) = operator.query_first(&waiting).await.unwrap() {
            break id;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    operator.query_drop(format!("KILL {id}")).await.unwrap();
    operator.query_drop("UNLOCK TABLES").await.unwrap();
    let found = question.await.unwrap().unwrap();
    assert_eq!(found.unwrap().digest, blob);
    operator.disconnect().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_disconnects_between_write_and_read_is_waited_for() {
    let Some(server) = shared().await else {
        return;
    };
    let database = server.database().await;
    let creates = open(&server.dsn(&database), true).await.unwrap();
    creates.close().await;
    let read_back = "SELECT 1 FROM `overlaybd_layers` WHERE";
    let relay = relay::away_at(server.port(), read_back, Duration::from_secs(1)).await;
    let dsn = format!("root@tcp(127.0.0.1:{})/{database}", relay.port);
    let index = open(&dsn, false).await.unwrap();
    let blob = digest("1");
    index
        .put_layer(HOST, &repo(), &chain(1), &blob, 1, "v1")
        .await
        .unwrap();
    assert!(relay.went_away.load(Ordering::SeqCst), "it never went away");
    let row = index.find_layer(HOST, &repo(), &chain(1)).await.unwrap();
    assert_eq!(row.unwrap().digest, blob);
    index.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_killed_and_started_again_under_load_loses_no_row_and_gives_no_wrong_answer() {
    let started = tokio::task::spawn_blocking(|| Server::start(&[]));
    let Some(server) = started.await.unwrap() else {
        return;
    };
    let server = Arc::new(server);
    let dsn = server.dsn(&server.database().await);
    let index = open(&dsn, true).await.unwrap();
    let written = Arc::new(AtomicUsize::new(0));
    let unavailable = Arc::new(AtomicUsize::new(0));
    let stop = Arc::new(AtomicBool::new(false));

    let writer = tokio::spawn({
        let (index, written, stop) = (index.clone(), written.clone(), stop.clone());
        async move {
            while !stop.load(Ordering::SeqCst) {
                let n = written.load(Ordering::SeqCst);
                let blob = digest(&format!("blob {n}"));
                let (repo, chain) = (repo(), chain(n));
                // A server that is away is waited for.
                let put = index.put_layer(HOST, &repo, &chain, &blob, 1, "v1");
                put.await.unwrap();
                written.store(n + 1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
    });
    let readers: Vec<_> = (0..8)
        .map(|_| {
            let (index, written, stop) = (index.clone(), written.clone(), stop.clone());
            let unavailable = unavailable.clone();
            tokio::spawn(async move {
                while !stop.load(Ordering::SeqCst) {
                    let known = written.load(Ordering::SeqCst);
                    if known > 0 {
                        let n = rand::random_range(0..known);
                        match index.find_layer(HOST, &repo(), &chain(n)).await {
                            Ok(Some(row)) => assert_eq!(row.digest, digest(&format!("blob {n}"))),
                            Ok(None) => panic!("an error became a miss"),
                            Err(error) if error.is_unavailable() => {
                                unavailable.fetch_add(1, Ordering::SeqCst);
                            }
                            Err(error) => panic!("{error}"),
                        }
                    }
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            })
        })
        .collect();

    for _ in 0..2 {
        let before = written.load(Ordering::SeqCst);
        while written.load(Ordering::SeqCst) < before + 20 {
            assert!(!writer.is_finished(), "a row was not waited for");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let refused = unavailable.load(Ordering::SeqCst);
        let down = server.clone();
        tokio::task::spawn_blocking(move || down.down())
            .await
            .unwrap();
        while unavailable.load(Ordering::SeqCst) < refused + 8 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(index.ping().await.unwrap_err().is_unavailable());
        let lease = index.acquire("lease", "me", Duration::from_mins(1)).await;
        assert!(lease.unwrap_err().is_unavailable());
        let up = server.clone();
        tokio::task::spawn_blocking(move || up.up()).await.unwrap();
    }
    let before = written.load(Ordering::SeqCst);
    while written.load(Ordering::SeqCst) < before + 20 {
        assert!(!writer.is_finished(), "a row was not waited for");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    stop.store(true, Ordering::SeqCst);
    writer.await.unwrap();
    for reader in readers {
        reader.await.unwrap();
    }
    for n in 0..written.load(Ordering::SeqCst) {
        let row = index
            .find_layer(HOST, &repo(), &chain(n))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(row.digest, digest(&format!("blob {n}")));
    }
    let lease = index
        .acquire("lease", "me", Duration::from_mins(1))
        .await
        .unwrap();
    assert!(matches!(lease, Acquired::Mine(_)));
    index.close().await;
}
