//! The rows of leases. Their holders end with a power cut, so none of them has to survive it.

use rusqlite::params;

use super::SqliteIndex;
use crate::store::error::IndexError;

/// Now, in milliseconds since 1970.
pub(super) const NOW: &str = "CAST(unixepoch('subsec') * 1000 AS INTEGER)";

impl SqliteIndex {
    /// The holder after the attempt, and the remaining milliseconds.
    pub(in crate::store::index) async fn acquire(
        &self,
        name: &str,
        token: &str,
        ttl: i64,
    ) -> Result<(String, u64), IndexError> {
        let (name, token) = (name.to_owned(), token.to_owned());
        self.write_soon("acquire a lease", move |db| {
            db.execute(
                &format!(
                    "INSERT INTO overlaybd_proxy_leases (name, holder, expires_at) \
                     VALUES (?1, ?2, {NOW} + ?3) ON CONFLICT (name) DO UPDATE \
                     SET holder = excluded.holder, expires_at = excluded.expires_at \
                     WHERE expires_at <= {NOW}"
                ),
                params![name, token, ttl],
            )?;
            db.query_row(
                &format!(
                    "SELECT holder, max(expires_at - {NOW}, 0) \
                     FROM overlaybd_proxy_leases WHERE name = ?1"
                ),
                params![name],
                |row| {
                    Ok((
                        row.get(0)?,
                        u64::try_from(row.get::<_, i64>(1)?).unwrap_or(0),
                    ))
                },
            )
        })
        .await
    }

    pub(in crate::store::index) async fn heartbeat(
        &self,
        name: &str,
        token: &str,
        ttl: i64,
    ) -> Result<bool, IndexError> {
        let (name, token) = (name.to_owned(), token.to_owned());
        self.write_soon("keep a lease", move |db| {
            db.execute(
                &format!(
                    "UPDATE overlaybd_proxy_leases SET expires_at = {NOW} + ?3 \
                     WHERE name = ?1 AND holder = ?2"
                ),
                params![name, token, ttl],
            )
            .map(|rows| rows > 0)
        })
        .await
    }

    pub(in crate::store::index) async fn release(
        &self,
        name: &str,
        token: &str,
    ) -> Result<bool, IndexError> {
        let (name, token) = (name.to_owned(), token.to_owned());
        self.write_soon("release a lease", move |db| {
            db.execute(
                "DELETE FROM overlaybd_proxy_leases WHERE name = ?1 AND holder = ?2",
                params![name, token],
            )
            .map(|rows| rows > 0)
        })
        .await
    }

    pub(in crate::store::index) async fn release_range(
        &self,
        from: &str,
        to: &str,
    ) -> Result<u64, IndexError> {
        let (from, to) = (from.to_owned(), to.to_owned());
        self.write_soon("release leases", move |db| {
            db.execute(
                "DELETE FROM overlaybd_proxy_leases WHERE holder >= ?1 AND holder < ?2",
                params![from, to],
            )
            .map(|rows| u64::try_from(rows).unwrap_or(u64::MAX))
        })
        .await
    }
}
