//! What requests were for: which files, and what else.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use serde::Serialize;

use crate::format::blob::{DiskPlaces, Stack};
use crate::format::ext4::Area;
use crate::lazy::{Contents, Fetched, ImageDisk, ImageFilesystem, Owner, causes};

/// What was fetched and read until the command ended.
pub struct Recording {
    /// The requests, in order.
    pub fetched: Vec<Fetched>,
    /// How many of them opened the layers.
    pub opening: usize,
    /// Ranges of the disk that were read, in bytes and in order.
    pub reads: Vec<Range<u64>>,
}

/// Requests and bytes of one kind.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Share {
    /// Requests of which the first byte that was needed is of this kind.
    pub requests: u64,
    /// Bytes of the disk that were read of it, each once.
    pub read_bytes: u64,
}

/// A file that was read.
#[derive(Debug, Clone, Serialize)]
pub struct FileShare {
    /// Its path.
    #[serde(serialize_with = "as_text")]
    pub path: Vec<u8>,
    /// Its length in bytes.
    pub size: u64,
    /// What was read, and the requests that it was the first to need.
    #[serde(flatten)]
    pub share: Share,
}

/// A request.
#[derive(Debug, Clone, Serialize)]
pub struct Request {
    /// The blob.
    pub blob: String,
    /// Where the range begins in it, in bytes.
    pub offset: u64,
    /// Bytes of the range.
    pub length: u64,
    /// Seconds from the beginning until it was made.
    pub seconds: f64,
    /// What needed it first: the path of a file, or a kind.
    pub first: String,
}

/// What requests were for.
#[derive(Debug, Default, Serialize)]
pub struct Account {
    /// Compressed bytes that hold what was read.
    pub needed_bytes: u64,
    /// By kind.
    pub kinds: BTreeMap<&'static str, Share>,
    /// The files that were read, in the order in which they were first read.
    pub files: Vec<FileShare>,
    /// The requests in the order in which they were made.
    pub ranges: Vec<Request>,
}

fn as_text<S: serde::Serializer>(path: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&String::from_utf8_lossy(path))
}

const OPENING: &str = "layer indexes";
const AHEAD: &str = "read ahead";
const FILES: &str = "files";

fn kind(owner: Owner<'_>) -> &'static str {
    match owner {
        Owner::Table(Area::Superblock) => "superblock",
        Owner::Table(Area::GroupDescriptors) => "group descriptors",
        Owner::Table(Area::Bitmaps) => "bitmaps",
        Owner::Table(Area::Inodes) => "inodes",
        Owner::Directory => "directories",
        Owner::File(_) => FILES,
    }
}

impl Account {
    /// Finds out what was read, and what for. Reads the directories and inodes of the whole image:
    /// to be called from a thread that may block, when all that counts is counted.
    ///
    /// # Errors
    /// When the image is damaged, or can no longer be read.
    pub fn new(recording: &Recording, disk: &ImageDisk) -> anyhow::Result<Self> {
        let filesystem = ImageFilesystem::open(Arc::<Stack>::clone(&disk.stack))?;
        let contents = Contents::find(&filesystem, &recording.reads)?;
        let places = DiskPlaces::new(Arc::clone(&disk.stack))?;
        let later = recording.fetched.get(recording.opening..);
        let later = later.unwrap_or_default();
        let causes = causes(later, &recording.reads, &places, &disk.layers)?;

        let mut account = Self {
            needed_bytes: causes.needed,
            ..Self::default()
        };
        let mut files: HashMap<&[u8], usize> = HashMap::new();
        for read in &recording.reads {
            for (_, owner) in contents.owners(read.clone()) {
                let Owner::File(file) = owner else { continue };
                files.entry(&file.path).or_insert_with(|| {
                    account.files.push(FileShare {
                        path: file.path.clone(),
                        size: file.size,
                        share: Share::default(),
                    });
                    account.files.len() - 1
                });
            }
        }
        for read in crate::format::block::joined(recording.reads.clone()) {
            for (range, owner) in contents.owners(read) {
                let bytes = range.end - range.start;
                account.kinds.entry(kind(owner)).or_default().read_bytes += bytes;
                if let Some(file) = account.file(&files, owner) {
                    file.share.read_bytes += bytes;
                }
            }
        }
        let opening = recording.fetched.iter().take(recording.opening);
        for request in opening {
            account.request(request, OPENING, OPENING.to_owned());
        }
        for (request, first) in later.iter().zip(causes.first) {
            let owner = first.and_then(|read| contents.owners(read).first().map(|part| part.1));
            let Some(owner) = owner else {
                account.request(request, AHEAD, AHEAD.to_owned());
                continue;
            };
            let name = match owner {
                Owner::File(file) => String::from_utf8_lossy(&file.path).into_owned(),
                other => kind(other).to_owned(),
            };
            account.request(request, kind(owner), name);
            if let Some(file) = account.file(&files, owner) {
                file.share.requests += 1;
            }
        }
        Ok(account)
    }

    fn file(&mut self, known: &HashMap<&[u8], usize>, owner: Owner<'_>) -> Option<&mut FileShare> {
        let Owner::File(file) = owner else {
            return None;
        };
        self.files.get_mut(*known.get(file.path.as_slice())?)
    }

    fn request(&mut self, request: &Fetched, kind: &'static str, first: String) {
        self.kinds.entry(kind).or_default().requests += 1;
        self.ranges.push(Request {
            blob: request.blob.to_string(),
            offset: request.range.start,
            length: request.range.end - request.range.start,
            seconds: request.at.as_secs_f64(),
            first,
        });
    }

    /// The files that were read as a priority list: a path a line, the first that was read first,
    /// as many as fit; with how many these are.
    pub fn priority_list(&self) -> (Vec<u8>, usize) {
        let (mut list, mut count) = (Vec::new(), 0);
        for file in &self.files {
            let path = file.path.as_slice();
            // A line ends the path, and what ends in `*` would be a directory.
            let is_line =
                !path.contains(&b'\n') && !path.ends_with(b"*") && path.trim_ascii() == path;
            if !is_line {
                continue;
            }
            if list.len() + path.len() + 1 > crate::format::prefetch::MAX_LIST_BYTES {
                break;
            }
            list.extend_from_slice(path);
            list.push(b'\n');
            count += 1;
        }
        (list, count)
    }
}
