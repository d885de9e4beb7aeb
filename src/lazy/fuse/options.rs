//! How a mount is made.

use std::ops::Range;
use std::sync::Arc;

use crate::format::ext4::Ino;

/// Is told what is read through a mount. Called by the threads that answer the kernel, before they
/// read: it should return quickly.
pub trait Observer: Send + Sync {
    /// Bytes of a regular file are read: what a program asked for, and what the kernel reads ahead.
    fn read(&self, ino: Ino, bytes: Range<u64>);
}

/// How a mount is made.
#[derive(Clone)]
pub struct MountOptions {
    /// What the list of mounts shows as the source.
    pub name: String,
    /// Whether users other than the one who mounts may see the files. For other users than root
    /// `/etc/fuse.conf` must allow it.
    pub allow_other: bool,
    /// Whom all files belong to, as user and group; else whom the image says.
    pub owner: Option<(u32, u32)>,
    /// How many requests of the kernel are answered at the same time.
    pub threads: usize,
    /// Is told what is read.
    pub observer: Option<Arc<dyn Observer>>,
}

impl Default for MountOptions {
    fn default() -> Self {
        Self {
            name: "overlaybd-proxy".to_owned(),
            allow_other: is_root(),
            owner: None,
            threads: 16,
            observer: None,
        }
    }
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

impl MountOptions {
    /// The source in the list of mounts: without what separates options or columns there.
    pub(super) fn source(&self) -> String {
        let is_safe = |c: &char| !matches!(c, ',' | '\\' | '#') && !c.is_control() && *c != ' ';
        let name: String = self.name.chars().filter(is_safe).take(1024).collect();
        if name.is_empty() {
            "overlaybd-proxy".to_owned()
        } else {
            name
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_cannot_add_mount_options() {
        for (name, source) in [
            (
                "docker.io/library/redis:7_obd",
                "docker.io/library/redis:7_obd",
            ),
            ("oci:/a b,dev,suid\\:x\n", "oci:/abdevsuid:x"),
            ("", "overlaybd-proxy"),
        ] {
            let options = MountOptions {
                name: name.to_owned(),
                ..MountOptions::default()
            };
            assert_eq!(options.source(), source);
        }
    }
}
