//! The reader: headers, records, numbers and damage.

use std::io::Write as _;

use proptest::prelude::*;

use super::*;

/// Entries with the logical content of files.
fn read_all(bytes: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>, TarError> {
    let mut reader = TarReader::new(bytes);
    let mut entries = Vec::new();
    while let Some(entry) = reader.next_entry()? {
        assert!(entry.size < 1 << 24, "a test would allocate {}", entry.size);
        let mut content = vec![0; usize::try_from(entry.size).unwrap()];
        for range in &entry.data {
            let (start, end) = (
                range.start.try_into().unwrap(),
                range.end.try_into().unwrap(),
            );
            let range: std::ops::Range<usize> = start..end;
            reader.read_data(&mut content[range])?;
        }
        entries.push((entry, content));
    }
    Ok(entries)
}

fn only(bytes: &[u8]) -> (Entry, Vec<u8>) {
    let mut entries = read_all(bytes).unwrap();
    assert_eq!(entries.len(), 1);
    entries.remove(0)
}

fn problem(bytes: &[u8]) -> String {
    read_all(bytes).unwrap_err().to_string()
}

/// A header block with fields set and the checksum made right.
fn header(name: &str, flag: u8, size: &[u8], edit: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut block = vec![0; BLOCK];
    block[..name.len()].copy_from_slice(name.as_bytes());
    block[100..107].copy_from_slice(b"0000644");
    block[124..124 + size.len()].copy_from_slice(size);
    block[156] = flag;
    block[257..265].copy_from_slice(b"ustar\x0000");
    edit(&mut block);
    sum(&mut block);
    block
}

fn sum(block: &mut [u8]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

fn pax(records: &[(&str, &str)]) -> Vec<u8> {
    let mut body = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while length != rest + length.to_string().len() {
            length += 1;
        }
        writeln!(body, "{length} {key}={value}").unwrap();
    }
    extension(b'x', &body)
}

fn extension(flag: u8, body: &[u8]) -> Vec<u8> {
    let size = format!("{:011o}", body.len());
    let mut bytes = header("ext", flag, size.as_bytes(), |_| {});
    bytes.extend_from_slice(body);
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    bytes
}

fn padded(content: &[u8]) -> Vec<u8> {
    let mut bytes = content.to_vec();
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    bytes
}

const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

#[test]
fn every_type_flag_is_read_as_go_reads_it() {
    let device = |block: &mut [u8]| {
        block[329..336].copy_from_slice(b"0000010");
        block[337..344].copy_from_slice(b"0000003");
    };
    let link = |block: &mut [u8]| block[157..163].copy_from_slice(b"target");
    let file = |name: &str, flag| [header(name, flag, b"3", |_| {}), padded(b"abc")].concat();
    let tar = [
        file("f0", b'0'),
        file("f7", b'7'),
        file("fnul", 0),
        header("dnul/", 0, b"0", |_| {}),
        // The sizes of entries without data are ignored.
        header("hard", b'1', b"777", link),
        header("soft", b'2', b"777", link),
        header("chr", b'3', b"0", device),
        header("blk", b'4', b"0", device),
        header("dir/", b'5', b"777", |_| {}),
        header("fifo", b'6', b"0", |_| {}),
        [header("dump/", b'D', b"3", |_| {}), padded(b"Yx\0")].concat(),
        [header("label", b'V', b"3", |_| {}), padded(b"abc")].concat(),
        header("last", b'0', b"0", |_| {}),
        END.to_vec(),
        b"what follows the end is not read".to_vec(),
    ]
    .concat();
    let kinds: Vec<(String, EntryKind)> = read_all(&tar)
        .unwrap()
        .into_iter()
        .map(|(entry, _)| (String::from_utf8(entry.path).unwrap(), entry.kind))
        .collect();
    let target = || b"target".to_vec();
    let expected = [
        ("f0", EntryKind::File),
        ("f7", EntryKind::File),
        ("fnul", EntryKind::File),
        ("dnul/", EntryKind::Directory),
        ("hard", EntryKind::HardLink(target())),
        ("soft", EntryKind::Symlink(target())),
        ("chr", EntryKind::CharDevice { major: 8, minor: 3 }),
        ("blk", EntryKind::BlockDevice { major: 8, minor: 3 }),
        ("dir/", EntryKind::Directory),
        ("fifo", EntryKind::Fifo),
        ("dump/", EntryKind::Directory),
        ("last", EntryKind::File),
    ];
    assert_eq!(kinds, expected.map(|(name, kind)| (name.to_owned(), kind)));
    for flag in [b'M', b'Z', b'X', 0xff] {
        assert!(problem(&header("f", flag, b"0", |_| {})).contains("cannot be unpacked"));
    }
}

#[test]
fn prefixes_depend_on_the_magic() {
    let prefix = |block: &mut [u8]| block[345..350].copy_from_slice(b"a/b/c");
    let (entry, _) = only(&header("f", b'0', b"0", prefix));
    assert_eq!(entry.path, b"a/b/c/f");
    // What Go wrote before 1.8; and what GNU tar has in the same place.
    let gnu = |block: &mut [u8]| {
        prefix(block);
        block[257..265].copy_from_slice(b"ustar  \0");
    };
    assert_eq!(only(&header("f", b'0', b"0", gnu)).0.path, b"a/b/c/f");
    let timed = |block: &mut [u8]| {
        gnu(block);
        block[345..369].copy_from_slice(b"14000000000\x0014000000000\0");
    };
    assert_eq!(only(&header("f", b'0', b"0", timed)).0.path, b"f");
    let star = |block: &mut [u8]| {
        prefix(block);
        block[476] = b'7';
        block[508..512].copy_from_slice(b"tar\0");
    };
    assert_eq!(only(&header("f", b'0', b"0", star)).0.path, b"a/b/c/f");
    let v7 = |block: &mut [u8]| {
        prefix(block);
        block[257..265].fill(0);
        block[329] = b'z';
    };
    assert_eq!(only(&header("f", b'3', b"0", v7)).0.path, b"f");
}

#[test]
fn checksums_may_be_of_signed_bytes_but_not_wrong() {
    let mut block = header("f", b'0', b"0", |block| block[1] = 0xff);
    let sum: i32 = block[..148]
        .iter()
        .chain(&block[156..])
        .map(|&b| i32::from(b.cast_signed()))
        .sum();
    block[148..156].copy_from_slice(format!("{:06o}\0 ", sum + 8 * 32).as_bytes());
    assert_eq!(only(&block).0.path, b"f\xff");
    block[0] = b'g';
    assert!(problem(&block).contains("checksum"), "{}", problem(&block));
    assert!(problem(&[b'<'; 1024]).contains("checksum"));
}

#[test]
fn a_missing_end_of_archive_is_accepted_at_a_header_only() {
    let file = [header("f", b'0', b"3", |_| {}), padded(b"abc")].concat();
    for whole in [
        vec![],
        END.to_vec(),
        vec![0; BLOCK],
        vec![0; 100 * BLOCK],
        file.clone(),
        [&file[..], &[0; BLOCK]].concat(),
        // Not even the padding of the last file is there.
        file[..BLOCK + 3].to_vec(),
    ] {
        let names: Vec<_> = read_all(&whole)
            .unwrap()
            .into_iter()
            .map(|(e, _)| e.path)
            .collect();
        assert!(names.is_empty() || names == [b"f"]);
    }
    for cut in [1, 100, BLOCK - 1, BLOCK, BLOCK + 2] {
        assert!(problem(&file[..cut]).contains("truncated"), "{cut}");
    }
    let lone = [&[0; BLOCK][..], &file].concat();
    assert!(problem(&lone).contains("zero block"));
    for stopped in [pax(&[("path", "x")]), extension(b'L', b"x\0")] {
        let names = read_all(&[&file[..], &stopped].concat()).unwrap();
        assert_eq!(names.len(), 1);
    }
}

#[test]
fn long_names_and_records_belong_to_the_next_entry_only() {
    let long = "n".repeat(300);
    let tar = [
        extension(b'L', format!("{long}\0").as_bytes()),
        extension(b'K', b"far away\0"),
        header("short", b'2', b"0", |_| {}),
        pax(&[
            ("path", "from pax"),
            ("linkpath", "pax target"),
            ("uid", "70000"),
            ("gid", "4294967295"),
        ]),
        header("short", b'2', b"0", |_| {}),
        header("plain", b'0', b"0", |_| {}),
    ]
    .concat();
    let entries = read_all(&tar).unwrap();
    assert_eq!(entries[0].0.path, long.as_bytes());
    assert_eq!(entries[0].0.kind, EntryKind::Symlink(b"far away".to_vec()));
    assert_eq!(entries[1].0.path, b"from pax");
    assert_eq!(
        entries[1].0.kind,
        EntryKind::Symlink(b"pax target".to_vec())
    );
    assert_eq!((entries[1].0.uid, entries[1].0.gid), (Some(70_000), None));
    assert_eq!(
        (entries[2].0.path.as_slice(), entries[2].0.uid),
        (&b"plain"[..], Some(0))
    );
}

#[test]
fn an_empty_name_is_none_and_a_long_name_comes_before_a_record() {
    let named = |before: &[Vec<u8>]| {
        let tar = [
            before.concat(),
            header("own", b'2', b"0", |b| b[157] = b't'),
        ]
        .concat();
        let (entry, _) = only(&tar);
        let EntryKind::Symlink(target) = entry.kind else {
            panic!("{:?}", entry.kind)
        };
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (text(entry.path), text(target))
    };
    let is = |path: &str, target: &str| (path.to_owned(), target.to_owned());
    let long = |name: &[u8]| extension(b'L', name);
    let link = |name: &[u8]| extension(b'K', name);
    assert_eq!(named(&[long(b"\0"), link(b"\0")]), is("own", "t"));
    assert_eq!(named(&[long(b""), link(b"")]), is("own", "t"));
    let record = || pax(&[("path", "p"), ("linkpath", "q")]);
    assert_eq!(named(&[long(b"\0"), record(), link(b"\0")]), is("p", "q"));
    assert_eq!(named(&[record(), long(b"l\0"), link(b"k\0")]), is("l", "k"));
    assert_eq!(named(&[long(b"l\0"), link(b"k\0"), record()]), is("l", "k"));
    let empty = || pax(&[("path", ""), ("linkpath", "")]);
    assert_eq!(named(&[empty()]), is("own", "t"));
}

#[test]
fn owners_are_cut_to_32_bits_as_by_chown() {
    for (written, uid) in [
        ("7", Some(7)),
        ("+5", Some(5)),
        ("-2", Some(u32::MAX - 1)),
        ("4294967294", Some(u32::MAX - 1)),
        ("4294967301", Some(5)),
        ("99999999999", Some(1_215_752_191)),
        ("-4294967295", Some(1)),
        ("-1", None),
        ("4294967295", None),
    ] {
        let records = pax(&[("uid", written), ("gid", written)]);
        let (entry, _) = only(&[records, header("f", b'0', b"0", |_| {})].concat());
        assert_eq!((entry.uid, entry.gid), (uid, uid), "{written}");
    }
    let negative = header("f", b'0', b"0", |block| block[108..116].fill(0xff));
    assert_eq!(only(&negative).0.uid, None);
}

#[test]
fn global_records_are_validated_and_ignored() {
    let global = |records: &[(&str, &str)]| {
        let mut global = pax(records);
        global[156] = b'g';
        sum(&mut global[..BLOCK]);
        global
    };
    let odd = [
        ("mtime", "soon"),
        ("uid", "nobody"),
        ("GNU.sparse.size", "?"),
    ];
    let tar = [
        pax(&[("uid", "9")]),
        extension(b'L', b"long\0"),
        global(&[&odd[..], &[("path", "a/name")]].concat()),
        header("a", b'0', b"0", |_| {}),
    ]
    .concat();
    let entries = read_all(&tar).unwrap();
    assert_eq!(entries.len(), 2);
    assert_eq!(entries[0].0.kind, EntryKind::GlobalHeader);
    assert_eq!(entries[0].0.path, b"a/name");
    // What stood before it was its own.
    let file = &entries[1].0;
    assert_eq!((&file.path[..], file.uid), (&b"a"[..], Some(0)));
    assert_eq!(file.mtime, Timestamp::default());
    for broken in [
        global(&[("GNU.sparse.numbytes", "1")]),
        global(&[("path", "a\0b")]),
        {
            let mut global = global(&[("comment", "x")]);
            global[BLOCK] = b'9';
            global
        },
    ] {
        assert!(read_all(&broken).is_err());
    }
}

#[test]
fn invalid_numbers_are_reported_with_field_and_offset() {
    let huge = |block: &mut [u8]| block[124..136].copy_from_slice(&[0xff; 12]);
    let first = [
        header("first", b'0', b"0", |_| {}),
        header("f", b'0', b"", huge),
    ]
    .concat();
    assert_eq!(
        problem(&first),
        "layer tar, byte 512, entry \"f\": size \"-1\" is not a number that can be used here"
    );
    let over = |block: &mut [u8]| {
        block[124..136].copy_from_slice(&[0x80, 0, 0, 0, 0xff, 0, 0, 0, 0, 0, 0, 0]);
    };
    assert!(problem(&header("f", b'0', b"", over)).contains("size"));
    let file = || header("f", b'0', b"0", |_| {});
    for (key, value) in [
        ("size", "9223372036854775808"),
        ("size", "-1"),
        ("uid", "9223372036854775808"),
        ("gid", "0x1"),
        ("mtime", "soon"),
        ("path", "a\0b"),
    ] {
        assert!(
            read_all(&[pax(&[(key, value)]), file()].concat()).is_err(),
            "{key}={value}"
        );
    }
    let big = header("ext", b'x', b"77777777777", |_| {});
    assert!(
        problem(&big).contains("over the limit"),
        "{}",
        problem(&big)
    );
    let truncated = [pax(&[("size", "9223372036854775807")]), file()].concat();
    let mut reader = TarReader::new(&truncated[..]);
    assert_eq!(
        reader.next_entry().unwrap().unwrap().size,
        i64::MAX.cast_unsigned()
    );
    assert!(
        reader
            .next_entry()
            .unwrap_err()
            .to_string()
            .contains("truncated")
    );
    assert!(reader.next_entry().unwrap().is_none());
}

#[test]
fn unread_data_is_skipped_and_reads_end_with_the_entry() {
    let tar = [
        header("a", b'0', b"3", |_| {}),
        padded(b"abc"),
        header("b", b'0', b"3", |_| {}),
        padded(b"xyz"),
    ]
    .concat();
    let mut reader = TarReader::new(&tar[..]);
    reader.next_entry().unwrap();
    reader.next_entry().unwrap();
    let mut two = [0; 2];
    reader.read_data(&mut two).unwrap();
    assert_eq!(&two, b"xy");
    assert!(reader.read_data(&mut two).is_err());
}

proptest! {
    #[test]
    fn damaged_tars_never_panic(
        hits in proptest::collection::vec((0usize..6000, any::<u8>()), 1..6), resum: bool
    ) {
        let mut tar = [
            pax(&[("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"),
                  ("GNU.sparse.realsize", "1000"), ("mtime", "1.5")]),
            header("f", b'0', b"1005", |_| {}),
            padded(b"2\n10\n3\n100\n2\n"),
            padded(b"abcde"),
            extension(b'L', b"long\0"),
            header("g", b'S', b"5", |block| {
                block[386..388].copy_from_slice(b"01");
                block[398..400].copy_from_slice(b"05");
                block[483..486].copy_from_slice(b"100");
            }),
            padded(b"abcde"),
        ].concat();
        prop_assert_eq!(read_all(&tar).unwrap().len(), 2);
        let length = tar.len();
        for (place, byte) in hits {
            tar[place % length] = byte;
        }
        if resum {
            for block in tar.chunks_mut(BLOCK) {
                if block[257..].starts_with(b"ustar") {
                    sum(block);
                }
            }
        }
        let mut reader = TarReader::new(&tar[..]);
        while let Ok(Some(entry)) = reader.next_entry() {
            let mut end = 0;
            for range in &entry.data {
                prop_assert!(range.start >= end && range.start < range.end);
                end = range.end;
            }
            prop_assert!(end <= entry.size);
        }
    }
}

mod sparse;
mod tools;
