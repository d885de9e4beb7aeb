//! The streaming reader: extension headers, then the entry, then its data.

use std::io::{self, Read};
use std::ops::Range;

use super::error::{Problem, TarError};
use super::header::{self, Header};
use super::pax::Pax;
use super::sparse::{self, DataMap, PaxSparseMap};
use super::{BLOCK, Entry, EntryKind, MAX_EXTENSION, MAX_SPARSE_RANGES, Timestamp, acl};

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
    /// header would start. What follows the two zero blocks is left in the input.
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
        let mut extended = false;
        loop {
            self.at = (self.position, None);
            let Some(header) = self.read_header()? else {
                if extended {
                    return Err(Problem::Truncated("an entry's headers"));
                }
                return Ok(None);
            };
            match header.type_flag() {
                b'x' => {
                    let block = self.read_extension(&header, "a PAX header")?;
                    let mut pax = Pax::default();
                    pax.merge(&block)?;
                    extensions.pax = Some(pax);
                }
                // Go, and so every runtime, takes nothing from it, whatever POSIX says.
                b'g' => {
                    let block = self.read_extension(&header, "a global PAX header")?;
                    Pax::default().merge(&block)?;
                    continue;
                }
                b'L' => {
                    let block = self.read_extension(&header, "a long name")?;
                    extensions.long_name = Some(header::until_nul(&block).to_vec());
                }
                b'K' => {
                    let block = self.read_extension(&header, "a long link name")?;
                    extensions.long_link = Some(header::until_nul(&block).to_vec());
                }
                // A volume's label says nothing about files.
                b'V' => {
                    self.set_data(size_of(header.size()?)?);
                    self.skip_data()?;
                    continue;
                }
                _ => return self.entry(&header, extensions).map(Some),
            }
            extended = true;
        }
    }

    /// The entry that `header` and what came before it describe.
    fn entry(&mut self, header: &Header, extensions: Extensions) -> Result<Entry, Problem> {
        let pax = extensions.pax.unwrap_or_default();
        let path = extensions
            .long_name
            .or_else(|| pax.sparse.name.clone())
            .or(pax.path)
            .unwrap_or_else(|| header.path());
        self.at.1 = Some(path.clone());
        let offset = self.at.0;

        let link = || {
            extensions
                .long_link
                .or(pax.link_path)
                .unwrap_or_else(|| header.link_name())
        };
        let device = || {
            let written = match (pax.dev_major, pax.dev_minor) {
                (Some(major), Some(minor)) => (major, minor),
                _ => header.device()?,
            };
            let fits = |value, field| u32::try_from(value).map_err(|_| number(field, value));
            Ok::<_, Problem>((
                fits(written.0, "major device number")?,
                fits(written.1, "minor device number")?,
            ))
        };
        let flag = header.type_flag();
        let kind = match flag {
            // Before POSIX a directory was a file whose name ends in a slash.
            0 if path.ends_with(b"/") => EntryKind::Directory,
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
            let stored = match pax.size {
                Some(size) => size,
                None => header.size()?,
            };
            self.set_data(size_of(stored)?);
            (size, data) = if flag == b'S' {
                self.old_gnu_sparse(header, pax.real_size)?
            } else {
                self.pax_sparse(&pax.sparse)?
            };
        } else {
            // Only files have data: Go reads none for the others, whatever their size says.
            self.set_data(if flag == b'D' {
                size_of(header.size()?)?
            } else {
                0
            });
        }

        let mut xattrs = pax.xattrs;
        for (name, text, is_default) in [
            (&b"system.posix_acl_access"[..], &pax.acl_access, false),
            (b"system.posix_acl_default", &pax.acl_default, true),
        ] {
            let Some(text) = text else { continue };
            if xattrs.iter().any(|(known, _)| known == name) {
                continue;
            }
            if let Some(value) = acl::xattr_value(text, is_default) {
                xattrs.push((name.to_vec(), value));
            }
        }
        xattrs.sort_unstable();

        Ok(Entry {
            kind,
            // Masked: 0 to 0o7777.
            mode: u16::try_from(header.mode()? & 0o7777).unwrap_or_default(),
            uid: id(pax.uid, "uid", || header.uid())?,
            gid: id(pax.gid, "gid", || header.gid())?,
            mtime: match pax.mtime {
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

    /// Size and ranges of a file, sparse if its PAX records say so.
    fn pax_sparse(
        &mut self,
        records: &sparse::PaxSparse,
    ) -> Result<(u64, Vec<Range<u64>>), Problem> {
        let pairs = match records.map()? {
            PaxSparseMap::None => {
                let size = self.remaining;
                let whole = (size > 0).then_some(0..size);
                return Ok((size, whole.into_iter().collect()));
            }
            PaxSparseMap::Records(pairs) => pairs,
            PaxSparseMap::InData => {
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
        let size = records.size()?;
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

/// An owner from the PAX record or else the header; 32 bits is what a filesystem keeps.
fn id(
    record: Option<i64>,
    field: &'static str,
    written: impl FnOnce() -> Result<i64, Problem>,
) -> Result<u32, Problem> {
    let value = match record {
        Some(value) => value,
        None => written()?,
    };
    u32::try_from(value).map_err(|_| number(field, value))
}
