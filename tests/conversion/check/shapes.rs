//! A table of odd layers.

use super::support::tar::{self, DIRECTORY, Entry, FIFO, FILE, HARD, SYMLINK, Tar};

/// The layers of an image, by what is odd about them.
pub type Shape = (&'static str, Vec<Vec<u8>>);

fn one(name: &'static str, tar: Tar) -> Shape {
    (name, vec![tar.finish()])
}

fn two(name: &'static str, lower: Tar, upper: Tar) -> Shape {
    (name, vec![lower.finish(), upper.finish()])
}

/// An entry whose header is changed byte by byte.
fn patched(entry: &Entry<'_>, patches: &[(usize, &[u8])]) -> Vec<u8> {
    let mut header = tar::header(entry);
    for (at, bytes) in patches {
        header[*at..*at + bytes.len()].copy_from_slice(bytes);
    }
    tar::checksum(&mut header);
    let mut bytes = header.to_vec();
    bytes.extend(entry.data);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

/// A header before an entry's own.
fn ahead(kind: u8, data: &[u8]) -> Vec<u8> {
    patched(&Entry::new(kind, "ahead").data(data), &[])
}

fn pax(records: &[(&str, &str)]) -> Vec<u8> {
    let records = records.iter();
    let records = records.flat_map(|(key, value)| tar::pax_record(key, value.as_bytes()));
    ahead(b'x', &records.collect::<Vec<u8>>())
}

fn numbers(uid: i64, gid: i64) -> Vec<u8> {
    let (mut first, mut second) = ([0; 8], [0; 8]);
    tar::base256(&mut first, uid);
    tar::base256(&mut second, gid);
    [first, second].concat()
}

/// What every reader of tars and layers takes alike.
pub fn read_alike() -> Vec<Shape> {
    let target = || Tar::new().dir("t/").file("t/k", "k").soft("l", "/t");
    let pair = || {
        let tar = Tar::new().dir("a/").file("a/a", "1");
        tar.dir("b/").file("b/a", "2")
    };
    vec![
        two(
            "a hard link to a lower file before its whiteout",
            Tar::new().file("f", "old"),
            Tar::new().hard("h", "f").file(".wh.f", ""),
        ),
        two(
            "a hard link to a lower file before an opaque mark",
            Tar::new().dir("d/").file("d/f", "old"),
            Tar::new().hard("d/h", "d/f").file("d/.wh..wh..opq", ""),
        ),
        two(
            "an opaque mark through a link before a directory replaces it",
            target(),
            Tar::new()
                .file("l/.wh..wh..opq", "")
                .dir("l/")
                .file("l/n", "n"),
        ),
        two(
            "an opaque mark below a directory that replaced a link",
            target(),
            Tar::new()
                .dir("l/")
                .file("l/n", "n")
                .file("l/.wh..wh..opq", ""),
        ),
        two(
            "a whiteout below a new link",
            pair(),
            Tar::new().soft("a", "b").file("a/.wh.a", ""),
        ),
        two(
            "a whiteout before a link takes the directory's place",
            pair(),
            Tar::new().file("a/.wh.a", "").soft("a", "b"),
        ),
        two(
            "an opaque mark below a new link",
            pair(),
            Tar::new().soft("a", "b").file("a/.wh..wh..opq", ""),
        ),
        two(
            "a file through a link before its whiteout",
            target(),
            Tar::new().file("l/n", "n").file(".wh.l", ""),
        ),
        one(
            "a long name beats a record",
            Tar::new()
                .bytes(&ahead(b'L', b"long\0"))
                .bytes(&pax(&[("path", "record")]))
                .file("short", "x"),
        ),
        one(
            "a long link beats a record",
            Tar::new()
                .bytes(&pax(&[("linkpath", "record")]))
                .bytes(&ahead(b'K', b"long\0"))
                .soft("l", "short"),
        ),
        one(
            "records take the place of those before",
            Tar::new()
                .bytes(&pax(&[("path", "one"), ("uid", "5")]))
                .bytes(&pax(&[("gid", "7")]))
                .file("short", "x"),
        ),
        one(
            "NULs and blanks around a number",
            Tar::new().bytes(&patched(
                &Entry::new(FILE, "f"),
                &[(108, b"   5 \0\0\0\0\0\x007\0\0\0\0")],
            )),
        ),
        one(
            "star's real size of a file that is not sparse",
            Tar::new().entry(
                Entry::new(FILE, "f")
                    .pax("SCHILY.realsize", "100")
                    .data(b"abcd"),
            ),
        ),
        one(
            "an old directory with a size",
            Tar::new()
                .bytes(&patched(&Entry::new(0, "d/").size(600), &[]))
                .file("f", "x"),
        ),
        one(
            "a directory with a negative size",
            Tar::new()
                .bytes(&patched(&Entry::new(DIRECTORY, "d"), &[(124, &[0xff; 12])]))
                .file("f", "x"),
        ),
        one(
            "a prefix behind an odd version",
            Tar::new().bytes(&patched(
                &Entry::new(FILE, "f"),
                &[(263, b"\0\0"), (345, b"prefix")],
            )),
        ),
        one(
            "a prefix in a GNU header, as Go once wrote it",
            Tar::new().bytes(&patched(
                &Entry::new(FILE, "f"),
                &[(257, b"ustar  \0"), (345, b"pre/fix")],
            )),
        ),
        one(
            "star's shorter prefix",
            Tar::new().bytes(&patched(
                &Entry::new(FILE, "f"),
                &[(345, b"pre"), (476, b"00000000001\0"), (508, b"tar\0")],
            )),
        ),
    ]
}

/// An access list of these entries: whose, what, and who.
fn list(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut value = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        value.extend(tag.to_le_bytes());
        value.extend(permissions.to_le_bytes());
        value.extend(id.to_le_bytes());
    }
    value
}

const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";
const ANY: u32 = u32::MAX;

/// Attributes as containerd sets them.
pub fn attributes() -> Vec<Shape> {
    let named = list(&[
        (1, 6, ANY),
        (2, 7, 1000),
        (4, 4, ANY),
        (16, 7, ANY),
        (32, 0, ANY),
    ]);
    let capability = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let text = "user::rwx,user:1000:rwx,group::r-x,mask::rwx,other::---";
    vec![
        one(
            "trusted attributes",
            Tar::new()
                .entry(Entry::new(DIRECTORY, "d/").xattr("trusted.overlay.opaque", "y"))
                .entry(
                    Entry::new(FILE, "f")
                        .xattr("trusted.a", "1")
                        .xattr("user.a", "2"),
                ),
        ),
        one(
            "attributes that Linux has no place for",
            Tar::new()
                .entry(
                    Entry::new(FILE, "f")
                        .xattr("plain", "1")
                        .xattr("system.x", "1"),
                )
                .entry(Entry::new(SYMLINK, "l").link("f").xattr("user.a", "1"))
                .entry(Entry::new(FIFO, "p").xattr("user.a", "1"))
                .entry(Entry::new(SYMLINK, "m").link("f").xattr(ACCESS, &named)),
        ),
        one(
            "access lists as text",
            Tar::new()
                .entry(
                    Entry::new(FILE, "f")
                        .mode(0o640)
                        .pax("SCHILY.acl.access", text),
                )
                .entry(Entry::new(DIRECTORY, "d").pax("SCHILY.acl.default", text)),
        ),
        one(
            "access lists and other modes",
            Tar::new()
                .entry(Entry::new(FILE, "same").mode(0o670).xattr(ACCESS, &named))
                .entry(Entry::new(FILE, "other").mode(0o4755).xattr(ACCESS, &named))
                .entry(Entry::new(DIRECTORY, "d").mode(0o700).xattr(ACCESS, &named))
                .entry(Entry::new(HARD, "link").link("same").mode(0o600)),
        ),
        one(
            "access lists that say no more than a mode",
            Tar::new()
                .entry(
                    Entry::new(FILE, "f")
                        .mode(0o777)
                        .xattr(ACCESS, list(&[(1, 6, ANY), (4, 4, ANY), (32, 0, ANY)])),
                )
                .entry(Entry::new(FILE, "masked").mode(0o775).xattr(
                    ACCESS,
                    list(&[(1, 6, ANY), (4, 7, ANY), (16, 4, ANY), (32, 0, ANY)]),
                ))
                .entry(Entry::new(FILE, "none").xattr(ACCESS, list(&[])))
                .entry(Entry::new(FILE, "newer").xattr(ACCESS, b"\x03\0\0\0")),
        ),
        one(
            "a default list, and what is made below it",
            Tar::new()
                .entry(Entry::new(DIRECTORY, "d").xattr(
                    DEFAULT,
                    list(&[
                        (1, 7, ANY),
                        (2, 5, 33),
                        (4, 5, ANY),
                        (16, 5, ANY),
                        (32, 0, ANY),
                    ]),
                ))
                .file("d/f", "x")
                .entry(Entry::new(DIRECTORY, "d/below").mode(0o700))
                .file("d/parents/of/f", "x")
                .soft("d/l", "f"),
        ),
        one(
            "a default list that says no more than a mode",
            Tar::new()
                .entry(
                    Entry::new(DIRECTORY, "d")
                        .xattr(DEFAULT, list(&[(1, 7, ANY), (4, 5, ANY), (32, 0, ANY)])),
                )
                .file("d/f", "x"),
        ),
        one(
            "owners that chown takes for none, in a directory that hands on its group",
            Tar::new()
                .entry(Entry::new(DIRECTORY, "d").mode(0o2775).owner(0, 77))
                .entry(Entry::new(FILE, "d/f").owner(4_294_967_295, 4_294_967_295))
                .file("d/parent/f", "x")
                .entry(Entry::new(FILE, "f").owner(4_294_967_295, 5)),
        ),
        one(
            "negative and wide owners",
            Tar::new()
                .bytes(&patched(&Entry::new(FILE, "f"), &[(108, &numbers(-2, -3))]))
                .bytes(&patched(
                    &Entry::new(FILE, "g"),
                    &[(108, &numbers((1 << 32) + 7, (1 << 40) + 9))],
                ))
                .entry(
                    Entry::new(FILE, "h")
                        .pax("uid", "-5")
                        .pax("gid", "4294967300"),
                ),
        ),
        one(
            "numbers with a sign",
            Tar::new()
                .bytes(&ahead(b'x', b"+12 path=pp\n"))
                .file("short", "x")
                .entry(
                    Entry::new(FILE, "f")
                        .pax("uid", "+5")
                        .pax("gid", "+6")
                        .pax("mtime", "+7.5"),
                ),
        ),
        one(
            "times that containerd does not set",
            Tar::new()
                .entry(Entry::new(FILE, "before").mtime(-86_400))
                .entry(Entry::new(FILE, "barely").pax("mtime", "-0.25"))
                .entry(Entry::new(FILE, "last").pax("mtime", "9223372036.854775807"))
                .entry(Entry::new(FILE, "later").pax("mtime", "9223372036.854775808")),
        ),
        one(
            "a capability, and a hard link that does not bring it",
            Tar::new()
                .entry(
                    Entry::new(FILE, "f")
                        .mode(0o4755)
                        .xattr("security.capability", capability),
                )
                .entry(Entry::new(FILE, "g").xattr("security.capability", capability))
                .entry(Entry::new(HARD, "link").link("f").mode(0o755))
                .entry(
                    Entry::new(HARD, "brings")
                        .link("g")
                        .xattr("security.capability", capability)
                        .xattr("user.more", "1"),
                ),
        ),
        one(
            "what is said of the root",
            Tar::new()
                .entry(
                    Entry::new(DIRECTORY, "./")
                        .mode(0o700)
                        .owner(5, 6)
                        .xattr("user.a", "1"),
                )
                .entry(Entry::new(DIRECTORY, "/").mode(0o711))
                .file("f", "x"),
        ),
    ]
}

/// Names and contents as Go and containerd take them.
pub fn names() -> Vec<Shape> {
    let sparse = |version: &[(&str, &str)], data: &'static [u8]| {
        Tar::new()
            .bytes(&pax(version))
            .entry(Entry::new(FILE, "f").data(data))
    };
    let mut map = [0; 516];
    map[..7].copy_from_slice(b"1\n10\n4\n");
    map[512..].copy_from_slice(b"abcd");
    let map: &'static [u8] = Box::leak(Box::new(map));
    let global = |records: &[(&str, &str)]| {
        let records = records.iter();
        let records = records.flat_map(|(key, value)| tar::pax_record(key, value.as_bytes()));
        ahead(b'g', &records.collect::<Vec<u8>>())
    };
    vec![
        two(
            "whiteouts below what is nowhere",
            Tar::new().file("a", "x").soft("l", "nowhere"),
            Tar::new()
                .file("c/e/.wh.d", "")
                .file("o/p/.wh..wh..opq", "")
                .file("l/.wh.b", ""),
        ),
        one(
            "empty long names",
            Tar::new()
                .bytes(&ahead(b'L', b"\0"))
                .file("f", "kept")
                .bytes(&ahead(b'K', b""))
                .soft("l", "kept"),
        ),
        one(
            "a global header with odd values",
            Tar::new()
                .bytes(&global(&[
                    ("mtime", "abc"),
                    ("uid", "x"),
                    ("size", "-5"),
                    ("path", "other"),
                    ("LIBARCHIVE.xattr.user.a", "!!"),
                ]))
                .file("f", "x"),
        ),
        one(
            "a global header with a path",
            Tar::new()
                .bytes(&global(&[("path", "parents/of/nothing")]))
                .file("f", "x"),
        ),
        one(
            "a global header between records and their entry",
            Tar::new()
                .bytes(&pax(&[("path", "lost")]))
                .bytes(&global(&[("comment", "x")]))
                .file("f", "x"),
        ),
        one(
            "attributes in libarchive's form",
            Tar::new()
                .entry(Entry::new(FILE, "bad").pax("LIBARCHIVE.xattr.user.a", "!!!"))
                .entry(Entry::new(FILE, "good").pax("LIBARCHIVE.xattr.user.a", "YWJj"))
                .entry(
                    Entry::new(FILE, "both")
                        .pax("LIBARCHIVE.xattr.user.a", "YWJj")
                        .xattr("user.a", "xyz"),
                ),
        ),
        one(
            "a sparse file of an unknown version",
            sparse(
                &[
                    ("GNU.sparse.major", "2"),
                    ("GNU.sparse.minor", "0"),
                    ("GNU.sparse.name", "real"),
                    ("GNU.sparse.realsize", "100"),
                ],
                b"abcd",
            ),
        ),
        one(
            "a sparse file of half a version that is no number",
            sparse(
                &[("GNU.sparse.major", "x"), ("GNU.sparse.realsize", "y")],
                b"abcd",
            ),
        ),
        one(
            "a sparse file of version 1.0 with signs",
            sparse(
                &[
                    ("GNU.sparse.major", "1"),
                    ("GNU.sparse.minor", "0"),
                    ("GNU.sparse.name", "real"),
                    ("GNU.sparse.realsize", "+100"),
                ],
                map,
            ),
        ),
        one(
            "a sparse file of version 0.1",
            sparse(
                &[
                    ("GNU.sparse.size", "100"),
                    ("GNU.sparse.numblocks", "1"),
                    ("GNU.sparse.map", "10,4"),
                    ("GNU.sparse.name", "real"),
                ],
                b"abcd",
            ),
        ),
        one(
            "a sparse file of version 0.0",
            sparse(
                &[
                    ("GNU.sparse.size", "100"),
                    ("GNU.sparse.numblocks", "1"),
                    ("GNU.sparse.offset", "10"),
                    ("GNU.sparse.numbytes", "4"),
                ],
                b"abcd",
            ),
        ),
        one(
            "a sparse file without a map",
            sparse(
                &[("GNU.sparse.size", "100"), ("GNU.sparse.name", "real")],
                b"abcd",
            ),
        ),
        one(
            "device numbers in records",
            Tar::new().entry(
                Entry::new(tar::CHAR, "c")
                    .device(1, 3)
                    .pax("SCHILY.devmajor", "7")
                    .pax("SCHILY.devminor", "8"),
            ),
        ),
    ]
}
