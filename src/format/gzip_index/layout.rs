//! Header and entries: what they say, encoded and decoded.

use serde::Serialize;
use zerocopy::{FromZeros as _, IntoBytes as _};

use super::raw::{CHECKED, HEADER, RawEntry, RawHeader};
use crate::format::crc::crc32c;

/// Bytes of the tar between two entries that the reference asks for (`turboOCI-apply`).
pub const DEFAULT_SPAN: u32 = 1 << 20;
/// The smallest span that the reference takes.
pub const MIN_SPAN: u32 = 1 << 16;
/// Bytes that a deflate block may refer back to.
pub const WINDOW: usize = 1 << 15;
/// Most entries that are read: a layer of 1 TiB has as many.
pub const MAX_ENTRIES: u64 = 1 << 20;

/// The last 32 KiB before a block, oldest first, behind zeros where there are fewer.
pub type Window = [u8; WINDOW];

const MAGIC: [u8; 8] = *b"ddgzidx\0";
const ZLIB: u8 = 1;
/// What windows and table are compressed with.
pub(super) const LEVEL: i8 = 6;
/// A window that zlib cannot compress is longer by its own headers.
const MAX_STORED_WINDOW: u32 = 1 << 16;

/// How windows and table are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) enum Storage {
    Plain,
    Zlib,
}

/// What the header says. All sizes and positions are in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Header {
    /// Bytes of the tar between two entries, about.
    pub span: u32,
    /// Number of entries.
    pub entries: u64,
    /// Size of the gzip blob.
    pub compressed_size: u64,
    /// Size of the tar.
    pub uncompressed_size: u64,
    /// Size of the index itself.
    pub index_size: u64,
    /// Where its table begins.
    pub table_offset: u64,
    /// Stored length of its table.
    pub table_length: u64,
    #[serde(skip)]
    pub(super) storage: Storage,
}

/// A block at which reading can begin. All positions are in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Where its data is in the tar (`de_pos`).
    pub uncompressed: u64,
    /// How much of the blob lies before it, a byte that it shares with the block before included
    /// (`en_pos`).
    pub compressed: u64,
    /// How many bits of that byte, its highest, are the block's: 0 to 7.
    pub bits: u8,
    /// Where its window is in the index.
    pub window_offset: u64,
    /// Stored length of its window.
    pub window_length: u32,
}

fn positive(name: &str, value: i64) -> Result<u64, String> {
    u64::try_from(value).map_err(|_| format!("its {name} is {value}"))
}

fn stored(value: u64) -> i64 {
    // No file is longer than 2^63 bytes.
    i64::try_from(value).unwrap_or(i64::MAX)
}

impl Header {
    /// A header as it is written; windows and table are zlib streams.
    pub(super) fn new(span: u32) -> Self {
        Self {
            span,
            entries: 0,
            compressed_size: 0,
            uncompressed_size: 0,
            index_size: 0,
            table_offset: HEADER as u64,
            table_length: 0,
            storage: Storage::Zlib,
        }
    }

    pub(super) fn encode(&self) -> RawHeader {
        let mut raw = RawHeader::new_zeroed();
        raw.magic = MAGIC;
        raw.major_version = 1;
        raw.dict_compress_algo = ZLIB;
        raw.dict_compress_level = LEVEL;
        raw.span.set(i32::try_from(self.span).unwrap_or(i32::MAX));
        raw.window.set(1 << 15);
        raw.index_size.set(29);
        raw.index_num.set(stored(self.entries));
        raw.gzip_file_size.set(stored(self.compressed_size));
        raw.index_file_size.set(stored(self.index_size));
        raw.uncompress_file_size.set(stored(self.uncompressed_size));
        raw.index_start.set(stored(self.table_offset));
        raw.index_area_len.set(stored(self.table_length));
        let crc = crc32c(0, &raw.as_bytes()[..CHECKED]);
        raw.crc.set(crc);
        raw
    }

