//! What stands around the deflate data of a gzip member (RFC 1952 § 2.3).

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use crate::format::assert_layout::assert_layout;

/// The first two bytes of a member.
pub(super) const MAGIC: [u8; 2] = [0x1f, 0x8b];
/// The longest header that is read. A name and a comment may be of any length.
pub(super) const MAX_HEADER: usize = 96 << 10;

const DEFLATE: u8 = 8;
const FHCRC: u8 = 1 << 1;
const FEXTRA: u8 = 1 << 2;
const FNAME: u8 = 1 << 3;
const FCOMMENT: u8 = 1 << 4;
const RESERVED: u8 = 0xe0;

/// What every header begins with.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Front {
    magic: [u8; 2],
    method: u8,
    flags: u8,
    mtime: [u8; 4],
    extra_flags: u8,
    system: u8,
}

assert_layout!(Front, 10, {
    magic: 0,
    method: 2,
    flags: 3,
    mtime: 4,
    extra_flags: 8,
    system: 9,
});

/// What stands behind the deflate data.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct Trailer {
    pub(super) crc: U32,
    /// Length of the data modulo 2^32.
    pub(super) length: U32,
}

assert_layout!(Trailer, 8, { crc: 0, length: 4 });

/// The length of the header that `bytes` begin with; `None` if it goes on behind them. An error
/// says what is wrong with it.
pub(super) fn header_length(bytes: &[u8]) -> Result<Option<usize>, String> {
    let magic = bytes.get(..MAGIC.len());
    if magic.is_some_and(|magic| magic != MAGIC) {
        return Err("it does not begin with a gzip header".into());
    }
    let Ok((front, _)) = Front::ref_from_prefix(bytes) else {
        return Ok(None);
    };
    if front.method != DEFLATE {
        return Err(format!("its compression method is {}, not 8", front.method));
    }
    if front.flags & RESERVED != 0 {
        return Err(format!("its header has unknown flags, {:#x}", front.flags));
    }
    let length = optional_fields(bytes, front.flags);
    if let Some(length) = length
        && front.flags & FHCRC != 0
    {
        check_crc(&bytes[..length])?;
    }
    Ok(length)
}

/// Where the fields end that the flags announce; `None` if that is behind `bytes`.
fn optional_fields(bytes: &[u8], flags: u8) -> Option<usize> {
    let mut at = size_of::<Front>();
    if flags & FEXTRA != 0 {
        let length = bytes.get(at..at + 2)?;
        at += 2 + usize::from(u16::from_le_bytes([length[0], length[1]]));
    }
    for text in [FNAME, FCOMMENT] {
        if flags & text != 0 {
            let rest = bytes.get(at..)?;
            at += 1 + rest.iter().position(|byte| *byte == 0)?;
        }
    }
    if flags & FHCRC != 0 {
        at += size_of::<U16>();
    }
    (at <= bytes.len()).then_some(at)
}

/// Compares a whole header with the CRC in its last bytes.
fn check_crc(header: &[u8]) -> Result<(), String> {
    let Ok((fields, stored)) = U16::ref_from_suffix(header).map(|(a, b)| (a, b.get())) else {
        return Ok(());
    };
    let mut crc = flate2::Crc::new();
    crc.update(fields);
    let computed = crc.sum() & 0xffff;
    if computed == u32::from(stored) {
        Ok(())
    } else {
        Err(format!(
            "its header's CRC is {stored:#x}, and that of its bytes is {computed:#x}"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(flags: u8, fields: &[u8]) -> Vec<u8> {
        let mut header = [&[0x1f, 0x8b, 8, flags, 0, 0, 0, 0, 0, 3], fields].concat();
        if flags & FHCRC != 0 {
            let mut crc = flate2::Crc::new();
            crc.update(&header);
            header.extend_from_slice(&crc.sum().to_le_bytes()[..2]);
        }
        header
    }

    #[test]
    fn a_header_ends_behind_its_optional_fields() {
        for (flags, fields) in [
            (0, &b""[..]),
            (FHCRC, b""),
            (FEXTRA, b"\x03\0abc"),
            (FNAME, b"a name\0"),
            (FCOMMENT, b"\0"),
            (FHCRC | FEXTRA | FNAME | FCOMMENT, b"\0\0n\0c\0"),
        ] {
            let bytes = header(flags, fields);
            let more = [&bytes[..], b"data"].concat();
            assert_eq!(header_length(&more), Ok(Some(bytes.len())), "{flags}");
            for cut in 0..bytes.len() {
                assert_eq!(header_length(&bytes[..cut]), Ok(None), "{flags} {cut}");
            }
        }
    }

    #[test]
    fn what_is_no_gzip_header_is_an_error() {
        assert!(header_length(b"\x1f\x8c").is_err());
        assert!(header_length(&header(0x20, b"")).is_err());
        let mut method = header(0, b"");
        method[2] = 7;
        assert!(header_length(&method).is_err());
        let mut crc = header(FHCRC, b"");
        crc[10] ^= 1;
        assert!(header_length(&crc).is_err());
    }
}
