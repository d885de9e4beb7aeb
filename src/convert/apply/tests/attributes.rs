//! Owners, times, modes and extended attributes: as containerd sets them and the kernel takes
//! them.

use super::{Image, Tar};

#[test]
fn attributes_that_linux_or_containerd_do_not_take_are_left_out() {
    let all = [
        ("SCHILY.xattr.user.a", &b"1"[..]),
        ("SCHILY.xattr.security.b", b"2"),
        ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
        ("SCHILY.xattr.com.apple.d", b"4"),
        ("SCHILY.xattr.user.", b"5"),
        ("SCHILY.xattr.system.other", b"5"),
        ("LIBARCHIVE.xattr.user.e", b"?!"),
        ("LIBARCHIVE.xattr.user.f", b"aGVqCg"),
        ("SCHILY.acl.default", b"user::rwx,group::r-x,other::r-x"),
        (
            "SCHILY.acl.access",
            b"user::rwx,user:7:rwx,group::r-x,mask::rwx,other::r-x",
        ),
    ];
    Image::new()
        .with(
            Tar::new()
                .pax(&all)
                .dir("d", 0o755)
                .pax(&all)
                .soft("s", "t")
                .pax(&all)
                .add(tar::EntryType::Fifo, "p", "", 0o600, b"")
                .pax(&all)
                .file("f", ""),
        )
        .is("d0755 7@9 /d [security.b=2] [user.a=1]
             -0644 7@9 /f =  [security.b=2] [user.a=1]
             p0600 7@9 /p [security.b=2]
             l0777 7@9 /s -> t [security.b=2]");
}

#[test]
fn times_that_containerd_does_not_set_are_1970() {
    let at = |time: &'static [u8]| Tar::new().pax(&[("mtime", time)]).file("f", "");
    for (time, kept) in [
        (&b"-1"[..], "@0 "),
        (b"-0.5", "@0 "),
        (b"-99999999999", "@0 "),
        (b"9223372036.854775807", "@9223372036 "),
        (b"9223372036.854775808", "@0 "),
        (b"9223372037", "@0 "),
        (b"9223372036854775807", "@0 "),
        (b"+5.5", "@5 "),
    ] {
        let listing = Image::new().with(at(time)).listing();
        assert!(listing.contains(kept), "{listing}");
    }
}

#[test]
fn an_owner_of_all_ones_leaves_the_owner_unchanged() {
    let nobody = [("uid", &b"4294967295"[..]), ("gid", b"-1")];
    Image::new()
        .with(Tar::new().dir("lower", 0o755))
        .with(
            Tar::new()
                .pax(&nobody)
                .file("f", "x")
                .pax(&nobody)
                .dir("lower", 0o755)
                .file("g", "x")
                .pax(&nobody)
                .hard("h", "g", 0o600)
                .pax(&[("uid", b"-2")])
                .file("i", "x"),
        )
        .is("-0644 0@9 /f = x
             -0600 7@9 x2 /g = x
             -0600 7@9 x2 /h = x
             -0644 4294967294@9 /i = x
             d0755 0@9 /lower");
}

/// An access list: tags, permissions, ids.
fn list(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut value = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        value.extend_from_slice(&tag.to_le_bytes());
        value.extend_from_slice(&permissions.to_le_bytes());
        value.extend_from_slice(&id.to_le_bytes());
    }
    value
}

const NONE: u32 = u32::MAX;
const ACCESS: &str = "SCHILY.xattr.system.posix_acl_access";
const DEFAULT: &str = "SCHILY.xattr.system.posix_acl_default";

fn named(owner: u16, mask: u16, others: u16) -> Vec<u8> {
    list(&[
        (1, owner, NONE),
        (2, 7, 1000),
        (4, 5, NONE),
        (16, mask, NONE),
        (32, others, NONE),
    ])
}

impl Image {
    fn xattrs(&mut self, path: &str) -> Vec<(String, Vec<u8>)> {
        let mut ino = self.0.root();
        for part in path.split('/') {
            ino = self.0.lookup(ino, part.as_bytes()).unwrap().unwrap().ino;
        }
        let xattrs = self.0.xattrs(ino).unwrap().into_iter();
        xattrs
            .map(|(name, value)| (String::from_utf8(name).unwrap(), value))
            .collect()
    }
}

#[test]
fn the_headers_mode_changes_an_access_acl() {
    let plain = list(&[(1, 7, NONE), (4, 7, NONE), (32, 7, NONE)]);
    let mut image = Image::new().with(
        Tar::new()
            .pax(&[(ACCESS, &named(6, 7, 4))])
            .file("f", "")
            .pax(&[(ACCESS, &plain)])
            .file("plain", "")
            .pax(&[(ACCESS, b"junk")])
            .file("unknown", "")
            .pax(&[(ACCESS, &named(6, 7, 4))])
            .soft("s", "t")
            .file("other", "")
            .pax(&[(ACCESS, &named(7, 7, 7))])
            .hard("hard", "other", 0o600),
    );
    let access = "system.posix_acl_access".to_owned();
    assert_eq!(image.xattrs("f"), [(access.clone(), named(6, 4, 4))]);
    assert_eq!(image.xattrs("hard"), [(access, named(6, 0, 0))]);
    for path in ["plain", "unknown", "s"] {
        assert_eq!(image.xattrs(path), [], "{path}");
    }
    let listing = image.listing();
    assert!(listing.contains("-0644 7@9 /f "), "{listing}");
    assert!(listing.contains("-0600 7@9 x2 /hard "), "{listing}");
}

#[test]
fn new_nodes_inherit_their_directorys_group_and_default_acl() {
    let lower = || {
        Image::new().with(
            Tar::new()
                .pax(&[("gid", b"50")])
                .dir("g", 0o2775)
                .pax(&[(DEFAULT, &named(7, 7, 5))])
                .dir("d", 0o755),
        )
    };
    let mut image = lower().with(
        Tar::new()
            .file("d/f", "")
            .file("d/i/j", "")
            .dir("d/s", 0o700)
            .soft("d/l", "t")
            .pax(&[(ACCESS, &list(&[(1, 7, NONE), (4, 7, NONE), (32, 7, NONE)]))])
            .file("d/own", "")
            .file("g/i/j", "")
            .pax(&[("gid", b"-1")])
            .file("g/f", ""),
    );
    let access = |acl: Vec<u8>| ("system.posix_acl_access".to_owned(), acl);
    let default = ("system.posix_acl_default".to_owned(), named(7, 7, 5));
    assert_eq!(image.xattrs("d/f"), [access(named(6, 4, 4))]);
    assert_eq!(image.xattrs("d/i/j"), [access(named(6, 4, 4))]);
    assert_eq!(
        image.xattrs("d/i"),
        [access(named(7, 5, 5)), default.clone()]
    );
    assert_eq!(image.xattrs("d/s"), [access(named(7, 0, 0)), default]);
    assert_eq!(image.xattrs("d/l"), []);
    assert_eq!(image.xattrs("d/own"), []);
    for (path, gid) in [
        (&["g", "f"][..], 50),
        (&["g", "i"], 50),
        (&["g", "i", "j"], 8),
    ] {
        let mut ino = image.0.root();
        for part in path {
            ino = image.0.lookup(ino, part.as_bytes()).unwrap().unwrap().ino;
        }
        assert_eq!(image.0.metadata(ino).unwrap().gid, gid, "{path:?}");
    }
    assert!(image.listing().contains("d0755 0@0 /g/i\n"));
}

#[test]
fn a_hard_link_entry_without_capabilities_removes_them() {
    let capability = [&[1, 0, 0, 2][..], &[0, 4, 0, 0], &[0; 12]].concat();
    let records = [("SCHILY.xattr.security.capability", &capability[..])];
    let mut image = Image::new().with(
        Tar::new()
            .pax(&records)
            .file("a", "")
            .hard("a2", "a", 0o755)
            .pax(&records)
            .file("b", "")
            .pax(&records)
            .hard("b2", "b", 0o755)
            .pax(&records)
            .dir("d", 0o755)
            .dir("d", 0o700),
    );
    assert_eq!(image.xattrs("a"), []);
    for path in ["b", "d"] {
        assert_eq!(
            image.xattrs(path),
            [("security.capability".to_owned(), capability.clone())]
        );
    }
}

#[test]
fn attributes_that_the_kernel_refuses_are_named() {
    let unsorted = list(&[(4, 4, NONE), (1, 6, NONE), (32, 4, NONE)]);
    for (name, value) in [
        (ACCESS, &unsorted[..]),
        (ACCESS, b"abc"),
        (DEFAULT, &unsorted),
        ("SCHILY.xattr.security.capability", b"junk"),
        ("SCHILY.xattr.security.capability", b""),
    ] {
        let error = Image::new().error(Tar::new().pax(&[(name, value)]).dir("d", 0o755));
        let name = name.strip_prefix("SCHILY.xattr.").unwrap();
        assert!(error.contains(name), "{error}");
    }
}
