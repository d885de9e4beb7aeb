//! A gzip layer read once: the tar comes out, the index is written meanwhile.

use std::io::{self, Read, Seek, Write};

use super::error::GzipError;
use super::inflater::BoundaryInflater;
use super::points::Points;
use super::writer::GzipIndexWriter;

/// Gives the tar in a gzip stream, as a [`Read`], and writes its index.
///
/// Reading gives [`GzipError`]s inside of [`io::Error`]s; see [`GzipError::of`]. That more than
/// one member follows is known behind the first one only. It holds up to 7 MiB and six spans, and
/// has a thread that writes the index. Of a window only what the data behind it refers to is kept.
///
/// ```
/// use std::io::{Cursor, Read, Write};
/// use std::sync::Arc;
///
/// use overlaybd_proxy::format::block::{BlockDevice, SharedDevice};
/// use overlaybd_proxy::format::gzip_index::{
///     DEFAULT_SPAN, GzipIndex, GzipIndexer, GzipTarget,
/// };
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
/// gzip.write_all(&[7; 5000])?;
/// let blob = gzip.finish()?;
///
/// let mut indexer = GzipIndexer::new(&blob[..], Cursor::new(Vec::new()), DEFAULT_SPAN)?;
/// let mut tar = Vec::new();
/// indexer.read_to_end(&mut tar)?;
/// let indexed = indexer.finish()?;
/// assert_eq!(indexed.uncompressed_size, 5000);
///
/// let index: SharedDevice = Arc::new(indexed.file.into_inner());
/// let target = GzipTarget::new(Arc::new(blob), GzipIndex::open(index)?)?;
/// let mut bytes = [0; 10];
/// target.read_at(4990, &mut bytes)?;
/// assert_eq!(bytes, [7; 10]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct GzipIndexer<R, W> {
    inflater: BoundaryInflater<R>,
    points: Points<W>,
    /// How much of the last step's output was given.
    given: usize,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Going,
    Ended,
    Failed,
}

/// An index, and what was seen of the layer that it is of. All sizes are in bytes.
#[derive(Debug)]
pub struct Indexed<W> {
    /// The index, neither flushed nor synced.
    pub file: W,
    /// Its size.
    pub size: u64,
    /// How many entries it has.
    pub entries: u64,
    /// Size of the compressed layer.
    pub compressed_size: u64,
    /// Size of the tar.
    pub uncompressed_size: u64,
    /// The longest deflate block: what reading a byte of it may have to inflate.
    pub max_gap: u64,
}

impl<R: Read, W: Write + Seek + Send + 'static> GzipIndexer<R, W> {
    /// Reads `input` and writes the index to `file`, which is empty, with an entry about every
    /// `span` bytes of the tar.
    ///
    /// # Errors
    /// As [`GzipIndexWriter::new`], and when the system refuses a thread.
    pub fn new(input: R, file: W, span: u32) -> io::Result<Self> {
        Ok(Self {
            inflater: BoundaryInflater::new(input),
            points: Points::new(GzipIndexWriter::new(file, span)?, span)?,
            given: 0,
            state: State::Going,
        })
    }

    /// Reads what was not read yet and finishes the index.
    ///
    /// # Errors
    /// As reading, and when the index cannot be written.
    pub fn finish(mut self) -> Result<Indexed<W>, GzipError> {
        while self.state != State::Ended {
            self.step()?;
        }
        let compressed_size = self.inflater.compressed_size();
        let uncompressed_size = self.inflater.uncompressed_size();
        let (file, size, entries) = self.points.finish(compressed_size, uncompressed_size)?;
        Ok(Indexed {
            file,
            size,
            entries,
            compressed_size,
            uncompressed_size,
            max_gap: self.inflater.max_gap(),
        })
    }

    /// Makes the next output. After an error there is no more.
    fn step(&mut self) -> Result<(), GzipError> {
        if self.state == State::Failed {
            let text = "the gzip layer could not be read before";
            return Err(io::Error::other(text).into());
        }
        self.state = State::Failed;
        self.given = 0;
        self.state = match self.inflater.step()? {
            Some(step) => {
                self.points.step(&step)?;
                State::Going
            }
            None => State::Ended,
        };
        Ok(())
    }

    fn left(&self) -> &[u8] {
        match self.state {
            State::Failed => &[],
            State::Going | State::Ended => &self.inflater.output()[self.given..],
        }
    }
}

impl<R: Read, W: Write + Seek + Send + 'static> Read for GzipIndexer<R, W> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.state != State::Ended && self.left().is_empty() {
            self.step()?;
        }
        let rest = self.left();
        let length = rest.len().min(buf.len());
        buf[..length].copy_from_slice(&rest[..length]);
        self.given += length;
        Ok(length)
    }
}
