//! A containerd of its own, to unpack images as nodes do.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use super::chain::chains;
use super::image::Sealed;
use super::layout::Layout;
use super::process::Process;
use super::verifier::unmount;
use super::walk::{Kind, Tree};
use super::{command, run};

/// How containerd keeps layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Snapshotter {
    /// A directory for each layer, and the kernel's overlay: the default.
    Overlayfs,
    /// A whole copy for each layer.
    Native,
}

impl Snapshotter {
    fn name(self) -> &'static str {
        match self {
            Self::Overlayfs => "overlayfs",
            Self::Native => "native",
        }
    }
}

/// A running containerd.
pub struct Containerd {
    _process: Process,
    scratch: tempfile::TempDir,
    images: AtomicU32,
}

impl Containerd {
    /// `None`, and prints SKIPPED, where it is not installed or not allowed.
    pub fn start() -> Option<Self> {
        if !super::is_root("containerd") || !super::have(&["containerd", "ctr", "tar", "mount"]) {
            return None;
        }
        let scratch = tempfile::tempdir().unwrap();
        let at = |name: &str| scratch.path().join(name).display().to_string();
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.internal.v1.opt\"]\n\
             [plugins.\"io.containerd.gc.v1.scheduler\"]\n\
             startup_delay = \"24h\"\nschedule_delay = \"24h\"\n\
             [grpc]\naddress = {:?}\n[ttrpc]\naddress = {:?}\n",
            at("root"),
            at("state"),
            at("grpc.sock"),
            at("ttrpc.sock")
        );
        fs::write(scratch.path().join("config.toml"), config).unwrap();
        let mut daemon = command("containerd");
        daemon
            .arg("--config")
            .arg(scratch.path().join("config.toml"));
        let mut process = Process::start(daemon, &scratch.path().join("log"));
        process.wait_for("containerd successfully booted in ");
        let containerd = Self {
            _process: process,
            scratch,
            images: AtomicU32::new(0),
        };
        for snapshotter in [Snapshotter::Overlayfs, Snapshotter::Native] {
            // What ctr unpacks with, whatever its options say.
            let label = format!("containerd.io/defaults/snapshotter={}", snapshotter.name());
            let create = ["namespaces", "create", snapshotter.name(), &label];
            run(&mut containerd.ctr(snapshotter, &create));
        }
        Some(containerd)
    }

    fn ctr(&self, snapshotter: Snapshotter, args: &[&str]) -> Command {
        let mut ctr = command("ctr");
        ctr.arg("--address")
            .arg(self.scratch.path().join("grpc.sock"));
        ctr.args(["--namespace", snapshotter.name()]).args(args);
        ctr
    }

    fn snapshots(&self, snapshotter: Snapshotter, args: &[&str]) -> Output {
        let options = ["snapshots", "--snapshotter", snapshotter.name()];
        let mut ctr = self.ctr(snapshotter, &[&options, args].concat());
        ctr.output().unwrap()
    }

    /// The tree of an unpacked image.
    ///
    /// # Errors
    /// As [`Self::mount`].
    #[track_caller]
    pub fn unpack(&self, image: &Sealed, snapshotter: Snapshotter) -> Result<Tree, String> {
        let mounted = self.mount(image, snapshotter)?;
        Ok(Tree::of(mounted.path()))
    }

    /// Unpacks an image and mounts it, read-only.
    ///
    /// # Errors
    /// The output of `ctr`, when the image is not unpacked.
    #[track_caller]
    pub fn mount(&self, image: &Sealed, snapshotter: Snapshotter) -> Result<Mounted, String> {
        let number = self.images.fetch_add(1, Ordering::Relaxed);
        let at = |name: &str| -> PathBuf { self.scratch.path().join(format!("{name}-{number}")) };
        let layout = Layout::create(&at("layout"));
        layout.add("1", image);
        let archive = at("archive");
        run(command("tar")
            .arg("--create")
            .arg("--file")
            .arg(&archive)
            .arg("--directory")
            .arg(layout.path())
            .arg("."));
        let base = format!("test.invalid/image-{number}");
        let import = ["images", "import", "--no-unpack", "--base-name", &base];
        run(self.ctr(snapshotter, &import).arg(&archive));
        fs::remove_file(&archive).unwrap();
        fs::remove_dir_all(layout.path()).unwrap();
        let unpacked = self.snapshots(snapshotter, &["unpack", &image.digest()]);
        if !unpacked.status.success() {
            return Err(String::from_utf8_lossy(&unpacked.stderr).into_owned());
        }
        let (key, top) = (format!("view-{number}"), chains(image).pop().unwrap());
        let view = self.snapshots(snapshotter, &["view", &key, &top]);
        assert!(view.status.success(), "{view:?}");
        let mount = at("mount");
        fs::create_dir(&mount).unwrap();
        let target = mount.display().to_string();
        let shown = self.snapshots(snapshotter, &["mounts", &target, &key]);
        assert!(shown.status.success(), "{shown:?}");
        run(Command::new("sh")
            .arg("-c")
            .arg(String::from_utf8(shown.stdout).unwrap()));
        Ok(Mounted(mount))
    }
}

/// Unmounted when dropped.
pub struct Mounted(PathBuf);

impl Mounted {
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        unmount(&self.0);
    }
}

/// The directories of a tree that were changed since `begin`: those that no layer gives a time.
pub fn untimed(tree: &Tree, begin: SystemTime) -> std::collections::BTreeSet<String> {
    let begin = begin.duration_since(UNIX_EPOCH).unwrap().as_secs();
    let nodes = tree.0.iter();
    nodes
        .filter(|(_, node)| node.kind == Kind::Directory)
        .filter(|(_, node)| u64::try_from(node.mtime.0).is_ok_and(|time| time >= begin))
        .map(|(path, _)| path.clone())
        .collect()
}
