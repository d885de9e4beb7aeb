//! One header block: where the fields are and how their numbers are written.

use super::BLOCK;
use super::error::{Problem, excerpt};

/// Fields by offset and length; POSIX.1-1988 ustar, GNU tar manual § "The Standard Format".
const NAME: (usize, usize) = (0, 100);
const MODE: (usize, usize) = (100, 8);
const UID: (usize, usize) = (108, 8);
const GID: (usize, usize) = (116, 8);
const SIZE: (usize, usize) = (124, 12);
const MTIME: (usize, usize) = (136, 12);
const CHECKSUM: (usize, usize) = (148, 8);
const TYPE: usize = 156;
const LINK_NAME: (usize, usize) = (157, 100);
const MAGIC: (usize, usize) = (257, 8);
/// With the version behind it.
const GNU_MAGIC: &[u8] = b"ustar  \0";
const DEV_MAJOR: (usize, usize) = (329, 8);
const DEV_MINOR: (usize, usize) = (337, 8);
const PREFIX: (usize, usize) = (345, 155);
/// star ends its header with `tar\0`, and its prefix is shorter.
const STAR_PREFIX: (usize, usize) = (345, 131);
const STAR_TRAILER: (usize, usize) = (508, 4);
const GNU_ATIME: (usize, usize) = (345, 12);
const GNU_CTIME: (usize, usize) = (357, 12);
const GNU_SPARSE: usize = 386;
const GNU_SPARSE_COUNT: usize = 4;
const GNU_IS_EXTENDED: usize = 482;
const GNU_REAL_SIZE: (usize, usize) = (483, 12);
const EXTENSION_SPARSE_COUNT: usize = 21;
const EXTENSION_IS_EXTENDED: usize = 504;
const SPARSE_NUMBER: usize = 12;

/// A block of 512 bytes that claims to be a header.
pub(super) struct Header([u8; BLOCK]);

impl Header {
    /// Takes a block whose checksum is right, summed as unsigned or (old Sun tar) signed bytes.
    pub(super) fn new(block: &[u8; BLOCK]) -> Result<Self, Problem> {
        let header = Self(*block);
        let stated = octal(header.field(CHECKSUM), "checksum").map_err(|_| Problem::Checksum)?;
        let (mut unsigned, mut signed) = (0i64, 0i64);
        for (place, &byte) in header.0.iter().enumerate() {
            let counted = if (CHECKSUM.0..CHECKSUM.0 + CHECKSUM.1).contains(&place) {
                b' '
            } else {
                byte
            };
            unsigned += i64::from(counted);
            signed += i64::from(counted.cast_signed());
        }
        if stated == unsigned || stated == signed {
            Ok(header)
        } else {
            Err(Problem::Checksum)
        }
    }

    fn field(&self, (start, length): (usize, usize)) -> &[u8] {
        self.0.get(start..start + length).unwrap_or_default()
    }

    /// The type flag, as written.
    pub(super) fn type_flag(&self) -> u8 {
        self.0[TYPE]
    }

    /// Name with the prefix that ustar and star have.
    pub(super) fn path(&self) -> Vec<u8> {
        let name = until_nul(self.field(NAME));
        let prefix = if self.field(MAGIC) == GNU_MAGIC {
            self.mistaken_gnu_prefix()
        } else if !self.field(MAGIC).starts_with(b"ustar\0") {
            &[][..]
        } else if self.field(STAR_TRAILER) == b"tar\0" {
            until_nul(self.field(STAR_PREFIX))
        } else {
            until_nul(self.field(PREFIX))
        };
        if prefix.is_empty() {
            return name.to_vec();
        }
        [prefix, b"/", name].concat()
    }

    /// GNU headers have times where ustar has the prefix. Go before 1.8 did not know, and
    /// wrote prefixes into GNU headers; images of those days are still around. Go takes
    /// ASCII text that is no number for such a prefix, and so does this.
    fn mistaken_gnu_prefix(&self) -> &[u8] {
        let is_time = |place| {
            let time = self.field(place);
            time.first() == Some(&0) || number(time, "time").is_ok()
        };
        let prefix = until_nul(self.field(PREFIX));
        if (is_time(GNU_ATIME) && is_time(GNU_CTIME)) || !prefix.is_ascii() {
            return &[];
        }
        prefix
    }

    /// The target of a link.
    pub(super) fn link_name(&self) -> Vec<u8> {
        until_nul(self.field(LINK_NAME)).to_vec()
    }

    pub(super) fn mode(&self) -> Result<i64, Problem> {
        number(self.field(MODE), "mode")
    }

    pub(super) fn uid(&self) -> Result<i64, Problem> {
        number(self.field(UID), "uid")
    }

    pub(super) fn gid(&self) -> Result<i64, Problem> {
        number(self.field(GID), "gid")
    }

    pub(super) fn size(&self) -> Result<i64, Problem> {
        number(self.field(SIZE), "size")
    }

    pub(super) fn mtime(&self) -> Result<i64, Problem> {
        number(self.field(MTIME), "mtime")
    }

    /// Major and minor number; v7 headers have none.
    pub(super) fn device(&self) -> Result<(i64, i64), Problem> {
        let magic = self.field(MAGIC);
        if magic != GNU_MAGIC && !magic.starts_with(b"ustar\0") {
            return Ok((0, 0));
        }
        Ok((
            number(self.field(DEV_MAJOR), "major device number")?,
            number(self.field(DEV_MINOR), "minor device number")?,
        ))
    }

