//! The entries of a layer's tar, their content hashed. Nothing of it is shared with the
//! conversion.
//! Source: POSIX.1-2001 § pax; GNU tar manual § "Basic Tar Format"; where they leave a
//! choice, Go's `archive/tar`, with which containerd and umoci read layers.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read};

use super::attributes::Described;
use super::tar_fields::{Records, bad, length, owner, pax, time, until_nul};
use super::tar_header::{BLOCK, Header};
use super::tar_sparse::{self, Lines, Map, Piece};
use super::tree::{Content, Hasher, Kind, Time};

/// Most bytes of an extension header.
const MAX_EXTENSION: u64 = 1 << 20;
/// Most blocks of an old GNU sparse map.
const MAX_BLOCKS: usize = 50_000;

/// One entry of a layer.
pub(super) struct Entry {
    pub(super) path: Vec<u8>,
    pub(super) made: Made,
    pub(super) about: Described,
}

/// What an entry makes.
pub(super) enum Made {
    Node(Kind),
    HardLink(Vec<u8>),
    /// Nothing but the directories of its name: so it is with a global header, of which
    /// containerd reads nothing.
    Parents,
}

/// Reads a tar's entries one by one.
pub(super) struct Entries<R> {
    stream: R,
}

/// What stands before an entry's own header.
#[derive(Default)]
struct Extensions {
    records: Records,
    name: Vec<u8>,
    link: Vec<u8>,
}

impl<R: Read> Entries<R> {
    pub(super) fn new(stream: R) -> Self {
        Self { stream }
    }

