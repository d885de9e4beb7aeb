//! A directory with everything that one can hold.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use filetime::FileTime;

use super::{command, noise, run};

/// What a tar's format can say.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Names, links, modes, owners, whole seconds.
    Plain,
    /// And nanoseconds, extended attributes, ACLs.
    Full,
}

pub fn touch(path: &Path, seconds: i64, nanos: u32) {
    let time = FileTime::from_unix_time(seconds, nanos);
    filetime::set_symlink_file_times(path, time, time).unwrap();
}

/// A file of `size` bytes with 4096 bytes of data at each of `pieces`.
pub fn sparse(path: &Path, size: u64, pieces: impl IntoIterator<Item = u64>) {
    let file = File::create(path).unwrap();
    file.set_len(size).unwrap();
    for at in pieces {
        file.write_all_at(&noise(at + 1, 4096), at).unwrap();
    }
}

/// Fills a directory with everything that it can hold.
pub fn plant(root: &Path, extent: Extent) {
    let at = |name: &str| root.join(name);
    fs::create_dir_all(root).unwrap();
    for (number, size) in [0, 1, 511, 512, 4095, 4096, 4097, 100_000]
        .into_iter()
        .enumerate()
    {
        fs::write(at(&format!("file-{size}")), noise(number as u64, size)).unwrap();
    }

    // Names.
    for name in [
        &b"with blank"[..],
        b"with\nnewline",
        b"with\ttab and \\ and \"",
        b"not-utf8-\xff\xfe",
        "von Umlaut \u{e4}\u{f6}\u{fc} \u{1f600}".as_bytes(),
        &[b'n'; 255],
        b".hidden",
        b"-dash",
        b"...",
    ] {
        fs::write(root.join(OsStr::from_bytes(name)), name).unwrap();
    }
    let mut deep = at("deep");
    for _ in 0..12 {
        deep.push("d".repeat(60));
    }
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("file"), "deep").unwrap();
    fs::create_dir(at("many")).unwrap();
    for number in 0..3000 {
        fs::write(at(&format!("many/a-name-of-some-length-{number}")), "").unwrap();
    }
    fs::create_dir(at("empty")).unwrap();

    // Links.
    for length in [1, 59, 60, 61, 99, 100, 101, 1000, 4000, 4095] {
        let target = "t".repeat(length);
        std::os::unix::fs::symlink(target, at(&format!("soft-{length}"))).unwrap();
    }
    std::os::unix::fs::symlink("/etc/passwd", at("absolute")).unwrap();
    std::os::unix::fs::symlink("../../..//x/./y/", at("kept to the byte")).unwrap();
    fs::create_dir(at("links")).unwrap();
    for name in ["links/a", "links/b", "z-link"] {
        fs::hard_link(at("file-4097"), at(name)).unwrap();
    }
    fs::hard_link(at("absolute"), at("links/to-a-symlink")).unwrap();

    // Devices.
    for (name, kind, major, minor) in [
        ("null", "c", 1, 3),
        ("disk", "b", 8, 1),
        ("large-minor", "c", 250, 70_000),
        ("large-major", "b", 4_000, 255),
    ] {
        run(command("mknod")
            .arg(at(name))
            .args([kind, &major.to_string(), &minor.to_string()]));
    }
    run(command("mkfifo").arg(at("fifo")));

    // Holes.
    sparse(&at("hole"), 3_000_000, []);
    sparse(&at("two-pieces"), 10_000_000, [0, 5_000_000 / 4096 * 4096]);
    sparse(&at("ends-with-data"), 1 << 20, [(1 << 20) - 4096]);
    sparse(&at("ends-with-hole"), (1 << 20) + 77, [0]);
    sparse(
        &at("many-pieces"),
        6_000 * 8192,
        (0..1500).map(|piece| piece * 32_768),
    );

    // Modes and owners.
    for mode in ["0000", "0777", "4755", "2755", "1755", "7777"] {
        let path = at(&format!("mode-{mode}"));
        fs::write(&path, mode).unwrap();
        run(command("chmod").arg(mode).arg(&path));
        let path = at(&format!("dir-{mode}"));
        fs::create_dir(&path).unwrap();
        run(command("chmod").arg(mode).arg(&path));
    }
    for owner in [
        "1:2",
        "65535:65535",
        "65536:65537",
        "2097151:2097152",
        "4294967294:4294967294",
    ] {
        let path = at(&format!("owner-{owner}"));
        fs::write(&path, owner).unwrap();
        run(command("chown").arg(owner).arg(&path));
    }
    run(command("chown")
        .args(["-h", "70000:80000"])
        .arg(at("soft-60")));

    if extent == Extent::Full {
        for (name, value) in [
            ("user.small", &b"v"[..]),
            ("user.empty", b""),
            ("user.binary", b"\0\xff=\n"),
        ] {
            xattr::set(at("file-1"), name, value).unwrap();
        }
        xattr::set(at("file-511"), "user.large", &noise(1, 3000)).unwrap();
        for number in 0..30 {
            xattr::set(
                at("file-512"),
                format!("user.number{number}"),
                &noise(number, 60),
            )
            .unwrap();
        }
        xattr::set(at("file-0"), "trusted.secret", b"trusted").unwrap();
        xattr::set(at("soft-59"), "trusted.link", b"of a link").unwrap();
        xattr::set(at("empty"), "user.of-a-directory", b"yes").unwrap();
        // cap_net_raw+ep, as ping has it.
        let capability = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
        xattr::set(at("file-4095"), "security.capability", capability).unwrap();
        run(command("setfacl")
            .args(["-m", "u:1000:rwx,g:70000:r-x,m::rwx"])
            .arg(at("file-4096")));
        run(command("setfacl")
            .args(["-d", "-m", "u:33:r-x,g::r-x"])
            .arg(at("empty")));
    }

    // Times last.
    for (name, seconds) in [
        ("file-0", 0),
        ("file-1", 1),
        ("file-511", -1),
        ("file-512", -2_147_483_648),
        ("file-4095", 2_147_483_648),
        ("file-4096", 15_032_385_535),
        ("soft-60", 1_234_567_890),
        ("null", 1_234_567_891),
        ("fifo", 1_234_567_892),
        ("empty", 86_400),
    ] {
        let nanos = if extent == Extent::Full {
            123_456_789
        } else {
            0
        };
        touch(
            &at(name),
            seconds,
            if seconds == 15_032_385_535 { 0 } else { nanos },
        );
    }
    if extent == Extent::Plain {
        let mut todo = vec![root.to_owned()];
        while let Some(path) = todo.pop() {
            let metadata = fs::symlink_metadata(&path).unwrap();
            let time = FileTime::from_last_modification_time(&metadata);
            if metadata.is_dir() {
                todo.extend(
                    fs::read_dir(&path)
                        .unwrap()
                        .map(|entry| entry.unwrap().path()),
                );
            }
            touch(&path, time.unix_seconds(), 0);
        }
    }
}
