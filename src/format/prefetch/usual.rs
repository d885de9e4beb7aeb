//! Files that many programs read when they start, whatever the image: what the dynamic loader
//! needs, the libraries that most programs load, the shells that entry points are written for.
//!
//! Programs that start with a library start with most of its kin, so these lie in groups: those
//! that nearly every start reads are last, next to the filesystem's metadata.

use super::list::merged;

/// Larger files are left where they are: of those a start reads a part.
const MAX_BYTES: u64 = 8 << 20;

/// Packages of Python's standard library whose compiled modules most programs in Python import,
/// themselves or through others. The first is the library's own directory.
const PYTHON: &[&[u8]] = &[
    b"",
    b"asyncio",
    b"collections",
    b"concurrent",
    b"concurrent/futures",
    b"email",
    b"encodings",
    b"http",
    b"importlib",
    b"json",
    b"logging",
    b"re",
    b"urllib",
];

/// Libraries, by the name before `.so`; the last are the most wanted.
const LIBRARIES: &[&[u8]] = &[
    // What coreutils and shells load.
    b"libpcre2-8",
    b"libselinux",
    b"libattr",
    b"libacl",
    b"libtinfo",
    // Daemons that tell systemd how they are load libsystemd, and that loads the others.
    b"libsystemd",
    b"libgcrypt",
    b"libgpg-error",
    b"libcap",
    b"liblz4",
    b"libzstd",
    b"liblzma",
    b"libstdc++",
    b"libgcc_s",
    b"libssl",
    b"libcrypto",
    b"libz",
    b"libm",
    b"libpthread",
    b"libdl",
    b"librt",
    b"libresolv",
    b"libc",
    b"ld-linux",
    b"ld-musl",
];

/// Programs that entry points are run by, in `/usr/bin`.
const PROGRAMS: &[&[u8]] = &[b"bash", b"busybox", b"dash", b"env"];

/// Files, the last are the most wanted.
const FILES: &[&[u8]] = &[
    b"etc/ssl/certs/ca-certificates.crt",
    b"etc/ssl/openssl.cnf",
    b"usr/lib/ssl/openssl.cnf",
    b"usr/lib/locale/C.utf8/LC_CTYPE",
    b"usr/lib/locale/C.utf8/LC_COLLATE",
    b"usr/share/zoneinfo/Etc/UTC",
    b"etc/localtime",
    b"etc/host.conf",
    b"etc/gai.conf",
    b"etc/nsswitch.conf",
    b"etc/passwd",
    b"etc/group",
    b"etc/ld.so.cache",
];

/// What comes behind Python's modules, and behind the programs.
const PROGRAM_RANK: u32 = 1;
const LIBRARY_RANK: u32 = PROGRAM_RANK + 1;
const FILE_RANK: u32 = 1000;
/// A rank behind all of these.
pub(super) const END: u32 = 2000;

/// The place of such a file's data, 0 for the first. `path` is relative to the root; `size` is the
/// file's.
pub(super) fn rank(path: &[u8], size: u64) -> Option<u32> {
    if size > MAX_BYTES {
        return None;
    }
    let path = &*merged(path);
    if let Some(position) = position(FILES, path) {
        return Some(FILE_RANK + position);
    }
    if path.ends_with(b"/gconv-modules.cache") {
        return Some(FILE_RANK);
    }
    let rest = path.strip_prefix(b"usr/")?;
    if let Some(name) = rest.strip_prefix(b"bin/") {
        return position(PROGRAMS, name).map(|_| PROGRAM_RANK);
    }
    let rest = rest.strip_prefix(b"local/").unwrap_or(rest);
    let rest = rest
        .strip_prefix(b"lib/")
        .or_else(|| rest.strip_prefix(b"lib64/"))?;
    if is_python(rest) {
        return Some(0);
    }
    let mut parts = rest.rsplit(|byte| *byte == b'/');
    let library = position(LIBRARIES, stem(parts.next()?)?)?;
    // In the directory itself, or in that of an architecture.
    let is_near =
        parts.next().is_none_or(|triplet| triplet.contains(&b'-')) && parts.next().is_none();
    is_near.then_some(LIBRARY_RANK + library)
}

