//! What operators are shown of the images that were converted: under which name, from what, and when.
//!
//! A row is a claim, and no image is served by it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::Index;
use super::record_values::{ListValues, MAX_TEXT, RecordValues};
use super::values::{check, signed};
use crate::oci::{Digest, RepoName, Selector};
use crate::store::error::IndexError;

/// Most images that are remembered; beyond that those go that were converted first.
pub const MAX_IMAGES: u64 = 100_000;
/// Most parts of an image that one lookup returns: those of an index with 256 images of 255 layers.
pub const MAX_PARTS: usize = 1 << 16;
/// Rows that are read at least after some that could not be understood.
const LEAST_ROWS: usize = 1000;
/// The last second of the year 9999.
const LAST_SECOND: Duration = Duration::from_secs(253_402_300_799);

/// An image that was converted, under the name by which it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRecord {
    /// The source's registry.
    pub host: String,
    /// The source's repository.
    pub repo: RepoName,
    /// The source's tag, without a suffix; its digest if it was asked for by no tag.
    pub reference: Selector,
    /// The settings that it was made with, as [`BuiltManifest`](super::BuiltManifest) has them.
    pub variant: String,
    /// Its format: one word.
    pub format: String,
    /// The compression of its layers, where the format leaves a choice.
    pub algorithm: Option<String>,
    /// The source manifest or index.
    pub source: Digest,
    /// The converted one.
    pub digest: Digest,
    /// The media type of the converted one.
    pub media_type: String,
    /// The platforms of its images, as far as they are known.
    pub platforms: Vec<String>,
    /// Compressed bytes of the source's layers, if these are known.
    pub source_bytes: Option<u64>,
    /// Bytes of the converted layers.
    pub bytes: u64,
    /// Number of the converted layers.
    pub layers: u64,
    /// How many of them this conversion made; the others were there.
    pub layers_made: u64,
}

/// A row of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedImage {
    /// What it says.
    pub image: ImageRecord,
    /// When the image was converted, or first found converted under this name: milliseconds since
    /// 1970 by the database's clock.
    pub converted_at: u64,
}

/// Which images are listed: those that have each of these.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageFilter {
    /// The source's registry.
    pub host: Option<String>,
    /// The source's repository.
    pub repo: Option<String>,
    /// The tag or digest.
    pub reference: Option<String>,
    /// The format.
    pub format: Option<String>,
}

/// The order of a list.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ImageOrder {
    /// By registry, repository, tag or digest, and settings.
    #[default]
    Name,
    /// The latest conversion first.
    Newest,
}

/// Behind which image a list goes on; it need not be there any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImagePosition {
    /// When that was converted.
    pub converted_at: u64,
    /// Its registry, repository, tag or digest, and settings.
    pub key: [String; 4],
}

impl RecordedImage {
    /// When the image was converted; not after the year 9999, beyond which times are not written.
    #[must_use]
    pub fn time(&self) -> SystemTime {
        let at = Duration::from_millis(self.converted_at).min(LAST_SECOND);
        UNIX_EPOCH.checked_add(at).unwrap_or(UNIX_EPOCH)
    }

    /// Where a list goes on behind this image.
    #[must_use]
    pub fn position(&self) -> ImagePosition {
        let image = &self.image;
        ImagePosition {
            converted_at: self.converted_at,
            key: [
                image.host.clone(),
                image.repo.as_str().to_owned(),
                image.reference.to_string(),
                image.variant.clone(),
            ],
        }
    }
}

