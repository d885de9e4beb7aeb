//! Layer blobs made by hand, with any part of them wrong and all checksums right.

/// Sectors of the disk in these blobs.
pub const DISK: u64 = 2048;
/// Sectors of data.
pub const DATA: u64 = 160;
pub const UUID: &str = "01234567-89AB-CDEF-0123-456789ABCDEF";

/// `offset +length at moffset`.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    pub offset: u64,
    pub length: u64,
    pub moffset: u64,
    pub zeroed: bool,
    pub tag: u8,
}

pub const INVALID: Entry = Entry {
    offset: (1 << 50) - 1,
    length: 0,
    moffset: 0,
    zeroed: false,
    tag: 0,
};

/// A blob before it is put together.
#[derive(Debug, Clone)]
pub struct Blob {
    pub entries: Vec<Entry>,
    /// The LSMT's header and trailer.
    pub lsmt: [Vec<u8>; 2],
    pub data: Vec<u8>,
    pub block_size: usize,
    pub compress: fn(&[u8]) -> Vec<u8>,
}

impl Blob {
    /// A good one: two mappings to data, one to zeros, padding.
    pub fn new() -> Self {
        let entry = |offset, length, moffset, zeroed| Entry {
            offset,
            length,
            moffset,
            zeroed,
            tag: 0,
        };
        let mut entries = vec![
            entry(0, 100, 8, false),
            entry(100, 50, 8, true),
            entry(512, DATA - 100, 108, false),
        ];
        entries.resize(256, INVALID);
        let data = (0..DATA * 512).map(|n| (n * n % 253) as u8).collect();
        let mut blob = Self {
            entries,
            lsmt: [vec![0; 4096], vec![0; 4096]],
            data,
            block_size: 4096,
            compress: lz4,
        };
        for (part, flags) in [7, 6].into_iter().enumerate() {
            put(&mut blob.lsmt[part], 0, b"LSMT\0\x01\x02\0");
            let magic = b"\x65\x7e\x63\xd2\x94\x44\x08\x4c\xa2\xd2\xc8\xec\x4f\xcf\xae\x8a";
            put(&mut blob.lsmt[part], 8, magic);
            put(&mut blob.lsmt[part], 24, &390_u32.to_le_bytes());
            put(&mut blob.lsmt[part], 28, &i32::to_le_bytes(flags));
            put(&mut blob.lsmt[part], 48, &(DISK * 512).to_le_bytes());
            put(&mut blob.lsmt[part], 56, UUID.as_bytes());
            put(&mut blob.lsmt[part], 132, &[1, 1]);
        }
        put(&mut blob.lsmt[1], 32, &(4096 + DATA * 512).to_le_bytes());
        put(&mut blob.lsmt[1], 40, &256_u64.to_le_bytes());
        blob
    }

    /// A good one whose LSMT has so many bytes: one mapping, to all of its data.
    pub fn of_size(size: usize) -> Self {
        let mut blob = Self::new();
        blob.data.resize(size - 3 * 4096, 9);
        let sectors = blob.data.len() as u64 / 512;
        blob.entries[0].length = sectors;
        blob.entries[1..].fill(INVALID);
        blob.in_trailer(32, &(4096 + sectors * 512).to_le_bytes())
    }

    /// Changes both the header and the trailer of the LSMT.
    pub fn in_both(mut self, at: usize, bytes: &[u8]) -> Self {
        self.lsmt.iter_mut().for_each(|part| put(part, at, bytes));
        self
    }

    pub fn in_header(mut self, at: usize, bytes: &[u8]) -> Self {
        put(&mut self.lsmt[0], at, bytes);
        self
    }

    pub fn in_trailer(mut self, at: usize, bytes: &[u8]) -> Self {
        put(&mut self.lsmt[1], at, bytes);
        self
    }

    pub fn entry(mut self, number: usize, change: fn(&mut Entry)) -> Self {
        change(&mut self.entries[number]);
        self
    }

    /// The LSMT as the `ZFile` compresses it.
    pub fn original(&self) -> Vec<u8> {
        let mut bytes = self.lsmt[0].clone();
        bytes.extend_from_slice(&self.data);
        for entry in &self.entries {
            let low = entry.offset | entry.length << 50;
            let high = entry.moffset | u64::from(entry.zeroed) << 55 | u64::from(entry.tag) << 56;
            bytes.extend(low.to_le_bytes());
            bytes.extend(high.to_le_bytes());
        }
        bytes.extend_from_slice(&self.lsmt[1]);
        bytes
    }

    pub fn zfile(&self) -> ZFile {
        let original = self.original();
        let blocks = original.chunks(self.block_size).map(self.compress);
        ZFile::new(blocks.collect(), original.len(), self.block_size)
    }

