//! Layers as containerd unpacks them.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::support::{run, text};

/// A containerd of its own, which ends with the test.
pub struct Containerd {
    place: PathBuf,
    daemon: Child,
}

/// An image's root filesystem, there until dropped.
pub struct Mount(PathBuf);

impl Containerd {
    pub fn start(scratch: &Path) -> Self {
        let place = scratch.join("containerd");
        fs::create_dir(&place).unwrap();
        let at = |name: &str| place.join(name);
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\", \
             \"io.containerd.internal.v1.tracing\"]\n\
             [grpc]\n  address = {:?}\n[ttrpc]\n  address = {:?}\n",
            at("root"),
            at("state"),
            at("socket"),
            at("ttrpc")
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

    fn ctr(&self, arguments: &[&str]) {
        let socket = self.place.join("socket");
        run("ctr", &[&["-a", text(&socket)], arguments].concat());
    }

    /// Takes in and unpacks all images of a layout.
    pub fn import(&self, layout: &Path) {
        let archive = self.place.join("archive.tar");
        run("tar", &["-cf", text(&archive), "-C", text(layout), "."]);
        let native = ["--snapshotter", "native", "--base-name", "shapes"];
        let arguments = [&["images", "import"], &native[..], &[text(&archive)]];
        self.ctr(&arguments.concat());
    }

    /// Shows the root filesystem of an image.
    pub fn mount(&self, tag: &str) -> Mount {
        let at = self.place.join(tag);
        fs::create_dir(&at).unwrap();
        let image = format!("shapes:{tag}");
        let native = ["--snapshotter", "native"];
        self.ctr(&[&["images", "mount"], &native[..], &[&image, text(&at)]].concat());
        Mount(at)
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

impl Mount {
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}
