//! Which blocks become entries: the reference's choice (`IndexFilterRecorder`), for each multiple
//! of the span the last block that begins at or before it.

use std::collections::VecDeque;
use std::io::{self, Seek, Write};

use super::error::GzipError;
use super::inflater::{Boundary, Step};
use super::layout::{WINDOW, Window};
use super::point_thread::{Point, PointThread};
use super::sparse::Start;
use super::trial::{Known, Place, Trial};
use super::writer::GzipIndexWriter;

/// Bytes that are no longer needed before they are moved out of the way.
const SLACK: usize = 512 << 10;
/// Compressed bytes behind a block up to which more is waited for, to make its window sparse: 32 KiB
/// of tar take less, but for empty blocks between them.
const MAX_START: u64 = 256 << 10;

/// The last bytes of a stream.
#[derive(Debug, Default)]
struct Tail {
    bytes: Vec<u8>,
    /// Bytes of the stream before them.
    passed: u64,
}

impl Tail {
    fn end(&self) -> u64 {
        self.passed + self.bytes.len() as u64
    }

    /// Bytes from `offset` of the stream on.
    fn behind(&self, offset: u64) -> &[u8] {
        let skip = usize::try_from(offset.saturating_sub(self.passed)).unwrap_or(usize::MAX);
        self.bytes.get(skip..).unwrap_or_default()
    }

    /// Forgets what is before `offset`, not always at once.
    fn forget(&mut self, offset: u64) {
        let before = usize::try_from(offset.saturating_sub(self.passed)).unwrap_or(usize::MAX);
        let before = before.min(self.bytes.len());
        if before >= SLACK {
            self.bytes.drain(..before);
            self.passed += before as u64;
        }
    }
}

/// Chooses the entries of an index from a stream's steps and writes them.
///
/// Both streams are held from the last block's begin, for at most a span of the tar: beyond that
/// the block is chosen.
#[derive(Debug)]
pub(super) struct Points<W> {
    writer: PointThread<W>,
    span: u64,
    /// The next multiple of the span.
    goal: u64,
    compressed: Tail,
    output: Tail,
    /// Where the first block begins.
    first: Option<Boundary>,
    /// The last block, if it is not chosen.
    last: Option<Boundary>,
    trial: Option<Trial>,
    /// Blocks of which the bits are known, and what follows is not yet.
    decided: VecDeque<Decided>,
}

/// A chosen block.
#[derive(Debug)]
struct Decided {
    boundary: Boundary,
    bits: u8,
    window: Box<Window>,
}

