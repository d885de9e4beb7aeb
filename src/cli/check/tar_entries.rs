//! The entries of a layer's tar, their content hashed. Nothing of it is shared with the
//! conversion; only the names of a header's fields come from the `tar` crate, whose own
//! reader gives wrong lengths for sparse files and reads extensions of any length.
//! Source: POSIX.1-2001 § pax; GNU tar manual § "Basic Tar Format", "Sparse Formats".

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read};

use tar::Header;

use super::acl;
use super::tar_fields::{
    Records, bad, check_sum, decimal, id, length, number, pax, time, until_nul, xattrs,
};
use super::tree::{Attributes, Content, Hasher, Kind, Time};

const BLOCK: usize = 512;
/// Most bytes of an extension header.
const MAX_EXTENSION: u64 = 1 << 20;
/// Most pieces of a sparse file.
const MAX_PIECES: usize = 1_000_000;

/// One entry of a layer.
pub(super) struct Entry {
    pub(super) path: Vec<u8>,
    pub(super) made: Made,
    pub(super) attributes: Attributes,
}

/// What an entry makes.
pub(super) enum Made {
    Node(Kind),
    HardLink(Vec<u8>),
}

/// Reads a tar's entries one by one.
pub(super) struct Entries<R> {
    stream: R,
}

