//! Verifies, inflates and hashes a layer in threads of its own, into a bounded queue of reused
//! buffers.
//!
//! ```text
//! chunks ─┬→ [SHA-256: digest]
//!         └→ [inflate] ─┬→ [SHA-256: diff id]
//!                       └→ queue → reader of the tar
//! ```
//!
//! A diff id that is known of these compressed bytes is not computed again.

mod source;

use std::fs::File;
use std::io::{self, Read, Write as _};
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::thread::{self, JoinHandle};

use bytes::Bytes;
use parking_lot::Mutex;

use source::{ChunkHasher, Failure, Source, fail};

use super::error::{LayerError, NoRandomAccess};
use super::inflate::{HEAD, inflate_within, sniff};
use super::input::{LayerInput, OnProgress, Progress, RandomAccess, TarCopy};
use super::window::{self, Windows};
use crate::format::gzip_index::{DEFAULT_SPAN, GzipError, GzipIndexer};
use crate::oci::Compression;
use crate::oci::digest::{ChainId, DiffId, Digest, Hasher};

/// Bytes of tar in one buffer of the queue.
const BUFFER_BYTES: usize = 1 << 20;
/// Most buffers of one layer: at most 16 MiB of tar are ahead of the reader.
const MAX_BUFFERS: usize = 16;
/// Memory of a layer's threads besides: the decoder and the chunks that wait.
const THREAD_BYTES: u64 = 2 << 20;

/// The number of buffers for a layer of so many compressed bytes. A small layer has one each for
/// the thread that inflates, the one that hashes and the reader.
fn buffers(compressed: u64) -> usize {
    let wanted = usize::try_from(compressed >> 17).unwrap_or(MAX_BUFFERS);
    wanted.saturating_add(3).min(MAX_BUFFERS)
}

/// Bytes of memory that a layer of so many compressed bytes takes while it is fetched and
/// inflated, with the zstd window that its media type makes likely.
pub(super) fn working_set(compressed: u64, media_type: &str) -> u64 {
    (buffers(compressed) * BUFFER_BYTES) as u64 + THREAD_BYTES + window::likely(media_type)
}

/// A layer that is being fetched and inflated ahead, into a bounded queue.
///
/// Dropping it stops its threads and waits for them, which takes as long as the current
/// `next` of the layer's chunks.
pub struct Inflating {
    /// What the manifest and the config said of the layer.
    pub(super) input: Expected,
    tar: Option<TarStream>,
    inflater: Option<JoinHandle<Result<(), LayerError>>>,
    hasher: Option<JoinHandle<Digest>>,
    cancelled: Cancel,
    access: Arc<Mutex<Option<TarAccess>>>,
}

/// How a layer's tar is read in the compressed layer.
#[derive(Debug)]
pub(super) enum TarAccess {
    /// The layer is the tar.
    Plain,
    /// By this index of the gzip stream.
    Gzip(File),
}

/// Cancels the work on a layer: its tar cannot be read any further.
#[derive(Debug, Clone, Default)]
pub(super) struct Cancel(Arc<AtomicBool>);

impl Cancel {
    pub(super) fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn check(&self) -> io::Result<()> {
        if self.0.load(Ordering::Relaxed) {
            // Not `Interrupted`: readers try that again.
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the conversion was cancelled",
            ));
        }
        Ok(())
    }
}

/// A [`LayerInput`] without its bytes.
pub(super) struct Expected {
    pub(super) diff_id: DiffId,
    /// The chain that the layer completes.
    pub(super) chain: ChainId,
    /// The chain below it.
    pub(super) parent: Option<ChainId>,
}

