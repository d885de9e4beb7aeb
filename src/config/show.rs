//! The settings that hold, as a TOML file without secrets.

use std::fmt::Write as _;

use toml::{Table, Value};

use super::layers::{Layers, Origin, keys};

const HIDDEN: &str = "***";

/// The settings that hold, each with where it came from; passwords and tokens are replaced.
#[must_use]
pub fn show(layers: &Layers) -> String {
    let table = redacted(layers.table());
    let mut text = String::new();
    let mut upstreams = Vec::new();
    for key in keys().keys() {
        let Some(value) = table.get(key) else {
            let _ = writeln!(text, "# {key} = (not set)");
            continue;
        };
        if let Some(entries) = value.as_array().filter(|_| key == "upstream") {
            upstreams.clone_from(entries);
            continue;
        }
        let _ = write!(text, "{key} = {value}");
        let _ = match layers.origin(key) {
            Origin::Default => writeln!(text, "  # default"),
            Origin::File(path) => writeln!(text, "  # {}", path.display()),
            Origin::Environment => writeln!(text, "  # environment"),
            Origin::Flag => writeln!(text, "  # flag"),
        };
    }
    for entry in upstreams {
        let _ = writeln!(text, "\n[[upstream]]");
        match entry {
            Value::Table(entry) => {
                for (key, value) in entry {
                    let _ = writeln!(text, "{key} = {value}");
                }
            }
            other => {
                let _ = writeln!(text, "url = {other}");
            }
        }
    }
    text
}

fn redacted(table: &Table) -> Table {
    let hidden = |(key, value): (&String, &Value)| (key.clone(), redact(key, value));
    table.iter().map(hidden).collect()
}

fn redact(key: &str, value: &Value) -> Value {
    match (key, value) {
        ("user" | "push-user", Value::String(text)) => match text.split_once(':') {
            Some((name, _)) => format!("{name}:{HIDDEN}").into(),
            None => text.clone().into(),
        },
        ("refresh", _) => HIDDEN.into(),
        ("url", Value::String(text)) => hide_in_address(text).into(),
        ("dbstr", Value::String(text)) => without_password(text).into(),
        ("upstream", Value::Array(entries)) => entries
            .iter()
            .map(|entry| match entry {
                Value::Table(entry) => Value::Table(redacted(entry)),
                Value::String(text) => Value::String(hide_in_text(text)),
                other => other.clone(),
            })
            .collect::<Vec<_>>()
            .into(),
        _ => value.clone(),
    }
}

/// A connection text without what stands between the first `:` and the last `@`, both of the
/// part before the last `/` (github.com/go-sql-driver/mysql, README § DSN).
fn without_password(dsn: &str) -> String {
    let end = dsn.rfind('/').unwrap_or(dsn.len());
    let (account, rest) = dsn.split_at(end);
    match account.rfind('@') {
        Some(at) => match account[..at].split_once(':') {
            Some((user, _)) => format!("{user}:{HIDDEN}{}{rest}", &account[at..]),
            None => dsn.to_owned(),
        },
        None => dsn.to_owned(),
    }
}

/// An upstream as a flag has it, without its password.
fn hide_in_text(text: &str) -> String {
    let part = |part: &str| match part.split_once('=') {
        Some(("user", value)) => match value.split_once(':') {
            Some((name, _)) => format!("user={name}:{HIDDEN}"),
            None => part.to_owned(),
        },
        Some(("refresh", _)) => format!("refresh={HIDDEN}"),
        _ => part.to_owned(),
    };
    hide_in_address(&text.split(',').map(part).collect::<Vec<_>>().join(","))
}

/// Credentials do not belong there, but whoever wrote them does not want them shown.
fn hide_in_address(text: &str) -> String {
    let address = text.split(',').next().unwrap_or_default();
    match (text.find("://"), address.rfind('@')) {
        (Some(scheme), Some(at)) if scheme < at => {
            format!("{}{HIDDEN}{}", &text[..scheme + 3], &text[at..])
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_is_shown() {
        for (key, written, shown) in [
            ("user", "me:secret:too", "me:***"),
            ("push-user", "me:secret", "me:***"),
            ("refresh", "secret", "***"),
            (
                "dbstr",
                "u:se@cr:et@tcp(h:3306)/db?tls=true",
                "u:***@tcp(h:3306)/db?tls=true",
            ),
            (
                "dbstr",
                "u@unix(/run/my.sock)/db",
                "u@unix(/run/my.sock)/db",
            ),
            ("dbstr", "u:sec/ret@tcp(h)/db", "u:***@tcp(h)/db"),
            ("data-dir", "/a:b@c", "/a:b@c"),
            ("url", "https://me:secret@c.io", "https://***@c.io"),
        ] {
            assert_eq!(
                redact(key, &written.into()).as_str(),
                Some(shown),
                "{written}"
            );
        }
        let entries: Table =
            "upstream = ['r.io,user=me:secret,refresh=secret', {user = 'me:secret'}]"
                .parse()
                .unwrap();
        let shown = redacted(&entries).to_string();
        assert!(
            !shown.contains("secret") && shown.contains("me:***"),
            "{shown}"
        );
    }
}
