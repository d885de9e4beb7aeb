//! The tar around the `ZFile`: `tar/tar_file.cpp`.

use super::is_zero;
use super::rules::{Rule, Violation};

const BLOCK: usize = 512;
const FRONT: usize = 3 * BLOCK;
const ENTRIES: [(usize, u8, &[u8]); 2] = [
    (0, b'x', b"overlaybd.pax"),
    (2 * BLOCK, b'0', b"overlaybd.commit"),
];

/// The `ZFile` in a blob.
pub fn zfile(blob: &[u8]) -> Result<&[u8], Violation> {
    Rule::TarSize.when(
        blob.len() >= FRONT + 2 * BLOCK,
        format!("{} bytes are no tar", blob.len()),
    )?;
    for (at, kind, name) in ENTRIES {
        header(&blob[at..at + BLOCK], kind, name)?;
    }
    let size = record(blob)?;
    let padded = size.checked_next_multiple_of(BLOCK);
    Rule::TarSize.when(
        padded.is_some_and(|padded| Some(padded) == blob.len().checked_sub(FRONT + 2 * BLOCK)),
        format!("{size} bytes in a tar of {}", blob.len()),
    )?;
    let size_field = number(&blob[2 * BLOCK + 124..2 * BLOCK + 136]);
    Rule::TarSize.when(
        size_field == Some(0),
        format!("the header itself says {size_field:?} and counts less than the record"),
    )?;
    Rule::TarZeros.when(is_zero(&blob[FRONT + size..]), "some are not")?;
    Ok(&blob[FRONT..FRONT + size])
}

fn header(header: &[u8], kind: u8, name: &[u8]) -> Result<(), Violation> {
    let text = |field: &[u8]| field.escape_ascii().to_string();
    let magic = &header[257..263];
    Rule::TarMagic.when(magic == b"ustar\0", text(magic))?;
    let version = &header[263..265];
    Rule::TarVersion.when(version == b"00", text(version))?;
    let stored = number(&header[148..156]);
    let sum: u64 = header
        .iter()
        .enumerate()
        .map(|(at, byte)| match at {
            148..156 => 32,
            _ => u64::from(*byte),
        })
        .sum();
    Rule::TarChecksum.when(stored == Some(sum), format!("{stored:?}, not {sum}"))?;
    Rule::TarKinds.when(header[156] == kind, text(&header[156..157]))?;
    let found = &header[..100];
    Rule::TarNames.when(
        found.starts_with(name) && is_zero(&found[name.len()..]),
        text(found),
    )
}

/// An octal field, as the reference writes it too: blanks and NUL around the digits.
fn number(field: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(field).ok()?;
    u64::from_str_radix(text.trim_matches(['\0', ' ']), 8).ok()
}

/// The size that the pax record says.
fn record(blob: &[u8]) -> Result<usize, Violation> {
    let block = &blob[BLOCK..2 * BLOCK];
    let find = || {
        let len = usize::try_from(number(&blob[124..136])?).ok()?;
        let (record, rest) = block.split_at_checked(len)?;
        let text = std::str::from_utf8(record).ok()?;
        let (own, pair) = text.split_once(' ')?;
        let size = pair.strip_prefix("size=")?.strip_suffix('\n')?;
        let is_whole = own.parse() == Ok(len) && is_zero(rest);
        let has_digits_only = size.bytes().all(|byte| byte.is_ascii_digit());
        size.parse::<usize>()
            .ok()
            .filter(|_| is_whole && has_digits_only)
    };
    match find() {
        Some(size) => Ok(size),
        None => Rule::TarRecord.broken(block.escape_ascii().to_string().trim_end_matches("\\x00")),
    }
}