/// Starts the threads that verify and inflate `input` into a queue.
///
/// At most 16 MiB are ahead of the reader, for a small layer less. `max_layer_size` is how many
/// bytes the layer may inflate to. `on_progress` is called from the inflating thread, often; it must be quick.
///
/// # Errors
/// When no thread can be started. Errors of the layer are returned by
/// [`finish`](Inflating::finish).
pub fn prepare(
    input: LayerInput,
    max_layer_size: u64,
    on_progress: OnProgress,
) -> Result<Inflating, LayerError> {
    let (to_tar, tar_queue) = mpsc::channel();
    let LayerInput {
        chunks,
        digest,
        size,
        diff_id,
        is_diff_id_known,
        chain_id,
        parent_chain_id,
        copy,
        windows,
        random_access,
    } = input;
    let (to_hash, hasher) = if is_diff_id_known {
        (None, None)
    } else {
        let (to_hash, hash_queue) = mpsc::channel::<Arc<Buffer>>();
        let mut hash = Hasher::like(&diff_id.0);
        let hasher = spawn("diff-id", move || {
            for buffer in hash_queue {
                hash.update(&buffer.data);
            }
            hash.finish()
        })?;
        (Some(to_hash), Some(hasher))
    };
    let hash = ChunkHasher::new(&digest)?;
    let access = Arc::new(Mutex::new(None));
    let known_access = Arc::clone(&access);
    let inflater = spawn("inflate", move || {
        let failure = Failure::default();
        let mut source = Source {
            chunks,
            current: Bytes::new(),
            ended: false,
            hash: Some(hash),
            digest,
            size,
            taken: 0,
            inflated: 0,
            on_progress,
            failure: Arc::clone(&failure),
        };
        let queues = Queues {
            pool: Pool::new(buffers(size)),
            to_hash,
            to_tar,
            copy,
            windows,
        };
        let result = match random_access {
            None => run(&mut source, max_layer_size, queues),
            Some(wanted) => run_indexed(&mut source, max_layer_size, queues, wanted)
                .map(|access| *known_access.lock() = Some(access)),
        };
        let is_explained = failure.lock().is_some();
        let is_of_the_bytes = matches!(
            result,
            Err(LayerError::Inflate(_) | LayerError::NoRandomAccess(_))
        );
        if is_of_the_bytes && !is_explained {
            // Reads to the end, to distinguish a transfer error from a layer that was pushed so.
            source.drain();
        }
        // An error of the source is the cause of the decoder's error.
        let cause = failure.lock().take();
        cause.map_or(result, Err)
    })?;
    let cancelled = Cancel::default();
    Ok(Inflating {
        input: Expected {
            diff_id,
            chain: chain_id,
            parent: parent_chain_id,
        },
        tar: Some(TarStream::new(tar_queue, cancelled.clone())),
        inflater: Some(inflater),
        hasher,
        cancelled,
        access,
    })
}

/// Starts the thread that reads the tar of a layer that was verified before.
///
/// # Errors
/// When no thread can be started.
pub(super) fn replay(input: Replay) -> Result<Inflating, LayerError> {
    let Replay {
        mut tar,
        size,
        expected,
        on_progress,
    } = input;
    let (to_tar, tar_queue) = mpsc::channel();
    let reader = spawn("read-again", move || {
        let mut pool = Pool::new(buffers(size));
        let mut total = 0u64;
        loop {
            let mut data = pool.take();
            let filled = tar.read(&mut data).map_err(LayerError::Output)?;
            data.truncate(filled);
            total = total.saturating_add(filled as u64);
            if filled == 0 {
                on_progress(Progress {
                    compressed: size,
                    inflated: total,
                });
                let sent = to_tar.send(Message::End);
                return sent.map_err(|_| LayerError::Abandoned);
            }
            let returning = pool.returning.clone();
            let sent = to_tar.send(Message::Data(Arc::new(Buffer {
                data,
                pool: returning,
            })));
            sent.map_err(|_| LayerError::Abandoned)?;
        }
    })?;
    let cancelled = Cancel::default();
    Ok(Inflating {
        input: expected,
        tar: Some(TarStream::new(tar_queue, cancelled.clone())),
        inflater: Some(reader),
        hasher: None,
        cancelled,
        access: Arc::default(),
    })
}

/// A layer that was verified before, and whose tar was kept.
pub(super) struct Replay {
    /// The whole tar.
    pub(super) tar: Box<dyn Read + Send>,
    /// Length of the compressed layer.
    pub(super) size: u64,
    pub(super) expected: Expected,
    pub(super) on_progress: OnProgress,
}

impl Inflating {
    /// A handle that cancels the work on this layer.
    pub(super) fn canceller(&self) -> Cancel {
        self.cancelled.clone()
    }

    /// The tar, to be read to its end.
    pub(super) fn tar(&mut self) -> Option<&mut TarStream> {
        self.tar.as_mut()
    }

    /// How the tar is read in the compressed layer, if that was wanted; known once
    /// [`finish`](Self::finish) has succeeded.
    pub(super) fn access(&self) -> Arc<Mutex<Option<TarAccess>>> {
        Arc::clone(&self.access)
    }

    /// Waits for the threads; succeeds if the layer is what the manifest and the config say. What
    /// was not read of the tar is discarded.
    pub(super) fn finish(mut self) -> Result<(), LayerError> {
        self.join()
    }

