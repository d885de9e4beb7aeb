//! Looks at what is in a bucket, without a blob directory: lists its objects, reads them through,
//! and deletes those that have other bytes than their digests name.

use std::time::SystemTime;

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use object_store::{ObjectMeta, ObjectStore as _, ObjectStoreExt as _};
use serde_json::{Value, json};

use super::bucket::Bucket;
use super::download::{Hashed, Hashing, open};
use super::error::ObjectError;
use super::known::ObjectVersion;
use super::settings::ObjectsConfig;
use crate::oci::Digest;

/// How often an object is read whose transfer breaks off.
const ATTEMPTS: usize = 2;

/// The objects of a bucket.
#[derive(Debug)]
pub struct BucketSurvey {
    bucket: Bucket,
}

/// An object, as the bucket lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    /// The digest that its name says.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// When it was written.
    pub written: SystemTime,
}

/// What was seen of an object.
#[derive(Debug, Clone)]
pub enum SeenObject {
    /// It has the bytes that its digest names.
    Sound,
    /// It has these bytes.
    Damaged {
        /// The digest of its bytes; `None` if there are more than the storage said.
        found: Option<Digest>,
        /// Which bytes those were.
        version: DamagedVersion,
    },
    /// It was deleted meanwhile.
    Gone,
}

/// The bytes that an object had when it was read.
#[derive(Debug, Clone)]
pub struct DamagedVersion(ObjectVersion);

impl ObjectInfo {
    /// It as `--json` says it: `written` in seconds since 1970.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let written = self.written.duration_since(SystemTime::UNIX_EPOCH);
        json!({
            "digest": self.digest.as_str(),
            "size": self.size,
            "written": written.unwrap_or_default().as_secs(),
        })
    }
}

impl BucketSurvey {
    /// Nothing is asked of the storage yet.
    ///
    /// # Errors
    /// When a setting cannot be used.
    pub fn open(config: &ObjectsConfig) -> Result<Self, ObjectError> {
        let bucket = Bucket::open(config)?;
        Ok(Self { bucket })
    }

    /// Asks the storage whether it can be read.
    ///
    /// # Errors
    /// What it refuses, with what to do about it, or that it does not answer.
    pub async fn check(&self) -> Result<(), ObjectError> {
        self.bucket.check_reads().await
    }

    /// The bucket and the prefix, as they are configured.
    pub fn place(&self) -> &str {
        self.bucket.place()
    }

    /// Where the object of a blob is, for people.
    #[must_use]
    pub fn address(&self, digest: &Digest) -> String {
        self.bucket.address(digest)
    }

    /// All objects of blobs by digest, page by page as they are taken. Others are left out. Ends
    /// with the first error.
    pub fn list(&self) -> BoxStream<'_, Result<ObjectInfo, ObjectError>> {
        let listed = self.bucket.s3().list(Some(&self.bucket.blobs()));
        let infos = listed.filter_map(move |found| {
            std::future::ready(match found {
                Ok(meta) => self.info(&meta).map(Ok),
                Err(error) => Some(Err(self
                    .bucket
                    .error("listing (which needs s3:ListBucket) what is in", &error))),
            })
        });
        infos.boxed()
    }

    fn info(&self, meta: &ObjectMeta) -> Option<ObjectInfo> {
        let parts: Vec<_> = meta.location.parts().collect();
        let [.., algorithm, _, hex] = parts.as_slice() else {
            return None;
        };
        let digest = format!("{}:{}", algorithm.as_ref(), hex.as_ref());
        let digest: Digest = digest.parse().ok()?;
        (self.bucket.key(&digest) == meta.location).then(|| ObjectInfo {
            digest,
            size: meta.size,
            written: meta.last_modified.into(),
        })
    }

    /// Reads an object to its end, and compares it with its digest; a transfer that breaks off is
    /// begun again once. `on_bytes` is told of bytes as they come.
    ///
    /// # Errors
    /// When the storage does not answer, or refuses.
    pub async fn examine(
        &self,
        digest: &Digest,
        on_bytes: impl Fn(u64) + Send + Sync,
    ) -> Result<SeenObject, ObjectError> {
        let mut seen = self.read(digest, &on_bytes).await;
        for _ in 1..ATTEMPTS {
            if seen.as_ref().is_err_and(ObjectError::is_unavailable) {
                seen = self.read(digest, &on_bytes).await;
            }
        }
        seen
    }

    async fn read(
        &self,
        digest: &Digest,
        on_bytes: &(impl Fn(u64) + Send + Sync),
    ) -> Result<SeenObject, ObjectError> {
        let bucket = &self.bucket;
        let Some((version, mut pieces)) = open(bucket, digest).await? else {
            return Ok(SeenObject::Gone);
        };
        let mut hashing = Hashing::new(digest, &version);
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(|error| bucket.error("reading a blob in", &error))?;
            on_bytes(u64::try_from(piece.len()).unwrap_or(u64::MAX));
            if !hashing.take(&piece) {
                break;
            }
        }
        let found = match hashing.finish(bucket)? {
            Hashed::Sound => return Ok(SeenObject::Sound),
            Hashed::Other(found) => Some(found),
            Hashed::TooLong => None,
        };
        let version = DamagedVersion(version);
        Ok(SeenObject::Damaged { found, version })
    }

    /// Deletes an object that is damaged, unless it was seen to be replaced since; whether it was
    /// deleted. The storage has no deletion under a condition: one that a replica replaces between
    /// the look and the deletion is deleted, too, and uploaded again as any that is gone.
    ///
    /// # Errors
    /// When the storage does not answer, or refuses.
    pub async fn delete(
        &self,
        digest: &Digest,
        damaged: &DamagedVersion,
    ) -> Result<bool, ObjectError> {
        let now = self.bucket.head(digest).await?;
        if now.is_none_or(|now| !now.is_same(&damaged.0)) {
            return Ok(false);
        }
        let deleted = self.bucket.s3().delete(&self.bucket.key(digest)).await;
        match deleted {
            Ok(()) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(self
                .bucket
                .error("deleting (which needs s3:DeleteObject) in", &error)),
        }
    }
}
