//! The rules of layers: whiteouts, types that change, links, parents; and broken layers.

use overlaybd_proxy::check::Tree;
use proptest::prelude::*;
use tar::EntryType;

/// Builds a layer; each line of `spec` is one entry: `KIND PATH [-> TARGET]`.
pub fn layer(spec: &str) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for line in spec.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (kind, rest) = line.split_once(' ').unwrap();
        let (path, target) = rest.split_once(" -> ").unwrap_or((rest, ""));
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(match kind {
            "dir" => EntryType::Directory,
            "file" => EntryType::Regular,
            "link" => EntryType::Symlink,
            "hard" => EntryType::Link,
            "fifo" => EntryType::Fifo,
            other => panic!("{other}"),
        });
        header.set_mode(if kind == "dir" { 0o750 } else { 0o640 });
        header.set_uid(7);
        header.set_gid(8);
        header.set_mtime(99);
        for (kind, text) in [(b'L', path), (b'K', target)] {
            if text.len() > 100 {
                let mut long = tar::Header::new_gnu();
                long.set_entry_type(EntryType::new(kind));
                long.set_size(text.len() as u64);
                long.set_cksum();
                tar.append(&long, text.as_bytes()).unwrap();
            }
        }
        // The builder cleans names; layers do not.
        let fields = header.as_gnu_mut().unwrap();
        for (field, text) in [(&mut fields.name, path), (&mut fields.linkname, target)] {
            let length = text.len().min(field.len());
            field[..length].copy_from_slice(&text.as_bytes()[..length]);
        }
        let content = if kind == "file" { target } else { "" };
        header.set_size(content.len() as u64);
        header.set_cksum();
        tar.append(&header, content.as_bytes()).unwrap();
    }
    tar.into_inner().unwrap()
}

fn tree(specs: &[&str]) -> Tree {
    Tree::from_layers(specs.iter().map(|spec| std::io::Cursor::new(layer(spec)))).unwrap()
}

#[test]
fn several_layers_equal_one_layer_with_the_same_result() {
    for (what, specs, flat) in [
        (
            "a whiteout",
            &["file a\nfile b", "file .wh.a"][..],
            "file b",
        ),
        (
            "a whiteout of a directory",
            &["dir d\nfile d/a\nfile d/e/b", "file .wh.d"],
            "",
        ),
        ("a whiteout of nothing", &["file a", "file .wh.b"], "file a"),
        (
            "a whiteout beside the new",
            &["file a -> 1", "file a -> 2\nfile .wh.a"],
            "file a -> 2",
        ),
        (
            "a whiteout before a new directory",
            &["dir d\nfile d/a", "file .wh.d\ndir d\nfile d/b"],
            "dir d\nfile d/b",
        ),
        (
            "a whiteout of a directory that comes back without an entry",
            &["dir d\nfile d/a", "file d/b\nfile .wh.d"],
            "file d/b",
        ),
        (
            "an opaque directory, said last",
            &[
                "dir d\nfile d/a\ndir d/e",
                "dir d\nfile d/b\nfile d/.wh..wh..opq",
            ],
            "dir d\nfile d/b",
        ),
        (
            "an opaque directory that lower layers lack",
            &["file x", "dir d\nfile d/.wh..wh..opq\nfile d/b"],
            "file x\ndir d\nfile d/b",
        ),
        (
            "an opaque root",
            &["file a", "file .wh..wh..opq\nfile b"],
            "file b",
        ),
        (
            "a file over a directory",
            &["dir d\nfile d/a", "file d -> x"],
            "file d -> x",
        ),
        (
            "a directory over a file",
            &["file d", "dir d\nfile d/a"],
            "dir d\nfile d/a",
        ),
        (
            "a link over a directory",
            &["dir d\nfile d/a", "link d -> e"],
            "link d -> e",
        ),
        (
            "a directory over a link",
            &["dir e\nlink d -> e", "dir d"],
            "dir e\ndir d",
        ),
        (
            "a directory over a directory",
            &["file d/a", "dir d"],
            "dir d\nfile d/a",
        ),
        (
            "parents through links",
            &[
                "dir usr/lib\nlink lib -> usr/lib",
                "file lib/a\nfile lib/x/b",
            ],
            "dir usr/lib\nlink lib -> usr/lib\nfile usr/lib/a\nfile usr/lib/x/b",
        ),
        (
            "a whiteout through links",
            &[
                "dir usr/lib\nfile usr/lib/a\nlink lib -> /usr/lib",
                "file lib/.wh.a",
            ],
            "dir usr/lib\nlink lib -> usr/lib",
        ),
        (
            "links that lead out stay in",
            &["link a -> ../../../b", "file a/c"],
            "link a -> ../../../b\nfile b/c",
        ),
        (
            "a whiteout below a directory that replaces a link",
            &["dir e\nfile e/a\nlink d -> e", "dir d\nfile d/.wh.a"],
            "dir e\nfile e/a\ndir d",
        ),
        (
            "a hard link to a lower layer's file",
            &["file a -> x", "hard b -> a"],
            "file a -> x\nhard b -> a",
        ),
        (
            "a hard link whose other name goes",
            &["file a -> x\nhard b -> a", "file .wh.a"],
            "file b -> x",
        ),
        (
            "a name that is written anew leaves its links",
            &["file a -> x\nhard b -> a", "file a -> y"],
            "file b -> x\nfile a -> y",
        ),
        (
            "a hard link to itself",
            &["file a -> x", "hard ./a -> /a"],
            "file a -> x",
        ),
        (
            "a name twice",
            &["file a -> 1\nfifo a\nfile a -> 2"],
            "file a -> 2",
        ),
        (
            "a file that aufs kept for hard links",
            &[
                "file .wh..wh.plnk/1.2 -> x\nhard a -> .wh..wh.plnk/1.2\nhard d/b -> /.wh..wh.plnk/1.2",
                "file c",
            ],
            "file a -> x\nhard d/b -> a\nfile c",
        ),
        (
            "aufs's own",
            &["dir .wh..wh.plnk\nfile .wh..wh.plnk/1\nfile .wh..wh.aufs"],
            "",
        ),
        (
            "unclean names",
            &["file /a\nfile ./b/../c\nfile d//e"],
            "file a\nfile c\nfile d/e",
        ),
    ] {
        // A link's target is its own; only one case reads it in two ways.
        let flat = tree(&[&flat.replace(
            "lib -> usr/lib",
            if what.contains("a whiteout through") {
                "lib -> /usr/lib"
            } else {
                "lib -> usr/lib"
            },
        )]);
        let found = tree(specs);
        let differences = flat.differences(&found, 9);
        assert!(differences.is_empty(), "{what}: {differences:#?}");
    }
}

