//! A layout in an uncompressed tar file, read in place. Everything here blocks.
//!
//! The file's headers are walked once; blobs are then ranges of the file. Only what a layout
//! is made of is remembered, and nothing in the file can make that more than the file is.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use tar::{EntryType, Header};

use super::directory::{INDEX, MARK, check_mark};
use super::index::{Index, MAX_INDEX};
use super::section::Section;
use super::stamp::Stamp;
use crate::oci::{Compression, Digest};
use crate::registry::Error;

const BLOCK: u64 = 512;
/// Most members that are walked.
const MAX_MEMBERS: u32 = 1_000_000;
/// Most bytes of a PAX header or a long name.
const MAX_EXTENSION: u64 = 64 << 10;

/// A layout in a tar file.
#[derive(Debug)]
pub(super) struct Archive {
    path: PathBuf,
    known: Mutex<(Stamp, Arc<Contents>)>,
}

/// What was found in it.
#[derive(Debug)]
pub(super) struct Contents {
    file: Arc<File>,
    path: Arc<Path>,
    /// The manifests that it lists.
    pub(super) index: Arc<Index>,
    blobs: HashMap<Digest, Place>,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    start: u64,
    len: u64,
}

impl Archive {
    /// The archive that is there.
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let path = path
            .canonicalize()
            .map_err(|cause| Error::io(path, &cause))?;
        let known = Mutex::new(Contents::read(&path)?);
        Ok(Self { path, known })
    }

    /// Where it is, as an absolute path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The members of the file.
    pub(super) fn contents(&self) -> Result<Arc<Contents>, Error> {
        let metadata =
            std::fs::metadata(&self.path).map_err(|cause| Error::io(&self.path, &cause))?;
        let mut known = self.known.lock();
        if !known.0.still(&Stamp::of(&metadata)) {
            *known = Contents::read(&self.path)?;
        }
        Ok(Arc::clone(&known.1))
    }
}

impl Contents {
    /// The blob with this digest, if it is there.
    pub(super) fn blob(&self, digest: &Digest) -> Option<Section> {
        self.blobs.get(digest).map(|place| self.section(*place))
    }

    fn section(&self, place: Place) -> Section {
        let (file, path) = (Arc::clone(&self.file), Arc::clone(&self.path));
        Section::new(file, path, place.start, place.len)
    }

    fn read(path: &Path) -> Result<(Stamp, Arc<Self>), Error> {
        let failed = |cause: io::Error| Error::io(path, &cause);
        let invalid = |detail: String| Error::invalid(&path.display().to_string(), detail);
        let file = Arc::new(File::open(path).map_err(failed)?);
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() {
            return Err(failed(io::Error::other("this is no regular file")));
        }
        let mut contents = Self {
            file: Arc::clone(&file),
            path: path.into(),
            index: Arc::default(),
            blobs: HashMap::new(),
        };
        let (mut mark, mut index) = (None, None);
        let mut walk = Walk {
            file: &file,
            len: metadata.len(),
            at: 0,
        };
        if let Some(kind) = walk.compression().map_err(failed)? {
            return Err(invalid(format!(
                "the archive is compressed ({}), so no part of it can be read by itself: \
                 decompress it first",
                kind.name()
            )));
        }
        for _ in 0..MAX_MEMBERS {
            let Some(member) = walk.next().map_err(|problem| match problem {
                Problem::Io(cause) => failed(cause),
                Problem::Tar(detail) => {
                    invalid(format!("tar header at byte {}: {detail}", walk.at))
                }
            })?
            else {
                break;
            };
            let name = member.path.strip_prefix("./").unwrap_or(&member.path);
            let digest = digest_of(name);
            let is_wanted = name == MARK || name == INDEX || digest.is_some();
            if !is_wanted {
                continue;
            }
            let Some(place) = member.place else {
                return Err(invalid(format!(
                    "its member {name:?} is a link, a sparse file or something else that is \
                     not read: pack the layout again, with plain files"
                )));
            };
            match digest {
                Some(digest) => drop(contents.blobs.insert(digest, place)),
                None if name == MARK => mark = Some(place),
                None => index = Some(place),
            }
        }
        if !walk.is_over() {
            return Err(invalid(format!("it has over {MAX_MEMBERS} members")));
        }
        let missing = |name| invalid(format!("this is no OCI archive: it has no {name:?}"));
        check_mark(&contents.section(mark.ok_or_else(|| missing(MARK))?))?;
        let index = contents.section(index.ok_or_else(|| missing(INDEX))?);
        let index = Index::parse(&index.read_whole(MAX_INDEX)?)
            .map_err(|detail| invalid(format!("{INDEX}: {detail}")))?;
        contents.index = Arc::new(index);
        Ok((Stamp::of(&metadata), Arc::new(contents)))
    }
}

fn digest_of(name: &str) -> Option<Digest> {
    let (algorithm, hex) = name.strip_prefix("blobs/")?.split_once('/')?;
    format!("{algorithm}:{hex}").parse().ok()
}

struct Member {
    path: String,
    /// `None` if its content is not just there.
    place: Option<Place>,
}

enum Problem {
    Io(io::Error),
    Tar(String),
}

impl From<io::Error> for Problem {
    fn from(cause: io::Error) -> Self {
        Self::Io(cause)
    }
}

/// A walk over the headers of a tar. [`tar::Archive`] would read extension headers of any
/// length into memory.
struct Walk<'a> {
    file: &'a File,
    len: u64,
    at: u64,
}

