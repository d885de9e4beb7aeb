#!/usr/bin/env bash
# The `fuser` crate: dropping a session that others have unmounted unmounts whatever is there now.
#
# Guessed: a session that was unmounted from outside (`umount DIR`, `fusermount3 -u`) has ended, and
# dropping it does nothing more. Seen: when it is dropped it looks whether it is still mounted, takes
# the kernel's POLLERR, which says that it is not, for a yes, and unmounts by path: another
# filesystem that was mounted there meanwhile is gone. So a program that serves mounts for long has
# to unmount by itself, and only while the kernel still has its connection.
#
# Version: fuser 0.18.0 (crates.io), mounting without libfuse, as root. Exits 0 if it still behaves so.
set -euo pipefail
[ "$(id -u)" -eq 0 ] && [ -e /dev/fuse ] || { echo "needs root and /dev/fuse" >&2; exit 2; }
work=$(mktemp -d)
mkdir "$work/at"
trap 'umount -l "$work/at" 2>/dev/null || true; rm -rf "$work"' EXIT
cd "$work"

mkdir -p server/src
cat >server/Cargo.toml <<'TOML'
[package]
name = "server"
version = "0.0.0"
edition = "2024"
[dependencies]
fuser = { version = "=0.18.0", default-features = false }
TOML
cat >server/src/main.rs <<'RUST'
use std::process::Command;

struct Nothing;
impl fuser::Filesystem for Nothing {}

fn run(program: &str, arguments: &[&str]) {
    let status = Command::new(program).args(arguments).status().unwrap();
    assert!(status.success(), "{program} {arguments:?}");
}

fn at(directory: &str) -> String {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let mut lines = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let found = lines.find(|fields| fields[1] == directory);
    found.map_or("nothing".to_owned(), |fields| fields[2].to_owned())
}

fn main() {
    let directory = std::env::args().nth(1).unwrap();
    let session = fuser::spawn_mount(Nothing, &directory, &fuser::Config::default()).unwrap();
    println!("mounted: {}", at(&directory));
    run("umount", &[&directory]);
    println!("unmounted from outside: {}", at(&directory));
    run("mount", &["-t", "tmpfs", "other", &directory]);
    println!("then mounted: {}", at(&directory));
    drop(session);
    println!("session dropped: {}", at(&directory));
}
RUST
cargo build --quiet --manifest-path server/Cargo.toml
server/target/debug/server "$work/at" 2>/dev/null | tee seen
cat >expected <<'TEXT'
mounted: fuse
unmounted from outside: nothing
then mounted: tmpfs
session dropped: nothing
TEXT
diff expected seen
