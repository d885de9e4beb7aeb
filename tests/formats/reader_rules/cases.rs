//! Blobs that break a rule each.

use super::overlaybd::Rule;
use super::overlaybd::build::{
    self, Blob, DATA, DISK, Entry, INVALID, UUID, ZFile, checksum, crc, put, tar,
};

/// A blob that breaks a rule, and how.
pub type Case = (Rule, &'static str, Vec<u8>);

pub fn all() -> Vec<Case> {
    [tars(), zfiles(), lsmts()].concat()
}

fn tars() -> Vec<Case> {
    let good = Blob::new().finish();
    let change = |at: usize, bytes: &[u8]| {
        let mut blob = good.clone();
        put(&mut blob, at, bytes);
        for at in [0, 1024] {
            checksum(&mut blob[at..at + 512]);
        }
        blob
    };
    let size = good.len();
    let mut long = good.clone();
    long.resize(size + 512, 0);
    let mut padded = good.clone();
    padded[size - 1025] ^= 1;
    let mut ended = good.clone();
    ended[size - 1] ^= 1;
    let mut sum = good.clone();
    sum[150] ^= 1;
    vec![
        (Rule::TarMagic, "GNU's", change(257, b"ustar ")),
        (Rule::TarMagic, "the second's", change(1024 + 257, b"u5tar")),
        (Rule::TarVersion, "GNU's", change(263, b" \0")),
        (Rule::TarVersion, "the second's", change(1024 + 263, b"01")),
        (Rule::TarChecksum, "a digit", sum),
        (Rule::TarKinds, "no pax header", change(156, b"0")),
        (Rule::TarKinds, "a directory", change(1024 + 156, b"5")),
        (
            Rule::TarNames,
            "another name",
            change(1024, b"overlaybd.0ommit"),
        ),
        (Rule::TarNames, "a longer name", change(1024 + 16, b".gz")),
        (Rule::TarRecord, "another length", change(513, b"9")),
        (Rule::TarRecord, "another key", change(515, b"path")),
        (Rule::TarRecord, "more behind it", change(700, b"x")),
        (Rule::TarSize, "cut off", good[..size - 512].to_vec()),
        (Rule::TarSize, "one block more", long),
        (Rule::TarSize, "no tar", good[..2000].to_vec()),
        (
            Rule::TarSize,
            "a size in the header",
            change(1024 + 124, b"00000001000"),
        ),
        (Rule::TarZeros, "padding", padded),
        (Rule::TarZeros, "the end", ended),
    ]
}

fn zfiles() -> Vec<Case> {
    let good = Blob::new().zfile();
    let both = |at, bytes: &[u8]| tar(&good.clone().in_both(at, bytes).finish());
    let with = |change: &dyn Fn(&mut ZFile)| {
        let mut zfile = good.clone();
        change(&mut zfile);
        tar(&zfile.finish())
    };
    let of_size = |sizes: &[usize], block_size: usize| tar(&stored(sizes, block_size).finish());
    let mut flipped = good.clone().finish();
    flipped[45] ^= 1;
    let mut cut = good.clone();
    let shorter = |block: &mut Vec<u8>| {
        block.truncate(4);
        let crc = crc(100_007, &[]);
        put(block, 0, &crc.to_le_bytes());
    };
    shorter(&mut cut.blocks[1]);
    cut.sizes[1] = 4;
    let mut content = good.clone();
    let other = Blob::new().original();
    content.blocks[1] = build::lz4(&other[..4095]);
    let sum = crc(100_007, &content.blocks[1]);
    content.blocks[1].extend(sum.to_le_bytes());
    content.sizes[1] = content.blocks[1].len() as u32;
    let first_two: u32 = stored(&[0; 3], 8192).sizes[..2].iter().sum();
    vec![
        (Rule::ZFileMagic, "the old one", both(6, &[0])),
        (
            Rule::ZFileMagic,
            "the trailer's",
            with(&|it| it.head[1][0] = b'z'),
        ),
        (Rule::ZFileUsed, "95", both(24, &[95])),
        (
            Rule::ZFileFlags,
            "not final",
            with(&|it| it.head[0][32] = 19),
        ),
        (
            Rule::ZFileFlags,
            "not sealed",
            with(&|it| it.head[1][32] = 18),
        ),
        (
            Rule::ZFileFlags,
            "a compressed index",
            with(&|it| it.head[0][32] |= 32),
        ),
        (Rule::ZFileDigest, "a flipped bit", tar(&flipped)),
        (Rule::ZFileReserved, "behind the fields", both(200, &[1])),
        (
            Rule::ZFileReserved,
            "the gap before the settings",
            both(68, &[1]),
        ),
        (
            Rule::ZFileBlockSize,
            "2 KiB",
            both(72, &2048_u32.to_le_bytes()),
        ),
        (
            Rule::ZFileBlockSize,
            "128 KiB",
            both(72, &(128_u32 << 10).to_le_bytes()),
        ),
        (
            Rule::ZFileBlockSize,
            "5000 bytes",
            both(72, &5000_u32.to_le_bytes()),
        ),
        (Rule::ZFileAlgorithm, "3", both(76, &[3])),
        (Rule::ZFileAlgorithm, "a level", both(77, &[1])),
        (Rule::ZFileAlgorithm, "a dictionary", both(84, &[1])),
        (Rule::ZFileVerify, "without CRCs", both(88, &[0])),
        (
            Rule::ZFileAgreement,
            "another size",
            with(&|it| it.head[1][56] ^= 1),
        ),
        (
            Rule::ZFileIndexSize,
            "one entry less",
            both(48, &u64::MAX.to_le_bytes()),
        ),
        (Rule::ZFileIndexSize, "another size", both(57, &[0xff])),
        (Rule::ZFileIndexPlace, "one byte later", both(40, &[1])),
        (
            Rule::ZFileIndexPlace,
            "nothing but a header",
            tar(&good.clone().finish()[..600]),
        ),
        (
            Rule::ZFileIndexCrc,
            "one more",
            with(&|it| it.index_crc = 1),
        ),
        (Rule::ZFileEmptyBlock, "only a CRC", tar(&cut.finish())),
        (
            Rule::ZFileLargeBlock,
            "one byte more",
            of_size(&[65_537, 0], 65_536),
        ),
        (
            Rule::ZFileGroup,
            "one byte more",
            of_size(&[65_535, 0], 32_768),
        ),
        (
            Rule::ZFileGroup,
            "of many blocks",
            of_size(&[[4300; 14].as_slice(), &[5335, 0]].concat(), 4096),
        ),
        (
            Rule::ZFileGroup,
            "the last one of all",
            of_size(&[0, 0, 65_535 - first_two as usize], 8192),
        ),
        (Rule::ZFileBlocks, "a gap", with(&|it| it.gap = 1)),
        (Rule::ZFileBlocks, "a size", with(&|it| it.sizes[2] += 1)),
        (
            Rule::ZFileBlockCrc,
            "a flipped bit",
            with(&|it| it.blocks[3][9] ^= 1),
        ),
        (
            Rule::ZFileBlockContent,
            "a byte less",
            tar(&content.finish()),
        ),
        (Rule::ZFileBlockContent, "a match at the end", bad_lz4()),
    ]
}

/// Blocks of zstd that are stored in these many bytes, CRC included, or as few as can be. What
/// they hold is a good LSMT.
pub fn stored(sizes: &[usize], block_size: usize) -> ZFile {
    let blob = Blob::of_size(sizes.len() * block_size);
    let original = blob.original();
    let blocks = original.chunks(block_size).zip(sizes);
    let block = |(raw, size): (&[u8], &usize)| {
        let mut frame = zstd::bulk::compress(raw, 3).unwrap();
        if let Some(more) = size.checked_sub(frame.len() + 4 + 8) {
            // A frame that decoders skip.
            frame.extend(0x184d_2a50_u32.to_le_bytes());
            frame.extend((more as u32).to_le_bytes());
            frame.resize(frame.len() + more, 0);
        }
        frame
    };
    ZFile::new(blocks.map(block).collect(), original.len(), block_size).in_both(76, &[2])
}

/// A block that only a lenient decoder takes: its last bytes are no literals.
fn bad_lz4() -> Vec<u8> {
    let mut blob = Blob::new();
    blob.data[..4096].fill(7);
    blob.compress = |raw| {
        if raw.iter().any(|byte| *byte != 7) {
            return build::lz4(raw);
        }
        let mut block = vec![0x1f, 7, 1, 0];
        // One literal, a match of 4,092 bytes, and three literals where five must be.
        let mut rest: u16 = 4092 - 4 - 15;
        while rest >= 255 {
            block.push(255);
            rest -= 255;
        }
        block.extend([rest.to_le_bytes()[0], 0x30, 7, 7, 7]);
        block
    };
    blob.finish()
}

fn lsmts() -> Vec<Case> {
    let good = Blob::new;
    let entry = |number, change| good().entry(number, change).finish();
    let big = 1_000_001_u64.to_le_bytes();
    let mut short = good();
    short.lsmt[0].truncate(512);
    short.data.clear();
    short.entries.clear();
    let mut padding_first = good();
    padding_first.entries.swap(2, 3);
    let no_uuid = [0_u8; 37];
    vec![
        (Rule::LsmtLength, "half a header", short.finish()),
        (
            Rule::LsmtMagic,
            "the header's",
            good().in_header(1, b"s").finish(),
        ),
        (
            Rule::LsmtMagic,
            "the trailer's",
            good().in_trailer(9, b"\0").finish(),
        ),
        (Rule::LsmtUsed, "389", good().in_both(24, &[133]).finish()),
        (
            Rule::LsmtFlags,
            "a trailer's in the header",
            good().in_header(28, &[6]).finish(),
        ),
        (
            Rule::LsmtFlags,
            "not sealed",
            good().in_trailer(28, &[2]).finish(),
        ),
        (
            Rule::LsmtFlags,
            "an index file",
            good().in_trailer(28, &[4]).finish(),
        ),
        (
            Rule::LsmtVersion,
            "2.0",
            good().in_both(132, &[2, 0]).finish(),
        ),
        (
            Rule::LsmtReserved,
            "before the version",
            good().in_both(130, &[1]).finish(),
        ),
        (
            Rule::LsmtReserved,
            "behind the tag",
            good().in_trailer(390, &[1]).finish(),
        ),
        (
            Rule::LsmtHeaderIndex,
            "an offset",
            good().in_header(32, &[8]).finish(),
        ),
        (
            Rule::LsmtHeaderIndex,
            "a size",
            good().in_header(40, &[1]).finish(),
        ),
        (
            Rule::LsmtUuid,
            "lower case",
            good().in_both(56, b"abcdef01").finish(),
        ),
        (
            Rule::LsmtUuid,
            "without end",
            good().in_both(92, b"0").finish(),
        ),
        (
            Rule::LsmtUuid,
            "none",
            good().in_both(56, &no_uuid).finish(),
        ),
        (
            Rule::LsmtUuid,
            "half a parent",
            good().in_both(93, &UUID.as_bytes()[..18]).finish(),
        ),
        (
            Rule::LsmtAgreement,
            "another uuid",
            good().in_header(56, b"1").finish(),
        ),
        (
            Rule::LsmtAgreement,
            "another disk",
            good().in_header(50, b"1").finish(),
        ),
        (
            Rule::LsmtVirtualSize,
            "no disk",
            good().in_both(48, &[0; 8]).finish(),
        ),
        (
            Rule::LsmtVirtualSize,
            "half a sector",
            good().in_both(48, &[1]).finish(),
        ),
        (
            Rule::LsmtIndexSize,
            "one too many",
            good().in_trailer(40, &big).finish(),
        ),
        (
            Rule::LsmtIndexPlace,
            "into the trailer",
            good().in_trailer(40, &[1, 1]).finish(),
        ),
        (
            Rule::LsmtIndexPlace,
            "into the header",
            good().in_trailer(32, &[0; 8]).finish(),
        ),
        (
            Rule::LsmtIndexPlace,
            "within a sector",
            good().in_trailer(32, &[0xf0]).finish(),
        ),
        (
            Rule::LsmtIndexPlace,
            "nowhere",
            good().in_trailer(32, &[0xff; 8]).finish(),
        ),
        (
            Rule::LsmtPadding,
            "before a mapping",
            padding_first.finish(),
        ),
        (
            Rule::LsmtPadding,
            "with a length",
            entry(9, |it| it.length = 1),
        ),
        (Rule::LsmtPadding, "with a tag", entry(9, |it| it.tag = 1)),
        (
            Rule::LsmtLengthZero,
            "at the end",
            entry(3, |it| {
                *it = Entry {
                    offset: 2000,
                    moffset: 8,
                    ..INVALID
                }
            }),
        ),
        (
            Rule::LsmtLengthZero,
            "zeros as padding",
            entry(3, |it| {
                *it = Entry {
                    offset: 0,
                    ..INVALID
                }
            }),
        ),
        (Rule::LsmtOrder, "an overlap", entry(1, |it| it.offset = 99)),
        (
            Rule::LsmtOrder,
            "two at one place",
            entry(1, |it| it.offset = 0),
        ),
        (
            Rule::LsmtDisk,
            "a sector too far",
            entry(2, |it| it.offset = DISK - 59),
        ),
        (Rule::LsmtTag, "1", entry(2, |it| it.tag = 1)),
        (
            Rule::LsmtData,
            "in the header",
            entry(0, |it| it.moffset = 7),
        ),
        (
            Rule::LsmtData,
            "in the index",
            entry(2, |it| it.moffset = DATA - 51),
        ),
        (
            Rule::LsmtZeros,
            "in the header",
            entry(1, |it| it.moffset = 7),
        ),
        (Rule::LsmtZeros, "at 0", entry(1, |it| it.moffset = 0)),
        (
            Rule::LsmtZeros,
            "behind the index",
            entry(1, |it| it.moffset = 8 + DATA + 1),
        ),
    ]
}
