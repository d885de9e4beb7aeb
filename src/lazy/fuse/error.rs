//! What can go wrong with mounts, and what to do then.

use std::io;
use std::path::PathBuf;

/// Why there is no mount.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// There is no such directory.
    #[error("{0} does not exist: make the directory first")]
    Missing(PathBuf),
    /// It is something else.
    #[error("{0} is no directory: name an empty one to mount at")]
    NotADirectory(PathBuf),
    /// It has entries.
    #[error("{0} is not empty, and a mount would hide what is in it: name an empty directory")]
    NotEmpty(PathBuf),
    /// A mount whose server is gone.
    #[error(
        "a mount whose server has ended is left at {0}: take it away with 'fusermount3 -u' (or \
         'umount' as root), then mount again"
    )]
    Stale(PathBuf),
    /// The directory cannot be looked at.
    #[error("{directory}: {source}")]
    Directory {
        /// Which.
        directory: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The system has no FUSE.
    #[error(
        "/dev/fuse does not exist, so nothing can be mounted here: load the module (modprobe fuse), \
         or start the container with --device /dev/fuse"
    )]
    NoDevice,
    /// FUSE is not for this user.
    #[error(
        "/dev/fuse cannot be opened: {0}. Its mode is usually 0666 (chmod 0666 /dev/fuse); a \
         container needs --device /dev/fuse"
    )]
    Device(io::Error),
    /// The system forbids this process to mount, and nobody can do it for it.
    #[error(
        "mounting needs fusermount3, which is not installed: install it (apt-get install fuse3), or \
         mount as root"
    )]
    NoHelper,
    /// fusermount3 refused it.
    #[error("fusermount3 refused: {0}{hint}", hint = hint(.0))]
    Helper(String),
    /// The kernel refused it.
    #[error("the kernel refused the mount: {0}{hint}", hint = kernel_hint(.0))]
    Kernel(io::Error),
    /// The mount was made, and cannot be served.
    #[error("the mount cannot be served: {0}")]
    Session(io::Error),
}

/// What to do about what fusermount3 said.
fn hint(text: &str) -> &'static str {
    if text.contains("user_allow_other") {
        ". Add the line user_allow_other to /etc/fuse.conf, or leave --allow-other out"
    } else if text.contains("Operation not permitted") {
        ". In a container it needs the capability SYS_ADMIN (--cap-add SYS_ADMIN --device \
         /dev/fuse, and for Docker --security-opt apparmor=unconfined)"
    } else {
        ""
    }
}

fn kernel_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            ". A container needs --cap-add SYS_ADMIN --device /dev/fuse, and for Docker \
             --security-opt apparmor=unconfined"
        }
        _ => "",
    }
}

/// Why a mount is still there.
#[derive(Debug, thiserror::Error)]
pub enum UnmountError {
    /// Something uses it.
    #[error("{0} is in use")]
    Busy(PathBuf),
    /// The system.
    #[error("{directory} cannot be unmounted: {source}")]
    System {
        /// Where it is mounted.
        directory: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// fusermount3.
    #[error("fusermount3 cannot unmount {directory}: {text}")]
    Helper {
        /// Where it is mounted.
        directory: PathBuf,
        /// What it said.
        text: String,
    },
}
