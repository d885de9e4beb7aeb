//! The rows of layers: by repository, by chain, and what a source layer inflates to.

use mysql_async::Value;

use super::super::rows::{LayerRow, MAX_ELSEWHERE, Origin};
use super::super::shared::LayerValues;
use super::{MysqlIndex, Row, target, text};
use crate::oci::{DiffId, Digest, RepoName};
use crate::store::error::IndexError;

impl MysqlIndex {
    /// What this program made of a chain: pairs of variant and digest.
    async fn variants(&self, chain: &str) -> Result<Vec<(String, String)>, IndexError> {
        let rows = self
            .select(
                "find a layer",
                "SELECT `variant`, `data_digest` FROM `overlaybd_proxy_chains` \
                 WHERE `chain_id` = ? ORDER BY `variant`",
                vec![chain.into()],
            )
            .await?;
        Ok(rows
            .iter()
            .filter_map(|row| Some((text(row, 0)?, text(row, 1)?)))
            .collect())
    }

    pub(in crate::store::index) async fn find_layer(
        &self,
        host: &str,
        repo: &str,
        chain: &str,
    ) -> Result<Option<LayerRow>, IndexError> {
        let rows = self
            .select(
                "find a layer",
                "SELECT `data_digest`, `data_size` FROM `overlaybd_layers` \
                 WHERE `host` = ? AND `repo` = ? AND `chain_id` = ?",
                vec![host.into(), repo.into(), chain.into()],
            )
            .await?;
        let Some((digest, size)) = rows.first().and_then(|row| target("overlaybd_layers", row))
        else {
            return Ok(None);
        };
        let variants = self.variants(chain).await?;
        Ok(Some(LayerRow {
            origin: origin(&variants, &digest),
            digest,
            size,
        }))
    }

    pub(in crate::store::index) async fn find_layer_elsewhere(
        &self,
        host: &str,
        chain: &str,
        variant: &str,
    ) -> Result<Vec<(RepoName, LayerRow)>, IndexError> {
        let variants = self.variants(chain).await?;
        let ours = variants.iter().find(|(made_with, _)| made_with == variant);
        let ours = ours.map_or("", |(_, digest)| digest);
        let found = self
            .select(
                "find a layer",
                &format!(
                    "SELECT `data_digest`, `data_size`, `repo` FROM `overlaybd_layers` \
                     WHERE `host` = ? AND `chain_id` = ? \
                     ORDER BY `data_digest` = ? DESC, `repo` LIMIT {MAX_ELSEWHERE}"
                ),
                vec![host.into(), chain.into(), ours.into()],
            )
            .await?;
        let mut rows = layer_rows(&variants, &found);
        // The columns' collation may order names in another way than bytes.
        rows.sort_by(|(a, x), (b, y)| {
            let last = |row: &LayerRow| row.digest.as_str() != ours;
            (last(x), a).cmp(&(last(y), b))
        });
        Ok(rows)
    }

    pub(in crate::store::index) async fn find_other_layers(
        &self,
        host: &str,
        chain: &str,
        digest: &str,
    ) -> Result<Vec<(RepoName, LayerRow)>, IndexError> {
        let found = self
            .select(
                "find a layer",
                &format!(
                    "SELECT `data_digest`, `data_size`, `repo` FROM `overlaybd_layers` \
                     WHERE `host` = ? AND `chain_id` = ? AND `data_digest` <> ? \
                     ORDER BY `repo` LIMIT {MAX_ELSEWHERE}"
                ),
                vec![host.into(), chain.into(), digest.into()],
            )
            .await?;
        if found.is_empty() {
            return Ok(Vec::new());
        }
        let variants = self.variants(chain).await?;
        Ok(layer_rows(&variants, &found))
    }

    pub(in crate::store::index) async fn find_built(
        &self,
        chain: &str,
        variant: &str,
    ) -> Result<Option<LayerRow>, IndexError> {
        let rows = self
            .select(
                "find a layer",
                "SELECT `data_digest`, `data_size` FROM `overlaybd_proxy_chains` \
                 WHERE `chain_id` = ? AND `variant` = ?",
                vec![chain.into(), variant.into()],
            )
            .await?;
        let found = rows
            .first()
            .and_then(|row| target("overlaybd_proxy_chains", row));
        Ok(found.map(|(digest, size)| LayerRow {
            digest,
            size,
            origin: Origin::Ours {
                variant: variant.to_owned(),
            },
        }))
    }

    pub(in crate::store::index) async fn find_diff_id(
        &self,
        layer: &str,
    ) -> Result<Option<DiffId>, IndexError> {
        let rows = self
            .select(
                "find a diff id",
                "SELECT `diff_id` FROM `overlaybd_proxy_layers` WHERE `layer_digest` = ?",
                vec![layer.into()],
            )
            .await?;
        let found = rows.first().and_then(|row| text(row, 0));
        Ok(found.and_then(|text| text.parse().ok()).map(DiffId))
    }

