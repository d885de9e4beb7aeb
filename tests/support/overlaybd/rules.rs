//! The rules by name.

use std::fmt;

/// A rule was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    pub rule: Rule,
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} ({}): {}", self.rule, self.rule.text(), self.detail)
    }
}

macro_rules! rules {
    ($($name:ident: $text:literal,)*) => {
        /// A rule of overlaybd's reader, or of the format that it reads.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Rule {
            $(#[doc = $text] $name,)*
        }

        impl Rule {
            pub const ALL: &[Self] = &[$(Self::$name),*];

            pub fn text(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

rules! {
    TarMagic: "both tar headers have the magic of POSIX",
    TarVersion: "both tar headers have version 00",
    TarChecksum: "both tar headers have their checksum",
    TarKinds: "a pax header comes first, a regular file second",
    TarNames: "the entries are overlaybd.pax and overlaybd.commit",
    TarRecord: "the pax block is one record, size=N, with its own length before it",
    TarSize: "the file of the size that the record says, its padding and two blocks are the whole tar",
    TarZeros: "padding and end of the tar are zeros",

    ZFileMagic: "header and trailer of the ZFile have their magic",
    ZFileUsed: "header and trailer of the ZFile say that 96 bytes of them are used",
    ZFileFlags: "the ZFile's header is final and with digest, its trailer sealed and with digest",
    ZFileDigest: "header and trailer of the ZFile have their CRC",
    ZFileReserved: "what is reserved in header and trailer of the ZFile is zero",
    ZFileBlockSize: "a block has 4, 8, 16, 32 or 64 KiB",
    ZFileAlgorithm: "blocks are compressed with LZ4 or zstd, without level and dictionary",
    ZFileVerify: "a CRC follows each block",
    ZFileAgreement: "the ZFile's trailer says what its header says",
    ZFileIndexSize: "the ZFile's index has an entry for each block of the original",
    ZFileIndexPlace: "the ZFile's index ends where its trailer begins",
    ZFileIndexCrc: "the ZFile's index has its CRC",
    ZFileEmptyBlock: "a stored block is longer than its CRC",
    ZFileLargeBlock: "a stored block has at most 65,536 bytes, its CRC included",
    ZFileGroup: "distances within 64 KiB of the original stay below 65,535",
    ZFileBlocks: "the stored blocks end where the ZFile's index begins",
    ZFileBlockCrc: "a block has its CRC",
    ZFileBlockContent: "a block decompresses to exactly its size",

    LsmtLength: "an LSMT has a header and a trailer",
    LsmtMagic: "header and trailer of the LSMT have their magic",
    LsmtUsed: "header and trailer of the LSMT say that 390 bytes of them are used",
    LsmtFlags: "the LSMT's header is one of a sealed data file, and so is its trailer",
    LsmtVersion: "the LSMT has version 1.1",
    LsmtReserved: "what is reserved in header and trailer of the LSMT is zero",
    LsmtHeaderIndex: "the LSMT's header names no index",
    LsmtUuid: "a uuid is text of upper-case hexadecimal digits, 8-4-4-4-12, or for a parent nothing",
    LsmtAgreement: "the LSMT's trailer says what its header says of disk and uuids",
    LsmtVirtualSize: "the disk has whole sectors, and one at least",
    LsmtIndexSize: "an LSMT has at most 1,000,000 entries, padding included",
    LsmtIndexPlace: "the LSMT's index begins at a sector behind the header and ends before the trailer",
    LsmtPadding: "padding is at the index's end and has the invalid offset and nothing else",
    LsmtLengthZero: "a mapping has a length",
    LsmtOrder: "mappings are in order and do not overlap",
    LsmtDisk: "a mapping ends on the disk",
    LsmtTag: "a mapping of a native layer has tag 0, one of TurboOCI 0 or 1, and one of all 0",
    LsmtData: "a mapping to data points between header and index",
    LsmtZeros: "a mapping to zeros points between header and index as well",

    StackHeight: "a stack has 1 to 255 layers",
    StackSize: "all layers of a stack are of one disk",
    StackParent: "each layer names the uuid of the one below as its parent, and the bottom none",
}

impl Rule {
    /// The rule, broken by what `detail` says.
    pub fn broken<T>(self, detail: impl fmt::Display) -> Result<T, Violation> {
        Err(Violation {
            rule: self,
            detail: detail.to_string(),
        })
    }

    /// Fails where `kept` is not.
    pub fn when(self, kept: bool, detail: impl fmt::Display) -> Result<(), Violation> {
        if kept { Ok(()) } else { self.broken(detail) }
    }
}
