//! The index: which converted blob belongs to which chain, image and repository, and the leases of
//! the processes that are converting one.
//!
//! The tables `overlaybd_layers` and `overlaybd_manifests` are the reference converter's and
//! are shared with it; this program's own tables have names that begin with `overlaybd_proxy_`. Both
//! databases behave alike.

macro_rules! either {
    ($self:ident, $index:ident => $call:expr) => {
        match $self {
            Self::Sqlite($index) => $call.await,
            Self::Mysql($index) => $call.await,
        }
    };
}

mod image;
mod lease;
mod mysql;
mod record_values;
mod records;
mod rows;
mod schema;
mod shared;
mod sqlite;
mod values;

use std::path::PathBuf;
use std::time::Duration;

pub use image::{BuiltManifest, ImageRows, PartsOf};
pub use lease::{Acquired, Lease, LeaseKeeper};
pub use mysql::{Dsn, MysqlConfig, Tls};
pub use records::{
    ImageFilter, ImageOrder, ImagePosition, ImageRecord, MAX_IMAGES, MAX_PARTS, RecordedImage,
};
pub use rows::{LayerRow, MAX_ELSEWHERE, ManifestKey, ManifestRow, Origin};
pub use shared::SharedLayer;

use super::error::IndexError;
use crate::oci::{ChainId, DiffId, Digest, RepoName};
use values::{check, check_key, milliseconds, signed};

/// The index. Cheap to clone; the clones share one connection or pool.
#[derive(Debug, Clone)]
pub enum Index {
    /// A file in the data directory.
    Sqlite(sqlite::SqliteIndex),
    /// A server shared by replicas.
    Mysql(mysql::MysqlIndex),
}

impl Index {
    /// Opens or creates the `SQLite` index at `path`.
    ///
    /// # Errors
    /// When the file cannot be used as an index.
    pub async fn sqlite(path: PathBuf) -> Result<Self, IndexError> {
        sqlite::SqliteIndex::open(&path).await.map(Self::Sqlite)
    }

    /// Connects to a `MySQL` server and checks or creates the tables.
    ///
    /// # Errors
    /// [`IndexError::Dsn`], [`IndexError::Schema`], or when the server does not answer.
    pub async fn mysql(config: MysqlConfig) -> Result<Self, IndexError> {
        mysql::MysqlIndex::open(config).await.map(Self::Mysql)
    }

    /// Checks whether the database answers.
    ///
    /// # Errors
    /// [`IndexError::Unavailable`] when it is not.
    pub async fn ping(&self) -> Result<(), IndexError> {
        either!(self, index => index.ping())
    }

