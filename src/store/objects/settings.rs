//! Which bucket, and how it is reached.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use object_store::client::HttpConnector;
use url::Url;

/// Most characters of a prefix; the longest key of S3 has 1,024 bytes.
const MAX_PREFIX: usize = 512;

/// A bucket, and the prefix of the keys of all objects in it: `s3://BUCKET/PREFIX`.
///
/// ```
/// use overlaybd_proxy::store::BucketAddress;
///
/// let address: BucketAddress = "s3://images/obd/".parse()?;
/// assert_eq!((address.bucket(), address.prefix()), ("images", "obd"));
/// assert_eq!(address.to_string(), "s3://images/obd");
/// # Ok::<(), String>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketAddress {
    bucket: String,
    prefix: String,
}

impl BucketAddress {
    /// The bucket's name.
    pub fn bucket(&self) -> &str {
        &self.bucket
    }

    /// What all keys begin with, without a slash at the end; empty for nothing.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }
}

impl fmt::Display for BucketAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}", self.bucket)?;
        if !self.prefix.is_empty() {
            write!(f, "/{}", self.prefix)?;
        }
        Ok(())
    }
}

impl FromStr for BucketAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "s3://BUCKET or s3://BUCKET/PREFIX is expected".to_owned();
        let rest = text.strip_prefix("s3://").ok_or_else(wrong)?;
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = prefix.trim_end_matches('/');
        // S3's rules for names (Bucket naming rules), and no others: these get into host names.
        let is_letter = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
        let is_bucket = (3..=63).contains(&bucket.len())
            && bucket
                .bytes()
                .all(|c| is_letter(c) || matches!(c, b'-' | b'.'))
            && bucket.bytes().next().is_some_and(is_letter)
            && bucket.bytes().last().is_some_and(is_letter)
            && !bucket.contains("..");
        if !is_bucket {
            return Err(format!(
                "{}; a bucket's name has 3 to 63 lower-case letters, digits, - and .",
                wrong()
            ));
        }
        let is_plain = |c: u8| c.is_ascii_alphanumeric() || b"-_.=+/".contains(&c);
        let is_prefix = prefix.is_empty()
            || (prefix.len() <= MAX_PREFIX
                && prefix.bytes().all(is_plain)
                && prefix
                    .split('/')
                    .all(|part| !matches!(part, "" | "." | "..")));
        if !is_prefix {
            return Err(format!(
                "{}; a prefix has letters, digits and -_.=+, in parts that slashes separate",
                wrong()
            ));
        }
        Ok(Self {
            bucket: bucket.to_owned(),
            prefix: prefix.to_owned(),
        })
    }
}

/// How objects are reached.
#[derive(Debug, Clone)]
pub struct ObjectsConfig {
    /// Where they are.
    pub address: BucketAddress,
    /// The service, if it is not Amazon's: its scheme, host and port.
    pub endpoint: Option<Url>,
    /// The region that requests are signed for; `None`: as `AWS_REGION` or `AWS_DEFAULT_REGION`
    /// says, else us-east-1.
    pub region: Option<String>,
    /// Whether the bucket's name is a part of the host's name, and not of the path.
    pub is_virtual_hosted: bool,
    /// An AWS credentials file; `None`: as the environment says, or the machine's metadata.
    pub credentials: Option<PathBuf>,
    /// The connections.
    pub connector: Arc<dyn HttpConnector>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_bucket_and_a_prefix() {
        for (text, bucket, prefix) in [
            ("s3://images", "images", ""),
            ("s3://images/", "images", ""),
            ("s3://my.images-1/a/b=c", "my.images-1", "a/b=c"),
        ] {
            let address: BucketAddress = text.parse().unwrap();
            assert_eq!((address.bucket(), address.prefix()), (bucket, prefix));
        }
        for bad in [
            "",
            "images",
            "s3:/images",
            "s3://",
            "s3://ab",
            "s3://Images",
            "s3://a_b",
            "s3://-ab",
            "s3://abc-",
            "s3://a..b",
            "s3://me:secret@images",
            "s3://images//a",
            "s3://images/../a",
            "s3://images/a b",
            "s3://images/ä",
            "https://images",
            "s3://images/a?b",
        ] {
            assert!(bad.parse::<BucketAddress>().is_err(), "{bad}");
        }
    }
}
