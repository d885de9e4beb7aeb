//! The connections to a `MySQL` server: timeouts, retries, and the classes of errors.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{
    Conn, DriverError, Error, Opts, OptsBuilder, Params, Pool, PoolConstraints, PoolOpts, SslOpts,
    Value,
};
use tokio::time::{Instant, sleep, timeout};

use super::authentication::{connect, explain};
use super::dsn::{Address, Dsn, Tls};
use crate::store::error::IndexError;

/// How long writes are retried while the server is away: a row stands for a conversion.
pub(super) const WRITE_RETRY_FOR: Duration = Duration::from_secs(30);

const MAX_CONNECTIONS: usize = 10;

/// After a restart of the server every pooled connection fails once.
const MAX_ATTEMPTS: u32 = 16;

/// How often a login is tried before its refusal is an error. The client library cuts a zero off
/// the end of what `ed25519` accounts have to sign (`AuthSwitchRequest::plugin_data` of
/// `mysql_common` 0.37.3), so the right password is refused once in 256 logins.
const LOGINS: u32 = 3;

pub(super) struct Server {
    name: String,
    pool: Pool,
    connect_timeout: Duration,
    read_timeout: Duration,
}

/// The result of a statement.
pub(super) struct Done {
    pub(super) rows: Vec<Vec<Option<Value>>>,
    /// Rows that a `WHERE` matched, changed or not.
    pub(super) matched: u64,
}

/// How an error is handled.
#[derive(Debug, PartialEq, Eq)]
enum Handling {
    /// The connection was lost: retry at once over another one.
    Reconnect,
    /// Another transaction conflicted: retry after a short time.
    Again,
    /// The server is not available now.
    Later,
    /// A retry would fail the same way.
    Never,
}

impl Server {
    pub(super) async fn connect(dsn: &Dsn, roots: &[PathBuf]) -> Result<Self, IndexError> {
        let pool = Pool::new(options(dsn, dsn.tls, roots).await?);
        let mut server = Self {
            name: dsn.to_string(),
            pool,
            connect_timeout: dsn.connect_timeout,
            read_timeout: dsn.read_timeout,
        };
        let mut first = timeout(dsn.connect_timeout, connect(&server.pool)).await;
        for _ in 1..LOGINS {
            if !matches!(&first, Ok(Err(error)) if is_login_refused(error)) {
                break;
            }
            first = timeout(dsn.connect_timeout, connect(&server.pool)).await;
        }
        match first {
            Ok(Err(Error::Driver(DriverError::NoClientSslFlagFromServer)))
                if dsn.tls == Tls::Preferred =>
            {
                tracing::warn!(index = %server, "the server has no TLS: the connection is plain");
                server.pool = Pool::new(options(dsn, Tls::Off, roots).await?);
            }
            Ok(Err(error)) if handling(&error) == Handling::Never => {
                return Err(server.refused("connect", &error));
            }
            // A server that is just starting is retried below.
            _ => {}
        }
        Ok(server)
    }

    fn refused(&self, what: &'static str, error: &Error) -> IndexError {
        IndexError::Database {
            index: self.name.clone(),
            what,
            reason: explain(error),
        }
    }

    fn unavailable(&self, reason: String) -> IndexError {
        IndexError::Unavailable {
            index: self.name.clone(),
            reason,
        }
    }

    /// Executes a statement that may be repeated. While the server cannot be reached, it is retried
    /// for `retry_for`.
    pub(super) async fn run(
        &self,
        what: &'static str,
        sql: &str,
        params: Params,
        retry_for: Duration,
    ) -> Result<Done, IndexError> {
        let started = Instant::now();
        let mut waited = false;
        loop {
            match self.attempt(what, sql, &params).await {
                Err(IndexError::Unavailable { reason, .. }) if started.elapsed() < retry_for => {
                    if !waited {
                        waited = true;
                        tracing::warn!(index = %self, what, reason, "the index is away: waiting");
                    }
                    sleep(Duration::from_millis(250)).await;
                }
                outcome => return outcome,
            }
        }
    }