impl Walk<'_> {
    fn compression(&self) -> io::Result<Option<Compression>> {
        let mut start = [0; 8];
        let count = usize::try_from(self.len.min(8)).unwrap_or(0);
        let part = start.get_mut(..count).unwrap_or_default();
        self.file.read_exact_at(part, 0)?;
        Ok(Compression::of(&start))
    }

    /// Whether there is no further member.
    fn is_over(&self) -> bool {
        matches!(self.header(), Ok(None))
    }

    fn header(&self) -> Result<Option<Header>, Problem> {
        // The closing blocks may be missing; a part of a block may not.
        if self.at == self.len {
            return Ok(None);
        }
        self.within(BLOCK)?;
        let mut header = Header::new_old();
        self.file.read_exact_at(header.as_mut_bytes(), self.at)?;
        if header.as_bytes().iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let (sum, field) = (header.as_bytes(), 148..156);
        let sum: u32 = sum
            .iter()
            .enumerate()
            .map(|(at, byte)| u32::from(if field.contains(&at) { b' ' } else { *byte }))
            .sum();
        match header.cksum() {
            Ok(stored) if stored == sum => Ok(Some(header)),
            _ => Err(Problem::Tar("its checksum is wrong".to_owned())),
        }
    }

    fn within(&self, len: u64) -> Result<(), Problem> {
        match self.at.checked_add(len) {
            Some(end) if end <= self.len => Ok(()),
            _ => Err(Problem::Tar(format!(
                "{len} bytes are announced and {} follow: the archive is cut off",
                self.len.saturating_sub(self.at)
            ))),
        }
    }

    fn next(&mut self) -> Result<Option<Member>, Problem> {
        let (mut long_name, mut pax) = (None, Vec::new());
        loop {
            let Some(header) = self.header()? else {
                return Ok(None);
            };
            let kind = header.entry_type();
            let records = Pax::parse(&pax)?;
            let is_extension = matches!(
                kind,
                EntryType::XHeader
                    | EntryType::XGlobalHeader
                    | EntryType::GNULongName
                    | EntryType::GNULongLink
            );
            let size = match records.size.filter(|_| !is_extension) {
                Some(size) => size,
                None => header
                    .entry_size()
                    .map_err(|error| Problem::Tar(error.to_string()))?,
            };
            let start = self.at + BLOCK;
            let padded = size.checked_next_multiple_of(BLOCK);
            // The padding of the last member may be missing, its data may not.
            self.within(size.saturating_add(BLOCK))?;
            let next = padded.and_then(|padded| start.checked_add(padded));
            let next = next.unwrap_or(self.len).min(self.len);
            match kind {
                EntryType::XHeader => pax = self.extension(start, size)?,
                EntryType::GNULongName => long_name = Some(self.extension(start, size)?),
                EntryType::XGlobalHeader | EntryType::GNULongLink => {}
                _ => {
                    let path = match (records.path, long_name) {
                        (Some(path), _) => path,
                        (None, Some(mut path)) => {
                            path.retain(|byte| *byte != 0);
                            path
                        }
                        (None, None) => header.path_bytes().into_owned(),
                    };
                    let is_plain = kind.is_file() || kind.is_contiguous();
                    let place = Place { start, len: size };
                    self.at = next;
                    return Ok(Some(Member {
                        path: String::from_utf8_lossy(&path).into_owned(),
                        place: (is_plain && !records.is_sparse).then_some(place),
                    }));
                }
            }
            self.at = next;
        }
    }

    fn extension(&self, start: u64, size: u64) -> Result<Vec<u8>, Problem> {
        let len = usize::try_from(size).ok().filter(|_| size <= MAX_EXTENSION);
        let len = len.ok_or_else(|| {
            Problem::Tar(format!(
                "its extension of {size} bytes is over {MAX_EXTENSION}"
            ))
        })?;
        let mut bytes = vec![0; len];
        self.file.read_exact_at(&mut bytes, start)?;
        Ok(bytes)
    }
}

/// What matters of PAX records (POSIX.1-2001 § pax, "pax Extended Header").
#[derive(Default)]
struct Pax {
    path: Option<Vec<u8>>,
    size: Option<u64>,
    is_sparse: bool,
}

impl Pax {
    fn parse(mut bytes: &[u8]) -> Result<Self, Problem> {
        let bad = || Problem::Tar("its PAX records are damaged".to_owned());
        let mut pax = Self::default();
        while !bytes.is_empty() {
            let space = bytes
                .iter()
                .position(|byte| *byte == b' ')
                .ok_or_else(bad)?;
            let (digits, _) = bytes.split_at_checked(space).ok_or_else(bad)?;
            let len: usize = std::str::from_utf8(digits)
                .ok()
                .and_then(|digits| digits.parse().ok())
                .ok_or_else(bad)?;
            let (record, rest) = bytes.split_at_checked(len).ok_or_else(bad)?;
            let record = record.get(space + 1..).ok_or_else(bad)?;
            let record = record.strip_suffix(b"\n").ok_or_else(bad)?;
            let equals = record
                .iter()
                .position(|byte| *byte == b'=')
                .ok_or_else(bad)?;
            let (key, value) = record.split_at_checked(equals).ok_or_else(bad)?;
            let value = value.strip_prefix(b"=").ok_or_else(bad)?;
            match key {
                b"path" => pax.path = Some(value.to_vec()),
                b"size" => {
                    let text = std::str::from_utf8(value).map_err(|_| bad())?;
                    pax.size = Some(text.parse().map_err(|_| bad())?);
                }
                key => pax.is_sparse |= key.starts_with(b"GNU.sparse."),
            }
            bytes = rest;
        }
        Ok(pax)
    }
}