/// A piece of a sparse file: where it is, and how long.
type Piece = (u64, u64);

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

    fn extension(&mut self, size: u64) -> io::Result<Vec<u8>> {
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
        let mut records = Records::new();
        let (mut long_name, mut long_link) = (None, None);
        loop {
            let Some(block) = self.block()? else {
                return Ok(None);
            };
            if block.iter().all(|byte| *byte == 0) {
                return Ok(None);
            }
            let header = Header::from_byte_slice(&block);
            check_sum(&block, header)?;
            let size = number(&header.as_old().size)?;
            let kind = header.as_old().linkflag[0];
            match kind {
                b'x' => records.extend(pax(&self.extension(length(size)?)?)?),
                // containerd knows no global headers.
                b'g' => drop(self.extension(length(size)?)?),
                b'L' => long_name = Some(until_nul(&self.extension(length(size)?)?)),
                b'K' => long_link = Some(until_nul(&self.extension(length(size)?)?)),
                _ => {
                    let names = (long_name, long_link);
                    return self.entry(header, kind, &records, names).map(Some);
                }
            }
        }
    }

    fn entry(
        &mut self,
        header: &Header,
        kind: u8,
        records: &Records,
        (long_name, long_link): (Option<Vec<u8>>, Option<Vec<u8>>),
    ) -> io::Result<Entry> {
        let record = |key: &[u8]| {
            let found = records.iter().rev().find(|(known, _)| known == key);
            found
                .map(|(_, value)| value.as_slice())
                .filter(|value| !value.is_empty())
        };
        let or = |key: &[u8], field: &[u8]| match record(key) {
            Some(value) => decimal(value),
            None => number(field),
        };
        let old = header.as_old();
        let path = record(b"GNU.sparse.name")
            .or(record(b"path"))
            .map(<[u8]>::to_vec);
        let path = path
            .or(long_name)
            .unwrap_or_else(|| header.path_bytes().into_owned());
        let target = || {
            let link = record(b"linkpath").map(<[u8]>::to_vec).or(long_link);
            link.unwrap_or_else(|| until_nul(&old.linkname))
        };
        let device = || -> io::Result<(u32, u32)> {
            let (major, minor) = match (header.as_ustar(), header.as_gnu()) {
                (Some(ustar), _) => (&ustar.dev_major, &ustar.dev_minor),
                (_, Some(gnu)) => (&gnu.dev_major, &gnu.dev_minor),
                _ => return Ok((0, 0)),
            };
            let major = or(b"SCHILY.devmajor", major)?;
            let minor = or(b"SCHILY.devminor", minor)?;
            Ok((id(major, "major number")?, id(minor, "minor number")?))
        };
        if record(b"SCHILY.realsize").is_some() {
            return Err(bad("a sparse file of star's kind, which is not read here"));
        }
        let size = length(or(b"size", &old.size)?)?;
        let made = match kind {
            // Before there were directories in tar, a slash said so.
            b'\0' if path.ends_with(b"/") => {
                self.skip(size)?;
                Made::Node(Kind::Directory(BTreeMap::new()))
            }
            b'\0' | b'0' | b'7' => Made::Node(Kind::File(self.content(size, records)?)),
            b'S' => Made::Node(Kind::File(self.old_sparse(header, size)?)),
            b'1' => Made::HardLink(target()),
            b'2' => Made::Node(Kind::Symlink(target().into())),
            b'3' => {
                let (major, minor) = device()?;
                Made::Node(Kind::CharDevice { major, minor })
            }
            b'4' => {
                let (major, minor) = device()?;
                Made::Node(Kind::BlockDevice { major, minor })
            }
            b'5' => Made::Node(Kind::Directory(BTreeMap::new())),
            b'6' => Made::Node(Kind::Fifo),
            other => {
                let other = char::from(other);
                return Err(bad(format!("an entry of the unknown kind {other:?}")));
            }
        };
        let mtime = match record(b"mtime") {
            Some(value) => time(value)?,
            None => Time {
                secs: number(&old.mtime)?,
                nanos: 0,
            },
        };
        let mut mode = u16::try_from(number(&old.mode)? & 0o7777).unwrap_or(0);
        let list = record(b"SCHILY.acl.access").and_then(|text| acl::value(text, false));
        if let Some(list) = list {
            mode = mode & 0o7000 | acl::mode(&list);
        }
        Ok(Entry {
            path,
            made,
            attributes: Attributes {
                mode,
                uid: id(or(b"uid", &old.uid)?, "uid")?,
                gid: id(or(b"gid", &old.gid)?, "gid")?,
                mtime: mtime.kept(),
                xattrs: xattrs(records)?,
            },
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

    fn content(&mut self, size: u64, records: &Records) -> io::Result<Content> {
        let value = |key: &[u8]| {
            let found = records.iter().rev().find(|(known, _)| known == key);
            found.map(|(_, value)| value.as_slice())
        };
        let real = value(b"GNU.sparse.realsize").or(value(b"GNU.sparse.size"));
        let Some(real) = real else {
            let mut hasher = Hasher::default();
            self.data(size, |part| hasher.data(part))?;
            return Ok(hasher.finish());
        };
        let real = length(decimal(real)?)?;
        if value(b"GNU.sparse.major") == Some(b"1") {
            return self.sparse_1_0(size, real);
        }
        let numbers: Vec<u64> = match value(b"GNU.sparse.map") {
            Some(b"") => Vec::new(),
            Some(map) => map
                .split(|byte| *byte == b',')
                .map(|text| length(decimal(text)?))
                .collect::<io::Result<_>>()?,
            None => records
                .iter()
                .filter(|(key, _)| {
                    matches!(
                        key.as_slice(),
                        b"GNU.sparse.offset" | b"GNU.sparse.numbytes"
                    )
                })
                .map(|(_, value)| length(decimal(value)?))
                .collect::<io::Result<_>>()?,
        };
        let pieces = pairs(&numbers)?;
        self.sparse(size, real, &pieces)
    }

    /// The map is lines of numbers before the data, padded to a block.
    fn sparse_1_0(&mut self, size: u64, real: u64) -> io::Result<Content> {
        let mut left = size;
        let mut line = Vec::new();
        let mut numbers: Vec<u64> = Vec::new();
        let mut wanted = 1;
        while numbers.len() < wanted {
            let block = self
                .block()?
                .ok_or_else(|| bad("it ends in a sparse map"))?;
            left = left
                .checked_sub(BLOCK as u64)
                .ok_or_else(|| bad("a sparse map that is longer than its entry"))?;
            for byte in block {
                if numbers.len() >= wanted {
                    break;
                }
                if byte != b'\n' {
                    line.push(byte);
                    if line.len() > 20 {
                        return Err(bad("a damaged sparse map"));
                    }
                    continue;
                }
                numbers.push(length(decimal(&line)?)?);
                line.clear();
                if let [count] = numbers.as_slice() {
                    let count = usize::try_from(*count).unwrap_or(usize::MAX);
                    if count > MAX_PIECES {
                        return Err(bad(format!("a sparse map of {count} pieces")));
                    }
                    wanted = 1 + 2 * count;
                }
            }
        }
        let pieces = pairs(numbers.get(1..).unwrap_or_default())?;
        self.sparse(left, real, &pieces)
    }

    /// The map begins in the header and goes on in blocks behind it.
    fn old_sparse(&mut self, header: &Header, size: u64) -> io::Result<Content> {
        let gnu = header
            .as_gnu()
            .ok_or_else(|| bad("a sparse file in no GNU header"))?;
        let real = length(number(&gnu.realsize)?)?;
        let mut pieces: Vec<Piece> = Vec::new();
        let mut add = |offset: &[u8; 12], len: &[u8; 12]| -> io::Result<()> {
            if offset[0] != 0 && len[0] != 0 {
                pieces.push((length(number(offset)?)?, length(number(len)?)?));
            }
            if pieces.len() > MAX_PIECES {
                return Err(bad("a sparse map without an end"));
            }
            Ok(())
        };
        for piece in &gnu.sparse {
            add(&piece.offset, &piece.numbytes)?;
        }
        let mut more = gnu.isextended[0] != 0;
        while more {
            let block = self
                .block()?
                .ok_or_else(|| bad("it ends in a sparse map"))?;
            let (entries, rest) = block.split_at(21 * 24);
            for entry in entries.as_chunks::<24>().0 {
                let (offset, len) = entry.split_at(12);
                if let (Some(offset), Some(len)) = (offset.first_chunk(), len.first_chunk()) {
                    add(offset, len)?;
                }
            }
            more = rest.first().is_some_and(|byte| *byte != 0);
        }
        self.sparse(size, real, &pieces)
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

fn pairs(numbers: &[u64]) -> io::Result<Vec<Piece>> {
    match numbers.as_chunks::<2>() {
        (pairs, []) if pairs.len() <= MAX_PIECES => {
            Ok(pairs.iter().map(|[offset, len]| (*offset, *len)).collect())
        }
        _ => Err(bad("a damaged sparse map")),
    }
}
