//! Tar headers as they stand around a `ZFile` (POSIX.1-2001, `ustar`).

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::format::assert_layout::assert_layout;

/// Bytes of a header, and what contents are padded to.
pub(super) const BLOCK: usize = 512;

/// The type of a file's header.
pub(super) const FILE: u8 = b'0';
/// The type of a header with pax records for the next one.
pub(super) const PAX: u8 = b'x';

const MAGIC: &[u8; 6] = b"ustar\0";
const VERSION: &[u8; 2] = b"00";

/// A header. Numbers are octal digits.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct TarHeader {
    name: [u8; 100],
    mode: [u8; 8],
    uid: [u8; 8],
    gid: [u8; 8],
    size: [u8; 12],
    mtime: [u8; 12],
    checksum: [u8; 8],
    pub(super) kind: u8,
    link_name: [u8; 100],
    magic: [u8; 6],
    version: [u8; 2],
    user: [u8; 32],
    group: [u8; 32],
    device: [u8; 16],
    prefix: [u8; 155],
    padding: [u8; 12],
}

assert_layout!(TarHeader, BLOCK, {
    name: 0,
    mode: 100,
    uid: 108,
    gid: 116,
    size: 124,
    mtime: 136,
    checksum: 148,
    kind: 156,
    link_name: 157,
    magic: 257,
    version: 263,
    user: 265,
    group: 297,
    device: 329,
    prefix: 345,
    padding: 500,
});

fn put(field: &mut [u8], text: &[u8]) {
    let length = text.len().min(field.len());
    field[..length].copy_from_slice(&text[..length]);
}

/// The number of a field's octal digits; 0 of an empty field.
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

impl TarHeader {
    /// A header of root's, from 1970.
    pub(super) fn new(name: &[u8], kind: u8, size: u64) -> Self {
        let mut header = Self::new_zeroed();
        put(&mut header.name, name);
        put(&mut header.mode, b"0000644");
        put(&mut header.uid, b"0000000");
        put(&mut header.gid, b"0000000");
        put(&mut header.size, format!("{size:011o}").as_bytes());
        put(&mut header.mtime, b"00000000000");
        header.kind = kind;
        header.magic = *MAGIC;
        header.version = *VERSION;
        put(&mut header.user, b"root");
        put(&mut header.group, b"root");
        let sum = header.sum();
        put(&mut header.checksum, format!("{sum:06o}\0 ").as_bytes());
        header
    }

    /// The size of the content.
    pub(super) fn size(&self) -> Result<u64, String> {
        octal(&self.size)
    }

    /// Checks that it is a header; an error says what is wrong with it.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.magic[..5] != MAGIC[..5] {
            return Err("it does not begin with a tar header".into());
        }
        // overlaybd does not look into another kind of tar.
        if self.version != *VERSION {
            let version = self.version.escape_ascii();
            return Err(format!(
                "a tar header's version is \"{version}\", not \"00\""
            ));
        }
        let (stored, computed) = (octal(&self.checksum)?, self.sum());
        if stored == computed {
            Ok(())
        } else {
            Err(format!(
                "a tar header's checksum is {stored}, and that of its bytes is {computed}"
            ))
        }
    }

    /// The checksum: the sum of all bytes, those of its own field counted as spaces.
    fn sum(&self) -> u64 {
        let sum = |bytes: &[u8]| -> u64 { bytes.iter().map(|byte| u64::from(*byte)).sum() };
        let spaces = self.checksum.len() as u64 * u64::from(b' ');
        sum(self.as_bytes()) - sum(&self.checksum) + spaces
    }
}
