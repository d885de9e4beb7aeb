//! One function for each parser that bytes from outside reach. None may panic, hang or take
//! memory that its input does not pay for; some state more.
//!
//! `cargo fuzz` drives them with coverage (`fuzz_targets/`); `tests/formats/fuzz.rs` runs the corpus and
//! damaged copies of it on any toolchain.

use std::io::{Cursor, Read};
use std::sync::{Arc, OnceLock};

use flate2::Compression;
use flate2::read::GzEncoder;
use http::{HeaderMap, HeaderValue};
use overlaybd_proxy::convert::apply::apply;
use overlaybd_proxy::convert::inflate::{HEAD, inflate as inflated};
use overlaybd_proxy::format::blob::{LayerBlob, Stack, pack_trace, unpack_trace, unpack_turbo};
use overlaybd_proxy::format::block::{BlockDevice, BlockDeviceMut, MemDevice};
use overlaybd_proxy::format::crc::crc32c;
use overlaybd_proxy::format::ext4::{
    Attributes, FileType, Filesystem, FormatOptions, Ino, NodeKind,
};
use overlaybd_proxy::format::gzip_index::{
    GzipError, GzipIndex, GzipIndexer, GzipTarget, MIN_SPAN,
};
use overlaybd_proxy::format::lsmt::Layer;
use overlaybd_proxy::format::prefetch::{DataOrder, Trace, records_to_bytes};
use overlaybd_proxy::format::tar::{Entry, TarReader};
use overlaybd_proxy::format::zfile::ZFileReader;
use overlaybd_proxy::oci::{
    ImageConfig, ImageReference, Manifest, Platform, RepoName, Tag, media_type,
};
use overlaybd_proxy::registry::challenges;
use overlaybd_proxy::server::{Route, proxy_header_v1, proxy_header_v2};
use overlaybd_proxy::store::Dsn;

/// A parser with its name, which is that of its corpus.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 16] = [
    ("tar", tar),
    ("layer", layer),
    ("inflate", inflate),
    ("zfile", zfile),
    ("lsmt", lsmt),
    ("blob", blob),
    ("gzip_index", gzip_index),
    ("turbo", turbo),
    ("trace", trace),
    ("ext4", ext4),
    ("manifest", manifest),
    ("reference", reference),
    ("challenge", challenge),
    ("dsn", dsn),
    ("route", route),
    ("proxy_header", proxy_header),
];

/// Bytes of the disks that layers are put on.
const DISK: u64 = 64 << 20;
/// Most files that are looked at of one filesystem.
const MOST_FILES: usize = 2_000;

/// The entries of a tar, with all of their data.
pub fn tar(data: &[u8]) {
    let mut reader = TarReader::new(data);
    while let Ok(Some(entry)) = reader.next_entry() {
        // What sparse files leave out is not stored, and not read here.
        if read_data(&mut reader, &entry).is_none() {
            return;
        }
    }
}

fn read_data(reader: &mut TarReader<&[u8]>, entry: &Entry) -> Option<()> {
    for range in &entry.data {
        let mut left = range.end.saturating_sub(range.start);
        while left > 0 {
            let mut buf = vec![0; usize::try_from(left.min(65_536)).ok()?];
            reader.read_data(&mut buf).ok()?;
            left -= buf.len() as u64;
        }
    }
    Some(())
}

/// A tar that is put on an empty filesystem. One that was taken can be read back.
pub fn layer(data: &[u8]) {
    let mut filesystem = Filesystem::open(empty_disk().clone()).expect("it was just made");
    let order = DataOrder::default();
    if apply(&mut filesystem, &mut TarReader::new(data), &order).is_err()
        || filesystem.flush().is_err()
    {
        return;
    }
    let disk = filesystem.replace_device(MemDevice::new(DISK));
    let mut again = Filesystem::open(disk).expect("what was written is a filesystem");
    again.check_is_whole().expect("all of it was written");
    walk(&mut again);
}

fn empty_disk() -> &'static MemDevice {
    static DISK_: OnceLock<MemDevice> = OnceLock::new();
    DISK_.get_or_init(|| {
        let options = FormatOptions::default();
        let mut filesystem = Filesystem::format(MemDevice::new(DISK), &options).expect("room");
        filesystem.flush().expect("room");
        filesystem.replace_device(MemDevice::new(DISK))
    })
}

/// The bytes of a compressed layer, up to 4 MiB.
pub fn inflate(data: &[u8]) {
    let head = data.get(..HEAD).unwrap_or(data);
    if let Ok(tar) = inflated(head, Cursor::new(data)) {
        let mut out = Vec::new();
        let _ = tar.take(4 << 20).read_to_end(&mut out);
    }
}

