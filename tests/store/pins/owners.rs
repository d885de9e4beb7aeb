//! Commands of root in the data directory of a service that has a user of its own.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Output;

use crate::pins::{Place, converted, good, image, there};
use crate::support::proxy::program;
use crate::support::{command, have, is_root, run};

/// Runs `cache` as a user without rights, by a copy of the program that it may reach.
fn as_nobody(place: &Place, arguments: &[&str]) -> Output {
    let home = place.scratch.path();
    let own = home.join("program");
    if !own.exists() {
        run(command("cp").arg(program().get_program()).arg(&own));
    }
    let mut other = command("setpriv");
    other.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
    other.arg(&own).arg("cache").args(arguments);
    other.arg("--data-dir").arg(place.data());
    other.env("HOME", home).current_dir(home).output().unwrap()
}

/// The user and the mode of all that is in a directory.
fn owners(directory: &Path) -> Vec<(String, u32, u32)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let metadata = entry.metadata().unwrap();
        if metadata.is_dir() {
            found.extend(owners(&entry.path()));
        }
        let name = entry.path().display().to_string();
        found.push((name, metadata.uid(), metadata.mode() & 0o7777));
    }
    found
}

#[test]
fn what_root_makes_in_the_data_directory_of_another_user_is_that_users() {
    if !is_root("a directory of another user") || !have(&["setpriv"]) {
        return;
    }
    let place = Place::new();
    place.layout.add("a", &image(1));
    let proxy = place.proxy(&["--platform", "linux/amd64"]);
    let (manifest, blobs) = converted(&proxy, "a");
    proxy.stop();
    // As a version that knew no pins left it.
    let data = place.data();
    fs::remove_dir(data.join("pinned")).unwrap();
    let _ = fs::remove_file(data.join("pins"));
    run(command("chown").args(["-R", "65534:65534"]).arg(&data));
    fs::set_permissions(place.scratch.path(), Permissions::from_mode(0o755)).unwrap();

    good(&place.cache(&["ls"]));
    good(&place.cache(&["pin", &manifest]));
    for (path, user, mode) in owners(&data) {
        assert_eq!(user, 65534, "{path} {mode:o}");
    }
    let mode = |name: &str| data.join(name).metadata().unwrap().mode() & 0o7777;
    assert_eq!(mode("pinned"), mode("blobs"));
    good(&as_nobody(&place, &["gc", "--to", "0"]));
    assert_eq!(there(&data), blobs);
    good(&as_nobody(&place, &["unpin", &manifest]));
    good(&as_nobody(&place, &["gc", "--to", "0"]));
    assert!(there(&data).is_empty());
}
