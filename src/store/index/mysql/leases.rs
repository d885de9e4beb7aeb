//! The rows of leases.

use std::time::Duration;

use tokio::time::Instant;

use super::{MysqlIndex, integer, text};
use crate::store::error::IndexError;

/// Now, in milliseconds since 1970, whatever the session's time zone.
pub(super) const NOW: &str =
    "(TIMESTAMPDIFF(MICROSECOND, '1970-01-01 00:00:00', UTC_TIMESTAMP(3)) DIV 1000)";

impl MysqlIndex {
    /// The holder after the attempt, and the remaining milliseconds.
    pub(in crate::store::index) async fn acquire(
        &self,
        name: &str,
        token: &str,
        ttl: i64,
    ) -> Result<(String, u64), IndexError> {
        let what = "acquire a lease";
        let started = Instant::now();
        loop {
            // Assignments happen from left to right: the second sees the holder that the
            // first chose. Done twice with one token, the outcome is the same.
            self.write_now(
                what,
                &format!(
                    "INSERT INTO `overlaybd_proxy_leases` (`name`, `holder`, `expires_at`) \
                     VALUES (?, ?, {NOW} + ?) ON DUPLICATE KEY UPDATE \
                     `holder` = IF(`expires_at` <= {NOW}, ?, `holder`), \
                     `expires_at` = IF(`holder` = ?, {NOW} + ?, `expires_at`)"
                ),
                vec![
                    name.into(),
                    token.into(),
                    ttl.into(),
                    token.into(),
                    token.into(),
                    ttl.into(),
                ],
            )
            .await?;
            let rows = self
                .select(
                    what,
                    &format!(
                        "SELECT `holder`, GREATEST(`expires_at` - {NOW}, 0) \
                         FROM `overlaybd_proxy_leases` WHERE `name` = ?"
                    ),
                    vec![name.into()],
                )
                .await?;
            if let Some(row) = rows.first() {
                let remaining = integer(row, 1).and_then(|left| u64::try_from(left).ok());
                return Ok((text(row, 0).unwrap_or_default(), remaining.unwrap_or(0)));
            }
            // Its holder released it in between.
            if started.elapsed() > Duration::from_secs(5) {
                return Ok((String::new(), 0));
            }
        }
    }

    pub(in crate::store::index) async fn heartbeat(
        &self,
        name: &str,
        token: &str,
        ttl: i64,
    ) -> Result<bool, IndexError> {
        let rows = self
            .write_now(
                "keep a lease",
                &format!(
                    "UPDATE `overlaybd_proxy_leases` SET `expires_at` = {NOW} + ? \
                     WHERE `name` = ? AND `holder` = ?"
                ),
                vec![ttl.into(), name.into(), token.into()],
            )
            .await?;
        Ok(rows > 0)
    }

    pub(in crate::store::index) async fn release(
        &self,
        name: &str,
        token: &str,
    ) -> Result<bool, IndexError> {
        let rows = self
            .write_now(
                "release a lease",
                "DELETE FROM `overlaybd_proxy_leases` WHERE `name` = ? AND `holder` = ?",
                vec![name.into(), token.into()],
            )
            .await?;
        Ok(rows > 0)
    }

    pub(in crate::store::index) async fn release_range(
        &self,
        from: &str,
        to: &str,
    ) -> Result<u64, IndexError> {
        self.write_now(
            "release leases",
            "DELETE FROM `overlaybd_proxy_leases` WHERE `holder` >= ? AND `holder` < ?",
            vec![from.into(), to.into()],
        )
        .await
    }
}
