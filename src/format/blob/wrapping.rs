//! The tar around the `ZFile`: POSIX.1-2001 pax, as overlaybd `zfile` and `tar` modules have it.

use std::io;

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::tar_header::{BLOCK, FILE, PAX, TarHeader};
use crate::format::assert_layout::assert_layout;
use crate::format::block::{BlockDevice, SharedDevice, check_range};

/// Where the `ZFile` begins behind a pax header.
pub(super) const START: u64 = 1536;
/// The name of the `ZFile` in the tar.
const NAME: &[u8] = b"overlaybd.commit";
/// The name of the pax header.
const PAX_NAME: &[u8] = b"overlaybd.pax";

/// What stands before a `ZFile`.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Front {
    pax: TarHeader,
    records: [u8; BLOCK],
    file: TarHeader,
}

assert_layout!(Front, 1536, { pax: 0, records: 512, file: 1024 });

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
    let mut front = Front::new_zeroed();
    let bytes = front.as_mut_bytes();
    let len = device.size().min(bytes.len() as u64);
    let len = usize::try_from(len).unwrap_or(0);
    device.read_at(0, &mut bytes[..len])?;
    let whole = device.size();
    Ok(
        locate(&front, whole).and_then(|(start, size)| match check_range(whole, start, size) {
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

/// Where the `ZFile` begins, and how long it is.
fn locate(front: &Front, whole: u64) -> Result<(u64, u64), String> {
    if front.as_bytes().starts_with(b"ZFile\0") {
        return Ok((0, whole));
    }
    front.pax.check()?;
    let len = front.pax.size()?;
    if front.pax.kind != PAX {
        return Ok((BLOCK as u64, len));
    }
    let records = usize::try_from(len)
        .ok()
        .and_then(|len| front.records.get(..len))
        .ok_or_else(|| format!("its pax header of {len} bytes is longer than a block"))?;
    front.file.check()?;
    Ok((START, pax_size(records)?))
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
    let mut records = [0; BLOCK];
    records[..len].copy_from_slice(record.as_bytes());
    let front = Front {
        pax: TarHeader::new(PAX_NAME, PAX, len as u64),
        records,
        file: TarHeader::new(NAME, FILE, 0),
    };
    front.as_bytes().to_vec()
}

/// Bytes of zeros that stand behind a `ZFile` of `size` bytes: padding and two blocks.
pub(super) fn back(size: u64) -> u64 {
    size.next_multiple_of(BLOCK as u64) - size + 2 * BLOCK as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(bytes: &[u8]) -> &Front {
        Front::ref_from_prefix(bytes).unwrap().0
    }

    #[test]
    fn the_wrapping_of_a_reference_blob_gives_the_offset_of_its_zfile() {
        let blob = include_bytes!("../../../tests/golden/lz4-4/0.obd");
        let found = locate(parse(blob), blob.len() as u64);
        assert_eq!(found, Ok((START, 193_391)));
    }

    #[test]
    fn a_wrapping_of_any_size_reads_back() {
        for size in [0, 1, 9, 99, 8u64.pow(11) - 1, 8u64.pow(11), u64::MAX] {
            assert_eq!(locate(parse(&front(size)), 0), Ok((START, size)));
        }
    }

    #[test]
    fn a_damaged_wrapping_is_an_error() {
        for at in [0, 124, 156, 257, 264, BLOCK, BLOCK + 4, 2 * BLOCK + 1] {
            let mut bad = front(1234);
            bad[at] ^= 0x40;
            assert!(locate(parse(&bad), 0).is_err(), "byte {at}");
        }
    }
}
