//! An index, opened for reading.

use std::io::{self, Read};

use flate2::read::ZlibDecoder;
use zerocopy::{FromZeros as _, IntoBytes as _};

use super::error::GzipIndexError;
use super::layout::{Entry, Header, Storage, WINDOW, Window};
use super::raw::{HEADER, RawEntry, RawHeader};
use crate::format::block::{BlockDevice as _, Damaged, DeviceReader, SharedDevice};

/// An index: its entries in memory, 40 bytes each, and its windows where they are.
pub struct GzipIndex {
    device: SharedDevice,
    header: Header,
    entries: Vec<Entry>,
}

impl std::fmt::Debug for GzipIndex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GzipIndex")
            .field("header", &self.header)
            .finish_non_exhaustive()
    }
}

/// Reads `count` bytes at `offset` of the index as they were before they were stored.
fn unpacked<'a>(
    device: &'a SharedDevice,
    storage: Storage,
    offset: u64,
    length: u64,
) -> Box<dyn Read + 'a> {
    let part = DeviceReader::of(device, offset..offset.saturating_add(length));
    match storage {
        Storage::Plain => Box::new(part),
        Storage::Zlib => Box::new(ZlibDecoder::new(part)),
    }
}

fn check_end(reader: &mut dyn Read) -> io::Result<()> {
    if reader.read(&mut [0])? == 0 {
        Ok(())
    } else {
        let text = "it is longer than it should be";
        Err(Damaged(text.to_owned()).into())
    }
}

impl GzipIndex {
    /// Opens the index that all of `device` is.
    ///
    /// # Errors
    /// When it cannot be read, or is damaged.
    pub fn open(device: SharedDevice) -> Result<Self, GzipIndexError> {
        let size = device.size();
        if size < HEADER as u64 {
            let text = format!("{size} bytes are too few for one");
            return Err(GzipIndexError::Header(text));
        }
        let mut raw = RawHeader::new_zeroed();
        device.read_at(0, raw.as_mut_bytes())?;
        let header = Header::decode(&raw, size).map_err(GzipIndexError::Header)?;
        let entries = Self::read_table(&device, &header)?;
        Ok(Self {
            device,
            header,
            entries,
        })
    }

    fn read_table(device: &SharedDevice, header: &Header) -> Result<Vec<Entry>, GzipIndexError> {
        let mut table = unpacked(
            device,
            header.storage,
            header.table_offset,
            header.table_length,
        );
        // Not made for as many as the header claims before there are as many.
        let mut entries: Vec<Entry> = Vec::new();
        for number in 0..header.entries {
            let damaged = |text| GzipIndexError::Table(format!("entry {number}: {text}"));
            let mut raw = RawEntry::new_zeroed();
            table
                .read_exact(raw.as_mut_bytes())
                .map_err(|error| damaged(error.to_string()))?;
            let below = entries.last();
            let entry = Entry::decode(&raw, below, header).map_err(damaged)?;
            entries.push(entry);
        }
        check_end(&mut table).map_err(|error| GzipIndexError::Table(error.to_string()))?;
        Ok(entries)
    }

    /// What the header says.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The entries in the tar's order; the first is of its byte 0.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The last entry at or before the byte `offset` of the tar: where reading it begins.
    #[must_use]
    pub fn entry_for(&self, offset: u64) -> Entry {
        let behind = self
            .entries
            .partition_point(|entry| entry.uncompressed <= offset);
        self.entries[behind.saturating_sub(1)]
    }

    /// Reads the window of an entry of this index.
    ///
    /// # Errors
    /// When it cannot be read, or does not hold 32 KiB ([`io::ErrorKind::InvalidData`]).
    pub fn window(&self, entry: &Entry) -> io::Result<Box<Window>> {
        // 32 KiB, on their way to the heap.
        #[allow(clippy::large_stack_arrays)]
        let mut window = Box::new([0; WINDOW]);
        let mut stored = unpacked(
            &self.device,
            self.header.storage,
            entry.window_offset,
            u64::from(entry.window_length),
        );
        let read = stored
            .read_exact(&mut window[..])
            .and_then(|()| check_end(&mut stored));
        read.map_err(|error| {
            let text = format!(
                "the gzip index's window at {} is damaged: {error}",
                entry.window_offset
            );
            io::Error::from(Damaged(text))
        })?;
        Ok(window)
    }
}
