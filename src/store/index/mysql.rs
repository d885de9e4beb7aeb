//! The index on a `MySQL` or `MariaDB` server, shared by replicas.

use super::{LayerRow, ManifestKey, ManifestRow};
use crate::oci::{Digest, RepoName};
use crate::store::IndexError;

/// How to reach the server.
#[derive(Clone, Debug)]
pub struct MysqlConfig {
    /// Where and how, in the form of Go's driver.
    pub dsn: String,
    /// Whether to make the tables that are missing.
    pub create_tables: bool,
    /// PEM files with the roots that `tls=custom` trusts.
    pub tls_roots: Vec<std::path::PathBuf>,
}

/// The index on a server.
#[derive(Debug, Clone)]
pub struct MysqlIndex {}

macro_rules! stub {
    ($($name:ident($($arg:ident: $ty:ty),*) -> $out:ty;)*) => {
        impl MysqlIndex {
            $(pub(super) async fn $name(&self, $($arg: $ty),*) -> Result<$out, IndexError> {
                $(let _ = $arg;)*
                Err(IndexError::Dsn("MySQL is not there yet".to_owned()))
            })*
        }
    };
}
stub! {
    ping() -> ();
    find_layer(host: &str, repo: &str, chain: &str) -> Option<LayerRow>;
    find_layer_elsewhere(host: &str, chain: &str, variant: &str) -> Vec<(RepoName, LayerRow)>;
    find_built(chain: &str, variant: &str) -> Option<LayerRow>;
    put_layer(host: &str, repo: &str, chain: &str, digest: &str, size: i64, variant: &str) -> ();
    delete_layer(host: &str, repo: &str, chain: &str, digest: &str) -> bool;
    find_manifest(key: &ManifestKey) -> Option<ManifestRow>;
    find_built_manifest(source: &str, variant: &str) -> Option<(String, ManifestRow)>;
    put_manifest(key: &ManifestKey, digest: &str, size: i64, variant: &str) -> ();
    delete_manifest(key: &ManifestKey, digest: &str) -> bool;
    link(host: &str, repo: &str, source: &str, blobs: &[&str]) -> ();
    sources(host: &str, repo: &str, blob: &str) -> Vec<Digest>;
    linked_repos(host: &str, blob: &str) -> Vec<RepoName>;
    unlink(host: &str, repo: &str, source: &str) -> ();
    acquire(name: &str, token: &str, ttl: i64) -> (String, u64);
    heartbeat(name: &str, token: &str, ttl: i64) -> bool;
    release(name: &str, token: &str) -> bool;
    release_range(from: &str, to: &str) -> u64;
}

impl MysqlIndex {
    pub(super) async fn open(config: MysqlConfig) -> Result<Self, IndexError> {
        let _ = config;
        Err(IndexError::Dsn("MySQL is not there yet".to_owned()))
    }
    pub(super) async fn close(self) {}
}
