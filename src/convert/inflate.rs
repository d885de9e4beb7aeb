//! Compressed layer in, tar out: by what the first bytes say, never by a media type's word.

mod frames;

use std::io::{self, BufRead, Read};

use flate2::bufread::GzDecoder;

use crate::format::tar;
use crate::oci::Compression;
use crate::oci::compression::GZIP;

use frames::Frames;
pub use frames::Grant;

/// Bytes of a layer that tell its compression: a tar's first header, if it has one.
pub const HEAD: usize = tar::BLOCK;

/// What the first bytes of a layer say of its compression, `None` if it has none; [`HEAD`] are enough, and fewer
/// only where the layer has no more.
///
/// A tar begins with a name, and a name may begin with any bytes, those of a compressed
/// stream too. So what is a tar's header, by its checksum, is that before anything else.
///
/// # Errors
/// [`io::ErrorKind::Unsupported`] for a compression that layers do not have.
pub fn sniff(head: &[u8]) -> io::Result<Option<Compression>> {
    if tar::is_header(head) {
        return Ok(None);
    }
    match Compression::of(head) {
        Some(foreign @ (Compression::Bzip2 | Compression::Xz | Compression::Lz4)) => {
            Err(io::Error::new(
                io::ErrorKind::Unsupported,
                format!(
                    "the layer is compressed with {}; gzip, zstd or none is expected",
                    foreign.name()
                ),
            ))
        }
        known => Ok(known),
    }
}

/// The tar in a layer that starts with `head`, and goes on (from the start again) in `input`.
/// A zstd layer takes as much memory as its windows: up to 512 MiB.
///
/// # Errors
/// As [`sniff`]. Reading gives [`io::ErrorKind::UnexpectedEof`] for a truncated layer and
/// [`io::ErrorKind::InvalidData`] for a damaged one.
pub fn inflate<'a, R: BufRead + Send + 'a>(
    head: &[u8],
    input: R,
) -> io::Result<Box<dyn Read + Send + 'a>> {
    inflate_within(head, input, Box::new(|_| Ok(())))
}

/// As [`inflate`]; `grant` is asked for the memory of each zstd window before it is taken. A
/// smaller one that follows is within a larger one's.
///
/// # Errors
/// As [`inflate`]; reading also gives the errors of `grant`.
pub fn inflate_within<'a, R: BufRead + Send + 'a>(
    head: &[u8],
    input: R,
    grant: Grant<'a>,
) -> io::Result<Box<dyn Read + Send + 'a>> {
    Ok(match sniff(head)? {
        Some(Compression::Gzip) => Box::new(Gzip(State::Member(Box::new(GzDecoder::new(input))))),
        Some(Compression::Zstd) => Box::new(Frames::new(input, grant)?),
        _ => Box::new(input),
    })
}

/// gzip members one after the other, then nothing or zeros: tools that pad to a block
/// leave them, anything else behind the last member is damage.
struct Gzip<R>(State<R>);

enum State<R> {
    Member(Box<GzDecoder<R>>),
    Ended,
}

impl<R: BufRead> Read for Gzip<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        while let State::Member(decoder) = &mut self.0 {
            let count = decoder.read(buf).map_err(|error| named("gzip", error))?;
            if count > 0 {
                return Ok(count);
            }
            let State::Member(decoder) = std::mem::replace(&mut self.0, State::Ended) else {
                break;
            };
            let mut input = decoder.into_inner();
            if next_member(&mut input)? {
                self.0 = State::Member(Box::new(GzDecoder::new(input)));
            }
        }
        Ok(0)
    }
}

/// Whether another member follows; what ends the layer instead is taken and checked.
fn next_member(input: &mut impl BufRead) -> io::Result<bool> {
    let mut first = true;
    loop {
        let bytes = input.fill_buf()?;
        if bytes.is_empty() {
            return Ok(false);
        }
        if first && bytes.first() == GZIP.first() {
            return Ok(true);
        }
        if bytes.iter().any(|&byte| byte != 0) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "gzip: neither a member nor zero padding follows the last member",
            ));
        }
        first = false;
        let length = bytes.len();
        input.consume(length);
    }
}

