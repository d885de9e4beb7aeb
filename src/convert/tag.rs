//! How a converted blob is identified: the LSMT `user_tag` and the uuids.

use std::fmt;
use std::str::FromStr;

use crate::oci::digest::{ChainId, Digest};

/// The version of everything that decides a blob's bytes beyond source and settings.
///
/// Raise it with any change that makes the same layer come out as other bytes:
/// blobs of another version are then a miss, never mixed into a chain.
///
/// - 1: zeroed mappings pointed at sector 0, and overlaybd refused such layers.
/// - 2: they point at sector 8, the first behind the LSMT's header.
/// - 3: layers are unpacked as containerd does it, to the letter: most come to the same disk,
///   those with odd entries, or one for the root, to another.
/// - 4: data of files that are wanted at start lies together behind that of others; the disk is
///   the same.
pub const FORMAT_VERSION: u32 = 4;

const NAME: &str = "overlaybd-proxy/";
const PARENT: &str = " parent=";
const LIST: &str = " list=";
const NO_PARENT: &str = "none";

/// The LSMT `user_tag` of a blob: the format version, the blob below, and the list that
/// orders the data.
///
/// As text: `overlaybd-proxy/VERSION parent=DIGEST`, with `none` for the bottom layer, and
/// ` list=DIGEST` behind it where there is a list; at most 240 bytes, so it fits the 256-byte
/// field with its NUL. It says nothing of the other settings (algorithm, block size, disk size):
/// those are in the `ZFile` and LSMT headers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserTag {
    /// The [`FORMAT_VERSION`] of the writer.
    pub version: u32,
    /// The digest of the blob that this one is a diff over; `None` at the bottom.
    pub parent: Option<Digest>,
    /// The digest of the list by which file data is ordered, if there is one.
    pub list: Option<Digest>,
}

/// A `user_tag` that this program did not write.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a tag of this program: the blob was made by another tool")]
pub struct ForeignTag(String);

impl UserTag {
    /// The tag of a blob made now on top of `parent`, its file data ordered by `list`.
    #[must_use]
    pub fn of(parent: Option<Digest>, list: Option<Digest>) -> Self {
        Self {
            version: FORMAT_VERSION,
            parent,
            list,
        }
    }

    /// Whether the blob that carries this tag is a link of a chain right above `parent`,
    /// made by this format version with this list.
    #[must_use]
    pub fn fits(&self, parent: Option<&Digest>, list: Option<&Digest>) -> bool {
        self.version == FORMAT_VERSION
            && self.parent.as_ref() == parent
            && self.list.as_ref() == list
    }
}

impl fmt::Display for UserTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parent = self.parent.as_ref().map_or(NO_PARENT, Digest::as_str);
        write!(f, "{NAME}{}{PARENT}{parent}", self.version)?;
        match &self.list {
            Some(list) => write!(f, "{LIST}{list}"),
            None => Ok(()),
        }
    }
}

impl FromStr for UserTag {
    type Err = ForeignTag;

    fn from_str(text: &str) -> Result<Self, ForeignTag> {
        let read = || {
            let (version, rest) = text.strip_prefix(NAME)?.split_once(PARENT)?;
            let (parent, list) = match rest.split_once(LIST) {
                Some((parent, list)) => (parent, Some(list.parse().ok()?)),
                None => (rest, None),
            };
            let tag = Self {
                version: version.parse().ok()?,
                parent: match parent {
                    NO_PARENT => None,
                    digest => Some(digest.parse().ok()?),
                },
                list,
            };
            // One tag, one text: "+1" and "01" parse as numbers but were never written.
            (tag.to_string() == text).then_some(tag)
        };
        read().ok_or_else(|| ForeignTag(text.chars().take(256).collect()))
    }
}

/// The LSMT uuid of the layer that completes `chain_id`: the first 32 hex digits of the
/// chain-id as 8-4-4-4-12, upper case, as the reference converter has it.
#[must_use]
pub fn layer_uuid(chain_id: &ChainId) -> String {
    let mut text = String::with_capacity(36);
    for (position, digit) in chain_id.0.hex().chars().take(32).enumerate() {
        if matches!(position, 8 | 12 | 16 | 20) {
            text.push('-');
        }
        text.push(digit.to_ascii_uppercase());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_reads_back_as_it_was_written() {
        let (below, wanted) = (Digest::of(b"below"), Digest::of(b"wanted"));
        let long = format!("sha512:{}", "a".repeat(128)).parse().unwrap();
        for parent in [None, Some(below), Some(long)] {
            for list in [None, Some(wanted.clone())] {
                let tag = UserTag::of(parent.clone(), list.clone());
                let text = tag.to_string();
                assert!(text.len() < 255);
                assert_eq!(text.parse(), Ok(tag.clone()));
                let another = Digest::of(b"another");
                assert!(tag.fits(parent.as_ref(), list.as_ref()));
                assert!(!tag.fits(Some(&another), list.as_ref()));
                assert!(!tag.fits(parent.as_ref(), Some(&another)));
                let other = list.is_none().then_some(&wanted);
                assert!(!tag.fits(parent.as_ref(), other));
            }
        }
        assert_eq!(
            UserTag::of(None, None).to_string(),
            "overlaybd-proxy/4 parent=none"
        );
    }

    #[test]
    fn a_tag_of_another_tool_is_an_error() {
        for text in [
            "",
            "overlaybd-proxy/",
            "overlaybd-proxy/1",
            "overlaybd-proxy/+1 parent=none",
            "overlaybd-proxy/1 parent=sha256:12",
            "overlaybd-proxy/1 parent=none ",
            "overlaybd-proxy/1 parent=none list=",
            "overlaybd-proxy/1 parent=none list=none",
        ] {
            assert!(text.parse::<UserTag>().is_err(), "{text}");
        }
    }

    #[test]
    fn another_format_version_does_not_fit() {
        let tag: UserTag = "overlaybd-proxy/1 parent=none".parse().unwrap();
        assert!(!tag.fits(None, None));
    }

    #[test]
    fn a_uuid_is_the_first_digits_of_the_chain_id() {
        let digest = format!("sha256:0123456789abcdef0123456789abcdef{}", "00".repeat(16));
        let chain_id = ChainId(digest.parse().unwrap());
        assert_eq!(
            layer_uuid(&chain_id),
            "01234567-89AB-CDEF-0123-456789ABCDEF"
        );
    }
}
