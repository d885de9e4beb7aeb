//! Records all that became of an image.

use super::super::image::{ImageValues, not_shown};
use super::SqliteIndex;
use super::links::{insert_links, insert_pushed};
use super::manifests::insert_manifest;
use super::records::insert_record;
use crate::store::error::IndexError;

impl SqliteIndex {
    pub(in crate::store::index) async fn record_image(
        &self,
        mut rows: ImageValues,
    ) -> Result<(), IndexError> {
        if rows.record.is_none() {
            return self.insert_image(rows).await;
        }
        // A failed statement may undo all of its transaction: what the image needs is then written
        // without the row for operators.
        match self.insert_image(rows.clone()).await {
            Ok(()) => Ok(()),
            Err(error) => {
                rows.record = None;
                self.insert_image(rows).await?;
                not_shown(&error);
                Ok(())
            }
        }
    }

    async fn insert_image(&self, rows: ImageValues) -> Result<(), IndexError> {
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
            if let Some(record) = &rows.record {
                insert_record(db, record)?;
            }
            Ok(())
        })
        .await
    }
}
