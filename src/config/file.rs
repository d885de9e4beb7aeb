//! The TOML file.

use std::path::Path;

use toml::{Table, Value};

use super::errors::ConfigErrors;
use super::keys::{Shape, file_keys};
use super::options::{upstream_address, upstream_keys};

/// The file that is read when none is named and this one is there.
pub const DEFAULT_PATH: &str = "/etc/overlaybd-proxy/config.toml";

/// The settings of the file at `path`; those that make no sense are left out and reported.
pub(super) fn read(path: &Path, errors: &mut ConfigErrors) -> Table {
    let shown = path.display();
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            errors.add_line(format!(
                "the configuration file {shown} cannot be read: {error}"
            ));
            return Table::new();
        }
    };
    let table = match text.parse::<Table>() {
        Ok(table) => table,
        Err(error) => {
            errors.add_line(format!("{shown} is not TOML: {}", locate(&text, &error)));
            return Table::new();
        }
    };
    let mut kept = Table::new();
    for (key, value) in table {
        let Some(shape) = file_keys().get(&key) else {
            errors.add_line(unknown(
                &key,
                &shown.to_string(),
                file_keys().keys(),
                LISTED,
            ));
            continue;
        };
        match shaped(*shape, value) {
            Ok(value) => {
                if let Some(entries) = value.as_array().filter(|_| *shape == Shape::Upstreams) {
                    for (number, entry) in (1..).zip(entries) {
                        let Some(entry) = entry.as_table() else {
                            continue;
                        };
                        let number = (entries.len() > 1).then_some(number);
                        let place = format!("{} of {shown}", upstream_table(entry, number));
                        check_entry(entry, &place, errors);
                    }
                }
                kept.insert(key, value);
            }
            Err(expected) => {
                errors.add_line(format!("`{key}` in {shown}: {expected} is expected"));
            }
        }
    }
    kept
}

/// The message with the line, without the text of the file: it may hold a password.
fn locate(text: &str, error: &toml::de::Error) -> String {
    let line = error
        .span()
        .and_then(|span| text.get(..span.start))
        .map(|before| before.matches('\n').count() + 1);
    match line {
        Some(line) => format!("line {line}: {}", error.message()),
        None => error.message().to_owned(),
    }
}

/// Where keys are to be found that are options.
const LISTED: &str = "`overlaybd-proxy serve --help` lists them";

/// That a key is none, and the one that was meant.
pub(super) fn unknown<'a>(
    key: &str,
    place: &str,
    known: impl Iterator<Item = &'a String>,
    listed: &str,
) -> String {
    let is_key = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    // What is written with quotes may be a value that lost its key.
    let key = if key.chars().all(is_key) { key } else { "***" };
    let closest = known
        .map(|known| (strsim::damerau_levenshtein(key, known), known))
        .min()
        .filter(|(distance, known)| *distance * 2 <= known.len().max(key.len()));
    match closest {
        Some((_, known)) => {
            format!("`{key}` in {place}: there is no such key; did you mean `{known}`?")
        }
        None => format!("`{key}` in {place}: there is no such key; {listed}"),
    }
}

fn is_scalar(value: &Value) -> bool {
    matches!(
        value,
        Value::String(_) | Value::Integer(_) | Value::Boolean(_)
    )
}

/// The value in the form that its key takes, or what that is.
fn shaped(shape: Shape, value: Value) -> Result<Value, &'static str> {
    let list_of = |value: Value, good: fn(&Value) -> bool| match value {
        Value::Array(values) if values.iter().all(good) => Some(Value::Array(values)),
        value if good(&value) => Some(Value::Array(vec![value])),
        _ => None,
    };
    match shape {
        Shape::Scalar if is_scalar(&value) => Ok(value),
        Shape::Scalar => Err("a string, a number or a boolean"),
        Shape::List => list_of(value, is_scalar).ok_or("a list of strings"),
        Shape::Upstreams => list_of(value, |value| value.is_str() || value.is_table())
            .ok_or("one or more [[upstream]] tables"),
        Shape::Policies => list_of(value, Value::is_table).ok_or("one or more [[policy]] tables"),
    }
}

