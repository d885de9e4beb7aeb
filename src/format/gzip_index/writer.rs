//! Writes an index.

use std::io::{self, Seek, SeekFrom, Write};

use flate2::{Compress, Compression, FlushCompress, Status};
use zerocopy::IntoBytes as _;

use super::inflater::Boundary;
use super::layout::{Entry, Header, LEVEL, MAX_ENTRIES, MIN_SPAN, Window};
use super::raw::HEADER;

/// An index under construction. Windows go to the file at once; of an entry 29 bytes are kept.
pub struct GzipIndexWriter<W> {
    file: W,
    header: Header,
    /// Where the next window goes.
    end: u64,
    /// The table, as it is before it is compressed.
    table: Vec<u8>,
    compress: Compress,
}

impl<W> std::fmt::Debug for GzipIndexWriter<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GzipIndexWriter")
            .field("end", &self.end)
            .finish_non_exhaustive()
    }
}

/// All of `data` as a zlib stream.
fn zlib(compress: &mut Compress, data: &[u8]) -> io::Result<Vec<u8>> {
    compress.reset();
    let mut stored = Vec::with_capacity(data.len() / 2 + 64);
    loop {
        let done = usize::try_from(compress.total_in()).unwrap_or(data.len());
        let rest = data.get(done..).unwrap_or_default();
        let status = compress.compress_vec(rest, &mut stored, FlushCompress::Finish)?;
        if status == Status::StreamEnd {
            return Ok(stored);
        }
        stored.reserve(data.len() / 2 + 64);
    }
}

impl<W: Write + Seek> GzipIndexWriter<W> {
    /// Begins an index in `file`, which is empty. `span` is the number of bytes of the tar
    /// between two entries, at least [`MIN_SPAN`].
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] for a smaller span, and when the file cannot be written.
    pub fn new(mut file: W, span: u32) -> io::Result<Self> {
        if span < MIN_SPAN || i32::try_from(span).is_err() {
            let text = format!("a span of {span} bytes is not from {MIN_SPAN} to 2^31 - 1");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        file.write_all(&[0; HEADER])?;
        Ok(Self {
            file,
            header: Header::new(span),
            end: HEADER as u64,
            table: Vec::new(),
            compress: Compress::new(Compression::new(u32::from(LEVEL.unsigned_abs())), true),
        })
    }

    /// Adds the block at `boundary`, of which the highest `bits` bits of the byte before belong
    /// to it. Blocks come in the tar's order, the first at its byte 0.
    ///
    /// # Errors
    /// When the file cannot be written, or there are more entries than [`MAX_ENTRIES`].
    pub fn add(&mut self, boundary: Boundary, bits: u8, window: &Window) -> io::Result<()> {
        if self.header.entries == MAX_ENTRIES {
            let text = format!("the gzip index has more than {MAX_ENTRIES} entries");
            return Err(io::Error::other(text));
        }
        let stored = zlib(&mut self.compress, window)?;
        self.file.write_all(&stored)?;
        let entry = Entry {
            uncompressed: boundary.uncompressed,
            compressed: boundary.compressed,
            bits,
            window_offset: self.end,
            window_length: u32::try_from(stored.len()).map_err(io::Error::other)?,
        };
        self.table.extend_from_slice(entry.encode().as_bytes());
        self.end += stored.len() as u64;
        self.header.entries += 1;
        Ok(())
    }

    /// Writes table and header of the index of a blob of `compressed` bytes that holds a tar of
    /// `uncompressed` bytes. Returns the file, neither flushed nor synced, its size in bytes and
    /// the number of entries.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn finish(mut self, compressed: u64, uncompressed: u64) -> io::Result<(W, u64, u64)> {
        let table = zlib(&mut self.compress, &self.table)?;
        self.file.write_all(&table)?;
        let size = self.end + table.len() as u64;
        let header = Header {
            compressed_size: compressed,
            uncompressed_size: uncompressed,
            index_size: size,
            table_offset: self.end,
            table_length: table.len() as u64,
            ..self.header
        };
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(header.encode().as_bytes())?;
        Ok((self.file, size, header.entries))
    }
}