    pub fn finish(&self) -> Vec<u8> {
        tar(&self.zfile().finish())
    }
}

/// A `ZFile` before it is put together.
#[derive(Debug, Clone)]
pub struct ZFile {
    /// The stored blocks, each with its CRC.
    pub blocks: Vec<Vec<u8>>,
    /// What the index says of them.
    pub sizes: Vec<u32>,
    /// Bytes between the last block and the index.
    pub gap: usize,
    /// Header and trailer, all but what depends on the rest.
    pub head: [Vec<u8>; 2],
    /// Added to the CRC of the index.
    pub index_crc: u32,
}

impl ZFile {
    pub fn new(compressed: Vec<Vec<u8>>, original_size: usize, block_size: usize) -> Self {
        let with_crc = |mut block: Vec<u8>| {
            block.extend(crc(100_007, &block).to_le_bytes());
            block
        };
        let blocks: Vec<_> = compressed.into_iter().map(with_crc).collect();
        let mut zfile = Self {
            sizes: blocks.iter().map(|block| block.len() as u32).collect(),
            blocks,
            gap: 0,
            head: [vec![0; 512], vec![0; 512]],
            index_crc: 0,
        };
        for (part, flags) in [27_u64, 22].into_iter().enumerate() {
            let part = &mut zfile.head[part];
            put(part, 0, b"ZFile\0\x01\0tuji.yyf@Alibaba");
            put(part, 24, &96_u32.to_le_bytes());
            put(part, 32, &flags.to_le_bytes());
            put(part, 56, &(original_size as u64).to_le_bytes());
            put(part, 72, &(block_size as u32).to_le_bytes());
            put(part, 76, &[1]);
            put(part, 88, &[1]);
        }
        zfile
    }

    /// Changes both header and trailer.
    pub fn in_both(mut self, at: usize, bytes: &[u8]) -> Self {
        self.head.iter_mut().for_each(|part| put(part, at, bytes));
        self
    }

    pub fn finish(mut self) -> Vec<u8> {
        let mut body: Vec<u8> = self.blocks.concat();
        body.resize(body.len() + self.gap, 0);
        let index: Vec<u8> = self.sizes.iter().flat_map(|it| it.to_le_bytes()).collect();
        let found = crc(0, &index).wrapping_add(self.index_crc);
        for part in &mut self.head {
            // Whatever a test put there is added to what belongs there.
            add(part, 40, 512 + body.len() as u64);
            add(part, 48, self.sizes.len() as u64);
            put(part, 64, &found.to_le_bytes());
            let digest = crc(0, part);
            put(part, 28, &digest.to_le_bytes());
        }
        let [header, trailer] = self.head;
        [header, body, index, trailer].concat()
    }
}

fn add(part: &mut [u8], at: usize, number: u64) {
    let there = u64::from_le_bytes(part[at..at + 8].try_into().unwrap());
    put(part, at, &there.wrapping_add(number).to_le_bytes());
}

pub fn put(target: &mut [u8], at: usize, bytes: &[u8]) {
    target[at..at + bytes.len()].copy_from_slice(bytes);
}

/// The tar around a `ZFile`.
pub fn tar(zfile: &[u8]) -> Vec<u8> {
    let size = zfile.len();
    let digits = size.to_string().len();
    // Two digits of the record's own length are enough for all sizes here.
    let record = format!("{} size={size}\n", digits + 9);
    let mut blob = vec![0; 1536];
    for (at, name, kind, len) in [
        (0, &b"overlaybd.pax"[..], b'x', record.len()),
        (1024, b"overlaybd.commit", b'0', 0),
    ] {
        let header = &mut blob[at..at + 512];
        put(header, 0, name);
        put(header, 124, format!("{len:011o}").as_bytes());
        header[156] = kind;
        put(header, 257, b"ustar\x0000");
        checksum(header);
    }
    put(&mut blob, 512, record.as_bytes());
    blob.extend_from_slice(zfile);
    blob.resize(blob.len().next_multiple_of(512) + 1024, 0);
    blob
}

/// Writes the checksum of a tar header that was changed.
pub fn checksum(header: &mut [u8]) {
    put(header, 148, b"        ");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    put(header, 148, format!("{sum:06o}\0 ").as_bytes());
}

pub fn lz4(block: &[u8]) -> Vec<u8> {
    lz4_flex::block::compress(block)
}

/// CRC-32C without inversions, bit by bit.
pub fn crc(init: u32, data: &[u8]) -> u32 {
    data.iter().fold(init, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0x82f6_3b78 & 0_u32.wrapping_sub(crc & 1))
        })
    })
}
