//! What stands in a layer's tar beside its headers: pax records and their values.
//! Source: POSIX.1-2001 § pax; where it leaves a choice, Go's `archive/tar`.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};

use super::tree::{Time, Xattrs};

/// Pax records; of those with one key the last counts.
#[derive(Debug, Default)]
pub(super) struct Records(BTreeMap<Vec<u8>, Vec<u8>>);

impl Records {
    /// The value of a key; an empty one is none.
    pub(super) fn get(&self, key: &[u8]) -> Option<&[u8]> {
        let value = self.0.get(key).map(Vec::as_slice);
        value.filter(|value| !value.is_empty())
    }

    /// A number, where there is one.
    pub(super) fn number(&self, key: &[u8]) -> io::Result<Option<i64>> {
        self.get(key).map(decimal).transpose()
    }

    /// Attributes, which containerd takes from `SCHILY.xattr.NAME` and nowhere else.
    pub(super) fn xattrs(&self) -> Xattrs {
        let named = self.0.iter().filter_map(|(key, value)| {
            let name = key.strip_prefix(b"SCHILY.xattr.")?;
            Some((name.into(), value.as_slice().into()))
        });
        named.collect()
    }
}

pub(super) fn bad(text: impl Into<String>) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, text.into())
}

pub(super) fn until_nul(bytes: &[u8]) -> Vec<u8> {
    bytes
        .iter()
        .copied()
        .take_while(|byte| *byte != 0)
        .collect()
}

/// Decimal digits with or without a sign.
pub(super) fn decimal(text: &[u8]) -> io::Result<i64> {
    let number = std::str::from_utf8(text)
        .ok()
        .and_then(|text| text.parse().ok());
    number.ok_or_else(|| bad(format!("{:?} is no number", String::from_utf8_lossy(text))))
}

pub(super) fn length(number: i64) -> io::Result<u64> {
    u64::try_from(number).map_err(|_| bad(format!("a length of {number}")))
}

/// What `chown` makes of an id: its lower 32 bits, and all ones leave what is there.
pub(super) fn owner(number: i64) -> Option<u32> {
    let id = u32::try_from(number & i64::from(u32::MAX)).ok();
    id.filter(|id| *id != u32::MAX)
}

/// Seconds with decimals, cut off behind nanoseconds.
pub(super) fn time(text: &[u8]) -> io::Result<Time> {
    let wrong = || bad(format!("{:?} is no time", String::from_utf8_lossy(text)));
    let whole = std::str::from_utf8(text).map_err(|_| wrong())?;
    let (secs, fraction) = whole.split_once('.').unwrap_or((whole, ""));
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    let is_negative = secs.starts_with('-');
    let secs: i64 = secs.parse().map_err(|_| wrong())?;
    let nanos: u32 = format!("{fraction:0<9.9}").parse().map_err(|_| wrong())?;
    Ok(match nanos {
        1.. if is_negative => Time {
            secs: secs.checked_sub(1).ok_or_else(wrong)?,
            nanos: 1_000_000_000 - nanos,
        },
        _ => Time { secs, nanos },
    })
}

/// `LENGTH KEY=VALUE\n`, one after the other; most values may hold anything.
pub(super) fn pax(mut bytes: &[u8]) -> io::Result<Records> {
    let mut records = Records::default();
    // Sparse files of version 0.0 repeat two keys.
    let mut map: Vec<&[u8]> = Vec::new();
    while !bytes.is_empty() {
        let (key, value, rest) = record(bytes).ok_or_else(|| bad("damaged pax records"))?;
        let is_offset = key == b"GNU.sparse.offset";
        if is_offset || key == b"GNU.sparse.numbytes" {
            if is_offset != map.len().is_multiple_of(2) || value.contains(&b',') {
                return Err(bad(
                    "a sparse map whose offsets and lengths do not alternate",
                ));
            }
            map.push(value);
        } else {
            records.0.insert(key.to_vec(), value.to_vec());
        }
        bytes = rest;
    }
    if !map.is_empty() {
        let key = b"GNU.sparse.map".to_vec();
        records.0.insert(key, map.join(&b','));
    }
    Ok(records)
}

/// Key and value of the first record, and what follows it.
fn record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let digits = bytes.iter().position(|byte| *byte == b' ')?;
    let len = decimal(bytes.get(..digits)?).ok()?;
    let (record, rest) = bytes.split_at_checked(usize::try_from(len).ok()?)?;
    let record = record.get(digits + 1..)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    let (key, value) = record.split_at(equals);
    let value = value.get(1..)?;
    let is_name = matches!(key, b"path" | b"linkpath" | b"uname" | b"gname");
    if key.is_empty() || key.contains(&0) || (is_name && value.contains(&0)) {
        return None;
    }
    Some((key, value, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_parsed_as_in_go() {
        for (text, expected) in [
            ("7", Some((7, 0))),
            ("+7.5", Some((7, 500_000_000))),
            ("5.", Some((5, 0))),
            ("-1.5", Some((-2, 500_000_000))),
            ("-0.25", Some((-1, 750_000_000))),
            ("1.1234567899", Some((1, 123_456_789))),
            (".5", None),
            ("-", None),
            ("1e9", None),
            ("1.-5", None),
        ] {
            let found = time(text.as_bytes()).ok();
            let found = found.map(|time| (time.secs, time.nanos));
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn owners_are_cut_to_32_bits_as_by_chown() {
        for (number, expected) in [
            (7, Some(7)),
            (-1, None),
            (4_294_967_295, None),
            (-2, Some(4_294_967_294)),
            (4_294_967_300, Some(4)),
            (i64::MAX, None),
        ] {
            assert_eq!(owner(number), expected, "{number}");
        }
    }
}
