//! Records all that became of an image.

use super::super::image::ImageValues;
use super::SqliteIndex;
use super::links::{insert_links, insert_pushed};
use super::manifests::insert_manifest;
use crate::store::error::IndexError;

impl SqliteIndex {
    pub(in crate::store::index) async fn record_image(
        &self,
        rows: ImageValues,
    ) -> Result<(), IndexError> {
        self.write("record an image", move |db| {
            for (source, parts) in &rows.links {
                insert_links(db, &rows.host, &rows.repo, source, parts)?;
            }
            for row in &rows.manifests {
                insert_manifest(db, row)?;
                if let Some((host, repo)) = &rows.pushed_to {
                    insert_pushed(db, host, repo, &row.digest)?;
                }
            }
            Ok(())
        })
        .await
    }
}
