//! The errors of a configuration, all at once.

use std::collections::BTreeMap;
use std::fmt;

use super::origin::{Origin, environment_variable};

/// All errors of a configuration, each with its remedy.
#[derive(Debug, Default)]
pub struct ConfigErrors {
    origins: BTreeMap<String, Origin>,
    lines: Vec<String>,
}

impl std::error::Error for ConfigErrors {}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.lines.as_slice() {
            [one] => f.write_str(one),
            many => {
                write!(f, "{} mistakes in the configuration:", many.len())?;
                many.iter()
                    .try_for_each(|mistake| write!(f, "\n  - {mistake}"))
            }
        }
    }
}

impl ConfigErrors {
    /// No errors yet, in options that came from here.
    #[must_use]
    pub fn of(origins: BTreeMap<String, Origin>) -> Self {
        Self {
            origins,
            lines: Vec::new(),
        }
    }

    /// Adds an error in option `name`.
    pub fn add(&mut self, name: &str, what: impl fmt::Display) {
        let line = match self.origins.get(name) {
            Some(Origin::File(path)) => format!("`{name}` in {}: {what}", path.display()),
            Some(Origin::Environment) => format!("{}: {what}", environment_variable(name)),
            Some(Origin::Flag | Origin::Default) | None => format!("--{name}: {what}"),
        };
        self.add_line(line);
    }

    /// Adds an error that is in no single option. One that is there already is not added again.
    pub fn add_line(&mut self, line: impl Into<String>) {
        let line = line.into();
        if !self.lines.contains(&line) {
            self.lines.push(line);
        }
    }

    /// No errors yet, in options that came from where these did.
    #[must_use]
    pub fn anew(&self) -> Self {
        Self::of(self.origins.clone())
    }

    /// Says of the mistakes behind the first `known` ones what they are in, but for those that
    /// are shared with others.
    pub fn place_since(&mut self, known: usize, place: &str, shared: &Self) {
        let found = self.lines.split_off(known.min(self.lines.len()));
        for line in found {
            if shared.lines.contains(&line) {
                self.add_line(line);
            } else {
                self.add_line(format!("{place}: {line}"));
            }
        }
    }

    /// The value, or its stand-in and a mistake in option `name`.
    pub fn take<T, E: fmt::Display>(&mut self, name: &str, value: Result<T, E>) -> Option<T> {
        value.map_err(|error| self.add(name, error)).ok()
    }

    /// What is wrong, one line each.
    pub fn lines(&self) -> &[String] {
        &self.lines
    }

    /// `value` if nothing was wrong.
    ///
    /// # Errors
    /// The mistakes, if there are any.
    pub fn none_or<T>(self, value: Option<T>) -> Result<T, Self> {
        match value {
            Some(value) if self.lines.is_empty() => Ok(value),
            _ => Err(self),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{bytes, duration, number};

    #[test]
    fn all_errors_are_reported_at_once_with_their_source() {
        let origins = [
            ("hold".to_owned(), Origin::Environment),
            ("threads".to_owned(), Origin::File("/etc/x.toml".into())),
        ];
        let mut errors = ConfigErrors::of(origins.into());
        errors.take("cache-size", bytes("lots"));
        errors.take("hold", duration("soon"));
        errors.take("threads", number("0", 1..=64));
        let text = errors.none_or(Some(())).unwrap_err().to_string();
        for part in [
            "3 mistakes",
            "--cache-size: ",
            "OVERLAYBD_PROXY_HOLD: ",
            "`threads` in /etc/x.toml: ",
            "1 to 64",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
}
