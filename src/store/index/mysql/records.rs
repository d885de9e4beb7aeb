//! What operators are shown of images that were converted.

use mysql_async::Value;

use super::super::record_values::{COLUMNS, ListValues, RecordValues};
use super::super::records::{MAX_PARTS, RecordedImage};
use super::leases::NOW;
use super::{MysqlIndex, Row, integer, text};
use crate::oci::Digest;
use crate::store::error::IndexError;

/// Rows that one statement deletes.
const TRIMMED_AT_ONCE: i64 = 1000;

impl MysqlIndex {
    /// The rows of a list; `None` for one that cannot be understood.
    pub(in crate::store::index) async fn images(
        &self,
        list: ListValues,
    ) -> Result<Vec<Option<RecordedImage>>, IndexError> {
        let rows = self
            .select("list images", &list.sql(), list.values())
            .await?;
        Ok(rows.iter().map(record).collect())
    }

    pub(in crate::store::index) async fn image_parts(
        &self,
        host: &str,
        repo: &str,
        source: &str,
    ) -> Result<Vec<Digest>, IndexError> {
        let rows = self
            .select(
                "find an image's parts",
                &format!(
                    "SELECT `blob_digest` FROM `overlaybd_proxy_links` WHERE `host` = ? \
                     AND `repo` = ? AND `src_digest` = ? ORDER BY `blob_digest` LIMIT {MAX_PARTS}"
                ),
                vec![host.into(), repo.into(), source.into()],
            )
            .await?;
        let texts = rows.iter().filter_map(|row| text(row, 0));
        Ok(texts.filter_map(|text| text.parse().ok()).collect())
    }

    /// Not repeated while the server is away: nothing hangs on it.
    pub(in crate::store::index) async fn put_image(
        &self,
        row: RecordValues,
    ) -> Result<(), IndexError> {
        let columns = COLUMNS.join("`, `");
        let update: Vec<String> = COLUMNS
            .iter()
            .skip(4)
            .map(|column| format!("`{column}` = VALUES(`{column}`)"))
            .collect();
        let places = vec!["?"; COLUMNS.len()].join(", ");
        let statement = format!(
            "INSERT INTO `overlaybd_proxy_images` (`{columns}`, `converted_at`) \
             SELECT {places}, {NOW} FROM DUAL WHERE ? OR NOT EXISTS ( \
               SELECT 1 FROM `overlaybd_proxy_images` AS `known` \
               WHERE `known`.`src_digest` = ? AND `known`.`variant` = ? \
               AND `known`.`host` = ? AND `known`.`repo` = ?) \
             ON DUPLICATE KEY UPDATE {}, `converted_at` = VALUES(`converted_at`)",
            update.join(", ")
        );
        let condition: [Value; 5] = [
            row.has_tag.into(),
            row.source.as_str().into(),
            row.variant.as_str().into(),
            row.host.as_str().into(),
            row.repo.as_str().into(),
        ];
        let mut values: Vec<Value> = vec![
            row.host.into(),
            row.repo.into(),
            row.reference.into(),
            row.variant.into(),
            row.format.into(),
            row.algorithm.into(),
            row.source.into(),
            row.digest.into(),
            row.media_type.into(),
            row.platforms.into(),
            row.source_bytes.into(),
            row.bytes.into(),
            row.layers.into(),
            row.layers_made.into(),
        ];
        values.extend(condition);
        self.write_now("record an image", &statement, values)
            .await
            .map(drop)
    }

    pub(in crate::store::index) async fn forget_image(
        &self,
        row: RecordValues,
    ) -> Result<bool, IndexError> {
        let what = "forget an image";
        // The row goes last: while it is there, this can be repeated.
        self.write_now(
            what,
            "DELETE FROM `overlaybd_proxy_manifests` WHERE `src_digest` = ? AND `variant` = ?",
            vec![row.source.as_str().into(), row.variant.as_str().into()],
        )
        .await?;
        let rows = self
            .write_now(
                what,
                "DELETE FROM `overlaybd_proxy_images` WHERE `host` = ? AND `repo` = ? \
                 AND `reference` = ? AND `variant` = ? AND `src_digest` = ?",
                vec![
                    row.host.into(),
                    row.repo.into(),
                    row.reference.into(),
                    row.variant.into(),
                    row.source.into(),
                ],
            )
            .await?;
        Ok(rows > 0)
    }

    pub(in crate::store::index) async fn trim_images(&self, most: i64) -> Result<u64, IndexError> {
        let what = "forget the oldest images";
        let mut forgotten = 0_u64;
        loop {
            let count = "SELECT COUNT(*) FROM `overlaybd_proxy_images`";
            let rows = self.select(what, count, Vec::new()).await?;
            let all = rows.first().and_then(|row| integer(row, 0));
            let excess = all.unwrap_or(0).saturating_sub(most).min(TRIMMED_AT_ONCE);
            if excess <= 0 {
                return Ok(forgotten);
            }
            let rows = self
                .write_now(
                    what,
                    &format!(
                        "DELETE FROM `overlaybd_proxy_images` ORDER BY `converted_at`, `host`, \
                         `repo`, `reference`, `variant` LIMIT {excess}"
                    ),
                    Vec::new(),
                )
                .await?;
            forgotten = forgotten.saturating_add(rows);
        }
    }
}

fn record(row: &Row) -> Option<RecordedImage> {
    let values = RecordValues {
        host: text(row, 0)?,
        repo: text(row, 1)?,
        reference: text(row, 2)?,
        variant: text(row, 3)?,
        format: text(row, 4)?,
        algorithm: text(row, 5)?,
        source: text(row, 6)?,
        digest: text(row, 7)?,
        media_type: text(row, 8)?,
        platforms: text(row, 9)?,
        source_bytes: integer(row, 10),
        bytes: integer(row, 11)?,
        layers: integer(row, 12)?,
        layers_made: integer(row, 13)?,
        has_tag: true,
    };
    values.parse(integer(row, 14)?)
}