    pub(in crate::store::index) async fn put_diff_id(
        &self,
        layer: &str,
        diff_id: &str,
    ) -> Result<(), IndexError> {
        self.write(
            "record a diff id",
            "INSERT INTO `overlaybd_proxy_layers` (`layer_digest`, `diff_id`) VALUES (?, ?) \
             ON DUPLICATE KEY UPDATE `diff_id` = VALUES(`diff_id`)",
            vec![layer.into(), diff_id.into()],
        )
        .await
        .map(drop)
    }

    pub(in crate::store::index) async fn put_built(
        &self,
        chain: &str,
        variant: &str,
        digest: &str,
        size: i64,
    ) -> Result<(), IndexError> {
        self.write(
            "record a layer",
            "INSERT INTO `overlaybd_proxy_chains` \
             (`chain_id`, `variant`, `data_digest`, `data_size`) VALUES (?, ?, ?, ?) \
             ON DUPLICATE KEY UPDATE `data_digest` = ?, `data_size` = ?",
            vec![
                chain.into(),
                variant.into(),
                digest.into(),
                size.into(),
                digest.into(),
                size.into(),
            ],
        )
        .await
        .map(drop)
    }

    pub(in crate::store::index) async fn share_layer(
        &self,
        row: &LayerValues,
    ) -> Result<bool, IndexError> {
        let what = "share a layer";
        let LayerValues {
            host,
            repo,
            chain,
            digest,
            size,
            below,
        } = row;
        let texts = |texts: &[&String]| -> Vec<Value> {
            texts.iter().map(|text| text.as_str().into()).collect()
        };
        let mut values = texts(&[host, repo, chain, digest]);
        values.push((*size).into());
        let statement = match below {
            None => {
                "INSERT INTO `overlaybd_layers` \
                 (`host`, `repo`, `chain_id`, `data_digest`, `data_size`) VALUES (?, ?, ?, ?, ?) \
                 ON DUPLICATE KEY UPDATE `host` = VALUES(`host`)"
            }
            Some((parent, on)) => {
                values.extend(texts(&[host, repo, parent, on]));
                "INSERT INTO `overlaybd_layers` \
                 (`host`, `repo`, `chain_id`, `data_digest`, `data_size`) \
                 SELECT ?, ?, ?, ?, ? FROM `overlaybd_layers` AS `below` \
                 WHERE `below`.`host` = ? AND `below`.`repo` = ? \
                 AND `below`.`chain_id` = ? AND `below`.`data_digest` = ? \
                 ON DUPLICATE KEY UPDATE `host` = VALUES(`host`)"
            }
        };
        self.write(what, statement, values).await?;
        let rows = self
            .read_back(
                what,
                "SELECT 1 FROM `overlaybd_layers` WHERE `host` = ? AND `repo` = ? \
                 AND `chain_id` = ? AND `data_digest` = ?",
                texts(&[host, repo, chain, digest]),
            )
            .await?;
        Ok(!rows.is_empty())
    }

    pub(in crate::store::index) async fn replace_shared_layer(
        &self,
        row: &LayerValues,
        old: &str,
    ) -> Result<bool, IndexError> {
        let rows = self
            .write(
                "share a layer",
                "UPDATE `overlaybd_layers` SET `data_digest` = ?, `data_size` = ? \
                 WHERE `host` = ? AND `repo` = ? AND `chain_id` = ? AND `data_digest` = ?",
                vec![
                    row.digest.as_str().into(),
                    row.size.into(),
                    row.host.as_str().into(),
                    row.repo.as_str().into(),
                    row.chain.as_str().into(),
                    old.into(),
                ],
            )
            .await?;
        Ok(rows > 0)
    }

    pub(in crate::store::index) async fn delete_layer(
        &self,
        host: &str,
        repo: &str,
        chain: &str,
        digest: &str,
    ) -> Result<bool, IndexError> {
        let rows = self
            .write_now(
                "delete a layer",
                "DELETE FROM `overlaybd_layers` WHERE `host` = ? AND `repo` = ? \
                 AND `chain_id` = ? AND `data_digest` = ?",
                vec![host.into(), repo.into(), chain.into(), digest.into()],
            )
            .await?;
        Ok(rows > 0)
    }
}

/// The usable ones of rows with a digest, a size and a repository's name.
fn layer_rows(variants: &[(String, String)], found: &[Row]) -> Vec<(RepoName, LayerRow)> {
    let row = |row: &Row| {
        let repo = text(row, 2)?.parse::<RepoName>().ok()?;
        let (digest, size) = target("overlaybd_layers", row)?;
        let origin = origin(variants, &digest);
        let row = LayerRow {
            digest,
            size,
            origin,
        };
        Some((repo, row))
    };
    found.iter().filter_map(row).collect()
}

fn origin(variants: &[(String, String)], digest: &Digest) -> Origin {
    let made = variants.iter().find(|(_, made)| made == digest.as_str());
    made.map_or(Origin::Foreign, |(variant, _)| Origin::Ours {
        variant: variant.clone(),
    })
}
