//! One block: compressed and decompressed.

use std::fmt;
use std::str::FromStr;

use lz4_flex::block::CompressTable;

/// How blocks are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Algorithm {
    /// The raw LZ4 block format.
    Lz4,
    /// A zstd frame a block.
    Zstd,
}

/// Bytes of the original in a block: 4096 to 65536, a power of two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
pub struct BlockSize(u32);

/// A setting that does not exist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is not one of {known}")]
pub struct InvalidSetting {
    found: String,
    known: &'static str,
}

impl Algorithm {
    pub(super) fn id(self) -> u8 {
        match self {
            Self::Lz4 => 1,
            Self::Zstd => 2,
        }
    }

    pub(super) fn from_id(id: u8) -> Option<Self> {
        match id {
            1 => Some(Self::Lz4),
            2 => Some(Self::Zstd),
            _ => None,
        }
    }
}

impl FromStr for Algorithm {
    type Err = InvalidSetting;

    fn from_str(text: &str) -> Result<Self, InvalidSetting> {
        match text {
            "lz4" => Ok(Self::Lz4),
            "zstd" => Ok(Self::Zstd),
            _ => Err(InvalidSetting {
                found: text.into(),
                known: "lz4, zstd",
            }),
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        })
    }
}

impl BlockSize {
    /// 4 KiB, the reference's default.
    pub const KIB_4: Self = Self(4 << 10);
    /// 32 KiB, the largest that any data fits in.
    pub const KIB_32: Self = Self(32 << 10);
    /// 64 KiB, which incompressible data does not fit in.
    pub const KIB_64: Self = Self(64 << 10);

    /// The size of so many bytes, if there is one.
    #[must_use]
    pub fn from_bytes(bytes: u32) -> Option<Self> {
        (bytes.is_power_of_two() && (4 << 10..=64 << 10).contains(&bytes)).then_some(Self(bytes))
    }

    /// In bytes.
    #[must_use]
    pub fn bytes(self) -> u32 {
        self.0
    }

    pub(super) fn len(self) -> usize {
        self.0 as usize
    }
}

impl FromStr for BlockSize {
    type Err = InvalidSetting;

    fn from_str(text: &str) -> Result<Self, InvalidSetting> {
        let bytes = text
            .parse::<u32>()
            .ok()
            .and_then(|kib| kib.checked_mul(1024));
        bytes
            .and_then(Self::from_bytes)
            .ok_or_else(|| InvalidSetting {
                found: text.into(),
                known: "4, 8, 16, 32, 64 (KiB)",
            })
    }
}

impl fmt::Display for BlockSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0 >> 10)
    }
}

/// The level that the reference compresses with (overlaybd `zfile/compressor.cpp`).
const ZSTD_LEVEL: i32 = 3;

/// Contexts of both algorithms, reused from block to block.
pub(super) struct Compressor {
    small: CompressTable,
    large: CompressTable,
    zstd: Option<zstd_safe::CCtx<'static>>,
}

/// The library failed, which it does not with buffers of the right size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("compressing a block failed: {0}")]
pub(super) struct CompressError(String);

impl Compressor {
    pub(super) fn new() -> Self {
        Self {
            small: CompressTable::small(),
            large: CompressTable::large(),
            zstd: None,
        }
    }

    /// Most bytes that `len` bytes become.
    pub(super) fn bound(algorithm: Algorithm, len: usize) -> usize {
        match algorithm {
            Algorithm::Lz4 => lz4_flex::block::get_maximum_output_size(len),
            Algorithm::Zstd => zstd_safe::compress_bound(len),
        }
    }

    /// Compresses `block` to the start of `target`, which is at least [`bound`](Self::bound)
    /// long, and says how long it became.
    pub(super) fn compress(
        &mut self,
        algorithm: Algorithm,
        block: &[u8],
        target: &mut [u8],
    ) -> Result<usize, CompressError> {
        match algorithm {
            Algorithm::Lz4 => {
                let table = if block.len() < 65_535 {
                    &mut self.small
                } else {
                    &mut self.large
                };
                lz4_flex::block::compress_into_with_table(block, target, table)
                    .map_err(|error| CompressError(error.to_string()))
            }
            Algorithm::Zstd => {
                let context = match &mut self.zstd {
                    Some(context) => context,
                    none => none.insert(
                        zstd_safe::CCtx::try_create()
                            .ok_or_else(|| CompressError("no memory for a context".into()))?,
                    ),
                };
                context
                    .compress(target, block, ZSTD_LEVEL)
                    .map_err(|code| CompressError(zstd_safe::get_error_name(code).into()))
            }
        }
    }
}

/// Decompresses a block into `target`; returns whether it filled it exactly.
pub(super) fn decompress(algorithm: Algorithm, stored: &[u8], target: &mut [u8]) -> bool {
    let len = match algorithm {
        Algorithm::Lz4 => lz4_flex::block::decompress_into(stored, target).ok(),
        Algorithm::Zstd => zstd_safe::decompress(target, stored).ok(),
    };
    len == Some(target.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compressed_block_decompresses_to_itself() {
        let mut compressor = Compressor::new();
        let zeros = vec![0; 65536];
        let noise: Vec<u8> = (0..65536_u32)
            .map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[2])
            .collect();
        for algorithm in [Algorithm::Lz4, Algorithm::Zstd] {
            for data in [&zeros, &noise] {
                for len in [1, 2, 511, 512, 4096, 32768, 65535, 65536] {
                    let mut stored = vec![0; Compressor::bound(algorithm, len)];
                    let size = compressor
                        .compress(algorithm, &data[..len], &mut stored)
                        .unwrap();
                    let mut back = vec![1; len];
                    assert!(decompress(algorithm, &stored[..size], &mut back));
                    assert_eq!(back, data[..len]);
                    assert!(!decompress(
                        algorithm,
                        &stored[..size],
                        &mut vec![0; len + 1]
                    ));
                    assert!(!decompress(algorithm, &stored[..size - 1], &mut back));
                }
            }
        }
    }

    #[test]
    fn settings_are_parsed_from_option_values() {
        assert_eq!("zstd".parse(), Ok(Algorithm::Zstd));
        assert_eq!("64".parse(), Ok(BlockSize::KIB_64));
        for bad in ["", "3", "5", "128", "4096", "4194304"] {
            assert!(bad.parse::<BlockSize>().is_err(), "{bad}");
        }
        assert!(
            "gzip"
                .parse::<Algorithm>()
                .unwrap_err()
                .to_string()
                .contains("lz4, zstd")
        );
    }
}
