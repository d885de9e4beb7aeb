//! The transmission: many requests at once, answered as each is ready.

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Mutex, Semaphore, mpsc};
use tokio::task::{JoinSet, spawn_blocking};

use super::export::{Export, Extent};
use super::handshake::Agreed;
use super::message;
use super::protocol::{BASE_ALLOCATION_ID, Errno, MAX_PAYLOAD, chunk, command, request_flag};
use super::request::{Request, read_requests};
use super::wire::{ConnectionError, write};
use crate::format::block::BlockDevice as _;

/// Most requests of a connection that are worked on.
const MAX_IN_FLIGHT: usize = 64;
/// Most extents that one reply tells of.
const MAX_EXTENTS: usize = 1 << 16;
/// Most bytes of one chunk of data that may be split.
const MAX_CHUNK: u64 = 1 << 20;
/// A hole that is shorter than this is sent as data.
const MIN_HOLE: u64 = 4096;
/// Bytes of a permit for memory. A connection has as many as its longest request takes.
const PERMIT: u32 = 1 << 10;

/// Answers requests until the client wants no more; those that are begun are answered.
///
/// # Errors
/// When the client breaks the protocol, takes too long, or leaves.
pub async fn transmit<R, W>(
    (read, write): (R, W),
    export: Arc<Export>,
    agreed: Agreed,
    readers: Arc<Semaphore>,
) -> Result<(), ConnectionError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin + Send + 'static,
{
    let connection = Arc::new(Connection {
        export,
        agreed,
        readers,
        memory: Arc::new(Semaphore::new((MAX_PAYLOAD / PERMIT) as usize)),
        writer: Mutex::new(Some(write)),
    });
    let (sender, receiver) = mpsc::channel(1);
    let mut reading = std::pin::pin!(read_requests(read, sender));
    let mut answering = std::pin::pin!(answer_all(connection, receiver));
    tokio::select! {
        read = &mut reading => {
            read?;
            answering.await
        }
        answered = &mut answering => answered,
    }
}

async fn answer_all<W: AsyncWrite + Unpin + Send + 'static>(
    connection: Arc<Connection<W>>,
    mut requests: mpsc::Receiver<Request>,
) -> Result<(), ConnectionError> {
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            Some(done) = tasks.join_next(), if !tasks.is_empty() => {
                done.map_err(io::Error::other)??;
            }
            request = requests.recv(), if tasks.len() < MAX_IN_FLIGHT => {
                let Some(request) = request else { break };
                let connection = Arc::clone(&connection);
                tasks.spawn(async move { connection.answer(request).await });
            }
        }
    }
    while let Some(done) = tasks.join_next().await {
        done.map_err(io::Error::other)??;
    }
    Ok(())
}

/// Why a request is not answered as it should.
struct Refusal {
    error: Errno,
    text: String,
    offset: Option<u64>,
}

impl Refusal {
    fn new(error: Errno, text: &str) -> Self {
        Self {
            error,
            text: text.to_owned(),
            offset: None,
        }
    }
}

type Answer = Result<Result<(), Refusal>, ConnectionError>;

struct Connection<W> {
    export: Arc<Export>,
    agreed: Agreed,
    /// For all connections together: threads that read.
    readers: Arc<Semaphore>,
    /// For this connection: permits of [`PERMIT`] bytes.
    memory: Arc<Semaphore>,
    /// Gone once a message could not be written whole.
    writer: Mutex<Option<W>>,
}

impl<W: AsyncWrite + Unpin> Connection<W> {
    async fn send(&self, message: &[u8]) -> Result<(), ConnectionError> {
        let mut writer = self.writer.lock().await;
        let stream = writer.as_mut();
        let stream = stream.ok_or(io::Error::from(io::ErrorKind::BrokenPipe))?;
        let written = write(stream, message).await;
        if written.is_err() {
            *writer = None;
        }
        written
    }

