//! From texts to settings: every mistake is collected, so that one run shows them all.

use std::fmt;
use std::time::Duration;

/// What is wrong with a configuration: all of it, each with its remedy.
#[derive(Debug, Default)]
pub struct Mistakes(Vec<String>);

impl std::error::Error for Mistakes {}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [one] => f.write_str(one),
            many => {
                write!(f, "{} mistakes in the configuration:", many.len())?;
                many.iter()
                    .try_for_each(|mistake| write!(f, "\n  - {mistake}"))
            }
        }
    }
}

impl Mistakes {
    /// Adds a mistake in option `name`.
    pub fn add(&mut self, name: &str, what: impl fmt::Display) {
        self.0.push(format!("--{name}: {what}"));
    }

    /// The value, or its stand-in and a mistake in option `name`.
    pub fn take<T, E: fmt::Display>(&mut self, name: &str, value: Result<T, E>) -> Option<T> {
        value.map_err(|error| self.add(name, error)).ok()
    }

    /// What is wrong, one line each.
    pub fn lines(&self) -> &[String] {
        &self.0
    }

    /// `value` if nothing was wrong.
    ///
    /// # Errors
    /// The mistakes, if there are any.
    pub fn none_or<T>(self, value: Option<T>) -> Result<T, Self> {
        match value {
            Some(value) if self.0.is_empty() => Ok(value),
            _ => Err(self),
        }
    }
}

/// A size such as `64GiB`, `500MB` or a plain number of bytes.
///
/// # Errors
/// When the text is no size.
pub fn bytes(text: &str) -> Result<u64, String> {
    text.parse::<bytesize::ByteSize>()
        .map(|size| size.as_u64())
        .map_err(|_| {
            format!("{text:?} is not a size: use for example 64GiB, 500MB or a number of bytes")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_mistakes_are_told_at_once() {
        let mut mistakes = Mistakes::default();
        mistakes.take("cache-size", bytes("lots"));
        mistakes.take("hold", duration("soon"));
        mistakes.take("threads", number("0", 1..=64));
        let text = mistakes.none_or(Some(())).unwrap_err().to_string();
        for part in [
            "3 mistakes",
            "--cache-size",
            "--hold",
            "--threads",
            "1 to 64",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn sizes_and_durations_are_read_as_people_write_them() {
        assert_eq!(bytes("64GiB"), Ok(64 << 30));
        assert_eq!(bytes("4096"), Ok(4096));
        assert_eq!(bytes("1MB"), Ok(1_000_000));
        assert_eq!(duration("25s"), Ok(Duration::from_secs(25)));
        assert_eq!(duration("0"), Ok(Duration::ZERO));
    }
}
