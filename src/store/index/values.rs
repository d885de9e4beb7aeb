//! Values as the tables hold them.

use std::time::Duration;

use super::rows::ManifestKey;
use crate::store::error::IndexError;

/// The longest lease, in milliseconds: a day.
const MAX_LEASE_MS: i64 = 86_400_000;

/// The duration of a lease.
pub(super) fn milliseconds(ttl: Duration) -> i64 {
    i64::try_from(ttl.as_millis())
        .unwrap_or(i64::MAX)
        .min(MAX_LEASE_MS)
}

/// The tables hold 255 characters of one to three bytes; what is ASCII fits any of them.
pub(super) fn check(what: &'static str, value: &str) -> Result<(), IndexError> {
    if value.len() <= 255 && value.is_ascii() && !value.is_empty() {
        Ok(())
    } else {
        Err(IndexError::Value {
            what,
            value: value.chars().take(80).collect(),
        })
    }
}

pub(super) fn check_key(key: &ManifestKey) -> Result<(), IndexError> {
    check("host", &key.host)?;
    check("media type", &key.media_type)
}

pub(super) fn signed(size: u64) -> Result<i64, IndexError> {
    i64::try_from(size).map_err(|_| IndexError::Value {
        what: "size",
        value: size.to_string(),
    })
}
