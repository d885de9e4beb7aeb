//! Filesystems that lead in circles.

use std::path::Path;
use std::sync::Arc;

use overlaybd_proxy::format::block::FileDevice;
use overlaybd_proxy::lazy::ImageFilesystem;
use overlaybd_proxy::lazy::path::{PathError, resolve};
use overlaybd_proxy::lazy::walk::{Descend, walk};

use super::support::have;
use super::{Demo, printed};

fn walked(raw: &Path) -> Result<usize, PathError> {
    let device = Arc::new(FileDevice::open(raw).unwrap());
    let filesystem = ImageFilesystem::open(device).unwrap();
    let start = resolve(&filesystem, b"/", true).unwrap();
    let mut count = 0;
    walk(&filesystem, &start, |_| {
        count += 1;
        Ok::<_, PathError>(Descend::Into)
    })?;
    Ok(count)
}

#[test]
fn a_directory_in_two_places_ends_a_walk_with_an_error() {
    if !have(&["debugfs"]) {
        return;
    }
    let demo = Demo::odd();
    let raw = demo.raw();
    assert!(walked(&raw).unwrap() > 20);
    let link = ["-w", "-R", "ln usr usr/lib/round", raw.to_str().unwrap()];
    printed(Path::new("/"), "debugfs", &link);
    let error = walked(&raw).unwrap_err().to_string();
    assert!(error.contains("in two places"), "{error}");
    assert!(error.contains("/usr/lib/round"), "{error}");
}
