//! The `ZFile`: `zfile/zfile.cpp`.

use std::cell::RefCell;

use super::rules::{Rule, Violation};
use super::{is_zero, lz4, u32_at, u64_at};

const SPACE: usize = 512;
const MAGIC: &[u8] = b"ZFile\0\x01\0tuji.yyf@Alibaba";
/// Header: header, data file, final, digest. Trailer: data file, sealed, digest.
const FLAGS: [u64; 2] = [0b01_1011, 0b01_0110];
/// The reader's buffer.
const BUFFER: u32 = 65_536;
const CRC: usize = 4;
/// What a block's CRC starts from.
const SALT: u32 = 100_007;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Algorithm {
    Lz4,
    Zstd,
}

/// A `ZFile` whose header, trailer and index keep the rules.
#[derive(Debug)]
pub struct ZFile {
    bytes: Vec<u8>,
    algorithm: Algorithm,
    block_size: usize,
    original_size: u64,
    /// Where each block begins, and where the last one ends.
    starts: Vec<usize>,
    last_decoded: RefCell<Option<(usize, Vec<u8>)>>,
}

/// Castagnoli's CRC without inversions.
pub fn crc32c(init: u32, data: &[u8]) -> u32 {
    let mut digest =
        crc_fast::Digest::new_with_init_state(crc_fast::CrcAlgorithm::Crc32Iscsi, u64::from(init));
    digest.update(data);
    !u32::try_from(digest.finalize() & 0xffff_ffff).unwrap()
}

impl ZFile {
    pub fn open(bytes: &[u8]) -> Result<Self, Violation> {
        Rule::ZFileIndexPlace.when(
            bytes.len() >= 2 * SPACE,
            format!("{} bytes have no room for header and trailer", bytes.len()),
        )?;
        let (header, trailer) = (&bytes[..SPACE], &bytes[bytes.len() - SPACE..]);
        for (part, flags) in [header, trailer].into_iter().zip(FLAGS) {
            head(part, flags)?;
        }
        Rule::ZFileAgreement.when(header[40..] == trailer[40..], "it does not")?;
        let block_size = u32_at(header, 72) as usize;
        let original_size = u64_at(header, 56);
        let algorithm = match header[76] {
            1 => Algorithm::Lz4,
            _ => Algorithm::Zstd,
        };

        let blocks = original_size.div_ceil(block_size as u64);
        let (offset, entries) = (u64_at(header, 40), u64_at(header, 48));
        Rule::ZFileIndexSize.when(
            entries == blocks,
            format!("{entries} entries for {blocks} blocks"),
        )?;
        let end = entries.checked_mul(4).and_then(|it| it.checked_add(offset));
        Rule::ZFileIndexPlace.when(
            end == Some((bytes.len() - SPACE) as u64) && offset >= SPACE as u64,
            format!("{entries} entries at {offset} of {} bytes", bytes.len()),
        )?;
        let offset = usize::try_from(offset).unwrap();
        let index = &bytes[offset..bytes.len() - SPACE];
        let (stored, computed) = (u32_at(header, 64), crc32c(0, index));
        Rule::ZFileIndexCrc.when(
            stored == computed,
            format!("{stored:08x}, not {computed:08x}"),
        )?;
        let sizes: Vec<u32> = index.chunks(4).map(|entry| u32_at(entry, 0)).collect();
        stored_sizes(&sizes, block_size)?;
        let mut at = SPACE;
        let mut starts = vec![at];
        for size in sizes {
            at += size as usize;
            starts.push(at);
        }
        Rule::ZFileBlocks.when(at == offset, format!("at {at}, not {offset}"))?;
        Ok(Self {
            bytes: bytes.to_vec(),
            algorithm,
            block_size,
            original_size,
            starts,
            last_decoded: RefCell::new(None),
        })
    }

    pub fn original_size(&self) -> u64 {
        self.original_size
    }

    pub fn verify(&self) -> Result<(), Violation> {
        (0..self.starts.len() - 1).try_for_each(|block| self.block(block).map(drop))
    }

