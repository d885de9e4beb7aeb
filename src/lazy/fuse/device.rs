//! Makes mounts and takes them away: by the kernel where we may, by `fusermount3` elsewhere.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};

use super::error::{MountError, UnmountError};
use super::helper;
use super::options::MountOptions;

const DEVICE: &str = "/dev/fuse";

/// What the list of mounts shows as the type, behind `fuse.`.
const SUBTYPE: &str = "overlaybd-proxy";

/// Sees that a directory is one to mount at, and returns its absolute path.
pub(super) fn mount_point(directory: &Path) -> Result<PathBuf, MountError> {
    let owned = || directory.to_owned();
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => MountError::Missing(owned()),
        io::ErrorKind::NotADirectory => MountError::NotADirectory(owned()),
        io::ErrorKind::NotConnected => MountError::Stale(owned()),
        _ => MountError::Directory {
            directory: owned(),
            source,
        },
    };
    let mut entries = std::fs::read_dir(directory).map_err(failed)?;
    if entries.next().is_some() {
        return Err(MountError::NotEmpty(owned()));
    }
    directory.canonicalize().map_err(failed)
}

/// Mounts at `directory`, which is absolute; returns the device that speaks for the mount.
pub(super) fn mount(directory: &Path, options: &MountOptions) -> Result<OwnedFd, MountError> {
    let mut shared = "default_permissions".to_owned();
    if options.allow_other {
        shared.push_str(",allow_other");
    }
    let source = options.source();
    if let Some(device) = mount_directly(directory, &source, &shared)? {
        return Ok(device);
    }
    let options = format!("ro,nosuid,nodev,fsname={source},subtype={SUBTYPE},{shared}");
    helper::mount(directory, &options)
}

/// `None` if only others may mount.
fn mount_directly(
    directory: &Path,
    source: &str,
    options: &str,
) -> Result<Option<OwnedFd>, MountError> {
    let opened = File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_CLOEXEC)
        .open(DEVICE);
    let device = opened.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => MountError::NoDevice,
        _ => MountError::Device(error),
    })?;
    let mode = std::fs::metadata(directory)
        .map_err(MountError::Kernel)?
        .mode();
    let data = format!(
        "fd={},rootmode={:o},user_id={},group_id={},{options}",
        device.as_raw_fd(),
        mode & libc::S_IFMT,
        nix::unistd::geteuid(),
        nix::unistd::getegid(),
    );
    let data = CString::new(data).map_err(|error| MountError::Kernel(error.into()))?;
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    let kind = format!("fuse.{SUBTYPE}");
    match rustix::mount::mount(source, directory, kind, flags, data.as_c_str()) {
        Ok(()) => Ok(Some(device.into())),
        Err(Errno::PERM) => Ok(None),
        Err(Errno::NODEV) => Err(MountError::NoDevice),
        Err(error) => Err(MountError::Kernel(error.into())),
    }
}

/// Takes the mount at `directory` away: at once, or, with `lazily`, out of sight now and for good
/// when nobody uses it any more.
pub(super) fn unmount(directory: &Path, lazily: bool) -> Result<(), UnmountError> {
    let flags = if lazily {
        UnmountFlags::DETACH | UnmountFlags::NOFOLLOW
    } else {
        UnmountFlags::NOFOLLOW
    };
    match rustix::mount::unmount(directory, flags) {
        Ok(()) => Ok(()),
        Err(Errno::PERM) => helper::unmount(directory, lazily),
        Err(Errno::BUSY) => Err(UnmountError::Busy(directory.to_owned())),
        Err(error) => Err(UnmountError::System {
            directory: directory.to_owned(),
            source: error.into(),
        }),
    }
}
