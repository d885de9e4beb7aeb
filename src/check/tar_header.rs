//! A header block of a tar: where its fields are and what their numbers mean.
//! Source: POSIX.1-1988 ustar; GNU tar manual § "Basic Tar Format"; where they leave a
//! choice, Go's `archive/tar`, with which containerd and umoci read layers.

use std::io;

use super::tar_fields::{bad, until_nul};

pub(super) const BLOCK: usize = 512;

/// A field by its place and length.
type Field = (usize, usize);

const NAME: Field = (0, 100);
const MODE: Field = (100, 8);
const UID: Field = (108, 8);
const GID: Field = (116, 8);
const SIZE: Field = (124, 12);
const MTIME: Field = (136, 12);
const CHECK_SUM: Field = (148, 8);
const KIND: usize = 156;
const LINK: Field = (157, 100);
const MAGIC: Field = (257, 8);
const MAJOR: Field = (329, 8);
const MINOR: Field = (337, 8);
const PREFIX: Field = (345, 155);
const STAR_PREFIX: Field = (345, 131);
const STAR_TRAILER: Field = (508, 4);
const GNU_ATIME: Field = (345, 12);
const GNU_CTIME: Field = (357, 12);
const GNU_SPARSE: Field = (386, 96);
const GNU_IS_EXTENDED: Field = (482, 1);
const GNU_REAL_SIZE: Field = (483, 12);

/// Who wrote the header, by its magic.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Dialect {
    V7,
    Ustar,
    Star,
    Gnu,
}

/// A header whose checksum is right.
pub(super) struct Header<'a> {
    block: &'a [u8; BLOCK],
    dialect: Dialect,
}

impl<'a> Header<'a> {
    pub(super) fn new(block: &'a [u8; BLOCK]) -> io::Result<Self> {
        let mut header = Self {
            block,
            dialect: Dialect::V7,
        };
        let stated = octal(header.field(CHECK_SUM))?;
        let (at, len) = CHECK_SUM;
        let (mut unsigned, mut signed) = (0i64, 0i64);
        for (place, &byte) in block.iter().enumerate() {
            let is_sum = (at..at + len).contains(&place);
            let byte = if is_sum { b' ' } else { byte };
            unsigned += i64::from(byte);
            // Old Sun tars summed so.
            signed += i64::from(byte.cast_signed());
        }
        if stated != unsigned && stated != signed {
            return Err(bad("a header with a wrong checksum"));
        }
        let magic = header.field(MAGIC);
        header.dialect = if magic == b"ustar  \0" {
            Dialect::Gnu
        } else if !magic.starts_with(b"ustar\0") {
            Dialect::V7
        } else if header.field(STAR_TRAILER) == b"tar\0" {
            Dialect::Star
        } else {
            Dialect::Ustar
        };
        Ok(header)
    }

