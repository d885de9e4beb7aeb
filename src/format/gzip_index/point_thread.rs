//! Makes windows sparse, compresses and writes them, while the layer is inflated.

use std::io::{self, Seek, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use super::error::GzipError;
use super::inflater::Boundary;
use super::layout::Window;
use super::sparse::Start;
use super::writer::GzipIndexWriter;

/// Entries that wait, of up to half a MiB each.
const WAITING: usize = 2;

/// A chosen block.
#[derive(Debug)]
pub(super) struct Point {
    pub(super) boundary: Boundary,
    pub(super) bits: u8,
    pub(super) window: Box<Window>,
    pub(super) start: Start,
}

/// The thread that writes an index. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct PointThread<W> {
    /// `None` once the thread has ended.
    running: Option<(SyncSender<Point>, Running<W>)>,
}

type Running<W> = JoinHandle<io::Result<GzipIndexWriter<W>>>;

impl<W: Write + Seek + Send + 'static> PointThread<W> {
    /// # Errors
    /// When the system refuses the thread.
    pub(super) fn new(writer: GzipIndexWriter<W>) -> io::Result<Self> {
        let (sender, points) = sync_channel(WAITING);
        let thread = std::thread::Builder::new().name("gzip-index".to_owned());
        let thread = thread.spawn(move || write(writer, &points))?;
        Ok(Self {
            running: Some((sender, thread)),
        })
    }

    /// Writes an entry; waits while others wait.
    ///
    /// # Errors
    /// When one before it could not be written.
    pub(super) fn add(&mut self, point: Point) -> io::Result<()> {
        let sent = self.running.as_ref().map(|(sender, _)| sender.send(point));
        match sent {
            Some(Ok(())) => Ok(()),
            _ => Err(self.end().err().unwrap_or_else(ended)),
        }
    }

    /// Waits until all entries are written.
    ///
    /// # Errors
    /// When one could not be written.
    pub(super) fn end(&mut self) -> io::Result<GzipIndexWriter<W>> {
        let (sender, thread) = self.running.take().ok_or_else(ended)?;
        drop(sender);
        thread.join().unwrap_or_else(|_| Err(ended()))
    }
}

fn ended() -> io::Error {
    io::Error::other("the thread that writes the gzip index has ended unexpectedly: this is a bug")
}

fn write<W: Write + Seek>(
    mut writer: GzipIndexWriter<W>,
    points: &Receiver<Point>,
) -> io::Result<GzipIndexWriter<W>> {
    while let Ok(point) = points.recv() {
        let Point {
            boundary,
            bits,
            window,
            start,
        } = point;
        let sparse = start.sparse(window);
        let window = sparse.ok_or(GzipError::Undecided(boundary.compressed))?;
        writer.add(boundary, bits, &window)?;
    }
    Ok(writer)
}
