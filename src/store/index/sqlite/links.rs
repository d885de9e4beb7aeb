//! Which converted blobs belong to which images.

use rusqlite::{Transaction, params};

use super::super::rows::MAX_ELSEWHERE;
use super::{SqliteIndex, text};
use crate::oci::{Digest, RepoName};
use crate::store::error::IndexError;

impl SqliteIndex {
    pub(in crate::store::index) async fn link(
        &self,
        host: &str,
        repo: &str,
        source: &str,
        blobs: &[String],
    ) -> Result<(), IndexError> {
        let [host, repo, source] = [host, repo, source].map(str::to_owned);
        let blobs = blobs.to_vec();
        self.write("link blobs", move |db| {
            insert_links(db, &host, &repo, &source, &blobs)
        })
        .await
    }

    pub(in crate::store::index) async fn sources(
        &self,
        host: &str,
        repo: &str,
        blob: &str,
    ) -> Result<Vec<Digest>, IndexError> {
        let [host, repo, blob] = [host, repo, blob].map(str::to_owned);
        let limit = i64::try_from(MAX_ELSEWHERE).unwrap_or(i64::MAX);
        self.read("find a blob's images", move |db| {
            let found = db
                .prepare_cached(
                    "SELECT src_digest FROM overlaybd_proxy_links \
                     WHERE host = ?1 AND repo = ?2 AND blob_digest = ?3 \
                     ORDER BY src_digest LIMIT ?4",
                )?
                .query_map(params![host, repo, blob, limit], |row| text(row, 0))?
                .collect::<rusqlite::Result<Vec<_>>>()?;
            Ok(parse_all(found))
        })
        .await
    }

    pub(in crate::store::index) async fn is_linked(
        &self,
        host: &str,
        repo: &str,
        blob: &str,
        source: &str,
    ) -> Result<bool, IndexError> {
        let [host, repo, blob, source] = [host, repo, blob, source].map(str::to_owned);
        self.read("find a blob's image", move |db| {
            db.prepare_cached(
                "SELECT count(*) > 0 FROM overlaybd_proxy_links \
                 WHERE host = ?1 AND repo = ?2 AND blob_digest = ?3 AND src_digest = ?4",
            )?
            .query_row(params![host, repo, blob, source], |row| row.get(0))
        })
        .await
    }

    pub(in crate::store::index) async fn put_pushed(
        &self,
        host: &str,
        repo: &str,
        blob: &str,
    ) -> Result<(), IndexError> {
        let [host, repo, blob] = [host, repo, blob].map(str::to_owned);
        self.write("record a pushed blob", move |db| {
            insert_pushed(db, &host, &repo, &blob)
        })
        .await
    }

    pub(in crate::store::index) async fn is_pushed(
        &self,
        host: &str,
        repo: &str,
        blob: &str,
    ) -> Result<bool, IndexError> {
        let [host, repo, blob] = [host, repo, blob].map(str::to_owned);
        self.read("find a pushed blob", move |db| {
            db.prepare_cached(
                "SELECT count(*) > 0 FROM overlaybd_proxy_pushed \
                 WHERE host = ?1 AND repo = ?2 AND blob_digest = ?3",
            )?
            .query_row(params![host, repo, blob], |row| row.get(0))
        })
        .await
    }

    pub(in crate::store::index) async fn pushed_repos(
        &self,
        host: &str,
        blob: &str,
    ) -> Result<Vec<RepoName>, IndexError> {
        let [host, blob] = [host, blob].map(str::to_owned);
        let limit = i64::try_from(MAX_ELSEWHERE).unwrap_or(i64::MAX);
        self.read("find a blob's repositories", move |db| {
            let found = db
                .prepare_cached(
                    "SELECT repo FROM overlaybd_proxy_pushed \
                     WHERE host = ?1 AND blob_digest = ?2 ORDER BY repo LIMIT ?3",
                )?
                .query_map(params![host, blob, limit], |row| text(row, 0))?
                .collect::<rusqlite::Result<Vec<_>>>()?;
            Ok(parse_all(found))
        })
        .await
    }

    pub(in crate::store::index) async fn unlink(
        &self,
        host: &str,
        repo: &str,
        source: &str,
    ) -> Result<(), IndexError> {
        let [host, repo, source] = [host, repo, source].map(str::to_owned);
        self.write("unlink an image", move |db| {
            db.execute(
                "DELETE FROM overlaybd_proxy_links \
                 WHERE host = ?1 AND repo = ?2 AND src_digest = ?3",
                params![host, repo, source],
            )
            .map(|_| ())
        })
        .await
    }
}

pub(super) fn insert_links(
    db: &Transaction<'_>,
    host: &str,
    repo: &str,
    source: &str,
    blobs: &[String],
) -> rusqlite::Result<()> {
    let mut statement = db.prepare_cached(
        "INSERT INTO overlaybd_proxy_links (host, repo, blob_digest, src_digest) \
         VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING",
    )?;
    for blob in blobs {
        statement.execute(params![host, repo, blob, source])?;
    }
    Ok(())
}

pub(super) fn insert_pushed(
    db: &Transaction<'_>,
    host: &str,
    repo: &str,
    blob: &str,
) -> rusqlite::Result<()> {
    db.execute(
        "INSERT INTO overlaybd_proxy_pushed (host, repo, blob_digest) \
         VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING",
        params![host, repo, blob],
    )
    .map(|_| ())
}

fn parse_all<T: std::str::FromStr>(found: Vec<Option<String>>) -> Vec<T> {
    let parsed = found.into_iter().flatten().map(|text| text.parse().ok());
    parsed.flatten().collect()
}