    fn field(&self, (at, len): Field) -> &'a [u8] {
        self.block.get(at..at + len).unwrap_or_default()
    }

    pub(super) fn kind(&self) -> u8 {
        self.block[KIND]
    }

    /// The name with its prefix.
    pub(super) fn name(&self) -> Vec<u8> {
        let name = until_nul(self.field(NAME));
        let prefix = match self.dialect {
            Dialect::V7 => Vec::new(),
            Dialect::Ustar => until_nul(self.field(PREFIX)),
            Dialect::Star => until_nul(self.field(STAR_PREFIX)),
            Dialect::Gnu => self.misplaced_prefix(),
        };
        if prefix.is_empty() {
            return name;
        }
        [&prefix[..], b"/", &name].concat()
    }

    /// Go before 1.8 wrote prefixes where GNU headers have two times.
    fn misplaced_prefix(&self) -> Vec<u8> {
        let is_time = |place| {
            let time = self.field(place);
            time.first() == Some(&0) || number(time).is_ok()
        };
        let prefix = until_nul(self.field(PREFIX));
        if (is_time(GNU_ATIME) && is_time(GNU_CTIME)) || !prefix.is_ascii() {
            return Vec::new();
        }
        prefix
    }

    pub(super) fn link(&self) -> Vec<u8> {
        until_nul(self.field(LINK))
    }

    pub(super) fn mode(&self) -> io::Result<i64> {
        number(self.field(MODE))
    }

    pub(super) fn uid(&self) -> io::Result<i64> {
        number(self.field(UID))
    }

    pub(super) fn gid(&self) -> io::Result<i64> {
        number(self.field(GID))
    }

    pub(super) fn size(&self) -> io::Result<i64> {
        number(self.field(SIZE))
    }

    pub(super) fn mtime(&self) -> io::Result<i64> {
        number(self.field(MTIME))
    }

    /// Major and minor number of a device; the oldest headers have none.
    pub(super) fn device(&self) -> io::Result<(u32, u32)> {
        if self.dialect == Dialect::V7 {
            return Ok((0, 0));
        }
        let half = |field| {
            let value = number(self.field(field))?;
            u32::try_from(value).map_err(|_| bad(format!("the device number {value}")))
        };
        Ok((half(MAJOR)?, half(MINOR)?))
    }

    /// The start of an old GNU sparse map, whether it goes on behind the header, and the
    /// file's length with its holes.
    pub(super) fn old_sparse(&self) -> io::Result<(&'a [u8], bool, i64)> {
        if self.dialect != Dialect::Gnu {
            return Err(bad("a sparse file in no GNU header"));
        }
        Ok((
            self.field(GNU_SPARSE),
            self.field(GNU_IS_EXTENDED) != [0],
            number(self.field(GNU_REAL_SIZE))?,
        ))
    }
}

fn wrong(field: &[u8]) -> io::Error {
    let text = String::from_utf8_lossy(field);
    bad(format!("{text:?} where a number belongs"))
}

/// A number field: octal digits, or binary where the first bit is set, two's complement.
pub(super) fn number(field: &[u8]) -> io::Result<i64> {
    let Some(first) = field.first().filter(|first| **first & 0x80 != 0) else {
        return octal(field);
    };
    let start = i128::from(first & 0x7f) - if first & 0x40 != 0 { 0x80 } else { 0 };
    let rest = field.iter().skip(1);
    let value = rest.fold(start, |value, byte| (value << 8) | i128::from(*byte));
    i64::try_from(value).map_err(|_| wrong(field))
}

/// Octal digits and nothing else, blanks and NULs around them; blank is zero.
fn octal(field: &[u8]) -> io::Result<i64> {
    let is_blank = |byte: &u8| matches!(byte, b' ' | 0);
    let Some(start) = field.iter().position(|byte| !is_blank(byte)) else {
        return Ok(0);
    };
    let end = field.iter().rposition(|byte| !is_blank(byte));
    let digits = until_nul(field.get(start..=end.unwrap_or(start)).unwrap_or_default());
    digits.iter().try_fold(0i64, |value, byte| match byte {
        b'0'..=b'7' => Ok(value << 3 | i64::from(byte - b'0')),
        _ => Err(wrong(field)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_parsed_as_in_go() {
        for (field, expected) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b"   5 \0\0\0", Some(5)),
            (b"\0\0\x007\0\0\0\0", Some(7)),
            // What follows a NUL is not looked at.
            (b"5\0zzzzzz", Some(5)),
            (b"5 \0zzzzz", None),
            (b"        ", Some(0)),
            (b"+0000005", None),
            (b"-0000005", None),
            (b"\t5      ", None),
            (b"8       ", None),
            (b"\xff\xff\xff\xff\xff\xff\xff\xfe", Some(-2)),
            (b"\x80\0\0\x01\0\0\0\x07", Some((1 << 32) + 7)),
            (b"\x80\0\0\0\x80\0\0\0\0\0\0\0", None),
        ] {
            assert_eq!(number(field).ok(), expected, "{}", field.escape_ascii());
        }
    }
}