    async fn answer(&self, request: Request) -> Result<(), ConnectionError> {
        let is_structured = self.agreed.structured
            && matches!(request.command, command::READ | command::BLOCK_STATUS);
        let answered = match self.check(request) {
            Err(refusal) => Err(refusal),
            Ok(()) => match request.command {
                command::READ if is_structured => self.read_structured(request).await?,
                command::READ => self.read_simple(request).await?,
                command::BLOCK_STATUS => self.block_status(request).await?,
                command::CACHE => match self.cache(request).await? {
                    Ok(()) => {
                        self.send(&message::simple(request.cookie, None)).await?;
                        Ok(())
                    }
                    Err(refusal) => Err(refusal),
                },
                // What was never written is durable.
                _ => {
                    self.send(&message::simple(request.cookie, None)).await?;
                    Ok(())
                }
            },
        };
        let Err(refusal) = answered else {
            return Ok(());
        };
        tracing::debug!(?request, error = %refusal.text, "a request is refused");
        let Refusal {
            error,
            text,
            offset,
        } = refusal;
        let message = if is_structured {
            message::error(request.cookie, error, &text, offset)
        } else {
            message::simple(request.cookie, Some(error))
        };
        self.send(&message).await
    }

    /// Whether a request can be answered.
    fn check(&self, request: Request) -> Result<(), Refusal> {
        let inval = |text: &str| Err(Refusal::new(Errno::Inval, text));
        let flags = match request.command {
            command::READ if self.agreed.structured => request_flag::DF,
            command::BLOCK_STATUS => request_flag::REQ_ONE,
            command::WRITE | command::TRIM | command::WRITE_ZEROES => {
                return Err(Refusal::new(Errno::Perm, "the disk is read-only"));
            }
            command::READ | command::FLUSH | command::CACHE => 0,
            _ => return inval("the command is not known"),
        };
        if request.flags & !flags != 0 {
            return inval("a flag is not known");
        }
        if request.command == command::FLUSH {
            return Ok(());
        }
        let end = request.offset.checked_add(u64::from(request.length));
        if end.is_none_or(|end| end > self.export.size()) {
            return inval("the request reaches beyond the disk");
        }
        match request.command {
            command::BLOCK_STATUS if !self.agreed.allocation => {
                inval("no metadata context was chosen")
            }
            command::BLOCK_STATUS if request.length == 0 => inval("the range is empty"),
            command::READ if request.length > MAX_PAYLOAD && self.agreed.structured => {
                Err(Refusal::new(Errno::Overflow, "too much is read at once"))
            }
            command::READ | command::CACHE if request.length > MAX_PAYLOAD => {
                inval("too much is asked for at once")
            }
            _ => Ok(()),
        }
    }

    /// The extents of a request.
    async fn extents(&self, request: Request, most: usize) -> io::Result<Vec<Extent>> {
        let export = Arc::clone(&self.export);
        let range = request.offset..request.offset + u64::from(request.length);
        self.blocking(move || Ok(export.extents(range, most))).await
    }