impl Index {
    /// The images that were converted, at most `limit` of those behind `after`; fewer only where there
    /// are no more. Rows that cannot be understood are passed over.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn images(
        &self,
        filter: &ImageFilter,
        order: ImageOrder,
        after: Option<&ImagePosition>,
        limit: usize,
    ) -> Result<Vec<RecordedImage>, IndexError> {
        let ImageFilter {
            host,
            repo,
            reference,
            format,
        } = filter.clone();
        let columns = [
            ("host", host),
            ("repo", repo),
            ("reference", reference),
            ("format", format),
        ];
        let chosen = columns
            .into_iter()
            .filter_map(|(column, value)| Some((column, value?)));
        let filter: Vec<_> = chosen.collect();
        let after = after.map(|after| {
            let at = i64::try_from(after.converted_at).unwrap_or(i64::MAX);
            (at, after.key.clone())
        });
        // No row has a text that is not ASCII, and a database may refuse to compare with one.
        let keys = after.iter().flat_map(|(_, key)| key.iter());
        let mut texts = filter.iter().map(|(_, text)| text).chain(keys);
        if !texts.all(|text| text.is_ascii() && text.len() <= MAX_TEXT) {
            return Ok(Vec::new());
        }
        let list = ListValues {
            filter,
            order,
            after,
            limit,
            skip: 0,
        };
        self.listed(list).await
    }

    async fn listed(&self, mut list: ListValues) -> Result<Vec<RecordedImage>, IndexError> {
        let wanted = list.limit;
        let mut images = Vec::new();
        loop {
            let rows = either!(self, index => index.images(list.clone()))?;
            let count = rows.len();
            images.extend(rows.into_iter().flatten());
            if images.len() >= wanted || count < list.limit {
                images.truncate(wanted);
                return Ok(images);
            }
            list.skip = list.skip.saturating_add(count);
            list.limit = wanted.saturating_sub(images.len()).max(LEAST_ROWS);
        }
    }

    /// The digests of the blobs, manifests and configs that belong to what `source` became in a
    /// repository, in whatever formats, sorted; at most [`MAX_PARTS`].
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn image_parts(
        &self,
        host: &str,
        repo: &RepoName,
        source: &Digest,
    ) -> Result<Vec<Digest>, IndexError> {
        check("host", host)?;
        either!(self, index => index.image_parts(host, repo.as_str(), source.as_str()))
    }

    /// Records an image that is found converted under a name, unless the row of that name says so.
    /// What is not known of it is taken from rows of the same image under other names. Returns whether
    /// there was something to write. A power cut may take the row.
    ///
    /// # Errors
    /// When a value does not fit or the database does not answer.
    pub async fn note_image(&self, image: &ImageRecord) -> Result<bool, IndexError> {
        let mut row = RecordValues::new(image)?;
        let [host, repo] = [&row.host, &row.repo].map(Clone::clone);
        let known = ListValues {
            filter: vec![
                ("host", host),
                ("repo", repo),
                ("reference", row.reference.clone()),
                ("variant", row.variant.clone()),
            ],
            order: ImageOrder::Name,
            after: None,
            limit: 1,
            skip: 0,
        };
        let found = self.listed(known).await?;
        if let Some(known) = found.first()
            && known.image.source == image.source
            && known.image.digest == image.digest
        {
            return Ok(false);
        }
        let same = ListValues {
            filter: vec![
                ("src_digest", row.source.clone()),
                ("variant", row.variant.clone()),
                ("out_digest", row.digest.clone()),
            ],
            order: ImageOrder::Name,
            after: None,
            limit: 1,
            skip: 0,
        };
        let found = self.listed(same).await?;
        if let Some(same) = found.into_iter().next() {
            let same = RecordValues::new(&same.image)?;
            row.source_bytes = row.source_bytes.or(same.source_bytes);
            if !same.platforms.is_empty() {
                row.platforms = same.platforms;
            }
        }
        either!(self, index => index.put_image(row))?;
        Ok(true)
    }

    /// Forgets that an image was converted: its row, and in this program's own tables what its
    /// source became with its settings, in any repository. The blobs, the tables that are shared
    /// with the reference converter, and the links stay: running containers go on reading, and the next
    /// conversion finds the layers.
    ///
    /// A row that says something else by now stays. Returns whether there was one.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn forget_image(&self, image: &ImageRecord) -> Result<bool, IndexError> {
        let row = RecordValues::new(image)?;
        either!(self, index => index.forget_image(row))
    }

    /// Forgets the rows of the images that were converted first, but for `most`; no image is
    /// converted again for it. Returns their number.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn trim_images(&self, most: u64) -> Result<u64, IndexError> {
        let most = signed(most)?;
        either!(self, index => index.trim_images(most))
    }
}
