//! Inflates a gzip member and says where its deflate blocks begin.
//!
//! zlib-rs stops at the end of a block when it is asked to (`Z_BLOCK`), but its safe interface
//! does not tell that apart from a stop for want of room. A second call without any room tells
//! it: within a block nothing can be done, since no byte can be put anywhere; between blocks the
//! next one's header is read.

use std::io::{self, Read};
use std::ops::Range;

use zerocopy::FromBytes as _;
use zlib_rs::{Inflate, InflateFlush, Status};

use super::error::GzipError;
use super::member::{MAGIC, MAX_HEADER, Trailer, header_length};

/// Most bytes of output that a step makes.
const STEP: usize = 64 << 10;
/// Compressed bytes that a step has before it, unless the stream ends: 48 bits for a match of
/// three bytes are the most that deflate takes, and a block's header takes below 1 KiB. So no
/// step ends for want of input, and where steps end does not depend on how input arrives.
const AHEAD: usize = 2 * STEP + (2 << 10);
/// Compressed bytes that are held at once.
const HELD: usize = 2 * AHEAD;

const _: () = assert!(MAX_HEADER < AHEAD);

/// Where a deflate block begins. Positions are in bytes from the start of each stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Boundary {
    /// Where its data is in the tar.
    pub uncompressed: u64,
    /// How much of the compressed stream lies before it, a byte that it shares with the block
    /// before included.
    pub compressed: u64,
}

/// What one step read and made. The first has the gzip header.
#[derive(Debug)]
pub struct Step<'a> {
    /// Compressed bytes that were used.
    pub compressed: &'a [u8],
    /// What they were made to.
    pub output: &'a [u8],
    /// The block that begins behind both.
    pub boundary: Option<Boundary>,
    /// Whether the deflate data ends behind both.
    pub last: bool,
}

/// What lies behind the last step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Header,
    /// Inside a block, or in front of one that was not looked at.
    Inside,
    /// Behind the header of a block, which may have ended with it.
    BlockBegun,
    Trailer,
    Ended,
    Failed,
}

/// What a call without room found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Probe {
    Inside,
    Boundary,
    End,
}

/// A step, by places in what is held.
struct Taken {
    compressed: Range<usize>,
    boundary: Option<Boundary>,
    last: bool,
}

/// Inflates a stream that is one gzip member, in steps of up to 64 KiB. Holds half a MiB.
pub struct BoundaryInflater<R> {
    input: R,
    inflate: Inflate,
    state: State,
    /// Compressed bytes: those of the last step, those that were looked at, those to come.
    held: Box<[u8]>,
    /// Where those of the next step begin.
    start: usize,
    /// Where those begin that the decoder did not take.
    taken: usize,
    /// Where what was read ends.
    filled: usize,
    input_ended: bool,
    /// Bytes of the stream before those that are held.
    passed: u64,
    output: Box<[u8]>,
    made: usize,
    crc: flate2::Crc,
    uncompressed: u64,
    last_boundary: u64,
    max_gap: u64,
}

impl<R> std::fmt::Debug for BoundaryInflater<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BoundaryInflater")
            .field("state", &self.state)
            .field("uncompressed", &self.uncompressed)
            .finish_non_exhaustive()
    }
}

impl<R: Read> BoundaryInflater<R> {
    /// Inflates what `input` gives; nothing is read yet.
    pub fn new(input: R) -> Self {
        Self {
            input,
            inflate: Inflate::new(false, 15),
            state: State::Header,
            held: vec![0; HELD].into(),
            start: 0,
            taken: 0,
            filled: 0,
            input_ended: false,
            passed: 0,
            output: vec![0; STEP].into(),
            made: 0,
            crc: flate2::Crc::new(),
            uncompressed: 0,
            last_boundary: 0,
            max_gap: 0,
        }
    }

