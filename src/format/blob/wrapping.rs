//! The tar around the `ZFile`: POSIX.1-2001 pax, as overlaybd `zfile` and `tar` modules have it.

use std::io;

use tar::{EntryType, Header, PaxExtensions};

use super::tar_header::{self, BLOCK};
use crate::format::block::{BlockDevice, SharedDevice, check_range};

/// Where the `ZFile` begins behind a pax header.
pub(super) const START: u64 = 1536;
/// The name of the `ZFile` in the tar.
const NAME: &str = "overlaybd.commit";
/// The name of the pax header.
const PAX_NAME: &str = "overlaybd.pax";

/// What stands before a `ZFile`: the pax header, its records, the header of the `ZFile`.
type Front = [[u8; BLOCK]; 3];

/// A part of a disk as a disk.
pub(super) struct Part {
    device: SharedDevice,
    start: u64,
    size: u64,
}

impl Part {
    /// Where it begins on the disk, in bytes.
    pub(super) fn start(&self) -> u64 {
        self.start
    }
}

impl BlockDevice for Part {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        check_range(self.size, offset, buf.len() as u64)?;
        self.device.read_at(self.start + offset, buf)
    }

    fn read_anew(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        check_range(self.size, offset, buf.len() as u64)?;
        self.device.read_anew(self.start + offset, buf)
    }

    fn will_read(&self, offset: u64, len: u64) {
        let len = len.min(self.size.saturating_sub(offset));
        self.device
            .will_read(self.start.saturating_add(offset), len);
    }

    fn name(&self) -> Option<String> {
        self.device.name()
    }
}

/// Finds the `ZFile` in a blob: behind a pax header, behind a plain header, or bare. An error
/// that is text says what is wrong.
pub(super) fn find(device: SharedDevice) -> io::Result<Result<Part, String>> {
    let mut front = [[0; BLOCK]; 3];
    let bytes = front.as_flattened_mut();
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
    let [pax, records, file] = front;
    if pax.starts_with(b"ZFile\0") {
        return Ok((0, whole));
    }
    let pax = Header::from_byte_slice(pax);
    tar_header::check(pax)?;
    let len = tar_header::size(pax)?;
    if !pax.entry_type().is_pax_local_extensions() {
        return Ok((BLOCK as u64, len));
    }
    let records = usize::try_from(len)
        .ok()
        .and_then(|len| records.get(..len))
        .ok_or_else(|| format!("its pax header of {len} bytes is longer than a block"))?;
    tar_header::check(Header::from_byte_slice(file))?;
    Ok((START, pax_size(records)?))
}

fn pax_size(records: &[u8]) -> Result<u64, String> {
    let bad = || "its pax header is damaged".to_owned();
    for record in PaxExtensions::new(records) {
        let record = record.map_err(|_| bad())?;
        if record.key_bytes() == b"size" {
            return record
                .value()
                .ok()
                .and_then(|size| size.parse().ok())
                .ok_or_else(bad);
        }
    }
    Err("its pax header has no size".into())
}

/// What stands before a `ZFile` of `size` bytes.
pub(super) fn front(size: u64) -> io::Result<Vec<u8>> {
    let mut len = 0;
    let record = loop {
        // The record's length counts its own digits.
        let record = format!("{len} size={size}\n");
        if record.len() == len {
            break record;
        }
        len = record.len();
    };
    let pax = tar_header::new(PAX_NAME, EntryType::XHeader, len as u64)?;
    let mut records = [0; BLOCK];
    records[..len].copy_from_slice(record.as_bytes());
    let file = tar_header::new(NAME, EntryType::Regular, 0)?;
    Ok([*pax.as_bytes(), records, *file.as_bytes()].concat())
}

/// Bytes of zeros that stand behind a `ZFile` of `size` bytes: padding and two blocks.
pub(super) fn back(size: u64) -> u64 {
    size.next_multiple_of(BLOCK as u64) - size + 2 * BLOCK as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(bytes: &[u8]) -> &Front {
        let (blocks, _) = bytes.as_chunks();
        blocks.first_chunk().unwrap()
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
            assert_eq!(locate(parse(&front(size).unwrap()), 0), Ok((START, size)));
        }
    }

    #[test]
    fn a_damaged_wrapping_is_an_error() {
        for at in [0, 124, 156, 257, 264, BLOCK, BLOCK + 4, 2 * BLOCK + 1] {
            let mut bad = front(1234).unwrap();
            bad[at] ^= 0x40;
            assert!(locate(parse(&bad), 0).is_err(), "byte {at}");
        }
    }
}
