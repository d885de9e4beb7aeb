//! Sparse files: PAX records and old GNU headers.

use super::*;

#[test]
fn sparse_records_of_each_version_make_the_same_file() {
    let stored = padded(b"abcde");
    let zero_zero = [
        pax(&[
            ("GNU.sparse.size", "1000"),
            ("GNU.sparse.numblocks", "2"),
            ("GNU.sparse.offset", "10"),
            ("GNU.sparse.numbytes", "3"),
            ("GNU.sparse.offset", "100"),
            ("GNU.sparse.numbytes", "2"),
        ]),
        header("f", b'0', b"5", |_| {}),
        stored.clone(),
    ]
    .concat();
    let zero_one = [
        pax(&[
            ("GNU.sparse.size", "1000"),
            ("GNU.sparse.name", "f"),
            ("GNU.sparse.numblocks", "3"),
            ("GNU.sparse.map", "10,3,100,2,1000,0"),
        ]),
        header("GNUSparseFile.1/f", b'0', b"5", |_| {}),
        stored.clone(),
    ]
    .concat();
    let one_zero = [
        pax(&[
            ("GNU.sparse.major", "1"),
            ("GNU.sparse.minor", "0"),
            ("GNU.sparse.realsize", "1000"),
            ("GNU.sparse.name", "f"),
        ]),
        header("GNUSparseFile.1/f", b'0', b"1005", |_| {}),
        padded(b"2\n10\n3\n100\n2\n"),
        stored,
    ]
    .concat();
    for tar in [zero_zero, zero_one, one_zero] {
        let (entry, content) = only(&tar);
        assert_eq!((entry.path.as_slice(), entry.size), (&b"f"[..], 1000));
        assert_eq!(entry.data, [10..13, 100..102]);
        assert_eq!(
            (&content[10..13], &content[100..102]),
            (&b"abc"[..], &b"de"[..])
        );
    }
    let (map, size, count) = ("GNU.sparse.map", "GNU.sparse.size", "GNU.sparse.numblocks");
    for records in [
        &[(size, "99"), (map, "10,5")][..],
        &[(size, "9"), (map, "10,5"), (count, "1")],
        &[(size, "99"), (map, "10,5,1"), (count, "1")],
        &[(size, "99"), (map, "10,5"), (count, "2")],
        &[(size, "99"), (map, "10,4"), (count, "1")],
        &[(size, "99"), (map, "10,3,12,2"), (count, "2")],
        &[(size, "99"), ("GNU.sparse.numbytes", "3")],
        &[("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0")],
        &[("GNU.sparse.major", "0"), ("GNU.sparse.minor", "1")],
    ] {
        let tar = [
            pax(records),
            header("f", b'0', b"5", |_| {}),
            padded(b"abcde"),
        ]
        .concat();
        assert!(read_all(&tar).is_err(), "{records:?}");
    }
    let directory = [
        pax(&[(size, "9"), (map, "0,0"), (count, "1")]),
        header("d", b'5', b"0", |_| {}),
    ];
    assert!(read_all(&directory.concat()).is_err());
}

#[test]
fn records_without_a_map_or_of_an_unknown_version_are_ignored() {
    let (major, minor) = ("GNU.sparse.major", "GNU.sparse.minor");
    let name = ("GNU.sparse.name", "real");
    for records in [
        &[name][..],
        &[name, ("GNU.sparse.size", "99")],
        &[name, ("GNU.sparse.realsize", "odd")],
        &[name, (major, "2"), (minor, "0")],
        &[name, (major, "1"), (minor, "1")],
        &[name, (major, "01"), (minor, "0")],
        &[name, (major, "1")],
        &[name, (minor, "0"), ("GNU.sparse.map", "0,5")],
        &[name, (major, "odd"), (minor, "-")],
    ] {
        let file = [header("f", b'0', b"5", |_| {}), padded(b"abcde")];
        let (entry, content) = only(&[pax(records), file.concat()].concat());
        assert_eq!((&entry.path[..], &content[..]), (&b"f"[..], &b"abcde"[..]));
    }
    // A map has signs if it likes, and needs no size.
    let map = [("GNU.sparse.map", "+1,+3"), ("GNU.sparse.numblocks", "+1")];
    for (size, expected) in [(Some("+9"), &b"\0abc\0\0\0\0\0"[..]), (Some("4"), b"\0abc")] {
        let size = size.map(|size| ("GNU.sparse.realsize", size));
        let records: Vec<_> = map.into_iter().chain(size).chain([name]).collect();
        let file = [header("f", b'0', b"3", |_| {}), padded(b"abc")];
        let (entry, content) = only(&[pax(&records), file.concat()].concat());
        assert_eq!((&entry.path[..], &content[..]), (&b"real"[..], expected));
    }
}
