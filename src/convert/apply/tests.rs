//! Layer rules, one by one, as listings of what comes out.

use std::fmt::Write as _;

use super::*;
use crate::format::block::{BlockDevice, check_range};
use crate::format::ext4::FormatOptions;

/// A small disk in memory.
struct Disk(Vec<u8>);

impl BlockDevice for Disk {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        check_range(self.size(), offset, buf.len() as u64)?;
        let start = usize::try_from(offset).unwrap();
        buf.copy_from_slice(&self.0[start..start + buf.len()]);
        Ok(())
    }
}

impl BlockDeviceMut for Disk {
    fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        check_range(self.size(), offset, data.len() as u64)?;
        let start = usize::try_from(offset).unwrap();
        self.0[start..start + data.len()].copy_from_slice(data);
        Ok(())
    }
    fn zero_at(&mut self, offset: u64, len: u64) -> io::Result<()> {
        self.write_at(offset, &vec![0; usize::try_from(len).unwrap()])
    }
    fn discard_at(&mut self, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }
}

/// A tar being written, one entry a call.
struct Tar(tar::Builder<Vec<u8>>);

impl Tar {
    fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    fn add(mut self, kind: tar::EntryType, path: &str, link: &str, mode: u32, data: &[u8]) -> Self {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        // Written raw: the crate would refuse what these tests are about.
        header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
        header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header.set_mode(mode);
        header.set_uid(7);
        header.set_gid(8);
        header.set_mtime(9);
        header.set_size(data.len() as u64);
        header.set_device_major(1).unwrap();
        header.set_device_minor(3).unwrap();
        header.set_cksum();
        self.0.append(&header, data).unwrap();
        self
    }
    fn file(self, path: &str, data: &str) -> Self {
        self.add(tar::EntryType::Regular, path, "", 0o644, data.as_bytes())
    }
    fn dir(self, path: &str, mode: u32) -> Self {
        self.add(tar::EntryType::Directory, path, "", mode, b"")
    }
    fn soft(self, path: &str, target: &str) -> Self {
        self.add(tar::EntryType::Symlink, path, target, 0o644, b"")
    }
    fn hard(self, path: &str, target: &str, mode: u32) -> Self {
        self.add(tar::EntryType::Link, path, target, mode, b"")
    }
    fn pax(mut self, records: &[(&str, &[u8])]) -> Self {
        self.0
            .append_pax_extensions(records.iter().copied())
            .unwrap();
        self
    }
    fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

struct Image(Filesystem<Disk>);

impl Image {
    fn new() -> Self {
        let disk = Disk(vec![0; 16 << 20]);
        let mut image = Self(Filesystem::format(disk, &FormatOptions::default()).unwrap());
        let root = image.0.root();
        image.0.set_attributes(root, &implicit()).unwrap();
        image
    }

    fn layer(&mut self, tar: Tar) -> Result<(), ApplyError> {
        let order = DataOrder::default();
        apply(&mut self.0, &mut TarReader::new(&tar.bytes()[..]), &order)
    }

    fn with(mut self, tar: Tar) -> Self {
        self.layer(tar).unwrap();
        self
    }

    fn error(mut self, tar: Tar) -> String {
        self.layer(tar).unwrap_err().to_string()
    }

    /// One line a name: kind and mode, uid, links if several, mtime, path and what it holds.
    fn listing(&mut self) -> String {
        let mut out = String::new();
        let root = self.0.root();
        self.list(root, "", &mut out);
        out
    }

    fn list(&mut self, directory: Ino, path: &str, out: &mut String) {
        let mut entries = self.0.entries(directory).unwrap();
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        for entry in entries {
            let path = format!("{path}/{}", String::from_utf8_lossy(&entry.name));
            let metadata = self.0.metadata(entry.ino).unwrap();
            let (kind, holds) = match metadata.file_type {
                FileType::File => {
                    let mut data = vec![0; usize::try_from(metadata.size).unwrap()];
                    self.0.read_file(entry.ino, 0, &mut data).unwrap();
                    ('-', format!(" = {}", String::from_utf8_lossy(&data)))
                }
                FileType::Directory => ('d', String::new()),
                FileType::Symlink => {
                    let target = self.0.read_link(entry.ino).unwrap();
                    ('l', format!(" -> {}", String::from_utf8_lossy(&target)))
                }
                FileType::CharDevice => ('c', format!(" {:?}", metadata.rdev)),
                FileType::BlockDevice => ('b', format!(" {:?}", metadata.rdev)),
                FileType::Fifo => ('p', String::new()),
                FileType::Socket => ('s', String::new()),
            };
            let links = match metadata.links {
                many if many > 1 && kind != 'd' => format!(" x{many}"),
                _ => String::new(),
            };
            let (mode, uid, secs) = (metadata.mode, metadata.uid, metadata.mtime.secs);
            write!(out, "{kind}{mode:04o} {uid}@{secs}{links} {path}{holds}").unwrap();
            for (name, value) in self.0.xattrs(entry.ino).unwrap() {
                let (name, value) = (
                    String::from_utf8_lossy(&name),
                    String::from_utf8_lossy(&value),
                );
                write!(out, " [{name}={value}]").unwrap();
            }
            out.push('\n');
            if kind == 'd' {
                self.list(entry.ino, &path, out);
            }
        }
    }

