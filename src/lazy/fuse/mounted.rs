//! A mount that is served.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fuser::{Config, Filesystem, Session, SessionACL};
use tokio::sync::watch;

use super::device;
use super::error::{MountError, UnmountError};
use super::options::MountOptions;

/// How long the threads that answer are waited for when a mount is gone: those of a mount that
/// another mount namespace still has do not end.
const END: Duration = Duration::from_secs(2);
/// How often the wait looks.
const LOOK: Duration = Duration::from_millis(2);

/// A mount that is served by threads of its own, until it is unmounted, by whom ever. Dropping it
/// unmounts, out of sight where something uses it: what is open then stays readable only for as
/// long as the process lives.
#[derive(Debug)]
pub struct Mounted {
    directory: PathBuf,
    ended: watch::Receiver<bool>,
    is_there: bool,
}

impl Mounted {
    pub(super) fn start<F: Filesystem>(
        filesystem: F,
        directory: &Path,
        options: &MountOptions,
    ) -> Result<Self, MountError> {
        let directory = device::mount_point(directory)?;
        let device = device::mount(&directory, options)?;
        let mut config = Config::default();
        config.n_threads = Some(options.threads.max(1));
        // The kernel knows who may ask, and asks some things for itself.
        let session = Session::from_fd(filesystem, device, SessionACL::All, config);
        let (tell, ended) = watch::channel(false);
        let mounted = Self {
            directory,
            ended,
            is_there: true,
        };
        let session = session.map_err(MountError::Session)?;
        let serve = move || {
            if let Err(error) = session.run() {
                tracing::warn!(%error, "a mount is no longer served");
            }
            // Nobody may be waiting.
            let _ = tell.send(true);
        };
        std::thread::Builder::new()
            .name("mount".to_owned())
            .spawn(serve)
            .map_err(MountError::Session)?;
        Ok(mounted)
    }

    /// Where it is mounted, as an absolute path.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Waits until the mount is gone: unmounted by others, or by us and no longer in use.
    pub async fn ended(&mut self) {
        // An error means that its thread is gone, too.
        let _ = self.ended.wait_for(|ended| *ended).await;
    }

    /// Whether the mount is still there, and nobody answers: its connection was cut, or a thread
    /// could not be started.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        let codes = [libc::ENOTCONN, libc::ECONNABORTED];
        let looked = std::fs::symlink_metadata(&self.directory);
        let code = looked.err().and_then(|error| error.raw_os_error());
        *self.ended.borrow() && code.is_some_and(|code| codes.contains(&code))
    }

    /// Takes the mount away, unless something uses it.
    ///
    /// # Errors
    /// When it is in use, or the system refuses; it is still there then.
    pub fn unmount(&mut self) -> Result<(), UnmountError> {
        self.take_away(false)
    }

    /// Takes the mount out of sight. What uses it can go on for as long as the process lives:
    /// [`ended`](Self::ended) says when nothing does.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn detach(&mut self) -> Result<(), UnmountError> {
        self.take_away(true)
    }

    fn take_away(&mut self, lazily: bool) -> Result<(), UnmountError> {
        if !self.is_there {
            return Ok(());
        }
        // A mount of others may be at the place of one that is gone.
        if *self.ended.borrow() {
            self.is_there = false;
            if self.is_dead() {
                device::unmount(&self.directory, true)?;
            }
            return Ok(());
        }
        device::unmount(&self.directory, lazily)?;
        self.is_there = false;
        if !lazily {
            let start = Instant::now();
            while !*self.ended.borrow() && start.elapsed() < END {
                std::thread::sleep(LOOK);
            }
        }
        Ok(())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let taken = match self.unmount() {
            Err(UnmountError::Busy(_)) => self.detach(),
            other => other,
        };
        if let Err(error) = taken {
            tracing::warn!(%error, "a mount is left");
        }
    }
}
