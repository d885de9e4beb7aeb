//! The index on a `MySQL` or `MariaDB` server, shared by replicas.
//!
//! There are no transactions: each statement is atomic and may be repeated, so it is retried after a
//! lost connection or a deadlock. This program's own row about a blob is written before the shared
//! one.

mod authentication;
mod dsn;
mod images;
mod layers;
mod leases;
mod links;
mod manifests;
mod pool;
mod records;
mod version;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mysql_async::{Params, Value};

pub use dsn::{Dsn, Tls};

use super::rows::parse_target;
use super::schema::TABLES;
use crate::oci::Digest;
use crate::store::error::IndexError;
use pool::{Server, WRITE_RETRY_FOR};

/// How to reach the server.
#[derive(Clone, Debug)]
pub struct MysqlConfig {
    /// Where and how.
    pub dsn: Dsn,
    /// Whether to create missing tables.
    pub create_tables: bool,
    /// PEM files with the roots that `tls=custom` trusts.
    pub tls_roots: Vec<PathBuf>,
}

/// The index on a server.
#[derive(Debug, Clone)]
pub struct MysqlIndex {
    server: Arc<Server>,
}

const NO_RETRY: Duration = Duration::ZERO;

type Row = Vec<Option<Value>>;

impl MysqlIndex {
    pub(in crate::store::index) async fn open(config: MysqlConfig) -> Result<Self, IndexError> {
        let ignored = config.dsn.ignored();
        if !ignored.is_empty() {
            tracing::info!(
                ?ignored,
                "parameters of the MySQL connection without meaning here"
            );
        }
        let server = Server::connect(&config.dsn, &config.tls_roots).await?;
        let index = Self {
            server: Arc::new(server),
        };
        let are_new = index.check_tables(config.create_tables).await?;
        index.check_version(config.create_tables, are_new).await?;
        Ok(index)
    }

    /// Creates missing tables, if it may; returns whether all were missing.
    async fn check_tables(&self, create: bool) -> Result<bool, IndexError> {
        let mut missing = Vec::new();
        for table in &TABLES {
            let columns = table.columns.join("`, `");
            let probe = format!("SELECT `{columns}` FROM `{}` WHERE 1 = 0", table.name);
            match self.server.probe(&probe).await? {
                None => {}
                Some(1146) => missing.push(table),
                Some(_) => {
                    return Err(IndexError::Schema {
                        index: self.server.to_string(),
                        problem: format!("the table {} lacks a column", table.name),
                        statement: table.mysql.to_owned(),
                    });
                }
            }
        }
        if missing.is_empty() {
            return Ok(false);
        }
        let names: Vec<_> = missing.iter().map(|table| table.name).collect();
        let statements: Vec<_> = missing.iter().map(|table| table.mysql).collect();
        if !create {
            return Err(IndexError::Schema {
                index: self.server.to_string(),
                problem: format!("these tables are missing: {}", names.join(", ")),
                statement: statements.join("\n"),
            });
        }
        for statement in statements {
            self.server.define(statement.trim_end_matches(';')).await?;
        }
        tracing::info!(index = %self.server, tables = ?names, "created tables");
        Ok(missing.len() == TABLES.len())
    }

    async fn select(
        &self,
        what: &'static str,
        sql: &str,
        params: Vec<Value>,
    ) -> Result<Vec<Row>, IndexError> {
        let done = self.run(what, sql, params, NO_RETRY).await?;
        Ok(done.rows)
    }

    async fn run(
        &self,
        what: &'static str,
        sql: &str,
        params: Vec<Value>,
        retry_for: Duration,
    ) -> Result<pool::Done, IndexError> {
        let params = Params::from(params);
        self.server.run(what, sql, params, retry_for).await
    }

    /// Reads the outcome of a [`write`](Self::write): while the server is away, it is retried as a
    /// write is.
    async fn read_back(
        &self,
        what: &'static str,
        sql: &str,
        params: Vec<Value>,
    ) -> Result<Vec<Row>, IndexError> {
        let done = self.run(what, sql, params, WRITE_RETRY_FOR).await?;
        Ok(done.rows)
    }

    /// Executes a statement that must not be lost; returns the number of rows that it matched.
    async fn write(
        &self,
        what: &'static str,
        sql: &str,
        params: Vec<Value>,
    ) -> Result<u64, IndexError> {
        let done = self.run(what, sql, params, WRITE_RETRY_FOR).await?;
        Ok(done.matched)
    }

    /// As [`write`](Self::write), but not retried while the server is away.
    async fn write_now(
        &self,
        what: &'static str,
        sql: &str,
        params: Vec<Value>,
    ) -> Result<u64, IndexError> {
        let done = self.run(what, sql, params, NO_RETRY).await?;
        Ok(done.matched)
    }

    pub(in crate::store::index) async fn close(self) {
        self.server.close().await;
    }

    pub(in crate::store::index) async fn ping(&self) -> Result<(), IndexError> {
        self.select("answer", "SELECT 1", Vec::new())
            .await
            .map(drop)
    }
}

/// A column as text; another program's row may hold anything.
fn text(row: &Row, column: usize) -> Option<String> {
    match row.get(column)?.as_ref()? {
        Value::Bytes(bytes) => String::from_utf8(bytes.clone()).ok(),
        _ => None,
    }
}

fn integer(row: &Row, column: usize) -> Option<i64> {
    match row.get(column)?.as_ref()? {
        Value::Int(number) => Some(*number),
        Value::UInt(number) => i64::try_from(*number).ok(),
        Value::Bytes(bytes) => std::str::from_utf8(bytes).ok()?.parse().ok(),
        _ => None,
    }
}

fn target(table: &str, row: &Row) -> Option<(Digest, u64)> {
    parse_target(table, text(row, 0).as_deref(), integer(row, 1))
}
