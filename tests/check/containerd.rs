//! Layers as containerd unpacks them.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use overlaybd_proxy::oci::Digest;

use super::support::{run, text};

/// A containerd of its own, which ends with the test.
pub struct Containerd {
    place: PathBuf,
    daemon: Child,
}

impl Containerd {
    pub fn start(scratch: &Path) -> Self {
        let place = scratch.join("containerd");
        fs::create_dir(&place).unwrap();
        let at = |name: &str| place.join(name);
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\", \
             \"io.containerd.internal.v1.tracing\"]\n\
             [plugins.\"io.containerd.gc.v1.scheduler\"]\n\
             startup_delay = \"24h\"\nschedule_delay = \"24h\"\n\
             [grpc]\n  address = {:?}\n[ttrpc]\n  address = {:?}\n",
            text(&at("root")),
            text(&at("state")),
            text(&at("socket")),
            text(&at("ttrpc"))
        );
        fs::write(at("config.toml"), config).unwrap();
        let log = File::create(at("log")).unwrap();
        let daemon = Command::new("containerd")
            .args(["-c", text(&at("config.toml"))])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut containerd = Self { place, daemon };
        while !containerd.log().contains("containerd successfully booted") {
            let ended = containerd.daemon.try_wait().unwrap();
            assert!(ended.is_none(), "{}", containerd.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        containerd
    }

    fn log(&self) -> String {
        fs::read_to_string(self.place.join("log")).unwrap()
    }

    fn ctr(&self, arguments: &[&str]) -> String {
        let output = Command::new("ctr")
            .args(["-a", text(&self.place.join("socket"))])
            .args(arguments)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "ctr {arguments:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Takes in and unpacks all images of a layout.
    pub fn import(&self, layout: &Path) {
        let archive = self.place.join("archive.tar");
        run("tar", &["-cf", text(&archive), "-C", text(layout), "."]);
        let native = ["--snapshotter", "native", "--base-name", "shapes"];
        let arguments = [&["images", "import"], &native[..], &[text(&archive)]];
        self.ctr(&arguments.concat());
    }

    /// The directory with what these layers of an image came to.
    pub fn unpacked(&self, tars: &[&[u8]]) -> PathBuf {
        let mut chain = String::new();
        for diff_id in tars.iter().map(|tar| Digest::of(tar).to_string()) {
            chain = match chain.as_str() {
                "" => diff_id,
                below => Digest::of(format!("{below} {diff_id}").as_bytes()).to_string(),
            };
        }
        let ctr = |arguments: &[&str]| {
            self.ctr(&[&["snapshots", "--snapshotter", "native"], arguments].concat())
        };
        let view = format!("view-{chain}");
        ctr(&["view", &view, &chain]);
        let mount = ctr(&["mounts", "/", &view]);
        mount.split(' ').nth(3).unwrap().into()
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
        if std::thread::panicking() {
            eprintln!("containerd said:\n{}", self.log());
        }
    }
}
