//! The connection text of Go's `MySQL` driver (github.com/go-sql-driver/mysql, README § DSN).

/// Stub.
#[derive(Clone)]
pub struct Dsn {}

/// Stub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tls {}
