//! The settings that hold, as a TOML file without secrets.

use std::fmt::Write as _;

use toml::{Table, Value};

use super::keys::file_keys;
use super::options::upstream_keys;
use super::origin::Origin;
use super::sources::Sources;
use crate::oci::reference::shown_address;
use crate::registry::EgressProxy;
use crate::store::Dsn;

const HIDDEN: &str = "***";

/// The settings that hold, each with where it came from; passwords and tokens are replaced.
#[must_use]
pub fn show(sources: &Sources) -> String {
    let table = redacted(sources.table());
    let mut text = String::new();
    let mut tables = Vec::new();
    for key in file_keys().keys() {
        let Some(value) = table.get(key) else {
            let _ = writeln!(text, "# {key} = (not set)");
            continue;
        };
        if let Some(entries) = value
            .as_array()
            .filter(|_| matches!(key.as_str(), "upstream" | "policy"))
        {
            tables.extend(entries.iter().map(|entry| (key, entry.clone())));
            continue;
        }
        let _ = write!(text, "{key} = {value}");
        let _ = match sources.origin(key) {
            Origin::Default => writeln!(text, "  # default"),
            Origin::File(path) => writeln!(text, "  # {}", path.display()),
            Origin::Environment => writeln!(text, "  # environment"),
            Origin::Flag => writeln!(text, "  # flag"),
        };
    }
    for (table, entry) in tables {
        let _ = writeln!(text, "\n[[{table}]]");
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
    // Only there is a name without a password one.
    let is_name = table.contains_key("password-file");
    let hidden = |(key, value): (&String, &Value)| {
        let value = match (key.as_str(), value) {
            ("user", Value::String(text)) if is_name && !text.contains(':') => value.clone(),
            _ => redact(key, value),
        };
        (key.clone(), value)
    };
    table.iter().map(hidden).collect()
}

fn redact(key: &str, value: &Value) -> Value {
    match (key, value) {
        ("user" | "push-user", Value::String(text)) => hide_password(text).into(),
        ("user" | "push-user" | "refresh" | "dbstr", value) if !value.is_str() => HIDDEN.into(),
        ("egress-proxy", Value::String(text)) => hide_login(text).into(),
        ("webhook", Value::String(text)) => hide_path(text).into(),
        ("webhook", Value::Array(entries)) => entries
            .iter()
            .map(|entry| match entry {
                Value::String(text) => hide_path(text),
                _ => HIDDEN.to_owned(),
            })
            .collect::<Vec<_>>()
            .into(),
        ("otlp-endpoint", Value::String(text)) => hide_query(text).into(),
        ("refresh" | "egress-proxy" | "webhook" | "otlp-headers" | "otlp-endpoint", _) => {
            HIDDEN.into()
        }
        ("url" | "blob-store" | "blob-store-endpoint", Value::String(text)) => {
            shown_address(text).into()
        }
        ("push-repo", Value::String(text)) if text.contains(['@', ':']) => {
            shown_address(text).into()
        }
        // A text that was mistyped may have its password anywhere.
        ("dbstr", Value::String(text)) => text
            .parse::<Dsn>()
            .map_or_else(|_| HIDDEN.to_owned(), |dsn| dsn.without_password())
            .into(),
        ("upstream", Value::Array(entries)) => entries
            .iter()
            .map(|entry| match entry {
                Value::Table(entry) => Value::Table(redacted(entry)),
                Value::String(text) => Value::String(hide_in_text(text)),
                _ => HIDDEN.into(),
            })
            .collect::<Vec<_>>()
            .into(),
        _ => value.clone(),
    }
}

/// The scheme and the host of an address: what is behind them may be a secret.
fn hide_path(text: &str) -> String {
    match url::Url::parse(text).map(|url| url.origin()) {
        Ok(origin) if origin.is_tuple() => {
            format!("{}/{HIDDEN}", origin.ascii_serialization())
        }
        _ => HIDDEN.to_owned(),
    }
}

/// A collector's address without its query and login, where some services have their key.
fn hide_query(text: &str) -> String {
    match url::Url::parse(text) {
        Ok(url) if url.origin().is_tuple() => {
            let origin = url.origin().ascii_serialization();
            let query = url.query().map(|_| format!("?{HIDDEN}"));
            format!("{origin}{}{}", url.path(), query.unwrap_or_default())
        }
        _ => HIDDEN.to_owned(),
    }
}

/// `NAME:PASSWORD` without the password.
fn hide_password(text: &str) -> String {
    match text.split_once(':') {
        Some((name, _)) => format!("{name}:{HIDDEN}"),
        None => HIDDEN.to_owned(),
    }
}

/// An egress proxy without its credentials. What is none may be a password.
fn hide_login(text: &str) -> String {
    match text.parse::<EgressProxy>() {
        _ if matches!(text, "" | "none" | "off") => text.to_owned(),
        Ok(proxy) if text.contains('@') => {
            let proxy = proxy.to_string();
            proxy.replacen("://", &format!("://{HIDDEN}@"), 1)
        }
        Ok(proxy) => proxy.to_string(),
        Err(_) => HIDDEN.to_owned(),
    }
}

/// An upstream as a flag has it, without its password. What no setting begins with may be a
/// password's rest, behind a comma in it.
fn hide_in_text(text: &str) -> String {
    let mut parts = text.split(',');
    let address = shown_address(parts.next().unwrap_or_default());
    let key = |part: &str| part.split_once('=').map_or(part, |(key, _)| key).to_owned();
    let is_cut = parts
        .clone()
        .any(|part| !upstream_keys().contains_key(&key(part)));
    let part = |part: &str| match part.split_once('=') {
        Some(("user", value)) => format!("user={}", hide_password(value)),
        Some(("refresh", _)) => format!("refresh={HIDDEN}"),
        // The first part of a password looks like a port.
        Some(("egress-proxy", _)) if is_cut => format!("egress-proxy={HIDDEN}"),
        Some(("egress-proxy", value)) => format!("egress-proxy={}", hide_login(value)),
        Some((key, _)) if upstream_keys().contains_key(key) => part.to_owned(),
        None if upstream_keys().contains_key(part) => part.to_owned(),
        _ => HIDDEN.to_owned(),
    };
    let parts: Vec<String> = std::iter::once(address).chain(parts.map(part)).collect();
    parts.join(",")
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
            ("user", "secret", "***"),
            (
                "webhook",
                "https://me:secret@hooks.io:444/secret?secret",
                "https://hooks.io:444/***",
            ),
            ("webhook", "secret:", "***"),
            ("otlp-headers", "api-key=secret", "***"),
            (
                "otlp-endpoint",
                "https://me:secret@c.io:4318/x?key=secret",
                "https://c.io:4318/x?***",
            ),
            ("otlp-endpoint", "http://c.io:4318", "http://c.io:4318/"),
            ("otlp-endpoint", "secret", "***"),
            (
                "dbstr",
                "u:se@cr:et@tcp(h:3306)/db?tls=true",
                "u@tcp(h:3306)/db",
            ),
            (
                "dbstr",
                "u@unix(/run/my.sock)/db",
                "u@unix(/run/my.sock)/db",
            ),
            ("dbstr", "u:sec/ret@tcp(h)/db", "u@tcp(h:3306)/db"),
            ("dbstr", "u:sec/ret", "***"),
            ("dbstr", "secret", "***"),
            (
                "egress-proxy",
                "http://me:secret@p.io:1",
                "http://***@p.io:1",
            ),
            ("egress-proxy", "http://p.io:1", "http://p.io:1"),
            ("egress-proxy", "http://me:secret", "***"),
            ("egress-proxy", "none", "none"),
            ("data-dir", "/a:b@c", "/a:b@c"),
            ("url", "https://me:secret@c.io", "https://***@c.io"),
            ("url", "me:secret", "***"),
            ("blob-store", "s3://images/obd", "s3://images/obd"),
            ("blob-store", "s3://me:secret@images", "s3://***@images"),
            (
                "blob-store-endpoint",
                "https://me:secret@s.io:1",
                "https://***@s.io:1",
            ),
            ("push-repo", "team/obd", "team/obd"),
            ("push-repo", "http://r.io:5000/x", "http://r.io:5000/x"),
            (
                "push-repo",
                "https://me:secret@r.io/x",
                "https://***@r.io/x",
            ),
        ] {
            assert_eq!(
                redact(key, &written.into()).as_str(),
                Some(shown),
                "{written}"
            );
        }
        let entries: Table =
            "upstream = ['r.io,user=me:secret,refresh=secret', {user = 'me:secret'},
                 'r.io,user=me:a,secret,attempts=3', {user = 'secret'}, 'me:secret@https://r.io',
                 'r.io,egress-proxy=http://me:secret@p.io', {egress-proxy = 'http://secret@p.io'},
                 'r.io,egress-proxy=http://me:7734,secret@p.io']"
                .parse()
                .unwrap();
        let shown = redacted(&entries).to_string();
        assert!(
            !shown.contains("secret") && shown.contains("me:***"),
            "{shown}"
        );
        assert!(shown.contains("r.io,user=me:***,***,attempts=3"), "{shown}");
        assert!(
            shown.contains("r.io,egress-proxy=http://***@p.io"),
            "{shown}"
        );
        assert!(!shown.contains("7734"), "{shown}");
        let named: Table = "user = 'me'\npassword-file = '/x'".parse().unwrap();
        assert_eq!(redacted(&named), named);
    }
}