/// A `ZFile` whose header passes its checks: its digest and the index's CRC are made to fit, and its
/// blocks are not checked.
pub fn zfile(data: &[u8]) {
    let mut bytes = data.to_vec();
    for place in [0, bytes.len().saturating_sub(512)] {
        make_credible(&mut bytes, place);
    }
    if let Ok(reader) = ZFileReader::open(Arc::new(bytes)) {
        read_some(&reader);
    }
}

/// Clears the digest flag and the blocks' CRCs of a `ZFile` header at `place`, and sets the CRC
/// of the index that it names (overlaybd `zfile.cpp`, `HeaderTrailer`).
fn make_credible(bytes: &mut [u8], place: usize) {
    let u64_at = |bytes: &[u8], at: usize| -> Option<u64> {
        let field = bytes.get(at..at.checked_add(8)?)?;
        Some(u64::from_le_bytes(field.try_into().ok()?))
    };
    let fields = (u64_at(bytes, place + 40), u64_at(bytes, place + 48));
    let (Some(offset), Some(entries)) = fields else {
        return;
    };
    let end = entries
        .checked_mul(4)
        .and_then(|length| offset.checked_add(length));
    let range = usize::try_from(offset)
        .ok()
        .zip(end.and_then(|end| usize::try_from(end).ok()));
    let crc = range
        .and_then(|(start, end)| bytes.get(start..end))
        .map(|index| crc32c(0, index));
    if let Some(flags) = bytes.get_mut(place + 32) {
        *flags &= !(1 << 4);
    }
    if let (Some(field), Some(crc)) = (bytes.get_mut(place + 64..place + 68), crc) {
        field.copy_from_slice(&crc.to_le_bytes());
    }
    if let Some(verify) = bytes.get_mut(place + 88) {
        *verify = 0;
    }
}

/// Reads the beginning, the end, and places between.
fn read_some(device: &impl BlockDevice) {
    let size = device.size();
    let mut buf = [0; 4096];
    for part in 0..16 {
        let offset = (size / 16).saturating_mul(part) / 512 * 512;
        let length = usize::try_from(size.saturating_sub(offset).min(4096)).unwrap_or(0);
        let _ = device.read_at(offset, &mut buf[..length]);
    }
}

/// A bare LSMT.
pub fn lsmt(data: &[u8]) {
    if let Ok(layer) = Layer::open(data.to_vec()) {
        assert!(layer.mappings().is_sorted_by_key(|mapping| mapping.offset));
    }
}

/// A whole layer blob as an overlaybd tool would find it, also one that overlaybd refuses.
pub fn blob(data: &[u8]) {
    let Ok(blob) = LayerBlob::open_readable(Arc::new(data.to_vec())) else {
        return;
    };
    let _ = (blob.refusals(), blob.summary());
    if let Ok(stack) = Stack::new(vec![Arc::new(blob)]) {
        read_some(&stack);
    }
}

/// An acceleration layer, or the trace in one. Records that are read can be written, and then are
/// the same.
pub fn trace(data: &[u8]) {
    const LAYERS: usize = 3;
    let unpacked = unpack_trace(data).ok().flatten();
    let mut trace = unpacked.unwrap_or_else(|| data.to_vec());
    if let Some((header, records)) = trace.split_at_mut_checked(24) {
        header[8..16].copy_from_slice(&(records.len() as u64).to_le_bytes());
        header[16..20].copy_from_slice(&crc32c(0, records).to_le_bytes());
    }
    if let Ok(Trace::Records(records)) = Trace::parse(&trace, LAYERS) {
        let bytes = records_to_bytes(&records, LAYERS).expect("they were just read");
        let blob = pack_trace(&bytes).expect("it goes to memory");
        let again = unpack_trace(&blob[..]).expect("it was just made");
        let again = Trace::parse(&again.expect("there is one"), LAYERS);
        assert_eq!(again, Ok(Trace::Records(records)));
    }
}

/// A gzip layer, or the index of one.
pub fn gzip_index(data: &[u8]) {
    index_layer(data);
    read_index(data);
}

/// What can be indexed reads the same through its index, up to 4 MiB.
fn index_layer(data: &[u8]) {
    let most = 4 << 20;
    let index = Cursor::new(Vec::new());
    let mut indexer = GzipIndexer::new(data, index, MIN_SPAN).expect("the span is allowed");
    let mut tar = Vec::new();
    let read = indexer.by_ref().take(most).read_to_end(&mut tar);
    if let Err(error) = &read {
        assert!(GzipError::of(error).is_some(), "{error}");
    }
    if read.is_err() || tar.len() as u64 == most {
        return;
    }
    let index = indexer.finish().expect("all was read").file.into_inner();
    let index = GzipIndex::open(Arc::new(index)).expect("it was just made");
    let entries = index.entries().to_vec();
    let target = GzipTarget::new(Arc::new(data.to_vec()), index).expect("it is of this layer");
    assert_eq!(target.size(), tar.len() as u64);
    for start in entries.iter().map(|entry| entry.uncompressed).rev() {
        let expected = usize::try_from(start)
            .ok()
            .and_then(|start| tar.get(start..));
        let mut found = vec![0; expected.map_or(0, <[u8]>::len)];
        target
            .read_at(start, &mut found)
            .expect("it was read before");
        assert!(expected == Some(&found), "from {start}");
    }
}

