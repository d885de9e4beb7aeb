//! Which converted blobs belong to which images.

use mysql_async::Value;

use super::super::rows::MAX_ELSEWHERE;
use super::{MysqlIndex, text};
use crate::oci::{Digest, RepoName};
use crate::store::error::IndexError;

impl MysqlIndex {
    pub(in crate::store::index) async fn link(
        &self,
        host: &str,
        repo: &str,
        source: &str,
        blobs: &[String],
    ) -> Result<(), IndexError> {
        for blobs in blobs.chunks(100) {
            let rows = vec!["(?, ?, ?, ?)"; blobs.len()].join(", ");
            let values = blobs
                .iter()
                .flat_map(|blob| [host, repo, blob, source].map(Value::from));
            self.write(
                "link blobs",
                &format!(
                    "INSERT INTO `overlaybd_proxy_links` \
                     (`host`, `repo`, `blob_digest`, `src_digest`) VALUES {rows} \
                     ON DUPLICATE KEY UPDATE `host` = `host`"
                ),
                values.collect(),
            )
            .await?;
        }
        Ok(())
    }

    pub(in crate::store::index) async fn sources(
        &self,
        host: &str,
        repo: &str,
        blob: &str,
    ) -> Result<Vec<Digest>, IndexError> {
        let rows = self
            .select(
                "find a blob's images",
                &format!(
                    "SELECT `src_digest` FROM `overlaybd_proxy_links` WHERE `host` = ? \
                     AND `repo` = ? AND `blob_digest` = ? ORDER BY `src_digest` \
                     LIMIT {MAX_ELSEWHERE}"
                ),
                vec![host.into(), repo.into(), blob.into()],
            )
            .await?;
        let texts = rows.iter().filter_map(|row| text(row, 0));
        Ok(texts.filter_map(|text| text.parse().ok()).collect())
    }

    pub(in crate::store::index) async fn is_linked(
        &self,
        host: &str,
        repo: &str,
        blob: &str,
        source: &str,
    ) -> Result<bool, IndexError> {
        let rows = self
            .select(
                "find a blob's image",
                "SELECT 1 FROM `overlaybd_proxy_links` WHERE `host` = ? AND `repo` = ? \
                 AND `blob_digest` = ? AND `src_digest` = ?",
                vec![host.into(), repo.into(), blob.into(), source.into()],
            )
            .await?;
        Ok(!rows.is_empty())
    }

    pub(in crate::store::index) async fn put_pushed(
        &self,
        host: &str,
        repo: &str,
        blob: &str,
    ) -> Result<(), IndexError> {
        self.write(
            "record a pushed blob",
            "INSERT INTO `overlaybd_proxy_pushed` (`host`, `repo`, `blob_digest`) \
             VALUES (?, ?, ?) ON DUPLICATE KEY UPDATE `host` = VALUES(`host`)",
            vec![host.into(), repo.into(), blob.into()],
        )
        .await
        .map(drop)
    }

    pub(in crate::store::index) async fn is_pushed(
        &self,
        host: &str,
        repo: &str,
        blob: &str,
    ) -> Result<bool, IndexError> {
        let rows = self
            .select(
                "find a pushed blob",
                "SELECT 1 FROM `overlaybd_proxy_pushed` \
                 WHERE `host` = ? AND `repo` = ? AND `blob_digest` = ?",
                vec![host.into(), repo.into(), blob.into()],
            )
            .await?;
        Ok(!rows.is_empty())
    }

    pub(in crate::store::index) async fn pushed_repos(
        &self,
        host: &str,
        blob: &str,
    ) -> Result<Vec<RepoName>, IndexError> {
        let rows = self
            .select(
                "find a blob's repositories",
                &format!(
                    "SELECT `repo` FROM `overlaybd_proxy_pushed` \
                     WHERE `host` = ? AND `blob_digest` = ? ORDER BY `repo` LIMIT {MAX_ELSEWHERE}"
                ),
                vec![host.into(), blob.into()],
            )
            .await?;
        let texts = rows.iter().filter_map(|row| text(row, 0));
        Ok(texts.filter_map(|text| text.parse().ok()).collect())
    }

    pub(in crate::store::index) async fn unlink(
        &self,
        host: &str,
        repo: &str,
        source: &str,
    ) -> Result<(), IndexError> {
        self.write_now(
            "unlink an image",
            "DELETE FROM `overlaybd_proxy_links` \
             WHERE `host` = ? AND `repo` = ? AND `src_digest` = ?",
            vec![host.into(), repo.into(), source.into()],
        )
        .await
        .map(drop)
    }
}