    /// Why the index cannot be written, if it cannot: the disk with the file is full or read-only.
    /// It can be read all the same.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn read_only(&self) -> Result<Option<String>, IndexError> {
        match self {
            Self::Sqlite(index) => index.read_only().await,
            // Its errors say so.
            Self::Mysql(_) => Ok(None),
        }
    }

    /// Gives room on this machine's disk back that the index can do without. Blocks, for a second at
    /// most.
    pub fn shrink(&self) {
        match self {
            Self::Sqlite(index) => index.shrink(),
            Self::Mysql(_) => {}
        }
    }

    /// The row of a chain in one repository. A row with an invalid digest or size is logged and
    /// ignored.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn find_layer(
        &self,
        host: &str,
        repo: &RepoName,
        chain: &ChainId,
    ) -> Result<Option<LayerRow>, IndexError> {
        check("host", host)?;
        either!(self, index => index.find_layer(host, repo.as_str(), chain.0.as_str()))
    }

    /// The rows of a chain in all repositories of a host, those that this program made with
    /// `variant` first, then by name; at most [`MAX_ELSEWHERE`].
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn find_layer_elsewhere(
        &self,
        host: &str,
        chain: &ChainId,
        variant: &str,
    ) -> Result<Vec<(RepoName, LayerRow)>, IndexError> {
        check("host", host)?;
        check("variant", variant)?;
        either!(self, index => index.find_layer_elsewhere(host, chain.0.as_str(), variant))
    }

    /// The rows of a chain on a host, in any repository, that name another blob than `digest`;
    /// at most [`MAX_ELSEWHERE`].
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn find_other_layers(
        &self,
        host: &str,
        chain: &ChainId,
        digest: &Digest,
    ) -> Result<Vec<(RepoName, LayerRow)>, IndexError> {
        check("host", host)?;
        either!(self, index => index.find_other_layers(host, chain.0.as_str(), digest.as_str()))
    }

    /// The blob that this program made of a chain with these settings, for any repository: the bytes
    /// depend on nothing else.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn find_built(
        &self,
        chain: &ChainId,
        variant: &str,
    ) -> Result<Option<LayerRow>, IndexError> {
        check("variant", variant)?;
        either!(self, index => index.find_built(chain.0.as_str(), variant))
    }

    /// Records the blob made of a chain, in this program's own tables; the blob must be durable
    /// by now. A blob that was recorded with the same settings before is replaced.
    ///
    /// # Errors
    /// When a value does not fit or the database does not answer.
    pub async fn put_built(
        &self,
        chain: &ChainId,
        variant: &str,
        digest: &Digest,
        size: u64,
    ) -> Result<(), IndexError> {
        check("variant", variant)?;
        let size = signed(size)?;
        either!(self, index => index.put_built(chain.0.as_str(), variant, digest.as_str(), size))
    }

    /// Adds a layer's row to the table that is shared with the reference converter, which builds on
    /// the blob of a row without reading it. So a row is added only where there is none, and only
    /// where the row of the chain below names the blob that this one was built on. The registry
    /// must have the blob. Returns whether the row is there now.
    ///
    /// # Errors
    /// When a value does not fit or the database does not answer.
    pub async fn share_layer(
        &self,
        host: &str,
        repo: &RepoName,
        layer: &SharedLayer<'_>,
    ) -> Result<bool, IndexError> {
        check("host", host)?;
        let row = shared::LayerValues::new(host, repo, layer)?;
        either!(self, index => index.share_layer(&row))
    }

    /// Changes a row of the shared table that this program wrote, and that still names `old`, to
    /// another blob with the same content. Returns whether there was one.
    ///
    /// # Errors
    /// As [`share_layer`](Self::share_layer).
    pub async fn replace_shared_layer(
        &self,
        host: &str,
        repo: &RepoName,
        layer: &SharedLayer<'_>,
        old: &Digest,
    ) -> Result<bool, IndexError> {
        check("host", host)?;
        let row = shared::LayerValues::new(host, repo, layer)?;
        either!(self, index => index.replace_shared_layer(&row, old.as_str()))
    }

    /// The diff id of a compressed source layer, if it was verified before.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn find_diff_id(&self, layer: &Digest) -> Result<Option<DiffId>, IndexError> {
        either!(self, index => index.find_diff_id(layer.as_str()))
    }

    /// Records the diff id of a compressed source layer; both digests were verified.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn put_diff_id(&self, layer: &Digest, diff_id: &DiffId) -> Result<(), IndexError> {
        either!(self, index => index.put_diff_id(layer.as_str(), diff_id.0.as_str()))
    }

    /// Deletes a row whose blob is gone or does not fit, if it still names `digest`. Returns
    /// whether there was one.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn delete_layer(
        &self,
        host: &str,
        repo: &RepoName,
        chain: &ChainId,
        digest: &Digest,
    ) -> Result<bool, IndexError> {
        check("host", host)?;
        either!(self, index => index.delete_layer(
            host, repo.as_str(), chain.0.as_str(), digest.as_str(),
        ))
    }

    /// The converted manifest of a source manifest in one repository. Invalid rows are ignored as in
    /// [`find_layer`](Self::find_layer).
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn find_manifest(
        &self,
        key: &ManifestKey,
    ) -> Result<Option<ManifestRow>, IndexError> {
        check_key(key)?;
        either!(self, index => index.find_manifest(key))
    }

    /// The manifest that this program made of a source manifest with these settings, for any
    /// repository, with its media type.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn find_built_manifest(
        &self,
        source: &Digest,
        variant: &str,
    ) -> Result<Option<(String, ManifestRow)>, IndexError> {
        check("variant", variant)?;
        either!(self, index => index.find_built_manifest(source.as_str(), variant))
    }

    /// Records a converted manifest, in this program's own tables; it must be durable by now.
    ///
    /// # Errors
    /// When a value does not fit or the database does not answer.
    pub async fn put_built_manifest(
        &self,
        source: &Digest,
        variant: &str,
        media_type: &str,
        digest: &Digest,
        size: u64,
    ) -> Result<(), IndexError> {
        let row = BuiltManifest {
            source,
            variant: variant.to_owned(),
            media_type,
            digest,
            size,
        };
        let row = image::ManifestValues::new(&row)?;
        either!(self, index => index.put_built_manifest(row))
    }

    /// Adds a manifest's row to the table that is shared with the reference converter, unless
    /// there is one. The registry must have the manifest.
    ///
    /// # Errors
    /// When a value does not fit or the database does not answer.
    pub async fn share_manifest(
        &self,
        key: &ManifestKey,
        digest: &Digest,
        size: u64,
    ) -> Result<(), IndexError> {
        check_key(key)?;
        let size = signed(size)?;
        either!(self, index => index.share_manifest(key, digest.as_str(), size))
    }

    /// Changes a row of the shared table that this program wrote, and that still names `old`, to
    /// another manifest. Returns whether there was one.
    ///
    /// # Errors
    /// As [`share_manifest`](Self::share_manifest).
    pub async fn replace_shared_manifest(
        &self,
        key: &ManifestKey,
        digest: &Digest,
        size: u64,
        old: &Digest,
    ) -> Result<bool, IndexError> {
        check_key(key)?;
        let size = signed(size)?;
        either!(self, index => index.replace_shared_manifest(
            key, digest.as_str(), size, old.as_str(),
        ))
    }

    /// Deletes a row whose manifest is gone or does not fit, if it still names `digest`. Returns
    /// whether there was one.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn delete_manifest(
        &self,
        key: &ManifestKey,
        digest: &Digest,
    ) -> Result<bool, IndexError> {
        check_key(key)?;
        either!(self, index => index.delete_manifest(key, digest.as_str()))
    }

    /// Records that these converted blobs, manifests and configs belong to the conversion of
    /// `source` in a repository: clients that may pull the source may pull them.
    ///
    /// # Errors
    /// When a value does not fit or the database does not answer.
    pub async fn link(
        &self,
        host: &str,
        repo: &RepoName,
        source: &Digest,
        blobs: &[Digest],
    ) -> Result<(), IndexError> {
        check("host", host)?;
        let blobs = image::in_order(blobs);
        either!(self, index => index.link(host, repo.as_str(), source.as_str(), &blobs))
    }

    /// Records what became of an image: as [`link`](Self::link),
    /// [`put_built_manifest`](Self::put_built_manifest) and [`put_pushed`](Self::put_pushed) do, in
    /// this order: on `SQLite` in one transaction, on `MySQL` one statement after the other. That
    /// its row for operators cannot be written is logged and no error.
    ///
    /// # Errors
    /// When a value does not fit or the database does not answer.
    pub async fn record_image(&self, rows: &ImageRows<'_>) -> Result<(), IndexError> {
        let rows = image::ImageValues::new(rows)?;
        either!(self, index => index.record_image(rows))
    }

    /// The source manifests of a repository whose conversions a blob belongs to, sorted; at most
    /// [`MAX_ELSEWHERE`].
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn sources(
        &self,
        host: &str,
        repo: &RepoName,
        blob: &Digest,
    ) -> Result<Vec<Digest>, IndexError> {
        check("host", host)?;
        either!(self, index => index.sources(host, repo.as_str(), blob.as_str()))
    }

    /// Whether `blob` was recorded as a part of the conversion of `source` in a repository.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn is_linked(
        &self,
        host: &str,
        repo: &RepoName,
        blob: &Digest,
        source: &Digest,
    ) -> Result<bool, IndexError> {
        check("host", host)?;
        either!(self, index => index.is_linked(
            host, repo.as_str(), blob.as_str(), source.as_str(),
        ))
    }

    /// Records that a repository of a registry has a layer or manifest that was pushed there.
    ///
    /// # Errors
    /// When a value does not fit or the database does not answer.
    pub async fn put_pushed(
        &self,
        host: &str,
        repo: &RepoName,
        blob: &Digest,
    ) -> Result<(), IndexError> {
        check("host", host)?;
        either!(self, index => index.put_pushed(host, repo.as_str(), blob.as_str()))
    }

    /// Whether a layer or manifest was pushed to a repository of a registry. It may be gone from
    /// there.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn is_pushed(
        &self,
        host: &str,
        repo: &RepoName,
        blob: &Digest,
    ) -> Result<bool, IndexError> {
        check("host", host)?;
        either!(self, index => index.is_pushed(host, repo.as_str(), blob.as_str()))
    }

    /// The repositories of a registry that a layer was pushed to, by name, at most
    /// [`MAX_ELSEWHERE`]. It may be gone from there.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn pushed_repos(
        &self,
        host: &str,
        blob: &Digest,
    ) -> Result<Vec<RepoName>, IndexError> {
        check("host", host)?;
        either!(self, index => index.pushed_repos(host, blob.as_str()))
    }

    /// Deletes the links of a source manifest in a repository.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn unlink(
        &self,
        host: &str,
        repo: &RepoName,
        source: &Digest,
    ) -> Result<(), IndexError> {
        check("host", host)?;
        either!(self, index => index.unlink(host, repo.as_str(), source.as_str()))
    }

    /// Tries to acquire the lease of `name`, for `ttl` by the database's clock or until it is
    /// released. An expired lease is taken over. A second call by the same holder competes with
    /// the first.
    ///
    /// # Errors
    /// When a value does not fit or the database does not answer.
    pub async fn acquire(
        &self,
        name: &str,
        holder: &str,
        ttl: Duration,
    ) -> Result<Acquired, IndexError> {
        check("lease", name)?;
        check("holder", holder)?;
        let token = format!("{holder}/{:016x}", rand::random::<u64>());
        check("holder", &token)?;
        let (found, remaining) =
            either!(self, index => index.acquire(name, &token, milliseconds(ttl)))?;
        Ok(if found == token {
            Acquired::Mine(Lease {
                name: name.to_owned(),
                token,
            })
        } else {
            Acquired::Held {
                holder: found.split('/').next().unwrap_or_default().to_owned(),
                remaining: Duration::from_millis(remaining),
            }
        })
    }

    /// Extends a lease to `ttl` from now. `false` if another holder has it by now.
    ///
    /// # Errors
    /// When the database does not answer; the lease may then expire.
    pub async fn heartbeat(&self, lease: &Lease, ttl: Duration) -> Result<bool, IndexError> {
        either!(self, index => index.heartbeat(&lease.name, &lease.token, milliseconds(ttl)))
    }

    /// Releases a lease. `false` if another holder had it.
    ///
    /// # Errors
    /// When the database does not answer; the lease then expires.
    pub async fn release(&self, lease: &Lease) -> Result<bool, IndexError> {
        either!(self, index => index.release(&lease.name, &lease.token))
    }

    /// Releases all leases of a holder that has ended; returns their number.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn release_all(&self, holder: &str) -> Result<u64, IndexError> {
        check("holder", holder)?;
        // From "holder/" up to and without "holder0": '0' follows '/' in ASCII.
        either!(self, index => index.release_range(&format!("{holder}/"), &format!("{holder}0")))
    }

    /// Deletes the rows of this program's own tables about blobs that are gone, by `is_there`, and
    /// that were not pushed: they are of no use. Returns their number.
    ///
    /// Replicas that share a server do not share their blobs: there nothing is deleted.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn sweep<F>(&self, is_there: F) -> Result<u64, IndexError>
    where
        F: Fn(&Digest) -> bool + Clone + Send + 'static,
    {
        match self {
            Self::Sqlite(index) => index.sweep(is_there).await,
            Self::Mysql(_) => Ok(0),
        }
    }

    /// Closes the connections.
    pub async fn close(self) {
        match self {
            Self::Sqlite(_) => {}
            Self::Mysql(index) => index.close().await,
        }
    }
}