/// The table of an upstream: by its number and its address where there are several.
fn upstream_table(entry: &Table, number: Option<usize>) -> String {
    match (number, upstream_address(entry)) {
        (None, _) => "[[upstream]]".to_owned(),
        (Some(number), None) => format!("[[upstream]] {number}"),
        (Some(number), Some(address)) => format!("[[upstream]] {number}, {address},"),
    }
}

fn check_entry(entry: &Table, place: &str, errors: &mut ConfigErrors) {
    for (key, value) in entry {
        match upstream_keys().get(key) {
            None => errors.add_line(unknown(key, place, upstream_keys().keys(), LISTED)),
            Some(shape) => {
                if let Err(expected) = shaped(*shape, value.clone()) {
                    errors.add_line(format!("`{key}` in {place}: {expected} is expected"));
                }
            }
        }
    }
}

/// An upstream's table with every list in the form of a list.
pub(super) fn shaped_entry(entry: Table) -> Table {
    let shape = |key: &String| upstream_keys().get(key).copied();
    entry
        .into_iter()
        .filter_map(|(key, value)| {
            let value = shaped(shape(&key)?, value).ok()?;
            Some((key, value))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mistakes_of(text: &str) -> Vec<String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.toml");
        std::fs::write(&path, text).unwrap();
        let mut errors = ConfigErrors::default();
        read(&path, &mut errors);
        errors.lines().to_vec()
    }

    #[test]
    fn an_unknown_key_names_the_closest_one() {
        for (written, meant) in [
            ("hodl = '1s'", "`hold`"),
            ("data_dir = 'x'", "`data-dir`"),
            ("cachesize = 1", "`cache-size`"),
            ("[[upstream]]\nurl = 'x'\nnamespace = 'y'", "`hosts`"),
            (
                "[[upstream]]\nurl = 'x'\npath_prefix = 'y'",
                "`path-prefix`",
            ),
        ] {
            let lines = mistakes_of(written);
            assert_eq!(lines.len(), 1, "{lines:?}");
            let named = lines[0].contains(meant) || written.contains("namespace");
            assert!(named && lines[0].contains("no such key"), "{lines:?}");
        }
        let lines = mistakes_of("zzzzzzzzzzzzzzzzzzzzz = 1");
        assert!(lines[0].contains("serve --help"), "{lines:?}");
    }

    #[test]
    fn a_mistake_in_one_of_several_upstreams_says_in_which() {
        let lines = mistakes_of(
            "[[upstream]]\nurl = 'https://a.io'\nfoo = 1\n[[upstream]]\nurl = 'oci:b'\nbar = 1\n\
             [[upstream]]\nurl = 'me:secret@c.io'\nattempts = ['x']\n",
        );
        assert_eq!(lines.len(), 3, "{lines:?}");
        for (line, part) in lines.iter().zip([
            "`foo` in [[upstream]] 1, a.io, of ",
            "`bar` in [[upstream]] 2, oci:b, of ",
            "`attempts` in [[upstream]] 3 of ",
        ]) {
            assert!(line.starts_with(part), "{line}");
        }
        let lines = mistakes_of("[[upstream]]\nurl = 'a.io'\nfoo = 1\n");
        assert!(
            lines[0].starts_with("`foo` in [[upstream]] of "),
            "{lines:?}"
        );
    }

    #[test]
    fn a_value_of_the_wrong_type_is_reported_with_its_key() {
        let lines = mistakes_of("hold = ['x']\nplatform = {a = 1}\nupstream = 7\nbs = 16");
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert!(lines.iter().all(|line| line.contains("is expected")));
    }

    #[test]
    fn invalid_toml_is_reported_by_line_without_content() {
        let lines = mistakes_of("hold = '1s'\nuser = name:secret\n");
        assert!(lines[0].contains("line 2"), "{lines:?}");
        assert!(!lines[0].contains("secret"), "{lines:?}");
    }
}
