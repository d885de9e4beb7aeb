//! The document that registries send with an error.
//! Source: OCI distribution-spec § Error Codes.

use serde_json::json;

/// The document of one error.
pub(crate) fn document(code: &str, message: &str) -> String {
    json!({ "errors": [{ "code": code, "message": message, "detail": null }] }).to_string()
}

/// The message of an error response's body, in one line for a log.
///
/// Bodies are foreign text: control characters go, and length is bounded.
pub(crate) fn detail_of(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Document {
        #[serde(default)]
        errors: Vec<Entry>,
        details: Option<String>,
        error_description: Option<String>,
    }
    #[derive(serde::Deserialize)]
    struct Entry {
        #[serde(default)]
        code: serde_json::Value,
        #[serde(default)]
        message: Option<String>,
    }
    // Anything but the known form may echo what was sent, so it is not repeated.
    let Ok(document) = serde_json::from_slice::<Document>(body) else {
        return String::new();
    };
    let mut parts: Vec<String> = document
        .errors
        .iter()
        .take(4)
        .map(|entry| {
            let code = entry.code.as_str().unwrap_or_default();
            match entry.message.as_deref() {
                Some(message) if !code.is_empty() => format!("{code}: {message}"),
                Some(message) => message.to_owned(),
                None => code.to_owned(),
            }
        })
        .filter(|part| !part.is_empty())
        .collect();
    parts.extend(document.details);
    parts.extend(document.error_description);
    parts
        .join("; ")
        .chars()
        .filter(|c| !c.is_control())
        .take(400)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        assert_eq!(detail_of(document("DENIED", "no").as_bytes()), "DENIED: no");
    }

    #[test]
    fn an_error_body_becomes_one_short_line() {
        let body = br#"{"errors":[{"code":"DENIED","message":"no\nway"},{"code":"X"}]}"#;
        assert_eq!(detail_of(body), "DENIED: noway; X");
        assert_eq!(detail_of(b"<html>"), "");
        let long = format!(r#"{{"errors":[{{"message":"{}"}}]}}"#, "x".repeat(9000));
        assert_eq!(detail_of(long.as_bytes()).len(), 400);
    }
}
