//! The fields of a layer's tar: numbers, times, pax records, attributes.
//! Source: POSIX.1-2001 § pax; GNU tar manual § "Basic Tar Format"; libarchive and star for
//! the names of attributes.

use std::io::{self, ErrorKind};

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use tar::Header;

use super::acl;
use super::tree::{Time, Xattrs};

const BLOCK: usize = 512;

/// Pax records in their order: some sparse files repeat a key.
pub(super) type Records = Vec<(Vec<u8>, Vec<u8>)>;

pub(super) fn bad(text: impl Into<String>) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, text.into())
}

pub(super) fn check_sum(block: &[u8; BLOCK], header: &Header) -> io::Result<()> {
    let stated = number(&header.as_old().cksum)?;
    let values = block.iter().enumerate();
    let values = values.map(|(at, byte)| {
        if (148..156).contains(&at) {
            b' '
        } else {
            *byte
        }
    });
    let (unsigned, signed) = values.fold((0i64, 0i64), |(unsigned, signed), byte| {
        (
            unsigned + i64::from(byte),
            signed + i64::from(byte.cast_signed()),
        )
    });
    if stated == unsigned || stated == signed {
        Ok(())
    } else {
        Err(bad("a header with a wrong checksum"))
    }
}

pub(super) fn until_nul(bytes: &[u8]) -> Vec<u8> {
    bytes
        .iter()
        .copied()
        .take_while(|byte| *byte != 0)
        .collect()
}

/// A number field: octal digits, or binary where the first bit is set, two's complement.
pub(super) fn number(field: &[u8]) -> io::Result<i64> {
    let wrong = || {
        bad(format!(
            "{:?} where a number belongs",
            String::from_utf8_lossy(field)
        ))
    };
    if let Some(first) = field.first().filter(|first| **first & 0x80 != 0) {
        let start = i128::from(first & 0x7f) - if first & 0x40 != 0 { 0x80 } else { 0 };
        let rest = field.iter().skip(1);
        let value = rest.fold(start, |value, byte| (value << 8) | i128::from(*byte));
        return i64::try_from(value).map_err(|_| wrong());
    }
    let text = until_nul(field);
    let text = text.trim_ascii();
    if text.is_empty() {
        return Ok(0);
    }
    let text = std::str::from_utf8(text).map_err(|_| wrong())?;
    i64::from_str_radix(text, 8).map_err(|_| wrong())
}

pub(super) fn decimal(text: &[u8]) -> io::Result<i64> {
    let number = std::str::from_utf8(text)
        .ok()
        .and_then(|text| text.parse().ok());
    number.ok_or_else(|| bad(format!("{:?} is no number", String::from_utf8_lossy(text))))
}

pub(super) fn length(number: i64) -> io::Result<u64> {
    u64::try_from(number).map_err(|_| bad(format!("a length of {number}")))
}

pub(super) fn id(number: i64, what: &str) -> io::Result<u32> {
    u32::try_from(number).map_err(|_| bad(format!("the {what} {number}")))
}

/// Seconds with decimals, cut off behind nanoseconds.
pub(super) fn time(text: &[u8]) -> io::Result<Time> {
    let wrong = || bad(format!("{:?} is no time", String::from_utf8_lossy(text)));
    let whole = std::str::from_utf8(text).map_err(|_| wrong())?;
    let (sign, digits) = match whole.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, whole),
    };
    let (secs, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if !(secs.bytes().chain(fraction.bytes())).all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    let secs: i64 = match secs {
        "" => 0,
        secs => secs.parse().map_err(|_| wrong())?,
    };
    let nanos: i64 = format!("{fraction:0<9.9}").parse().map_err(|_| wrong())?;
    let (secs, nanos) = (sign * secs, sign * nanos);
    let (secs, nanos) = if nanos < 0 {
        (
            secs.checked_sub(1).ok_or_else(wrong)?,
            nanos + 1_000_000_000,
        )
    } else {
        (secs, nanos)
    };
    let nanos = u32::try_from(nanos).map_err(|_| wrong())?;
    Ok(Time { secs, nanos })
}

/// `LENGTH KEY=VALUE\n`, one after the other; a value may hold anything.
pub(super) fn pax(mut bytes: &[u8]) -> io::Result<Records> {
    let wrong = || bad("damaged pax records");
    let mut records = Records::new();
    while !bytes.is_empty() {
        let digits = bytes
            .iter()
            .position(|byte| *byte == b' ')
            .ok_or_else(wrong)?;
        let len = decimal(bytes.get(..digits).unwrap_or_default()).map_err(|_| wrong())?;
        let len = usize::try_from(len).map_err(|_| wrong())?;
        let (record, rest) = bytes.split_at_checked(len).ok_or_else(wrong)?;
        let record = record
            .get(digits + 1..)
            .and_then(|record| record.strip_suffix(b"\n"));
        let record = record.ok_or_else(wrong)?;
        let equals = record
            .iter()
            .position(|byte| *byte == b'=')
            .ok_or_else(wrong)?;
        let (key, value) = record.split_at(equals);
        records.push((key.to_vec(), value.get(1..).unwrap_or_default().to_vec()));
        bytes = rest;
    }
    Ok(records)
}

/// Attributes as `SCHILY.xattr.NAME` has them, or else `LIBARCHIVE.xattr.NAME`, and lists.
pub(super) fn xattrs(records: &Records) -> io::Result<Xattrs> {
    let engine = GeneralPurpose::new(
        &STANDARD,
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
    );
    let mut xattrs: Xattrs = Xattrs::new();
    for (key, value) in records {
        let (name, is_default): (&[u8], _) = match key.as_slice() {
            b"SCHILY.acl.access" => (b"system.posix_acl_access", false),
            b"SCHILY.acl.default" => (b"system.posix_acl_default", true),
            _ => continue,
        };
        if let Some(value) = acl::value(value, is_default) {
            xattrs.insert(name.into(), value.into());
        }
    }
    for (key, value) in records {
        if let Some(name) = key.strip_prefix(b"LIBARCHIVE.xattr.") {
            let name: Vec<u8> = percent_encoding::percent_decode(name).collect();
            let value = engine
                .decode(value)
                .map_err(|error| bad(format!("LIBARCHIVE.xattr: {error}")))?;
            xattrs.insert(name.into(), value.into());
        }
    }
    for (key, value) in records {
        if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
            xattrs.insert(name.into(), value.as_slice().into());
        }
    }
    Ok(xattrs)
}