    fn block(&mut self) -> io::Result<Option<[u8; BLOCK]>> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while let Some(rest) = block.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.stream.read(rest) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(bad("it ends in the middle of a block")),
                Ok(count) => filled += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Some(block))
    }

    fn extension(&mut self, header: &Header<'_>) -> io::Result<Vec<u8>> {
        let size = length(header.size()?)?;
        if size > MAX_EXTENSION {
            return Err(bad(format!("an extension header of {size} bytes")));
        }
        let mut bytes = Vec::new();
        let mut left = size;
        while left > 0 {
            let block = self
                .block()?
                .ok_or_else(|| bad("it ends in an extension"))?;
            let count = usize::try_from(left).unwrap_or(BLOCK).min(BLOCK);
            bytes.extend_from_slice(block.get(..count).unwrap_or_default());
            left -= count as u64;
        }
        Ok(bytes)
    }

    /// The next entry, or `None` at the end.
    pub(super) fn next(&mut self) -> io::Result<Option<Entry>> {
        let mut before = Extensions::default();
        loop {
            let Some(block) = self.block()? else {
                return Ok(None);
            };
            if block == [0; BLOCK] {
                return match self.block()? {
                    Some(block) if block != [0; BLOCK] => Err(bad("a zero block in its middle")),
                    _ => Ok(None),
                };
            }
            let header = Header::new(&block)?;
            match header.kind() {
                // Each takes the place of the one before.
                b'x' => before.records = pax(&self.extension(&header)?)?,
                b'L' => before.name = until_nul(&self.extension(&header)?),
                b'K' => before.link = until_nul(&self.extension(&header)?),
                b'g' => {
                    let records = pax(&self.extension(&header)?)?;
                    let name = records.get(b"path").map(<[u8]>::to_vec);
                    return Ok(Some(Entry {
                        path: name.unwrap_or_else(|| header.name()),
                        made: Made::Parents,
                        about: described(&header, &Records::default())?,
                    }));
                }
                // A volume's label.
                b'V' => self.skip(length(header.size()?)?)?,
                _ => return self.entry(&header, before).map(Some),
            }
        }
    }

    fn entry(&mut self, header: &Header<'_>, before: Extensions) -> io::Result<Entry> {
        let records = &before.records;
        // What is empty is as if it were not there.
        let first = |long: Vec<u8>, key: &[u8], short: Vec<u8>| match records.get(key) {
            _ if !long.is_empty() => long,
            Some(value) => value.to_vec(),
            None => short,
        };
        let mut path = first(before.name, b"path", header.name());
        let target = first(before.link, b"linkpath", header.link());
        let size = records.number(b"size")?.map_or_else(|| header.size(), Ok)?;
        let map = tar_sparse::map(records)?;
        let kind = match header.kind() {
            // Before there were directories in tar, a slash said so.
            0 if path.ends_with(b"/") => b'5',
            kind => kind,
        };
        let made = match kind {
            0 | b'0' | b'7' => {
                if let Some(name) = records.get(b"GNU.sparse.name").filter(|_| map.is_some()) {
                    path = name.to_vec();
                }
                Made::Node(Kind::File(self.content(length(size)?, records, map)?))
            }
            b'S' => Made::Node(Kind::File(self.old_sparse(header, length(size)?)?)),
            _ if map.is_some() => return Err(bad("a sparse file that is none")),
            b'1' => Made::HardLink(target),
            b'2' => Made::Node(Kind::Symlink(target.into())),
            b'3' => {
                let (major, minor) = header.device()?;
                Made::Node(Kind::CharDevice { major, minor })
            }
            b'4' => {
                let (major, minor) = header.device()?;
                Made::Node(Kind::BlockDevice { major, minor })
            }
            b'5' => Made::Node(Kind::Directory(BTreeMap::new())),
            b'6' => Made::Node(Kind::Fifo),
            // A directory with a list of its files, by GNU tar's incremental archives.
            b'D' => {
                self.skip(length(size)?)?;
                Made::Node(Kind::Directory(BTreeMap::new()))
            }
            other => {
                let other = char::from(other);
                return Err(bad(format!("an entry of the unknown kind {other:?}")));
            }
        };
        Ok(Entry {
            path,
            made,
            about: described(header, records)?,
        })
    }

    /// Reads the data of an entry, padding included, giving the parts to `take`.
    fn data(&mut self, size: u64, mut take: impl FnMut(&[u8])) -> io::Result<()> {
        let mut buffer = vec![0; 64 << 10];
        let padded = size.checked_next_multiple_of(BLOCK as u64);
        let padded = padded.ok_or_else(|| bad("an impossible length"))?;
        let mut at = 0;
        while at < padded {
            let want = usize::try_from(padded - at)
                .unwrap_or(usize::MAX)
                .min(buffer.len());
            let part = buffer.get_mut(..want).unwrap_or_default();
            // The padding behind the very last data is not always there.
            let count = self.stream.read(part)?;
            if count == 0 {
                if at < size {
                    return Err(bad("it ends in the middle of a file"));
                }
                return Ok(());
            }
            let of_file = usize::try_from(size.saturating_sub(at)).unwrap_or(usize::MAX);
            take(part.get(..count.min(of_file)).unwrap_or_default());
            at += count as u64;
        }
        Ok(())
    }

    fn skip(&mut self, size: u64) -> io::Result<()> {
        self.data(size, |_| {})
    }

    fn content(&mut self, size: u64, records: &Records, map: Option<Map>) -> io::Result<Content> {
        let real = || tar_sparse::real_size(records).map(|real| real.unwrap_or(size));
        match map {
            None => {
                let mut hasher = Hasher::default();
                self.data(size, |part| hasher.data(part))?;
                Ok(hasher.finish())
            }
            Some(Map::InRecords(pieces)) => self.sparse(size, real()?, &pieces),
            Some(Map::InData) => {
                let mut left = size;
                let mut lines = Lines::default();
                loop {
                    let block = self
                        .block()?
                        .ok_or_else(|| bad("it ends in a sparse map"))?;
                    left = left
                        .checked_sub(BLOCK as u64)
                        .ok_or_else(|| bad("a sparse map that is longer than its entry"))?;
                    if !lines.take(&block)? {
                        break;
                    }
                }
                self.sparse(left, real()?, &lines.pieces()?)
            }
        }
    }

    /// The map begins in the header and goes on in blocks behind it.
    fn old_sparse(&mut self, header: &Header<'_>, size: u64) -> io::Result<Content> {
        let (part, mut more, real) = header.old_sparse()?;
        let mut pieces: Vec<Piece> = Vec::new();
        tar_sparse::add_old(part, &mut pieces)?;
        let mut blocks = 0;
        while more {
            let block = self
                .block()?
                .ok_or_else(|| bad("it ends in a sparse map"))?;
            let (part, rest) = block.split_at(21 * 24);
            tar_sparse::add_old(part, &mut pieces)?;
            more = rest.first().is_some_and(|byte| *byte != 0);
            blocks += 1;
            if blocks > MAX_BLOCKS {
                return Err(bad("a sparse map without an end"));
            }
        }
        self.sparse(size, length(real)?, &pieces)
    }

    fn sparse(&mut self, size: u64, real: u64, pieces: &[Piece]) -> io::Result<Content> {
        let total = pieces
            .iter()
            .try_fold(0u64, |sum, (_, len)| sum.checked_add(*len));
        if total != Some(size) {
            return Err(bad("a sparse map that does not fit its data"));
        }
        let mut hasher = Hasher::default();
        let mut pieces = pieces.iter().copied().filter(|(_, len)| *len > 0);
        let mut end = 0;
        let mut is_ordered = true;
        self.data(size, |mut part| {
            while !part.is_empty() {
                if hasher.size() == end {
                    let Some((offset, len)) = pieces.next() else {
                        is_ordered = false;
                        return;
                    };
                    is_ordered &= offset >= end && offset.saturating_add(len) <= real;
                    if !is_ordered {
                        return;
                    }
                    hasher.zeros_to(offset);
                    end = offset + len;
                }
                let room = usize::try_from(end - hasher.size()).unwrap_or(usize::MAX);
                let (now, later) = part.split_at(room.min(part.len()));
                hasher.data(now);
                part = later;
            }
        })?;
        if !is_ordered {
            return Err(bad("a sparse map whose pieces are out of order"));
        }
        hasher.zeros_to(real);
        Ok(hasher.finish())
    }
}

/// What headers and records say of an inode.
fn described(header: &Header<'_>, records: &Records) -> io::Result<Described> {
    let or = |key: &[u8], field: io::Result<i64>| match records.number(key)? {
        Some(value) => Ok(value),
        None => field,
    };
    Ok(Described {
        mode: u16::try_from(header.mode()? & 0o7777).unwrap_or(0),
        uid: owner(or(b"uid", header.uid())?),
        gid: owner(or(b"gid", header.gid())?),
        mtime: match records.get(b"mtime") {
            Some(value) => time(value)?,
            None => Time {
                secs: header.mtime()?,
                nanos: 0,
            },
        },
        xattrs: records.xattrs(),
    })
}