    fn block(&self, number: usize) -> Result<Vec<u8>, Violation> {
        let stored = &self.bytes[self.starts[number]..self.starts[number + 1]];
        let (data, crc) = stored.split_at(stored.len() - CRC);
        let computed = crc32c(SALT, data);
        Rule::ZFileBlockCrc.when(
            u32_at(crc, 0) == computed,
            format!("block {number}: {:08x}, not {computed:08x}", u32_at(crc, 0)),
        )?;
        let rest = self.original_size - (number * self.block_size) as u64;
        let len = usize::try_from(rest.min(self.block_size as u64)).unwrap();
        let decoded = match self.algorithm {
            Algorithm::Lz4 => lz4::decode(data, len).map_err(str::to_owned),
            Algorithm::Zstd => zstd::bulk::decompress(data, len).map_err(|it| it.to_string()),
        };
        match decoded {
            Ok(block) if block.len() == len => Ok(block),
            Ok(block) => Rule::ZFileBlockContent
                .broken(format!("block {number}: {} bytes, not {len}", block.len())),
            Err(what) => Rule::ZFileBlockContent.broken(format!("block {number}: {what}")),
        }
    }

    /// Reads a part of the original that lies in it.
    pub fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>, Violation> {
        let mut out = Vec::with_capacity(len);
        while out.len() < len {
            let at = usize::try_from(offset).unwrap() + out.len();
            let (number, within) = (at / self.block_size, at % self.block_size);
            let mut last = self.last_decoded.borrow_mut();
            if last.as_ref().is_none_or(|(there, _)| *there != number) {
                *last = Some((number, self.block(number)?));
            }
            if let Some((_, block)) = &*last {
                let end = block.len().min(within + len - out.len());
                out.extend_from_slice(&block[within..end]);
            }
        }
        Ok(out)
    }
}

/// What header and trailer have in common.
fn head(part: &[u8], flags: u64) -> Result<(), Violation> {
    Rule::ZFileMagic.when(&part[..24] == MAGIC, part[..24].escape_ascii().to_string())?;
    let (stored, computed) = (u32_at(part, 28), {
        let mut without = part.to_vec();
        without[28..32].fill(0);
        crc32c(0, &without)
    });
    Rule::ZFileDigest.when(
        stored == computed,
        format!("{stored:08x}, not {computed:08x}"),
    )?;
    Rule::ZFileUsed.when(u32_at(part, 24) == 96, u32_at(part, 24))?;
    Rule::ZFileFlags.when(u64_at(part, 32) == flags, u64_at(part, 32))?;
    let reserved = [68..72, 79..84, 89..SPACE];
    Rule::ZFileReserved.when(
        reserved.into_iter().all(|range| is_zero(&part[range])),
        "some of it is not",
    )?;
    let block_size = u32_at(part, 72);
    Rule::ZFileBlockSize.when(
        block_size.is_power_of_two() && (4096..=65_536).contains(&block_size),
        block_size,
    )?;
    Rule::ZFileAlgorithm.when(
        matches!(part[76], 1 | 2) && is_zero(&part[77..79]) && u32_at(part, 84) == 0,
        format!("{:?}", &part[76..88]),
    )?;
    Rule::ZFileVerify.when(part[88] == 1, part[88])
}

fn stored_sizes(sizes: &[u32], block_size: usize) -> Result<(), Violation> {
    // The reader keeps where a group of blocks begins, and within it distances of 16 bits.
    for (group, sizes) in sizes.chunks(65_536 / block_size).enumerate() {
        let mut distance = 0_u64;
        for (number, size) in sizes.iter().enumerate() {
            let block = group * (65_536 / block_size) + number;
            let detail = format!("block {block}: {size}");
            Rule::ZFileEmptyBlock.when(*size as usize > CRC, &detail)?;
            Rule::ZFileLargeBlock.when(*size <= BUFFER, &detail)?;
            distance += u64::from(*size);
            // What lies behind the group's last block is the next one's beginning.
            Rule::ZFileGroup.when(
                distance < 65_535 || number + 1 == 65_536 / block_size,
                format!("block {block} ends at {distance}"),
            )?;
        }
    }
    Ok(())
}