    fn join(&mut self) -> Result<(), LayerError> {
        // A thread that waits for a free buffer or sends to the queue gets an error, and ends.
        self.tar = None;
        let inflated = self.inflater.take().map(JoinHandle::join);
        let hashed = self.hasher.take().map(JoinHandle::join);
        if let Some(inflated) = inflated {
            inflated.map_err(|_| LayerError::Panicked("inflating"))??;
        }
        // What is read again, or whose diff id is known, was hashed the first time.
        let Some(hashed) = hashed else {
            return Ok(());
        };
        let actual = hashed.map_err(|_| LayerError::Panicked("hashing"))?;
        if actual == self.input.diff_id.0 {
            return Ok(());
        }
        Err(LayerError::DiffId {
            expected: self.input.diff_id.clone(),
            actual,
        })
    }
}

impl Drop for Inflating {
    fn drop(&mut self) {
        // The result is of no interest any more.
        let _ = self.join();
    }
}

fn spawn<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, LayerError> {
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(work)
        .map_err(LayerError::Thread)
}

/// A buffer that returns to its pool when it is dropped.
struct Buffer {
    data: Vec<u8>,
    pool: Sender<Vec<u8>>,
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // The pool is dropped once the layer is inflated.
        let _ = self.pool.send(mem::take(&mut self.data));
    }
}

/// The buffers of one layer. Their number is what bounds the queues.
struct Pool {
    returning: Sender<Vec<u8>>,
    returned: Receiver<Vec<u8>>,
    unmade: usize,
}

impl Pool {
    fn new(buffers: usize) -> Self {
        let (returning, returned) = mpsc::channel();
        Self {
            returning,
            returned,
            unmade: buffers,
        }
    }

    /// A full-length buffer; waits for one when all are in use.
    fn take(&mut self) -> Vec<u8> {
        let returned = match self.returned.try_recv() {
            Err(TryRecvError::Empty) if self.unmade == 0 => self.returned.recv().ok(),
            other => other.ok(),
        };
        let mut data = returned.unwrap_or_else(|| {
            self.unmade = self.unmade.saturating_sub(1);
            Vec::new()
        });
        data.resize(BUFFER_BYTES, 0);
        data
    }
}

struct Queues {
    pool: Pool,
    /// `None` where the diff id is known.
    to_hash: Option<Sender<Arc<Buffer>>>,
    to_tar: Sender<Message>,
    copy: Option<TarCopy>,
    windows: Windows,
}

enum Message {
    Data(Arc<Buffer>),
    /// The tar is complete; if the queue ends without this, inflating failed.
    End,
}

/// Inflates all of `source` into the queues.
fn run(source: &mut Source, max_layer_size: u64, mut queues: Queues) -> Result<(), LayerError> {
    let head = head(source).map_err(LayerError::Inflate)?;
    let totals = Totals::of(source, max_layer_size);
    let failure = Arc::clone(&source.failure);
    let mut windows = mem::take(&mut queues.windows);
    let grant = move |window| windows.grant(window).map_err(|cause| fail(&failure, cause));
    let input = Read::chain(io::Cursor::new(head.clone()), source);
    let tar = inflate_within(&head, input, Box::new(grant));
    let mut tar = tar.map_err(LayerError::Inflate)?;
    pump(&mut tar, &totals, &mut queues)
}

/// As [`run`], and sees how the tar can be read in the compressed layer.
fn run_indexed(
    source: &mut Source,
    max_layer_size: u64,
    mut queues: Queues,
    wanted: RandomAccess,
) -> Result<TarAccess, LayerError> {
    let head = head(source).map_err(LayerError::Inflate)?;
    let totals = Totals::of(source, max_layer_size);
    let compression = sniff(&head).map_err(LayerError::Inflate)?;
    let mut input = Read::chain(io::Cursor::new(head), &mut *source);
    match compression {
        None => {
            pump(&mut input, &totals, &mut queues)?;
            Ok(TarAccess::Plain)
        }
        Some(Compression::Gzip) => {
            let index = io::BufWriter::new(wanted.index);
            let indexer =
                GzipIndexer::new(input, index, DEFAULT_SPAN).map_err(LayerError::Output)?;
            let mut tar = indexer;
            pump(&mut tar, &totals, &mut queues)?;
            let indexed = tar.finish().map_err(|error| unindexed(error.into()))?;
            if indexed.max_gap > wanted.max_gap {
                return Err(LayerError::NoRandomAccess(NoRandomAccess::Gap {
                    gap: indexed.max_gap,
                    limit: wanted.max_gap,
                }));
            }
            let file = indexed.file.into_inner();
            let file = file.map_err(|error| LayerError::Output(error.into_error()))?;
            Ok(TarAccess::Gzip(file))
        }
        // Of the others, `sniff` lets only this one pass.
        Some(_) => Err(LayerError::NoRandomAccess(NoRandomAccess::Zstd)),
    }
}