#[test]
fn undescribed_directories_belong_to_root_with_mtime_0() {
    let implicit = tree(&["file d/a"]);
    let described = tree(&["dir d\nfile d/a"]);
    let differences = implicit.differences(&described, 9);
    let lines: Vec<String> = differences.iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        [
            "/d: the mode is 0750, not 0755",
            "/d: the owner is 7, not 0",
            "/d: the group is 8, not 0",
            "/d: the mtime is 99+000000000ns, not 0+000000000ns",
        ]
    );
}

#[test]
fn names_that_are_too_long_or_follow_too_many_links_are_errors() {
    let path = |levels: usize| vec!["d"; levels].join("/");
    let chained = |count: usize| {
        let mut lines = vec!["dir end".to_owned(), "link l1 -> end".to_owned()];
        lines.extend((2..=count).map(|n| format!("link l{n} -> l{}", n - 1)));
        lines.push(format!("file l{count}/file"));
        layer(&lines.join("\n"))
    };
    for (what, tar, expected) in [
        (
            "deep",
            layer(&format!("dir {}", path(500_000))),
            "999999 bytes",
        ),
        (
            "deep behind a link",
            layer(&format!(
                "dir {}\nlink link -> {}\nfile link/{}",
                path(1024),
                path(1024),
                path(1026)
            )),
            "a path of",
        ),
        ("links", chained(41), "symbolic links"),
    ] {
        let error = Tree::from_layers([&tar[..]]).map(drop).unwrap_err();
        let error = error.to_string();
        assert!(error.contains(expected), "{what}: {error}");
    }
    for tar in [layer(&format!("dir {}", path(2048))), chained(40)] {
        Tree::from_layers([&tar[..]]).unwrap();
    }
}

#[test]
fn a_broken_layer_is_an_error_that_names_the_entry() {
    let whole = layer("dir d\nfile d/a -> some content");
    for (what, tar, expected) in [
        ("climbing", layer("file ../a"), "../a"),
        (
            "a loop",
            layer("link a -> b\nlink b -> a\nfile a/x"),
            "loop",
        ),
        (
            "a link to nothing",
            layer("hard a -> b"),
            "\"b\" is not there",
        ),
        (
            "a link to a directory",
            layer("dir d\nhard a -> d"),
            "is a directory",
        ),
        (
            "a parent that is a file",
            layer("file a\nfile a/b"),
            "\"a\" is no directory",
        ),
        ("a whiteout of nothing", layer("file .wh."), "whiteout"),
        ("a cut header", whole[..700].to_vec(), "middle of a block"),
        ("a cut file", whole[..1024 + 5].to_vec(), "middle of a file"),
    ] {
        let error = Tree::from_layers([&tar[..]]).unwrap_err().to_string();
        assert!(error.contains(expected), "{what}: {error}");
    }
}

proptest! {
    #[test]
    fn no_input_makes_the_tar_reader_panic(
        flips in prop::collection::vec((0..4096usize, any::<u8>()), 1..6),
        sparse in any::<bool>(),
    ) {
        let mut tar = layer("dir d\nfile d/a -> some content\nhard b -> d/a\nlink c -> d");
        if sparse {
            let mut pax = tar::Builder::new(Vec::new());
            let records = [
                ("GNU.sparse.major", &b"1"[..]),
                ("GNU.sparse.realsize", b"4096"),
                ("path", b"x"),
            ];
            pax.append_pax_extensions(records).unwrap();
            let mut header = tar::Header::new_gnu();
            let data = [&b"1\n512\n100\n"[..], &[0; 502], &[1; 100]].concat();
            header.set_size(data.len() as u64);
            header.set_cksum();
            pax.append(&header, &data[..]).unwrap();
            tar = pax.into_inner().unwrap();
        }
        let len = tar.len();
        for (at, byte) in flips {
            tar[at % len] = byte;
        }
        // The checksums are made right again, so that what they guard is reached.
        for block in tar.chunks_mut(512) {
            let header = tar::Header::from_byte_slice(block);
            if header.as_gnu().is_some() || header.as_ustar().is_some() {
                let mut header = header.clone();
                header.set_cksum();
                block.copy_from_slice(header.as_bytes());
            }
        }
        let _ = Tree::from_layers([&tar[..]]);
    }
}