fn position(names: &[&[u8]], name: &[u8]) -> Option<u32> {
    let position = names.iter().position(|known| *known == name)?;
    u32::try_from(position).ok()
}

/// Whether a path below a library directory is a compiled module of Python's standard library.
fn is_python(path: &[u8]) -> bool {
    let library = || {
        let (version, rest) = split_once(path.strip_prefix(b"python3")?)?;
        let is_version = version
            .iter()
            .all(|byte| matches!(byte, b'.' | b'0'..=b'9'));
        rest.strip_suffix(b".pyc").filter(|_| is_version)
    };
    let Some(module) = library() else {
        return false;
    };
    let directory = module.rsplitn(2, |byte| *byte == b'/').nth(1);
    directory.is_some_and(|directory| match directory {
        b"__pycache__" => true,
        nested => nested
            .strip_suffix(b"/__pycache__")
            .is_some_and(|package| PYTHON.contains(&package)),
    })
}

fn split_once(path: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = path.iter().position(|byte| *byte == b'/')?;
    Some((path.get(..at)?, path.get(at + 1..)?))
}

/// The name of a library without what says its version: `libc` of `libc.so.6` and `libc-2.31.so`.
fn stem(name: &[u8]) -> Option<&[u8]> {
    let at = name.windows(3).position(|part| part == b".so")?;
    let (stem, version) = (name.get(..at)?, name.get(at + 3..)?);
    if !version
        .iter()
        .all(|byte| matches!(byte, b'.' | b'0'..=b'9'))
    {
        return None;
    }
    for loader in [&b"ld-linux"[..], b"ld-musl"] {
        if stem.starts_with(loader) {
            return Some(loader);
        }
    }
    if LIBRARIES.contains(&stem) {
        return Some(stem);
    }
    // Before 2.34, glibc's files have its version in their names.
    let version = stem
        .windows(2)
        .position(|part| part[0] == b'-' && part[1].is_ascii_digit())?;
    match stem.get(..version)? {
        b"ld" => Some(b"ld-linux"),
        stem => Some(stem),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_every_start_are_last_and_the_loader_behind_the_libraries() {
        let ranks = [
            "usr/lib/python3.11/asyncio/__pycache__/events.cpython-311.pyc",
            "bin/dash",
            "usr/lib/x86_64-linux-gnu/libpcre2-8.so.0.11.2",
            "usr/lib/x86_64-linux-gnu/libsystemd.so.0.35.0",
            "lib/x86_64-linux-gnu/libgcc_s.so.1",
            "usr/lib64/libcrypto.so.3.0.7",
            "usr/lib/libz.so.1.3.1",
            "lib/aarch64-linux-gnu/libc-2.31.so",
            "lib/ld-musl-x86_64.so.1",
            "etc/ssl/openssl.cnf",
            "etc/ld.so.cache",
        ]
        .map(|path| rank(path.as_bytes(), 1).unwrap());
        assert!(ranks.is_sorted(), "{ranks:?}");
        assert_eq!(
            rank(b"lib64/ld-linux-x86-64.so.2", 1),
            rank(b"lib/x86_64-linux-gnu/ld-2.31.so", 1)
        );
        assert!(ranks.iter().all(|rank| *rank < END));
    }

    #[test]
    fn other_files_are_not_moved() {
        for path in [
            "",
            "libc.so.6",
            "opt/lib/libc.so.6",
            "usr/lib/x86_64-linux-gnu/libcurl.so.4",
            "usr/lib/x86_64-linux-gnu/libc.so.6.debug",
            "usr/lib/x86_64-linux-gnu/libcrypto.a",
            "usr/lib/jvm/lib/libz.so",
            "usr/lib/debug/usr/lib/x86_64-linux-gnu/libc.so.6",
            "usr/lib/python3.11/asyncio/events.py",
            "usr/lib/python3/dist-packages/x/__pycache__/y.cpython-311.pyc",
            "usr/bin/bashbug",
        ] {
            assert_eq!(rank(path.as_bytes(), 1), None, "{path}");
        }
        assert_eq!(rank(b"usr/lib/libcrypto.so.3", MAX_BYTES + 1), None);
    }
}
