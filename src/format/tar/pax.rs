//! PAX extended headers: the records and what they say of the next entry.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::Timestamp;
use super::error::{Problem, excerpt};
use super::sparse::PaxSparse;

/// Far more than any filesystem keeps for a file; the search among them is linear.
const MAX_XATTRS: usize = 1024;

/// What PAX records say; `None` where they say nothing.
#[derive(Debug, Clone, Default)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link_path: Option<Vec<u8>>,
    pub(super) size: Option<i64>,
    pub(super) uid: Option<i64>,
    pub(super) gid: Option<i64>,
    pub(super) mtime: Option<Timestamp>,
    pub(super) dev_major: Option<i64>,
    pub(super) dev_minor: Option<i64>,
    /// star's length of a sparse file with its holes.
    pub(super) real_size: Option<i64>,
    pub(super) acl_access: Option<Vec<u8>>,
    pub(super) acl_default: Option<Vec<u8>>,
    /// Full names and values, in the order they came; a later one counts.
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) sparse: PaxSparse,
}

impl Pax {
    /// Takes in a block of records `LENGTH KEY=VALUE\n` (POSIX.1-2001 § pax Extended Header).
    ///
    /// An empty value takes the key back, so that the header's own field counts.
    pub(super) fn merge(&mut self, mut block: &[u8]) -> Result<(), Problem> {
        while !block.is_empty() {
            let record = split_record(block)?;
            self.set(record.key, record.value)?;
            block = record.rest;
        }
        Ok(())
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), Problem> {
        let given = !value.is_empty();
        match key {
            b"path" => self.path = given.then(|| name(key, value)).transpose()?,
            b"linkpath" => self.link_path = given.then(|| name(key, value)).transpose()?,
            b"size" => self.size = given.then(|| decimal("size", value)).transpose()?,
            b"uid" => self.uid = given.then(|| decimal("uid", value)).transpose()?,
            b"gid" => self.gid = given.then(|| decimal("gid", value)).transpose()?,
            b"mtime" => self.mtime = given.then(|| time(value)).transpose()?,
            b"SCHILY.devmajor" => {
                self.dev_major = given
                    .then(|| decimal("SCHILY.devmajor", value))
                    .transpose()?;
            }
            b"SCHILY.devminor" => {
                self.dev_minor = given
                    .then(|| decimal("SCHILY.devminor", value))
                    .transpose()?;
            }
            b"SCHILY.realsize" => {
                self.real_size = given
                    .then(|| decimal("SCHILY.realsize", value))
                    .transpose()?;
            }
            b"SCHILY.acl.access" => self.acl_access = given.then(|| value.to_vec()),
            b"SCHILY.acl.default" => self.acl_default = given.then(|| value.to_vec()),
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.set_xattr(name.to_vec(), value.to_vec())?;
                } else if let Some(name) = key.strip_prefix(b"LIBARCHIVE.xattr.") {
                    let name = percent_decoded(name);
                    // bsdtar writes each attribute both ways; the plain one needs no decoding.
                    if !self.xattrs.iter().any(|(known, _)| *known == name) {
                        self.set_xattr(name, base64_decoded(value)?)?;
                    }
                } else if let Some(field) = key.strip_prefix(b"GNU.sparse.") {
                    self.sparse.set(field, value)?;
                }
            }
        }
        Ok(())
    }

    fn set_xattr(&mut self, name: Vec<u8>, value: Vec<u8>) -> Result<(), Problem> {
        if let Some((_, old)) = self.xattrs.iter_mut().find(|(known, _)| *known == name) {
            *old = value;
        } else if self.xattrs.len() < MAX_XATTRS {
            self.xattrs.push((name, value));
        } else {
            return Err(Problem::Pax(format!("over {MAX_XATTRS} attributes")));
        }
        Ok(())
    }
}

struct Record<'a> {
    key: &'a [u8],
    value: &'a [u8],
    /// What follows the record.
    rest: &'a [u8],
}

/// The first record of a block.
fn split_record(block: &[u8]) -> Result<Record<'_>, Problem> {
    let wrong = |why: &str| Problem::Pax(format!("{why}, at {:?}", excerpt(block)));
    let space = block
        .iter()
        .take(20)
        .position(|&byte| byte == b' ')
        .ok_or_else(|| wrong("a record does not start with its length"))?;
    let (digits, _) = block.split_at(space);
    let length = decimal("record length", digits)
        .ok()
        .and_then(|length| usize::try_from(length).ok())
        .ok_or_else(|| wrong("a record does not start with its length"))?;
    let record = block
        .get(..length)
        .ok_or_else(|| wrong("a record is longer than the block it is in"))?;
    let body = record
        .get(space + 1..)
        .and_then(|body| body.strip_suffix(b"\n"))
        .ok_or_else(|| wrong("a record does not end where its length says"))?;
    let equals = body
        .iter()
        .position(|&byte| byte == b'=')
        .ok_or_else(|| wrong("a record has no '='"))?;
    let (key, value) = (&body[..equals], &body[equals + 1..]);
    if key.is_empty() || key.contains(&0) {
        return Err(wrong("a record has no usable key"));
    }
    let rest = block.get(length..).unwrap_or_default();
    Ok(Record { key, value, rest })
}

pub(super) fn name(key: &[u8], value: &[u8]) -> Result<Vec<u8>, Problem> {
    if value.contains(&0) {
        return Err(Problem::Pax(format!("{} contains a NUL", excerpt(key))));
    }
    Ok(value.to_vec())
}

