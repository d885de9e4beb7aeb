//! The streaming reader: extension headers, then the entry, then its data.

use std::io::{self, Read};
use std::ops::Range;

use super::error::{Problem, TarError};
use super::header::{self, Header};
use super::pax::Pax;
use super::sparse::{self, DataMap, PaxSparseMap};
use super::{BLOCK, Entry, EntryKind, MAX_EXTENSION, MAX_SPARSE_RANGES, Timestamp};

/// Reads the entries of a tar one after the other.
///
/// After [`next_entry`](Self::next_entry) the entry's data can be taken with
/// [`read_data`](Self::read_data); what is left of it is skipped by the next call.
pub struct TarReader<R> {
    input: R,
    /// Bytes taken from `input`.
    position: u64,
    /// Bytes of the current entry's data that were not taken yet.
    remaining: u64,
    /// Bytes behind the data up to the next header.
    padding: u64,
    /// Where the header being read starts, and the entry's name once it is known.
    at: (u64, Option<Vec<u8>>),
    finished: bool,
}

/// What stands before an entry's own header.
#[derive(Default)]
struct Extensions {
    pax: Option<Pax>,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
}

impl<R: Read> TarReader<R> {
    /// Reads the tar that `input` holds, from its first byte.
    pub fn new(input: R) -> Self {
        Self {
            input,
            position: 0,
            remaining: 0,
            padding: 0,
            at: (0, None),
            finished: false,
        }
    }

