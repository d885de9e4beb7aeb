#!/usr/bin/env bash
# The crate object_store: on a local directory, an object that was copied is not renamed, and copying it
# again leaves files that nothing lists and nothing deletes.
#
# Guessed: LocalFileSystem behaves as the other stores: `rename` leaves nothing under the old name, and
# space is free when all objects are deleted. Seen: `copy` makes a hard link, and to replace a name it
# makes one called "to#0" and renames that. But renaming one link of a file to another link of the same
# file does nothing and is no error (POSIX, rename), so `copy` for the second time leaves "to#0", for the
# third "to#1", and so on; names of that form are hidden from listings and refused by `delete`. And
# `rename` onto an earlier copy returns Ok, with the old name still there. The memory store does what was
# guessed. So a job that copies the same objects every night keeps their space for ever.
#
# Version: object_store 0.14.2 (crates.io). Exits 0 if it still behaves so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

mkdir -p program/src local memory
cat >program/Cargo.toml <<'TOML'
[package]
name = "program"
version = "0.0.0"
edition = "2021"
[dependencies]
futures-util = "0.3"
object_store = "=0.14.2"
tokio = { version = "1", features = ["macros", "rt"] }
TOML
cat >program/src/main.rs <<'RUST'
use futures_util::TryStreamExt;
use object_store::{local::LocalFileSystem, memory::InMemory, path::Path, ObjectStore, ObjectStoreExt};

async fn show(what: &str, name: &str, store: &dyn ObjectStore) {
    let mut listed: Vec<_> =
        store.list(None).map_ok(|object| object.location.to_string()).try_collect().await.unwrap();
    let mut files: Vec<_> = std::fs::read_dir(name)
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect();
    listed.sort();
    files.sort();
    println!("{name}, {what}: objects {listed:?}, files {files:?}");
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let stores: [(&str, Box<dyn ObjectStore>); 2] = [
        ("local", Box::new(LocalFileSystem::new_with_prefix("local").unwrap())),
        ("memory", Box::new(InMemory::new())),
    ];
    let (from, to) = (Path::from("from"), Path::from("to"));
    for (name, store) in stores {
        store.put(&from, "content".into()).await.unwrap();
        for _ in 0..3 {
            store.copy(&from, &to).await.unwrap();
        }
        show("copied three times", name, &*store).await;
        store.rename(&from, &to).await.unwrap();
        show("renamed", name, &*store).await;
        let _ = store.delete(&from).await;
        store.delete(&to).await.unwrap();
        show("deleted", name, &*store).await;
        let deleted = store.delete(&Path::parse("to#0").unwrap()).await;
        println!("{name}, delete of to#0: {}", if deleted.is_ok() { "done" } else { "an error" });
    }
}
RUST
CARGO_TARGET_DIR=$work/target cargo build -q --manifest-path program/Cargo.toml
target/debug/program | tee seen
diff - seen <<'EXPECTED'
local, copied three times: objects ["from", "to"], files ["from", "to", "to#0", "to#1"]
local, renamed: objects ["from", "to"], files ["from", "to", "to#0", "to#1"]
local, deleted: objects [], files ["to#0", "to#1"]
local, delete of to#0: an error
memory, copied three times: objects ["from", "to"], files []
memory, renamed: objects ["to"], files []
memory, deleted: objects [], files []
memory, delete of to#0: done
EXPECTED
