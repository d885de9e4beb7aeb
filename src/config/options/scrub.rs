//! How fast what is kept is looked through.
// The comments of options are their help texts.
#![allow(clippy::doc_markdown)]

use std::num::NonZeroU64;

use serde::{Deserialize, Serialize};

use super::required;
use crate::config::{ConfigErrors, Text, bytes};

/// Less than this a second would never come to an end.
const SLOWEST: u64 = 64 << 10;

/// How fast what is kept is looked through.
#[derive(Debug, Clone, Default, clap::Args, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
#[command(next_help_heading = "Store")]
pub struct ScrubOptions {
    /// Bytes a second at which all blobs are read again, over and over, so that damage is found
    /// before anyone asks for what is damaged: such as 8MiB, or off
    #[arg(long, value_name = "RATE")]
    pub scrub: Option<Text>,
}

fn rate(text: &str) -> Result<Option<NonZeroU64>, String> {
    if text == "off" {
        return Ok(None);
    }
    let wrong = |error| format!("{error}, or off");
    match bytes(text).map_err(wrong)? {
        0 => Ok(None),
        rate if rate < SLOWEST => Err(format!(
            "{text:?} is too slow: 64KiB a second or more is expected, or off"
        )),
        rate => Ok(NonZeroU64::new(rate)),
    }
}

impl ScrubOptions {
    /// Bytes a second; `None` within for never.
    pub fn config(&self, errors: &mut ConfigErrors) -> Option<Option<NonZeroU64>> {
        required(errors, "scrub", self.scrub.as_ref(), rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_size_a_second_or_off() {
        assert_eq!(rate("8MiB"), Ok(NonZeroU64::new(8 << 20)));
        assert_eq!(rate("off"), Ok(None));
        assert_eq!(rate("0"), Ok(None));
        for bad in ["1KiB", "fast", "", "-1"] {
            assert!(rate(bad).unwrap_err().contains("off"), "{bad:?}");
        }
    }
}