    /// Does what takes time on a thread of its own.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let permit = Arc::clone(&self.readers).acquire_owned().await;
        let permit = permit.map_err(io::Error::other)?;
        let done = spawn_blocking(move || {
            // The thread may outlive whoever waits for it.
            let _held = permit;
            work()
        });
        done.await.map_err(io::Error::other)?
    }

    /// A message of a header and `length` bytes of the disk.
    async fn with_data(&self, header: Vec<u8>, offset: u64, length: u64) -> io::Result<Vec<u8>> {
        let export = Arc::clone(&self.export);
        let length = usize::try_from(length).map_err(io::Error::other)?;
        self.blocking(move || {
            let mut message = header;
            let at = message.len();
            message.resize(at + length, 0);
            export.stack.read_at(offset, &mut message[at..])?;
            Ok(message)
        })
        .await
        .inspect_err(|error| tracing::warn!(offset, length, %error, "the disk cannot be read"))
    }

    async fn memory(&self, bytes: u64) -> io::Result<tokio::sync::SemaphorePermit<'_>> {
        let permits = bytes
            .div_ceil(PERMIT.into())
            .min((MAX_PAYLOAD / PERMIT).into());
        let permits = u32::try_from(permits).map_err(io::Error::other)?;
        let held = self.memory.acquire_many(permits).await;
        held.map_err(io::Error::other)
    }

    async fn read_simple(&self, request: Request) -> Answer {
        let length = u64::from(request.length);
        let _held = self.memory(length).await?;
        let header = message::simple(request.cookie, None);
        match self.with_data(header, request.offset, length).await {
            Ok(message) => {
                self.send(&message).await?;
                Ok(Ok(()))
            }
            Err(error) => Ok(Err(Refusal::new(Errno::Io, &error.to_string()))),
        }
    }

    async fn read_structured(&self, request: Request) -> Answer {
        let Request { cookie, flags, .. } = request;
        let extents = self.extents(request, usize::MAX).await?;
        let (pieces, largest) = if flags & request_flag::DF == 0 {
            (joined(extents), MAX_CHUNK)
        } else {
            (whole(&extents), MAX_PAYLOAD.into())
        };
        let Some(last) = pieces.last().map(|piece| piece.range.end) else {
            let flags = chunk::FLAG_DONE;
            let none = message::structured(cookie, flags, chunk::NONE, &[]);
            self.send(&none).await?;
            return Ok(Ok(()));
        };
        for piece in pieces {
            let (mut at, end) = (piece.range.start, piece.range.end);
            while at < end {
                let part = if piece.is_data {
                    (end - at).min(largest)
                } else {
                    end - at
                };
                let length = u32::try_from(part).map_err(io::Error::other)?;
                let done = at + part == last;
                let flags = if done { chunk::FLAG_DONE } else { 0 };
                if piece.is_data {
                    let _held = self.memory(part).await?;
                    let header = message::data_header(cookie, flags, at, length);
                    match self.with_data(header, at, part).await {
                        Ok(message) => self.send(&message).await?,
                        Err(error) => {
                            let mut refusal = Refusal::new(Errno::Io, &error.to_string());
                            refusal.offset = Some(at);
                            return Ok(Err(refusal));
                        }
                    }
                } else {
                    self.send(&message::hole(cookie, flags, at, length)).await?;
                }
                at += part;
            }
        }
        Ok(Ok(()))
    }

    async fn block_status(&self, request: Request) -> Answer {
        let most = if request.flags & request_flag::REQ_ONE == 0 {
            MAX_EXTENTS
        } else {
            1
        };
        let extents = self.extents(request, most).await?;
        let mut payload = BASE_ALLOCATION_ID.to_be_bytes().to_vec();
        for extent in extents {
            let length = u32::try_from(extent.bytes()).map_err(io::Error::other)?;
            payload.extend(length.to_be_bytes());
            payload.extend(extent.state().to_be_bytes());
        }
        let (flags, kind) = (chunk::FLAG_DONE, chunk::BLOCK_STATUS);
        let reply = message::structured(request.cookie, flags, kind, &payload);
        self.send(&reply).await?;
        Ok(Ok(()))
    }

    /// Reads, so that what is read is in the cache.
    async fn cache(&self, request: Request) -> Answer {
        for piece in joined(self.extents(request, usize::MAX).await?) {
            let (mut at, end) = (piece.range.start, piece.range.end);
            while piece.is_data && at < end {
                let part = (end - at).min(MAX_CHUNK);
                let _held = self.memory(part).await?;
                if let Err(error) = self.with_data(Vec::new(), at, part).await {
                    return Ok(Err(Refusal::new(Errno::Io, &error.to_string())));
                }
                at += part;
            }
        }
        Ok(Ok(()))
    }
}

/// Extents with short holes as data.
fn joined(extents: Vec<Extent>) -> Vec<Extent> {
    let mut joined: Vec<Extent> = Vec::new();
    for mut extent in extents {
        extent.is_data |= extent.bytes() < MIN_HOLE;
        match joined.last_mut() {
            Some(last) if last.is_data == extent.is_data => last.range.end = extent.range.end,
            _ => joined.push(extent),
        }
    }
    joined
}

/// Extents as one, of data if any has some.
fn whole(extents: &[Extent]) -> Vec<Extent> {
    let is_data = extents.iter().any(|extent| extent.is_data);
    let ends = extents.first().zip(extents.last());
    let range = ends.map(|(first, last)| first.range.start..last.range.end);
    range
        .map(|range| Extent { range, is_data })
        .into_iter()
        .collect()
}
