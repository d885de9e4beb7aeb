//! The rows of whole images.

use mysql_async::Value;

use super::super::image::ManifestValues;
use super::super::rows::{ManifestKey, ManifestRow, Origin};
use super::{MysqlIndex, target, text};
use crate::store::error::IndexError;

impl MysqlIndex {
    pub(in crate::store::index) async fn find_manifest(
        &self,
        key: &ManifestKey,
    ) -> Result<Option<ManifestRow>, IndexError> {
        let what = "find a manifest";
        let rows = self
            .select(
                what,
                "SELECT `out_digest`, `data_size` FROM `overlaybd_manifests` WHERE `host` = ? \
                 AND `repo` = ? AND `src_digest` = ? AND `mediatype` = ?",
                key_values(key),
            )
            .await?;
        let found = rows
            .first()
            .and_then(|row| target("overlaybd_manifests", row));
        let Some((digest, size)) = found else {
            return Ok(None);
        };
        let rows = self
            .select(
                what,
                "SELECT `variant` FROM `overlaybd_proxy_manifests` \
                 WHERE `src_digest` = ? AND `out_digest` = ? ORDER BY `variant` LIMIT 1",
                vec![key.source.as_str().into(), digest.as_str().into()],
            )
            .await?;
        let variant = rows.first().and_then(|row| text(row, 0));
        Ok(Some(ManifestRow {
            digest,
            size,
            origin: variant.map_or(Origin::Foreign, |variant| Origin::Ours { variant }),
        }))
    }

    pub(in crate::store::index) async fn find_built_manifest(
        &self,
        source: &str,
        variant: &str,
    ) -> Result<Option<(String, ManifestRow)>, IndexError> {
        let rows = self
            .select(
                "find a manifest",
                "SELECT `out_digest`, `data_size`, `mediatype` FROM `overlaybd_proxy_manifests` \
                 WHERE `src_digest` = ? AND `variant` = ?",
                vec![source.into(), variant.into()],
            )
            .await?;
        Ok(rows.first().and_then(|row| {
            let (digest, size) = target("overlaybd_proxy_manifests", row)?;
            let origin = Origin::Ours {
                variant: variant.to_owned(),
            };
            let row_of = ManifestRow {
                digest,
                size,
                origin,
            };
            Some((text(row, 2)?, row_of))
        }))
    }

    pub(in crate::store::index) async fn put_built_manifest(
        &self,
        row: ManifestValues,
    ) -> Result<(), IndexError> {
        let ManifestValues {
            source,
            variant,
            media_type,
            digest,
            size,
        } = row;
        self.write(
            "record a manifest",
            "INSERT INTO `overlaybd_proxy_manifests` \
             (`src_digest`, `variant`, `mediatype`, `out_digest`, `data_size`) \
             VALUES (?, ?, ?, ?, ?) \
             ON DUPLICATE KEY UPDATE `mediatype` = ?, `out_digest` = ?, `data_size` = ?",
            vec![
                source.into(),
                variant.into(),
                media_type.as_str().into(),
                digest.as_str().into(),
                size.into(),
                media_type.into(),
                digest.into(),
                size.into(),
            ],
        )
        .await
        .map(drop)
    }

    pub(in crate::store::index) async fn share_manifest(
        &self,
        key: &ManifestKey,
        digest: &str,
        size: i64,
    ) -> Result<(), IndexError> {
        let mut values = key_values(key);
        values.extend([digest.into(), size.into()]);
        self.write(
            "share a manifest",
            "INSERT INTO `overlaybd_manifests` \
             (`host`, `repo`, `src_digest`, `mediatype`, `out_digest`, `data_size`) \
             VALUES (?, ?, ?, ?, ?, ?) ON DUPLICATE KEY UPDATE `host` = VALUES(`host`)",
            values,
        )
        .await
        .map(drop)
    }

    pub(in crate::store::index) async fn replace_shared_manifest(
        &self,
        key: &ManifestKey,
        digest: &str,
        size: i64,
        old: &str,
    ) -> Result<bool, IndexError> {
        let mut values = vec![digest.into(), size.into()];
        values.extend(key_values(key));
        values.push(old.into());
        let rows = self
            .write(
                "share a manifest",
                "UPDATE `overlaybd_manifests` SET `out_digest` = ?, `data_size` = ? \
                 WHERE `host` = ? AND `repo` = ? AND `src_digest` = ? AND `mediatype` = ? \
                 AND `out_digest` = ?",
                values,
            )
            .await?;
        Ok(rows > 0)
    }

    pub(in crate::store::index) async fn delete_manifest(
        &self,
        key: &ManifestKey,
        digest: &str,
    ) -> Result<bool, IndexError> {
        let mut values = key_values(key);
        values.push(digest.into());
        let rows = self
            .write_now(
                "delete a manifest",
                "DELETE FROM `overlaybd_manifests` WHERE `host` = ? AND `repo` = ? \
                 AND `src_digest` = ? AND `mediatype` = ? AND `out_digest` = ?",
                values,
            )
            .await?;
        Ok(rows > 0)
    }
}

fn key_values(key: &ManifestKey) -> Vec<Value> {
    vec![
        key.host.as_str().into(),
        key.repo.as_str().into(),
        key.source.as_str().into(),
        key.media_type.as_str().into(),
    ]
}