    /// The map entries in an old GNU sparse header: pairs of offset and length, and whether
    /// an extension block with more follows.
    pub(super) fn gnu_sparse(&self) -> Result<(Vec<(i64, i64)>, bool), Problem> {
        let map = self.field((GNU_SPARSE, GNU_SPARSE_COUNT * 2 * SPARSE_NUMBER));
        Ok((sparse_pairs(map)?, self.0[GNU_IS_EXTENDED] != 0))
    }

    /// Length of an old GNU sparse file with its holes.
    pub(super) fn gnu_real_size(&self) -> Result<i64, Problem> {
        number(self.field(GNU_REAL_SIZE), "real size")
    }
}

/// Whether bytes begin with a header: a block with its checksum in it.
pub fn is_header(bytes: &[u8]) -> bool {
    bytes
        .first_chunk()
        .is_some_and(|block| Header::new(block).is_ok())
}

/// The map entries in an extension block of an old GNU sparse header, and whether more follow.
pub(super) fn gnu_sparse_extension(
    block: &[u8; BLOCK],
) -> Result<(Vec<(i64, i64)>, bool), Problem> {
    let map = &block[..EXTENSION_SPARSE_COUNT * 2 * SPARSE_NUMBER];
    Ok((sparse_pairs(map)?, block[EXTENSION_IS_EXTENDED] != 0))
}

/// Pairs up to the first that is not filled in.
fn sparse_pairs(map: &[u8]) -> Result<Vec<(i64, i64)>, Problem> {
    map.chunks_exact(2 * SPARSE_NUMBER)
        .take_while(|pair| pair.first() != Some(&0))
        .map(|pair| {
            let (offset, length) = pair.split_at(SPARSE_NUMBER);
            Ok((
                number(offset, "sparse offset")?,
                number(length, "sparse length")?,
            ))
        })
        .collect()
}

/// The bytes up to the first NUL.
pub(super) fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|&byte| byte == 0).next().unwrap_or_default()
}

/// A number in octal, or in base 256 when the first bit is set (GNU, two's complement).
fn number(bytes: &[u8], field: &'static str) -> Result<i64, Problem> {
    let wrong = || Problem::Number {
        field,
        text: excerpt(bytes),
    };
    let Some((&first, rest)) = bytes.split_first() else {
        return Ok(0);
    };
    if first & 0x80 == 0 {
        return octal(bytes, field);
    }
    let invert = if first & 0x40 == 0 { 0 } else { 0xff };
    let mut magnitude = i64::from((first ^ invert) & 0x7f);
    for byte in rest {
        magnitude = magnitude
            .checked_mul(256)
            .and_then(|high| high.checked_add(i64::from(byte ^ invert)))
            .ok_or_else(wrong)?;
    }
    Ok(if invert == 0 { magnitude } else { !magnitude })
}

/// Octal digits, with spaces or NULs around them; nothing at all is zero.
fn octal(bytes: &[u8], field: &'static str) -> Result<i64, Problem> {
    let padding = |byte: &u8| matches!(byte, b' ' | 0);
    let Some(start) = bytes.iter().position(|byte| !padding(byte)) else {
        return Ok(0);
    };
    let end = bytes
        .iter()
        .rposition(|byte| !padding(byte))
        .unwrap_or(start);
    let digits = until_nul(bytes.get(start..=end).unwrap_or_default());
    let mut value = 0i64;
    for digit in digits {
        let digit = match digit {
            b'0'..=b'7' => i64::from(digit - b'0'),
            _ => 8,
        };
        value = value
            .checked_mul(8)
            .filter(|_| digit < 8)
            .and_then(|high| high.checked_add(digit))
            .ok_or_else(|| Problem::Number {
                field,
                text: excerpt(bytes),
            })?;
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octal_numbers_may_have_spaces_and_nuls_around_them() {
        for (text, value) in [
            (&b"0000644\0"[..], 0o644),
            (b"   644 \0", 0o644),
            (b"000644 \0", 0o644),
            (b"\0\0\0\0\0\0\0\0", 0),
            (b"        ", 0),
            (b"77777777", 0o77_777_777),
            (b"12\0garb", 0o12),
        ] {
            assert_eq!(number(text, "mode").unwrap(), value, "{text:?}");
        }
        for text in [
            &b"0000648\0"[..],
            b"-000644\0",
            b"0x1ff\0\0\0",
            b"6 4\0\0\0\0\0",
        ] {
            assert!(number(text, "mode").is_err(), "{text:?}");
        }
    }

    #[test]
    fn base_256_numbers_have_a_sign_and_a_limit() {
        for (bytes, value) in [
            (vec![0x80, 0, 0, 0, 0, 0, 1, 0], Some(256)),
            (vec![0xff; 8], Some(-1)),
            (
                vec![0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0],
                Some(-256),
            ),
            (
                [&[0x80, 0, 0, 0, 0x7f][..], &[0xff; 7]].concat(),
                Some(i64::MAX),
            ),
            ([&[0x80, 0, 0, 0, 0x80][..], &[0; 7]].concat(), None),
            (
                [&[0xff, 0xff, 0xff, 0xff, 0x80][..], &[0; 7]].concat(),
                Some(i64::MIN),
            ),
            ([&[0xc0][..], &[0; 11]].concat(), None),
        ] {
            assert_eq!(number(&bytes, "size").ok(), value, "{bytes:?}");
        }
    }
}