/// The decoders' errors say what is wrong, but not who says so. Errors of what they read
/// from pass through as they are.
fn named(decoder: &str, error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => io::Error::new(
            io::ErrorKind::UnexpectedEof,
            format!("{decoder}: the compressed data ends too early: it is truncated"),
        ),
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => {
            io::Error::new(io::ErrorKind::InvalidData, format!("{decoder}: {error}"))
        }
        // libzstd's own errors have no kind of theirs.
        io::ErrorKind::Other
            if error
                .get_ref()
                .is_some_and(|inner| !inner.is::<io::Error>()) =>
        {
            io::Error::new(io::ErrorKind::InvalidData, format!("{decoder}: {error}"))
        }
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::compression::ZSTD;
    use flate2::write::GzEncoder;
    use proptest::prelude::*;
    use std::io::Write as _;

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(data: &[u8]) -> Vec<u8> {
        zstd::encode_all(data, 1).unwrap()
    }

    /// Through a reader that gives at most `step` bytes at once.
    fn inflated(layer: &[u8], step: usize) -> io::Result<Vec<u8>> {
        struct Steps<'a>(&'a [u8], usize);
        impl Read for Steps<'_> {
            fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
                let length = buf.len().min(self.1);
                self.0.read(&mut buf[..length])
            }
        }
        let input = io::BufReader::with_capacity(step, Steps(layer, step));
        let mut tar = Vec::new();
        inflate(layer, input)?.read_to_end(&mut tar)?;
        Ok(tar)
    }

    #[test]
    fn members_frames_and_uncompressed_tars_are_inflated() {
        let (a, b) = (vec![b'a'; 100_000], b"b".to_vec());
        let both = [&a[..], &b].concat();
        let skippable = [&[0x5a, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"xyz"].concat();
        for (layer, expected) in [
            (both.clone(), &both),
            (gzip(&both), &both),
            ([gzip(&a), gzip(b""), gzip(&b)].concat(), &both),
            ([gzip(&both), vec![0; 10_000]].concat(), &both),
            (zstd(&both), &both),
            ([zstd(&a), skippable.clone(), zstd(&b)].concat(), &both),
            ([skippable, zstd(&both)].concat(), &both),
            (Vec::new(), &Vec::new()),
            (gzip(b""), &Vec::new()),
        ] {
            for step in [1, 7, 4096, 1 << 20] {
                assert!(inflated(&layer, step).unwrap() == *expected, "step {step}");
            }
        }
    }

    #[test]
    fn a_layer_truncated_anywhere_is_an_error() {
        let data: Vec<u8> = (0..20_000u32).flat_map(u32::to_le_bytes).collect();
        for (layer, shortest) in [(gzip(&data), 2), (zstd(&data), 4)] {
            for cut in [
                shortest,
                12,
                layer.len() / 2,
                layer.len() - 5,
                layer.len() - 1,
            ] {
                let error = inflated(&layer[..cut], 512).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{cut}: {error}");
                assert!(error.to_string().contains("truncated"), "{error}");
            }
        }
    }

    #[test]
    fn data_after_the_last_member_is_an_error() {
        for tail in [&b"x"[..], b"\0\0x", b"\x1f", b"\x1f\x8b\x07garbage...."] {
            let error = inflated(&[&gzip(b"data")[..], tail].concat(), 4096).unwrap_err();
            assert!(error.to_string().starts_with("gzip"), "{tail:?}: {error}");
        }
        let error = inflated(&[&zstd(b"data")[..], b"garbage"].concat(), 4096).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
        assert!(error.to_string().starts_with("zstd"), "{error}");
    }

    #[test]
    fn a_wrong_checksum_is_an_error() {
        let mut layer = gzip(b"some data");
        let place = layer.len() - 8;
        layer[place] ^= 1;
        assert_eq!(
            inflated(&layer, 4096).unwrap_err().kind(),
            io::ErrorKind::InvalidData
        );
    }

    #[test]
    fn an_unsupported_compression_is_named() {
        let error = inflated(b"BZh91AY&SY", 4096).unwrap_err();
        assert!(error.to_string().contains("bzip2"));
    }

    #[test]
    fn an_uncompressed_tar_is_detected_although_its_name_has_a_magic_number() {
        for name in [
            &b"BZh91AY&SY"[..],
            b"\xfd7zXZ",
            b"\x04\x22\x4d\x18",
            &GZIP,
            b"\x1f\x8b\x08",
            &ZSTD,
            b"\x5a\x2a\x4d\x18",
        ] {
            let mut header = ::tar::Header::new_ustar();
            header.as_mut_bytes()[..name.len()].copy_from_slice(name);
            header.set_size(0);
            header.set_cksum();
            let layer = [&header.as_bytes()[..], &[0; 1024]].concat();
            assert_eq!(sniff(&layer).unwrap(), None, "{name:?}");
            assert_eq!(inflated(&layer, 7).unwrap(), layer, "{name:?}");
            // Without its checksum it is no header.
            header.as_mut_bytes()[200] ^= 1;
            assert_ne!(
                sniff(header.as_bytes()).unwrap_or(Some(Compression::Zstd)),
                None
            );
        }
    }

    #[test]
    fn an_error_of_the_source_passes_through() {
        struct Broken(Vec<u8>);
        impl Read for Broken {
            fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
                if self.0.is_empty() {
                    return Err(io::Error::new(io::ErrorKind::ConnectionReset, "cut"));
                }
                let count = buf.len().min(self.0.len());
                buf[..count].copy_from_slice(&self.0[..count]);
                self.0.drain(..count);
                Ok(count)
            }
        }
        for layer in [gzip(&[1; 1000]), zstd(&[1; 1000])] {
            let half = layer[..layer.len() / 2].to_vec();
            let input = io::BufReader::new(Broken(half));
            let error = inflate(&layer, input)
                .unwrap()
                .read_to_end(&mut Vec::new())
                .unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        }
    }

    proptest! {
        #[test]
        fn damage_never_makes_a_panic(place in 0usize..200, byte: u8, of_gzip: bool) {
            let mut layer = if of_gzip { gzip(b"hello hello hello") } else { zstd(b"hello hello hello") };
            let length = layer.len();
            layer[place % length] = byte;
            let _ = inflated(&layer, 64);
        }
    }
}
