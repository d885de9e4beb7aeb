//! The rows of whole images.

use rusqlite::{OptionalExtension as _, Transaction, params};

use super::super::image::ManifestValues;
use super::super::rows::{ManifestKey, ManifestRow, Origin};
use super::{SqliteIndex, origin, target};
use crate::store::error::IndexError;

impl SqliteIndex {
    pub(in crate::store::index) async fn find_manifest(
        &self,
        key: &ManifestKey,
    ) -> Result<Option<ManifestRow>, IndexError> {
        let key = key.clone();
        self.read("find a manifest", move |db| {
            let found = db
                .prepare_cached(
                    "SELECT out_digest, data_size FROM overlaybd_manifests \
                     WHERE host = ?1 AND repo = ?2 AND src_digest = ?3 AND mediatype = ?4",
                )?
                .query_row(
                    params![
                        key.host,
                        key.repo.as_str(),
                        key.source.as_str(),
                        key.media_type
                    ],
                    target,
                )
                .optional()?;
            let Some((digest, size)) = found.and_then(|found| found.parse("overlaybd_manifests"))
            else {
                return Ok(None);
            };
            let variant = db
                .prepare_cached(
                    "SELECT variant FROM overlaybd_proxy_manifests \
                     WHERE src_digest = ?1 AND out_digest = ?2 ORDER BY variant LIMIT 1",
                )?
                .query_row(params![key.source.as_str(), digest.as_str()], |row| {
                    row.get::<_, String>(0)
                })
                .optional()?;
            Ok(Some(ManifestRow {
                digest,
                size,
                origin: origin(variant),
            }))
        })
        .await
    }

    pub(in crate::store::index) async fn find_built_manifest(
        &self,
        source: &str,
        variant: &str,
    ) -> Result<Option<(String, ManifestRow)>, IndexError> {
        let (source, variant) = (source.to_owned(), variant.to_owned());
        self.read("find a manifest", move |db| {
            let found = db
                .prepare_cached(
                    "SELECT out_digest, data_size, mediatype FROM overlaybd_proxy_manifests \
                     WHERE src_digest = ?1 AND variant = ?2",
                )?
                .query_row(params![source, variant], |row| {
                    Ok((row.get::<_, String>(2)?, target(row)?))
                })
                .optional()?;
            Ok(found.and_then(|(media_type, found)| {
                let (digest, size) = found.parse("overlaybd_proxy_manifests")?;
                let origin = Origin::Ours { variant };
                Some((
                    media_type,
                    ManifestRow {
                        digest,
                        size,
                        origin,
                    },
                ))
            }))
        })
        .await
    }

    pub(in crate::store::index) async fn put_built_manifest(
        &self,
        row: ManifestValues,
    ) -> Result<(), IndexError> {
        self.write("record a manifest", move |db| insert_manifest(db, &row))
            .await
    }

    pub(in crate::store::index) async fn share_manifest(
        &self,
        key: &ManifestKey,
        digest: &str,
        size: i64,
    ) -> Result<(), IndexError> {
        let (key, digest) = (key.clone(), digest.to_owned());
        self.write("share a manifest", move |db| {
            db.execute(
                "INSERT INTO overlaybd_manifests \
                 (host, repo, src_digest, mediatype, out_digest, data_size) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6) \
                 ON CONFLICT (host, repo, src_digest, mediatype) DO NOTHING",
                params![
                    key.host,
                    key.repo.as_str(),
                    key.source.as_str(),
                    key.media_type,
                    digest,
                    size
                ],
            )
            .map(|_| ())
        })
        .await
    }

    pub(in crate::store::index) async fn replace_shared_manifest(
        &self,
        key: &ManifestKey,
        digest: &str,
        size: i64,
        old: &str,
    ) -> Result<bool, IndexError> {
        let (key, digest, old) = (key.clone(), digest.to_owned(), old.to_owned());
        self.write("share a manifest", move |db| {
            db.execute(
                "UPDATE overlaybd_manifests SET out_digest = ?5, data_size = ?6 \
                 WHERE host = ?1 AND repo = ?2 AND src_digest = ?3 AND mediatype = ?4 \
                 AND out_digest = ?7",
                params![
                    key.host,
                    key.repo.as_str(),
                    key.source.as_str(),
                    key.media_type,
                    digest,
                    size,
                    old
                ],
            )
            .map(|rows| rows > 0)
        })
        .await
    }

    pub(in crate::store::index) async fn delete_manifest(
        &self,
        key: &ManifestKey,
        digest: &str,
    ) -> Result<bool, IndexError> {
        let (key, digest) = (key.clone(), digest.to_owned());
        self.write("delete a manifest", move |db| {
            db.execute(
                "DELETE FROM overlaybd_manifests WHERE host = ?1 AND repo = ?2 \
                 AND src_digest = ?3 AND mediatype = ?4 AND out_digest = ?5",
                params![
                    key.host,
                    key.repo.as_str(),
                    key.source.as_str(),
                    key.media_type,
                    digest
                ],
            )
            .map(|rows| rows > 0)
        })
        .await
    }
}

pub(super) fn insert_manifest(db: &Transaction<'_>, row: &ManifestValues) -> rusqlite::Result<()> {
    db.execute(
        "INSERT INTO overlaybd_proxy_manifests \
         (src_digest, variant, mediatype, out_digest, data_size) \
         VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (src_digest, variant) DO UPDATE \
         SET mediatype = excluded.mediatype, out_digest = excluded.out_digest, \
         data_size = excluded.data_size",
        params![
            row.source,
            row.variant,
            row.media_type,
            row.digest,
            row.size
        ],
    )
    .map(|_| ())
}
