//! A stack as a raw file.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::stack::Stack;
use crate::format::block::{BlockDevice, SECTOR};

/// Writes the disk of `stack` to `file`, which gets the disk's size, and holes
/// where no layer has data. `progress` is called with the number of bytes of each piece.
///
/// # Errors
/// When a blob cannot be read or the file not be written.
pub fn export(stack: &Stack, file: &File, mut progress: impl FnMut(u64)) -> io::Result<()> {
    file.set_len(0)?;
    file.set_len(stack.size())?;
    let mut buffer = vec![0; 1 << 20];
    for range in stack.data(0..stack.size() / SECTOR) {
        let (mut at, end) = (range.start * SECTOR, range.end * SECTOR);
        while at < end {
            let part = usize::try_from(end - at)
                .unwrap_or(usize::MAX)
                .min(buffer.len());
            let piece = &mut buffer[..part];
            stack.read_at(at, piece)?;
            file.write_all_at(piece, at)?;
            at += part as u64;
            progress(part as u64);
        }
    }
    Ok(())
}
