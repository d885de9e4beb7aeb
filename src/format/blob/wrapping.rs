//! The tar around the `ZFile`: POSIX.1-2001 pax, as overlaybd `zfile` and `tar` modules have it.

use std::io;

use crate::format::block::{BlockDevice, SharedDevice, check_range};

/// Where the `ZFile` begins behind a pax header.
pub(super) const START: u64 = 1536;
const BLOCK: usize = 512;
const NAME: &[u8] = b"overlaybd.commit";
const VERSION: &[u8] = b"00";

/// A part of a disk as a disk.
pub(super) struct Part {
    device: SharedDevice,
    start: u64,
    size: u64,
}

impl BlockDevice for Part {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        check_range(self.size, offset, buf.len() as u64)?;
        self.device.read_at(self.start + offset, buf)
    }
}

/// Finds the `ZFile` in a blob: behind a pax header, behind a plain header, or bare. An error
/// that is text says what is wrong.
pub(super) fn find(device: SharedDevice) -> io::Result<Result<Part, String>> {
    let mut head = [0; 3 * BLOCK];
    let len = device.size().min(head.len() as u64);
    let len = usize::try_from(len).unwrap_or(0);
    device.read_at(0, &mut head[..len])?;
    let whole = device.size();
    Ok(
        place(&head, whole).and_then(|(start, size)| match check_range(whole, start, size) {
            Ok(()) => Ok(Part {
                device,
                start,
                size,
            }),
            Err(_) => Err(format!(
                "it has {size} bytes at {start}, and is {whole} long: it is cut off"
            )),
        }),
    )
}

fn place(head: &[u8; 3 * BLOCK], whole: u64) -> Result<(u64, u64), String> {
    if head.starts_with(b"ZFile\0") {
        return Ok((0, whole));
    }
    let first = &head[..BLOCK];
    checked(first)?;
    if first[156] != b'x' {
        return Ok((BLOCK as u64, octal(&first[124..136])?));
    }
    let len = octal(&first[124..136])?;
    let records = usize::try_from(len)
        .ok()
        .filter(|len| *len <= BLOCK)
        .map(|len| &head[BLOCK..BLOCK + len])
        .ok_or_else(|| format!("its pax header of {len} bytes is longer than a block"))?;
    checked(&head[2 * BLOCK..])?;
    Ok((START, pax_size(records)?))
}

fn checked(header: &[u8]) -> Result<(), String> {
    if &header[257..262] != b"ustar" {
        return Err("it does not begin with a tar header".into());
    }
    // overlaybd does not look into another kind of tar.
    if &header[263..265] != VERSION {
        let version = header[263..265].escape_ascii();
        return Err(format!(
            "a tar header's version is \"{version}\", not \"00\""
        ));
    }
    let stored = octal(&header[148..156])?;
    let computed = checksum(header);
    if stored == computed {
        Ok(())
    } else {
        Err(format!(
            "a tar header's checksum is {stored}, its bytes have {computed}"
        ))
    }
}

fn checksum(header: &[u8]) -> u64 {
    let sum: u64 = header.iter().map(|byte| u64::from(*byte)).sum();
    let field: u64 = header[148..156].iter().map(|byte| u64::from(*byte)).sum();
    // The field itself counts as spaces.
    sum - field + 8 * 32
}

fn octal(field: &[u8]) -> Result<u64, String> {
    let text: String = field
        .iter()
        .map(|byte| char::from(*byte))
        .filter(|c| *c != '\0' && *c != ' ')
        .collect();
    if text.is_empty() {
        return Ok(0);
    }
    u64::from_str_radix(&text, 8).map_err(|_| format!("{text:?} in a tar header is not a number"))
}

fn pax_size(mut records: &[u8]) -> Result<u64, String> {
    let bad = || "its pax header is damaged".to_owned();
    while !records.is_empty() {
        let space = records
            .iter()
            .position(|byte| *byte == b' ')
            .ok_or_else(bad)?;
        let len: usize = std::str::from_utf8(&records[..space])
            .ok()
            .and_then(|digits| digits.parse().ok())
            .filter(|len| (space + 2..=records.len()).contains(len))
            .ok_or_else(bad)?;
        let record = &records[space + 1..len - 1];
        if let Some(size) = record.strip_prefix(b"size=") {
            return std::str::from_utf8(size)
                .ok()
                .and_then(|n| n.parse().ok())
                .ok_or_else(bad);
        }
        records = &records[len..];
    }
    Err("its pax header has no size".into())
}

fn header(name: &[u8], kind: u8, size: u64) -> [u8; BLOCK] {
    let mut bytes = [0; BLOCK];
    bytes[..name.len()].copy_from_slice(name);
    bytes[100..107].copy_from_slice(b"0000644");
    bytes[108..115].copy_from_slice(b"0000000");
    bytes[116..123].copy_from_slice(b"0000000");
    bytes[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
    bytes[136..147].copy_from_slice(b"00000000000");
    bytes[156] = kind;
    bytes[257..263].copy_from_slice(b"ustar\0");
    bytes[263..265].copy_from_slice(VERSION);
    bytes[265..269].copy_from_slice(b"root");
    bytes[297..301].copy_from_slice(b"root");
    let sum = checksum(&bytes);
    bytes[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    bytes
}

/// What stands before a `ZFile` of `size` bytes.
pub(super) fn front(size: u64) -> Vec<u8> {
    let mut len = 0;
    let record = loop {
        // The record's length counts its own digits.
        let record = format!("{len} size={size}\n");
        if record.len() == len {
            break record;
        }
        len = record.len();
    };
    let mut bytes = Vec::with_capacity(3 * BLOCK);
    bytes.extend_from_slice(&header(b"overlaybd.pax", b'x', record.len() as u64));
    bytes.extend_from_slice(record.as_bytes());
    bytes.resize(2 * BLOCK, 0);
    bytes.extend_from_slice(&header(NAME, b'0', 0));
    bytes
}

/// Bytes of zeros that stand behind a `ZFile` of `size` bytes: padding and two blocks.
pub(super) fn back(size: u64) -> u64 {
    size.next_multiple_of(BLOCK as u64) - size + 2 * BLOCK as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_front_of_a_reference_blob_says_where_its_zfile_is() {
        let blob = include_bytes!("../../../tests/golden/lz4-4/0.obd");
        let head: &[u8; 3 * BLOCK] = blob.first_chunk().unwrap();
        assert_eq!(place(head, blob.len() as u64), Ok((START, 193_391)));
    }

    #[test]
    fn what_is_written_in_front_reads_back_whatever_the_size() {
        for size in [0, 1, 9, 99, 8u64.pow(11) - 1, 8u64.pow(11), u64::MAX] {
            let head: [u8; 3 * BLOCK] = front(size).try_into().unwrap();
            assert_eq!(place(&head, 0), Ok((START, size)));
        }
    }

    #[test]
    fn a_damaged_front_is_told() {
        let good: [u8; 3 * BLOCK] = front(1234).try_into().unwrap();
        for at in [0, 124, 156, 257, 264, BLOCK, BLOCK + 4, 2 * BLOCK + 1] {
            let mut bad = good;
            bad[at] ^= 0x40;
            assert!(place(&bad, 0).is_err(), "byte {at}");
        }
    }
}