    /// The next step; `None` when the stream has ended and all of it was right: the trailer's
    /// CRC and length, and nothing but zeros behind it.
    ///
    /// # Errors
    /// When it cannot be read, is no gzip, is damaged or truncated, or more follows than one
    /// member.
    pub fn step(&mut self) -> Result<Option<Step<'_>>, GzipError> {
        match self.try_step() {
            Ok(Some(taken)) => Ok(Some(Step {
                compressed: &self.held[taken.compressed],
                output: &self.output[..self.made],
                boundary: taken.boundary,
                last: taken.last,
            })),
            Ok(None) => Ok(None),
            Err(error) => {
                self.state = State::Failed;
                Err(error)
            }
        }
    }

    /// Output of the last step.
    pub fn output(&self) -> &[u8] {
        &self.output[..self.made]
    }

    /// Bytes of output so far: the tar's size at the end.
    pub fn uncompressed_size(&self) -> u64 {
        self.uncompressed
    }

    /// Bytes of input so far; at the end all of them, padding included.
    pub fn compressed_size(&self) -> u64 {
        self.passed + self.filled as u64
    }

    /// The largest distance in bytes of output from one boundary to the next or to the end, so
    /// far: what reading one byte may have to inflate.
    pub fn max_gap(&self) -> u64 {
        self.max_gap
    }

    /// Gives back what it was made of.
    pub fn into_input(self) -> R {
        self.input
    }

    fn try_step(&mut self) -> Result<Option<Taken>, GzipError> {
        self.made = 0;
        match self.state {
            State::Header => {
                self.read_header()?;
                return Ok(Some(self.end_step(self.taken, Probe::Boundary)));
            }
            State::Trailer => {
                self.read_trailer()?;
                self.read_padding()?;
                self.state = State::Ended;
                return Ok(None);
            }
            State::Ended => return Ok(None),
            State::Failed => return Err(GzipError::Damaged(self.position())),
            State::Inside | State::BlockBegun => self.fill()?,
        }
        if self.state == State::BlockBegun {
            let end = self.taken;
            let found = self.probe()?;
            if found != Probe::Inside {
                return Ok(Some(self.end_step(end, found)));
            }
        }
        let progress = self.decode()?;
        let end = self.taken;
        let found = self.probe()?;
        if found == Probe::Inside && !progress {
            return Err(if self.input_ended {
                GzipError::Truncated
            } else {
                GzipError::Damaged(self.position())
            });
        }
        Ok(Some(self.end_step(end, found)))
    }

    /// The step that ends before the byte `end` of those that are held, where `found` is.
    fn end_step(&mut self, end: usize, found: Probe) -> Taken {
        let boundary = Boundary {
            uncompressed: self.uncompressed,
            compressed: self.passed + end as u64,
        };
        if found != Probe::Inside {
            let gap = self.uncompressed - self.last_boundary;
            self.max_gap = self.max_gap.max(gap);
            self.last_boundary = self.uncompressed;
        }
        self.state = match found {
            // Behind the gzip header no block was looked at yet.
            Probe::Boundary if self.state != State::Header => State::BlockBegun,
            Probe::Boundary | Probe::Inside => State::Inside,
            Probe::End => State::Trailer,
        };
        Taken {
            compressed: std::mem::replace(&mut self.start, end)..end,
            boundary: (found == Probe::Boundary).then_some(boundary),
            last: found == Probe::End,
        }
    }

    /// Where the decoder is in the compressed stream.
    fn position(&self) -> u64 {
        self.passed + self.taken as u64
    }

    /// Reads until there is as much as a step may use, or the stream ends.
    fn fill(&mut self) -> Result<(), GzipError> {
        while !self.input_ended && self.filled - self.taken < AHEAD {
            if self.held.len() - self.taken < AHEAD {
                self.held.copy_within(self.start..self.filled, 0);
                self.passed += self.start as u64;
                self.taken -= self.start;
                self.filled -= self.start;
                self.start = 0;
            }
            match self.input.read(&mut self.held[self.filled..]) {
                Ok(0) => self.input_ended = true,
                Ok(count) => self.filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn read_header(&mut self) -> Result<(), GzipError> {
        self.fill()?;
        let bytes = &self.held[..self.filled.min(MAX_HEADER)];
        match header_length(bytes).map_err(GzipError::Header)? {
            Some(length) => {
                self.taken = length;
                Ok(())
            }
            None if bytes.len() < MAX_HEADER => Err(GzipError::Truncated),
            None => Err(GzipError::Header(format!(
                "its header is longer than {MAX_HEADER} bytes"
            ))),
        }
    }

    /// Decodes to the end of a block or of the room; whether that did anything.
    fn decode(&mut self) -> Result<bool, GzipError> {
        let (read, made) = (self.inflate.total_in(), self.inflate.total_out());
        let input = &self.held[self.taken..self.filled];
        let result = self
            .inflate
            .decompress(input, &mut self.output, InflateFlush::Block);
        let read = self.inflate.total_in() - read;
        let made = self.inflate.total_out() - made;
        self.taken += usize::try_from(read).map_err(io::Error::other)?;
        self.made = usize::try_from(made).map_err(io::Error::other)?;
        self.uncompressed += made;
        self.crc.update(&self.output[..self.made]);
        match result {
            Ok(_) => Ok(read > 0 || made > 0),
            Err(_) => Err(GzipError::Damaged(self.position())),
        }
    }

    /// Goes on without room for output, and tells by that where the decoder is.
    fn probe(&mut self) -> Result<Probe, GzipError> {
        let read = self.inflate.total_in();
        let input = &self.held[self.taken..self.filled];
        let result = self.inflate.decompress(input, &mut [], InflateFlush::Block);
        let read = self.inflate.total_in() - read;
        self.taken += usize::try_from(read).map_err(io::Error::other)?;
        match result {
            Ok(Status::StreamEnd) => Ok(Probe::End),
            Ok(_) if read > 0 => Ok(Probe::Boundary),
            Ok(_) => Ok(Probe::Inside),
            Err(_) => Err(GzipError::Damaged(self.position())),
        }
    }

    fn read_trailer(&mut self) -> Result<(), GzipError> {
        self.fill()?;
        let rest = &self.held[self.taken..self.filled];
        let Ok((trailer, _)) = Trailer::ref_from_prefix(rest) else {
            return Err(GzipError::Truncated);
        };
        for (what, stored, computed) in [
            ("CRC-32", trailer.crc.get(), self.crc.sum()),
            ("length", trailer.length.get(), self.crc.amount()),
        ] {
            if stored != computed {
                return Err(GzipError::Trailer {
                    what,
                    stored,
                    computed,
                });
            }
        }
        self.taken += size_of::<Trailer>();
        Ok(())
    }

    fn read_padding(&mut self) -> Result<(), GzipError> {
        self.fill()?;
        if self.held[self.taken..self.filled].starts_with(&MAGIC) {
            return Err(GzipError::MultipleMembers(self.position()));
        }
        loop {
            let rest = &self.held[self.taken..self.filled];
            if let Some(at) = rest.iter().position(|byte| *byte != 0) {
                return Err(GzipError::TrailingData(self.position() + at as u64));
            }
            if self.input_ended {
                return Ok(());
            }
            (self.start, self.taken) = (self.filled, self.filled);
            self.fill()?;
        }
    }
}