/// A decimal number that fits 63 bits, maybe negative.
pub(super) fn decimal(field: &'static str, value: &[u8]) -> Result<i64, Problem> {
    let digits = value.strip_prefix(b"-").unwrap_or(value);
    std::str::from_utf8(value)
        .ok()
        .filter(|_| !digits.is_empty() && digits.iter().all(u8::is_ascii_digit))
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| Problem::Number {
            field,
            text: excerpt(value),
        })
}

/// Seconds with a fraction of any length; beyond nanoseconds it is cut off.
fn time(value: &[u8]) -> Result<Timestamp, Problem> {
    let wrong = || Problem::Number {
        field: "mtime",
        text: excerpt(value),
    };
    let (whole, fraction) = match value.iter().position(|&byte| byte == b'.') {
        Some(dot) => (&value[..dot], &value[dot + 1..]),
        None => (value, &[][..]),
    };
    if !fraction.iter().all(u8::is_ascii_digit) {
        return Err(wrong());
    }
    let negative = whole.first() == Some(&b'-');
    let secs = match whole {
        b"" | b"-" if !fraction.is_empty() => 0,
        _ => decimal("mtime", whole).map_err(|_| wrong())?,
    };
    let digits = fraction.iter().map(|digit| u32::from(digit - b'0'));
    let nanos = digits
        .chain(std::iter::repeat(0))
        .take(9)
        .fold(0, |nanos, digit| nanos * 10 + digit);
    if negative && nanos > 0 {
        Ok(Timestamp {
            secs: secs.checked_sub(1).ok_or_else(wrong)?,
            nanos: 1_000_000_000 - nanos,
        })
    } else {
        Ok(Timestamp { secs, nanos })
    }
}

/// libarchive writes the odd bytes of an attribute's name as `%41`.
fn percent_decoded(name: &[u8]) -> Vec<u8> {
    percent_encoding::percent_decode(name).collect()
}

/// libarchive writes base64 without padding; others with.
fn base64_decoded(value: &[u8]) -> Result<Vec<u8>, Problem> {
    let config =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    GeneralPurpose::new(&alphabet::STANDARD, config)
        .decode(value)
        .map_err(|error| Problem::Pax(format!("LIBARCHIVE.xattr: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn merged(block: &[u8]) -> Result<Pax, Problem> {
        let mut pax = Pax::default();
        pax.merge(block).map(|()| pax)
    }

    #[test]
    fn a_record_says_its_own_length() {
        let pax = merged(b"12 path=abc\n14 uid=123456\n").unwrap();
        assert_eq!(pax.path.as_deref(), Some(&b"abc"[..]));
        assert_eq!(pax.uid, Some(123_456));
        for lie in [
            &b"11 path=abc\n"[..],
            b"13 path=abc\n",
            b"999999999999999999999 path=abc\n",
            b"-12 path=abc\n",
            b" path=abc\n",
            b"12 pathabcd\n",
            b"9 =abcd\n\n",
            b"0 path=abc\n",
            b"2 path=abc\n",
            b"12 path=abc\n\0\0\0",
            b"12 path=a\0c\n",
            b"12 path",
        ] {
            assert!(merged(lie).is_err(), "{:?}", String::from_utf8_lossy(lie));
        }
    }

    #[test]
    fn an_empty_value_takes_a_record_back() {
        let pax = merged(b"12 path=abc\n8 path=\n").unwrap();
        assert_eq!(pax.path, None);
    }

    #[test]
    fn times_have_signs_and_fractions() {
        for (text, secs, nanos) in [
            ("0", 0, 0),
            ("1700000000.123456789", 1_700_000_000, 123_456_789),
            ("1.5", 1, 500_000_000),
            ("1.", 1, 0),
            (".25", 0, 250_000_000),
            ("-1", -1, 0),
            ("-1.5", -2, 500_000_000),
            ("-0.25", -1, 750_000_000),
            ("-.25", -1, 750_000_000),
            ("3.1234567899999", 3, 123_456_789),
            ("99999999999999", 99_999_999_999_999, 0),
        ] {
            assert_eq!(
                time(text.as_bytes()).unwrap(),
                Timestamp { secs, nanos },
                "{text}"
            );
        }
        for text in [
            "",
            ".",
            "-",
            "1e9",
            "1.-5",
            "1.5.5",
            "9223372036854775808",
            "+1",
        ] {
            assert!(time(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn attributes_come_in_plain_or_in_base_64() {
        let mut block = b"30 SCHILY.xattr.user.a=x=\ny\0z\n".to_vec();
        block.extend_from_slice(b"36 LIBARCHIVE.xattr.user.%62=aGVqCg\n");
        block.extend_from_slice(b"34 LIBARCHIVE.xattr.user.a=aGVqCg\n");
        let pax = merged(&block).unwrap();
        assert_eq!(
            pax.xattrs,
            [
                (b"user.a".to_vec(), b"x=\ny\0z".to_vec()),
                (b"user.b".to_vec(), b"hej\n".to_vec()),
            ]
        );
    }

    proptest! {
        #[test]
        fn no_block_makes_the_parser_panic(block in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = merged(&block);
        }

        #[test]
        fn damaged_records_do_not_make_the_parser_panic(
            place in 0usize..60, byte: u8, cut in 0usize..60
        ) {
            let mut block =
                b"12 path=abc\n30 mtime=-1700000000.12345678\n18 GNU.sparse.major=1\n".to_vec();
            block[place] = byte;
            let _ = merged(&block[cut..]);
        }
    }
}
