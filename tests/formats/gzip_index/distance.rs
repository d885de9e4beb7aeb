//! What a read inflates besides the bytes that it is asked for.

use std::io::{self, BufWriter, Cursor, Read as _, Seek as _, Write as _};
use std::sync::Arc;

use flate2::Compression;
use flate2::write::GzEncoder;
use overlaybd_proxy::format::block::{BlockDevice, FileDevice};
use overlaybd_proxy::format::gzip_index::{DEFAULT_SPAN, GzipIndex, GzipIndexer, GzipTarget};
use parking_lot::Mutex;

use super::check::{Random, boundaries, words};

/// MiB of the layer's tar, unless `OVERLAYBD_PROXY_TEST_LAYER_MIB` says another number.
const LAYER_MIB: u64 = 64;
/// Bytes that a read asks for.
const ASKED: usize = 4096;
/// Compressed bytes that are read at once.
const PIECE: u64 = 64 << 10;

/// A tar of any size, of which any MiB can be had: the same words, stamped with the sector's number.
struct Tar(Vec<u8>);

impl Tar {
    fn new() -> Self {
        Self(words(1 << 20, 14))
    }

    fn mebibyte(&self, number: u64) -> Vec<u8> {
        let mut data = self.0.clone();
        for (sector, bytes) in data.chunks_mut(512).enumerate() {
            let number = (number << 11) + sector as u64;
            bytes[..8].copy_from_slice(&number.to_be_bytes());
        }
        data
    }

    fn range(&self, start: u64, length: usize) -> Vec<u8> {
        let skip = (start % (1 << 20)) as usize;
        let mut data = self.mebibyte(start >> 20);
        data.extend(self.mebibyte((start >> 20) + 1));
        data[skip..skip + length].to_vec()
    }
}

/// A blob that says what was read of it: pieces, and not the byte that two blocks share.
struct Watched {
    blob: FileDevice,
    read: Mutex<Option<(u64, u64)>>,
}

impl BlockDevice for Watched {
    fn size(&self) -> u64 {
        self.blob.size()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        if buf.len() > 1 {
            let mut read = self.read.lock();
            let (start, end) = read.unwrap_or((offset, offset));
            assert_eq!(end, offset, "from front to back");
            *read = Some((start, offset + buf.len() as u64));
        }
        self.blob.read_at(offset, buf)
    }
}

#[test]
fn a_read_inflates_at_most_a_mebibyte_and_a_block_more_than_it_is_asked_for() {
    let mebibytes = std::env::var("OVERLAYBD_PROXY_TEST_LAYER_MIB");
    let mebibytes = mebibytes.map_or(LAYER_MIB, |text| text.parse().unwrap());
    let (tar, size) = (Tar::new(), mebibytes << 20);
    let mut file = tempfile::tempfile().unwrap();
    let mut encoder = GzEncoder::new(BufWriter::new(&file), Compression::default());
    for number in 0..mebibytes {
        encoder.write_all(&tar.mebibyte(number)).unwrap();
    }
    encoder.finish().unwrap().flush().unwrap();

    file.rewind().unwrap();
    let mut indexer = GzipIndexer::new(&file, Cursor::new(Vec::new()), DEFAULT_SPAN).unwrap();
    let mut output = vec![0; 1 << 20];
    for number in 0..mebibytes {
        indexer.read_exact(&mut output).unwrap();
        assert!(output == tar.mebibyte(number), "MiB {number}");
    }
    let indexed = indexer.finish().unwrap();
    assert_eq!(indexed.uncompressed_size, size);
    let index = Arc::new(indexed.file.into_inner());

    // Where the blocks are, by another decoder.
    let mut blob = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut blob).unwrap();
    let blocks: Vec<_> = boundaries(&blob).iter().map(|(block, _)| *block).collect();
    drop(blob);
    let ends = blocks.iter().skip(1).map(|block| block.uncompressed);
    let lengths = blocks
        .iter()
        .zip(ends.chain([size]))
        .map(|(block, end)| end - block.uncompressed);
    let longest = lengths.max().unwrap();
    assert_eq!(indexed.max_gap, longest);
    let span = u64::from(DEFAULT_SPAN);
    assert!(longest < span / 2, "blocks of {longest} bytes show nothing");

    let mut random = Random(15);
    let most = size - ASKED as u64;
    let anywhere = (0..200).map(|_| random.below(most));
    let just_before_a_point = (1..mebibytes.min(100)).map(|number| (number << 20) - 1);
    let mut worst = 0;
    for offset in [0, size / 2, most]
        .into_iter()
        .chain(anywhere)
        .chain(just_before_a_point)
    {
        let watched = Arc::new(Watched {
            blob: FileDevice::new(file.try_clone().unwrap()).unwrap(),
            read: Mutex::new(None),
        });
        // A new one for each read: none goes on where the last one ended.
        let index = GzipIndex::open(index.clone()).unwrap();
        let target = GzipTarget::new(watched.clone(), index).unwrap();
        let mut buffer = [0; ASKED];
        target.read_at(offset, &mut buffer).unwrap();
        assert!(buffer[..] == tar.range(offset, ASKED)[..], "at {offset}");

        let (start, end) = watched.read.lock().unwrap();
        let first = blocks.partition_point(|block| block.compressed < start);
        assert_eq!(blocks[first].compressed, start, "it begins at a block");
        let more = offset - blocks[first].uncompressed;
        assert!(
            more <= offset % span + longest,
            "{more} bytes in front of {offset}, with blocks of {longest}"
        );
        worst = worst.max(more);
        // And nothing behind the block in which the bytes end, but what was read with it.
        let behind = blocks
            .iter()
            .find(|block| block.uncompressed >= offset + ASKED as u64);
        let behind = behind.map_or(watched.size(), |block| block.compressed);
        assert!(end <= behind + PIECE, "{end}, and {behind} would do");
    }
    println!("at most {worst} bytes more, with blocks of {longest}, of {size}");
}