    /// What the header of an index of `size` bytes says; an error says what is wrong with it.
    pub(super) fn decode(raw: &RawHeader, size: u64) -> Result<Self, String> {
        if raw.magic[..7] != MAGIC[..7] {
            return Err("it does not begin with the index's magic".into());
        }
        let computed = crc32c(0, &raw.as_bytes()[..CHECKED]);
        if raw.crc.get() != computed {
            let crc = raw.crc.get();
            return Err(format!(
                "its CRC is {crc:#x}, and that of its bytes is {computed:#x}"
            ));
        }
        if raw.major_version != 1 {
            return Err(format!("its version is {}, not 1", raw.major_version));
        }
        let storage = match raw.dict_compress_algo {
            0 => Storage::Plain,
            ZLIB => Storage::Zlib,
            other => return Err(format!("it names an unknown compression, {other}")),
        };
        for (name, value, expected) in [
            ("window", raw.window.get(), 1 << 15),
            ("size of an entry", raw.index_size.get(), 29),
        ] {
            if value != expected {
                return Err(format!("its {name} is {value}, not {expected}"));
            }
        }
        let header = Self {
            span: u32::try_from(raw.span.get())
                .map_err(|_| format!("its span is {}", raw.span.get()))?,
            entries: positive("number of entries", raw.index_num.get())?,
            compressed_size: positive("size of the blob", raw.gzip_file_size.get())?,
            uncompressed_size: positive("size of the tar", raw.uncompress_file_size.get())?,
            index_size: positive("size of the index", raw.index_file_size.get())?,
            table_offset: positive("table's offset", raw.index_start.get())?,
            table_length: positive("table's length", raw.index_area_len.get())?,
            storage,
        };
        header.check(size)?;
        Ok(header)
    }

    fn check(&self, size: u64) -> Result<(), String> {
        let Self {
            entries,
            index_size,
            table_offset,
            table_length,
            ..
        } = *self;
        if index_size != size {
            return Err(format!(
                "it says {index_size} bytes, and the file has {size}"
            ));
        }
        if table_offset < HEADER as u64 || table_offset.checked_add(table_length) != Some(size) {
            return Err(format!(
                "its table of {table_length} bytes at {table_offset} does not end where the file \
                 does, at {size}"
            ));
        }
        if entries == 0 || entries > MAX_ENTRIES {
            return Err(format!(
                "it has {entries} entries, and 1 to {MAX_ENTRIES} are expected"
            ));
        }
        let plain = entries * size_of::<RawEntry>() as u64;
        if self.storage == Storage::Plain && table_length != plain {
            return Err(format!(
                "its table of {entries} entries has {table_length} bytes, not {plain}"
            ));
        }
        Ok(())
    }
}

impl Entry {
    pub(super) fn encode(&self) -> RawEntry {
        RawEntry {
            de_pos: stored(self.uncompressed).into(),
            en_pos: stored(self.compressed).into(),
            win_pos: stored(self.window_offset).into(),
            bits: self.bits,
            win_len: self.window_length.into(),
        }
    }

    /// What an entry says that follows `below`, or is the first; an error says what is wrong
    /// with it.
    pub(super) fn decode(
        raw: &RawEntry,
        below: Option<&Self>,
        header: &Header,
    ) -> Result<Self, String> {
        let entry = Self {
            uncompressed: positive("de_pos", raw.de_pos.get())?,
            compressed: positive("en_pos", raw.en_pos.get())?,
            bits: raw.bits,
            window_offset: positive("win_pos", raw.win_pos.get())?,
            window_length: raw.win_len.get(),
        };
        let Self {
            uncompressed,
            compressed,
            bits,
            window_offset,
            window_length,
        } = entry;
        match below {
            None if uncompressed != 0 => {
                return Err(format!(
                    "its de_pos is {uncompressed}, and the first's is 0"
                ));
            }
            Some(below) if uncompressed < below.uncompressed || compressed < below.compressed => {
                return Err(format!(
                    "it is of {uncompressed} at {compressed}, before the last one"
                ));
            }
            _ => {}
        }
        if uncompressed > header.uncompressed_size {
            return Err(format!(
                "its de_pos {uncompressed} is behind the tar's end, {}",
                header.uncompressed_size
            ));
        }
        if compressed == 0 || compressed > header.compressed_size {
            return Err(format!(
                "its en_pos {compressed} is outside of the blob of {} bytes",
                header.compressed_size
            ));
        }
        if bits > 7 {
            return Err(format!("it has {bits} bits of a byte"));
        }
        let end = window_offset.checked_add(u64::from(window_length));
        if window_offset < HEADER as u64 || end.is_none_or(|end| end > header.table_offset) {
            return Err(format!(
                "its window of {window_length} bytes at {window_offset} is not between the header \
                 and the table"
            ));
        }
        let fits = match header.storage {
            Storage::Plain => window_length as usize == WINDOW,
            Storage::Zlib => (1..=MAX_STORED_WINDOW).contains(&window_length),
        };
        if !fits {
            return Err(format!(
                "its window of {window_length} bytes is none of {WINDOW}"
            ));
        }
        Ok(entry)
    }
}
