//! A registry that fails while an image is read from it.

use std::fs;
use std::io::Read as _;
use std::path::PathBuf;

use http::StatusCode;
use serde_json::Value;

use crate::mount::{Mount, can_mount};
use crate::support::gate::Gate;
use crate::support::image::Image;
use crate::support::layout::Layout;
use crate::support::noise;
use crate::support::proxy::Proxy;
use crate::support::pulled::Pulled;
use crate::support::registry::Registry;
use crate::support::tar::Tar;

const LARGE: usize = 6 << 20;

/// A converted image in a stock registry, behind a gate.
struct Remote {
    scratch: tempfile::TempDir,
    registry: Registry,
    gate: Gate,
}

impl Remote {
    #[track_caller]
    fn new() -> Option<Self> {
        let registry = Registry::start()?;
        let scratch = tempfile::tempdir().unwrap();
        let source = Layout::create(&scratch.path().join("source"));
        let tar = Tar::new()
            .file("small", "small\n")
            .file("large", noise(1, LARGE))
            .finish();
        source.add("1", &Image::gzip(&[tar]).seal());
        let upstream = format!("oci:{}", source.path().display());
        let proxy = Proxy::start(&upstream, &scratch.path().join("data"), &[]);
        let out = scratch.path().join("out");
        Pulled::into_layout(&proxy, "demo", "1_obd", &out);
        let to = format!("docker://{}/demo:1_obd", registry.address());
        crate::support::skopeo::copied(&crate::support::skopeo::layout(&out, "1_obd"), &to, &[]);
        let gate = Gate::before(registry.address());
        Some(Self {
            scratch,
            registry,
            gate,
        })
    }

    fn mount(&self, options: &[&str]) -> (Mount, PathBuf) {
        let at = self.scratch.path().join("at");
        let host = self.gate.url().replace("http://", "");
        let image = format!("{host}/demo:1_obd");
        let mount = Mount::start(&[options, &[&image]].concat(), &at);
        (mount, at)
    }

    /// The file of the image's only layer in the registry.
    fn blob(&self) -> PathBuf {
        let manifest: Value = Layout::open(&self.scratch.path().join("out")).manifest("1_obd");
        let digest = manifest["layers"][0]["digest"].as_str().unwrap();
        self.registry.blob_path(digest)
    }
}

/// Reads the large file; the error's number if it cannot be read whole.
fn read_large(at: &std::path::Path) -> Result<Vec<u8>, Option<i32>> {
    let mut bytes = Vec::new();
    let mut file = fs::File::open(at.join("large")).map_err(|error| error.raw_os_error())?;
    let read = file.read_to_end(&mut bytes);
    read.map(|_| bytes).map_err(|error| error.raw_os_error())
}

#[test]
fn an_upstream_that_fails_is_an_input_output_error_until_it_is_back() {
    if !can_mount() {
        return;
    }
    let Some(remote) = Remote::new() else {
        return;
    };
    let (mount, at) = remote.mount(&[]);
    remote.gate.fail(Some(StatusCode::SERVICE_UNAVAILABLE));
    assert_eq!(read_large(&at), Err(Some(libc::EIO)));
    let log = mount.process.output();
    assert!(log.contains("cannot be read"), "{log}");
    assert!(log.contains("503"), "{log}");
    remote.gate.fail(None);
    assert_eq!(read_large(&at), Ok(noise(1, LARGE)));
    mount.stop();
}

#[test]
fn a_damaged_blob_is_an_input_output_error_and_the_rest_stays_readable() {
    if !can_mount() {
        return;
    }
    let Some(remote) = Remote::new() else {
        return;
    };
    // In the middle of the noise.
    let path = remote.blob();
    let good = fs::read(&path).unwrap();
    let mut bytes = good.clone();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    fs::write(&path, bytes).unwrap();
    let (mount, at) = remote.mount(&[]);
    assert_eq!(read_large(&at), Err(Some(libc::EIO)));
    assert_eq!(fs::read_to_string(at.join("small")).unwrap(), "small\n");
    let log = mount.process.output();
    assert!(log.contains("cannot be read"), "{log}");
    mount.stop();
    // The registry's blobs are looked at when it ends.
    fs::write(&path, good).unwrap();
}

#[test]
fn a_server_killed_in_the_middle_of_a_read_fails_the_read() {
    if !can_mount() {
        return;
    }
    let Some(remote) = Remote::new() else {
        return;
    };
    let (mut mount, at) = remote.mount(&[]);
    let hold = remote.gate.hold("GET", "/blobs/");
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| read_large(&at));
        hold.wait();
        mount.process.kill();
        let errno = reader.join().unwrap().unwrap_err().unwrap();
        let expected = [libc::ENOTCONN, libc::ECONNABORTED, libc::EIO];
        assert!(expected.contains(&errno), "{errno}");
    });
    hold.release();
    crate::support::run(std::process::Command::new("fusermount3").arg("-u").arg(&at));
}

#[test]
fn a_stalled_upstream_holds_up_only_those_who_need_it() {
    if !can_mount() {
        return;
    }
    let Some(remote) = Remote::new() else {
        return;
    };
    let (mount, at) = remote.mount(&[]);
    assert_eq!(fs::read_to_string(at.join("small")).unwrap(), "small\n");
    let hold = remote.gate.hold("GET", "/blobs/");
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| read_large(&at));
        hold.wait();
        // What is known already comes at once.
        assert_eq!(fs::read_to_string(at.join("small")).unwrap(), "small\n");
        assert_eq!(fs::read_dir(&at).unwrap().count(), 2);
        assert!(fs::metadata(at.join("missing")).is_err());
        assert!(!reader.is_finished());
        hold.release();
        assert_eq!(reader.join().unwrap(), Ok(noise(1, LARGE)));
    });
    mount.stop();
}

#[test]
fn an_upstream_that_stalls_for_good_is_an_input_output_error() {
    if !can_mount() {
        return;
    }
    let Some(remote) = Remote::new() else {
        return;
    };
    let (mount, at) = remote.mount(&["--read-timeout", "1s"]);
    remote.registry.freeze();
    let found = read_large(&at);
    remote.registry.thaw();
    assert_eq!(found, Err(Some(libc::EIO)));
    let log = mount.process.output();
    assert!(log.contains("cannot be read"), "{log}");
    assert_eq!(read_large(&at), Ok(noise(1, LARGE)));
    mount.stop();
}
