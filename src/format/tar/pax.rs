//! PAX extended headers: the records and what they say of the next entry.
//!
//! Only what Go's `archive/tar` and containerd take from them: attributes come in
//! `SCHILY.xattr.*`; access lists as text (`SCHILY.acl.*`), attributes in base 64
//! (`LIBARCHIVE.xattr.*`) and device numbers (`SCHILY.dev*`) are records as any other.

use super::Timestamp;
use super::error::{Problem, excerpt};
use super::number::decimal;
use super::sparse::PaxSparse;

/// Far more than any filesystem keeps for a file; the search among them is linear.
const MAX_XATTRS: usize = 1024;

/// What PAX records say; `None` where they say nothing. Of several for one key the last
/// counts, and the ones before may say anything.
#[derive(Debug, Clone, Default)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link_path: Option<Vec<u8>>,
    size: Option<Vec<u8>>,
    uid: Option<Vec<u8>>,
    gid: Option<Vec<u8>>,
    mtime: Option<Vec<u8>>,
    /// star's length of a sparse file with its holes.
    real_size: Option<Vec<u8>>,
    /// Full names and values, in the order they came; a later one counts.
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) sparse: PaxSparse,
}

impl Pax {
    /// A block of records `LENGTH KEY=VALUE\n` (POSIX.1-2001 § pax Extended Header).
    ///
    /// An empty value says nothing, so that the header's own field counts. What the values
    /// mean is looked at when they are asked for.
    pub(super) fn parse(mut block: &[u8]) -> Result<Self, Problem> {
        let mut pax = Self::default();
        while !block.is_empty() {
            let record = split_record(block)?;
            pax.set(record.key, record.value)?;
            block = record.rest;
        }
        Ok(pax)
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), Problem> {
        let given = (!value.is_empty()).then(|| value.to_vec());
        match key {
            b"path" | b"linkpath" | b"uname" | b"gname" if value.contains(&0) => {
                return Err(Problem::Pax(format!("{} contains a NUL", excerpt(key))));
            }
            b"path" => self.path = given,
            b"linkpath" => self.link_path = given,
            b"size" => self.size = given,
            b"uid" => self.uid = given,
            b"gid" => self.gid = given,
            b"mtime" => self.mtime = given,
            b"SCHILY.realsize" => self.real_size = given,
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.set_xattr(name.to_vec(), value.to_vec())?;
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

    pub(super) fn size(&self) -> Result<Option<i64>, Problem> {
        number("size", self.size.as_deref())
    }

    pub(super) fn uid(&self) -> Result<Option<i64>, Problem> {
        number("uid", self.uid.as_deref())
    }

    pub(super) fn gid(&self) -> Result<Option<i64>, Problem> {
        number("gid", self.gid.as_deref())
    }

    pub(super) fn real_size(&self) -> Result<Option<i64>, Problem> {
        number("SCHILY.realsize", self.real_size.as_deref())
    }

    pub(super) fn mtime(&self) -> Result<Option<Timestamp>, Problem> {
        self.mtime.as_deref().map(time).transpose()
    }
}

fn number(field: &'static str, value: Option<&[u8]>) -> Result<Option<i64>, Problem> {
    value.map(|value| decimal(field, value)).transpose()
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
    let secs = decimal("mtime", whole).map_err(|_| wrong())?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn merged(block: &[u8]) -> Result<Pax, Problem> {
        Pax::parse(block)
    }

    #[test]
    fn a_record_begins_with_its_length() {
        let pax = merged(b"12 path=abc\n+15 uid=123456\n000013 gid=7\n").unwrap();
        assert_eq!(pax.path.as_deref(), Some(&b"abc"[..]));
        assert_eq!(pax.uid().unwrap(), Some(123_456));
        assert_eq!(pax.gid().unwrap(), Some(7));
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
    fn an_empty_value_removes_a_record() {
        let pax = merged(b"12 path=abc\n8 path=\n").unwrap();
        assert_eq!(pax.path, None);
    }

    #[test]
    fn of_repeated_records_only_the_last_is_parsed() {
        let pax = merged(b"11 uid=odd\n8 uid=7\n11 gid=odd\n").unwrap();
        assert_eq!(pax.uid().unwrap(), Some(7));
        assert!(pax.gid().is_err());
        assert_eq!(pax.size().unwrap(), None);
    }

    #[test]
    fn numbers_have_signs_and_63_bits() {
        for (text, value) in [
            ("5", Some(5)),
            ("+5", Some(5)),
            ("-5", Some(-5)),
            ("-9223372036854775808", Some(i64::MIN)),
            ("9223372036854775808", None),
            ("", None),
            ("+", None),
            ("-", None),
            ("+-5", None),
            ("--5", None),
            (" 5", None),
            ("0x5", None),
        ] {
            assert_eq!(decimal("uid", text.as_bytes()).ok(), value, "{text}");
        }
    }

    #[test]
    fn times_have_signs_and_fractions() {
        for (text, secs, nanos) in [
            ("0", 0, 0),
            ("1700000000.123456789", 1_700_000_000, 123_456_789),
            ("1.5", 1, 500_000_000),
            ("1.", 1, 0),
            ("+7.25", 7, 250_000_000),
            ("-1", -1, 0),
            ("-1.5", -2, 500_000_000),
            ("-0.25", -1, 750_000_000),
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
            ".25",
            "-.25",
        ] {
            assert!(time(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn attributes_are_those_that_go_reads() {
        let mut block = b"30 SCHILY.xattr.user.a=x=\ny\0z\n".to_vec();
        block.extend_from_slice(b"36 LIBARCHIVE.xattr.user.%62=aGVqCg\n");
        block.extend_from_slice(b"30 LIBARCHIVE.xattr.user.c=?!\n");
        block.extend_from_slice(b"32 SCHILY.acl.access=user::rw-,\n");
        let pax = merged(&block).unwrap();
        assert_eq!(pax.xattrs, [(b"user.a".to_vec(), b"x=\ny\0z".to_vec())]);
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
