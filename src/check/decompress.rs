//! The tar in a layer: gzip, zstd or none, by the layer's first bytes.
//! Source: RFC 1952 § 2.2, RFC 8878 § 3.1.

use std::io::{self, BufRead, Read};

use flate2::bufread::GzDecoder;

use super::tar_fields::bad;
use super::tar_header::{BLOCK, Header};

/// Bytes of a layer that tell its compression.
pub(super) const HEAD: usize = BLOCK;

const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
const ZSTD_SKIPPABLE: &[u8] = &[0x2a, 0x4d, 0x18];
/// Compressions of tar files that layers do not have.
const UNSUPPORTED: [(&[u8], &str); 3] = [
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\0", "xz"),
    (b"\x04\x22\x4d\x18", "LZ4"),
];
/// log2 of the largest zstd window: 512 MiB, as in containerd.
const MAX_WINDOW_LOG: u32 = 29;

/// How the tar in a layer is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    Tar,
    Gzip,
    Zstd,
}

/// How a layer that starts with `head` is packed.
pub(super) fn packing(head: &[u8]) -> io::Result<Packing> {
    // The name in a tar's first header may begin with any magic number.
    let is_tar = head
        .first_chunk()
        .is_some_and(|block| Header::new(block).is_ok());
    if is_tar {
        return Ok(Packing::Tar);
    }
    if let Some((_, name)) = UNSUPPORTED
        .iter()
        .find(|(magic, _)| head.starts_with(magic))
    {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            format!("the layer is compressed with {name}; gzip, zstd or none is expected"),
        ));
    }
    let is_skippable = head.first().is_some_and(|byte| byte & 0xf0 == 0x50)
        && head.get(1..4) == Some(ZSTD_SKIPPABLE);
    Ok(if head.starts_with(GZIP) {
        Packing::Gzip
    } else if head.starts_with(ZSTD) || is_skippable {
        Packing::Zstd
    } else {
        Packing::Tar
    })
}

/// Decompresses a layer that starts with `head`; `input` starts there too.
pub(super) fn decompress<'a>(
    head: &[u8],
    input: impl BufRead + 'a,
) -> io::Result<Box<dyn Read + 'a>> {
    Ok(match packing(head)? {
        Packing::Tar => Box::new(input),
        Packing::Gzip => Box::new(Gzip::Member(GzDecoder::new(input))),
        Packing::Zstd => {
            let mut decoder = zstd::Decoder::with_buffer(input)?;
            decoder.window_log_max(MAX_WINDOW_LOG)?;
            Box::new(decoder)
        }
    })
}

/// Concatenated gzip members; only zeros may follow the last.
#[allow(clippy::large_enum_variant)]
enum Gzip<R> {
    Member(GzDecoder<R>),
    End,
}

impl<R: BufRead> Read for Gzip<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        while let Self::Member(decoder) = self {
            let count = decoder.read(buf)?;
            if count > 0 {
                return Ok(count);
            }
            if let Self::Member(decoder) = std::mem::replace(self, Self::End) {
                let mut input = decoder.into_inner();
                if input.fill_buf()?.first() == GZIP.first() {
                    *self = Self::Member(GzDecoder::new(input));
                } else {
                    only_zeros(input)?;
                }
            }
        }
        Ok(0)
    }
}

fn only_zeros(mut input: impl BufRead) -> io::Result<()> {
    loop {
        let bytes = input.fill_buf()?;
        if bytes.is_empty() {
            return Ok(());
        }
        if bytes.iter().any(|&byte| byte != 0) {
            return Err(bad("other data follows the last gzip member"));
        }
        let length = bytes.len();
        input.consume(length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn decompressed(layer: &[u8]) -> io::Result<Vec<u8>> {
        let mut tar = Vec::new();
        decompress(layer, layer)?.read_to_end(&mut tar)?;
        Ok(tar)
    }

    #[test]
    fn members_and_frames_are_concatenated() {
        let zstd = |data: &[u8]| zstd::encode_all(data, 1).unwrap();
        let skippable = b"\x5a\x2a\x4d\x18\x03\0\0\0xyz".to_vec();
        for layer in [
            b"ab".to_vec(),
            [gzip(b"a"), gzip(b""), gzip(b"b")].concat(),
            [gzip(b"ab"), vec![0; 1000]].concat(),
            [zstd(b"a"), skippable.clone(), zstd(b"b")].concat(),
            [skippable, zstd(b"ab")].concat(),
        ] {
            assert_eq!(decompressed(&layer).unwrap(), b"ab");
        }
    }

    #[test]
    fn truncated_damaged_and_unsupported_layers_are_errors() {
        let (gzip, zstd) = (gzip(b"data"), zstd::encode_all(&b"data"[..], 1).unwrap());
        for layer in [
            gzip[..gzip.len() - 1].to_vec(),
            zstd[..zstd.len() - 1].to_vec(),
            [&gzip[..], b"x"].concat(),
            [&zstd[..], b"garbage"].concat(),
            b"BZh91AY&SY".to_vec(),
        ] {
            decompressed(&layer).unwrap_err();
        }
    }

    #[test]
    fn a_tar_whose_first_name_begins_with_a_magic_number_is_a_tar() {
        for name in ["BZh", "\x1f\u{8b}", "\u{4}\"M\u{18}"] {
            let mut header = tar::Header::new_ustar();
            header.set_path(name).unwrap();
            header.set_size(0);
            header.set_cksum();
            assert_eq!(decompressed(header.as_bytes()).unwrap(), header.as_bytes());
        }
    }
}