/// The layer that indexes are read with.
const LAYER: &[u8] = include_bytes!("../corpus/gzip_index/blocks.gz");

/// An index of [`LAYER`], as far as its header goes: sizes and CRC are made to fit (overlaybd
/// `gzfile_index.h`, `IndexFileHeader`).
fn read_index(data: &[u8]) {
    let mut bytes = data.to_vec();
    let size = bytes.len() as u64;
    let Some(header) = bytes.first_chunk_mut::<333>() else {
        return;
    };
    let table = u64::from_le_bytes(header[313..321].try_into().expect("eight bytes"));
    for (at, value) in [
        (33, LAYER.len() as u64),
        (41, size),
        (321, size.wrapping_sub(table)),
    ] {
        header[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }
    let crc = crc32c(0, &header[..329]);
    header[329..].copy_from_slice(&crc.to_le_bytes());
    let Ok(index) = GzipIndex::open(Arc::new(bytes)) else {
        return;
    };
    let entries = index.entries();
    assert!(entries.is_sorted_by_key(|entry| entry.uncompressed));
    for entry in entries.iter().take(20) {
        let _ = index.window(entry);
    }
    let target = GzipTarget::new(Arc::new(LAYER.to_vec()), index);
    read_some(&target.expect("its size is that of the layer"));
}

/// The blob of a `TurboOCI` layer, also without its gzip; checksums of the `ZFile` in it are made
/// to fit.
pub fn turbo(data: &[u8]) {
    let mut packed = GzEncoder::new(data, Compression::fast());
    let mut blob = Vec::new();
    packed.read_to_end(&mut blob).expect("memory can be read");
    for blob in [data, &blob] {
        let (mut meta, mut index) = (Vec::new(), Vec::new());
        let most = 4 << 20;
        let unpacked = unpack_turbo(blob, "ext4", most, &mut meta, &mut index);
        assert!((meta.len() + index.len()) as u64 <= most);
        let Ok(unpacked) = unpacked else {
            continue;
        };
        assert!(unpacked.is_gzip || index.is_empty());
        for place in [0, meta.len().saturating_sub(512)] {
            make_credible(&mut meta, place);
        }
        let target = Arc::new(MemDevice::new(1 << 20));
        let Ok(layer) = LayerBlob::open_turbo(Arc::new(meta), target) else {
            continue;
        };
        if let Ok(stack) = Stack::new(vec![Arc::new(layer)]) {
            read_some(&stack);
        }
    }
}

/// A filesystem with files of every kind and no checksums, with bytes of it replaced: `data` is
/// a list of patches, each a page (two bytes, little-endian, among those that hold something),
/// a place in it (two bytes), a count (one) and as many bytes.
pub fn ext4(data: &[u8]) {
    let mut disk = filled_disk().clone();
    let pages: Vec<u64> = disk.pages().map(|(offset, _)| offset).collect();
    let mut rest = data;
    while let [page_low, page_high, low, high, count, more @ ..] = rest {
        let page = usize::from(u16::from_le_bytes([*page_low, *page_high]));
        let place = usize::from(u16::from_le_bytes([*low, *high])) % 4096;
        let patch = more.get(..usize::from(*count)).unwrap_or(more);
        rest = more.get(patch.len()..).unwrap_or_default();
        let page = pages[page % pages.len()];
        let mut bytes = [0; 4096];
        disk.read_at(page, &mut bytes)
            .expect("it is within the disk");
        let fits = patch.len().min(4096 - place);
        bytes[place..place + fits].copy_from_slice(&patch[..fits]);
        disk.write_at(page, &bytes).expect("it is within the disk");
    }
    let Ok(mut filesystem) = Filesystem::open(disk) else {
        return;
    };
    let _ = filesystem.check_is_whole();
    walk(&mut filesystem);
    let root = filesystem.root();
    let names: Vec<_> = filesystem.entries(root).unwrap_or_default();
    for entry in names.iter().take(20) {
        let _ = filesystem.remove_tree(root, &entry.name);
    }
    let _ = filesystem.create(root, b"new", &NodeKind::Directory, &Attributes::default());
    let _ = filesystem.flush();
}

fn filled_disk() -> &'static MemDevice {
    static FILLED: OnceLock<MemDevice> = OnceLock::new();
    FILLED.get_or_init(|| {
        let mut filesystem = Filesystem::open(empty_disk().clone()).expect("it was just made");
        let root = filesystem.root();
        let owner = Attributes {
            mode: 0o755,
            xattrs: vec![(b"user.note".to_vec(), vec![b'x'; 200])],
            ..Attributes::default()
        };
        let directory = NodeKind::Directory;
        let many = filesystem
            .create(root, b"many", &directory, &owner)
            .expect("room");
        for number in 0..400 {
            let name = format!("a-name-of-some-length-{number}");
            filesystem
                .create(
                    many,
                    name.as_bytes(),
                    &NodeKind::File,
                    &Attributes::default(),
                )
                .expect("room");
        }
        let long = NodeKind::Symlink(vec![b'l'; 300]);
        for (name, kind) in [
            (&b"file"[..], NodeKind::File),
            (b"short", NodeKind::Symlink(b"many".to_vec())),
            (b"long", long),
            (b"device", NodeKind::CharDevice { major: 1, minor: 3 }),
            (b"fifo", NodeKind::Fifo),
        ] {
            filesystem.create(root, name, &kind, &owner).expect("room");
        }
        filesystem.flush().expect("room");
        let mut disk = filesystem.replace_device(MemDevice::new(DISK));
        // metadata_csum and gdt_csum (s_feature_ro_compat, at byte 100 of the superblock).
        let mut bytes = [0; 4096];
        disk.read_at(0, &mut bytes).expect("it is within the disk");
        bytes[1024 + 100] &= !0x10;
        bytes[1024 + 101] &= !0x04;
        disk.write_at(0, &bytes).expect("it is within the disk");
        Filesystem::open(disk.clone()).expect("checksums are no must");
        disk
    })
}

