//! JSON as containerd reads it, which is as Go's `encoding/json` does: more than RFC 8259 allows.
//!
//! Bytes that are no UTF-8 and halves of surrogate pairs become U+FFFD, of several equal keys the
//! last counts, and keys that are known are found whatever their case is.

use std::borrow::Cow;

use serde_json::{Map, Value};

/// Fields of manifests and indexes.
pub(crate) const MANIFEST: &[&str] = &[
    "schemaVersion",
    "mediaType",
    "artifactType",
    "config",
    "layers",
    "manifests",
    "subject",
];
/// Fields of descriptors.
pub(crate) const DESCRIPTOR: &[&str] = &[
    "mediaType",
    "digest",
    "size",
    "platform",
    "artifactType",
    "annotations",
    "data",
];
/// Fields of a descriptor's platform, and of the same in a config.
pub(crate) const PLATFORM: &[&str] = &["os", "architecture", "variant"];
/// Fields of image configs.
pub(crate) const CONFIG: &[&str] = &["os", "architecture", "variant", "rootfs"];
/// Fields of a config's `rootfs`.
pub(crate) const ROOT_FS: &[&str] = &["type", "diff_ids"];

/// Reads a JSON text.
///
/// # Errors
/// If it is none, also when repaired.
pub(crate) fn parse(bytes: &[u8]) -> Result<Value, serde_json::Error> {
    serde_json::from_slice(bytes).or_else(|error| {
        let repaired = repair(&String::from_utf8_lossy(bytes)).into_owned();
        serde_json::from_str(&repaired).map_err(|_| error)
    })
}

/// Renames known fields to their usual names. Of duplicate fields the last one counts.
pub(crate) fn name_fields(object: &mut Map<String, Value>, known: &[&str]) {
    let usual = |key: &str| known.iter().find(|name| is_same(key, name));
    if !object
        .keys()
        .any(|key| usual(key).is_some_and(|name| name != key))
    {
        return;
    }
    for (key, value) in std::mem::take(object) {
        let key = usual(&key).map_or(key.clone(), |name| (*name).to_owned());
        object.insert(key, value);
    }
}

/// Whether Go matches `key` to the field `name`, which is ASCII (`encoding/json`, `foldName`).
fn is_same(key: &str, name: &str) -> bool {
    let mut key = key.chars().map(|c| match c {
        'ſ' => 's',
        '\u{212a}' => 'k',
        c => c.to_ascii_lowercase(),
    });
    let mut name = name.chars().map(|c| c.to_ascii_lowercase());
    name.by_ref().all(|c| key.next() == Some(c)) && key.next().is_none()
}

/// Replaces escapes of halves of surrogate pairs.
fn repair(text: &str) -> Cow<'_, str> {
    let mut repaired = String::new();
    let mut taken = 0;
    let mut place = 0;
    // Outside of strings there are no backslashes in JSON.
    while let Some(found) = text.get(place..).and_then(|rest| rest.find('\\')) {
        let escape = place + found;
        let Some(unit) = unit(text, escape) else {
            place = escape + 2;
            if !text.is_char_boundary(place) {
                break;
            }
            continue;
        };
        let is_low = |unit: u16| (0xdc00..0xe000).contains(&unit);
        let is_pair =
            (0xd800..0xdc00).contains(&unit) && self::unit(text, escape + 6).is_some_and(is_low);
        if is_pair {
            place = escape + 12;
            continue;
        }
        place = escape + 6;
        if (0xd800..0xe000).contains(&unit) {
            repaired.push_str(text.get(taken..escape).unwrap_or_default());
            repaired.push_str("\\ufffd");
            taken = place;
        }
    }
    if taken == 0 {
        return Cow::Borrowed(text);
    }
    repaired.push_str(text.get(taken..).unwrap_or_default());
    Cow::Owned(repaired)
}

/// The code unit of an escape `\uXXXX` at `place`.
fn unit(text: &str, place: usize) -> Option<u16> {
    let digits = text.get(place..place + 6)?.strip_prefix("\\u")?;
    if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    u16::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn documents_that_go_accepts_are_parsed() {
        for (text, expected) in [
            (&br#"{"a":"\ud800"}"#[..], "\u{fffd}"),
            (br#"{"a":"\udc00\ud800x"}"#, "\u{fffd}\u{fffd}x"),
            (br#"{"a":"\ud83d\ude00\\ud800"}"#, "\u{1f600}\\ud800"),
            (br#"{"a":"\ud800\u0041"}"#, "\u{fffd}A"),
            (b"{\"a\":\"\xff\"}", "\u{fffd}"),
            (br#"{"a":1,"a":"last"}"#, "last"),
        ] {
            let value = parse(text).unwrap();
            assert_eq!(value["a"], expected, "{}", String::from_utf8_lossy(text));
        }
        for bad in [
            &b"{"[..],
            br#"{"a":"\ud80"}"#,
            b"{\"a\":\\ud800}",
            b"\xff{}",
        ] {
            assert!(parse(bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn known_fields_are_found_in_any_case_and_the_last_counts() {
        let mut value = parse(
            r#"{"MEDIATYPE":"a","x":1,"mediaType":"b","manifeſts":[],"Layers ":2}"#.as_bytes(),
        )
        .unwrap();
        let object = value.as_object_mut().unwrap();
        name_fields(object, MANIFEST);
        assert_eq!(object["mediaType"], "b");
        assert!(object["manifests"].is_array());
        assert_eq!(object.len(), 4);
        assert_eq!(object["Layers "], 2);
    }

    proptest! {
        #[test]
        fn repairing_never_panics_and_does_not_change_valid_json(text in "\\PC{0,20}(\\\\u[d0][8c]00|\\\\[u\\\\\"n]|x){0,6}\\PC{0,5}") {
            let _ = repair(&text);
            let good = serde_json::to_string(&text).unwrap();
            prop_assert_eq!(repair(&good).into_owned(), good);
        }
    }
}