    #[track_caller]
    fn is(&mut self, expected: &str) {
        let expected: Vec<_> = expected
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .collect();
        let listing = self.listing();
        assert_eq!(listing.lines().collect::<Vec<_>>(), expected);
    }
}

/// A layer to change.
fn lower() -> Image {
    Image::new().with(
        Tar::new()
            .dir("d", 0o700)
            .file("d/a", "a")
            .file("d/b", "b")
            .dir("d/sub", 0o711)
            .file("d/sub/c", "c")
            .file("f", "f"),
    )
}

#[test]
fn every_kind_of_entry_is_made() {
    Image::new()
        .with(
            Tar::new()
                .dir("d", 0o1777)
                .file("d/f", "text")
                .add(tar::EntryType::Regular, "suid", "", 0o6755, b"s")
                .soft("soft", "d/../../f")
                .hard("hard", "d/f", 0o644)
                .hard("hard to soft", "soft", 0o600)
                .add(tar::EntryType::Char, "null", "", 0o666, b"")
                .add(tar::EntryType::Block, "disk", "", 0o660, b"")
                .add(tar::EntryType::Fifo, "pipe", "", 0o600, b"")
                .file("implied/parents/f", "x"),
        )
        .is("d1777 7@9 /d
             -0644 7@9 x2 /d/f = text
             b0660 7@9 /disk (1, 3)
             -0644 7@9 x2 /hard = text
             l0777 7@9 x2 /hard to soft -> d/../../f
             d0755 0@0 /implied
             d0755 0@0 /implied/parents
             -0644 7@9 /implied/parents/f = x
             c0666 7@9 /null (1, 3)
             p0600 7@9 /pipe
             l0777 7@9 x2 /soft -> d/../../f
             -6755 7@9 /suid = s");
}
#[test]
fn types_change_and_the_later_entry_wins() {
    lower()
        .with(
            Tar::new()
                .file("d", "now a file")
                .dir("f", 0o755)
                .file("f/in", "1")
                .file("f/in", "22")
                .soft("f/in", "3"),
        )
        .is("-0644 7@9 /d = now a file
             d0755 7@9 /f
             l0777 7@9 /f/in -> 3");
    // A directory replaces a link to one, and does not go through it.
    Image::new()
        .with(
            Tar::new()
                .dir("real", 0o755)
                .file("real/x", "x")
                .soft("link", "real"),
        )
        .with(Tar::new().dir("link", 0o700).file("link/y", "y"))
        .is("d0700 7@9 /link
             -0644 7@9 /link/y = y
             d0755 7@9 /real
             -0644 7@9 /real/x = x");
}

#[test]
fn a_directory_over_a_directory_takes_all_new_attributes_and_keeps_its_content() {
    Image::new()
        .with(
            Tar::new()
                .pax(&[("SCHILY.xattr.user.old", b"1")])
                .dir("d", 0o700)
                .file("d/a", "a"),
        )
        .with(
            Tar::new()
                .pax(&[("SCHILY.xattr.user.new", b"2"), ("mtime", b"5.5")])
                .dir("d", 0o711),
        )
        .is("d0711 7@5 /d [user.new=2]
             -0644 7@9 /d/a = a");
    // Twice in one layer it is one directory, and what is not said stays.
    Image::new()
        .with(
            Tar::new()
                .pax(&[("SCHILY.xattr.user.old", b"1")])
                .dir("d", 0o700)
                .pax(&[("SCHILY.xattr.user.new", b"2"), ("uid", b"-1")])
                .dir("d", 0o711),
        )
        .is("d0711 7@9 /d [user.new=2] [user.old=1]");
}

#[test]
fn a_parent_that_was_replaced_is_looked_up_again() {
    Image::new()
        .with(
            Tar::new()
                .soft("p", "one")
                .file("p/a", "a")
                .file(".wh.none", "")
                .soft("p", "two")
                .file("p/b", "b"),
        )
        .is("d0755 0@0 /one
             -0644 7@9 /one/a = a
             l0777 7@9 /p -> two
             d0755 0@0 /two
             -0644 7@9 /two/b = b");
}

#[test]
fn errors_name_the_entry_and_its_offset() {
    let error = lower().error(Tar::new().file("ok", "").file("a/../../b", ""));
    assert_eq!(
        error,
        "layer tar, byte 512, entry \"a/../../b\": \"a/../../b\" leads out of the image"
    );
    for (tar, expected) in [
        (Tar::new().hard("h", "../f", 0o644), "leads out"),
        (
            Tar::new().hard("h", "none", 0o644),
            "\"none\" does not exist",
        ),
        (Tar::new().hard("h", "none/f", 0o644), "does not exist"),
        (Tar::new().hard("h", "d", 0o644), "is a directory"),
        (Tar::new().hard("h", "/", 0o644), "is a directory"),
        (Tar::new().hard("d", "d/a", 0o644), "does not exist"),
        (
            Tar::new().soft("x", "y").soft("y", "x").file("x/f", ""),
            "a loop",
        ),
        (Tar::new().soft("x", "x").file("x/.wh.f", ""), "a loop"),
        (Tar::new().file("f/under", ""), "\"f\" is not a directory"),
        (Tar::new().file(".wh..", ""), "means nothing"),
        (Tar::new().soft("s", ""), "needs a target"),
        (
            Tar::new().add(tar::EntryType::new(b'Z'), "z", "", 0, b""),
            "cannot be unpacked",
        ),
    ] {
        let error = lower().error(tar);
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn aufs_metadata_and_entries_for_the_root_make_no_files() {
    let mut image = Image::new().with(
        Tar::new()
            .pax(&[("SCHILY.xattr.user.a", b"1")])
            .dir("./", 0o700)
            .file("/", "not the root")
            .soft("a/..", "nor this")
            .hard(".", "nowhere", 0o600)
            .file(".wh..wh.aufs", "")
            .dir(".wh..wh.plnk", 0o700)
            .file(".wh..wh.plnk/1", ""),
    );
    image.is("");
    let root = image.0.root();
    let metadata = image.0.metadata(root).unwrap();
    assert_eq!(
        (metadata.mode, metadata.uid, metadata.mtime.secs),
        (0o755, 0, 0)
    );
    assert_eq!(image.0.xattrs(root).unwrap(), []);
}

#[test]
fn a_global_header_creates_the_parents_of_its_name_only() {
    let global = tar::EntryType::XGlobalHeader;
    let records = b"13 uid=nobod\n";
    lower()
        .with(
            Tar::new()
                .add(global, "tmp/GlobalHead.1", "", 0o600, records)
                .add(global, "d/a", "", 0o600, records)
                .add(global, "f/x", "", 0o600, records)
                .add(global, "../x", "", 0o600, records)
                .add(global, ".wh.d", "", 0o600, records),
        )
        .is("d0700 7@9 /d
             -0644 7@9 /d/a = a
             -0644 7@9 /d/b = b
             d0711 7@9 /d/sub
             -0644 7@9 /d/sub/c = c
             -0644 7@9 /f = f
             d0755 0@0 /tmp");
}

#[test]
fn sparse_data_is_written_at_the_offsets_of_its_map() {
    // Two pieces in one block, one over a block's edge, one far behind.
    let pieces = [
        (10u64, 3usize),
        (100, 2),
        (4090, 12),
        (1 << 20, 5),
        ((1 << 20) + 300_000, 70_000),
    ];
    let size = (1 << 20) + 400_000;
    let map: Vec<_> = pieces
        .iter()
        .map(|(at, length)| format!("{at},{length}"))
        .collect();
    let stored: Vec<u8> = (0..pieces.iter().map(|piece| piece.1).sum::<usize>())
        .map(|n| u8::try_from(n % 251).unwrap() + 1)
        .collect();
    let mut expected = vec![0; size];
    let mut taken = 0;
    for (at, length) in pieces {
        let at = usize::try_from(at).unwrap();
        expected[at..at + length].copy_from_slice(&stored[taken..taken + length]);
        taken += length;
    }
    let records = [
        ("GNU.sparse.size", size.to_string().into_bytes()),
        ("GNU.sparse.map", map.join(",").into_bytes()),
        ("GNU.sparse.numblocks", map.len().to_string().into_bytes()),
    ];
    let records: Vec<_> = records
        .iter()
        .map(|(key, value)| (*key, &value[..]))
        .collect();
    let mut image = Image::new().with(
        Tar::new()
            .pax(&records)
            .add(tar::EntryType::Regular, "f", "", 0o644, &stored)
            .file("after", "x"),
    );
    let root = image.0.root();
    let file = image.0.lookup(root, b"f").unwrap().unwrap();
    let mut data = vec![0xff; size];
    image.0.read_file(file.ino, 0, &mut data).unwrap();
    assert!(data == expected);
    assert!(image.listing().starts_with("-0644 7@9 /after = x"));
}

mod attributes;
mod links;
mod whiteouts;