/// Looks at every file, as deep and as many as a damaged filesystem claims, within a bound.
fn walk<D: BlockDevice>(filesystem: &mut Filesystem<D>) {
    let mut found: Vec<Ino> = vec![filesystem.root()];
    let mut place = 0;
    while let Some(ino) = found.get(place).copied().filter(|_| place < MOST_FILES) {
        place += 1;
        let Ok(metadata) = filesystem.metadata(ino) else {
            continue;
        };
        let _ = filesystem.xattrs(ino);
        match metadata.file_type {
            FileType::Directory => {
                let entries = filesystem.entries(ino).unwrap_or_default();
                for entry in entries {
                    let _ = filesystem.lookup(ino, &entry.name);
                    if found.len() < MOST_FILES {
                        found.push(entry.ino);
                    }
                }
            }
            FileType::Symlink => drop(filesystem.read_link(ino)),
            _ => {
                let mut buf = [0; 512];
                let length = usize::try_from(metadata.size.min(512)).unwrap_or(0);
                let _ = filesystem.read_file(ino, 0, &mut buf[..length]);
            }
        }
    }
}

/// Manifests, indexes and configs.
pub fn manifest(data: &[u8]) {
    for kind in [
        media_type::OCI_MANIFEST,
        media_type::OCI_INDEX,
        media_type::DOCKER_MANIFEST,
        media_type::DOCKER_LIST,
    ] {
        let _ = Manifest::parse(kind, data);
    }
    let _ = ImageConfig::parse(data);
}

/// Names as users type them.
pub fn reference(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(reference) = text.parse::<ImageReference>() {
        let again: ImageReference = reference.to_string().parse().expect("it names itself");
        assert_eq!(again.to_string(), reference.to_string());
    }
    let _ = text.parse::<RepoName>();
    let _ = text.parse::<Tag>();
    let _ = text.parse::<Platform>();
}

/// `WWW-Authenticate` of a registry.
pub fn challenge(data: &[u8]) {
    let mut headers = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n').take(8) {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.append(http::header::WWW_AUTHENTICATE, value);
        }
    }
    let _ = challenges(&headers);
}

/// Connection texts of the database.
pub fn dsn(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(dsn) = text.parse::<Dsn>() {
        let _ = (dsn.to_string(), format!("{dsn:?}"));
    }
}

/// Paths of requests.
pub fn route(data: &[u8]) {
    if let Ok(path) = std::str::from_utf8(data) {
        let _ = Route::parse(path);
    }
}

/// Headers of the PROXY protocol: what is read of one does not depend on what is behind it.
pub fn proxy_header(data: &[u8]) {
    if let Ok((client, length)) = proxy_header_v2(data) {
        assert_eq!(proxy_header_v2(&data[..length]), Ok((client, length)));
        assert!(proxy_header_v2(&data[..length - 1]).is_err());
    }
    if let Ok(Some(client)) = proxy_header_v1(data) {
        assert!(data.len() <= 107);
        let family = if client.is_ipv4() { "TCP4" } else { "TCP6" };
        assert!(data.starts_with(format!("PROXY {family} ").as_bytes()));
    }
}
