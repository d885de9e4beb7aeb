//! Tar headers as they stand around a `ZFile` (POSIX.1-2001, `ustar`).

use std::io;
use std::ops::Range;

use tar::{EntryType, Header};

/// Bytes of a header, and what contents are padded to.
pub(super) const BLOCK: usize = 512;

const MAGIC: Range<usize> = 257..262;
const VERSION: Range<usize> = 263..265;

/// A header of root's, from 1970.
pub(super) fn new(name: &str, kind: EntryType, size: u64) -> io::Result<Header> {
    let mut header = Header::new_ustar();
    header.set_path(name)?;
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(size);
    header.set_entry_type(kind);
    header.set_username("root")?;
    header.set_groupname("root")?;
    header.set_cksum();
    // Most tars have six digits, NUL and space here; the crate writes seven digits and NUL.
    let sum = header.cksum()?;
    let field = &mut header.as_old_mut().cksum;
    field.copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    Ok(header)
}

/// The size of the content.
pub(super) fn size(header: &Header) -> Result<u64, String> {
    // overlaybd reads digits only.
    if !header.as_old().size[0].is_ascii() {
        return Err("the size in a tar header is not a number".into());
    }
    header.entry_size().map_err(|error| error.to_string())
}

/// Checks that it is a header; an error says what is wrong with it.
pub(super) fn check(header: &Header) -> Result<(), String> {
    if header.as_bytes()[MAGIC] != *b"ustar" {
        return Err("it does not begin with a tar header".into());
    }
    // overlaybd does not look into another kind of tar.
    let version = &header.as_bytes()[VERSION];
    if version != b"00" {
        let version = version.escape_ascii();
        return Err(format!(
            "a tar header's version is \"{version}\", not \"00\""
        ));
    }
    let mut summed = header.clone();
    summed.set_cksum();
    let sum = |header: &Header| header.cksum().map_err(|error| error.to_string());
    let (stored, computed) = (sum(header)?, sum(&summed)?);
    if stored == computed {
        Ok(())
    } else {
        Err(format!(
            "a tar header's checksum is {stored}, and that of its bytes is {computed}"
        ))
    }
}