    async fn attempt(
        &self,
        what: &'static str,
        sql: &str,
        params: &Params,
    ) -> Result<Done, IndexError> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let mut connection = self.connection(what).await?;
            let outcome = timeout(
                self.read_timeout,
                execute(&mut connection, sql, params.clone()),
            )
            .await;
            let error = match outcome {
                Ok(Ok(done)) => return Ok(done),
                Ok(Err(error)) => error,
                Err(_) => {
                    // The connection was in the middle of an answer; it is not pooled again.
                    let time = self.read_timeout;
                    return Err(self
                        .unavailable(format!("no answer within {time:?} when trying to {what}")));
                }
            };
            drop(connection);
            match handling(&error) {
                Handling::Never => return Err(self.refused(what, &error)),
                Handling::Later => return Err(self.unavailable(explain(&error))),
                _ if attempt >= MAX_ATTEMPTS => return Err(self.unavailable(explain(&error))),
                Handling::Reconnect => {
                    tracing::debug!(index = %self, what, %error, "lost a connection");
                }
                Handling::Again => {
                    tracing::debug!(index = %self, what, %error, "again");
                    let most = 10u64 << attempt.min(6);
                    sleep(Duration::from_millis(rand::random_range(1..=most))).await;
                }
            }
        }
    }

    async fn connection(&self, what: &'static str) -> Result<Conn, IndexError> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            match timeout(self.connect_timeout, connect(&self.pool)).await {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(error)) if is_login_refused(&error) && attempt < LOGINS => {}
                Ok(Err(error)) if handling(&error) == Handling::Never => {
                    return Err(self.refused(what, &error));
                }
                // A server that restarts refuses connections only for a moment.
                Ok(Err(_)) if attempt < 3 => sleep(Duration::from_millis(100)).await,
                Ok(Err(error)) => return Err(self.unavailable(explain(&error))),
                Err(_) => {
                    let time = self.connect_timeout;
                    return Err(self.unavailable(format!("no connection within {time:?}")));
                }
            }
        }
    }

    /// Executes a statement; returns the error number if a table or column is missing.
    pub(super) async fn probe(&self, sql: &str) -> Result<Option<u16>, IndexError> {
        let mut connection = self.connection("check the tables").await?;
        match timeout(self.read_timeout, connection.query_drop(sql)).await {
            Ok(Ok(())) => Ok(None),
            // No such table; unknown column.
            Ok(Err(Error::Server(error))) if matches!(error.code, 1146 | 1054) => {
                Ok(Some(error.code))
            }
            Ok(Err(error)) => match handling(&error) {
                Handling::Never => Err(self.refused("check the tables", &error)),
                _ => Err(self.unavailable(explain(&error))),
            },
            Err(_) => Err(self.unavailable(format!("no answer within {:?}", self.read_timeout))),
        }
    }

    /// Creates or changes a table, unless another replica was faster: the table, the column or the
    /// key is there already.
    pub(super) async fn define(&self, sql: &str) -> Result<(), IndexError> {
        let mut connection = self.connection("define a table").await?;
        match timeout(self.read_timeout, connection.query_drop(sql)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(Error::Server(error))) if matches!(error.code, 1050 | 1060 | 1061) => Ok(()),
            Ok(Err(error)) => match handling(&error) {
                Handling::Never => Err(self.refused("define a table", &error)),
                _ => Err(self.unavailable(explain(&error))),
            },
            Err(_) => Err(self.unavailable(format!("no answer within {:?}", self.read_timeout))),
        }
    }

    pub(super) async fn close(&self) {
        let closing = self.pool.clone().disconnect();
        match timeout(Duration::from_secs(5), closing).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(index = %self, %error, "closing"),
            Err(_) => tracing::debug!(index = %self, "closing took too long"),
        }
    }
}

async fn execute(connection: &mut Conn, sql: &str, params: Params) -> Result<Done, Error> {
    let mut result = connection.exec_iter(sql, params).await?;
    let matched = result.affected_rows();
    let rows: Vec<mysql_async::Row> = result.collect().await?;
    result.drop_result().await?;
    let rows = rows.into_iter().map(mysql_async::Row::unwrap_raw).collect();
    Ok(Done { rows, matched })
}