/// The error of a gzip layer, which may be a good one of which no index can be made.
fn unindexed(error: io::Error) -> LayerError {
    match GzipError::of(&error) {
        Some(cause) if cause.is_unsupported() => {
            LayerError::NoRandomAccess(NoRandomAccess::Gzip(cause.to_string()))
        }
        _ => LayerError::Inflate(error),
    }
}

/// What the tar of a layer is counted against, and who hears of it.
struct Totals {
    compressed: u64,
    max_layer_size: u64,
    on_progress: OnProgress,
}

impl Totals {
    fn of(source: &Source, max_layer_size: u64) -> Self {
        Self {
            compressed: source.size,
            max_layer_size,
            on_progress: Arc::clone(&source.on_progress),
        }
    }
}

/// Reads all of `tar` into the queues.
fn pump(tar: &mut dyn Read, totals: &Totals, queues: &mut Queues) -> Result<(), LayerError> {
    let mut total = 0u64;
    loop {
        let mut data = queues.pool.take();
        let mut filled = 0;
        while filled < data.len() {
            let space = data.get_mut(filled..).unwrap_or_default();
            match tar.read(space).map_err(unindexed)? {
                0 => break,
                count => filled += count,
            }
        }
        let ended = filled < data.len();
        total = total.saturating_add(filled as u64);
        if total > totals.max_layer_size {
            return Err(LayerError::TooLarge {
                limit: totals.max_layer_size,
            });
        }
        // Shortened for its readers; the capacity remains for the next use.
        data.truncate(filled);
        if filled > 0 {
            // A copy that fails is given up; the layer is converted without it.
            let copied = queues.copy.as_mut().map(|copy| copy.write_all(&data));
            if copied.is_some_and(|copied| copied.is_err()) {
                queues.copy = None;
            }
            let buffer = Arc::new(Buffer {
                data,
                pool: queues.pool.returning.clone(),
            });
            let to_hash = queues.to_hash.as_ref();
            let hashed = to_hash.is_none_or(|queue| queue.send(Arc::clone(&buffer)).is_ok());
            if !hashed || queues.to_tar.send(Message::Data(buffer)).is_err() {
                return Err(LayerError::Abandoned);
            }
        }
        if ended {
            (totals.on_progress)(Progress {
                compressed: totals.compressed,
                inflated: total,
            });
            let sent = queues.to_tar.send(Message::End);
            return sent.map_err(|_| LayerError::Abandoned);
        }
    }
}

/// The first bytes, as many as it takes to detect the compression.
fn head(source: &mut Source) -> io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(HEAD);
    source.take(HEAD as u64).read_to_end(&mut head)?;
    Ok(head)
}

/// The tar as a reader, from the queue.
pub(super) struct TarStream {
    queue: Receiver<Message>,
    current: Option<Arc<Buffer>>,
    offset: usize,
    ended: bool,
    cancelled: Cancel,
}

impl TarStream {
    fn new(queue: Receiver<Message>, cancelled: Cancel) -> Self {
        Self {
            queue,
            current: None,
            offset: 0,
            ended: false,
            cancelled,
        }
    }

    /// Reads what follows the end of the archive, so that all of the layer is hashed.
    pub(super) fn drain(&mut self) -> io::Result<()> {
        self.current = None;
        while !self.ended {
            self.next_message()?;
            self.current = None;
        }
        Ok(())
    }

    fn next_message(&mut self) -> io::Result<()> {
        self.cancelled.check()?;
        match self.queue.recv() {
            Ok(Message::Data(buffer)) => {
                self.current = Some(buffer);
                self.offset = 0;
                Ok(())
            }
            Ok(Message::End) => {
                self.ended = true;
                Ok(())
            }
            // The result of the inflating thread is the cause.
            Err(_) => Err(io::Error::new(
                io::ErrorKind::BrokenPipe,
                "the layer could not be inflated",
            )),
        }
    }
}

impl Read for TarStream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.cancelled.check()?;
        loop {
            let rest = self
                .current
                .as_ref()
                .and_then(|buffer| buffer.data.get(self.offset..))
                .unwrap_or_default();
            if !rest.is_empty() || buf.is_empty() {
                let count = rest.len().min(buf.len());
                buf[..count].copy_from_slice(&rest[..count]);
                self.offset += count;
                return Ok(count);
            }
            self.current = None;
            if self.ended {
                return Ok(0);
            }
            self.next_message()?;
        }
    }
}

#[cfg(test)]
mod tests;
