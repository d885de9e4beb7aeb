//! Owner, mode, times and extended attributes of copies.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags};

use super::directory::Directory;
use super::unkept::Unkept;
use crate::format::ext4::{FileType, Metadata};

/// What a copy is given.
#[derive(Debug)]
pub struct Attributes {
    /// What the inode says.
    pub metadata: Metadata,
    /// Extended attributes by full name.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

const ACLS: &[u8] = b"system.posix_acl_";

impl Attributes {
    /// Gives them to an open file or directory.
    ///
    /// # Errors
    /// When its mode or time cannot be set; what else cannot is told to `unkept`.
    pub fn give(&self, fd: &OwnedFd, unkept: &mut Unkept) -> io::Result<()> {
        let set = |name: &[u8], value: &[u8]| {
            rustix::fs::fsetxattr(fd, name, value, XattrFlags::empty()).is_ok()
        };
        // A change of the owner takes file capabilities away, one of the mode changes ACLs, and
        // without the right to write none may be set: hence this order.
        let is_owned = self.owner(unkept, |uid, gid| rustix::fs::fchown(fd, uid, gid));
        self.set_xattrs(unkept, false, set);
        rustix::fs::fchmod(fd, self.mode(is_owned, unkept))?;
        self.set_xattrs(unkept, true, set);
        rustix::fs::futimens(fd, &self.times())?;
        Ok(())
    }

    /// Gives them to a name, which may be a symbolic link or special file.
    ///
    /// # Errors
    /// As [`give`](Self::give).
    pub fn give_name(
        &self,
        directory: &Directory,
        name: &[u8],
        unkept: &mut Unkept,
    ) -> io::Result<()> {
        let fd = directory.fd();
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        let path = directory.path_of(name);
        let set = |key: &[u8], value: &[u8]| {
            rustix::fs::lsetxattr(path.as_slice(), key, value, XattrFlags::empty()).is_ok()
        };
        let is_owned = self.owner(unkept, |uid, gid| {
            rustix::fs::chownat(fd, name, uid, gid, flags)
        });
        self.set_xattrs(unkept, false, set);
        if self.metadata.file_type != FileType::Symlink {
            // Opened by path alone, which does nothing to a device; the link below `/proc` is to
            // this inode whatever becomes of the name.
            let opened = rustix::fs::openat(
                fd,
                name,
                OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                Mode::empty(),
            )?;
            let opened_path = format!("/proc/self/fd/{}", opened.as_raw_fd());
            rustix::fs::chmod(opened_path.as_str(), self.mode(is_owned, unkept))?;
            self.set_xattrs(unkept, true, set);
        }
        rustix::fs::utimensat(fd, name, &self.times(), flags)?;
        Ok(())
    }

    /// Sets the owner where that is for us to do; whether the file has it now.
    fn owner(
        &self,
        unkept: &mut Unkept,
        set: impl FnOnce(Option<Uid>, Option<Gid>) -> rustix::io::Result<()>,
    ) -> bool {
        let (uid, gid) = (self.metadata.uid, self.metadata.gid);
        let (own_uid, own_gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
        // The last number means "as it is" to the kernel.
        let is_number = uid != u32::MAX && gid != u32::MAX;
        let is_kept = if own_uid.is_root() && is_number {
            set(Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))).is_ok()
        } else {
            (uid, gid) == (own_uid.as_raw(), own_gid.as_raw())
        };
        if !is_kept {
            unkept.lost("owner (this needs root)");
        }
        is_kept
    }

    /// The mode. Without its owner a file does not run as one.
    fn mode(&self, is_owned: bool, unkept: &mut Unkept) -> Mode {
        let mode = u32::from(self.metadata.mode);
        let special = mode & 0o6000 != 0 && self.metadata.file_type == FileType::File;
        if special && !is_owned {
            unkept.lost("set-uid and set-gid bits, which need the owner,");
            return Mode::from_raw_mode(mode & 0o1777);
        }
        Mode::from_raw_mode(mode)
    }

    fn set_xattrs(&self, unkept: &mut Unkept, are_acls: bool, set: impl Fn(&[u8], &[u8]) -> bool) {
        for (name, value) in &self.xattrs {
            if name.starts_with(ACLS) == are_acls && !set(name, value) {
                let name = name.escape_ascii();
                unkept.lost(&format!("the extended attribute {name}"));
            }
        }
    }

    fn times(&self) -> Timestamps {
        let time = self.metadata.mtime;
        Timestamps {
            last_access: Timespec {
                tv_sec: 0,
                tv_nsec: UTIME_OMIT,
            },
            last_modification: Timespec {
                tv_sec: time.secs,
                tv_nsec: time.nanos.into(),
            },
        }
    }
}