async fn options(dsn: &Dsn, tls: Tls, roots: &[PathBuf]) -> Result<Opts, IndexError> {
    let pool = PoolOpts::default()
        .with_constraints(PoolConstraints::new(0, MAX_CONNECTIONS).unwrap_or_default())
        .with_inactive_connection_ttl(Duration::from_mins(5))
        // Nothing here changes a session after its beginning.
        .with_reset_connection(false);
    // Strict, so that nothing is cut to fit; UTC, so that no clock repeats an hour. One
    // statement: the driver does several in reverse order.
    let mut session =
        vec!["SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION'".to_owned()];
    session.push("SESSION time_zone = '+00:00'".to_owned());
    session.extend(dsn.session.iter().cloned());
    let mut options = OptsBuilder::default()
        .user(dsn.user.clone())
        .pass(dsn.password.clone())
        .db_name(Some(dsn.database.clone()))
        .setup(vec![format!("SET {}", session.join(", "))])
        .pool_opts(pool)
        .max_allowed_packet(dsn.max_allowed_packet)
        .enable_cleartext_plugin(dsn.cleartext)
        .tcp_keepalive(Some(Duration::from_secs(30)))
        .client_found_rows(true)
        .prefer_socket(false);
    if dsn.compress {
        options = options.compression(mysql_async::Compression::default());
    }
    options = match &dsn.address {
        Address::Tcp { host, port } => options.ip_or_hostname(host.as_str()).tcp_port(*port),
        Address::Unix(path) => options.socket(Some(path.display().to_string())),
    };
    let ssl = match tls {
        Tls::Off => None,
        Tls::SkipVerify | Tls::Preferred => {
            Some(SslOpts::default().with_danger_accept_invalid_certs(true))
        }
        Tls::Verify => Some(with_system_roots().await?),
        Tls::Custom if roots.is_empty() => {
            return Err(IndexError::Dsn(
                "tls=custom: the roots to trust are to be given with --db-ca".to_owned(),
            ));
        }
        Tls::Custom => Some(
            SslOpts::default()
                .with_root_certs(roots.iter().map(|path| path.clone().into()).collect())
                .with_disable_built_in_roots(true),
        ),
    };
    Ok(options.ssl_opts(ssl).into())
}

/// The roots that the system trusts, as Go does; the built-in ones where there are none.
async fn with_system_roots() -> Result<SslOpts, IndexError> {
    let loaded = tokio::task::spawn_blocking(|| {
        let mut probe = rustls::RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs().certs;
        let good = found
            .into_iter()
            .filter(|cert| probe.add(cert.clone()).is_ok());
        good.map(|cert| cert.to_vec().into()).collect::<Vec<_>>()
    });
    let roots = loaded
        .await
        .map_err(|error| IndexError::Dsn(format!("the system's roots: {error}")))?;
    Ok(SslOpts::default()
        .with_disable_built_in_roots(!roots.is_empty())
        .with_root_certs(roots))
}

/// Whether the server refused user and password (`ER_ACCESS_DENIED_ERROR`).
fn is_login_refused(error: &Error) -> bool {
    matches!(error, Error::Server(error) if error.code == 1045)
}

/// How to handle an error; numbers as in the servers' "Error Code" references.
fn handling(error: &Error) -> Handling {
    match error {
        Error::Io(mysql_async::IoError::Tls(_)) | Error::Url(_) => Handling::Never,
        // What TLS says of a certificate arrives as this.
        Error::Io(mysql_async::IoError::Io(error))
            if error.kind() == std::io::ErrorKind::InvalidData =>
        {
            Handling::Never
        }
        Error::Io(_)
        | Error::Driver(
            DriverError::ConnectionClosed
            | DriverError::PoolDisconnected
            | DriverError::PacketOutOfOrder
            | DriverError::UnexpectedPacket { .. },
        ) => Handling::Reconnect,
        Error::Driver(_) | Error::Other(_) => Handling::Never,
        Error::Server(error) => match error.code {
            // Shutdown in progress, connection killed, network errors, unknown statement.
            1053 | 1077 | 1079 | 1152 | 1154 | 1158..=1161 | 1184 | 1243 | 1927 | 3169 => {
                Handling::Reconnect
            }
            // Record changed, lock wait timeout, deadlock, table changed, re-prepare.
            1020 | 1205 | 1213 | 1412 | 1615 | 3572 => Handling::Again,
            // Too many connections, out of memory or disk, read-only, interrupted, timed out,
            // not the cluster's primary component.
            1021 | 1037 | 1038 | 1040 | 1041 | 1047 | 1114 | 1129 | 1203 | 1226 | 1290 | 1317
            | 1792 | 1836 | 1969 | 3024 => Handling::Later,
            _ => Handling::Never,
        },
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}
