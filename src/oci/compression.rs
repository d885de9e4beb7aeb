//! Compressions of files, told by their first bytes.

/// Where a gzip member begins (RFC 1952 § 2.3.1).
pub const GZIP: [u8; 2] = [0x1f, 0x8b];
/// Where a zstd frame with data begins (RFC 8878 § 3.1.1).
pub const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// RFC 8878 § 3.1.2: a skippable frame starts with 0x184D2A50 to 0x184D2A5F.
const ZSTD_SKIPPABLE: [u8; 3] = [0x2a, 0x4d, 0x18];

/// A compression that tar files are found in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// gzip, of any number of members.
    Gzip,
    /// zstd, of any number of frames.
    Zstd,
    /// bzip2.
    Bzip2,
    /// xz.
    Xz,
    /// LZ4, in frames.
    Lz4,
}

impl Compression {
    /// The compression of what begins with `head`; `None` if it is none of these.
    #[must_use]
    pub fn of(head: &[u8]) -> Option<Self> {
        if head.starts_with(&GZIP) {
            Some(Self::Gzip)
        } else if head.starts_with(&ZSTD) || is_skippable(head) {
            Some(Self::Zstd)
        } else if head.starts_with(b"BZh") {
            Some(Self::Bzip2)
        } else if head.starts_with(b"\xfd7zXZ\0") {
            Some(Self::Xz)
        } else if head.starts_with(b"\x04\x22\x4d\x18") {
            Some(Self::Lz4)
        } else {
            None
        }
    }

    /// What people call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::Bzip2 => "bzip2",
            Self::Xz => "xz",
            Self::Lz4 => "LZ4",
        }
    }
}

/// Whether a zstd frame that readers pass over begins with `head`.
#[must_use]
pub fn is_skippable(head: &[u8]) -> bool {
    head.first().is_some_and(|byte| byte & 0xf0 == 0x50)
        && head.get(1..4) == Some(&ZSTD_SKIPPABLE[..])
}
