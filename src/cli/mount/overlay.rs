//! A writable layer over a mounted image: overlayfs, by root directly, by others in a user
//! namespace in which a command runs.

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context as _;
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use tempfile::TempDir;

use crate::lazy::fuse::UnmountError;

/// What a new mount namespace runs: mount options, the directory, then the command.
const SCRIPT: &str = r#"mount -t overlay -o "$1" overlay "$2" || exit; shift 2; exec "$@""#;

/// Where a writable layer is, and where the image is below it.
#[derive(Debug)]
pub struct Layers {
    /// Where the image is to be mounted.
    pub lower: PathBuf,
    upper: PathBuf,
    work: PathBuf,
    scratch: TempDir,
}

impl Layers {
    /// Makes the directories: below `kept`, which stays, or else in a place that goes again.
    ///
    /// # Errors
    /// When they cannot be made, or overlayfs cannot be told of them.
    pub fn make(kept: Option<&Path>) -> anyhow::Result<Self> {
        let scratch = tempfile::Builder::new()
            .prefix("overlaybd-proxy-mount-")
            .tempdir()
            .context("no place for a temporary directory (TMPDIR names one)")?;
        let place = scratch.path().canonicalize()?;
        let layers = match kept {
            Some(kept) => std::fs::create_dir_all(kept)
                .and_then(|()| kept.canonicalize())
                .with_context(|| format!("--upper {}", kept.display()))?,
            None => place.clone(),
        };
        let made = Self {
            lower: place.join("lower"),
            upper: layers.join("upper"),
            work: layers.join("work"),
            scratch,
        };
        for directory in [&made.lower, &made.upper, &made.work] {
            if directory.to_string_lossy().contains([',', ':', '\\']) {
                anyhow::bail!(
                    "{} has a comma, a colon or a backslash in its name, which options of \
                     overlayfs cannot have: name another directory with --upper or TMPDIR",
                    directory.display()
                );
            }
            std::fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
        }
        Ok(made)
    }

    fn options(&self, more: &str) -> OsString {
        let parts: [&OsStr; 7] = [
            "lowerdir=".as_ref(),
            self.lower.as_ref(),
            ",upperdir=".as_ref(),
            self.upper.as_ref(),
            ",workdir=".as_ref(),
            self.work.as_ref(),
            more.as_ref(),
        ];
        parts.into_iter().collect()
    }

    /// Mounts them over `directory`, as root. They must outlive what is returned.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn mount(&self, directory: PathBuf) -> anyhow::Result<Overlay> {
        use std::os::unix::ffi::OsStringExt as _;
        let options = CString::new(self.options("").into_vec())?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        let mounted =
            rustix::mount::mount("overlay", &directory, "overlay", flags, options.as_c_str());
        mounted.map_err(|error| {
            anyhow::anyhow!(
                "the kernel refused the writable layer over {}: {error}. {}",
                directory.display(),
                self.remedy()
            )
        })?;
        let device = std::fs::metadata(&directory)?.dev();
        Ok(Overlay {
            directory,
            device,
            is_mounted: true,
        })
    }

    /// The command that runs `command` in a user and mount namespace in which `directory` has the
    /// layers. It has been tried that they can be mounted.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn command(&self, directory: &Path, command: &[OsString]) -> anyhow::Result<Vec<OsString>> {
        let mut start: Vec<OsString> = ["unshare", "--user", "--map-root-user", "--mount", "sh"]
            .map(Into::into)
            .into();
        start.extend(["-c", SCRIPT, "sh"].map(OsString::from));
        start.push(self.options(",userxattr"));
        start.push(directory.into());
        let mut trial = start.clone();
        trial.push("true".into());
        self.attempt(&trial)?;
        start.extend_from_slice(command);
        Ok(start)
    }

    fn attempt(&self, trial: &[OsString]) -> anyhow::Result<()> {
        let output = Command::new(&trial[0])
            .args(&trial[1..])
            .stdin(Stdio::null())
            .output();
        let output = match output {
            Ok(output) => output,
            Err(error) if error.kind() == io::ErrorKind::NotFound => anyhow::bail!(
                "a writable layer needs the program unshare: install util-linux, or mount as root"
            ),
            Err(error) => return Err(error).context("unshare"),
        };
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.trim();
        if said.starts_with("unshare:") {
            anyhow::bail!(
                "the kernel refused a user namespace, which a writable layer needs for users other \
                 than root: {said}. Allow them (sysctl kernel.apparmor_restrict_unprivileged_userns=0 \
                 on Ubuntu, kernel.unprivileged_userns_clone=1 on Debian, user.max_user_namespaces \
                 elsewhere), or mount as root"
            );
        }
        anyhow::bail!(
            "the kernel refused the writable layer: {said}. {}; without root it takes Linux 5.11",
            self.remedy()
        )
    }

    fn remedy(&self) -> String {
        format!(
            "The layer is in {}, which must be on a filesystem that can hold one (ext4, xfs, tmpfs; \
             not an overlay, as in containers, nor NFS): name a directory on such with --upper",
            self.upper.display()
        )
    }
}

impl Drop for Layers {
    fn drop(&mut self) {
        // What overlayfs works in has no permissions, and what was written may have none.
        let mut todo = vec![self.scratch.path().to_owned()];
        while let Some(directory) = todo.pop() {
            // The image, if it is still there, is read-only.
            if directory == self.lower {
                continue;
            }
            let _ = std::fs::set_permissions(&directory, PermissionsExt::from_mode(0o700));
            let entries = std::fs::read_dir(&directory)
                .into_iter()
                .flatten()
                .flatten();
            let is_directory = |entry: &std::fs::DirEntry| {
                entry.file_type().is_ok_and(|file_type| file_type.is_dir())
            };
            todo.extend(entries.filter(is_directory).map(|entry| entry.path()));
        }
    }
}

/// A writable layer that is mounted over a directory. Dropping it unmounts.
#[derive(Debug)]
pub struct Overlay {
    directory: PathBuf,
    device: u64,
    is_mounted: bool,
}

impl Overlay {
    /// Whether it is still there.
    pub fn is_there(&self) -> bool {
        self.is_mounted
            && std::fs::metadata(&self.directory).is_ok_and(|found| found.dev() == self.device)
    }

    /// Takes it away: with `lazily` also if it is in use.
    ///
    /// # Errors
    /// As for the image's own mount.
    pub fn unmount(&mut self, lazily: bool) -> Result<(), UnmountError> {
        if !self.is_there() {
            self.is_mounted = false;
            return Ok(());
        }
        let flags = if lazily {
            UnmountFlags::DETACH
        } else {
            UnmountFlags::empty()
        };
        match rustix::mount::unmount(&self.directory, flags) {
            Ok(()) => {
                self.is_mounted = false;
                Ok(())
            }
            Err(Errno::BUSY) => Err(UnmountError::Busy(self.directory.clone())),
            Err(error) => Err(UnmountError::System {
                directory: self.directory.clone(),
                source: error.into(),
            }),
        }
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        let _ = self.unmount(true);
    }
}
