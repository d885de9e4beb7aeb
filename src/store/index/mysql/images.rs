//! Records all that became of an image.

use super::super::image::{ImageValues, not_shown};
use super::MysqlIndex;
use crate::store::error::IndexError;

impl MysqlIndex {
    pub(in crate::store::index) async fn record_image(
        &self,
        rows: ImageValues,
    ) -> Result<(), IndexError> {
        for (source, parts) in &rows.links {
            self.link(&rows.host, &rows.repo, source, parts).await?;
        }
        for row in rows.manifests {
            let digest = row.digest.clone();
            self.put_built_manifest(row).await?;
            if let Some((host, repo)) = &rows.pushed_to {
                self.put_pushed(host, repo, &digest).await?;
            }
        }
        if let Some(record) = rows.record {
            let recorded = self.put_image(record).await;
            let _ = recorded.inspect_err(not_shown);
        }
        Ok(())
    }
}
