//! The blob of an acceleration layer: `tar( trace )`, without compression.
//! Source: containerd/accelerated-container-image `pkg/convertor/convertor.go`.

use std::io::{self, Read};

use crate::format::prefetch::MAX_TRACE_BYTES;
use crate::format::tar::{EntryKind, TarError, TarReader};

/// The file that overlaybd looks for in the unpacked layer.
const NAME: &str = "trace";
/// Most entries of a layer that are looked at.
const MAX_ENTRIES: usize = 64;
/// Most bytes of a layer that are read.
const MAX_LAYER_BYTES: u64 = MAX_TRACE_BYTES as u64 + (1 << 20);

/// Errors of reading an acceleration layer.
#[derive(Debug, thiserror::Error)]
pub enum AccelerationError {
    /// The tar.
    #[error("the acceleration layer is damaged: {0}")]
    Tar(#[from] TarError),
    /// The trace is larger than what is read.
    #[error("the trace has {0} bytes, and {MAX_TRACE_BYTES} are the most that is read")]
    TooLarge(u64),
    /// The trace is no plain file.
    #[error("the acceleration layer's {NAME} is no plain file")]
    NoFile,
    /// There is more than what is looked at.
    #[error("the acceleration layer has more than {MAX_ENTRIES} entries")]
    TooMany,
}

/// The blob with this trace, as Go's `archive/tar` writes a file with a name, a mode and a size:
/// root's, from 1970.
///
/// # Errors
/// Never of memory: the header's fields hold everything up to [`MAX_TRACE_BYTES`].
pub fn pack_trace(trace: &[u8]) -> io::Result<Vec<u8>> {
    let mut header = tar::Header::new_ustar();
    header.set_path(NAME)?;
    header.set_entry_type(tar::EntryType::Regular);
    header.set_mode(0o444);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_device_major(0)?;
    header.set_device_minor(0)?;
    header.set_size(trace.len() as u64);
    header.set_cksum();
    // The crate writes seven digits and NUL, Go six, NUL and a space.
    let sum = header.cksum()?;
    let field = &mut header.as_old_mut().cksum;
    field.copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut tar = tar::Builder::new(Vec::new());
    tar.append(&header, trace)?;
    tar.into_inner()
}

/// The trace in a blob; `None` if it has none, which overlaybd passes over.
///
/// # Errors
/// When it cannot be read, is damaged, or larger than what is read.
pub fn unpack_trace(blob: impl Read) -> Result<Option<Vec<u8>>, AccelerationError> {
    let mut tar = TarReader::new(blob.take(MAX_LAYER_BYTES));
    let mut found = None;
    for _ in 0..MAX_ENTRIES {
        let Some(entry) = tar.next_entry()? else {
            return Ok(found);
        };
        if entry.path != NAME.as_bytes() {
            continue;
        }
        if entry.kind != EntryKind::File || entry.data.iter().any(|data| *data != (0..entry.size)) {
            return Err(AccelerationError::NoFile);
        }
        let size = usize::try_from(entry.size).unwrap_or(usize::MAX);
        if size > MAX_TRACE_BYTES {
            return Err(AccelerationError::TooLarge(entry.size));
        }
        let mut trace = vec![0; size];
        tar.read_data(&mut trace)?;
        // As unpacking has it: the last one stays.
        found = Some(trace);
    }
    Err(AccelerationError::TooMany)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_is_packed_as_go_does_and_unpacked_again() {
        let blob = pack_trace(b"/bin/sh\n").unwrap();
        assert_eq!(blob.len(), 4 * 512);
        let mut header = [0; 512];
        header[..5].copy_from_slice(b"trace");
        header[100..136].copy_from_slice(b"0000444\x000000000\x000000000\x0000000000010\0");
        header[136..148].copy_from_slice(b"00000000000\0");
        // The sum of all bytes, with eight spaces in place of itself.
        header[148..156].copy_from_slice(b"010213\0 ");
        header[156] = b'0';
        header[257..265].copy_from_slice(b"ustar\x0000");
        header[329..345].copy_from_slice(b"0000000\x000000000\0");
        assert_eq!(blob[..512], header, "{}", blob[..512].escape_ascii());
        assert_eq!(&blob[512..520], b"/bin/sh\n");
        assert!(blob[520..].iter().all(|byte| *byte == 0));
        let trace = unpack_trace(&blob[..]).unwrap();
        assert_eq!(trace.as_deref(), Some(&b"/bin/sh\n"[..]));
    }

    #[test]
    fn a_layer_without_a_trace_has_none_and_a_damaged_one_is_an_error() {
        assert_eq!(unpack_trace(&[0; 1024][..]).unwrap(), None);
        let blob = pack_trace(&[7; 2000]).unwrap();
        assert!(unpack_trace(&blob[..1000]).is_err());
        assert!(unpack_trace(&b"no tar at all"[..]).is_err());
        let large = pack_trace(&vec![0; MAX_TRACE_BYTES + 1]).unwrap();
        assert!(matches!(
            unpack_trace(&large[..]),
            Err(AccelerationError::TooLarge(_))
        ));
    }
}