    /// The next entry, or `None` at the end: two zero blocks, or no more bytes where a
    /// header would start. What follows the two zero blocks is left in the input, and
    /// extension headers that no entry follows are nothing, as for Go.
    ///
    /// # Errors
    /// When the tar is damaged, truncated or holds what no layer may; the reader is of no
    /// use afterwards.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        let result = self.try_next();
        if !matches!(result, Ok(Some(_))) {
            self.finished = true;
        }
        result.map_err(|problem| self.error(problem))
    }

    /// Fills `buf` with the next bytes of the current entry's stored data: the ranges of
    /// [`Entry::data`], one after the other.
    ///
    /// # Errors
    /// When fewer bytes are left, in the entry or in the tar.
    pub fn read_data(&mut self, buf: &mut [u8]) -> Result<(), TarError> {
        let length = buf.len() as u64;
        let Some(left) = self.remaining.checked_sub(length) else {
            return Err(self.error(Problem::Truncated("an entry's data")));
        };
        let filled = self.fill(buf).map_err(|problem| self.error(problem))?;
        if filled < buf.len() {
            return Err(self.error(Problem::Truncated("an entry's data")));
        }
        self.remaining = left;
        Ok(())
    }

    /// Where in the tar the byte is that is read next.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Reads the padding behind the current entry's data, which was read to its end. Says whether
    /// it is there and all zero, as it is from every known writer; no specification asks for it.
    ///
    /// # Errors
    /// When the tar cannot be read.
    pub fn read_padding(&mut self) -> Result<bool, TarError> {
        if self.remaining > 0 {
            return Ok(false);
        }
        let mut block = [0; BLOCK];
        let padding = usize::try_from(std::mem::take(&mut self.padding)).unwrap_or_default();
        let padding = &mut block[..padding];
        let filled = self.fill(padding).map_err(|problem| self.error(problem))?;
        Ok(filled == padding.len() && padding.iter().all(|byte| *byte == 0))
    }

    /// An error in the data of the current entry, for a problem found by the caller.
    fn error(&self, problem: Problem) -> TarError {
        TarError {
            offset: self.at.0,
            entry: self.at.1.clone(),
            problem,
        }
    }

    /// The input, from the byte after the last one taken.
    pub fn into_inner(self) -> R {
        self.input
    }

    fn try_next(&mut self) -> Result<Option<Entry>, Problem> {
        if self.finished {
            return Ok(None);
        }
        self.skip_data()?;
        let mut extensions = Extensions::default();
        loop {
            self.at = (self.position, None);
            let Some(header) = self.read_header()? else {
                return Ok(None);
            };
            match header.type_flag() {
                b'x' => {
                    let block = self.read_extension(&header, "a PAX header")?;
                    extensions.pax = Some(Pax::parse(&block)?);
                }
                // Go, and so every runtime, takes nothing from it, whatever POSIX says. For
                // Go it is an entry too: what came before it is used up.
                b'g' => {
                    let block = self.read_extension(&header, "a global PAX header")?;
                    return Ok(Some(self.global_header(&header, Pax::parse(&block)?)));
                }
                b'L' => {
                    let block = self.read_extension(&header, "a long name")?;
                    extensions.long_name = until_nul(&block);
                }
                b'K' => {
                    let block = self.read_extension(&header, "a long link name")?;
                    extensions.long_link = until_nul(&block);
                }
                // A volume's label says nothing about files.
                b'V' => {
                    self.set_data(size_of(header.size()?)?);
                    self.skip_data()?;
                }
                _ => return self.entry(&header, extensions).map(Some),
            }
        }
    }

    /// The entry that a global header is.
    fn global_header(&self, header: &Header, pax: Pax) -> Entry {
        Entry {
            path: pax.path.unwrap_or_else(|| header.path()),
            kind: EntryKind::GlobalHeader,
            mode: 0,
            uid: None,
            gid: None,
            mtime: Timestamp::default(),
            xattrs: Vec::new(),
            size: 0,
            data: Vec::new(),
            offset: self.at.0,
        }
    }

    /// The entry that `header` and what came before it describe.
    fn entry(&mut self, header: &Header, extensions: Extensions) -> Result<Entry, Problem> {
        let mut pax = extensions.pax.unwrap_or_default();
        let named = extensions.long_name.or(pax.path.take());
        let mut path = named.unwrap_or_else(|| header.path());
        let flag = header.type_flag();
        // Before POSIX a directory was a file whose name ends in a slash.
        let was_directory = flag == 0 && path.ends_with(b"/");
        self.at.1 = Some(path.clone());
        let offset = self.at.0;
        let sparse = match flag {
            b'S' => None,
            _ => pax.sparse.map()?,
        };
        if let Some(name) = pax.sparse.name().filter(|_| sparse.is_some()) {
            path = name.to_vec();
            self.at.1 = Some(path.clone());
        }

        let link_path = pax.link_path.take();
        let link = || {
            extensions
                .long_link
                .or(link_path)
                .unwrap_or_else(|| header.link_name())
        };
        let device = || {
            let (major, minor) = header.device()?;
            let fits = |value, field| u32::try_from(value).map_err(|_| number(field, value));
            Ok::<_, Problem>((
                fits(major, "major device number")?,
                fits(minor, "minor device number")?,
            ))
        };
        let kind = match flag {
            _ if was_directory => EntryKind::Directory,
            b'0' | 0 | b'7' | b'S' => EntryKind::File,
            b'1' => EntryKind::HardLink(link()),
            b'2' => EntryKind::Symlink(link()),
            b'3' => device().map(|(major, minor)| EntryKind::CharDevice { major, minor })?,
            b'4' => device().map(|(major, minor)| EntryKind::BlockDevice { major, minor })?,
            // A directory of an incremental archive; its data lists what was in it.
            b'5' | b'D' => EntryKind::Directory,
            b'6' => EntryKind::Fifo,
            other => return Err(Problem::Type(char::from(other))),
        };

        let (mut size, mut data) = (0, Vec::new());
        if kind == EntryKind::File {
            let stored = match pax.size()? {
                Some(size) => size,
                None => header.size()?,
            };
            self.set_data(size_of(stored)?);
            (size, data) = if flag == b'S' {
                self.old_gnu_sparse(header, pax.real_size()?)?
            } else {
                self.file_data(&pax.sparse, sparse)?
            };
        } else {
            if sparse.is_some() {
                return Err(Problem::Sparse("only files have a map"));
            }
            // Only files have data: Go reads none for the others, whatever their size says.
            self.set_data(if flag == b'D' {
                size_of(header.size()?)?
            } else {
                0
            });
        }

        let record = (pax.uid()?, pax.gid()?, pax.mtime()?);
        let mut xattrs = pax.xattrs;
        xattrs.sort_unstable();

        Ok(Entry {
            kind,
            // Masked: 0 to 0o7777.
            mode: u16::try_from(header.mode()? & 0o7777).unwrap_or_default(),
            uid: id(record.0, || header.uid())?,
            gid: id(record.1, || header.gid())?,
            mtime: match record.2 {
                Some(mtime) => mtime,
                None => Timestamp {
                    secs: header.mtime()?,
                    nanos: 0,
                },
            },
            path,
            xattrs,
            size,
            data,
            offset,
        })
    }

    /// Size and ranges of a file, by its map if it has one.
    fn file_data(
        &mut self,
        records: &sparse::PaxSparse,
        map: Option<PaxSparseMap>,
    ) -> Result<(u64, Vec<Range<u64>>), Problem> {
        let stored = self.remaining;
        let pairs = match map {
            None => {
                let whole = (stored > 0).then_some(0..stored);
                return Ok((stored, whole.into_iter().collect()));
            }
            Some(PaxSparseMap::Records(pairs)) => pairs,
            Some(PaxSparseMap::InData) => {
                let mut map = DataMap::default();
                let mut block = [0; BLOCK];
                loop {
                    let left = self.remaining.checked_sub(BLOCK as u64);
                    let filled = self.fill(&mut block)?;
                    self.remaining = left
                        .filter(|_| filled == BLOCK)
                        .ok_or(Problem::Truncated("a sparse file's map"))?;
                    if map.take(&block)? {
                        break map.pairs();
                    }
                }
            }
        };
        let size = records.size(stored)?;
        Ok((size, sparse::checked(&pairs, size, self.remaining)?))
    }

    /// Size and ranges of a file with an old GNU sparse header and its extension blocks.
    fn old_gnu_sparse(
        &mut self,
        header: &Header,
        real_size: Option<i64>,
    ) -> Result<(u64, Vec<Range<u64>>), Problem> {
        let (mut pairs, mut more) = header.gnu_sparse()?;
        while more {
            let mut block = [0; BLOCK];
            if self.fill(&mut block)? < BLOCK {
                return Err(Problem::Truncated("a sparse file's map"));
            }
            let (next, another) = header::gnu_sparse_extension(&block)?;
            if pairs.len() + next.len() > MAX_SPARSE_RANGES || (next.is_empty() && another) {
                return Err(Problem::Sparse("the map has too many ranges"));
            }
            pairs.extend(next);
            more = another;
        }
        let size = size_of(match real_size {
            Some(size) => size,
            None => header.gnu_real_size()?,
        })?;
        Ok((size, sparse::checked(&pairs, size, self.remaining)?))
    }

    /// The next header block; `None` at the end of the tar.
    fn read_header(&mut self) -> Result<Option<Header>, Problem> {
        let mut block = [0; BLOCK];
        match self.fill(&mut block)? {
            0 => return Ok(None),
            BLOCK => {}
            _ => return Err(Problem::Truncated("a header")),
        }
        if block.iter().any(|&byte| byte != 0) {
            return Header::new(&block).map(Some);
        }
        match self.fill(&mut block)? {
            BLOCK if block.iter().any(|&byte| byte != 0) => Err(Problem::LoneZeroBlock),
            _ => Ok(None),
        }
    }

    /// The whole data of an extension header, which is never large.
    fn read_extension(&mut self, header: &Header, what: &'static str) -> Result<Vec<u8>, Problem> {
        let size = size_of(header.size()?)?;
        if size > MAX_EXTENSION {
            return Err(Problem::TooLarge {
                what,
                size,
                limit: MAX_EXTENSION,
            });
        }
        self.set_data(size);
        let mut data = vec![0; usize::try_from(size).unwrap_or_default()];
        if self.fill(&mut data)? < data.len() {
            return Err(Problem::Truncated(what));
        }
        self.remaining = 0;
        self.skip_data()?;
        Ok(data)
    }

    fn set_data(&mut self, size: u64) {
        self.remaining = size;
        self.padding = size.wrapping_neg() % BLOCK as u64;
    }

    /// Skips what is left of the current entry's data, and its padding. The padding of the
    /// last entry may be missing.
    fn skip_data(&mut self) -> Result<(), Problem> {
        let mut scratch = [0; 8192];
        while self.remaining > 0 {
            let take = usize::try_from(self.remaining)
                .map_or(scratch.len(), |left| left.min(scratch.len()));
            let filled = self.fill(&mut scratch[..take])?;
            if filled < take {
                return Err(Problem::Truncated("an entry's data"));
            }
            self.remaining -= filled as u64;
        }
        let padding = usize::try_from(std::mem::take(&mut self.padding)).unwrap_or_default();
        self.fill(&mut scratch[..padding])?;
        Ok(())
    }

    /// Fills `buf` as far as the input goes, and says how far that was.
    fn fill(&mut self, buf: &mut [u8]) -> Result<usize, Problem> {
        let mut filled = 0;
        while filled < buf.len() {
            match self.input.read(&mut buf[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Problem::Read(error)),
            }
        }
        self.position += filled as u64;
        Ok(filled)
    }
}

fn number(field: &'static str, value: i64) -> Problem {
    Problem::Number {
        field,
        text: value.to_string(),
    }
}

fn size_of(size: i64) -> Result<u64, Problem> {
    u64::try_from(size).map_err(|_| number("size", size))
}

/// What is in front of the first NUL, if that is anything: an empty name is none.
fn until_nul(block: &[u8]) -> Option<Vec<u8>> {
    let name = header::until_nul(block);
    (!name.is_empty()).then(|| name.to_vec())
}

/// An owner from the PAX record or else the header, as `chown` takes it.
fn id(
    record: Option<i64>,
    written: impl FnOnce() -> Result<i64, Problem>,
) -> Result<Option<u32>, Problem> {
    let value = match record {
        Some(value) => value,
        None => written()?,
    };
    let [.., b3, b2, b1, b0] = value.to_be_bytes();
    let value = u32::from_be_bytes([b3, b2, b1, b0]);
    Ok((value != u32::MAX).then_some(value))
}
