//! The errors of a configuration, all at once.

use std::collections::BTreeMap;
use std::fmt;

use super::origin::Origin;

/// All errors of a configuration, each with its remedy.
#[derive(Debug, Clone, Default)]
pub struct ConfigErrors {
    origins: BTreeMap<String, Origin>,
    /// What options are called that were not written under their own names.
    names: BTreeMap<String, String>,
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
            ..Self::default()
        }
    }

    /// Adds an error in option `name`.
    pub fn add(&mut self, name: &str, what: impl fmt::Display) {
        self.add_line(format!("{}: {what}", self.shown(name)));
    }

    /// What an option is called where it was set.
    #[must_use]
    pub fn shown(&self, name: &str) -> String {
        match (self.names.get(name), self.origins.get(name)) {
            (Some(shown), _) => shown.clone(),
            (None, Some(origin)) => origin.name(name),
            (None, None) => Origin::Default.name(name),
        }
    }

    /// Calls an option `shown` from now on.
    pub fn call(&mut self, name: &str, shown: impl Into<String>) {
        self.names.insert(name.to_owned(), shown.into());
    }

    /// Does `work`, in which options are called otherwise: their names, and what they are called.
    pub fn calling<T>(
        &mut self,
        names: impl IntoIterator<Item = (String, String)>,
        work: impl FnOnce(&mut Self) -> T,
    ) -> T {
        let before = self.names.clone();
        self.names.extend(names);
        let done = work(self);
        self.names = before;
        done
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
        Self {
            names: self.names.clone(),
            ..Self::of(self.origins.clone())
        }
    }

    /// Says of the mistakes behind the first `known` ones what they are in, but for those that
    /// say so themselves or are shared with others.
    pub fn place_since(&mut self, known: usize, place: &str, shared: &Self) {
        let found = self.lines.split_off(known.min(self.lines.len()));
        for line in found {
            if shared.lines.contains(&line) || line.contains(place) {
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