impl<W: Write + Seek + Send + 'static> Points<W> {
    /// Chooses for every `span` bytes of the tar, into `writer`.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub(super) fn new(writer: GzipIndexWriter<W>, span: u32) -> io::Result<Self> {
        Ok(Self {
            writer: PointThread::new(writer)?,
            span: u64::from(span),
            goal: 0,
            compressed: Tail::default(),
            output: Tail::default(),
            first: None,
            last: None,
            trial: None,
            decided: VecDeque::new(),
        })
    }

    /// Takes the next step of the stream.
    ///
    /// # Errors
    /// When the index cannot be written, or the bits of a block cannot be told.
    pub(super) fn step(&mut self, step: &Step<'_>) -> Result<(), GzipError> {
        self.compressed.bytes.extend_from_slice(step.compressed);
        self.output.bytes.extend_from_slice(step.output);
        if let Some(block) = self.last
            && self.goal < self.output.end()
        {
            self.choose(block)?;
        }
        while self.goal < self.output.end() {
            self.goal += self.span;
        }
        self.go_on(step)?;
        if let Some(block) = step.boundary {
            self.first.get_or_insert(block);
            self.last = Some(block);
            if block.uncompressed == self.goal {
                self.choose(block)?;
                self.goal += self.span;
            }
        }
        self.write_decided(step.last)?;
        self.forget();
        Ok(())
    }

    /// Writes the entries behind which enough is known: 32 KiB, or all if the stream `ends`.
    fn write_decided(&mut self, ends: bool) -> Result<(), GzipError> {
        while let Some(block) = self.decided.front() {
            let at = block.boundary;
            let known = self.output.end() - at.uncompressed;
            let compressed = self.compressed.end() - at.compressed;
            let is_whole = ends || known >= WINDOW as u64;
            if !is_whole && compressed <= MAX_START {
                return Ok(());
            }
            let output = self.output.behind(at.uncompressed);
            let start = Start {
                bits: block.bits,
                shared: self.compressed.behind(at.compressed - 1)[0],
                compressed: self.compressed.behind(at.compressed).to_vec(),
                output: output[..output.len().min(WINDOW)].to_vec(),
                is_whole,
            };
            let Some(Decided {
                boundary,
                bits,
                window,
            }) = self.decided.pop_front()
            else {
                return Ok(());
            };
            self.writer.add(Point {
                boundary,
                bits,
                window,
                start,
            })?;
        }
        Ok(())
    }

    /// Begins to find out the bits of `block`.
    fn choose(&mut self, block: Boundary) -> Result<(), GzipError> {
        self.last = None;
        // 32 KiB, on their way to the heap.
        #[allow(clippy::large_stack_arrays)]
        let mut window = Box::new([0; WINDOW]);
        let before = self
            .output
            .behind(block.uncompressed.saturating_sub(WINDOW as u64));
        let length = usize::try_from(block.uncompressed)
            .unwrap_or(WINDOW)
            .min(WINDOW);
        window[WINDOW - length..].copy_from_slice(&before[..length]);
        let shared = self.compressed.behind(block.compressed - 1)[0];
        let whole = self
            .first
            .is_none_or(|first| first.compressed == block.compressed);
        let trial = Trial::new(block, window, shared, whole);
        match self.trial.replace(trial) {
            None => Ok(()),
            // The bits of the one before are still open, a whole span later.
            Some(open) => Err(GzipError::Undecided(open.boundary.compressed)),
        }
    }

    fn go_on(&mut self, step: &Step<'_>) -> Result<(), GzipError> {
        let Some(trial) = &mut self.trial else {
            return Ok(());
        };
        let place = match step.boundary {
            _ if step.last => Place::End,
            Some(_) => Place::Boundary,
            None => Place::Inside,
        };
        let known = Known {
            compressed: &self.compressed.bytes,
            output: &self.output.bytes,
            end: Boundary {
                uncompressed: self.output.end(),
                compressed: self.compressed.end(),
            },
        };
        trial.go_on(known, place);
        if trial.failed() {
            return Err(GzipError::Undecided(trial.boundary.compressed));
        }
        if let Some(bits) = trial.decided(place)
            && let Some(trial) = self.trial.take()
        {
            self.decided.push_back(Decided {
                boundary: trial.boundary,
                bits,
                window: trial.window,
            });
        }
        Ok(())
    }

    /// Forgets what neither a window nor a trial can need.
    fn forget(&mut self) {
        let end = Boundary {
            uncompressed: self.output.end(),
            compressed: self.compressed.end(),
        };
        let last = self.last.unwrap_or(end);
        let trial = self.trial.as_ref().map_or(end, Trial::needs);
        let decided = self.decided.front().map_or(end, |block| block.boundary);
        let window = last.uncompressed.saturating_sub(WINDOW as u64);
        let output = window.min(trial.uncompressed).min(decided.uncompressed);
        self.output.forget(output);
        let shared = last.compressed.min(decided.compressed).saturating_sub(1);
        self.compressed.forget(shared.min(trial.compressed));
    }

    /// Finishes the index of a stream that ended, of these sizes in bytes.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn finish(
        mut self,
        compressed: u64,
        uncompressed: u64,
    ) -> io::Result<(W, u64, u64)> {
        self.writer.end()?.finish(compressed, uncompressed)
    }
}
