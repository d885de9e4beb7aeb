//! Single values, read.

use std::fmt;
use std::time::Duration;

/// A size such as `64GiB`, `500MB` or a plain number of bytes.
///
/// # Errors
/// When the text is no size.
pub fn bytes(text: &str) -> Result<u64, String> {
    let wrong =
        || format!("{text:?} is not a size: use for example 64GiB, 500MB or a number of bytes");
    // The parser of sizes goes through floating point and takes what overflows as the largest.
    let size = text
        .parse::<bytesize::ByteSize>()
        .map_err(|_| wrong())?
        .as_u64();
    if size >= 1 << 62 {
        return Err(format!("{text:?} is larger than any disk"));
    }
    Ok(size)
}

/// A size in bytes whose plain numbers are GiB, as the reference's `--vsize` has them.
///
/// # Errors
/// When the text is no size.
pub fn gibibytes(text: &str) -> Result<u64, String> {
    if let Ok(number) = text.parse::<u64>() {
        return number
            .checked_mul(1 << 30)
            .ok_or_else(|| format!("{text:?} GiB is larger than any disk"));
    }
    bytes(text).map_err(|_| {
        format!("{text:?} is not a size: use a number of GiB such as 64, or for example 512MiB")
    })
}

/// A duration such as `25s`, `1h` or `0`.
///
/// # Errors
/// When the text is no duration.
pub fn duration(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    humantime::parse_duration(text)
        .map_err(|_| format!("{text:?} is not a duration: use for example 25s, 10m or 1h"))
}

/// A whole number within `range`.
///
/// # Errors
/// When the text is no number of the range.
pub fn number<T>(text: &str, range: std::ops::RangeInclusive<T>) -> Result<T, String>
where
    T: std::str::FromStr + PartialOrd + fmt::Display,
{
    text.parse()
        .ok()
        .filter(|number| range.contains(number))
        .ok_or_else(|| {
            format!(
                "{text:?} is not a number from {} to {}",
                range.start(),
                range.end()
            )
        })
}

/// `true` or `false`, and the words that stand for them in environment variables.
///
/// # Errors
/// When the text is neither.
pub fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err(format!("{text:?} is neither true nor false")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_durations_are_read_as_people_write_them() {
        assert_eq!(bytes("64GiB"), Ok(64 << 30));
        assert_eq!(bytes("4096"), Ok(4096));
        assert_eq!(bytes("1MB"), Ok(1_000_000));
        assert_eq!(duration("25s"), Ok(Duration::from_secs(25)));
        assert_eq!(duration("0"), Ok(Duration::ZERO));
        assert_eq!(gibibytes("64"), Ok(64 << 30));
        assert_eq!(gibibytes("512MiB"), Ok(512 << 20));
        assert_eq!(boolean("on"), Ok(true));
        assert_eq!(boolean("false"), Ok(false));
    }

    #[test]
    fn an_invalid_value_is_an_error_with_an_example() {
        for bad in ["", "lots", "-1", "1e400", "99999999999999999999GiB"] {
            assert!(bytes(bad).is_err(), "{bad:?}");
            assert!(gibibytes(bad).is_err(), "{bad:?}");
        }
        assert!(gibibytes("18446744073709551615").is_err());
        assert!(duration("soon").unwrap_err().contains("25s"));
        assert!(boolean("maybe").is_err());
    }
}
