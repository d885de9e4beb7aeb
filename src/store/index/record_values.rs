//! Rows of images, and what lists of them are asked for, as the databases take them.

use super::records::{ImageOrder, ImageRecord, RecordedImage};
use super::values::{check, signed};
use crate::oci::Selector;
use crate::store::error::IndexError;

/// The longest text that a column holds.
pub(super) const MAX_TEXT: usize = 255;

/// A row as the databases take it, and have it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct RecordValues {
    pub(super) host: String,
    pub(super) repo: String,
    pub(super) reference: String,
    pub(super) variant: String,
    pub(super) format: String,
    pub(super) algorithm: String,
    pub(super) source: String,
    pub(super) digest: String,
    pub(super) media_type: String,
    pub(super) platforms: String,
    pub(super) source_bytes: Option<i64>,
    pub(super) bytes: i64,
    pub(super) layers: i64,
    pub(super) layers_made: i64,
    /// Whether the reference is a tag. A row without one is made only where no other row tells of
    /// the same image.
    pub(super) has_tag: bool,
}

/// The columns, in the order of [`RecordValues`].
pub(super) const COLUMNS: [&str; 14] = [
    "host",
    "repo",
    "reference",
    "variant",
    "format",
    "algorithm",
    "src_digest",
    "out_digest",
    "mediatype",
    "platforms",
    "src_size",
    "out_size",
    "layers",
    "layers_made",
];

/// As many whole names as the column holds, in one text. Whoever made the image wrote them.
fn joined(platforms: &[String]) -> String {
    let mut text = String::new();
    for platform in platforms {
        let platform: String = platform
            .chars()
            .map(|c| if c.is_ascii_graphic() { c } else { '?' })
            .collect();
        let comma = usize::from(!text.is_empty());
        if text.len() + comma + platform.len() > MAX_TEXT {
            break;
        }
        if comma > 0 {
            text.push(',');
        }
        text.push_str(&platform);
    }
    text
}

impl RecordValues {
    pub(super) fn new(image: &ImageRecord) -> Result<Self, IndexError> {
        check("host", &image.host)?;
        check("variant", &image.variant)?;
        check("format", &image.format)?;
        check("media type", &image.media_type)?;
        if let Some(algorithm) = &image.algorithm {
            check("algorithm", algorithm)?;
        }
        Ok(Self {
            host: image.host.clone(),
            repo: image.repo.as_str().to_owned(),
            reference: image.reference.to_string(),
            variant: image.variant.clone(),
            format: image.format.clone(),
            algorithm: image.algorithm.clone().unwrap_or_default(),
            source: image.source.as_str().to_owned(),
            digest: image.digest.as_str().to_owned(),
            media_type: image.media_type.clone(),
            platforms: joined(&image.platforms),
            source_bytes: image.source_bytes.map(signed).transpose()?,
            bytes: signed(image.bytes)?,
            layers: signed(image.layers)?,
            layers_made: signed(image.layers_made)?,
            has_tag: matches!(image.reference, Selector::Tag(_)),
        })
    }

    /// What a row says; `None` of one that cannot be understood.
    pub(super) fn parse(self, converted_at: i64) -> Option<RecordedImage> {
        let unsigned = |number: i64| u64::try_from(number).ok();
        let platforms = self.platforms.split(',').filter(|one| !one.is_empty());
        Some(RecordedImage {
            image: ImageRecord {
                repo: self.repo.parse().ok()?,
                reference: self.reference.parse().ok()?,
                algorithm: (!self.algorithm.is_empty()).then_some(self.algorithm),
                source: self.source.parse().ok()?,
                digest: self.digest.parse().ok()?,
                platforms: platforms.map(ToOwned::to_owned).collect(),
                source_bytes: self.source_bytes.and_then(unsigned),
                bytes: unsigned(self.bytes)?,
                layers: unsigned(self.layers)?,
                layers_made: unsigned(self.layers_made)?,
                host: self.host,
                variant: self.variant,
                format: self.format,
                media_type: self.media_type,
            },
            converted_at: unsigned(converted_at)?,
        })
    }
}

/// What a list is asked for, as the databases take it.
#[derive(Debug, Clone)]
pub(super) struct ListValues {
    /// Columns, and what they must be.
    pub(super) filter: Vec<(&'static str, String)>,
    pub(super) order: ImageOrder,
    /// Where it goes on: a time, and the texts of a key.
    pub(super) after: Option<(i64, [String; 4])>,
    pub(super) limit: usize,
    /// Rows that are passed over before those.
    pub(super) skip: usize,
}

impl ListValues {
    /// The statement without the quoting of names, with `?` for each value: columns of the filter,
    /// then the position, in the order of the columns.
    pub(super) fn sql(&self) -> String {
        let columns = COLUMNS.join(", ");
        let mut conditions: Vec<String> = self
            .filter
            .iter()
            .map(|(column, _)| format!("{column} = ?"))
            .collect();
        let order = match self.order {
            ImageOrder::Name => "host, repo, reference, variant",
            ImageOrder::Newest => {
                "converted_at DESC, host DESC, repo DESC, reference DESC, variant DESC"
            }
        };
        if self.after.is_some() {
            // The first comparison is one that every database does by its index.
            conditions.push(match self.order {
                ImageOrder::Name => {
                    "host >= ? AND (host, repo, reference, variant) > (?, ?, ?, ?)".to_owned()
                }
                ImageOrder::Newest => "converted_at <= ? AND (converted_at, host, repo, \
                     reference, variant) < (?, ?, ?, ?, ?)"
                    .to_owned(),
            });
        }
        let conditions = if conditions.is_empty() {
            String::new()
        } else {
            format!(" WHERE {}", conditions.join(" AND "))
        };
        format!(
            "SELECT {columns}, converted_at FROM overlaybd_proxy_images{conditions} \
             ORDER BY {order} LIMIT {} OFFSET {}",
            self.limit, self.skip
        )
    }

    /// The values of [`sql`](Self::sql), in its order.
    pub(super) fn values<V>(&self) -> Vec<V>
    where
        V: From<String> + From<i64>,
    {
        let mut values: Vec<V> = Vec::new();
        values.extend(self.filter.iter().map(|(_, value)| V::from(value.clone())));
        if let Some((at, key)) = &self.after {
            match self.order {
                ImageOrder::Name => values.push(V::from(key[0].clone())),
                ImageOrder::Newest => values.extend([V::from(*at), V::from(*at)]),
            }
            values.extend(key.iter().map(|text| V::from(text.clone())));
        }
        values
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_are_left_out_that_do_not_fit() {
        assert_eq!(joined(&[]), "");
        let some = ["linux/amd64".to_owned(), "linux/é ".to_owned()];
        assert_eq!(joined(&some), "linux/amd64,linux/??");
        let many = vec!["x".repeat(64); 256];
        let text = joined(&many);
        assert_eq!(text.len(), 3 * 65 - 1);
    }
}
